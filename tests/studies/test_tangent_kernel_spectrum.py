"""Tangent kernels against explicit Jacobians."""

import math

import numpy as np
import pytest
import torch
from as_found import assert_as_found, snapshot, used
from cases import CASES
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradscope.gradients.tangent_kernels import tangent_kernels
from gradscope.problem import Problem
from gradscope.studies.tangent_kernel_spectrum import tangent_kernel_spectrum


def jacobians(problem: Problem) -> dict[str, np.ndarray]:
    """d f_k(x_i) / d w of every layer's own parameters, [B, K, P], entry by entry."""
    x = torch.cat([inputs for inputs, _ in problem.batches()])
    found: dict[str, list] = {}
    for i in range(len(x)):
        outputs = problem.outputs(x[i : i + 1])[0]
        for name, module in problem.model.named_modules():
            own = list(module.parameters(recurse=False))
            if own:
                rows = [torch.autograd.grad(value, own, retain_graph=True) for value in outputs]
                found.setdefault(name, []).append(
                    np.stack([torch.cat([g.flatten() for g in row]).numpy() for row in rows])
                )
    return {name: np.stack(parts) for name, parts in found.items()}


@pytest.mark.parametrize("case", ["plain", "residual", "convolution", "short last batch"])
def test_kernels_are_products_of_jacobians(case):
    problem = CASES[case]()
    expected = jacobians(problem)
    for outputs in ("trace", 1):
        found = tangent_kernels(problem, outputs=outputs)
        assert list(found) == [*expected, "all parameters"]
        whole = 0
        for name, jacobian in expected.items():
            rows = jacobian if outputs == "trace" else jacobian[:, [outputs]]
            kernel = np.einsum("ikp,jkp->ij", rows, rows)
            whole = whole + kernel
            np.testing.assert_allclose(found[name], kernel, atol=1e-12)
        np.testing.assert_allclose(found["all parameters"], whole, atol=1e-12)


def test_a_shuffling_loader_does_not_mix_the_outputs_examples():
    """Every output is another pass over the data: in another order, the sum would be of nothing."""
    net = CASES["plain"]().model
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loader = DataLoader(TensorDataset(x, torch.zeros(9)), batch_size=4, shuffle=True)
    found = tangent_kernels((net, loader))["all parameters"]
    straight = tangent_kernels((net, x))["all parameters"]
    torch.testing.assert_close(torch.linalg.eigvalsh(found), torch.linalg.eigvalsh(straight))


def test_rows_are_the_spectrum_of_the_kernel():
    problem = CASES["plain"]()
    frame = tangent_kernel_spectrum(problem)
    assert list(frame.columns) == [
        *("batch_norm", "batches", "outputs", "quantity", "unit", "site", "depth"),
        *("value", "low", "high", "n", "status", "reason"),
    ]
    labels = next(problem.batches())[1].numpy()
    same = np.equal.outer(labels, labels).astype(float)
    rows = frame.set_index(["site", "quantity"])
    for name, jacobian in jacobians(problem).items():
        kernel = np.einsum("ikp,jkp->ij", jacobian, jacobian)
        eigenvalues = np.linalg.eigvalsh(kernel)
        assert rows.loc[(name, "kernel_trace"), "value"] == pytest.approx(eigenvalues.sum())
        assert rows.loc[(name, "kernel_largest_eigenvalue"), "value"] == pytest.approx(eigenvalues[-1])
        aligned = np.sum(kernel * same) / np.linalg.norm(kernel) / np.linalg.norm(same)
        assert rows.loc[(name, "kernel_label_alignment"), "value"] == pytest.approx(aligned)
        condition = rows.loc[(name, "kernel_condition_number")]
        if condition["status"] == "ok":
            assert condition["value"] == pytest.approx(eigenvalues[-1] / eigenvalues[0], rel=1e-6)
    assert set(rows.loc["all parameters", "depth"].isna()) == {True} and set(frame["n"]) == {7}


def test_a_singular_kernel_has_a_lower_bound_and_a_reason():
    """A linear layer of two inputs and one output has three parameters, so that rank is at most three of five."""
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = tangent_kernel_spectrum((nn.Linear(2, 1).double(), x)).set_index(["site", "quantity"])
    condition = rows.loc[("all parameters", "kernel_condition_number")]
    assert condition["status"] == "unresolved" and math.isinf(condition["high"])
    assert condition["reason"] == "2 of 5 eigenvalues lie below rounding: a lower bound"
    assert condition["value"] == condition["low"] == pytest.approx(1 / (10 * np.finfo(float).eps))
    assert rows.loc[("all parameters", "kernel_unresolved_eigenvalues"), "value"] == 2
    assert rows.loc[("all parameters", "kernel_label_alignment"), "status"] == "skipped"


def test_numbers_to_be_fitted_are_aligned_with_as_products():
    problem = CASES["half squared error"]()
    rows = tangent_kernel_spectrum(problem).set_index(["site", "quantity"])["value"]
    y = next(problem.batches())[1].numpy()
    kernel, labels = tangent_kernels(problem)["0"].numpy(), y @ y.T
    expected = np.sum(kernel * labels) / np.linalg.norm(kernel) / np.linalg.norm(labels)
    assert rows["0", "kernel_label_alignment"] == pytest.approx(expected)


@pytest.mark.parametrize("case", ["plain", "batch norm frozen"])
def test_the_model_is_as_found(case):
    problem = CASES[case]()
    used(problem.model)
    before = snapshot(problem.model)
    tangent_kernel_spectrum(problem)
    assert_as_found(problem.model, before)


@pytest.mark.parametrize("outputs", ["all", 3, -1, True, 1.5])
def test_an_output_that_there_is_not_is_refused(outputs):
    with pytest.raises(ValueError, match=r"outputs is 'trace' or one of 0 \.\. 2"):
        tangent_kernels(CASES["plain"](), outputs=outputs)


def test_outputs_that_are_no_rows_are_refused():
    with pytest.raises(ValueError, match=r"needs outputs of shape \[3, K\], got \[3, 2, 2\]"):
        tangent_kernels((nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2))), torch.ones(3, 4)))
