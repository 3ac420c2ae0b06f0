"""Of which size are a gradient's entries: exactly zero, too small for their precision, infinite?"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Entries:
    """Counts over the entries of a gradient, added up over batches.

    Attributes:
        number: Entries seen.
        zero: Exactly zero.
        subnormal: Not zero, but below the smallest normal number, where digits are lost.
        not_finite: Infinite or NaN.
        largest: Largest finite magnitude.
        exact_above: Magnitudes above this keep all their digits relative to themselves, even after parts of them
            cancelled: the smallest normal number over the precision's epsilon.
        dtype: Name of the precision.
    """

    number: int = 0
    zero: int = 0
    subnormal: int = 0
    not_finite: int = 0
    largest: float = 0.0
    exact_above: float = 0.0
    dtype: str = ""

    def add(self, gradient: Tensor, dtype: torch.dtype | None = None) -> None:
        """Count a gradient's entries; `dtype` is the one it was computed in, where it is held in a wider one."""
        limits = torch.finfo(dtype or gradient.dtype)
        self.dtype = str(dtype or gradient.dtype).removeprefix("torch.")
        self.exact_above = limits.tiny / limits.eps
        size = gradient.detach().abs()
        self.number += size.numel()
        if not size.numel():
            return
        smallest, largest = (float(end) for end in torch.aminmax(size))
        if not math.isfinite(largest):
            finite = torch.isfinite(size)
            self.not_finite += int((~finite).sum())
            size = size[finite]
            smallest, largest = 0.0, float(size.max()) if size.numel() else 0.0
        self.largest = max(self.largest, largest)
        if smallest < limits.tiny:
            zero = size.numel() - int(size.count_nonzero())
            self.zero += zero
            self.subnormal += int((size < limits.tiny).sum()) - zero

    def include(self, other: "Entries") -> None:
        """Add what was counted elsewhere, in the same precision."""
        self.number += other.number
        self.zero += other.zero
        self.subnormal += other.subnormal
        self.not_finite += other.not_finite
        self.largest = max(self.largest, other.largest)
        self.exact_above, self.dtype = other.exact_above, other.dtype

    def status(self, downstream: float = 1.0, forward: str = "") -> tuple[str, str]:
        """`ok`, `underflow`, `overflow` or `undefined`, and why.

        Args:
            downstream: Largest magnitude of the gradient that this one was computed from: tells a gradient that
                vanished in the computer from one that is zero.
            forward: Why the signal was lost on its way forward, if it was.
        """
        if self.not_finite:
            return (
                "overflow",
                f"{self.not_finite} of {self.number} entries are infinite or NaN in {self.dtype}",
            )
        if self.zero == self.number:
            if 0 < downstream < self.exact_above:
                return (
                    "underflow",
                    f"every entry is exactly zero, and the next gradient is at most {downstream:.1e}: "
                    f"{self.dtype} underflowed",
                )
            if forward:
                return "underflow", f"every entry is exactly zero: {forward}"
            return (
                "undefined",
                "every entry is exactly zero: nothing depends on it, or all of it is switched off",
            )
        if self.largest < self.exact_above:
            return (
                "underflow",
                f"the largest entry is {self.largest:.1e}, so {self.dtype} has lost digits of the others",
            )
        return "ok", ""
