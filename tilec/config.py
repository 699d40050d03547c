"""Every TILEC_* variable: its name, default and meaning, read when asked for, in one place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from .errors import TilecError


@dataclass(frozen=True)
class Config:
    """The settings of one compilation or call. Field `x_y` is the variable TILEC_X_Y."""

    cache: bool = True  # 0: neither read nor write the disk cache
    cache_dir: str = ""  # "" : the platform's cache folder
    cache_size: int = 1 << 30  # bytes, least recently used entries go first
    check: str = (
        ""  # "1": interpret before and after every tile-level pass; "bounds": global accesses too
    )
    device: str = ""  # "" : the arrays decide
    emulator: str = "checked"  # "fast": no data races looked for, blocks spread over processes
    emulator_level: int = 1  # at which the checked build is optimised: 0 or 1
    dump: str = ""  # a folder: numbered IR, diffs, source, compiler's log
    plugins: bool = True  # 0: packages that extend tilec are not loaded
    target: str = ""  # "" : the device's
    cxx: str = ""  # the host compiler of the emulator; "" : $CXX, g++, clang++, zig

    def dump_dir(self) -> Path | None:
        return Path(self.dump) if self.dump else None


VARIABLES = tuple("TILEC_" + f.name.upper() for f in fields(Config))

_RAW: Mapping[bytes, bytes] | None = (
    getattr(os.environ, "_data", None) if os.name == "posix" else None
)
"""What os.environ keeps, ten times faster to ask than itself, which decodes; None where unknown."""

variable: Callable[[Any], object] = os.environ.get if _RAW is None else _RAW.get
"""A variable as it stands, to compare with how it stood: by one of the keys below."""
DEVICE: object = "TILEC_DEVICE" if _RAW is None else b"TILEC_DEVICE"
TARGET: object = "TILEC_TARGET" if _RAW is None else b"TILEC_TARGET"

_override: ContextVar[Config | None] = ContextVar("tilec_config", default=None)

scope_in_force: Callable[[], Config | None] = _override.get
"""What the innermost `scope` says; None where the environment alone tells the settings."""


def current() -> Config:
    """The settings in force: those of the innermost `scope`, else the environment's."""
    return scope_in_force() or from_environment()


def from_environment() -> Config:
    """The settings that the TILEC_* variables give. Raises TilecError for a value that cannot be
    read.
    """
    values: dict[str, object] = {}
    for f in fields(Config):
        text = os.environ.get("TILEC_" + f.name.upper())
        if text is not None:
            values[f.name] = _read(f.name, text)
    return replace(Config(), **values)  # type: ignore[arg-type]


@contextmanager
def scope(**changes: object) -> Iterator[Config]:
    """Settings changed within a `with` block, e.g. `scope(dump="out")`."""
    config = replace(current(), **changes)  # type: ignore[arg-type]
    token = _override.set(config)
    try:
        yield config
    finally:
        _override.reset(token)


def read_check(said: object, where: str = "TILEC_CHECK") -> str:
    """What is checked, from the variable or an argument: "", "1" or "bounds". Raises TilecError for
    anything else.
    """
    kinds = {"": "", "0": "", "false": "", "1": "1", "true": "1", "bounds": "bounds"}
    kind = kinds.get(str(said).strip().lower())
    if kind is None:
        raise TilecError(
            "TLC0601", f"{where}={said!r} names no checks", hint="1 or bounds; 0 for none"
        )
    return kind


def _read(name: str, text: str) -> object:
    if name == "check":
        return read_check(text)
    default = getattr(Config(), name)
    if isinstance(default, bool):
        return text.strip().lower() not in ("0", "", "off", "no", "false")
    if isinstance(default, int):
        try:
            return int(text)
        except ValueError:
            raise TilecError("TLC0601", f"TILEC_{name.upper()}={text!r} is not a number") from None
    return text
