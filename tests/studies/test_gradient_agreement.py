"""Every row of the study against loops over single examples, and its reasons where there is no value."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from as_found import assert_as_found, snapshot, used
from cases import CASES
from torch import nn

from gradscope.gradients.layer_grams import LayerGram, LayerGrams, layer_grams
from gradscope.problem import Problem
from gradscope.studies import gradient_agreement as study
from gradscope.studies.agreement.readings import READ
from gradscope.studies.gradient_agreement import gradient_agreement
from gradscope.studies.gradient_cosines import gradient_cosines
from gradscope.studies.tangent_kernel_spectrum import tangent_kernel_spectrum


def per_example(problem: Problem, source: str) -> dict[str, np.ndarray]:
    """Gradients of every layer's own parameters, one backward pass of one example at a time."""
    x, y = (torch.cat(parts) for parts in zip(*problem.batches(), strict=True))
    rows: dict[str, list[np.ndarray]] = {}
    for i in range(len(x)):
        if source == "loss":
            value = problem.losses(x[i : i + 1], y[i : i + 1]).sum()
        else:
            value = problem.outputs(x[i : i + 1]).sum()
        for name, module in problem.model.named_modules():
            own = list(module.parameters(recurse=False))
            if own:
                grads = torch.autograd.grad(value, own, retain_graph=True)
                rows.setdefault(name, []).append(torch.cat([g.flatten() for g in grads]).numpy())
    return {name: np.stack(gradients) for name, gradients in rows.items()}


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def slowly(g: np.ndarray, labels: list[int]) -> dict[str, float]:
    n = len(g)
    pairs = list(itertools.combinations(range(n), 2))
    angles = {pair: cosine(g[pair[0]], g[pair[1]]) for pair in pairs}
    products = [g[i] @ g[j] for i, j in pairs]
    covariance = float(np.trace(np.cov(g.T)))
    square = float(np.sum(g.mean(axis=0) ** 2)) - covariance / n
    singular = np.linalg.svd(g, compute_uv=False)
    shares = singular[singular > 1e-7 * singular[0]] / singular.sum()
    squares = singular**2
    together = np.sum(g.sum(axis=0) ** 2)
    each = np.sum(g**2)
    same = np.equal.outer(labels, labels).astype(float)
    centre = np.eye(n) - 1 / n
    kernels = (g @ g.T, same), (centre @ g @ g.T @ centre, centre @ same @ centre)
    aligned = [np.sum(k * m) / np.linalg.norm(k) / np.linalg.norm(m) for k, m in kernels]
    return {
        "correlation_R": np.mean(products) / (each / n),
        "mean_cosine": np.mean(list(angles.values())),
        "median_cosine": np.median(list(angles.values())),
        "cosine_quantile_05": np.quantile(list(angles.values()), 0.05),
        "share_negative_cosines": np.mean([value < 0 for value in angles.values()]),
        "within_class_cosine": np.mean([v for (i, j), v in angles.items() if labels[i] == labels[j]]),
        "between_class_cosine": np.mean([v for (i, j), v in angles.items() if labels[i] != labels[j]]),
        "sign_stiffness": np.mean(np.sign(products)),
        "cosine_confusion": max(0.0, -min(angles.values())),
        "gradient_confusion": max(0.0, -min(products)),
        "stable_rank": squares.sum() / squares[0],
        "entropy_effective_rank": np.exp(-np.sum(shares * np.log(shares))),
        "participation_ratio": squares.sum() ** 2 / np.sum(squares**2),
        "gradient_diversity": each / together,
        "diversity_batch_bound": n * each / together,
        "m_coherence": together / each,
        "squared_gradient": square,
        "gradient_covariance_trace": covariance,
        "simple_noise_scale": covariance / square if square > 0 else math.nan,
        "label_alignment": aligned[0],
        "centred_label_alignment": aligned[1],
    }


