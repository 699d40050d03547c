"""Compiles the CPU rendering of a kernel into a library that the emulator's process loads."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from ... import config
from ...errors import CompilerFailed, TimedOut
from ...locks import one_at_a_time
from ..user_cache import cache_folder
from .compilers import HostCompiler, find_host_compiler

OPTIONS = (
    "-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off",
    "-fno-strict-aliasing", "-fwrapv", "-fno-exceptions", "-fno-rtti",
    "-nostdinc++", "-fstack-clash-protection", "-Wno-psabi",
)  # fmt: skip
"""No contraction: results must not depend on the machine. No aliasing rules: memory is bytes
here. Integers wrap, as the IR's do. No C++ library: the text brings what it needs of one. A large
stack frame touches each of its pages, the guard among them."""

TIMEOUT_SECONDS = 300.0
MAX_LIBRARIES = 1000  # kept in the cache folder


def build(
    source_text: str,
    compiler: str | None = None,
    optimize: int | None = None,
    *,
    fast: bool = False,
    counts: bool = False,
) -> Path:
    """The shared library of `source_text` (a "cpu" rendering), built at most once a text, compiler
    and kind of build.

    The checked build finds all that the emulator can find, in one process. The fast one leaves out
    data races, and its blocks may be spread over processes. `optimize` is the compiler's level of
    the checked build, where TILEC_EMULATOR_LEVEL shall not say it: the results are the same at each,
    0 compiles in half the time and multiplies several times slower. The fast one is optimised more.
    `counts`, of a checked build: it can count
    what accesses cost.

    Raises MissingTool without a compiler, CompilerFailed with its messages where it refuses the
    text."""
    found = find_host_compiler(compiler or "")
    level = config.current().emulator_level if optimize is None else optimize
    kind = ("-O2", "-DTILEC_FAST") if fast else ("-O1" if level else "-O0",)
    counting = ("-DTILEC_COUNTS",) if counts else ()
    host = HostCompiler((*found.command, *OPTIONS, *kind, *counting), found.version)
    parts = (source_text, *host.command, host.version)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    library = _folder() / f"{key}.so"
    try:
        os.utime(library)  # what was used last is swept last
    except FileNotFoundError:
        own = _private_folder() / library.name
        return own if own.exists() else _compile(host, source_text, library)
    return library


def _compile(host: HostCompiler, source_text: str, library: Path) -> Path:
    """The library, where it could be put."""
    with tempfile.TemporaryDirectory(prefix="build-", dir=_private_folder()) as work:
        source, result = Path(work, "kernel.cpp"), Path(work, "kernel.so")
        source.write_text(source_text, encoding="utf-8")
        command = (*host.command, "-o", str(result), str(source))
        try:
            done = subprocess.run(
                command,
                cwd=work,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise TimedOut(
                "TLC0623", f"{host.command[0]} took more than {TIMEOUT_SECONDS:.0f} s"
            ) from late
        if done.returncode or not result.exists():
            log = done.stderr.replace(str(source), "kernel.cpp")
            raise CompilerFailed(
                "TLC0622", f"{host.version} refuses the emulated text:\n{log[:4000]}"
            )
        return _place(result, library)


def _place(result: Path, library: Path) -> Path:
    """Puts a library where other processes find it, whole or not at all; or, where the disk will not have
    it, among those of this process."""
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix="build-", dir=library.parent)
        with result.open("rb") as made, os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(made, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, library)
        _sweep(library.parent)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        library = _private_folder() / library.name
        os.replace(result, library)
    return library


def _sweep(folder: Path) -> None:
    """Removes the libraries that were not used for longest, where there are many."""
    ages: list[tuple[float, Path]] = []
    for entry in os.scandir(folder):
        if entry.name.endswith(".so"):
            try:
                ages.append((entry.stat().st_mtime, Path(entry.path)))
            except FileNotFoundError:
                continue  # another process swept it
    if len(ages) > MAX_LIBRARIES:
        for _, path in sorted(ages)[: len(ages) - MAX_LIBRARIES // 2]:
            path.unlink(missing_ok=True)


def _folder() -> Path:
    """Where libraries are kept: the cache folder, or one that goes with this process."""
    settings = config.current()
    if not settings.cache:
        return _private_folder()
    folder = cache_folder(settings) / "emulator"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except OSError:
        return _private_folder()
    # What lies there is loaded as code: nobody else may be able to write it.
    ours = status.st_uid == os.getuid() and not status.st_mode & 0o022
    return folder if ours and os.access(folder, os.W_OK) else _private_folder()


def _private_folder() -> Path:
    return _private_folder_of(os.getpid())


@one_at_a_time
@cache
def _private_folder_of(process: int) -> Path:
    """Of a process, which a child that is forked from it leaves alone."""
    folder = Path(tempfile.mkdtemp(prefix="tilec-emulator-"))
    atexit.register(_remove, folder, process)
    util = sys.modules.get("multiprocessing.util")
    if util is not None:  # a process that it forked ends without a word to atexit
        util.Finalize(None, _remove, (folder, process), exitpriority=0)
    return folder


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
