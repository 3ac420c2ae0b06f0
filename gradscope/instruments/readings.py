"""What a probe has read, one row a value."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from gradscope.instruments.listen import Heard

if TYPE_CHECKING:
    import pandas as pd


class Readings:
    """Values of one quantity, each with the place and the call it was read at.

    Args:
        quantity: What is read, spelled as in result rows (`mean_cosine`).
        unit: Its unit; `"1"` when it has none.
    """

    def __init__(self, quantity: str, unit: str = "1") -> None:
        self.quantity = quantity
        self.unit = unit
        self._rows: list[tuple[Heard, Tensor | float, dict[str, Any]]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, value: Tensor | float, heard: Heard, **further: Any) -> None:
        """Keep one value (a scalar, detached) and any further columns of its row."""
        self._rows.append((heard, value.detach() if isinstance(value, Tensor) else value, further))

    def frame(self) -> "pd.DataFrame":
        """Tidy frame, shallowest site first; an undefined value (NaN) says so in `status`."""
        import pandas as pd

        rows = []
        for heard, value, further in sorted(self._rows, key=lambda row: (row[0].depth, row[0].call)):
            number = float(value)
            row = {
                "quantity": self.quantity,
                "unit": self.unit,
                "site": heard.site,
                "depth": heard.depth,
                "call": heard.call,
                "value": number,
                "status": "ok" if number == number else "undefined",
                "reason": "" if number == number else f"{self.quantity} is not defined for what was read",
            }
            rows.append(row | further)
        columns = ["quantity", "unit", "site", "depth", "call", "value", "status", "reason"]
        return pd.DataFrame(rows, columns=columns if not rows else None)
