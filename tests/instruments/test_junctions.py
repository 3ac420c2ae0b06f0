"""Residual additions found in many networks, against counts known from their code."""

import gc
from collections import Counter

import pytest
import torch
from as_found import assert_as_found, snapshot
from networks import NETWORKS, EncoderDecoder, Residual, Written, mlp
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradscope.instruments.junctions import junctions, trace
from gradscope.instruments.junctions.calls import additions


def counted(model, inputs):
    found = junctions(model, inputs)
    branches = tuple(len(j.branches) for j in found if j.level == 0 and j.graded)
    return dict(Counter(j.kind for j in found)), branches


@pytest.mark.parametrize("state", ["as built", "frozen", "training"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_additions_of_the_code_are_found(name, state):
    specimen = NETWORKS[name]
    model = specimen.build()
    if state == "frozen":
        model.requires_grad_(False)
    model.train(state == "training")
    assert counted(model, specimen.inputs()) == (specimen.kinds, specimen.branches)


def test_names_shapes_and_places_follow_the_forward_pass():
    specimen = NETWORKS["pre-norm transformer"]
    found = junctions(specimen.build(), specimen.inputs())
    assert [j.name for j in found] == ["0:0", "0:1", "1:0", "1:1", "2:0", "2:1"]
    assert [j.index for j in found] == list(range(6))
    assert {j.shape for j in found} == {(4, 5, 4)}
    assert "identity" in repr(found) and "2:1" in repr(found)
    assert [j.name for j in found.matching("1:*")] == ["1:0", "1:1"]
    assert found[2].name == "1:0" and [j.name for j in found[:2]] == ["0:0", "0:1"]
    with pytest.raises(ValueError, match=r"No junction matches 'x\*'. The junctions are: 0:0, "):
        found.matching("x*")


def test_an_addition_inside_a_module_is_named_after_it():
    specimen = NETWORKS["inside a module"]
    assert [j.name for j in junctions(specimen.build(), specimen.inputs())] == [
        "2.back:0",
        "3.back:0",
        "4.back:0",
    ]


def test_an_in_place_addition_keeps_its_name_and_place():
    specimen, twin = NETWORKS["post-activation"], NETWORKS["out-of-place"]
    in_place = junctions(specimen.build(), specimen.inputs())
    out_of_place = junctions(twin.build(), twin.inputs())
    assert [j.name for j in in_place] == [j.name for j in out_of_place] == [f"{b}:0" for b in range(2, 8)]
    # `out += skip` has the branch first, `skip + out` has it second.
    assert [j.branches for j in in_place] == [((b, 0),) for b in range(6)]
    assert [j.branches for j in out_of_place] == [((b, 1),) for b in range(6)]


def test_blocks_inside_a_long_skip_are_nested():
    specimen = NETWORKS["long skip"]
    found = junctions(specimen.build(), specimen.inputs())
    assert [(j.name, j.level) for j in found] == [
        ("2.blocks.0:0", 1),
        ("2.blocks.1:0", 1),
        ("2:0", 0),
        ("3.blocks.0:0", 1),
        ("3.blocks.1:0", 1),
        ("3:0", 0),
    ]


def test_keyword_and_dictionary_inputs():
    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Residual(mlp(4, 3, 4))

        def forward(self, *, x, scale):
            return {"logits": self.block(x) * scale}

    assert len(junctions(Keywords(), x=torch.randn(2, 4), scale=2.0)) == 1


def test_the_embedding_that_reads_the_input_is_the_source():
    """Positions are embedded first here, but the tokens are what comes in."""
    specimen = NETWORKS["tokens"]
    model, ids = specimen.build(), specimen.inputs()
    assert torch.equal(trace(model, model, ids).source, model.token(ids))


def test_models_that_begin_in_place_are_traced_and_leave_the_data_alone():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.block = nn.Embedding(7, 4), Residual(mlp(4, 3, 4))

        def forward(self, x):
            x = x if x.is_floating_point() else self.token(x)
            x += 1.0
            return self.block(x)

    x = torch.randn(2, 4)
    kept = x.clone()
    assert len(junctions(InPlace(), x)) == len(junctions(InPlace(), torch.arange(3))) == 1
    assert torch.equal(x, kept)


def test_checkpointed_blocks_are_found():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Residual(mlp(4, 3, 4)) for _ in range(3)])

        def forward(self, x):
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=False)
            return x

    assert len(junctions(Checkpointed(), torch.randn(2, 4))) == 3


def test_found_under_no_grad():
    with torch.no_grad():
        assert len(junctions(Residual(mlp(4, 3, 4)), torch.randn(2, 4))) == 1


@pytest.mark.parametrize("hidden", ["detached", "inference"])
def test_an_output_that_autograd_cannot_follow_is_refused(hidden):
    class Cut(Residual):
        def forward(self, x):
            return super().forward(x).detach() + torch.zeros(4, requires_grad=True)

    with pytest.raises(ValueError, match=r"does not depend on its input .* torch.inference_mode"):
        if hidden == "detached":
            junctions(Cut(mlp(4, 3, 4)), torch.randn(2, 4))
        else:
            with torch.inference_mode():
                junctions(Residual(mlp(4, 3, 4)), torch.randn(2, 4))


def test_a_layer_of_a_dense_list_is_closed_wherever_it_is_concatenated():
    specimen = NETWORKS["dense list"]
    model, x = specimen.build(), specimen.inputs()
    found = junctions(model, x)
    assert [j.branches for j in found] == [((0, 1), (1, 1), (2, 1)), ((1, 2), (2, 2)), ((2, 3),)]
    assert [(j.number, j.level, j.shape) for j in found] == [(0, 0, (4, 6)), (1, 0, (4, 8)), (2, 0, (4, 10))]
    assert [len(edges) for edges in trace(model, model, x).branch_edges] == [3, 2, 1]
    for place, junction in enumerate(found):
        zeroed = specimen.build()
        for parameter in zeroed.layers[place].parameters():
            parameter.data.zero_()
        with additions(model, dict.fromkeys(junction.branches, torch.zeros_like)):
            assert torch.equal(model(x), zeroed(x))


