"""The observer of curvature along training, against dense Hessians and against laws of stability."""

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from cases import CASES, batch_norm_net, residual_net
from dense_curvature import dense_gradient, dense_hessian, loss_of
from observed_nets import batch, moved, net, values
from torch import nn

from gradscope.curvature.hessian import hessian
from gradscope.curvature.preconditioning import adam_diagonal
from gradscope.problem import Problem
from gradscope.studies.curvature.stability import stability_limit
from gradscope.studies.curvature_observer import COLUMNS, CurvatureObserver


@pytest.mark.parametrize("dense", [False, True])
def test_all_numbers_match_the_dense_hessian(dense):
    model = net()
    problem = Problem(model, batch())
    exact = torch.linalg.eigvalsh(dense_hessian(problem))
    observer = CurvatureObserver(batch(), k=5, learning_rate=0.5, dense=dense, tolerance=1e-7)
    observer(model, 0)
    frame = observer.frame()
    found = values(frame)
    assert list(frame) == COLUMNS
    assert found["loss"] == pytest.approx(loss_of(problem).item(), rel=1e-12)
    assert found["gradient_norm"] == pytest.approx(float(dense_gradient(problem).norm()), rel=1e-10)
    largest, smallest, fifth = exact[-1].item(), exact[0].item(), exact[-5].item()
    assert found["lambda_max"] == pytest.approx(largest, rel=1e-6)
    assert found["lambda_min"] == pytest.approx(smallest, rel=1e-6)
    assert found["negative_ratio"] == pytest.approx(-smallest / largest, rel=1e-6)
    assert found["top_ratio"] == pytest.approx(largest / fifth, rel=1e-6)
    assert found["learning_rate_product"] == pytest.approx(0.5 * largest, rel=1e-6)
    ranks = frame[frame["quantity"] == "eigenvalue"].set_index("rank")["value"]
    expected = {place + 1: exact[-1 - place].item() for place in range(5)}
    expected |= {-place - 1: exact[place].item() for place in range(5)}
    assert dict(ranks) == pytest.approx(expected, rel=1e-5)
    sizes = exact.abs()
    if dense:
        tenth = float(torch.quantile(sizes, 0.1))
        if tenth > 1e-12:
            assert found["percentile_10"] == pytest.approx(sizes.max().item() / tenth, rel=1e-4)
        (share,) = frame[frame["quantity"] == "share_negative"].to_dict("records")
        noise = 1e-12 * largest
        assert share["value"] == pytest.approx(float((exact < -noise).double().mean()))
        assert share["low"] <= float((exact < 0).double().mean()) <= share["high"]
        assert found["products"] == len(exact)
    else:
        assert 1 <= found["kappa_lower"] <= sizes.max().item() / sizes.min().item()


@pytest.mark.parametrize("dense", [False, True])
def test_maxima_of_blocks_are_those_of_diagonal_blocks(dense):
    model = net()
    matrix = dense_hessian(Problem(model, batch()))
    observer = CurvatureObserver(batch(), blocks="layer", dense=dense, tolerance=1e-6)
    observer(model, 0)
    frame = observer.frame()
    rows = frame[frame["quantity"] == "block_lambda_max"].set_index("block")["value"]
    cuts = {"0": slice(0, 25), "2": slice(25, 49), "4": slice(49, 64)}
    expected = {name: torch.linalg.eigvalsh(matrix[cut, cut])[-1].item() for name, cut in cuts.items()}
    assert dict(rows) == pytest.approx(expected, rel=1e-5)


def test_weight_decay_shifts_and_parameters_restrict():
    model = net()
    plain, shifted = (CurvatureObserver(batch(), weight_decay=decay, tolerance=1e-7) for decay in (0.0, 0.25))
    head = CurvatureObserver(batch(), parameters="4", tolerance=1e-7)
    for observer in (plain, shifted, head):
        observer(model, 0)
    assert values(shifted.frame())["lambda_max"] == pytest.approx(values(plain.frame())["lambda_max"] + 0.25)
    problem = Problem(model, batch())
    expected = torch.linalg.eigvalsh(dense_hessian(problem)[49:, 49:])[-1].item()
    assert values(head.frame())["lambda_max"] == pytest.approx(expected, rel=1e-5)
    assert values(head.frame())["gradient_norm"] == pytest.approx(float(dense_gradient(problem)[49:].norm()))


