"""Networks with sparse buffers, rewritten weights, normalisation of half its parts, other kinds of numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import classes
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from gradscope.curvature import empirical_fisher, gauss_newton, hessian
from gradscope.problem import Problem
from tests.curvature.references import assert_same_matrix, dense_fisher, dense_gauss_newton, dense_hessian

KINDS = [(hessian, dense_hessian), (gauss_newton, dense_gauss_newton), (empirical_fisher, dense_fisher)]


class Graph(nn.Module):
    """One layer of a graph network, its adjacency in some layout."""

    def __init__(self, adjacency: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.register_buffer("adjacency", adjacency)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(self.adjacency, self.layer(x).tanh())


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize(("make", "reference"), KINDS)
def test_sparse_buffers(make: Any, reference: Any, layout: torch.layout) -> None:
    torch.manual_seed(0)
    links = torch.eye(5, dtype=torch.float64) + torch.eye(5, dtype=torch.float64).roll(1, 0)
    data = torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])
    sparse = Problem(Graph(links.to_sparse(layout=layout)).double(), data)
    dense = Problem(Graph(links).double(), data)
    dense.model.load_state_dict(sparse.model.state_dict() | {"adjacency": links})
    with make(sparse) as operator:
        assert_same_matrix(operator.dense(), reference(dense))
        sparse.model.adjacency.values().mul_(
            2
        ) if layout == torch.sparse_csr else sparse.model.adjacency.mul_(2)
        assert_same_matrix(operator.dense(), make(sparse).dense())


def words(**options: Any) -> Problem:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(5, 3, **options), nn.Flatten(), nn.Linear(6, 2)).double()
    return Problem(net, (torch.randint(0, 5, (6, 2)), torch.randint(0, 2, (6,))))


@pytest.mark.parametrize("make", [hessian, gauss_newton, empirical_fisher])
@pytest.mark.parametrize("check", ["none", "cheap"])
def test_embeddings_that_rewrite_their_weight_are_refused_and_left_as_found(make: Any, check: str) -> None:
    problem = words(max_norm=0.5)
    before = problem.model[0].weight.detach().clone()
    with pytest.raises(ValueError, match=r"shortens rows of 0\.weight.*Run the model once"):
        make(problem, check=check).matvec(torch.ones(29))
    assert torch.equal(problem.model[0].weight, before)


@pytest.mark.parametrize(("make", "reference"), KINDS)
def test_embeddings_whose_rows_are_short_are_measured(make: Any, reference: Any) -> None:
    problem = words(max_norm=0.5)
    problem.model(problem.data[0][0])
    measured = make(problem, check="full").dense()
    assert_same_matrix(measured, reference(problem))


@pytest.mark.parametrize(("make", "reference"), KINDS)
def test_embeddings_with_sparse_gradients(make: Any, reference: Any) -> None:
    measured = make(words(sparse=True), check="full").dense()
    assert_same_matrix(measured, reference(words()))


class BiasAlone(nn.Module):
    """A normalisation with a bias and no weight, as Keras' scale=False."""

    def __init__(self, kind: str, weight: Tensor | None = None) -> None:
        super().__init__()
        self.kind, self.weight = kind, weight
        self.bias = nn.Parameter(torch.tensor([0.3, -0.2, 0.5, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "batch":
            return functional.batch_norm(x, None, None, self.weight, self.bias, True)
        return functional.layer_norm(x, (4,), self.weight, self.bias)


def normalised(kind: str, weight: Tensor | None = None) -> Problem:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 4), BiasAlone(kind, weight), nn.Tanh(), nn.Linear(4, 2)]
    net = nn.Sequential(*layers).double()
    data = torch.randn(7, 3), torch.tensor([0, 1, 0, 1, 1, 0, 0])
    return Problem(net, data, batch_norm="train")


@pytest.mark.parametrize(("make", "reference"), KINDS)
@pytest.mark.parametrize("kind", ["batch", "layer"])
@pytest.mark.parametrize("parameters", [None, "1"])
def test_a_normalisation_with_a_bias_and_no_weight_is_right(
    make: Any, reference: Any, kind: str, parameters: Any
) -> None:
    """Torch's second derivative loses the bias, or raises an error of its own: the reference has a weight of ones."""
    operator = make(normalised(kind), parameters=parameters, check="full")
    assert operator.engine == "rules"
    entries = torch.arange(12 + 4, 12 + 4 + 4) if parameters else torch.arange(operator.shape[0])
    whole = reference(normalised(kind, torch.ones(4, dtype=torch.float64)))
    assert_same_matrix(operator.dense(), whole[entries][:, entries])


def test_where_no_rule_helps_it_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"NativeBatchNormBackward0.*Pass torch\.ones"):
        hessian(normalised("batch"), engine="double backward", parameters="1")


