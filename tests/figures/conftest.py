"""Small made-up frames of the shapes the studies hand back, one per figure."""

import numpy as np
import pandas as pd
import pytest

from tests.figures.curvature_frames import EXAMPLES as CURVATURE_EXAMPLES
from tests.figures.flow_frames import EXAMPLES as FLOW_EXAMPLES
from tests.figures.gram_frames import EXAMPLES as GRAM_EXAMPLES
from tests.figures.path_frames import EXAMPLES as PATH_EXAMPLES
from tests.figures.trace_frames import EXAMPLES as TRACE_EXAMPLES


def correlation_frame(seeds: int = 5) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    laws = {
        "plain": lambda d: 0.5**d,
        "residual": lambda d: 0.75**d,
        "residual, batch norm": lambda d: d**-0.73,
    }
    rows = [
        (
            family,
            seed,
            "gradient_correlation",
            "1",
            depth,
            law(depth) * np.exp(0.1 * draw.standard_normal()),
            "ok",
        )
        for family, law in laws.items()
        for seed in range(seeds)
        for depth in (1, 2, 4, 8, 16)
    ]
    return pd.DataFrame(rows, columns=["family", "seed", "quantity", "unit", "depth", "value", "status"])


def correlation_theory() -> pd.DataFrame:
    depth = np.geomspace(1, 16, 30)
    parts = [("plain", 0.5**depth, "2^-L"), ("residual", 0.75**depth, "(3/4)^L")]
    return pd.concat(
        [pd.DataFrame({"family": f, "depth": depth, "value": v, "law": law}) for f, v, law in parts],
        ignore_index=True,
    )


def trace_frame() -> pd.DataFrame:
    draw = np.random.default_rng(1)
    x = np.linspace(-2, 2, 256)
    white, brown = draw.standard_normal(256), np.cumsum(draw.standard_normal(256))
    parts = [
        ("plain", 1, np.sign(x) + 0.2 * x),
        ("plain", 24, white * 1e-6),
        ("residual", 50, brown + 0.5 * white),
        ("brown noise", np.nan, brown),
        ("white noise", np.nan, white),
    ]
    return pd.concat(
        [pd.DataFrame({"family": f, "layers": layers, "x": x, "value": v}) for f, layers, v in parts],
        ignore_index=True,
    )


def autocorrelation_frame() -> pd.DataFrame:
    rows = []
    for family, reach in {"plain": 0.7, "residual": 0.93}.items():
        for layers in (2, 10, 24, 50):
            for seed in range(5):
                for lag in range(16):
                    value = reach ** (lag * layers / 10) + 0.01 * ((seed * 7 + lag * 3) % 5 - 2) * (lag > 0)
                    rows.append((family, layers, seed, lag, value))
    frame = pd.DataFrame(rows, columns=["family", "layers", "seed", "lag", "value"])
    return frame.assign(band_low=-0.12, band_high=0.12)


def lesion_frame() -> pd.DataFrame:
    draw = np.random.default_rng(2)
    rows = []
    for family, base in {"residual": 0.05, "plain": 0.8}.items():
        for seed in range(5):
            for index in range(12):
                kind = "projection" if index in (4, 8) and family == "residual" else "identity"
                for statistics in ("stale", "recalibrated"):
                    value = base + 0.02 * abs(draw.standard_normal()) + 0.15 * (kind == "projection")
                    value -= 0.02 * (statistics == "recalibrated")
                    rows.append(
                        (family, seed, index, f"blocks.{index}", kind, statistics, "error", max(value, 0.0))
                    )
            rows.append((family, seed, np.nan, "", "", "stale", "intact_error", 0.03))
            rows.append((family, seed, np.nan, "", "", "stale", "chance_error", 0.9))
    return pd.DataFrame(
        rows, columns=["family", "seed", "index", "junction", "kind", "statistics", "quantity", "value"]
    )


def lesion_set_frame() -> pd.DataFrame:
    draw = np.random.default_rng(3)
    rows = [
        (
            seed,
            statistics,
            count,
            "error",
            min(0.9, 0.03 + slope * count**1.5 * (1 + 0.4 * abs(draw.standard_normal()))),
        )
        for statistics, slope in {"stale": 0.02, "recalibrated": 0.008}.items()
        for seed in range(5)
        for count in range(11)
        for _ in range(4)
    ]
    frame = pd.DataFrame(rows, columns=["seed", "statistics", "deleted", "quantity", "value"])
    lines = pd.DataFrame(
        {"statistics": ["stale", "stale"], "quantity": ["intact_error", "chance_error"], "value": [0.03, 0.9]}
    )
    return pd.concat([frame, lines], ignore_index=True)


