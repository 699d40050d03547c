"""Packages that extend tilec: found by their entry points, loaded once, into the standard registry.

An installed package says `[project.entry-points."tilec.plugins"]` and names an Extension
(tilec/extend.py). A copy of tilec under another name looks for its own group, so that each has its
plugins.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from .. import config
from ..errors import TilecError
from ..locks import one_at_a_time

GROUP = __name__.partition(".")[0] + ".plugins"


@one_at_a_time
@cache
def load_plugins() -> tuple[str, ...]:
    """Installs the extension of every entry point; their names. Once a process, when something is
    first compiled. Raises TilecError for a plugin that cannot be loaded.
    """
    if not config.current().plugins:
        return ()
    found = sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value))
    for entry in found:
        _install(entry)
    return tuple(entry.name for entry in found)


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
