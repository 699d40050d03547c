"""The pieces that index arithmetic is printed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Source = Literal["thread", "register"] | int
"""What a term reads: the thread, the register, or the coordinate along that dimension."""


@dataclass(frozen=True, slots=True)
class Term:
    """One summand of an index: `((source // divisor) % modulus) * scale`.

    `modulus` is None where the source's own range already bounds the quotient, so that no
    remainder has to be printed.
    """

    source: Source
    divisor: int
    modulus: int | None
    scale: int

    def value(self, source: Any) -> Any:
        """The summand for `source`: an int, or an integer array (elementwise)."""
        quotient = source // self.divisor
        if self.modulus is not None:
            quotient = quotient % self.modulus
        return quotient * self.scale
