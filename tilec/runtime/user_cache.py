"""The user's cache folder, as TILEC_CACHE, TILEC_CACHE_DIR and TILEC_CACHE_SIZE describe it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from .. import config
from .cache import DiskCache


def user_cache() -> DiskCache | None:
    """The cache that TILEC_CACHE_DIR and TILEC_CACHE_SIZE describe; None where TILEC_CACHE=0."""
    settings = config.current()
    if not settings.cache:
        return None
    return _open(cache_folder(settings), settings.cache_size)


def cache_folder(settings: config.Config) -> Path:
    """The folder that TILEC_CACHE_DIR names, or the platform's: the same one wherever the process goes."""
    return _absolute(settings.cache_dir or _default_folder())


@cache
def _absolute(folder: str) -> Path:
    return Path(folder).expanduser().absolute()


def _default_folder() -> str:
    import platformdirs

    return str(Path(platformdirs.user_cache_dir("tilec", appauthor=False)))


@cache
def _open(folder: Path, limit: int) -> DiskCache:
    return DiskCache(folder, limit)
