"""Training: the steps are those of the textbook, and an interruption changes nothing."""

import math
import os
from itertools import chain

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradscope import nets
from gradscope.data import DataSet
from gradscope.training import COLUMNS, error, fit, predict


def tiny_data(examples=21, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(examples, 1, 4, 4, generator=generator, dtype=dtype)
    labels = torch.randint(0, 3, (examples,), generator=generator)
    return DataSet("tiny", (inputs, labels), (inputs[:6] + 0.1, labels[:6]), classes=3)


def tiny_network(seed=0, dropout=False):
    network = nets.build("resnet", depth=8, channels=1, classes=3, width=2, seed=seed)
    if dropout:
        network.stem = nn.Sequential(network.stem, nn.Dropout(0.3))
    return network


OPTIONS = {"epochs": 4, "batch_size": 8, "learning_rate": 0.05}


class Stop(Exception):
    pass


def stop_at(step):
    def observe(model, now):
        if now == step:
            raise Stop

    return observe


def same(first, second):
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_one_batch_is_gradient_descent_by_hand():
    """With the whole data in one batch the order does not matter, so the steps can be written out."""
    data = tiny_data(dtype=torch.float64)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    weight, bias = (p.detach().clone().requires_grad_() for p in network.parameters())
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    losses = []
    for _ in range(3):
        loss = F.cross_entropy(data.train[0].flatten(1) @ weight.T + bias, data.train[1])
        losses.append(loss.item())
        for p, v, gradient in zip(
            (weight, bias), velocity, torch.autograd.grad(loss, (weight, bias)), strict=True
        ):
            with torch.no_grad():
                gradient = gradient + 0.01 * p
                v.mul_(0.8).add_(gradient)
                p -= 0.3 * (gradient + 0.8 * v)
    history = fit(
        network, data, epochs=3, batch_size=50, learning_rate=0.3, momentum=0.8, weight_decay=0.01,
        schedule="constant",
    )  # fmt: skip
    torch.testing.assert_close(network[1].weight, weight)
    torch.testing.assert_close(network[1].bias, bias)
    assert history["train_loss"].tolist() == pytest.approx(losses)


def test_history_has_a_row_per_epoch():
    network, data = tiny_network(), tiny_data()
    history = fit(network, data, **OPTIONS)
    assert list(history) == COLUMNS
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert history["step"].tolist() == [3, 6, 9, 12]
    assert history["test_error"].iloc[-1] == error(network, data)
    assert not network.training
    assert all(weight.grad is None for weight in network.parameters())
    assert fit(tiny_network(), data.train, epochs=1)["test_error"].isna().all()


def test_training_learns_the_digits():
    from gradscope.data import digits

    data = digits()
    network = nets.build("plain_mlp", depth=2, width=64, inputs=64, seed=0)
    history = fit(network, data, epochs=5)
    assert history["test_error"].iloc[-1] < 0.06
    assert error(network, data.train) < 0.03


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1, 1, 1, 1]),
        ("cosine", [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]),
        ("one_cycle", [0.1, 0.55, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
    ],
)
def test_schedules(schedule, expected):
    data = tiny_data(examples=4)
    history = fit(tiny_network(), data.train, epochs=8, schedule=schedule, learning_rate=0.02)
    assert history["learning_rate"].tolist() == pytest.approx([0.02 * share for share in expected])


def test_every_example_is_met_once_an_epoch_in_batches_of_equal_size():
    met = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 100)

        def forward(self, x):
            met.append(x.flatten().tolist())
            return self.linear(x)

    inputs = torch.arange(100.0).reshape(100, 1)
    fit(Spy(), (inputs, torch.arange(100)), epochs=2, batch_size=33, learning_rate=1e-9, weight_decay=0.0)
    assert [len(batch) for batch in met] == [25] * 8
    first, second = list(chain(*met[:4])), list(chain(*met[4:]))
    assert sorted(first) == sorted(second) == inputs.flatten().tolist()
    assert first != second != sorted(second)


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("step", [0, 1, 3, 8, 12])
def test_an_interrupted_training_ends_with_the_same_bits(tmp_path, step, dropout):
    data = tiny_data()
    whole = tiny_network(dropout=dropout)
    history = fit(whole, data, **OPTIONS)
    path = tmp_path / "deep" / "training.safetensors"
    torch.manual_seed(step)
    with pytest.raises(Stop):
        fit(tiny_network(dropout=dropout), data, **OPTIONS, checkpoint=path, observe=stop_at(step))
    assert os.listdir(path.parent) == [path.name]
    torch.rand(5)
    resumed = tiny_network(seed=9, dropout=dropout)
    again = fit(resumed, data, **OPTIONS, checkpoint=path)
    same(whole, resumed)
    assert again.drop(columns="seconds").equals(history.drop(columns="seconds"))


