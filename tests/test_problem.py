"""Problems: what data and losses mean, and what is refused."""

import numpy
import pytest
import torch
from as_found import assert_as_found, snapshot
from networks import NETWORKS, mlp
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gradscope.data import DataSet
from gradscope.problem import Problem, as_problem


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return mlp(4, 5, 3).double()


def pair(n: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 4, generator=generator, dtype=torch.float64), torch.randint(
        0, 3, (n,), generator=generator
    )


def whole(problem: Problem) -> torch.Tensor:
    return sum(problem.value(*batch) for batch in problem.batches())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("sizes", [(7,), (3, 3, 1), (1, 6)])
def test_batches_add_up_to_the_whole_whatever_their_sizes(sizes, reduction):
    model, (x, y) = net(), pair()
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    expected = functional.cross_entropy(model(x), y, reduction=reduction)
    problem = Problem(model, batches, reduction=reduction)
    torch.testing.assert_close(whole(problem), expected)
    assert problem.examples == 7


@pytest.mark.parametrize(
    "make",
    [
        lambda x, y: (x, y),
        lambda x, y: [x, y],
        lambda x, y: [(x[:4], y[:4]), (x[4:], y[4:])],
        lambda x, y: DataLoader(TensorDataset(x, y), batch_size=3),
        lambda x, y: DataSet("seven", (x, y), (x, y), 3, ""),
        lambda x, y: {"input": x, "labels": y},
        lambda x, y: [{"input": x[:4], "labels": y[:4]}, {"input": x[4:], "labels": y[4:]}],
        lambda x, y: ({"input": x}, y),
    ],
    ids=["pair", "list pair", "batches", "loader", "data set", "dict", "dict batches", "dict inputs"],
)
def test_every_form_of_data_means_the_same(make):
    x, y = pair()
    expected = functional.cross_entropy(net()(x), y)
    torch.testing.assert_close(whole(Problem(net(), make(x, y))), expected)


@pytest.mark.parametrize(
    "inputs",
    [torch.randn(7, 4), torch.arange(28).reshape(7, 4), torch.randn(7)],
    ids=["numbers", "tokens", "one number each"],
)
@pytest.mark.parametrize("first", [4, 3], ids=["of other sizes", "the second larger"])
def test_a_list_of_two_tensors_alike_is_two_batches(inputs, first):
    problem = Problem(nn.Identity(), [inputs[:first], inputs[first:]])
    assert problem.examples == 7 and [target for _, target in problem.batches()] == [None, None]
    assert torch.equal(torch.cat([x for x, _ in problem.batches()]), inputs)


def test_of_two_tensors_of_one_shape_a_list_is_two_batches_and_a_tuple_inputs_and_targets():
    x, y = torch.randn(8, 4).split(4)
    assert Problem(nn.Identity(), [x, y]).examples == 8
    autoencoder = Problem(nn.Identity(), (x, y), "half_squared_error")
    assert autoencoder.examples == 4 and autoencoder.losses(x, y).shape == (4,)
    with pytest.raises(ValueError, match=r"Pass data=\(x, y\), a tuple: two tensors alike in a list are two"):
        Problem(nn.Identity(), [x, y], "half_squared_error").losses(x, None)


def test_batches_of_a_loader_and_training_pairs_are_inputs_and_targets_however_alike():
    x = torch.randn(8, 4)
    loader = DataLoader(TensorDataset(x, 2 * x), batch_size=4)
    assert isinstance(next(iter(loader)), list)
    for data in (loader, DataSet("pairs", [x, 2 * x], (x, x), 4, "")):
        problem = Problem(nn.Identity(), data)
        assert problem.examples == 8
        assert all(torch.equal(targets, 2 * inputs) for inputs, targets in problem.batches())


def test_inputs_alone_will_do_until_a_loss_is_wanted():
    problem = Problem(net(), pair()[0])
    assert problem.outputs(problem.first_batch()[0]).shape == (7, 3)
    with pytest.raises(ValueError, match=r"the data has no targets. Pass data=\(x, y\)"):
        problem.losses(*problem.first_batch())


