"""`fit(paths=...)`: an ordinary training option, that resumes bit for bit and leaves nothing behind."""

import pytest
import torch
from as_found import HOOKS
from networks import Residual, mlp
from torch import nn

from gradscope.instruments.junctions import junctions
from gradscope.training import exact_blocks, fit, predict, random_depth, short_paths

EXAMPLES, BLOCKS = 20, 4
OPTIONS = {"epochs": 3, "batch_size": 8, "learning_rate": 0.05, "weight_decay": 0.01}


def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(EXAMPLES, 3, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (EXAMPLES,), generator=generator)


def network(seed=0, dropout=0.3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        blocks = [Residual(nn.Sequential(nn.BatchNorm1d(4), mlp(4, 3, 4))) for _ in range(BLOCKS)]
        return nn.Sequential(nn.Linear(3, 4), nn.Dropout(dropout), *blocks, nn.Linear(4, 3)).double()


def assert_same(first, second, exactly):
    for (name, value), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        if exactly:
            assert torch.equal(value, other), name
        else:
            torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-12, msg=name)


def trained(paths, **options):
    model = network()
    fit(model, data(), **OPTIONS | options, paths=paths)
    return model


@pytest.fixture(scope="module")
def ordinary():
    return trained(None)


def test_all_lengths_are_ordinary_training(ordinary):
    assert_same(trained(short_paths(BLOCKS)), ordinary, exactly=False)


def test_all_blocks_are_ordinary_training(ordinary):
    assert_same(trained(exact_blocks(BLOCKS)), ordinary, exactly=True)
    assert_same(trained(random_depth(1.0)), ordinary, exactly=True)


PATHS = [short_paths(1), exact_blocks(2), random_depth(0.5), random_depth(0.5, rescale="test", per="example")]


@pytest.mark.parametrize("paths", PATHS, ids=str)
def test_fewer_paths_are_another_training(paths, ordinary):
    fewer = trained(paths)
    assert not torch.allclose(fewer[0].weight, ordinary[0].weight, atol=1e-6)


def test_length_zero_decays_the_weights_of_branches_and_nothing_else():
    """A zero gradient leaves weight decay alone at work, w <- (1 - rate decay) w without momentum."""
    model = network()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    fit(
        model, data(), epochs=2, batch_size=10, learning_rate=0.1, momentum=0.0, weight_decay=0.01,
        schedule="constant", paths=short_paths(0),
    )  # fmt: skip
    for name, weight in model.named_parameters():
        decayed = before[name] * (1 - 0.1 * 0.01) ** 4
        assert torch.allclose(weight, decayed, rtol=1e-12, atol=0) == (".branch." in name), name


class Stop(Exception):
    pass


@pytest.mark.parametrize("paths", PATHS, ids=str)
@pytest.mark.parametrize("step", [0, 2, 4])
def test_an_interrupted_training_ends_with_the_same_bits(tmp_path, paths, step):
    def stop(model, now):
        if now == step:
            raise Stop

    path = tmp_path / "training.safetensors"
    interrupted = network()
    with pytest.raises(Stop):
        fit(interrupted, data(), **OPTIONS, paths=paths, checkpoint=path, observe=stop)
    assert_no_hooks(interrupted)
    torch.rand(5)
    resumed = network(seed=9)
    fit(resumed, data(), **OPTIONS, paths=paths, checkpoint=path)
    assert_same(resumed, trained(paths), exactly=True)
    assert_no_hooks(resumed)


def assert_no_hooks(model):
    for name, module in model.named_modules():
        assert not any(getattr(module, hooks) for hooks in HOOKS), name
    assert torch._C._len_torch_function_stack() == 0


def test_a_checkpoint_of_other_paths_is_refused_by_name(tmp_path):
    path = tmp_path / "training.safetensors"
    fit(network(), data(), **OPTIONS, paths=short_paths(1), checkpoint=path)
    for paths, asked in [
        (short_paths(2), r"short_paths\(2, junctions=None\)"),
        (None, "None"),
        (exact_blocks(1, seed=3), r"exact_blocks\(1, junctions=None, seed=3\)"),
        (short_paths(1, junctions=junctions(network(), data()[0])[1:]), r"junctions=\['3:0', '4:0', '5:0'\]"),
    ]:
        with pytest.raises(ValueError, match=r"paths=short_paths\(1, junctions=None\) \(asked: .*" + asked):
            fit(network(), data(), **OPTIONS, paths=paths, checkpoint=path)


def test_a_finished_checkpoint_gives_its_weights_at_once(tmp_path):
    path = tmp_path / "training.safetensors"
    first, second = network(), network(seed=1)
    fit(first, data(), **OPTIONS, paths=exact_blocks(2), checkpoint=path)
    fit(second, data(), **OPTIONS, paths=exact_blocks(2), checkpoint=path)
    assert_same(first, second, exactly=True)


def test_testing_is_by_the_convention_of_the_option():
    """By Huang's convention branches are scaled in eval mode, so the trained model is tested inside the block."""
    paths, model, asked = random_depth(0.2, rescale="test"), network(), []
    fit(model, data(), **OPTIONS, paths=paths, observe=lambda now, _: asked.append(predict(now, data()[0])))
    alone = predict(model, data()[0])
    with paths.around(model, data()[0]):
        inside = predict(model, data()[0])
    assert torch.equal(asked[-1], inside)
    assert not torch.allclose(inside, alone)


def test_mistakes_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"paths is gs\.short_paths"):
        fit(network(), data(), paths=5)
    plain = nn.Sequential(nn.Linear(3, 3)).double()
    before = plain[0].weight.clone()
    for paths in PATHS:
        with pytest.raises(ValueError, match="no residual junction on this batch"):
            fit(plain, data(), paths=paths, checkpoint=tmp_path / "training.safetensors")
    assert not any(tmp_path.iterdir())
    assert torch.equal(plain[0].weight, before)
    assert_no_hooks(plain)
    with pytest.raises(ValueError, match="Ask for 0 to 4"):
        fit(network(), data(), paths=short_paths(5))


def test_several_observers_see_every_step():
    seen = []
    fit(
        network(), data(), **OPTIONS,
        observe=[lambda model, step: seen.append((1, step)), lambda model, step: seen.append((2, step))],
    )  # fmt: skip
    assert seen == [(which, step) for step in range(10) for which in (1, 2)]