def wide():
    return nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 3))


def test_warm_starts_save_products_and_give_the_same_values():
    model = net(wide)
    observer, cold = (CurvatureObserver(batch(), every=1, k=5) for _ in range(2))
    observer(model, 0)
    moved(model, 1e-4)
    observer(model, 1)
    cold(model, 1)
    warm, fresh = values(observer.frame(), 1), values(cold.frame(), 1)
    assert warm["products"] < fresh["products"]
    assert warm["lambda_max"] == pytest.approx(fresh["lambda_max"], rel=1e-3)
    assert warm["lambda_min"] == pytest.approx(fresh["lambda_min"], rel=1e-2)


def test_products_are_those_of_the_operators(monkeypatch):
    counted = []
    model = net()

    def counting(*arguments, **options):
        operator = hessian(*arguments, **options)
        apply = operator._apply

        def seen(rows):
            counted.append(len(rows))
            return apply(rows)

        operator._apply = seen
        return operator

    monkeypatch.setattr("gradscope.studies.curvature_observer.hessian", counting)
    observer = CurvatureObserver(batch())
    observer(model, 0)
    assert values(observer.frame())["products"] == sum(counted)


def test_a_direction_that_overtakes_is_found_from_a_warm_start():
    """Two parameters that do not meet: the second's curvature grows past that of the first."""

    class Separate(nn.Module):
        def __init__(self):
            super().__init__()
            self.factors = nn.Parameter(torch.zeros(6, dtype=torch.float64))
            self.register_buffer("scales", torch.tensor([3.0, 1.0, 0.5, 0.2, 0.1, 0.05], dtype=torch.float64))

        def forward(self, x):
            return x * self.factors * self.scales.sqrt()

    model, inputs = Separate(), torch.ones(1, 6, dtype=torch.float64)
    observer = CurvatureObserver((inputs, inputs), every=1, loss="half_squared_error")
    observer(model, 0)
    model.scales[4] = 10.0
    observer(model, 1)
    frame = observer.frame()
    assert values(frame, 0)["lambda_max"] == pytest.approx(3.0, rel=1e-3)
    assert values(frame, 1)["lambda_max"] == pytest.approx(10.0, rel=1e-3)


def test_unconverged_values_say_so_with_bounds():
    model = net(residual_net)
    observer = CurvatureObserver(batch(), max_products=6, learning_rate=0.1)
    observer(model, 0)
    frame = observer.frame()
    exact = torch.linalg.eigvalsh(dense_hessian(Problem(model, batch())))
    row = frame[frame["quantity"] == "lambda_min"].iloc[0]
    assert row["status"] == "unconverged"
    assert "products" in row["reason"]
    assert bool(((row["low"] <= exact) & (exact <= row["high"])).any())
    ratio = frame[frame["definition"] == "negative_ratio"].iloc[0]
    assert ratio["status"] == "unconverged"


def test_a_schedule_is_asked_for_the_rate_of_each_step():
    model = net()
    observer = CurvatureObserver(batch(), every=2, learning_rate=lambda step: 0.1 / (1 + step))
    for step in range(4):
        observer(model, step)
    rates = [values(observer.frame(), step)["learning_rate"] for step in (0, 2)]
    assert rates == pytest.approx([0.1, 0.1 / 3])
    first = values(observer.frame(), 2)
    assert first["learning_rate_product"] == pytest.approx(rates[1] * first["lambda_max"])


def test_the_limit_is_told_in_a_row():
    observer = CurvatureObserver(batch(), learning_rate=0.1, momentum=0.9, nesterov=True)
    observer(net(), 0)
    assert values(observer.frame())["stability_limit"] == pytest.approx(3.8 / 2.8)
    none = CurvatureObserver(batch())
    none(net(), 0)
    assert not {"learning_rate", "learning_rate_product", "stability_limit"} & set(none.frame()["quantity"])


