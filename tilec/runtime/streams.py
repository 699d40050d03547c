"""Streams of any library as the number that the driver takes, and the current stream of a
library."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ..errors import ArgumentError


def stream_handle(stream: object) -> int:
    """The driver's handle of `stream`: an int, or an object of cupy (`ptr`), torch (`cuda_stream`)
    or any other library that has `__cuda_stream__`. Raises ArgumentError for anything else."""
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        # A method in the protocol as published; a plain tuple in its first version.
        version, handle = protocol() if callable(protocol) else protocol
        if version != 0:
            raise ArgumentError(
                "TLC0802", f"__cuda_stream__ version {version} is newer than tilec reads (0)"
            )
        return int(handle)
    for name in ("cuda_stream", "ptr"):
        handle = getattr(stream, name, None)
        if isinstance(handle, int):
            return handle
    raise ArgumentError(
        "TLC0802",
        f"stream is {type(stream).__name__}, which is no stream",
        hint="pass an int, a cupy or torch stream, or any object with __cuda_stream__",
    )


def current_stream_of(library: str, index: int) -> Callable[[], int]:
    """A function that tells the current stream of `library` on device `index` when it is called.

    Libraries without a current stream of their own use cupy's where it is loaded, else the default
    one."""
    torch: Any = sys.modules.get("torch") if library == "torch" else None
    if torch is not None:
        raw = getattr(
            torch._C, "_cuda_getCurrentRawStream", None
        )  # what torch's own code generators call
        if raw is not None:
            return lambda: raw(index)
        return lambda: int(torch.cuda.current_stream(index).cuda_stream)
    cupy: Any = sys.modules.get("cupy")
    if cupy is not None:
        current = cupy.cuda.get_current_stream
        return lambda: current(index).ptr
    return lambda: 0
