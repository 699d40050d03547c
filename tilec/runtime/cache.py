"""The disk cache: one checksummed file an entry, published whole or not at all.

An entry is a header (magic, format version, lengths, SHA-256), JSON metadata and a payload of
bytes. It is written under another name in the same folder, synchronised, and renamed over its own
name; so a reader sees a whole entry or none, whoever is killed. Whatever is wrong with an entry, it
counts as absent and is removed; whatever is wrong with the disk, the cache is silent but for the
log, and the work is done again. A cache folder holds code that will run: it must be private to its
owner."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FORMAT = 1
SUFFIX = ".tlc"
ORPHAN_SECONDS = 3600.0
SWEEP_EVERY = 64  # publications between two looks at the size of the folder

_MAGIC = b"tilec\0\r\n"
_HEADER = struct.Struct("<8sIIQ32s")  # magic, format, metadata length, payload length, SHA-256
_KEY = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger("tilec.cache")


@dataclass(frozen=True)
class Entry:
    """One entry read back: what was stored, bit for bit."""

    key: str
    metadata: Mapping[str, object]
    payload: bytes


@dataclass(frozen=True)
class CacheStats:
    """Size of a cache folder: entries, their bytes, and temporary files left by killed writers."""

    entries: int
    bytes: int
    temporaries: int


def cache_key(*parts: str | bytes) -> str:
    """64 hexadecimal digits that identify `parts` and the version of tilec that made them. Parts
    are delimited by their lengths: ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.sha256(f"{FORMAT}:{source_hash()}".encode())
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(struct.pack("<Q", len(data)))
        digest.update(data)
    return digest.hexdigest()


@cache
def source_hash() -> str:
    """SHA-256 over every file of the installed tilec package that takes part in compiling: Python
    sources, grammars and templates. Contents and relative names only, so it is the same
    everywhere."""
    root = str(Path(__file__).resolve().parent.parent)
    paths: list[str] = []
    for folder, folders, files in os.walk(root):  # pathlib takes ten times as long
        folders[:] = [name for name in folders if name != "__pycache__"]
        inside = folder[len(root) + 1 :].replace(os.sep, "/")
        paths += (f"{inside}/{name}" if inside else name for name in files)
    digest = hashlib.sha256()
    for path in sorted(paths):
        with open(f"{root}/{path}", "rb") as file:
            content = hashlib.sha256(file.read()).digest()
        digest.update(path.encode() + b"\0" + content)
    return digest.hexdigest()


