"""Which junctions path lengths count by default: those in no branch of another one that can be counted."""

import pytest
import torch
from networks import NETWORKS, Residual, mlp
from torch import Tensor, nn

from gradscope.instruments.junctions import junctions, trace


class TwoHeads(nn.Module):
    """A residual trunk, and a head that looks past all of it: no skip, so nothing is counted where they meet."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.trunk = nn.Linear(4, 4), nn.Sequential(*(Residual(mlp(4, 4, 4)) for _ in range(3)))
        self.head, self.aside = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.head(self.trunk(h)) + self.aside(h.sin())


def test_a_junction_that_cannot_be_counted_hides_no_blocks():
    model, x = TwoHeads(), torch.randn(3, 4)
    found = trace(model, model, x)
    assert [(j.kind, j.level, j.counted, j.outermost) for j in found.junctions] == [
        *[("identity", 1, True, True)] * 3,
        ("branches", 0, False, False),
    ]
    # Through the trunk (1 + t)^3, and one more path past it.
    assert found.routes().counts() == [2, 3, 3, 1]
    assert not found.is_chain


def test_blocks_inside_a_counted_branch_are_not_outermost():
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            inside = nn.Sequential(mlp(4, 4, 4), Residual(mlp(4, 4)))
            self.trunk, self.aside = nn.Sequential(Residual(inside), nn.Linear(4, 4)), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.trunk(x) + self.aside(x.sin())

    found = junctions(Nested(), torch.randn(3, 4))
    assert [(j.kind, j.level, j.outermost) for j in found] == [
        ("identity", 2, False),
        ("identity", 1, True),
        ("branches", 0, False),
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_where_everything_can_be_counted_they_are_those_of_level_0(name):
    model, x = NETWORKS[name].build(), NETWORKS[name].inputs()
    found = junctions(model, x)
    assert all(not junction.outermost or junction.counted for junction in found)
    if all(junction.counted for junction in found):
        assert [junction.outermost for junction in found] == [junction.level == 0 for junction in found]
