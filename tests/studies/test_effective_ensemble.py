"""Gains of branches against forwards written out by hand, and the mixtures they imply against laws."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import NETWORKS, MultiResidual, Residual, mlp, stack
from scipy.stats import binom
from scipy.stats import t as student
from torch import nn

import gradscope as gs
from gradscope.problem import Problem
from gradscope.studies.effective_ensemble import effective_ensemble
from gradscope.theory import batch_norm_gains, initialisation_path_lengths, mean_path_length


def of(frame, quantity, **conditions):
    for column, wanted in conditions.items():
        frame = frame[frame[column] == wanted]
    return frame[frame["quantity"] == quantity]


def values(frame, quantity, **conditions):
    return of(frame, quantity, **conditions)["value"].to_numpy()


def study(name, **options):
    specimen = NETWORKS[name]
    return effective_ensemble((specimen.build(), specimen.inputs(6)), show=False, **options)


def rms(tensor):
    return [math.sqrt(float((row**2).mean())) for row in tensor]


def by_hand(name):
    """(branch, skip, weight of the last batch norm) of every block, by running the layers one by one."""
    specimen = NETWORKS[name]
    net, operands = specimen.build(), []
    x = net[1](net[0](specimen.inputs(6)))
    for block in net[2:8]:
        if name == "pre-activation":
            shared = block.norm(x).relu()
            branch = block.branch(shared)
            skip, last = (x if block.down is None else block.down(shared)), block.branch[1]
            x = skip + branch
        else:
            branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
            skip, last = (x if block.down is None else block.down(x)), block.bn2
            x = torch.relu(skip + branch)
        operands.append((branch.detach(), skip.detach(), last.weight.detach()))
    return operands


@pytest.mark.parametrize("name", ["post-activation", "out-of-place", "pre-activation", "frozen"])
def test_gains_and_scales_are_those_of_a_forward_written_out(name):
    frame = study(name)
    for index, (branch, skip, weight) in enumerate(by_hand(name)):
        ratios = np.array(rms(branch)) / np.array(rms(skip))
        half = student.ppf(0.975, 5) * ratios.std(ddof=1) / math.sqrt(6)
        row = of(frame, "branch_gain", index=index).iloc[0]
        expected = [ratios.mean(), max(0, ratios.mean() - half), ratios.mean() + half, 6]
        assert row[["value", "low", "high", "n"]].tolist() == pytest.approx(expected)
        sigma = math.sqrt(float(skip.var(dim=(0, 2, 3), correction=0).mean()))
        assert values(frame, "stream_scale", index=index) == pytest.approx(sigma)
        assert values(frame, "batch_norm_scale", index=index) == pytest.approx(float(weight.abs().mean()))
        beta = float(weight.abs().mean()) / sigma
        assert values(frame, "implied_beta", index=index, form="batch norm") == pytest.approx(beta)
    assert set(frame["status"]) == {"ok"} and set(values(frame, "open_share")) == {1.0}
    np.testing.assert_array_equal(values(frame, "branch_gain"), values(frame, "implied_beta", form="gain"))


def test_spread_over_channels_and_open_share_of_a_rectified_branch():
    class Rectified(nn.Module):
        """The paper's own block: x + scale * ReLU(BN(W x))."""

        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

        def forward(self, x):
            return x + torch.relu(self.norm(self.linear(x)))

    block = Rectified().double()
    block.norm.weight.data = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frame = effective_ensemble((block, x), show=False)
    assert set(frame["batch_norm"]) == {"frozen"}
    normed = block.linear(x)
    normed = (normed - normed.mean(0)) / (normed.var(0, correction=0) + 1e-5).sqrt() * block.norm.weight
    rho = float((normed > 0).double().mean())
    assert values(frame, "open_share") == pytest.approx(rho)
    assert values(frame, "batch_norm_scale") == 2 and of(frame, "batch_norm_scale")["n"].item() == 3
    assert values(frame, "batch_norm_scale_spread") == pytest.approx(math.sqrt(2 / 3))
    sigma = math.sqrt(float(x.var(0, correction=0).mean()))
    assert values(frame, "implied_beta", form="batch norm") == pytest.approx(rho * 2 / sigma)


