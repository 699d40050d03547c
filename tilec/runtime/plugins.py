"""Packages that extend tilec: found by their entry points, loaded once, into the standard registry.

An installed package says `[project.entry-points."tilec.plugins"]` and names an Extension
(tilec/extend.py). A copy of tilec under another name looks for its own group, so that each has its
plugins.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path

from .. import config
from ..errors import TilecError

GROUP = __name__.partition(".")[0] + ".plugins"


@cache
def load_plugins() -> tuple[str, ...]:
    """Installs the extension of every entry point; their names. Once a process, when something is
    first compiled. Raises TilecError for a plugin that cannot be loaded.
    """
    if not config.current().plugins:
        return ()
    found: dict[str, EntryPoint] = {}
    for distribution in _distributions():
        for entry in distribution.entry_points.select(group=GROUP):
            found.setdefault(entry.name, entry)  # the first on the path is the one that is imported
    for name in sorted(found):
        _install(found[name])
    return tuple(sorted(found))


def _distributions() -> Iterator[Distribution]:
    """The installed packages whose entry points name the group.

    importlib.metadata.entry_points reads the metadata of every package: a second where there are
    hundreds. Here their lists of entry points are searched for the name of the group first.
    """
    for place in sys.path:
        if os.path.isfile(place):  # a zip: seldom, and read by importlib
            yield from Distribution.discover(path=[place])
            continue
        for listing in sorted(Path(place or ".").glob("*.[de]*-info/entry_points.txt")):
            try:
                named = GROUP.encode() in listing.read_bytes()
            except OSError:
                continue
            if named:
                yield Distribution.at(listing.parent)


def _install(entry: EntryPoint) -> None:
    from ..extend import Extension, install

    try:
        extension = entry.load()
    except TilecError:
        raise
    except Exception as cause:
        raise _broken(entry, f"{type(cause).__name__}: {cause}") from cause
    if not isinstance(extension, Extension):
        raise _broken(entry, f"it is a {type(extension).__name__}, not an Extension of this tilec")
    install(extension)


def _broken(entry: EntryPoint, reason: str) -> TilecError:
    package = entry.dist.name if entry.dist is not None else entry.value
    return TilecError(
        "TLC0602",
        f"the plugin {entry.name} ({entry.value}) of {package} cannot be loaded: {reason}",
        hint="repair or uninstall it; TILEC_PLUGINS=0 goes without plugins",
    )
