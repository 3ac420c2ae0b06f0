"""Which parameters a selection takes."""

import pytest
import torch
from curvature_cases import CURVATURE_CASES
from torch import nn

from gradscope.curvature import empirical_fisher, gauss_newton, hessian
from gradscope.curvature.selection import select
from tests.curvature.references import assert_same_matrix, dense_hessian


def net() -> nn.Sequential:
    inner = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    return nn.Sequential(nn.Conv2d(1, 2, 1), inner, nn.Flatten(), nn.Linear(8, 3))


def names(wanted: object) -> list[str]:
    model = net()
    return list(select(dict(model.named_parameters()), wanted, model=model))  # type: ignore[arg-type]


def test_names_globs_and_module_paths() -> None:
    assert names("0.weight") == ["0.weight"]
    assert names("1") == ["1.0.weight", "1.0.bias", "1.1.weight", "1.1.bias"]
    assert names("*.bias") == ["0.bias", "1.0.bias", "1.1.bias", "3.bias"]
    assert names(["3.bias", "0"]) == ["0.weight", "0.bias", "3.bias"]
    assert names(None) == [name for name, _ in net().named_parameters()]


def test_types_of_modules() -> None:
    assert names(nn.Conv2d) == ["0.weight", "0.bias", "1.0.weight", "1.0.bias"]
    assert names([nn.BatchNorm2d, "3.bias"]) == ["1.1.weight", "1.1.bias", "3.bias"]
    assert names(nn.Module) == names(None)


def test_functions() -> None:
    assert names(lambda name, parameter: parameter.ndim == 4) == ["0.weight", "1.0.weight"]


def test_what_there_is_is_said_where_nothing_matches() -> None:
    with pytest.raises(ValueError, match=r"matches 'blocks'\. There are: 0\.weight, 0\.bias, 1\.0\.weight"):
        names("blocks")
    with pytest.raises(ValueError, match=r"No Embedding of the model.*BatchNorm2d, Conv2d, Linear"):
        names(nn.Embedding)
    with pytest.raises(ValueError, match="at least one parameter"):
        names(lambda name, parameter: False)
    with pytest.raises(ValueError, match=r"types of modules such as nn\.Conv2d.*got 3"):
        names([3])
    with pytest.raises(ValueError, match="at least one parameter"):
        names([])
    with pytest.raises(ValueError, match=r"such as nn\.Conv2d"):
        names([torch.Tensor])


def test_a_module_or_parameter_itself_is_answered_with_its_name() -> None:
    model = net()
    parameters = dict(model.named_parameters())
    for wanted in (model[1][0], [model[1][0]]):
        with pytest.raises(ValueError, match=r"a Conv2d whose name is '1\.0'"):
            select(parameters, wanted, model=model)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"a Parameter whose name is '3\.bias'"):
        select(parameters, model[3].bias, model=model)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"given a Linear\. A module's path"):
        select(parameters, nn.Linear(1, 1), model=model)  # type: ignore[arg-type]


def test_operators_take_what_is_selected() -> None:
    problem = CURVATURE_CASES["layer norm"]()
    whole = dense_hessian(problem)
    norm = hessian(problem, parameters=nn.LayerNorm)
    assert list(norm.parameters) == ["1.0.weight", "1.0.bias"]
    places = torch.arange(30, 42)
    assert_same_matrix(norm.dense(), whole[places][:, places])
    for make in (gauss_newton, empirical_fisher):
        part, all_of_it = make(problem, parameters=nn.LayerNorm), make(problem)
        assert_same_matrix(part.dense(), all_of_it.dense()[places][:, places])


def test_a_tied_parameter_is_listed_under_its_first_name_and_found_under_all() -> None:
    problem = CURVATURE_CASES["tied weights"]()
    assert list(hessian(problem, parameters="first").parameters) == ["first.weight", "first.bias"]
    assert list(hessian(problem, parameters="second").parameters) == ["first.weight", "second.bias"]
    assert list(hessian(problem, parameters="second.weight").parameters) == ["first.weight"]