@pytest.mark.parametrize("source", ["loss", "output"])
@pytest.mark.parametrize("case", ["plain", "residual", "convolution", "short last batch"])
def test_every_quantity_is_that_of_single_examples(case, source):
    problem = CASES[case]()
    frame = gradient_agreement(problem, source=source)
    labels = torch.cat([y for _, y in problem.batches()]).tolist()
    expected = per_example(problem, source)
    expected["all parameters"] = np.concatenate(list(expected.values()), axis=1)
    rows = frame[frame["gradient"] == "parameter"].set_index(["site", "quantity"])
    assert set(rows.index.get_level_values(0)) == set(expected)
    for site, gradients in expected.items():
        for quantity, value in slowly(gradients, labels).items():
            found = rows.loc[(site, quantity)]
            assert found["value"] == pytest.approx(value, rel=1e-7, abs=1e-10, nan_ok=True), (site, quantity)
            assert (found["status"] == "ok") == math.isfinite(value)
    assert set(frame["source"]) == {source} and set(rows["n"] + rows["n_zero"]) == {len(labels)}


def test_the_relative_rank_is_against_white_noise_of_the_layers_shape():
    frame = gradient_agreement(CASES["plain"](), white_draws=60)
    rows = frame[frame["site"] == "2"].set_index(["gradient", "quantity"])["value"]
    draw = np.random.default_rng(0)
    for gradient, width in (("parameter", 24), ("output", 4)):
        white = [draw.standard_normal((7, width)) for _ in range(300)]
        baseline = np.mean([np.sum(w**2) / np.linalg.norm(w, 2) ** 2 for w in white])
        assert rows[gradient, "white_stable_rank"] == pytest.approx(baseline, rel=0.06)
        ratio = rows[gradient, "stable_rank"] / rows[gradient, "white_stable_rank"]
        assert rows[gradient, "relative_effective_rank"] == pytest.approx(ratio, rel=1e-12)
    closed = gradient_agreement(CASES["plain"](), white_draws=0).query("quantity == 'white_stable_rank'")
    expected = 7 * 24 / (math.sqrt(7) + math.sqrt(24)) ** 2
    assert closed.query("site == '2' and gradient == 'parameter'")["value"].item() == pytest.approx(expected)


def test_rows_are_tidy_and_in_order_of_running():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(4, 3), nn.Linear(4, 4)

        def forward(self, x):
            return self.last(torch.tanh(self.first(x)))

    x, y = next(CASES["plain"]().batches())
    frame = gradient_agreement(Problem(Backwards().double(), (x, y)))
    assert list(frame.columns) == [
        *("source", "batch_norm", "batches", "gradient", "quantity", "unit", "site", "depth", "engine"),
        *("value", "low", "high", "n", "n_zero", "status", "reason"),
    ]
    assert list(dict.fromkeys(frame["site"])) == ["first", "last", "all parameters"]
    assert frame.groupby("site")["depth"].first().dropna().to_dict() == {"first": 1, "last": 2}
    for gradient, readings in READ.items():
        layer = frame[(frame["site"] == "first") & (frame["gradient"] == gradient)]
        assert list(layer["quantity"]) == list(readings)
    assert not frame.duplicated(["gradient", "quantity", "site"]).any()
    known = frame[frame["low"].notna()]
    assert ((known["low"] <= known["value"]) & (known["value"] <= known["high"])).all() and len(known) > 30
    assert set(frame.loc[frame["status"] != "ok", "reason"]) & {""} == set()


def test_factors_multiply_to_the_weights_cosines_and_can_be_left_out():
    problem = CASES["plain"]()
    problem.model[0].bias = None
    cosines = {
        g: gradient_cosines(problem, "0", gradient=g)["value"] for g in ("parameter", "forward", "backward")
    }
    np.testing.assert_allclose(cosines["parameter"], cosines["forward"] * cosines["backward"], atol=1e-12)
    assert set(gradient_agreement(problem)["gradient"]) == set(READ)
    assert set(gradient_agreement(problem, factors=False)["gradient"]) == {"parameter", "output"}