def reordering_frame() -> pd.DataFrame:
    draw = np.random.default_rng(5)
    rows = [
        (
            statistics,
            "swaps",
            swaps,
            round(tau, 2),
            "error",
            min(0.9, 0.03 + slope * (1 - tau) * (1 + draw.random())),
        )
        for statistics, slope in {"stale": 1.0, "recalibrated": 0.2}.items()
        for swaps in (1, 3, 9)
        for tau in 1 - 0.03 * swaps * (0.5 + draw.random(12))
    ]
    rows += [
        ("stale", "", 0, 1.0, "intact_error", 0.03),
        ("stale", "", 0, 1.0, "chance_error", 0.9),
        ("", "swaps", 1, 0.9, "kendall_tau", 0.8),
    ]
    return pd.DataFrame(
        rows, columns=["statistics", "intervention", "swaps", "kendall_tau", "quantity", "value"]
    )


def lesion_study_frame(first: str) -> pd.DataFrame:
    """A whole study of one network, in the columns of `lesion_study`, rows of kind `first` first."""
    draw = np.random.default_rng(4)
    rows = []

    def add(
        quantity: str, kind: str, index: int, deleted: int, drawn: int, value: float, name: str = ""
    ) -> None:
        p_holm = 0.01 if quantity == "error_difference" and value > 0.1 else np.nan
        for statistics, factor in {"stale": 1.0, "recalibrated": 0.6}.items():
            mean = factor * value
            rows.append(
                {
                    **{
                        "quantity": quantity,
                        "unit": "share of images",
                        "statistics": statistics,
                        "junction": name,
                    },
                    **{"kind": kind, "index": index, "deleted": deleted, "draw": drawn, "value": mean},
                    **{"low": mean - 0.02, "high": mean + 0.02, "p_holm": p_holm, "status": "ok"},
                }
            )

    add("intact_error", "", -1, 0, -1, 0.05)
    add("chance_error", "", -1, 0, -1, 0.9)
    for index in range(10):
        kind = "projection" if index in (3, 7) else "identity"
        value = 0.06 + 0.3 * (kind == "projection")
        add("error", kind, index, 1, -1, value, f"blocks.{index}")
        add("error_difference", kind, index, 1, -1, value - 0.05, f"blocks.{index}")
    for count in (1, 4, 7, 10):
        for drawn in range(6):
            add("error", "set", -1, count, drawn, min(0.9, 0.05 + 0.08 * count * (1 + 0.3 * draw.random())))
    add("error", "group", -1, 8, 0, 0.7, "identity")
    add("error", "group", -1, 2, 0, 0.5, "projection")
    for step in range(1, 6):
        add("error", "greedy", step, step, 0, 0.05 + 0.01 * step**2, f"blocks.{step}")
    frame = pd.DataFrame(rows).sort_values("kind", key=lambda kinds: kinds != first, kind="stable")
    return frame.reset_index(drop=True)


def path_frame() -> pd.DataFrame:
    from scipy.stats import binom

    length = np.arange(28)
    parts = []
    for state, share in {"at initialisation": 0.3, "trained": 0.15}.items():
        for seed in range(5):
            curves = {
                "signed_share": binom.pmf(length, 27, share + 0.01 * seed) - 0.01 * (length > 12),
                "coherent_norm_share": binom.pmf(length, 27, share + 0.02 + 0.01 * seed),
                "incoherent_norm_share": binom.pmf(length, 27, share - 0.03 + 0.01 * seed),
                "veit_product_share": binom.pmf(length, 27, share + 0.1 + 0.01 * seed),
                "path_count_share": binom.pmf(length, 27, 0.5),
            }
            parts += [
                pd.DataFrame({"state": state, "seed": seed, "quantity": q, "path_length": length, "value": v})
                for q, v in curves.items()
            ]
    return pd.concat(parts, ignore_index=True)


def condition_frame() -> pd.DataFrame:
    rows = []
    for network, rate in {
        "2-shortcut": 0.0,
        "1-shortcut": 0.03,
        "plain, Xavier": 0.25,
        "plain, orthogonal": 0.15,
    }.items():
        for layers in (2, 4, 8, 16):
            for seed in range(5):
                status = "unconverged" if network == "plain, Xavier" and layers == 16 and seed == 0 else "ok"
                noise = 1 + 0.1 * seed
                rows.append(
                    (network, layers, seed, "condition_number", 5 * np.exp(rate * layers) * noise, status)
                )
                rows.append(
                    (network, layers, seed, "lambda_max", 1.5 * np.exp(rate * layers / 2) * noise, status)
                )
    frame = pd.DataFrame(rows, columns=["network", "layers", "seed", "quantity", "value", "status"])
    return frame.assign(definition="largest over 10th percentile")