def test_a_zero_initialised_last_layer_leaves_the_empty_path_alone():
    specimen = NETWORKS["post-activation"]
    model = specimen.build()
    for block in model[2:8]:
        nn.init.zeros_(block.bn2.weight)
        nn.init.zeros_(block.bn2.bias)
    frame = effective_ensemble((model, specimen.inputs()), show=False)
    assert (values(frame, "branch_gain") == 0).all() and (values(frame, "implied_beta") == 0).all()
    for form in ("gain", "batch norm"):
        for mixture in ("coherent", "incoherent"):
            assert values(frame, "path_share", form=form, mixture=mixture).tolist() == [1, *[0] * 6]
    assert (values(frame, "implied_peak_path_length") == 0).all() and (
        values(frame, "implied_path_length") == 0
    ).all()


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_equal_gains_make_a_binomial_ensemble(beta):
    """A scaled rotation has the gain beta on every example."""
    width, blocks = 5, 19
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential()
    for _ in range(blocks):
        rotation = nn.Linear(width, width, bias=False)
        random = torch.randn(width, width, generator=generator, dtype=torch.float64)
        rotation.weight.data = beta * torch.linalg.qr(random)[0]
        model.append(Residual(rotation))
    frame = effective_ensemble((model, torch.randn(7, width, dtype=torch.float64)), show=False)
    np.testing.assert_allclose(values(frame, "branch_gain"), beta, rtol=1e-9)
    coherent = {"form": "gain", "mixture": "coherent"}
    law = binom.pmf(range(blocks + 1), blocks, beta / (1 + beta))
    np.testing.assert_allclose(values(frame, "path_share", **coherent), law, rtol=1e-9)
    np.testing.assert_allclose(values(frame, "path_weight", **coherent), law / np.linalg.norm(law), rtol=1e-9)
    assert values(frame, "implied_path_length", **coherent) == pytest.approx(
        blocks * beta / (1 + beta), rel=1e-9
    )
    assert values(frame, "implied_peak_path_length", **coherent) == law.argmax()
    incoherent = {"form": "gain", "mixture": "incoherent"}
    weights = values(frame, "path_weight", **incoherent)
    np.testing.assert_allclose(weights**2, initialisation_path_lengths(np.full(blocks, beta**2)), rtol=1e-9)
    mean = values(frame, "implied_path_length_of_squares", **incoherent)
    assert mean == pytest.approx(blocks * beta**2 / (1 + beta**2), rel=1e-9)


def test_a_batch_norm_network_at_initialisation_follows_its_laws():
    """x + W relu(BN(x)): sigma^2 grows by 1 - 1/pi a block and the mean square by 1 (He initialisation)."""
    width, blocks = 128, 8
    torch.manual_seed(0)
    model = nn.Sequential()
    for _ in range(blocks):
        linear = nn.Linear(width, width, bias=False)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        model.append(Residual(nn.Sequential(nn.BatchNorm1d(width), nn.ReLU(), linear)))
    frame = effective_ensemble((model, torch.randn(256, width)), show=False)
    chi = batch_norm_gains(blocks)
    np.testing.assert_allclose(values(frame, "implied_beta", form="batch norm") ** 2, chi, rtol=0.08)
    squares = values(frame, "implied_beta", form="gain") ** 2
    np.testing.assert_allclose(squares, 1 / (1 + np.arange(blocks)), rtol=0.08)
    mean = values(frame, "implied_path_length_of_squares", form="batch norm", mixture="incoherent")
    assert mean == pytest.approx(mean_path_length(chi), rel=0.03)


@pytest.mark.parametrize("name", ["parallel transformer", "multi-residual", "Python sum"])
def test_gains_of_parallel_branches_add_in_the_blocks_polynomial(name):
    frame = study(name)
    product, squared = np.ones(1), np.ones(1)
    for index in range(3):
        gains = values(frame, "branch_gain", index=index)
        assert len(gains) == 2
        product = np.convolve(product, [1, gains.sum()])
        squared = np.convolve(squared, [1, (gains**2).sum()])
    shares = values(frame, "path_share", form="gain", mixture="coherent")
    np.testing.assert_allclose(shares, product / product.sum())
    weights = values(frame, "path_weight", form="gain", mixture="incoherent")
    np.testing.assert_allclose(weights**2, squared / squared.sum())