class DiskCache:
    """Entries in one private folder, at most `limit` bytes of them; the least recently used go
    first.

    Any number of processes and threads may use one folder. Methods do not raise for anything that
    the disk does; `usable` tells whether the folder can be read and written at all."""

    def __init__(self, directory: str | Path, limit: int = 2 << 30) -> None:
        self.directory = Path(directory)
        self.limit = limit
        self._published = 0
        self.problem = self._prepare()
        if self.problem:
            _log.warning("the cache folder %s is not used: %s", self.directory, self.problem)

    @property
    def usable(self) -> bool:
        """Whether the folder exists, is private and may be read. A read-only folder is usable."""
        return not self.problem

    def get(self, key: str) -> Entry | None:
        """The entry of `key`, or None where there is none that is whole. A damaged one is
        removed."""
        if self.problem:
            return None
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        entry = _decode(key, data)
        if entry is None:
            _log.warning("a damaged cache entry was removed: %s", path.name)
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)  # the time of last use decides what the sweep takes
        return entry

    def put(self, key: str, metadata: Mapping[str, object], payload: bytes) -> bool:
        """Publishes an entry, replacing one of the same key. False where the disk would not have
        it."""
        if self.problem:
            return False
        path = self._path(key)
        temporary = ""
        try:
            for folder in (self.directory, path.parent):  # it may have been removed meanwhile
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(_encode(key, metadata, payload))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as problem:
            _log.info("an entry was not stored: %s", problem)
            if temporary:
                with suppress(OSError):
                    os.unlink(temporary)
            return False
        self._published += 1
        if self._published % SWEEP_EVERY == 1:
            self.sweep()
        return True

    def sweep(self) -> None:
        """Removes temporary files older than an hour, and entries, least recently used first, until
        the rest is within the limit."""
        now = time.time()
        found: list[tuple[float, int, Path]] = []
        for path, status in self._files():
            if path.suffix == SUFFIX:
                found.append((status.st_mtime, status.st_size, path))
            elif now - status.st_mtime > ORPHAN_SECONDS:
                with suppress(OSError):
                    path.unlink()
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit:
                break
            with suppress(OSError):
                path.unlink()
            total -= size

    def stats(self) -> CacheStats:
        """How full the folder is."""
        files = list(self._files())
        entries = [status.st_size for path, status in files if path.suffix == SUFFIX]
        return CacheStats(len(entries), sum(entries), len(files) - len(entries))

    def entries(self) -> Iterator[Entry]:
        """Every whole entry, in the order of keys."""
        for path, _ in list(self._files()):
            if path.suffix == SUFFIX:
                with suppress(OSError):
                    entry = _decode(path.stem, path.read_bytes())
                    if entry is not None:
                        yield entry

    def verify(self) -> tuple[str, ...]:
        """Reads every entry, removes the damaged ones and returns their file names."""
        bad: list[str] = []
        for path, _ in list(self._files()):
            if path.suffix == SUFFIX and self.get(path.stem) is None and not path.exists():
                bad.append(path.name)
        return tuple(bad)

    def clear(self) -> int:
        """Removes every entry and temporary file; returns how many files went."""
        removed = 0
        for path, _ in list(self._files()):
            with suppress(OSError):
                path.unlink()
                removed += 1
        return removed

    def _path(self, key: str) -> Path:
        assert _KEY.fullmatch(key), f"not a cache key: {key!r}"
        return self.directory / key[:2] / (key + SUFFIX)

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Entries and temporaries, and nothing else that a user may keep in the folder."""
        if self.problem:
            return
        for folder in sorted(self.directory.glob("[0-9a-f][0-9a-f]")):
            try:
                paths = sorted(folder.iterdir())
            except OSError:
                continue
            for path in paths:
                if path.name.startswith(".tmp-") or (
                    path.suffix == SUFFIX and _KEY.fullmatch(path.stem)
                ):
                    with suppress(OSError):
                        yield path, path.stat()

    def _prepare(self) -> str:
        """Makes the folder; says what keeps it from being used, or nothing."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.directory.stat()
        except OSError as problem:
            return problem.strerror or str(problem)
        if not stat.S_ISDIR(status.st_mode):
            return "it is not a folder"
        if hasattr(os, "getuid"):
            if status.st_uid not in (os.getuid(), 0):
                return "it belongs to another user"
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return (
                    f"others may write to it (mode {stat.S_IMODE(status.st_mode):o}); chmod 700 it"
                )
        return ""


def _encode(key: str, metadata: Mapping[str, object], payload: bytes) -> bytes:
    text = json.dumps({"key": key, "metadata": metadata}, sort_keys=True).encode()
    digest = hashlib.sha256(text + payload).digest()
    return _HEADER.pack(_MAGIC, FORMAT, len(text), len(payload), digest) + text + payload


def _decode(key: str, data: bytes) -> Entry | None:
    if len(data) < _HEADER.size:
        return None
    magic, version, text_length, payload_length, digest = _HEADER.unpack_from(data)
    body = data[_HEADER.size :]
    if magic != _MAGIC or version != FORMAT or len(body) != text_length + payload_length:
        return None
    if hashlib.sha256(body).digest() != digest:
        return None
    header = json.loads(body[:text_length])
    if header["key"] != key:
        return None
    return Entry(key, header["metadata"], body[text_length:])
