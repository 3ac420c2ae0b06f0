"""Shared prefixes against the plain loop: each set of closed branches in a whole pass of its own, bit for bit."""

import random
from itertools import combinations

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import NETWORKS, RESIDUAL, Nested, Residual, Tokens, mlp, stack
from resumable_nets import AddsAtTheTop, Another, EncoderDecoder, Noisy, Peeks, SharedModule
from torch import nn
from torch.overrides import TorchFunctionMode

import gradscope as gs
from gradscope.instruments.gates import lesion
from gradscope.instruments.junctions import trace
from gradscope.instruments.junctions.calls import additions
from gradscope.instruments.recalibrate import recalibrated
from gradscope.instruments.resume.batch import ResumedBatch
from gradscope.instruments.resume.order import schedule
from gradscope.instruments.resume.resumable import Resumable


def resumable(model, example, forward=None):
    forward = forward or model
    traced = trace(model, forward, example)
    closable = [j for j in traced.junctions if j.level == 0 and j.graded and j.branches]
    return Resumable(model, forward, closable, traced, example)


def plain(resuming, inputs, closed):
    """One whole pass under `lesion`; watched also where nothing is closed, for torch has fused ways else."""
    with torch.no_grad(), additions(resuming.model):
        with lesion(resuming.model, [resuming.junctions[place] for place in sorted(closed)]):
            return resuming.forward(inputs)


def many_sets(count):
    singles = [{place} for place in range(count)]
    pairs = [set(pair) for pair in combinations(range(count), 2)]
    draw = random.Random(0)
    several = [set(draw.sample(range(count), draw.randint(1, count))) for _ in range(8)]
    sets = [*singles, *pairs, *several, set(), set(range(count)), {0}]
    draw.shuffle(sets)
    return sets


def branches_of_a_trie(sets, count):
    """Open branches, each once for all sets that agree up to it; the first set computes its closed ones too."""
    masks = sorted({tuple(place not in closed for place in range(count)) for closed in sets})
    prefixes = {mask[: end + 1] for mask in masks for end in range(count) if mask[end]}
    return len(prefixes) + masks[0].count(False)


@pytest.mark.parametrize("name", RESIDUAL)
def test_outputs_are_those_of_whole_passes(name):
    specimen = NETWORKS[name]
    model = used(specimen.build())
    resuming = resumable(model, specimen.inputs(2))
    assert resuming.reason == ""
    inputs, sets = specimen.inputs(5), many_sets(len(specimen.branches))
    before = snapshot(model)
    outputs = dict(resuming.outputs(inputs, sets))
    assert_as_found(model, before)
    assert sorted(outputs) == list(range(len(sets)))
    for place, closed in enumerate(sets):
        assert torch.equal(outputs[place], plain(resuming, inputs, closed)), closed


@pytest.mark.parametrize("name", ["post-activation", "out-of-place", "pre-activation", "tokens"])
def test_recalibrated_outputs_are_those_of_whole_passes(name):
    specimen = NETWORKS[name]
    model = specimen.build()
    resuming = resumable(model, specimen.inputs(3))
    batches, calibration = [specimen.inputs(4), specimen.inputs(3)], [specimen.inputs(5), specimen.inputs(6)]
    sets = many_sets(len(specimen.branches))
    before = snapshot(model)
    outputs = {
        (place, index): output
        for place, index, output in resuming.recalibrated_outputs(batches, calibration, sets)
    }
    assert_as_found(model, before)
    assert len(outputs) == 2 * len(sets)
    for place, closed in enumerate(sets):
        with additions(model), lesion(model, [resuming.junctions[junction] for junction in closed]):
            with recalibrated(model, calibration), torch.no_grad():
                for index, inputs in enumerate(batches):
                    assert torch.equal(outputs[place, index], model(inputs)), (closed, index)


