"""A problem given where its operator is wanted: one error, which names the way."""

import pytest
import torch
from torch import nn

import gradscope as gs


@pytest.mark.parametrize(
    ("who", "ask"),
    [
        ("trace", gs.trace),
        ("spectral_density", gs.spectral_density),
        ("extreme_eigenvalues", gs.extreme_eigenvalues),
        ("extreme_eigenvalues", gs.extreme_eigenpairs),
        ("condition_numbers", gs.condition_numbers),
        ("condition_number", lambda given: gs.condition_number(given, "kappa_lower")),
        ("eigenvalue_convergence", gs.eigenvalue_convergence),
    ],
)
def test_a_problem_is_refused_by_name(who, ask):
    pair = nn.Linear(2, 2), (torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
    for given, kind in ((pair, "tuple"), (gs.Problem(*pair), "Problem")):
        with pytest.raises(ValueError, match=rf"^{who} takes an operator, got {kind}.*gs.hessian\(problem\)"):
            ask(given)
