"""Made-up traces, rasters and runs, of the shapes the studies hand back."""

import numpy as np
import pandas as pd


def noise_frame(seeds: int = 4) -> pd.DataFrame:
    """White and brown noise on 40 inputs under the names of two networks."""
    draw = np.random.default_rng(7)
    x = np.linspace(-2, 2, 40)
    parts = []
    for seed in range(seeds):
        white = draw.standard_normal(40)
        for family, layers, values in (("plain", 24, white), ("residual", 50, np.cumsum(white))):
            parts.append(
                pd.DataFrame({"family": family, "layers": layers, "seed": seed, "x": x, "value": values})
            )
    return pd.concat(parts, ignore_index=True)


def raster_frame() -> pd.DataFrame:
    draw = np.random.default_rng(8)
    x = np.linspace(-2, 2, 30)
    rows = []
    for layers in (2, 50):
        for neuron in range(12):
            kink = draw.uniform(-2, 2)
            active = x > kink if layers == 2 else draw.random(30) < 0.5
            rows += [
                ("plain", layers, neuron, place, float(state)) for place, state in zip(x, active, strict=True)
            ]
    return pd.DataFrame(rows, columns=["family", "layers", "neuron", "x", "value"])


def run_frame() -> pd.DataFrame:
    rows = []
    for family, keep in {"plain, batch norm": 0.5, "residual, batch norm": 0.9}.items():
        for layers, power in ((2, 0.2), (50, 1.0)):
            for seed in range(2):
                for length in range(1, 65):
                    rows.append(
                        (family, layers, seed, "runs", length, round(1000 * keep ** (power * length) + seed))
                    )
    return pd.DataFrame(rows, columns=["family", "layers", "seed", "quantity", "length", "value"])


def referenced_frame() -> pd.DataFrame:
    """Autocorrelations as `depth_traces` hands them back, references and other quantities among them."""
    rows = []
    for layers, reach in ((4, 0.95), (24, 0.1)):
        for seed in range(3):
            for lag in range(8):
                value = reach**lag + 0.01 * seed * (lag > 0)
                rows.append(("plain", layers, seed, "autocorrelation", "", "", lag, value, np.nan, np.nan))
            rows.append(("plain", layers, seed, "spectral_slope", "", "", np.nan, -1.5, np.nan, np.nan))
    for noise, reach, width in (("white noise", 0.0, 0.12), ("brown noise", 0.97, 0.2)):
        for lag in range(8):
            value = reach**lag
            rows.append(
                (
                    "plain",
                    0,
                    -1,
                    "reference",
                    noise,
                    "autocorrelation",
                    lag,
                    value,
                    value - width,
                    value + width,
                )
            )
        rows.append(("plain", 0, -1, "reference", noise, "spectral_slope", np.nan, -2.0, -2.4, -1.5))
    columns = ["family", "layers", "seed", "quantity", "noise", "statistic", "lag", "value", "low", "high"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(distance=frame["lag"] * 4 / 255)


EXAMPLES = {
    "covariance_picture": lambda: (noise_frame(), {}),
    "mean_covariance_picture": lambda: (noise_frame(), {}),
    "raster": lambda: (raster_frame(), {}),
    "run_lengths": lambda: (run_frame(), {}),
}
