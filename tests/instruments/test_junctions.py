"""Residual additions found in many networks, against counts known from their code."""

from collections import Counter

import pytest
import torch
from networks import NETWORKS, Residual, mlp
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradscope.instruments.junctions import junctions, trace


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


@pytest.mark.parametrize(
    "add",
    [
        lambda x, f: x + f,
        lambda x, f: f + x,
        lambda x, f: torch.add(x, f),
        lambda x, f: torch.add(x, f, alpha=0.5),
        lambda x, f: torch.add(input=x, other=f),
        lambda x, f: x.add(f),
        lambda x, f: x.add(other=f),
        lambda x, f: f.add_(x),
        lambda x, f: x - f,
        lambda x, f: x.sub(f),
        lambda x, f: f.sub_(x),
        lambda x, f: x + 0.1 * f,
        lambda x, f: x + (f + 1.0),
        lambda x, f: sum([x, f]),
    ],
)
def test_every_way_to_write_an_addition(add):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = mlp(4, 3, 4)

        def forward(self, x):
            return add(x, self.branch(x))

    found = junctions(Block(), torch.randn(2, 4))
    assert [(j.kind, len(j.branches), len(j.skips)) for j in found] == [("identity", 1, 1)]
