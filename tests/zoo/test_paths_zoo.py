"""Gradients by path length of networks nobody here wrote: the sum is the gradient, every set of branches agrees."""

import pytest
import torch
from as_found import assert_as_found, snapshot
from path_enumeration import assert_alike, by_length, gate_patterns, through_each_set
from path_families import FAMILIES, NORMALISED, PARALLEL, TWO_STREAMS, WORDS
from torch import nn
from torch.nn import functional

from gradscope.gradients.engines.choice import ENGINES
from gradscope.gradients.live import open_paths
from gradscope.gradients.paths import path_gradients
from gradscope.problem import Problem

pytestmark = pytest.mark.filterwarnings("default")

EXACT = 1e-9
# Families that compute norms or positions in float32 whatever the precision of the model.
CASTS = ("Llama", "T5", "GPT-J")
ROUNDED = 1e-6
# Ways lead around junctions.
AROUND = (*TWO_STREAMS, "DenseNet")
# Fresh branches that multiply gradients by a hundredth.
SMALL = ("Swin", "ConvNeXt", "BERT", "BART", "GPT-2", "DeiT")


def last_word(logits, targets):
    """One class an example: of a language model the last word's."""
    if logits.ndim == 3:
        logits = logits[:, -1]
    return functional.cross_entropy(logits, targets, reduction="none")


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def build(request):
    def problem(name: str, batch_norm: str = "auto") -> Problem:
        package = request.getfixturevalue(FAMILIES[name].package)
        torch.manual_seed(0)
        model = FAMILIES[name].make(package).double()
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.05)  # a zero head or bias would make every gradient zero
        generator = torch.Generator().manual_seed(1)
        targets = torch.randint(0, 4, (2,), generator=generator)
        if FAMILIES[name].package == "torchvision":
            for _ in range(3):  # so that the statistics of batch normalisation are not fresh
                model.train()(torch.randn(6, 3, 32, 32, dtype=torch.float64))
            images = torch.randn(2, 3, 32, 32, generator=generator, dtype=torch.float64)
            return Problem(model.eval(), (images, targets), loss=last_word, batch_norm=batch_norm)
        batch = {"labels": targets}
        if name == "DeiT":
            batch["pixel_values"] = torch.randn(2, 3, 32, 32, generator=generator, dtype=torch.float64)
        else:
            batch["input_ids"] = torch.randint(3, WORDS - 1, (2, 6), generator=generator)
        if name in TWO_STREAMS:
            batch["decoder_input_ids"] = torch.randint(3, WORDS - 1, (2, 4), generator=generator)

        def forward(model, inputs):
            quiet = {} if name in ("BERT", "DeiT") else {"use_cache": False}
            return model(**inputs, **quiet).logits

        return Problem(model.eval(), batch, loss=last_word, forward=forward)

    return problem


def opened(problem, name, patterns):
    """Gradients at the input for each pattern of gates on the modules that end the branches."""
    branches = [(path,) for path in FAMILIES[name].branches]
    (gradients,) = gate_patterns(
        problem, branches, at=FAMILIES[name].source or None, patterns=patterns
    ).values()
    return gradients


def one_by_one(problem, name):
    """By length, from all sets of branches."""
    factor = 100.0 if name in SMALL else 10.0
    branches = [(path,) for path in FAMILIES[name].branches]
    (exactly,) = through_each_set(problem, branches, at=FAMILIES[name].source or None, factor=factor).values()
    return by_length(exactly, len(branches))


def assert_same(found, expected, name):
    """Each length relative to its own norm; told from others by up to 64 sums that may be in float32."""
    if name in CASTS:
        assert_alike(found, expected, 10 * ROUNDED, rounding=ROUNDED)
    else:
        assert_alike(found, expected, EXACT, rounding=1e-16)


def tolerance(name):
    return ROUNDED if name in CASTS else EXACT


def test_every_length_is_the_sum_over_its_sets_of_branches(build, family):
    """And their sum is the gradient; the model is as found."""
    problem = build(family)
    before = snapshot(problem.model)
    graded = path_gradients(problem)
    assert_as_found(problem.model, before)
    assert_same(graded, one_by_one(problem, family), family)
    (whole,) = opened(problem, family, [[1.0] * len(FAMILIES[family].branches)])
    assert (graded.sum(dim=0) - whole).norm() <= tolerance(family) * whole.norm()