def condition_theory() -> pd.DataFrame:
    return pd.DataFrame(
        {"network": "2-shortcut", "layers": [2, 16], "value": [6.0, 6.0], "law": "depth-independent"}
    )


def stem_frame() -> pd.DataFrame:
    sigma = [0.3, 0.7, 1.1]
    rows = [
        (blocks, quantity, sign * s)
        for blocks in (1, 4)
        for s in sigma
        for sign in (-1, 1)
        for quantity, times in (("eigenvalue", 3 * blocks), ("closed_form", 1))
        for _ in range(times)
    ]
    return pd.DataFrame(rows, columns=["blocks", "quantity", "value"])


def density_frame() -> pd.DataFrame:
    place = np.concatenate([-np.geomspace(2, 1e-3, 100), np.geomspace(1e-3, 40, 150)])
    parts = []
    for family, spread in {"plain": 1.5, "residual": 0.4}.items():
        value = np.exp(-np.abs(place) / spread) + 1e-3 * np.exp(-((place - 20 * spread) ** 2) / 2)
        parts.append(
            pd.DataFrame(
                {
                    "quantity": "spectral_density",
                    "resolution": 0.05,
                    "eigenvalue": place,
                    "value": value,
                    "low": value / 1.4,
                    "high": value * 1.4,
                }
            ).assign(family=family)
        )
        top = np.array([20.0, 12.0, 6.0, -0.8]) * spread
        parts.append(
            pd.DataFrame(
                {"quantity": "eigenvalue", "value": top, "low": top - 0.02, "high": top + 0.02}
            ).assign(family=family)
        )
    return pd.concat(parts, ignore_index=True)


def initialisation_frame() -> pd.DataFrame:
    """Five schemes with intervals over draws, one that did not fit the network, and a second quantity."""
    rows = [
        ("as given", "correlation_R", "input", 0.05, 0.02, 0.08, "ok"),
        ("he", "correlation_R", "input", 0.04, 0.01, 0.07, "ok"),
        ("orthogonal", "correlation_R", "input", 0.09, 0.06, 0.12, "ok"),
        ("zero_gamma", "correlation_R", "input", 0.4, 0.3, 0.5, "ok"),
        ("looks_linear", "correlation_R", "input", 1.0, 1.0, 1.0, "ok"),
        ("he", "correlation_R", "conv1", 0.5, 0.4, 0.6, "ok"),
        ("he", "gradient_growth_rate", "all layers", -0.1, -0.2, 0.0, "ok"),
        ("fixup", "correlation_R", "input", np.nan, np.nan, np.nan, "skipped"),
    ]
    columns = ["scheme", "quantity", "site", "value", "low", "high", "status"]
    return pd.DataFrame(rows, columns=columns)


# name of the figure -> frame and options
def branch_norm_frame() -> pd.DataFrame:
    """Norms that fall as 1 / sqrt(blocks), over five seeds."""
    draw = np.random.default_rng(6)
    rows = [
        ("mean_branch_norm", seed, blocks, 9.0 * blocks**-0.5 * np.exp(0.05 * draw.standard_normal()))
        for blocks in (3, 9, 27)
        for seed in range(5)
    ]
    return pd.DataFrame(rows, columns=["quantity", "seed", "blocks", "value"])


EXAMPLES = {
    "initialisations": lambda: (initialisation_frame(), {}),
    "branch_norms": lambda: (branch_norm_frame(), {}),
    "correlation_against_depth": lambda: (correlation_frame(), {"theory": correlation_theory()}),
    "traces": lambda: (trace_frame(), {}),
    "autocorrelation": lambda: (autocorrelation_frame(), {}),
    "lesions": lambda: (lesion_frame(), {}),
    "lesion_sets": lambda: (lesion_set_frame(), {}),
    "lesion_groups": lambda: (lesion_study_frame(first="group"), {}),
    "greedy_removal": lambda: (lesion_study_frame(first="greedy"), {}),
    "path_lengths": lambda: (path_frame(), {}),
    "reordering": lambda: (reordering_frame(), {}),
    "condition_against_depth": lambda: (condition_frame(), {"theory": condition_theory()}),
    "eigenvalue_stems": lambda: (stem_frame(), {}),
    "spectral_density": lambda: (density_frame(), {}),
    **CURVATURE_EXAMPLES,
    **PATH_EXAMPLES,
    **FLOW_EXAMPLES,
    **GRAM_EXAMPLES,
    **TRACE_EXAMPLES,
}


@pytest.fixture(params=sorted(EXAMPLES))
def example(request):
    """Name of a figure, a frame for it, and its options."""
    return (request.param, *EXAMPLES[request.param]())


@pytest.fixture
def examples():
    """All of them, by name."""
    return EXAMPLES
