"""Studies to be swept, at the top level of a file, as processes of a sweep need them."""

from pathlib import Path

import pandas as pd
import torch


def noisy(depth: int, seed: int) -> pd.DataFrame:
    """Numbers that depend on the condition only."""
    values = torch.randn(3, generator=torch.Generator().manual_seed(100 * depth + seed))
    return pd.DataFrame(
        {"quantity": "noise", "site": ["a", "b", None], "value": values.double().tolist(), "status": "ok"}
    )


def logged(depth: int, log: str) -> pd.DataFrame:
    """Leaves a line in the file `log` each time it is called; fails at depth 3 while a file `broken` is there."""
    with Path(log).open("a") as file:
        file.write(f"{depth}\n")
    if depth == 3 and Path(log).with_name("broken").exists():
        raise RuntimeError("broken off")
    return pd.DataFrame({"value": [depth * 2.0]})


def threads(cell: int) -> pd.DataFrame:
    return pd.DataFrame({"value": [torch.get_num_threads()]})


def conflicting(seed: int) -> pd.DataFrame:
    return pd.DataFrame({"seed": [0], "value": [1.0]})