@pytest.mark.parametrize("name", NORMALISED)
@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_batch_norm_in_other_modes(build, name, batch_norm):
    problem = build(name, batch_norm)
    graded = path_gradients(problem)
    assert_same(graded, one_by_one(problem, name), name)


def test_single_branches_opened_and_closed(build, family):
    """The branches found are those named, in that order: each closed alone, each open alone, and none."""
    problem = build(family)
    number = len(FAMILIES[family].branches)
    eye = torch.eye(number, dtype=torch.float64)
    masks = torch.cat([eye, 1 - eye, torch.zeros(1, number, dtype=torch.float64)])
    with open_paths(problem) as paths:
        assert len(paths.branches) == number
        assert paths.longest == (number // 2 if family in PARALLEL else number)
        assert paths.is_chain == (family not in AROUND)
        found, graded = paths.gated(masks), paths.graded()
    expected = opened(problem, family, masks.tolist())
    size = expected.flatten(1).norm(dim=1).max()
    assert ((found - expected).flatten(1).norm(dim=1) <= tolerance(family) * size).all()
    taken = (graded.gradient - found[number : 2 * number]).sum(dim=0)
    counted = torch.tensordot(torch.arange(len(graded.gradients)).double(), graded.gradients, dims=1)
    assert (taken - counted).norm() <= tolerance(family) * size


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "passes"])
def test_engines_agree(build, family, engine):
    with open_paths(build(family)) as paths:
        plain = paths.graded(engine="passes").gradients
        other = paths.graded(engine=engine).gradients
        signs = torch.tensor([(-1.0) ** place for place in range(len(paths.branches))])
        signed = paths.graded(signs=signs, engine="passes").gradients
        other_signed = paths.graded(signs=signs, engine=engine).gradients
    assert_same(other, plain, family)
    assert_same(other_signed, signed, family)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in AROUND])
def test_longest_paths_and_moments(build, name):
    with open_paths(build(name)) as paths:
        graded, moments = paths.graded().gradients, paths.moments(2)
        ends = paths.graded(1, longest=True)
    lengths = torch.arange(len(graded), dtype=torch.float64)
    weights = torch.stack([torch.ones_like(lengths), lengths, lengths * (lengths - 1) / 2])
    expected = torch.tensordot(weights, graded, dims=1)
    assert (moments - expected).norm() <= tolerance(name) * expected.norm()
    assert_same(ends.gradients, graded[-2:], name)


@pytest.mark.parametrize("name", ["ResNet", "GPT-2", "DenseNet", "BERT", "T5"])
def test_gradients_at_the_parameters(build, name):
    """Lengths add up to what `backward` leaves in the parameters, also where an embedding is tied to the head."""
    problem = build(name)
    split = path_gradients(problem, at="parameters")
    inputs, targets = problem.first_batch()
    problem.value(inputs, targets).backward()
    size = torch.cat([p.grad.flatten() for p in problem.model.parameters() if p.grad is not None]).norm()
    for path, parameter in problem.parameters.items():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        error = (split[path].sum(dim=0) - gradient).norm()
        assert error <= tolerance(name) * size, path


@pytest.mark.parametrize("name", ["ResNet", "DenseNet", "Swin", "GPT-2", "BART"])
def test_single_precision(build, name):
    """Each length to a hundred-thousandth of its norm, by whatever engine."""
    narrow = build(name)
    narrow.model.float()
    exact = path_gradients(build(name))
    assert_alike(path_gradients(narrow), exact, 1e-5, rounding=1e-12)
    assert_alike(path_gradients(narrow, engine="passes"), exact, 1e-5, rounding=1e-12)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2"])
def test_whole_networks_add_up(torchvision, name):
    """As they are trained in practice: the sum over all lengths, and the polynomial's degree."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None, num_classes=4).double()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    problem = Problem(model, (images, torch.tensor([0, 3])), batch_norm="train")
    with open_paths(problem) as paths:
        assert paths.longest == {"resnet18": 8, "densenet121": 58, "mobilenet_v2": 10}[name]
        graded = paths.graded()
    error = (graded.gradients.sum(dim=0) - graded.gradient).norm() / graded.gradient.norm()
    assert error <= EXACT