@pytest.mark.parametrize("options", [{}, {"activation": "post"}, {"shortcut": "padding"}])
def test_a_resnet_in_float32_takes_only_the_branches_that_a_trie_leaves(options):
    model = gs.nets.build("resnet", depth=20, width=2, seed=0, **options)
    model(torch.randn(4, 3, 8, 8))
    model.eval()
    images = torch.randn(3, 3, 8, 8)
    resuming = resumable(model, images[:2])
    singles, sets = [{place} for place in range(9)], many_sets(9)
    assert resuming.cost(singles) == 9 * 10 / 2
    assert resuming.cost(sets) == branches_of_a_trie(sets, 9)
    last_layers = {id(block.branch[-1]) for block in model.blocks}
    for closed in (singles, sets):
        with Layers(last_layers, model) as ran:
            outputs = dict(resuming.outputs(images, closed))
        assert ran.count == resuming.cost(closed)
        assert all(torch.equal(outputs[i], plain(resuming, images, s)) for i, s in enumerate(closed))


class Layers:
    """Counts how often some layers really compute, by their parameters in the calls that torch makes."""

    def __init__(self, layers, model):
        self.count = 0
        self.weights = {id(m.weight) for m in model.modules() if id(m) in layers}

    def __enter__(self):
        counted = self

        class Count(TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                kwargs = kwargs or {}
                if any(id(argument) in counted.weights for argument in (*args, *kwargs.values())):
                    counted.count += func in (torch.conv2d, nn.functional.batch_norm)
                return func(*args, **kwargs)

        # The outermost mode: it hears only what is not answered before.
        self.mode = Count()
        self.mode.__enter__()
        return self

    def __exit__(self, *raised):
        self.mode.__exit__(*raised)


CHAINS = {
    "additions at the top": (AddsAtTheTop, (3, 4)),
    "encoder and decoder": (EncoderDecoder, (4,)),
    "shared module": (SharedModule, (4,)),
    "long skips": (lambda: stack(Nested, 4), (4,)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_other_ways_to_write_a_network(name):
    make, shape = CHAINS[name]
    torch.manual_seed(0)
    model = make().double().eval()
    inputs = torch.randn(5, *shape, dtype=torch.float64)
    resuming = resumable(model, inputs[:2])
    count = len(resuming.junctions)
    assert count >= 3 and resuming.reason == ""
    sets = many_sets(count)
    assert resuming.cost(sets) < len(sets) * count / 2 + count
    for gate in (torch.zeros_like, lambda value: 0.5 * value):
        for place, output in resuming.outputs(inputs, sets, gate):
            keys = [key for junction in sets[place] for key in resuming.junctions[junction].branches]
            with torch.no_grad(), additions(model, dict.fromkeys(keys, gate)):
                assert torch.equal(output, model(inputs)), sets[place]


def test_a_network_whose_numbers_python_sees_is_entered_only_before_it_sees_them():
    model = Peeks().double().eval()
    inputs = torch.randn(4, 4, dtype=torch.float64)
    resuming = resumable(model, inputs)
    singles = [{place} for place in range(4)]
    # Nothing is seen before the first sum: three passes go on from there, the first two begin at the start.
    assert resuming.cost(singles) == 4 + 3 + 2 + 2
    for place, output in resuming.outputs(inputs, singles):
        assert torch.equal(output, plain(resuming, inputs, {place}))


def test_a_network_that_draws_anew_in_each_pass_takes_whole_passes():
    model = Noisy().eval()
    inputs = torch.randn(4, 4)
    resuming = resumable(model, inputs)
    assert "does not compute what the whole pass does" in resuming.reason
    sets = [{2}, {0}, {1, 2}]
    assert resuming.cost(sets) == 9
    torch.manual_seed(0)
    outputs = dict(resuming.outputs(inputs, sets))
    torch.manual_seed(0)
    # In the order in which `outputs` takes them: closed before open.
    for place in (1, 2, 0):
        assert torch.equal(outputs[place], plain(resuming, inputs, sets[place]))


def test_a_single_branch_has_nothing_to_share():
    model = stack(lambda: Residual(mlp(4, 3, 4)), 1).eval()
    inputs = torch.randn(4, 4)
    resuming = resumable(model, inputs)
    assert "single branch" in resuming.reason
    assert torch.equal(dict(resuming.outputs(inputs, [{0}]))[0], plain(resuming, inputs, {0}))


def test_a_batch_that_takes_another_way_takes_whole_passes():
    model = Another().double().eval()
    inputs = [torch.randn(n, 4, dtype=torch.float64) for n in (3, 6)]
    resuming = resumable(model, inputs[0])
    assert resuming.reason == ""
    sets = many_sets(4)
    with pytest.warns(UserWarning, match="another way through Another") as warned:
        for batch in inputs:
            for place, output in resuming.outputs(batch, sets):
                assert torch.equal(output, plain(resuming, batch, sets[place]))
    assert len(warned) == 1
    for calibration in inputs:
        for place, index, output in resuming.recalibrated_outputs(inputs, [calibration], sets):
            closed = [resuming.junctions[junction] for junction in sets[place]]
            with lesion(model, closed), recalibrated(model, [calibration]), torch.no_grad():
                assert torch.equal(output, model(inputs[index]))


def test_a_norm_used_twice_is_recalibrated_in_whole_passes():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4)
    blocks = [Residual(nn.Sequential(norm, nn.Linear(4, 4))) for _ in range(3)]
    model = nn.Sequential(nn.Linear(4, 4), *blocks).double()
    inputs = torch.randn(6, 4, dtype=torch.float64)
    model(inputs)
    model.eval()
    resuming = resumable(model, inputs[:2])
    assert resuming.reason == ""
    sets = [{0}, {1}, {2}, {0, 2}]
    for place, _, output in resuming.recalibrated_outputs([inputs], [inputs], sets):
        closed = [resuming.junctions[junction] for junction in sets[place]]
        with lesion(model, closed), recalibrated(model, [inputs]), torch.no_grad():
            assert torch.equal(output, model(inputs))


@pytest.mark.parametrize("stop", ["close", "raise"])
@pytest.mark.parametrize("statistics", ["stale", "recalibrated"])
def test_the_model_is_as_found_when_left_early(stop, statistics):
    specimen = NETWORKS["post-activation"]
    model = used(specimen.build())
    inputs = specimen.inputs()
    resuming = resumable(model, inputs)
    before = snapshot(model)
    attributes = [set(vars(module)) for module in model.modules()]
    sets = many_sets(6)
    calls = 0

    def gate(value):
        nonlocal calls
        calls += 1
        if stop == "raise" and calls == 9:
            raise KeyboardInterrupt
        return torch.zeros_like(value)

    if statistics == "stale":
        running = resuming.outputs(inputs, sets, gate)
    else:
        running = resuming.recalibrated_outputs([inputs], [inputs], sets, gate)
    if stop == "close":
        for _ in range(5):
            next(running)
        running.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            list(running)
    assert_as_found(model, before)
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert torch.equal(dict(resuming.outputs(inputs, [{1}]))[0], plain(resuming, inputs, {1}))


def test_one_state_at_a_time_is_kept_for_single_lesions():
    specimen = NETWORKS["pre-norm transformer"]
    model, inputs = specimen.build(), specimen.inputs()
    resuming = resumable(model, inputs)
    batch = ResumedBatch(resuming._program, inputs)
    for visit in schedule([{place} for place in range(6)], resuming._program.cuts, 6):
        batch.output(visit, torch.zeros_like)
        assert len(batch._states) <= 1


def test_a_dict_of_integers_is_an_input_too():
    model = Tokens().double().eval()
    inputs = {"ids": torch.randint(0, 7, (4, 5))}
    resuming = resumable(model, inputs, lambda batch: model(**batch))
    for place, output in resuming.outputs(inputs, [{0}, {1}]):
        assert torch.equal(output, plain(resuming, inputs, {place}))


def test_places_out_of_range_are_refused():
    specimen = NETWORKS["multi-residual"]
    resuming = resumable(specimen.build(), specimen.inputs())
    with pytest.raises(ValueError, match=r"places of junctions from 0 to 2, got \[3\]"):
        list(resuming.outputs(specimen.inputs(), [{0}, {3}]))
