"""Text of a variant to machine code, through the cache."""

from __future__ import annotations

from ..target import Target, find_target
from .binary import Binary
from .cache import DiskCache, cache_key
from .compilers import Compiler, pick_compiler
from .user_cache import user_cache


def compile_variant(
    text: str,
    target: str | Target,
    name: str,
    compiler: Compiler | None = None,
    store: DiskCache | None = None,
    arch: str = "",
) -> Binary:
    """`text` (called `name` in messages) as machine code for `target` (or for `arch`, a newer
    machine that can run what was emitted for it), by `compiler` or the preferred one, from `store`
    or the user's cache where it was compiled before. Raises CompilerFailed with the log,
    MissingTool."""
    chosen = pick_compiler(target) if compiler is None else compiler
    disk = user_cache() if store is None else store
    arch = arch or find_target(target).arch
    if disk is None:
        return chosen.compile(text, name, arch)
    key = cache_key("binary", chosen.name, chosen.version, arch, name, text)
    entry = disk.get(key)
    if entry is not None:
        log, label = entry.metadata.get("log"), entry.metadata.get("compiler")
        if isinstance(log, str) and isinstance(label, str):
            return Binary.from_log(entry.payload, log, label)
    binary = chosen.compile(text, name, arch)
    disk.put(key, {"log": binary.log, "compiler": binary.compiler, "name": name}, binary.code)
    return binary
