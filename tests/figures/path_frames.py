"""Made-up frames of path lengths, in the columns that the studies hand back."""

import math

import numpy as np
import pandas as pd

BLOCKS = 18


def shares(chance: float, blocks: int = BLOCKS) -> np.ndarray:
    """A binomial law of path lengths."""
    k = np.arange(blocks + 1)
    return np.array([math.comb(blocks, j) for j in k]) * chance**k * (1 - chance) ** (blocks - k)


def triptych_frame(seeds: int = 3) -> pd.DataFrame:
    """Norms that fall by half a block, and a product that lies to the right of the exact curves."""
    k = np.arange(BLOCKS + 1)
    counts = np.array([math.comb(BLOCKS, j) for j in k], dtype=float)
    parts = []
    for state, decay in {"fresh": 2.0, "trained": 4.0}.items():
        for seed in range(seeds):
            norm = 0.3 * decay**-k * (1 + 0.2 * seed)
            product = counts * norm / (counts * norm).sum()
            curves = {
                "path_count": counts,
                "mean_path_norm": norm,
                "rms_path_norm": 1.8 * norm,
                "veit_product_share": product,
                "sampled_veit_product_share": np.roll(product, -1) * (0.9 + 0.05 * seed),
                "coherent_norm_share": shares(0.8 / (1 + decay)),
                "signed_share": shares(0.7 / (1 + decay) + 0.01 * seed)
                - np.where(k == 9, 0.01, 0)
                + np.where(k == 4, 0.01, 0),
            }
            for quantity, value in curves.items():
                wide = 0.3 * value if quantity.endswith("path_norm") else np.nan
                parts.append(
                    pd.DataFrame(
                        {
                            "state": state,
                            "seed": seed,
                            "quantity": quantity,
                            "path_length": k,
                            "value": value,
                            "low": value - wide,
                            "high": value + wide,
                        }
                    )
                )
    return pd.concat(parts, ignore_index=True)


def training_frame(seeds: int = 3) -> pd.DataFrame:
    """Paths that become shorter; a few shares below zero late in training."""
    parts = []
    for seed in range(seeds):
        for step in (0, 1, 3, 10, 30, 100, 300, 1000, 3000):
            chance = 0.45 - 0.07 * math.log10(1 + step) + 0.01 * seed
            value = shares(chance, 12)
            value[7:9] -= 0.02 * (step > 200)
            value[1] += 0.04 * (step > 200)
            parts.append(
                pd.DataFrame(
                    {
                        "quantity": "signed_share",
                        "seed": seed,
                        "step": step,
                        "path_length": np.arange(13),
                        "value": value,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def bigraded_frame() -> pd.DataFrame:
    """Six layers of attention and MLP."""
    attention, mlp = shares(0.2, 6), shares(0.4, 6)
    rows = [
        ("trained", "signed_share", i, j, attention[i] * mlp[j] - 0.03 * ((i, j) in [(3, 1), (4, 1)]))
        for i in range(7)
        for j in range(7)
    ]
    return pd.DataFrame(rows, columns=["state", "quantity", "length_attention", "length_mlp", "value"])


def participation_frame() -> pd.DataFrame:
    """Three stages of six blocks, the later ones begun by a projection."""
    rows = []
    for state, height in {"fresh": 0.5, "trained": 0.25}.items():
        for index in range(18):
            kind = "projection" if index in (6, 12) else "identity"
            value = height / (1 + index % 6) ** 0.5 + 0.3 * (kind == "projection")
            value -= 0.3 * (state == "trained" and index == 10)
            rows.append(
                {
                    "state": state,
                    "quantity": "participation",
                    "junction": f"blocks.{index}",
                    "kind": kind,
                    "index": index,
                    "stage": index // 6,
                    "value": value,
                    "low": value - 0.05,
                    "high": value + 0.05,
                }
            )
    return pd.DataFrame(rows)


def depth_frame(seeds: int = 5) -> pd.DataFrame:
    """Measured lengths that fall where gains imply that they rise."""
    draw = np.random.default_rng(7)
    rows = []
    for seed in range(seeds):
        for step in range(0, 1001, 100):
            past = step / 1000
            noise = 1 + 0.03 * draw.standard_normal()
            rows += [
                ("mean_path_length", seed, step, (11.6 - 5 * past**0.5) * noise),
                ("implied_path_length", seed, step, (11.8 + 2 * past) * noise),
                ("implied_path_length_incoherent", seed, step, (7.8 + 3 * past) * noise),
                ("total_coherence", seed, step, 10 ** (2.5 * past**0.3) * noise**4),
            ]
    return pd.DataFrame(rows, columns=["quantity", "seed", "step", "value"])


def cost_frame() -> pd.DataFrame:
    """Seconds that rise with the number of lengths and with depth, in three rounds."""
    slopes = {"delay line": (1.0, 2.0), "one batched backward": (0.8, 1.7), "one path a length": (1.0, 2.0)}
    rows = []
    for offset, (contender, (of_lengths, of_blocks)) in enumerate(slopes.items()):
        for turn in range(3):
            scale = 0.01 * (1 + 0.4 * offset) * (1 + 0.05 * turn)
            rows += [
                ("lengths", contender, turn, lengths, 54, scale * lengths**of_lengths)
                for lengths in (1, 2, 4, 8, 16, 32, 55)
            ]
            rows += [
                ("blocks", contender, turn, np.nan, blocks, scale * blocks**of_blocks / 20)
                for blocks in (9, 18, 36, 72)
            ]
    frame = pd.DataFrame(rows, columns=["sweep", "contender", "round", "lengths", "blocks", "value"])
    return frame.assign(quantity="seconds")


def survival_frame(blocks: int = 54) -> pd.DataFrame:
    """Shares of a few hundred sampled paths that avoid the deleted blocks."""
    draw = np.random.default_rng(8)
    rows = []
    for deleted in (1, 10, 20):
        for length in range(0, 25, 3):
            exact = math.comb(blocks - deleted, length) / math.comb(blocks, length)
            value = draw.binomial(400, exact) / 400
            half = 1.96 * math.sqrt(value * (1 - value) / 400)
            rows.append((deleted, length, value, value - half, value + half))
    frame = pd.DataFrame(rows, columns=["deleted", "path_length", "value", "low", "high"])
    return frame[frame["value"] > 0].assign(quantity="surviving_fraction").reset_index(drop=True)


def survival_theory(blocks: int = 54) -> pd.DataFrame:
    rows = [
        (deleted, length, math.comb(blocks - deleted, length) / math.comb(blocks, length))
        for deleted in (1, 10, 20)
        for length in range(55)
    ]
    return pd.DataFrame(rows, columns=["deleted", "path_length", "value"])


EXAMPLES = {
    "path_triptych": lambda: (triptych_frame(), {}),
    "spectrum_over_training": lambda: (training_frame(), {}),
    "bigraded_spectrum": lambda: (bigraded_frame(), {}),
    "block_participation": lambda: (participation_frame(), {}),
    "ensemble_depth": lambda: (depth_frame(), {}),
    "path_cost": lambda: (cost_frame(), {}),
    "deletion_survival": lambda: (survival_frame(), {"theory": survival_theory(), "band": (5, 17)}),
}
