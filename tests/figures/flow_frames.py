"""Small made-up frames of the studies of gradient flow, Jacobians and predictiveness."""

import numpy as np
import pandas as pd


def flow_frame(seeds: int = 5) -> pd.DataFrame:
    """Norms that shrink with the distance from the loss, the line through them, and the growth row."""
    draw = np.random.default_rng(11)
    rows = []
    for family, rate in {"plain": 0.4, "residual": 0.02}.items():
        for seed in range(seeds):
            rows += [
                (family, seed, "output_gradient_log10_norm", depth, rate * (depth - 12) + noise)
                for depth, noise in enumerate(0.1 * draw.standard_normal(12))
            ]
            rows += [
                (family, seed, "fitted_gradient_log10_norm", d, rate * (d - 12) + 0.02 * seed)
                for d in range(1, 11)
            ]
            rows.append((family, seed, "gradient_growth_rate", -1, -rate * np.log(10)))
    frame = pd.DataFrame(rows, columns=["family", "seed", "quantity", "depth", "value"])
    return frame.assign(call=0, low=np.nan, high=np.nan, status="ok")


def singular_value_frame() -> pd.DataFrame:
    draw = np.random.default_rng(12)
    rows = [
        (family, "singular_value", example, s)
        for family, spread in {"orthogonal": 0.05, "Gaussian": 1.2}.items()
        for example in range(4)
        for s in np.exp(spread * draw.standard_normal(60))
    ]
    return pd.DataFrame(rows, columns=["family", "quantity", "example", "value"])


def predictiveness_frame(moments: bool = True) -> pd.DataFrame:
    draw = np.random.default_rng(13)
    rows = []
    for family, roughness in {"plain": 8.0, "batch norm": 2.0}.items():
        for seed in range(3):
            for epoch in range(6) if moments else (0,):
                for step in (0.05, 0.1, 0.2, 0.4):
                    h = roughness * (1 + 0.1 * draw.random()) * (1 + 0.2 * epoch)
                    values = {
                        "loss_along_gradient": 2 * np.exp(-0.2 * epoch) + 0.1 * h * (step - 0.1) ** 2,
                        "gradient_difference": h * step,
                        "gradient_difference_per_length": h,
                    }
                    rows += [(family, seed, epoch, step, q, v) for q, v in values.items()]
    frame = pd.DataFrame(rows, columns=["family", "seed", "epoch", "step", "quantity", "value"])
    return frame if moments else frame.drop(columns="epoch")


EXAMPLES = {
    "gradient_flow": lambda: (flow_frame(), {}),
    "jacobian_spectrum": lambda: (singular_value_frame(), {}),
    "gradient_predictiveness": lambda: (predictiveness_frame(), {"time": "epoch"}),
}