def test_operands_of_a_sum_of_three_are_told_apart():
    model = stack(lambda: MultiResidual(4), 1).double()
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frame = effective_ensemble((model, x), show=False)
    entering, block = model[1](model[0](x)), model[2]
    expected = [
        np.mean(np.array(rms(f(entering).detach())) / np.array(rms(entering.detach())))
        for f in (block.first, block.second)
    ]
    assert values(frame, "branch_gain").tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("add", "factor"),
    [
        (lambda x, f: torch.add(x, f, alpha=0.5), 0.5),
        (lambda x, f: torch.sub(x, f, alpha=3), 3),
        (lambda x, f: torch.add(f, x, alpha=2), 0.5),
        (lambda x, f: x - f, 1),
        (lambda x, f: torch.rsub(f, x, alpha=3), 3),
        (lambda x, f: torch.lerp(x, f, 0.2), 0.25),
        (lambda x, f: torch.stack([x, f]).sum(0), 1),
    ],
)
def test_what_is_added_counts_and_not_what_is_handed_over(add, factor):
    class Block(Residual):
        def forward(self, x):
            return add(x, self.branch(x))

    model = Block(mlp(4, 3, 4)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    plain = effective_ensemble((Residual(model.branch), x), show=False)
    frame = effective_ensemble((model, x), show=False)
    assert values(frame, "branch_gain") == pytest.approx(factor * values(plain, "branch_gain"))


def test_a_product_inside_of_the_sum_is_not_taken_for_a_branch():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.weight = nn.Linear(4, 3), nn.Parameter(torch.randn(3, 4))

        def forward(self, x):
            return torch.addmm(x, self.wide(x).tanh(), self.weight)

    frame = effective_ensemble((Fused(), torch.randn(5, 4)), show=False)
    assert of(frame, "branch_gain")["value"].isna().all() and of(frame, "path_share")["value"].isna().all()
    assert "multiplies before it adds" in of(frame, "branch_gain")["reason"].item()


@pytest.mark.parametrize("sizes", [(4, 2, 2), (1, 3, 4)])
@pytest.mark.parametrize("name", ["pre-activation", "multi-residual"])
def test_batches_are_pooled(name, sizes):
    specimen = NETWORKS[name]
    model, x = specimen.build(), specimen.inputs(8)
    whole = effective_ensemble((model, x), show=False)
    parts = effective_ensemble((model, list(x.split(sizes))), show=False)
    pd.testing.assert_frame_equal(whole, parts)
    assert set(of(parts, "stream_scale")["status"]) == {"ok"}


def test_a_stream_scale_needs_channels_that_are_numbers():
    def scale(*batches):
        frame = effective_ensemble((Residual(mlp(4, 3, 4)).double(), list(batches)), show=False)
        return of(frame, "stream_scale").iloc[0]

    x = torch.randn(3, 5, 4, dtype=torch.float64)
    assert scale(x, x, x)["value"] > 0
    assert "another number of them in another batch" in scale(x, x[:, :2], x)["reason"]
    assert scale(x, x * math.nan, x)["reason"] == "the skip operand holds NaN or infinity"
    assert scale(x[:1, 0])["reason"] == "one entry a channel has no spread"


def test_some_junctions_only():
    specimen = NETWORKS["pre-activation"]
    model, x = specimen.build(), specimen.inputs()
    found = gs.junctions(model, x)
    chosen = effective_ensemble((model, x), junctions=found[:2], show=False)
    named = effective_ensemble((model, x), junctions="[23]:0", show=False)
    pd.testing.assert_frame_equal(chosen, named)
    assert set(of(chosen, "branch_gain")["junction"]) == {"2:0", "3:0"}
    assert of(chosen, "path_share")["path_length"].max() == 2
    single = effective_ensemble((model, x), junctions=found[0], show=False)
    assert len(of(single, "branch_gain")) == 1


def test_junctions_inside_a_branch_have_gains_but_no_mixture():
    frame = study("long skip", junctions="*")
    assert len(of(frame, "branch_gain")) == 6 and of(frame, "branch_gain")["value"].gt(0).all()
    shares = of(frame, "path_share")
    assert set(shares["status"]) == {"undefined"} and shares["value"].isna().all()
    assert shares["reason"].str.contains("not passed one after the other").all()


def test_what_is_undefined_says_why():
    frame = study("pre-norm transformer")
    scales = of(frame, "batch_norm_scale")
    assert (
        set(scales["status"]) == {"undefined"} and scales["reason"].str.contains("no batch-norm layer").all()
    )
    assert of(frame, "path_share", form="batch norm")["reason"].str.contains("no batch-norm layer").all()
    assert set(of(frame, "path_share", form="gain")["status"]) == {"ok"}
    model = Residual(mlp(4, 3, 4)).double()
    zero = effective_ensemble((model, torch.zeros(3, 4, dtype=torch.float64)), show=False)
    assert "skip of some example is exactly zero" in of(zero, "branch_gain")["reason"].item()
    nothing = effective_ensemble((model, torch.full((3, 4), math.nan, dtype=torch.float64)), show=False)
    assert "NaN or infinity" in of(nothing, "branch_gain")["reason"].item()
    one = effective_ensemble((model, torch.ones(1, 4, dtype=torch.float64)), show=False)
    assert of(one, "branch_gain")["reason"].item() == "one ratio gives no interval"
    assert of(one, "stream_scale")["status"].item() == "undefined"


def test_rows_that_are_not_examples_give_one_ratio_a_batch():
    class Turned(Residual):
        def forward(self, x):
            return super().forward(x.transpose(0, 1)).transpose(0, 1)

    model = Turned(mlp(4, 3, 4)).double()
    frame = effective_ensemble((model, torch.randn(2, 5, 4, dtype=torch.float64)), show=False)
    row = of(frame, "branch_gain").iloc[0]
    assert row["n"] == 1 and math.isnan(row["low"]) and row["value"] > 0
    assert "not examples" in of(frame, "stream_scale")["reason"].item()


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_as_found(training):
    specimen = NETWORKS["post-activation"]
    model = used(specimen.build()).train(training)
    before = snapshot(model)
    effective_ensemble((model, specimen.inputs()), show=False)
    assert_as_found(model, before)


class Wavering(nn.Module):
    """Adds once more from its second call on, or fails there."""

    def __init__(self, fails):
        super().__init__()
        self.block, self.fails, self.norm = Residual(mlp(4, 3, 4)), fails, nn.BatchNorm1d(4)

    def forward(self, x):
        if len(x) == 2 and self.fails:
            raise KeyError("broken")
        x = self.block(self.norm(x))
        return x + x if len(x) == 2 else x


@pytest.mark.parametrize(
    ("fails", "error", "match"), [(False, RuntimeError, "take the same way"), (True, KeyError, "broken")]
)
def test_a_batch_that_goes_another_way_is_refused_and_leaves_nothing_behind(fails, error, match):
    model = used(Wavering(fails))
    batches = [torch.randn(n, 4) for n in (3, 3, 2)]
    before = snapshot(model)
    with pytest.raises(error, match=match):
        effective_ensemble((model, batches), show=False)
    assert_as_found(model, before)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("plain", {}, "Sequential has no residual junction, so it is one path"),
        ("highway", {}, "junctions of kind gated, but none"),
        ("highway", {"junctions": "2:0"}, "2:0 has not both. Choose identity"),
        ("long skip", {"junctions": "x*"}, "No junction matches 'x"),
        ("long skip", {"junctions": []}, "asks for none, but those of Sequential"),
    ],
)
def test_what_is_no_ensemble_is_refused(name, options, match):
    with pytest.raises(ValueError, match=match):
        study(name, **options)


