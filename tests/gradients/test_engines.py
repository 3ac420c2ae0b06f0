"""Engines of gated backward passes against ordinary passes, on every network of the tests."""

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import NETWORKS
from path_networks import COUNTED, PATH_NETWORKS
from torch import Tensor, nn

from gradscope.gradients.engines.choice import ENGINES
from gradscope.gradients.live import open_paths
from gradscope.problem import Problem

FAST = [engine for engine in ENGINES if engine not in ("auto", "passes")]
# What checkpoints recompute is left to autograd.
RECOMPUTED = ("checkpointed",)
OTHERS = [name for name, specimen in NETWORKS.items() if specimen.kinds and name not in PATH_NETWORKS]

NORMALISED = [
    name
    for name in COUNTED
    if any(isinstance(module, nn.BatchNorm2d) for module in PATH_NETWORKS[name].build().modules())
]


def problem_of(name: str, batch_norm: str) -> Problem:
    if name in PATH_NETWORKS:
        return PATH_NETWORKS[name].problem(batch_norm)
    specimen = NETWORKS[name]
    return Problem(specimen.build(), (specimen.inputs(), specimen.targets()), batch_norm=batch_norm)


def assert_same(found: Tensor, expected: Tensor) -> None:
    """To rounding of the largest number, beside which others may cancel."""
    largest = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12 * largest)


def random_factors(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize(
    ("name", "batch_norm"),
    [*((name, "frozen") for name in (*COUNTED, *OTHERS)), *((name, "train") for name in NORMALISED)],
)
def test_engines_agree_with_ordinary_passes(name, batch_norm, engine):
    if name in RECOMPUTED and engine == "walk":
        engine = "auto"
    with open_paths(problem_of(name, batch_norm)) as paths:
        branches = len(paths.branches)
        signs = random_factors(3, branches)
        masks = (random_factors(5, branches) > 0).double()
        groups = [0] * branches if paths.longest < 2 else [place % 2 for place in range(branches)]
        for ask in (
            lambda engine: paths.graded(engine=engine).gradients,
            lambda engine: paths.graded(paths.longest // 2, signs=signs[0], engine=engine).gradients,
            lambda engine: paths.moments(2, engine=engine),
            lambda engine: paths.gated(signs, engine=engine),
            lambda engine: paths.gated(masks, engine=engine),
            lambda engine: paths.by_variable(groups, engine=engine),
        ):
            assert_same(ask(engine), ask("passes"))


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize(
    "name",
    ["post-activation", "pre-norm transformer", "shared weights", "DenseNet, lists", "highway", "tokens"],
)
def test_engines_agree_at_all_parameters_at_once(name, engine):
    with open_paths(problem_of(name, "train"), at="parameters") as paths:
        found, expected = paths.graded(engine=engine).gradients, paths.graded(engine="passes").gradients
    assert list(found) == list(expected)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=0.0, atol=1e-12 * largest)


@pytest.mark.parametrize("engine", FAST)
def test_engines_agree_on_the_longest_paths_and_with_gates_on_skips(engine):
    with open_paths(problem_of("post-activation", "frozen")) as paths:
        longest = [paths.graded(2, longest=True, engine=name).gradients for name in (engine, "passes")]
        factors = random_factors(3, len(paths.branches)), random_factors(3, paths.longest).exp()
        gated = [paths.gated(*factors, engine=name) for name in (engine, "passes")]
    assert_same(*longest)
    assert_same(*gated)


@pytest.mark.parametrize("engine", FAST)
def test_engines_agree_at_a_site(engine):
    with open_paths(problem_of("post-activation", "frozen"), at="4") as paths:
        assert_same(paths.graded(engine=engine).gradients, paths.graded(engine="passes").gradients)


def test_few_coefficients_take_passes_and_many_walk():
    with open_paths(problem_of("pre-norm transformer", "frozen")) as paths:
        assert paths.graded(1).engine == "passes"
        assert paths.graded("all").engine == "walk"
        assert [paths.graded(1, engine=engine).engine for engine in FAST] == FAST


def test_an_unknown_engine_is_refused():
    with (
        open_paths(problem_of("tokens", "frozen")) as paths,
        pytest.raises(ValueError, match=r"engine is one of auto, walk, vmap, passes, got 'fast'"),
    ):
        paths.graded(engine="fast")


@pytest.mark.parametrize("engine", FAST)
def test_the_model_and_its_graph_are_as_found(engine):
    problem = problem_of("post-activation", "train")
    used(problem.model).train()
    before = snapshot(problem.model)
    with open_paths(problem) as paths:
        first, second = (paths.graded(engine=engine).gradients for _ in range(2))
        assert torch.equal(first, second)
        torch.testing.assert_close(paths.graph.backward()[0], paths.backward(), rtol=0, atol=0)
    assert_as_found(problem.model, before)
