"""What `left_as_found` puts back, of models that are not made of dense tensors alone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gradscope.instruments.dense_parts import dense_parts, same_numbers
from gradscope.instruments.quiet import left_as_found
from gradscope.instruments.single_precision import SinglePrecision

LAYOUTS = [torch.strided, torch.sparse_coo, torch.sparse_csr, torch.sparse_csc]


def held(layout: torch.layout) -> nn.Module:
    model = nn.Module()
    matrix = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    model.register_buffer("matrix", matrix if layout == torch.strided else matrix.to_sparse(layout=layout))
    return model


def twice(matrix: Tensor) -> None:
    (matrix._values() if matrix.layout == torch.sparse_coo else dense_parts(matrix)[-1]).mul_(2)


@pytest.mark.filterwarnings("ignore:Sparse CS")
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_buffers_of_any_layout_are_put_back(layout: torch.layout) -> None:
    model = held(layout)
    before, expected = model.matrix, model.matrix.to_dense().clone()
    with pytest.raises(KeyboardInterrupt), left_as_found(model):
        twice(model.matrix)
        assert not torch.equal(model.matrix.to_dense(), expected)
        raise KeyboardInterrupt
    assert model.matrix is before
    assert torch.equal(model.matrix.to_dense(), expected)


@pytest.mark.filterwarnings("ignore:Sparse CS")
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_buffers_that_did_not_change_are_not_written_to(layout: torch.layout) -> None:
    model = held(layout)
    version = model.matrix._version
    with left_as_found(model):
        pass
    assert model.matrix._version == version
    copied = model.matrix.clone()
    assert same_numbers(model.matrix, copied)
    twice(copied)
    assert not same_numbers(model.matrix, copied)


@pytest.mark.parametrize(
    "make",
    [lambda: nn.Embedding(4, 3, max_norm=0.5), lambda: nn.EmbeddingBag(4, 3, max_norm=0.5)],
    ids=["embedding", "bag"],
)
def test_weights_that_a_forward_pass_shortens_are_put_back(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(make())
    before = model[0].weight.detach().clone()
    with left_as_found(model):
        model(torch.tensor([[0, 1], [2, 3]]))
        assert not torch.equal(model[0].weight, before)
    assert torch.equal(model[0].weight, before)


def test_complex_numbers_are_compared_whole() -> None:
    one = torch.tensor([1 + 2j])
    assert not same_numbers(one, one + 1j)
    assert same_numbers(one, one.conj().conj())


def test_a_single_precision_copy_follows_its_model() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).to(torch.bfloat16)
    copied = SinglePrecision(model)
    first = copied.up_to_date()
    version = first[0].weight._version
    assert copied.up_to_date()[0].weight._version == version
    with torch.no_grad():
        model[0].weight.fill_(2.0)
    model[0].bias.requires_grad_(False)
    model[1].eval()
    now = copied.up_to_date()
    assert now is first
    assert now[0].weight.dtype == torch.float32
    assert (now[0].weight == 2).all()
    assert (now[0].bias.requires_grad, now[1].training) == (False, False)