def test_a_finished_checkpoint_gives_its_weights_at_once(tmp_path):
    data, path = tiny_data(), tmp_path / "training.safetensors"
    first, second = tiny_network(), tiny_network(seed=1)
    history = fit(first, data, **OPTIONS, checkpoint=path)
    written = path.read_bytes()
    asked = []
    again = fit(second, data, **OPTIONS, checkpoint=path, observe=lambda model, step: asked.append(step))
    same(first, second)
    assert again.equals(history)
    assert not asked
    assert not second.training
    assert path.read_bytes() == written


def test_keyboard_interrupt_leaves_the_last_whole_epoch(tmp_path):
    data, path = tiny_data(), tmp_path / "training.safetensors"
    kept = []

    def observe(model, step):
        kept.append(path.read_bytes())
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tiny_network(), data, **OPTIONS, checkpoint=path, observe=observe)
    assert path.read_bytes() == kept[-1] != kept[0]
    history = fit(tiny_network(), data, **OPTIONS, checkpoint=path)
    assert len(history) == 4


def test_a_failing_write_leaves_the_former_checkpoint(tmp_path, monkeypatch):
    data, path = tiny_data(), tmp_path / "training.safetensors"
    with pytest.raises(Stop):
        fit(tiny_network(), data, **OPTIONS, checkpoint=path, observe=stop_at(4))
    former = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fit(tiny_network(), data, **OPTIONS, checkpoint=path)
    assert path.read_bytes() == former
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 5}, r"epochs=4 \(asked: 5\)"),
        ({"learning_rate": 0.06}, r"learning_rate=0.05 \(asked: 0.06\)"),
        ({"seed": 1, "momentum": 0.5}, r"momentum=0.9 \(asked: 0.5\), seed=0 \(asked: 1\)"),
    ],
)
def test_a_checkpoint_of_other_options_is_refused_by_name(tmp_path, changed, message):
    data, path = tiny_data(), tmp_path / "training.safetensors"
    fit(tiny_network(), data, **OPTIONS, checkpoint=path)
    with pytest.raises(ValueError, match=message):
        fit(tiny_network(), data, **{**OPTIONS, **changed}, checkpoint=path)


def test_a_checkpoint_of_other_data_or_another_network_is_refused(tmp_path):
    path = tmp_path / "training.safetensors"
    fit(tiny_network(), tiny_data(), **OPTIONS, checkpoint=path)
    with pytest.raises(ValueError, match="of another training: another data"):
        fit(tiny_network(), tiny_data(examples=22), **OPTIONS, checkpoint=path)
    scaled = nets.build("resnet", depth=8, channels=1, classes=3, width=2, beta=0.5, seed=0)
    with pytest.raises(ValueError, match="of another training: another model"):
        fit(scaled, tiny_data(), **OPTIONS, checkpoint=path)


def test_a_damaged_or_foreign_file_is_refused_by_name(tmp_path):
    from safetensors.torch import save_file

    data, path = tiny_data(), tmp_path / "training.safetensors"
    fit(tiny_network(), data, **OPTIONS, checkpoint=path)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"training.safetensors is no whole safetensors file"):
        fit(tiny_network(), data, **OPTIONS, checkpoint=path)
    flipped = bytearray(content)
    flipped[-40] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"training.safetensors is damaged"):
        fit(tiny_network(), data, **OPTIONS, checkpoint=path)
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="no training checkpoint of this gradscope"):
        fit(tiny_network(), data, **OPTIONS, checkpoint=path)


