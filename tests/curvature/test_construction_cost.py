"""What constructing an operator costs: passes and products are counted, and what is alive at once."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import classes
from torch import Tensor, nn

from gradscope.curvature import hessian
from gradscope.curvature.gradient_graph import GradientGraph, add_gradient, drawn, plain_gradient
from gradscope.curvature.r_operator import RuledGraph


class Counting(nn.Module):
    """Counts the examples that went by."""

    def __init__(self) -> None:
        super().__init__()
        self.examples = 0

    def forward(self, x: Tensor) -> Tensor:
        self.examples += len(x)
        return x


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How many graphs are built and products made, by engine."""
    counter: Counter[str] = Counter()
    for kind, name in ((RuledGraph, "rules"), (GradientGraph, "taped")):

        def build(self: Any, *given: Any, _of: Any = kind.__init__, _name: str = name) -> None:
            counter[f"{_name} graphs"] += 1
            _of(self, *given)

        def multiply(
            self: Any, *given: Any, _of: Any = kind.add_product, _name: str = name, **how: Any
        ) -> None:
            counter[f"{_name} products"] += 1
            _of(self, *given, **how)

        monkeypatch.setattr(kind, "__init__", build)
        monkeypatch.setattr(kind, "add_product", multiply)
    yield counter


def counted(*sizes: int, **options: Any) -> int:
    count = Counting()
    torch.manual_seed(0)
    net = nn.Sequential(count, nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    hessian(classes(net, 4, sizes=sizes), **options)
    return count.examples


def test_double_backward_takes_two_passes_and_two_products(made: Counter[str]) -> None:
    assert counted(40, 40, engine="double backward") == 2 * 80
    assert made == {"taped graphs": 2, "taped products": 4}


def test_rules_are_compared_by_one_product_of_few_examples(made: Counter[str]) -> None:
    """The second pass over the data is an ordinary gradient; double backward sees an eighth of one batch."""
    assert counted(64, 64) == 2 * 128 + 8
    assert made == {"taped graphs": 1, "taped products": 1, "rules graphs": 3, "rules products": 5}


def test_a_small_batch_is_read_once_for_comparison_and_products(made: Counter[str]) -> None:
    assert counted(4) == 2 * 4
    assert made == {"taped graphs": 1, "taped products": 1, "rules graphs": 1, "rules products": 3}


def test_streaming_builds_no_graph_twice(made: Counter[str]) -> None:
    assert counted(4, 4, budget_bytes=0) == 2 * 8
    assert made == {"taped graphs": 1, "taped products": 1, "rules graphs": 2, "rules products": 5}


def test_no_vector_is_drawn_in_double_precision_for_a_network_in_single(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[tuple[int, torch.dtype]] = []
    plain = torch.randn

    def listening(*shape: Any, **options: Any) -> Tensor:
        found = plain(*shape, **options)
        sizes.append((found.numel(), found.dtype))
        return found

    net = nn.Sequential(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 3))
    data = [(plain(20, 300), torch.zeros(20, dtype=torch.long))]
    monkeypatch.setattr(torch, "randn", listening)
    hessian((net, data))
    assert sizes == [(65537, torch.float32)] * 3


def test_vectors_to_try_with_repeat_but_do_not_align() -> None:
    like = torch.zeros(1)
    vector = drawn(200_000, like, torch.Generator().manual_seed(0))
    assert vector.shape == (200_000,)
    assert torch.equal(vector[65537 : 2 * 65537], vector[:65537])
    assert vector[:65537].unique().numel() > 60_000
    again = drawn(7, like, torch.Generator().manual_seed(0))
    assert again.shape == (7,)
    assert not torch.equal(vector[:65536].view(256, 256), vector[:65536].view(256, 256).T)


def test_gradients_are_added_in_place() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(6, 4, sparse=True), nn.Linear(4, 2, bias=False))
    unused = nn.Parameter(torch.ones(3))
    parameters = [*net.parameters(), unused]

    def loss() -> Tensor:
        return net(torch.tensor([1, 1, 5])).square().sum()

    total = torch.ones(sum(parameter.numel() for parameter in parameters))
    add_gradient(loss(), parameters, total)
    torch.testing.assert_close(total, 1 + plain_gradient(loss(), parameters))
    add_gradient(torch.ones(()), parameters, total)
    torch.testing.assert_close(total, 1 + plain_gradient(loss(), parameters))
