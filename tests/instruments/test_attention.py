"""Which residual branches are told to attend, in layers whose code says so."""

from collections.abc import Callable

import pytest
import torch
from networks import NETWORKS, Attention, EncoderDecoder, Residual, mlp, stack
from torch import Tensor, nn
from torch.nn import functional

from gradscope.instruments.junctions import trace


class Written(nn.Module):
    """Attention over five tokens, its core as `attend(query, key, value)` writes it."""

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.read, self.out, self.attend = nn.Linear(4, 12), nn.Linear(4, 4), attend

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attend(*self.read(x).chunk(3, dim=-1)))


def averaged(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    masked = (query @ key.mT).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    return functional.dropout(masked.softmax(dim=-1), 0.1) @ value


def by_einsum(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weights = torch.einsum("btd,bsd->bts", query, key).softmax(dim=-1)
    return torch.einsum("bts,bsd->btd", weights, value)


class Squeeze(nn.Module):
    """Units are scaled by what is read from all tokens, with a softmax in place of a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.units, self.read = mlp(4, 3, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        units = self.units(x)
        return units * self.read(units.mean(dim=1, keepdim=True)).softmax(dim=-1)


class Router(nn.Module):
    """Two experts, weighted by a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.route = nn.ModuleList([mlp(4, 3, 4), mlp(4, 3, 4)]), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        outputs = torch.stack([expert(x) for expert in self.experts], dim=-1)
        return (outputs * self.route(x).softmax(dim=-1)[..., None, :]).sum(dim=-1)


BRANCHES: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "written out": (lambda: Attention(4), True),
    "masked and dropped out": (lambda: Written(averaged), True),
    "einsum": (lambda: Written(by_einsum), True),
    "fused": (lambda: Written(functional.scaled_dot_product_attention), True),
    "no softmax": (lambda: Written(lambda q, k, v: (q @ k.mT) @ v), False),
    "squeeze": (Squeeze, False),
    "router": (Router, False),
    "feed-forward": (lambda: mlp(4, 3, 4), False),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_what_attends_is_told_from_what_only_scales(name):
    branch, attends = BRANCHES[name]
    model = stack(lambda: Residual(branch()), 2).double()
    found = trace(model, model, torch.randn(2, 5, 4, dtype=torch.float64))
    assert found.attention == ((attends,),) * 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pre-norm transformer", ((True,), (False,)) * 3),
        ("parallel transformer", ((True, False),) * 3),
        ("encoder layers", ((True,), (False,)) * 2),
        ("learned query", ((True,), (True,), (True,))),
        ("post-activation", ((False,),) * 6),
        ("highway", ((False,),) * 4),
    ],
)
def test_attention_and_feed_forward_take_turns(name, expected):
    model = NETWORKS[name].build()
    assert trace(model, model, NETWORKS[name].inputs()).attention == expected


def test_a_decoder_layer_attends_twice():
    model = EncoderDecoder().double().eval()
    pair = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 2, 4, dtype=torch.float64)
    assert trace(model, model, pair).attention == ((True,), (False,)) * 2 + ((True,), (True,), (False,)) * 2
