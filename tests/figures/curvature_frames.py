"""Small made-up frames of the studies of curvature, one per figure."""

import numpy as np
import pandas as pd

EIGENVALUE = "loss per squared parameter"


def training_frame(seeds: int = 3) -> pd.DataFrame:
    """Two networks whose sharpness rises to the edge of stability and stays there."""
    rows = []
    for network, rate, sharp in (("2-shortcut", 0.5, 1.0), ("plain, orthogonal", 0.25, 3.0)):
        for seed in range(seeds):
            for step in range(0, 101, 5):
                rise = 1 - np.exp(-step / 20)
                top = (sharp + (2.03 / rate - sharp) * rise) * (1 + 0.02 * seed)
                bottom = -sharp * np.exp(-step / 15) * (1 + 0.03 * seed) - 0.01
                values = {
                    ("loss", ""): 5 * np.exp(-step / 25) + 0.02 * seed,
                    ("gradient_norm", ""): np.exp(-step / 30),
                    ("lambda_max", ""): top,
                    ("lambda_min", ""): bottom,
                    ("learning_rate_product", ""): rate * top,
                    ("condition_number", "negative_ratio"): -bottom / top,
                    ("condition_number", "percentile_10"): 2 * np.exp(step / 12) * (1 + 0.1 * seed),
                    ("share_negative", ""): 0.5 - 0.15 * rise,
                }
                rows += [(network, seed, step, q, definition, v) for (q, definition), v in values.items()]
    frame = pd.DataFrame(rows, columns=["network", "seed", "step", "quantity", "definition", "value"])
    frame["status"] = "ok"
    frame.loc[(frame["quantity"] == "lambda_max") & (frame["step"] == 100), "status"] = "unconverged"
    return frame.assign(low=np.nan, high=np.nan, reason="")


def block_frame(zero_point: bool = False) -> pd.DataFrame:
    """Curvature by layer of three residual blocks of two layers; at the zero point only pairs of one block couple."""
    names = [f"blocks.{block}.{layer}" for block in range(3) for layer in (0, 2)]
    rows = []
    for i, name in enumerate(names):
        top = 0.0 if zero_point else 0.5 + i
        values = {
            "lambda_max": top,
            "lambda_min": -top / 4,
            "trace": 3 * top,
            "gradient_norm": top / 10,
            "participation_ratio": np.nan if zero_point else 2.0 + i,
            "kappa_lower": np.nan if zero_point else 10.0**i,
        }
        rows += [(name, None, quantity, value) for quantity, value in values.items()]
        for j in range(i):
            inside = i // 2 == j // 2
            value = (1.2 if inside else 0.0) if zero_point else 1.2 * 0.05 ** (i - j)
            rows.append((name, names[j], "coupling", value))
    frame = pd.DataFrame(rows, columns=["block", "other", "quantity", "value"])
    status = np.where(frame["value"].isna(), "undefined", "ok")
    return frame.assign(by="layer", low=np.nan, high=np.nan, status=status, reason="")


def minibatch_frame() -> pd.DataFrame:
    """Largest eigenvalues of small batches lie above that of all examples."""
    draw = np.random.default_rng(21)
    rows = []
    for quantity, whole in {"lambda_max": 4.0, "lambda_min": -0.5}.items():
        for size in (16, 32, 64, 128):
            for number in range(8):
                bias = 1 + 16 / size
                rows.append(
                    (size, number, quantity, whole * bias * np.exp(0.3 * draw.standard_normal() / size**0.25))
                )
        rows.append((512, np.nan, quantity, whole))
    frame = pd.DataFrame(rows, columns=["batch_size", "draw", "quantity", "value"])
    return frame.assign(status=["unconverged", *["ok"] * (len(frame) - 1)])


def subspace_frame() -> pd.DataFrame:
    """Ten classes, nine eigenvalues apart from the bulk, which hold most of the gradient."""
    rows = []
    for network, share in {"trained": 0.8, "fresh": 0.3}.items():
        for rank in range(1, 16):
            value = (20.0 / rank if rank < 10 else 0.8 / rank) * (1 if network == "trained" else 0.3)
            rows.append((network, rank, "eigenvalue", value, 0.97 * value, 1.03 * value))
            part = share * (1 - np.exp(-rank / 4))
            rows.append((network, rank, "gradient_share", part, np.nan, np.nan))
            rows.append((network, rank, "random_share", rank / 500, np.nan, np.nan))
        rows.append((network, np.nan, "outliers", 9 if network == "trained" else 4, np.nan, np.nan))
        rows.append((network, np.nan, "classes", 10, np.nan, np.nan))
    return pd.DataFrame(rows, columns=["network", "rank", "quantity", "value", "low", "high"]).assign(
        status="ok"
    )


def convergence_frame() -> pd.DataFrame:
    """Ritz values that approach the ends, the largest first."""
    rows = []
    for products in range(2, 41, 2):
        for rank, (end, pace) in {1: (10.0, 3.0), 2: (6.0, 5.0), 3: (5.0, 7.0), -1: (-1.0, 9.0)}.items():
            error = 4 * np.exp(-products / pace)
            value = end - np.sign(end) * error
            status = "ok" if error < 1e-2 else "unconverged"
            rows.append((products, rank, value, value - 1.5 * error, value + 1.5 * error, status))
    frame = pd.DataFrame(rows, columns=["products", "rank", "value", "low", "high", "status"])
    return frame.assign(quantity="eigenvalue")


