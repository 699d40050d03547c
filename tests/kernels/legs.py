"""One call of a kernel on the interpreter and on every emulated machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.kernels.machines import TARGETS

DEVICES = ("interpreter", *(f"emulator:{target}" for target in TARGETS))


def every_leg(kernel: Any, *arrays: Any, **constants: Any) -> Iterator[tuple[str, list[Any]]]:
    """Each device with copies of the arrays as the kernel leaves them there."""
    for device in DEVICES:
        own = [np.array(x) if isinstance(x, np.ndarray) else x for x in arrays]
        kernel(*own, device=device, **constants)
        yield device, own