def test_global_generators_are_left_alone():
    before = torch.get_rng_state()
    fit(tiny_network(dropout=True), tiny_data(), **OPTIONS, observe=lambda model, step: torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_observer_sees_every_step_and_changes_nothing():
    seen = []

    def observe(model, step):
        seen.append((step, model.training))
        model.eval()
        torch.rand(3)

    watched, alone = tiny_network(dropout=True), tiny_network(dropout=True)
    fit(watched, tiny_data(), **OPTIONS, observe=observe)
    fit(alone, tiny_data(), **OPTIONS)
    assert seen == [(step, True) for step in range(13)]
    same(watched, alone)


def test_frozen_parameters_stay():
    network = tiny_network()
    network.stem.weight.requires_grad_(False)
    before = network.stem.weight.clone()
    fit(network, tiny_data(), **OPTIONS)
    assert torch.equal(network.stem.weight, before)


def test_an_infinite_loss_stops_with_step_rate_and_remedy(tmp_path):
    data, path = tiny_data(), tmp_path / "training.safetensors"
    network = nets.build("plain_mlp", depth=6, width=32, inputs=16, outputs=3, seed=0)
    with pytest.raises(
        FloatingPointError, match=r"loss is (nan|inf) at step \d+, at learning rate .*smaller"
    ):
        fit(network, data, epochs=50, learning_rate=1e6, schedule="constant", checkpoint=path)
    inputs = data.train[0].clone()
    inputs[3] = math.nan
    network = tiny_network()
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    with pytest.raises(FloatingPointError, match=r"at step 0.*look for NaN in the data"):
        fit(network, (inputs, data.train[1]), batch_size=50)
    for name, weight in network.named_parameters():
        assert torch.equal(weight, before[name])
    assert os.listdir(tmp_path) == [path.name]


INPUTS, LABELS = tiny_data().train


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ((INPUTS, LABELS[:-1]), {}, "got 21 inputs and 20 labels"),
        ((INPUTS[:0], LABELS[:0]), {}, "nothing to train on"),
        ((INPUTS, F.one_hot(LABELS)), {}, r"labels are whole numbers \[N\]"),
        ((INPUTS, LABELS.float()), {}, "got torch.float32"),
        ((INPUTS, LABELS - 1), {}, "class numbers from 0; the lowest here is -1"),
        ((INPUTS, LABELS + 1), {}, "a class for every label up to 3"),
        ((INPUTS, LABELS), {"batch_size": 0}, "at least 1; got 10 and 0"),
        ((INPUTS, LABELS), {"epochs": 0}, "at least 1; got 0 and 64"),
        ((INPUTS, LABELS), {"learning_rate": -1.0}, "learning_rate > 0"),
        ((INPUTS, LABELS), {"momentum": 1.0}, "momentum in"),
        ((INPUTS, LABELS), {"weight_decay": math.nan}, "weight_decay >= 0"),
        (
            (INPUTS, LABELS),
            {"schedule": "linear"},
            "schedule is one of one_cycle, cosine, constant; got 'linear'",
        ),
    ],
)
def test_mistakes_are_told(data, options, message):
    with pytest.raises(ValueError, match=message):
        fit(tiny_network(), data, **options)


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="nothing to train"):
        fit(tiny_network().requires_grad_(False), tiny_data())


def test_predict_is_the_eval_output_and_sets_every_mode_back():
    network, data = tiny_network(), tiny_data()
    fit(network, data, **OPTIONS)
    whole = network(data.train[0])
    network.train()
    network.blocks[1].eval()
    modes = [module.training for module in network.modules()]
    torch.testing.assert_close(predict(network, data.train[0], batch_size=4), whole)
    assert [module.training for module in network.modules()] == modes
    wrong = [int(logits.argmax() != label) for logits, label in zip(whole, data.train[1], strict=True)]
    assert error(network, data.train) == sum(wrong) / len(wrong)
    assert not predict(network, data.train[0]).requires_grad
    with pytest.raises(ValueError, match="predict needs"):
        predict(network, data.train[0], batch_size=0)


def test_progress_is_drawn_only_when_asked(capsys):
    fit(tiny_network(), tiny_data(), **OPTIONS)
    assert capsys.readouterr().err == ""
    fit(tiny_network(), tiny_data(), **OPTIONS, progress=True)
    assert "training: 4/4" in capsys.readouterr().err


def test_batches_are_not_taken_for_a_pair():
    loader = torch.utils.data.DataLoader([(torch.zeros(2), 0), (torch.ones(2), 1)])
    with pytest.raises(ValueError, match=r"fit trains on a DataSet or on a pair .* got DataLoader"):
        fit(tiny_network(), loader)
