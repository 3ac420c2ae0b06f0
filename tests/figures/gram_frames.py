"""Small made-up frames of what is read off Gram matrices."""

import numpy as np
import pandas as pd


def agreement_frame(seeds: int = 3) -> pd.DataFrame:
    """Three layers and the whole gradient, whose agreement falls with depth."""
    draw = np.random.default_rng(4)
    units = {"correlation_R": "1", "share_negative_cosines": "1", "simple_noise_scale": "examples"}
    rows = []
    for seed in range(seeds):
        for gradient, rate in {"parameter": 0.6, "backward": 0.4}.items():
            for depth in (1, 2, 3, np.nan):
                correlation = rate ** (2 if np.isnan(depth) else depth) * np.exp(
                    0.05 * draw.standard_normal()
                )
                values = correlation, 0.5 - correlation / 2, 1 / correlation - 1
                site = "all parameters" if np.isnan(depth) else f"layer.{depth}"
                if site == "all parameters" and gradient == "backward":
                    continue
                rows += [
                    (gradient, seed, quantity, units[quantity], site, depth, value, 0.8 * value, 1.3 * value)
                    for quantity, value in zip(units, values, strict=True)
                ]
    columns = ["gradient", "seed", "quantity", "unit", "site", "depth", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def cosine_frame(examples: int = 8) -> pd.DataFrame:
    """Gradients that agree within a class, three classes in turn."""
    draw = np.random.default_rng(5)
    labels = np.arange(examples) % 3
    g = np.eye(3)[labels] + 0.4 * draw.standard_normal((examples, 3))
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    i, j = (index.ravel() for index in np.indices((examples, examples)))
    return pd.DataFrame(
        {
            **{"site": "conv1", "i": i, "j": j, "class": labels[i], "other_class": labels[j]},
            "value": (g @ g.T).ravel(),
        }
    )


EXAMPLES = {
    "agreement": lambda: (agreement_frame(), {}),
    "cosine_matrix": lambda: (cosine_frame(), {}),
}