@pytest.mark.parametrize("dense", [False, True])
def test_with_adams_diagonal_values_and_limit_are_those_of_the_preconditioned_hessian(dense):
    model = net()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)

    def diagonal(step):
        return adam_diagonal(optimiser, model) if step else None

    about = {"learning_rate": 1e-2, "momentum": 0.9, "blocks": "layer", "dense": dense, "tolerance": 1e-7}
    observer = CurvatureObserver(batch(), every=1, precondition=diagonal, **about)
    problem = Problem(model, batch())
    for step in range(3):
        observer(model, step)
        if step == 2:
            break
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(batch()[0]), batch()[1]).backward()
        optimiser.step()
    flat = torch.cat([part.flatten() for part in adam_diagonal(optimiser, model).values()])
    scaled = dense_hessian(problem) / flat.sqrt()[:, None] / flat.sqrt()
    frame = observer.frame()
    assert sorted(set(frame["step"])) == [1, 2] and set(frame["precondition"]) == {"diagonal"}
    found, top = values(frame, 2), torch.linalg.eigvalsh(scaled)[-1].item()
    assert found["lambda_max"] == pytest.approx(top, rel=1e-6)
    assert found["learning_rate_product"] == pytest.approx(1e-2 * top, rel=1e-6)
    assert found["stability_limit"] == pytest.approx(38)
    first = sum(parameter.numel() for parameter in list(model.parameters())[:2])
    (block,) = frame[(frame["step"] == 2) & (frame["quantity"] == "block_lambda_max")]["value"].iloc[:1]
    assert block == pytest.approx(torch.linalg.eigvalsh(scaled[:first, :first])[-1].item(), rel=1e-6)


def test_a_running_mean_of_gradients_is_stable_up_to_its_limit():
    """Adam's steps with its diagonal held still, on a quadratic, a little below and above."""
    for share, stable in ((0.99, True), (1.01, False)):
        rate, place, mean = share * stability_limit(0.9, averaged=True), 1.0, 0.0
        for _ in range(4000):
            mean = 0.9 * mean + 0.1 * place
            place -= rate * mean
        assert (abs(place) < 1) == stable


@pytest.mark.parametrize("mode", ["train", "frozen", "running"])
def test_the_mode_of_batch_norm_is_told_and_used(mode):
    model = batch_norm_net(calibrated=True).train()
    observer = CurvatureObserver(batch(), batch_norm=mode, tolerance=1e-7)
    observer(model, 0)
    frame = observer.frame()
    assert set(frame["batch_norm"]) == {mode}
    expected = torch.linalg.eigvalsh(dense_hessian(Problem(model, batch(), batch_norm=mode)))[-1].item()
    assert values(frame)["lambda_max"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dense", [False, True])
def test_the_model_is_as_found(dense):
    model = used(batch_norm_net(calibrated=True).train())
    model[2].eval()
    observer = CurvatureObserver(batch(), blocks="layer", dense=dense)
    before = snapshot(model)
    observer(model, 0)
    assert_as_found(model, before)


@pytest.mark.parametrize("forward", [1, 2, 3])
def test_the_model_is_as_found_also_when_it_raises(forward):
    model, calls = used(batch_norm_net(calibrated=True).train()), []

    def loud(network, inputs):
        calls.append(1)
        if len(calls) == forward:
            raise KeyboardInterrupt
        return network(inputs)

    observer = CurvatureObserver(batch(), forward=loud)
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        observer(model, 0)
    assert_as_found(model, before)
    assert observer.frame().empty


def test_data_of_several_batches_is_one_loss():
    problem = CASES["short last batch"]()
    observer = CurvatureObserver(problem.data, tolerance=1e-7)
    observer(problem.model, 0)
    expected = torch.linalg.eigvalsh(dense_hessian(problem))[-1].item()
    assert values(observer.frame())["lambda_max"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"every": 0}, "every >= 1"),
        ({"k": 0}, "k >= 1"),
        ({"tolerance": 0.0}, "tolerance > 0"),
        ({"momentum": 1.0}, "momentum lies in"),
        ({"momentum": 0.9, "nesterov": True, "precondition": torch.ones(3)}, "no limit for Nesterov"),
        ({"batch_norm": "own"}, "batch_norm of a CurvatureObserver is one of"),
    ],
    ids=str,
)
def test_bad_options_are_told(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        CurvatureObserver(batch(), **options)


def test_bad_rates_and_too_large_matrices_are_told_when_measured():
    with pytest.raises(ValueError, match="positive at every step that is measured"):
        CurvatureObserver(batch(), learning_rate=lambda step: 0.0)(net(), 0)
    wide = nn.Linear(80, 80, bias=False)
    data = torch.randn(2, 80), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="P = 6400 is over 5000"):
        CurvatureObserver(data, dense=True)(wide, 0)