def test_a_shuffled_loader_costs_no_random_number():
    loader = DataLoader(TensorDataset(*pair()), batch_size=3, shuffle=True)
    model = net()
    before = snapshot(model)
    Problem(model, loader)
    assert_as_found(model, before)


def test_a_loader_is_read_once_when_the_problem_is_made_and_once_for_each_sweep():
    class Counting(list):
        reads = 0

        def __iter__(self):
            Counting.reads += 1
            return super().__iter__()

    x, y = pair()
    problem = Problem(net(), Counting([(x[:4], y[:4]), (x[4:], y[4:])]))
    Counting.reads = 0
    whole(problem)
    assert Counting.reads == 1


def test_half_squared_error_is_half_the_squared_distance():
    model, (x, _) = net(), pair()
    target = torch.ones(7, 3, dtype=torch.float64)
    expected = [sum((o - 1) ** 2 for o in row) / 2 for row in model(x).tolist()]
    losses = Problem(model, (x, target), "half_squared_error").losses(x, target)
    assert losses.tolist() == pytest.approx(expected)


def test_targets_that_would_broadcast_are_refused():
    model = nn.Linear(4, 1).double()
    x, _ = pair()
    problem = Problem(model, (x, torch.ones(7, dtype=torch.float64)), "half_squared_error")
    with pytest.raises(ValueError, match=r"shape \[7, 1\], got \[7\]. Reshape the targets"):
        problem.losses(*problem.first_batch())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("module", [nn.MSELoss, nn.SmoothL1Loss])
def test_a_loss_module_is_rebuilt_for_each_example(module, reduction):
    model, (x, _) = net(), pair()
    target = torch.zeros(7, 3, dtype=torch.float64)
    loss = module(reduction=reduction)
    problem = Problem(model, (x, target), loss, reduction="mean" if reduction == "mean" else "sum")
    assert problem.losses(x, target).shape == (7,)
    assert problem.loss_name == module.__name__ and loss.reduction == reduction
    torch.testing.assert_close(whole(problem), loss(model(x), target).sum())


def test_cross_entropy_modules_and_functions_agree_with_the_name():
    model, (x, y) = net(), pair()
    by_name = Problem(model, (x, y)).losses(x, y)

    def mine(output, target):
        return -output.log_softmax(1)[torch.arange(len(target)), target]

    torch.testing.assert_close(Problem(model, (x, y), nn.CrossEntropyLoss()).losses(x, y), by_name)
    problem = Problem(model, (x, y), mine)
    torch.testing.assert_close(problem.losses(x, y), by_name)
    assert problem.loss_name == "mine"


@pytest.mark.parametrize("loss", [functional.cross_entropy, lambda output, target: output.sum()])
def test_a_scalar_loss_is_refused_with_the_remedy(loss):
    problem = Problem(net(), pair(), loss)
    with pytest.raises(
        ValueError, match=r"one value per example, shape \[7\], got \[\]. Use reduction='none'"
    ):
        problem.losses(*problem.first_batch())


def test_logits_of_another_shape_are_refused():
    problem = Problem(nn.Identity(), (torch.randn(2, 5, 3), torch.zeros(2, dtype=torch.long)))
    with pytest.raises(ValueError, match=r"logits of shape \[N, classes\], the model returned \[2, 5, 3\]"):
        problem.losses(*problem.first_batch())


