"""Variants kept whole on disk: what the launcher must know, and the machine code.

They are found by the text of the program as the frontend left it, so a second process neither runs
a pass nor asks for a compiler, and loads neither."""

from __future__ import annotations

import json
from dataclasses import dataclass

from .. import config
from ..backends.manifest import Variant
from ..ir.core import Program
from ..ir.print import print_program
from ..passes.context import Assume
from ..target import Target
from .binary import Binary
from .cache import cache_key
from .user_cache import user_cache

_withheld: list[str] = []


def withhold(extension: str) -> None:
    """From now on nothing is read or kept: `extension` changes what the standard registry makes of
    a program, which its text does not tell."""
    _withheld.append(extension)


@dataclass(frozen=True)
class StoredVariant:
    """One variant of a program, ready to be launched."""

    variant: Variant
    binary: Binary


def read_variant(
    program: Program, target: Target, arch: str, assume: Assume
) -> StoredVariant | None:
    """The variant under some assumptions, compiled for `arch`; None where it
    is not stored, where TILEC_CHECK or TILEC_DUMP want to see the passes at work, or where an
    extension is installed."""
    disk = user_cache()
    settings = config.current()
    if disk is None or settings.check or settings.dump or _withheld:
        return None
    entry = disk.get(_key(program, target, arch, assume))
    if entry is None:
        return None
    try:
        variant = Variant.from_json(str(entry.metadata["variant"]))
        log, compiler = str(entry.metadata["log"]), str(entry.metadata["compiler"])
    except (KeyError, ValueError):
        return None  # of no use to this tilec: made anew, and stored over it
    return StoredVariant(variant, Binary.from_log(entry.payload, log, compiler))


def store_variant(
    program: Program, target: Target, arch: str, assume: Assume, stored: StoredVariant
) -> None:
    """Keeps a variant for later processes, where there is a cache."""
    disk = user_cache()
    if disk is not None and not _withheld:
        binary = stored.binary
        metadata = {
            "variant": json.dumps(stored.variant.to_data()),
            "log": binary.log,
            "compiler": binary.compiler,
            "name": stored.variant.source,
        }
        disk.put(_key(program, target, arch, assume), metadata, binary.code)


def _key(program: Program, target: Target, arch: str, assume: Assume) -> str:
    return cache_key("variant", print_program(program), target.name, arch, assume.value)
