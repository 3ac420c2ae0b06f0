"""Parts of operators against the slices of the dense matrix."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import Residual, classes
from curvature_cases import CURVATURE_CASES
from torch import Tensor, nn

import gradscope as gs
from gradscope.curvature import empirical_fisher, gauss_newton, hessian
from gradscope.curvature.problem_operator import ProblemOperator
from tests.curvature.references import assert_same_matrix, dense_hessian
from tests.curvature.shortcut_points import residual_correlation, zero_point

OPERATORS: list[Callable[..., ProblemOperator]] = [hessian, gauss_newton, empirical_fisher]


def entries(operator: ProblemOperator, names: Any) -> Tensor:
    """Places in the vector of the whole operator."""
    places = torch.arange(operator.shape[0])
    return torch.cat([places[operator.slices[name]] for name in names])


@pytest.mark.parametrize("by", ["parameter", "layer", "block", "stage"])
@pytest.mark.parametrize("make", OPERATORS)
@pytest.mark.parametrize("case", ["residual", "residual after a layer"])
def test_blocks_are_slices_of_the_dense_matrix(case: str, make: Callable[..., Any], by: str) -> None:
    operator = make(CURVATURE_CASES[case](), weight_decay=0.1)
    whole = operator.dense()
    blocks = operator.blocks(by)
    for block in blocks.values():
        places = entries(operator, block.parameters)
        assert_same_matrix(block.dense(), whole[places][:, places])
    assert list(itertools.chain(*(block.parameters for block in blocks.values()))) == list(
        operator.parameters
    )


@pytest.mark.parametrize("by", ["parameter", "layer"])
@pytest.mark.parametrize("case", CURVATURE_CASES)
def test_every_parameter_is_in_exactly_one_block(case: str, by: str) -> None:
    operator = hessian(CURVATURE_CASES[case](), check="none")
    names = list(itertools.chain(*(block.parameters for block in operator.blocks(by).values())))
    assert sorted(names) == sorted(operator.parameters)
    assert [*operator.slices] == [*operator.parameters]
    assert sum(place.stop - place.start for place in operator.slices.values()) == operator.shape[0]


def test_names_of_blocks() -> None:
    operator = hessian(CURVATURE_CASES["residual after a layer"]())
    assert list(operator.blocks("layer")) == ["0", "1.branch", "3"]
    assert list(operator.blocks("block")) == ["0", "1:0", "3"]
    assert list(operator.blocks("stage")) == ["0", "stage 0", "3"]
    whole = hessian(classes(nn.Linear(4, 3), 4))
    assert list(whole.blocks("layer")) == ["Linear"]
    assert list(whole.blocks("parameter")) == ["weight", "bias"]


def test_a_tied_weight_is_in_one_block_with_its_cross_terms() -> None:
    problem = CURVATURE_CASES["tied weights"]()
    operator = hessian(problem)
    blocks = operator.blocks("layer")
    assert list(blocks["first"].parameters) == ["first.weight", "first.bias"]
    assert list(blocks["second"].parameters) == ["second.bias"]
    places = entries(operator, ["first.weight", "first.bias"])
    assert_same_matrix(blocks["first"].dense(), dense_hessian(problem)[places][:, places])


def test_a_weight_tied_across_residual_blocks_goes_to_the_first() -> None:
    shared = nn.Linear(4, 4)
    net = nn.Sequential(*[Residual(nn.Sequential(shared, nn.Tanh())) for _ in range(3)], nn.Linear(4, 3))
    blocks = hessian(classes(net, 4)).blocks("block")
    assert {name: list(block.parameters) for name, block in blocks.items()} == {
        "0:0": ["0.branch.0.weight", "0.branch.0.bias"],
        "3": ["3.weight", "3.bias"],
    }


def test_a_parametrised_weight_goes_under_its_layer() -> None:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    blocks = hessian(classes(nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 3)), 4)).blocks("layer")
    assert list(blocks) == ["0", "2"]


def test_branches_projections_and_stages_of_a_convolutional_network() -> None:
    net = gs.nets.build("resnet", depth=8, width=2, classes=3)
    operator = gauss_newton(classes(net, 3, 8, 8, sizes=(2,)), check="none")
    blocks = operator.blocks("block")
    assert [name for name in blocks if ":" in name] == ["blocks.0:0", "blocks.1:0", "blocks.2:0"]
    assert "blocks.1.shortcut" in blocks and "stem" in blocks
    assert all("branch" in name for name in blocks["blocks.1:0"].parameters)
    assert [name for name in operator.blocks("stage") if name.startswith("stage")] == [
        "stage 0",
        "stage 1",
        "stage 2",
    ]
    deeper = gs.nets.build("resnet", depth=14, width=2, classes=3)
    stages = gauss_newton(classes(deeper, 3, 8, 8, sizes=(2,)), check="none").blocks("stage")
    assert {name.split(".")[1] for name in stages["stage 1"].parameters} == {"2", "3"}


def test_blocks_by_a_mapping() -> None:
    operator = hessian(CURVATURE_CASES["residual"]())
    blocks = operator.blocks({"first": "0.branch.0", "linear": nn.Linear})
    assert list(blocks["first"].parameters) == ["0.branch.0.weight", "0.branch.0.bias"]
    assert len(blocks["linear"].parameters) == 8
    with pytest.raises(ValueError, match=r"none takes 2\.weight, 2\.bias"):
        operator.blocks({"first": "0", "second": "1"})


def test_a_restricted_operator_differentiates_by_fewer_parameters() -> None:
    operator = hessian(CURVATURE_CASES["residual"](), weight_decay=0.2)
    part = operator.restricted("2")
    places = entries(operator, ["2.weight", "2.bias"])
    assert_same_matrix(part.dense(), operator.dense()[places][:, places])
    again = operator.restricted(["0", "2"]).restricted("2.bias")
    assert list(again.parameters) == ["2.bias"]
    with pytest.raises(ValueError, match=r"There are: 2\.weight, 2\.bias"):
        part.restricted("0")


def test_a_network_without_shortcuts_has_no_residual_blocks() -> None:
    operator = hessian(CURVATURE_CASES["plain"]())
    with pytest.raises(ValueError, match="by='layer'"):
        operator.blocks("block")
    with pytest.raises(ValueError, match="parameter, layer, block, stage"):
        operator.blocks("module")


def test_blocks_at_the_zero_point_of_two_layer_shortcuts() -> None:
    """Layers see nothing; a pair of layers has the condition number of the whole (reference sheet, T6)."""
    problem = zero_point()
    singular = torch.linalg.svdvals(residual_correlation(problem))
    operator = hessian(problem)
    assert all(block.dense().abs().max() == 0 for block in operator.blocks("layer").values())
    for block in operator.blocks("block").values():
        values = torch.linalg.eigvalsh(block.dense()).abs()
        assert (values.max() / values.min()).item() == pytest.approx(
            (singular[0] / singular[-1]).item(), rel=1e-9
        )