def test_structured_outputs_give_their_logits_or_need_a_forward():
    class Structured(nn.Module):
        def forward(self, x):
            return type("Output", (), {"logits": x * 2})()

    class Pair(nn.Module):
        def forward(self, x):
            return x, 2 * x

    x = torch.ones(2, 3)
    assert torch.equal(Problem(Structured(), x).outputs(x), x * 2)
    with pytest.raises(ValueError, match=r"returned tuple, but one tensor is needed. Pass forward=lambda"):
        Problem(Pair(), x).outputs(x)
    assert torch.equal(Problem(Pair(), x, forward=lambda model, given: model(given)[1]).outputs(x), 2 * x)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_on_a_copy(half):
    model = net().to(half)
    problem = Problem(model, pair())
    assert problem.model is not model and next(model.parameters()).dtype is half
    assert problem.dtype is torch.float32
    inputs, targets = problem.first_batch()
    assert problem.losses(inputs, targets).dtype is torch.float32
    for copied, original in zip(problem.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(copied, original.float())


def test_inputs_and_floating_targets_take_the_models_precision():
    x = torch.ones(2, 4, dtype=torch.float64)
    problem = Problem(net().float(), (x, torch.ones(2, 3, dtype=torch.float64)), "half_squared_error")
    inputs, targets = problem.first_batch()
    assert inputs.dtype is targets.dtype is problem.value(inputs, targets).dtype is torch.float32
    assert (
        Problem(NETWORKS["tokens"].build(), torch.zeros(2, 5, dtype=torch.long)).first_batch()[0].dtype
        is torch.long
    )


def test_prepared_is_eval_mode_with_batch_norm_as_asked_and_left_as_found():
    specimen = NETWORKS["post-activation"]
    model = specimen.build().train()
    problem = Problem(model, (specimen.inputs(), specimen.targets()))
    assert problem.batch_norm_name == "frozen"
    before = snapshot(model)
    with problem.prepared() as prepared:
        assert prepared is model and not any(module.training for module in model.modules())
        first = problem.value(*problem.first_batch())
        assert torch.equal(first, problem.value(*problem.first_batch()))
    assert_as_found(model, before)


def test_parameters_are_the_trainable_ones():
    model = net()
    model[0].weight.requires_grad_(False)
    assert list(Problem(model, pair()).parameters) == ["0.bias", "2.weight", "2.bias"]


def test_a_pair_of_model_and_data_is_a_problem():
    problem = as_problem((net(), pair()), reduction="sum")
    assert isinstance(problem, Problem) and problem.reduction == "sum" and as_problem(problem) is problem
    with pytest.raises(ValueError, match=r"got Sequential. Write Problem\(model, \(x, y\)\)"):
        as_problem(net())


X, Y = pair()


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        (("model", (X, Y)), {}, "model is an nn.Module, got str"),
        ((net(), iter([(X, Y)])), {}, r"read only once, .* Pass list\(data\)"),
        ((net(), ((X, Y) for _ in range(1))), {}, "read only once"),
        ((net(), []), {}, r"batches of \[\] examples"),
        ((net(), [(X[:0], Y[:0])]), {}, r"batches of \[0\] examples"),
        ((net(), (X, Y[:3])), {}, "7 inputs but 3 targets"),
        ((net(), None), {}, r"got NoneType. Write Problem\(model, \(x, y\)\)"),
        ((net(), 3), {}, "got int"),
        ((net(), [3]), {}, "A batch is .* got int"),
        ((net(), (numpy.ones((2, 4)), numpy.ones(2))), {}, "got ndarray"),
        ((net(), (X, Y), "hinge"), {}, "one of cross_entropy, half_squared_error or a function, got 'hinge'"),
        ((net(), (X, Y), 3), {}, "loss is a name, a module or f"),
        ((net(), (X, Y)), {"reduction": "max"}, "reduction is 'mean' or 'sum', got 'max'"),
        ((net(), (X, Y)), {"batch_norm": "eval"}, "one of auto, frozen, running, train, own, got 'eval'"),
    ],
)
def test_what_is_no_problem_is_refused(arguments, options, match):
    with pytest.raises(ValueError, match=match):
        Problem(*arguments, **options)


def test_a_problem_prints_what_it_is_made_of():
    problem = Problem(
        nn.Linear(4, 3), list(torch.ones(7, 4).split(3)), "half_squared_error", batch_norm="own"
    )
    assert repr(problem) == (
        "Problem(Linear, examples=7, batches=3, loss='half_squared_error', reduction='mean', batch_norm='own')"
    )
