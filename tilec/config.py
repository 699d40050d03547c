"""Every TILEC_* variable: its name, default and meaning, read when asked for, in one place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from pathlib import Path

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
    dump: str = ""  # a folder: numbered IR, diffs, source, compiler's log
    plugins: bool = True  # 0: packages that extend tilec are not loaded
    target: str = ""  # "" : the device's
    cxx: str = ""  # the host compiler of the emulator; "" : $CXX, g++, clang++, zig

    def dump_dir(self) -> Path | None:
        return Path(self.dump) if self.dump else None


VARIABLES = tuple("TILEC_" + f.name.upper() for f in fields(Config))

_ENVIRONMENT: Mapping[bytes, bytes] | None = (
    getattr(os.environ, "_data", None) if os.name == "posix" else None
)
"""What os.environ keeps, ten times faster to ask than itself, which decodes; None where unknown."""

_override: ContextVar[Config | None] = ContextVar("tilec_config", default=None)


def current() -> Config:
    """The settings in force: those of the innermost `scope`, else the environment's."""
    return _override.get() or from_environment()


def scoped() -> bool:
    """Whether a `scope` is in force, so that the environment alone does not tell the settings."""
    return _override.get() is not None


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


def device_variables() -> tuple[object, object]:
    """TILEC_DEVICE and TILEC_TARGET as they stand, to compare with how they stood: all that the
    path of every call asks for.
    """
    if _ENVIRONMENT is None:
        return os.environ.get("TILEC_DEVICE"), os.environ.get("TILEC_TARGET")
    return _ENVIRONMENT.get(b"TILEC_DEVICE"), _ENVIRONMENT.get(b"TILEC_TARGET")


@contextmanager
def scope(**changes: object) -> Iterator[Config]:
    """Settings changed within a `with` block, e.g. `scope(dump="out")`."""
    config = replace(current(), **changes)  # type: ignore[arg-type]
    token = _override.set(config)
    try:
        yield config
    finally:
        _override.reset(token)


def _read(name: str, text: str) -> object:
    default = getattr(Config(), name)
    if isinstance(default, bool):
        return text.strip().lower() not in ("0", "", "off", "no", "false")
    if isinstance(default, int):
        try:
            return int(text)
        except ValueError:
            raise TilecError("TLC0601", f"TILEC_{name.upper()}={text!r} is not a number") from None
    return text