def grid_frame() -> pd.DataFrame:
    """Each network bears rates up to its own, where first some and then all seeds diverge."""
    rows = []
    for network, limit in {"2-shortcut": 1.0, "plain, orthogonal": 0.25, "plain, Xavier": 0.25}.items():
        for power in range(-8, 2):
            for seed in range(3):
                rate = 2.0**power
                some = rate == 2 * limit and seed == 0
                diverged = rate > 2 * limit or some
                value = (
                    np.nan if diverged else 5.0 * np.exp(-8 * rate / limit) * (1 + 0.2 * seed) + 0.01 / limit
                )
                rows.append((network, rate, seed, value, "diverged" if diverged else "ok"))
    frame = pd.DataFrame(rows, columns=["network", "learning_rate", "seed", "value", "status"])
    return frame.assign(quantity="final_loss", reason=np.where(frame["status"] == "ok", "", "loss above 1e6"))


def definitions_frame() -> pd.DataFrame:
    """One network's condition numbers; two are bounds from below, one has not converged."""
    rows = [
        ("percentile_10", 320.0, 300.0, 345.0, "ok", "the paper's experiments; needs all eigenvalues"),
        ("negative_ratio", 0.21, 0.2, 0.22, "ok", "how far from convex the loss is here"),
        ("top_ratio", 3.4, 2.9, 4.1, "unconverged", "whether one direction stands apart"),
        ("kappa_lower", 5800.0, 5800.0, np.inf, "ok", "a bound when nothing else can be had"),
        ("extreme_ratio", np.inf, 1e6, np.inf, "ok", "the textbook's number, of theory"),
        ("learning_rate_product", 1.4, 1.38, 1.42, "ok", "whether this learning rate is stable"),
    ]
    frame = pd.DataFrame(rows, columns=["definition", "value", "low", "high", "status", "use"])
    return frame.assign(quantity="condition_number", unit="1", reason="")


def panelled_condition_frame() -> pd.DataFrame:
    """Condition number, largest eigenvalue and share below zero, with and without biases."""
    rows = []
    for biases in ("without biases", "with biases"):
        for network, slope in {"2-shortcut": 0.0, "1-shortcut": 12.0, "plain, Xavier": 400.0}.items():
            for layers in (2, 4, 8, 16):
                for seed in range(3):
                    grown = slope + (biases == "with biases") * 2.0
                    ratio = 1.59 + grown * layers * (1 + 0.05 * seed)
                    top = 1.26 + 0.01 * seed + grown / 6 * layers
                    values = {
                        "condition_number": ratio,
                        "lambda_max": top,
                        "share_negative": 0.5 - 0.3 / layers,
                    }
                    rows += [(biases, network, layers, seed, q, v) for q, v in values.items()]
    frame = pd.DataFrame(rows, columns=["biases", "network", "layers", "seed", "quantity", "value"])
    return frame.assign(definition="percentile_10", status="ok")


def panelled_condition_theory() -> pd.DataFrame:
    law = {"network": "2-shortcut", "law": "singular values of G"}
    rows = [
        law | {"quantity": q, "layers": n, "value": v}
        for q, v in (("condition_number", 1.59), ("lambda_max", 1.26))
        for n in (2, 4, 8, 16)
    ]
    return pd.DataFrame(rows).assign(biases="without biases")


def four_densities() -> pd.DataFrame:
    """Four networks, fresh and trained, with their outliers and the share of rows that are zero."""
    place = np.concatenate([-np.geomspace(2, 1e-3, 60), np.geomspace(1e-3, 60, 90)])
    parts = []
    names = ("skips, batch norm", "skips", "batch norm", "neither")
    for state, stretch in {"at initialisation": 0.5, "trained": 1.0}.items():
        for i, family in enumerate(names):
            spread, about = stretch * (0.3 + 0.3 * i), {"family": family, "state": state}
            value = np.exp(-np.abs(place) / spread) / spread
            top = np.array([30.0, 14.0, 8.0, -0.9]) * spread
            curve = {"eigenvalue": place, "value": value, "low": value / 1.5, "high": value * 1.5}
            parts += [
                pd.DataFrame({"quantity": "spectral_density", "resolution": 0.1 * spread, **curve, **about}),
                pd.DataFrame(
                    {"quantity": "eigenvalue", "value": top, "low": top - 0.1, "high": top + 0.1, **about}
                ),
                pd.DataFrame({"quantity": "zero_row_fraction", "value": [0.034 * i], **about}),
            ]
    return pd.concat(parts, ignore_index=True)


EXAMPLES = {
    "curvature_along_training": lambda: (
        training_frame(),
        {"quantities": ["lambda_max", "learning_rate_product", "share_negative"]},
    ),
    "block_curvature": lambda: (block_frame(), {}),
    "minibatch_curvature": lambda: (minibatch_frame(), {}),
    "top_subspace": lambda: (subspace_frame(), {}),
    "eigenvalue_convergence": lambda: (convergence_frame(), {}),
    "learning_rate_grid": lambda: (grid_frame(), {}),
    "condition_numbers": lambda: (definitions_frame(), {}),
}