def test_a_junction_of_another_network_is_refused():
    other = NETWORKS["tokens"]
    found = gs.junctions(other.build(), other.inputs())
    with pytest.raises(ValueError, match=r"asks for blocks.0:0, .* Take them from gs.junctions"):
        study("long skip", junctions=found[0])


def test_tokens_dictionaries_and_every_meaning_of_batch_norm_will_do():
    assert len(of(study("tokens"), "branch_gain")) == 2
    specimen = NETWORKS["post-activation"]
    model, x = specimen.build(), specimen.inputs()
    for mode in ("frozen", "running", "train"):
        frame = effective_ensemble(Problem(model, x, batch_norm=mode), show=False)
        assert set(frame["batch_norm"]) == {mode} and set(of(frame, "branch_gain")["status"]) == {"ok"}


def test_columns_stand_as_agreed():
    assert list(study("tokens").columns) == [
        *("batch_norm", "quantity", "unit", "form", "mixture", "junction", "kind", "index", "branch"),
        *("path_length", "value", "low", "high", "n", "status", "reason"),
    ]


def test_a_network_with_a_gate_on_it_can_be_looked_at():
    """What is added up to measure an operand is no addition of the network's; what a gate makes of it comes after."""
    specimen = NETWORKS["post-activation"]
    model, x = specimen.build(), specimen.inputs()
    found = list(gs.junctions(model, x))
    pair = model, (x, specimen.targets())
    with gs.scale_branches(model, found, 0.5):
        halved = effective_ensemble(pair)
    whole = effective_ensemble(pair)

    def first_gain(frame):
        rows = frame.query("quantity == 'implied_beta' and form == 'gain'")
        return float(rows["value"].iloc[0])

    assert first_gain(halved) == pytest.approx(first_gain(whole))
    assert not halved["value"].equals(whole["value"])


class TwoSkips(nn.Module):
    """x + F(x) + tanh(x): the skip is two operands."""

    def __init__(self):
        super().__init__()
        self.branch = mlp(3, 3)

    def forward(self, x):
        return x + self.branch(x) + torch.tanh(x)


def test_blocks_whose_skip_is_several_operands_are_refused():
    model = nn.Sequential(TwoSkips(), TwoSkips()).double()
    problem = Problem(model, (torch.ones(2, 3, dtype=torch.float64), torch.tensor([0, 2])))
    with pytest.raises(ValueError, match=r"of 0:0, 1:0 several operands are the skip"):
        effective_ensemble(problem)
    with pytest.raises(ValueError, match="no residual junction with one skip and a branch"):
        gs.refinement_study(problem, show=False)
    found = list(gs.junctions(model, problem.first_batch()[0]))
    with pytest.raises(ValueError, match="one skip operand"):
        gs.refinement_study(problem, junctions=found, show=False)
    with pytest.raises(ValueError, match=r"got '\*'; write gs.junctions\(model, x\).matching"):
        gs.refinement_study(problem, junctions="*", show=False)
