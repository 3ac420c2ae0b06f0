"""What gates are given: junctions, not their names or numbers; modules by name, one or several."""

import pytest
import torch
from as_found import assert_as_found, snapshot
from networks import NETWORKS
from torch import nn

from gradscope.instruments.gates import bypass, cut_skips, lesion, scale_branches, stochastic_depth


def test_bypass_of_several_is_bypass_of_each():
    torch.manual_seed(0)
    model, x = nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)]), torch.randn(2, 4)
    before = snapshot(model)
    with bypass(model, ["0", "2"]):
        assert torch.equal(model(x), model[3](model[1](x)))
    assert_as_found(model, before)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("blocks.*:0", r"got 'blocks\.\*:0'; write gs\.junctions\(model, x\)\.matching\('blocks\.\*:0'\)\."),
        (["4:0", "5:0"], r"got '4:0'; write gs\.junctions\(model, x\)\.matching\('4:0'\)\."),
        (3, r"got 3; write gs\.junctions\(model, x\)\[3\]\."),
        ([None], r"got None; write gs\.junctions\(model, x\), or a list"),
    ],
)
def test_names_and_numbers_are_no_junctions(asked, told):
    model = NETWORKS["post-activation"].build()
    gates = (lesion, cut_skips, lambda *a: scale_branches(*a, 0.5), stochastic_depth)
    for gate in gates:
        with pytest.raises(ValueError, match=r"^junctions are Junction objects from .*" + told):
            with gate(model, asked):
                pass
