"""tilec: a compiler for tile programs written in Python.

    import tilec, tilec.language as T

    @tilec.kernel
    def add_one(A: T.Tensor("N", "float32")): ...

Names are loaded when they are first used, so that `import tilec` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .errors import TilecError
    from .language.autotune import autotune
    from .language.heuristic import heuristic
    from .language.kernel import compile, kernel
    from .language.macro import macro
    from .language.spec import spec
    from .runtime.driver import device
    from .runtime.timing import bench

__all__ = [
    "TilecError",
    "__version__",
    "autotune",
    "bench",
    "compile",
    "device",
    "heuristic",
    "kernel",
    "macro",
    "spec",
]

_HOMES = {
    "TilecError": ".errors",
    "autotune": ".language.autotune",
    "bench": ".runtime.timing",
    "compile": ".language.kernel",
    "device": ".runtime.driver",
    "heuristic": ".language.heuristic",
    "kernel": ".language.kernel",
    "macro": ".language.macro",
    "spec": ".language.spec",
}
_MODULES = ("errors", "extend", "language", "layout", "ops", "quantize", "target")


def __getattr__(name: str) -> object:
    if name in _HOMES:
        if _HOMES[name].startswith(".language."):
            import_module(".parser.python", __name__)  # the language's frontend
        value = getattr(import_module(_HOMES[name], __name__), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module("." + name, __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
