"""What misleads in path spectra: one case for each way to be misled."""

import pytest
import torch
from networks import Residual
from torch import nn

import gradscope as gs


def scaling(factor: float) -> nn.Module:
    """c x, of one number."""
    layer = nn.Linear(1, 1, bias=False).double()
    layer.weight.data.fill_(factor)
    return layer


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def at_length(frame, quantity, length, column="value"):
    rows = frame[(frame["quantity"] == quantity) & (frame["path_length"] == length)]
    return rows[column].iloc[0]


def test_a_few_sampled_paths_miss_the_few_that_matter():
    """Gains of e^(2 z): most paths are far below the mean norm, which one in hundreds makes up."""
    gains = (2 * torch.randn(12, dtype=torch.float64)).exp()
    model = nn.Sequential(*(Residual(scaling(float(gain))) for gain in gains))
    problem = gs.Problem(model, (torch.ones(1, 1, dtype=torch.float64), torch.zeros(1)), lambda o, t: o[:, 0])
    product = [torch.ones((), dtype=torch.float64)]
    for gain in gains:
        product = [
            (product[k] if k < len(product) else 0) + (gain * product[k - 1] if k else 0)
            for k in range(len(product) + 1)
        ]
    total = float(product[4])
    few = [gs.path_spectrum(problem, lengths=4, draws=0, sampled=6, seed=seed) for seed in range(15)]
    found = sorted(at_length(frame, "sampled_veit_product", 4) / total for frame in few)
    assert found[7] < 0.4, "the median of six paths"
    shares = sorted(at_length(frame, "largest_draw_share", 4) for frame in few)
    assert shares[7] > 0.6
    assert set(few[0][few[0]["n"] == 6]["reason"]) >= {"fewer than 8 paths give no interval"}
    more = [gs.path_spectrum(problem, lengths=4, draws=0, sampled=40, seed=seed) for seed in range(8)]
    held = [
        at_length(frame, "sampled_veit_product", 4, "low")
        <= total
        <= at_length(frame, "sampled_veit_product", 4, "high")
        for frame in more
    ]
    assert sum(held) >= 6
    # Each path has its sign to itself: of orthogonal paths all are seen at once, and here none is missed.
    signs = gs.path_spectrum(problem, lengths=4, draws=60)
    low, high = (at_length(signs, "squared_path_norms", 4, end) for end in ("low", "high"))
    squares = torch.tensor([1.0], dtype=torch.float64)
    for gain in gains:
        squares = torch.cat([squares, squares.new_zeros(1)]) + gain**2 * torch.cat(
            [squares.new_zeros(1), squares]
        )
    assert low <= float(squares[4]) <= high


def test_the_reduction_says_nothing_of_an_example_and_the_batch_is_what_its_worst_example_is():
    inputs = torch.randn(8, 4, dtype=torch.float64)
    model = nn.Sequential(Residual(nn.Linear(4, 4)), Residual(nn.Linear(4, 4)), nn.Linear(4, 3)).double()
    mean, total = (
        gs.Problem(model, (inputs, torch.arange(8) % 3), reduction=reduction) for reduction in ("mean", "sum")
    )
    one, other = (gs.path_spectrum(p, norms="example", sampled=2) for p in (mean, total))
    assert one["value"].tolist() == pytest.approx(other["value"].tolist(), rel=1e-9, nan_ok=True)
    small, large = (gs.path_spectrum(p, draws=0) for p in (mean, total))
    assert at_length(large, "coherent_norm", 1) == pytest.approx(8 * at_length(small, "coherent_norm", 1))
    # All but the first example are right with a margin, so that their losses have hardly any gradient.
    logits = model(inputs).detach()
    confident = logits.argmax(dim=1)
    confident[0] = logits[0].argmin()
    model[2].weight.data *= 50
    model[2].bias.data *= 50
    problem = gs.Problem(model, (inputs, confident))
    first = gs.Problem(model, (inputs[:1], confident[:1]))
    batch, worst = (gs.path_spectrum(p, draws=0) for p in (problem, first))
    assert at_length(batch, "signed_share", 1) == pytest.approx(at_length(worst, "signed_share", 1), abs=0.05)
    spread = {}
    for source in ("loss", "margin"):
        sizes = [
            at_length(
                gs.path_spectrum(
                    gs.Problem(model, (inputs[row : row + 1], confident[row : row + 1])),
                    draws=0,
                    source=source,
                ),
                "coherent_norm",
                0,
            )
            for row in range(8)
        ]
        spread[source] = max(sizes) / min(sizes)
    assert spread["loss"] > 1e3 and spread["margin"] < 10


def test_trained_networks_have_parallel_paths_and_gradients_near_the_end_of_floats():
    inputs = torch.randn(60, 8)
    targets = (inputs[:, 0] > 0).long()

    def branch():
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))

    model = nn.Sequential(*(Residual(branch()) for _ in range(6)), nn.Linear(8, 2))
    before = gs.path_spectrum((model, (inputs, targets)), draws=16)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimiser.step()
    after = gs.path_spectrum((model, (inputs, targets)), draws=16)
    assert at_length(before, "coherence", 3, "low") < 1.5
    assert at_length(after, "coherence", 3) > 2 * at_length(before, "coherence", 3)
    model[-1].weight.data *= 30
    with torch.no_grad():
        right = model(inputs).softmax(dim=1).gather(1, targets[:, None]).min()
    assert right > 0.99
    confident = gs.path_spectrum((model, (inputs, targets)), draws=0)
    margin = gs.path_spectrum((model, (inputs, targets)), draws=0, source="margin")
    assert set(margin["status"]) == {"ok"}
    ratio = at_length(confident, "coherent_norm", 0) / at_length(margin, "coherent_norm", 0)
    assert ratio < 1e-3 or confident["status"].eq("undefined").any()