def test_uncentred_inputs_hide_the_shattering_behind_them():
    """All inputs nearly one: forward products agree, the backward ones do not, and the weight's are in between."""
    net = nn.Sequential(nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 3))
    x = 5 + torch.randn(12, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frame = gradient_agreement(Problem(net.double(), (x, torch.arange(12) % 3)))
    rows = frame[(frame["site"] == "0") & (frame["quantity"] == "mean_cosine")].set_index("gradient")["value"]
    assert rows["forward"] > 0.95
    assert abs(rows["parameter"] - rows["backward"]) < 0.05


def test_by_class_and_by_distance():
    problem = CASES["plain"]()
    frame = gradient_agreement(problem, by=["class", "distance"], bins=3)
    (x, y), g = next(problem.batches()), per_example(problem, "loss")["0"]
    classes = frame[(frame["quantity"] == "class_cosine") & (frame["site"] == "0")]
    for _, row in classes.iterrows():
        values = [
            cosine(g[i], g[j])
            for i, j in itertools.permutations(range(len(y)), 2)
            if (int(y[i]), int(y[j])) == (row["class"], row["other_class"])
        ]
        assert row["value"] == pytest.approx(np.mean(values) if values else math.nan, abs=1e-12, nan_ok=True)
    far = frame[(frame["quantity"] == "stiffness_at_distance") & (frame["site"] == "0")]
    pairs = sorted(
        (1 - cosine(*x[[i, j]].numpy()), cosine(g[i], g[j])) for i, j in itertools.combinations(range(7), 2)
    )
    expected = [np.mean(part, axis=0) for part in np.array_split(np.array(pairs), 3)]
    np.testing.assert_allclose(far[["distance", "value"]].to_numpy(dtype=float), expected, atol=1e-12)
    length = frame[(frame["quantity"] == "dynamical_critical_length") & (frame["site"] == "0")].iloc[0]
    assert (length["status"] == "ok") == (length["reason"] == "")


def test_without_class_numbers_what_needs_them_is_skipped_with_the_reason():
    frame = gradient_agreement(CASES["half squared error"](), by="class")
    skipped = frame[frame["status"] == "skipped"]
    assert set(skipped["quantity"]) == {
        *("within_class_cosine", "between_class_cosine", "label_alignment", "centred_label_alignment"),
        "class_cosine",
    }
    assert set(skipped["reason"]) == {"the targets are not one class number for each example"}
    assert skipped["value"].isna().all()


def fake(gram: torch.Tensor | None, log_norms: torch.Tensor | None = None, reason: str = "") -> LayerGrams:
    """A layer with this Gram, as `layer_grams` would hand it back."""
    norms = torch.zeros(4) if log_norms is None else log_norms
    layer = LayerGram(
        gram, None, norms, torch.full((4,), math.nan), None, None, "products", reason, ("weight",)
    )
    return LayerGrams({"": layer}, "loss", "none", 4)


@pytest.mark.parametrize(
    ("gram", "log_norms", "status", "reason"),
    [
        (torch.zeros(4, 4), torch.full((4,), -math.inf), "undefined", "0 examples have a non-zero gradient"),
        (torch.eye(4) * 1e-320, None, "undefined", "squared norms of 4 gradients are below"),
        (torch.full((4, 4), math.inf), None, "undefined", "infinite or NaN"),
        (None, None, "skipped", "the layer is odd"),
    ],
)
def test_a_gram_that_says_nothing_has_rows_with_its_reason(monkeypatch, gram, log_norms, status, reason):
    gram = None if gram is None else gram.double()
    monkeypatch.setattr(study, "layer_grams", lambda *_, **__: fake(gram, log_norms, "the layer is odd"))
    frame = gradient_agreement((nn.Linear(3, 2), (torch.ones(4, 3), torch.tensor([0, 1, 0, 1]))))
    rows = frame[(frame["site"] == "") & (frame["gradient"] == "parameter")]
    assert set(rows["status"]) == {status} and rows["value"].isna().all()
    assert rows["reason"].str.contains(reason).all()
    assert list(rows["quantity"]) == list(READ["parameter"])


def test_gradients_that_cancel_or_hide_their_mean_say_so(monkeypatch):
    simplex = torch.eye(4, dtype=torch.float64) - 1 / 4
    monkeypatch.setattr(study, "layer_grams", lambda *_, **__: fake(simplex))
    frame = gradient_agreement((nn.Linear(3, 2), (torch.ones(4, 3), torch.zeros(4, dtype=torch.long))))
    rows = frame[(frame["site"] == "") & (frame["gradient"] == "parameter")].set_index("quantity")
    assert rows.loc["gradient_diversity", "reason"] == "the gradients cancel: their sum is zero to rounding"
    assert rows.loc["m_coherence", "value"] == pytest.approx(0, abs=1e-12)
    assert "the noise hides the signal" in rows.loc["simple_noise_scale", "reason"]
    assert rows.loc["squared_gradient", "value"] == pytest.approx(-1 / 4)
    assert rows.loc["between_class_cosine", "status"] == "undefined"
    assert rows.loc["centred_label_alignment", "status"] == "undefined"


@pytest.mark.parametrize("scale", [1e-30, 1e-140])
def test_the_scale_of_gradients_does_not_matter(scale):
    problem = CASES["plain"]()

    def scaled(outputs, targets):
        return scale * nn.functional.cross_entropy(outputs, targets, reduction="none")

    one, two = gradient_agreement(problem), gradient_agreement(problem, source=scaled)
    free = one["unit"] != "squared gradient"
    np.testing.assert_allclose(two[free]["value"], one[free]["value"], rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(two[~free]["value"], scale**2 * one[~free]["value"], rtol=1e-7)


def test_zero_gradients_are_counted_and_left_out_of_the_cosines():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(4))
        net[0].bias.zero_()
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 0] = x[:, 0].abs()
    x[0] = -1
    frame = gradient_agreement(Problem(net, (x, torch.arange(8) % 2)))
    rows = frame[(frame["site"] == "0") & (frame["gradient"] == "parameter")].set_index("quantity")
    assert set(rows["n_zero"]) == {1} and set(rows["n"]) == {7}
    g = per_example(Problem(net, (x, torch.arange(8) % 2)), "loss")["0"]
    expected = slowly(g[1:], (torch.arange(8) % 2).tolist()[1:])
    for quantity in ("mean_cosine", "median_cosine", "within_class_cosine", "sign_stiffness"):
        assert rows.loc[quantity, "value"] == pytest.approx(expected[quantity], abs=1e-12)