def test_long_skips_are_nested_and_leave_the_level_of_sums_below_them():
    specimen = NETWORKS["U-Net"]
    found = junctions(specimen.build(), specimen.inputs())
    assert [(j.name, j.kind, j.level, j.shape) for j in found] == [
        ("bottom:0", "identity", 0, (4, 4)),
        (":0", "concat", 1, (4, 8)),
        (":1", "concat", 0, (4, 7)),
    ]
    assert trace(specimen.build(), specimen.build(), specimen.inputs()).is_chain is False


@pytest.mark.parametrize("state", ["as built", "frozen", "training"])
def test_an_encoder_decoder_has_two_inputs(state):
    model = EncoderDecoder().double().requires_grad_(state != "frozen").train(state == "training")
    source, target = torch.randn(3, 5, 4).double(), torch.randn(3, 2, 4).double()
    found = trace(model, model, (source, target))
    names = [junction.name for junction in found.junctions]
    layer = "transformer.{}.layers.{}:{}"
    assert names == [
        *(layer.format("encoder", place, which) for place in (0, 1) for which in (0, 1)),
        *(layer.format("decoder", place, which) for place in (0, 1) for which in (0, 1, 2)),
    ]
    assert {junction.kind for junction in found.junctions} == {"identity"}
    assert {junction.level for junction in found.junctions} == {0}
    assert torch.equal(found.source, source) and not found.is_chain
    # Ways from the source enter the decoder at any cross-attention, so they all meet only what comes after the last.
    assert found.on_every_way == (True,) * 4 + (False,) * 4 + (True,) * 2
    assert (
        len(junctions(model.transformer, src=source, tgt=target, tgt_mask=torch.zeros(2, 2).double())) == 10
    )


def test_a_stream_may_begin_at_a_learned_value():
    specimen = NETWORKS["learned query"]
    model = specimen.build()
    found = trace(model, model, specimen.inputs())
    assert [(j.kind, j.level, j.branches, j.skips) for j in found.junctions if j.kind == "identity"] == [
        ("identity", 0, ((4, 1),), ((4, 0),)),
        ("identity", 0, ((8, 1),), ((8, 0),)),
    ]
    # All ways from the input enter by the branch, so that paths are not counted by (1 + t) here.
    assert not found.is_chain


def test_a_frozen_network_is_left_frozen():
    model = NETWORKS["post-activation"].build().requires_grad_(False)
    before = snapshot(model)
    junctions(model, NETWORKS["post-activation"].inputs())
    trace(model, model, NETWORKS["post-activation"].inputs())
    assert_as_found(model, before)


class Fused(torch.autograd.Function):
    @staticmethod
    def forward(context, skip, branch):
        return skip + branch

    @staticmethod
    def backward(context, gradient):
        return gradient, gradient


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clamp(-1, 1)

    @staticmethod
    def backward(context, gradient):
        return gradient


def test_custom_functions_that_could_hide_a_sum_are_named_in_one_warning():
    model = nn.Sequential(Written(Fused.apply), Written(Fused.apply), Residual(mlp(4, 3, 4)))
    with pytest.warns(UserWarning, match=r"additions cannot be seen: FusedBackward\. .* by hand") as heard:
        assert [j.name for j in junctions(model, torch.randn(2, 4))] == ["2:0"]
    assert len(heard) == 1
    # An activation has one operand and no weights, so there is nothing it could hide; warnings are errors here.
    assert len(junctions(Written(lambda x, f: x + Clipped.apply(f)), torch.randn(2, 4))) == 1


@pytest.mark.filterwarnings("ignore")  # torch warns that tracing is out of date
def test_a_traced_module_is_refused_with_the_remedy():
    traced = torch.jit.trace(Residual(mlp(4, 3, 4)), torch.randn(2, 4))
    model = nn.Sequential(Residual(mlp(4, 3, 4)), traced)
    with pytest.raises(
        ValueError, match=r"1 residual sums .* inside torch.jit, .* \(traced or scripted: 1\). Pass the"
    ):
        junctions(model, torch.randn(2, 4))
    found = trace(model, model, torch.randn(2, 4))
    assert [(j.number, j.shape, len(j.branches)) for j in found.junctions] == [
        (0, (2, 4), 1),
        (None, (2, 4), 0),
    ]
    assert [len(edges) for edges in found.branch_edges] == [1, 1]


def test_every_kind_tells_whether_all_ways_pass_it():
    expected = {
        "post-activation": (True,) * 6,
        "dense list": (False, False, True),
        "dense": (True,) * 3,
        "U-Net": (False, False, True),
        "highway": (True,) * 4,
        "long skip": (False, False, True) * 2,
    }
    for name, passed in expected.items():
        specimen = NETWORKS[name]
        model = specimen.build()
        assert trace(model, model, specimen.inputs()).on_every_way == passed, name


@pytest.mark.parametrize("running", [True, False])
def test_the_garbage_collector_is_as_it_was(running):
    specimen = NETWORKS["post-activation"]
    model, x = specimen.build(), specimen.inputs()
    was = gc.isenabled()
    try:
        (gc.enable if running else gc.disable)()
        junctions(model, x)
        assert gc.isenabled() is running
        with pytest.raises(RuntimeError):
            junctions(model, x.flatten())
        assert gc.isenabled() is running
    finally:
        (gc.enable if was else gc.disable)()
