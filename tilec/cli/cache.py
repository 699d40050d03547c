"""`tilec cache`: where the disk cache is, what it holds, whether it is whole, and its removal."""

from __future__ import annotations

import click

from ..runtime.cache import DiskCache
from ..runtime.user_cache import user_cache
from .output import output

ACTIONS = ("path", "size", "list", "verify", "clear")


@click.command("cache")
@click.argument("action", type=click.Choice(ACTIONS))
def command(action: str) -> int:
    """Look into the disk cache or clear it: path, size, list, verify, clear."""
    cache = user_cache()
    if cache is None:
        output().note("the cache is turned off: TILEC_CACHE=0")
        output().result({"used": False})
        return 0
    if cache.problem:
        output().note(f"the cache folder {cache.directory} is not used: {cache.problem}")
    actions = {"path": _path, "size": _size, "list": _list, "verify": _verify, "clear": _clear}
    return actions[action](cache)


def _path(cache: DiskCache) -> int:
    output().say(str(cache.directory))
    output().result({"path": str(cache.directory), "used": cache.usable})
    return 0


def _size(cache: DiskCache) -> int:
    stats = cache.stats()
    output().say(f"{stats.entries} entries, {stats.bytes} bytes of at most {cache.limit}")
    output().result({"entries": stats.entries, "bytes": stats.bytes, "limit": cache.limit})
    return 0


def _list(cache: DiskCache) -> int:
    rows = []
    for entry in cache.entries():
        about = {k: str(entry.metadata.get(k, "")) for k in ("name", "compiler")}
        rows.append({"key": entry.key, "bytes": len(entry.payload), **about})
        output().say(
            f"{entry.key[:16]}  {len(entry.payload):>9}  {about['name']}  {about['compiler']}"
        )
    output().result({"entries": rows})
    return 0


def _verify(cache: DiskCache) -> int:
    """Damaged entries are removed: they would count as absent. Found ones are status 1."""
    before = cache.stats().entries
    damaged = cache.verify()
    for name in damaged:
        output().say(f"{name}: damaged, removed")
    output().say(f"{before - len(damaged)} of {before} entries are whole")
    output().result({"entries": before, "damaged": list(damaged)})
    return 1 if damaged else 0


def _clear(cache: DiskCache) -> int:
    removed = cache.clear()
    output().say(f"{removed} files removed")
    output().result({"removed": removed})
    return 0