@pytest.mark.parametrize("case", ["plain", "batch norm frozen", "batch norm running", "in-place ReLU"])
def test_the_model_is_as_found(case):
    problem = CASES[case]()
    used(problem.model)
    before = snapshot(problem.model)
    gradient_agreement(problem, by=["class", "distance"])
    assert_as_found(problem.model, before)


def test_the_model_is_as_found_when_the_source_raises():
    problem = CASES["batch norm frozen"]()
    before = snapshot(problem.model)
    with pytest.raises(ZeroDivisionError):
        gradient_agreement(problem, source=lambda outputs, targets: outputs.sum(dim=1) / 0**0 / (1 // 0))
    assert_as_found(problem.model, before)


def test_the_same_seed_gives_the_same_frame():
    one, two = (gradient_agreement(CASES["plain"](), seed=5) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.parametrize(
    ("data", "options", "match"),
    [
        ((torch.ones(1, 4), torch.tensor([0])), {}, "compares examples, and the data has 1"),
        (
            (torch.ones(3, 4), torch.tensor([0, 1, 2])),
            {"by": "depth"},
            "by is any of class, distance, got 'depth'",
        ),
        ((torch.ones(3, 4), torch.tensor([0, 1, 2])), {"at": "blocks.*"}, "No site of Linear matches"),
    ],
)
def test_what_cannot_be_read_is_refused(data, options, match):
    with pytest.raises(ValueError, match=match):
        gradient_agreement((nn.Linear(4, 3), data), **options)


def test_distance_of_integer_inputs_is_refused():
    net = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    data = torch.zeros(3, 2, dtype=torch.long), torch.tensor([0, 1, 0])
    with pytest.raises(ValueError, match="one floating-point tensor"):
        gradient_agreement((net, data), by="distance")


def small() -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        return Problem(net, (torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3))


def test_all_parameters_are_undefined_where_a_layers_gram_is_missing(monkeypatch):
    problem = small()
    grams = layer_grams(problem)
    unknown = torch.full((6,), math.nan)
    grams["0"] = LayerGram(None, None, unknown, unknown, None, None, "", "no rule", grams["0"].parameters)
    monkeypatch.setattr(study, "layer_grams", lambda *_, **__: grams)
    rows = gradient_agreement(problem).query("site == 'all parameters'")
    assert len(rows) and set(rows["status"]) == {"undefined"}
    assert set(rows["reason"]) == {"the sum lacks the Gram of 0 (no rule)"}


def test_parameters_that_the_source_does_not_see_add_nothing():
    problem = CASES["unused parameter"]()
    rows = gradient_agreement(problem).query("gradient == 'parameter'").set_index(["site", "quantity"])
    seen, all_of_them = (rows.loc[(site, "correlation_R")] for site in ("used", "all parameters"))
    assert all_of_them["status"] == "ok" and all_of_them["value"] == pytest.approx(seen["value"])


def test_a_layer_used_twice_has_the_white_noise_of_both_outputs():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            return self.layer(self.layer(x).tanh())

    x = torch.randn(12, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frame = gradient_agreement(Problem(Twice().double(), x), source="output", white_draws=0)
    rows = frame.query("gradient == 'output'").set_index("quantity")["value"]
    assert rows["white_stable_rank"] == pytest.approx(12 * 16 / (math.sqrt(12) + 4) ** 2)
    assert rows["relative_effective_rank"] == pytest.approx(rows["stable_rank"] / rows["white_stable_rank"])


@pytest.mark.parametrize("source", ["loss", "output"])
def test_an_ignored_label_is_no_class(source):
    problem = small()
    x, _ = problem.first_batch()
    y = torch.tensor([0, 1, -100, 0, 1, -100])
    kept = y != -100
    found = gradient_agreement(Problem(problem.model, (x, y)), source=source, by="class")
    part = gradient_agreement(Problem(problem.model, (x[kept], y[kept])), source=source, by="class")
    assert set(found["class"].dropna()) == set(found["other_class"].dropna()) == {0, 1}
    names = ["within_class_cosine", "between_class_cosine", "class_cosine"]
    names += ["label_alignment", "centred_label_alignment"]
    pair = [frame[frame["quantity"].isin(names)]["value"].to_numpy() for frame in (found, part)]
    np.testing.assert_allclose(*pair, rtol=1e-9)
    spectra = [
        tangent_kernel_spectrum(data).query("quantity.str.contains('alignment')")["value"].to_numpy()
        for data in (Problem(problem.model, (x, y)), Problem(problem.model, (x[kept], y[kept])))
    ]
    np.testing.assert_allclose(*spectra, rtol=1e-9)
    matrix = gradient_cosines(Problem(problem.model, (x, y)), "0", source=source)
    assert set(matrix["class"].dropna()) == {0, 1} and matrix["class"].isna().sum() == 12
    nothing = gradient_agreement(
        Problem(problem.model, (x, torch.full((6,), -100))), source="output", by="class"
    )
    assert set(nothing[nothing["quantity"] == "class_cosine"]["status"]) == {"skipped"}
    assert set(nothing[nothing["quantity"].isin(names[:2] + names[3:])]["status"]) == {"undefined"}


def test_uneven_norms_are_told_of_where_an_interval_hangs_on_them():
    x, _ = small().first_batch()
    x = x * torch.tensor([9.0, 1, 1, 1, 1, 1])[:, None]
    linear = Problem(nn.Linear(4, 2, bias=False).double(), x)
    rows = gradient_agreement(linear, source="output").query("site == ''").set_index(["gradient", "quantity"])
    for name in ("correlation_R", "m_coherence", "squared_gradient", "gradient_covariance_trace"):
        assert "examples counted" in rows.loc[("parameter", name), "reason"], name
    assert rows.loc[("parameter", "mean_cosine"), "reason"] == ""
    assert rows.loc[("output", "correlation_R"), "reason"] == ""