@pytest.mark.parametrize(("make", "reference"), KINDS)
def test_a_short_last_batch_of_one_example_behind_a_normalisation(make: Any, reference: Any) -> None:
    """A rule that hands on what it was given, as if it were its own, spoils it for others who hold it."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 3)
            self.shift, self.scale = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))

        def forward(self, x: Tensor) -> Tensor:
            stream = functional.layer_norm(self.first(x), (4,), self.scale, torch.tanh(self.shift))
            return self.head(torch.tanh(stream + torch.tanh(self.second(x))))

    torch.manual_seed(0)
    problem = classes(Both(), 3, sizes=(9, 1))
    operator = make(problem)
    assert operator.engine == "rules"
    assert_same_matrix(operator.dense(), reference(problem))


def test_autocast_within_the_network_is_named() -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.second(self.first(x).tanh()).float()

    torch.manual_seed(0)
    problem = Problem(Cast(), (3 * torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])))
    with pytest.raises(ValueError, match=r"computed in torch\.bfloat16.*Take autocast"):
        hessian(problem)


def test_the_symmetric_wrong_block_of_weight_norm_is_found() -> None:
    """With one input, the curvature by the direction is wrong and symmetric; the loss does not depend on it."""
    torch.manual_seed(0)
    layers = [parametrizations.weight_norm(nn.Linear(1, 4)), nn.Tanh(), nn.Linear(4, 3)]
    problem = classes(nn.Sequential(*layers), 1)
    direction = "0.parametrizations.weight.original1"
    with pytest.raises(ValueError, match=r"central differences.*weight_norm is wrong"):
        hessian(problem, parameters=direction)
    assert gauss_newton(problem, parameters=direction).dense().abs().max() < 1e-15
    hessian(problem, parameters="2")


BAD: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "complex": (
        lambda: nn.Linear(4, 3).to(torch.complex128),
        "real matrix, but weight, bias is torch.complex128",
    ),
    "lazy": (lambda: nn.LazyLinear(3), "weight, bias of a lazy module have no shape yet. Run the model once"),
    "empty": (lambda: nn.Linear(4, 0), "at least one entry, but weight, bias hold none"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore:Initializing zero", "ignore:Lazy modules", "ignore:Complex modules")
def test_parameters_of_which_there_is_no_real_matrix_are_refused(kind: str) -> None:
    model, sentence = BAD[kind]
    with pytest.raises(ValueError, match=sentence):
        hessian((model(), (torch.randn(2, 4), torch.tensor([0, 1]))))


@pytest.mark.filterwarnings("error")
def test_complex_buffers_are_looked_at_whole() -> None:
    class Rotated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.register_buffer("turn", torch.ones(3, dtype=torch.complex128))

        def forward(self, x: Tensor) -> Tensor:
            return (self.layer(x) * self.turn).real + (self.layer(x) * self.turn).imag.square()

    problem = classes(Rotated(), 4)
    with hessian(problem) as operator:
        before = operator.dense()
        problem.model.turn.data.imag.fill_(0.5)
        after = operator.dense()
    assert (after - before).abs().max() > 1e-3
    assert_same_matrix(after, hessian(problem).dense())


def test_a_network_in_half_precision_is_followed() -> None:
    net = nn.Linear(4, 3).to(torch.bfloat16)
    problem = Problem(net, (torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])))
    with hessian(problem) as operator:
        before = operator.dense()
        with torch.no_grad():
            net.weight.mul_(8)
        after = operator.dense()
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, hessian(Problem(net, problem.data)).dense())
