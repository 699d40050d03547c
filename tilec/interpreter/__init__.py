"""The meaning of tile-level programs, executed in NumPy, with every rule of the language checked as
it runs.
"""

from __future__ import annotations

from .compare import assert_close, assert_exact, tolerance
from .frame import Finding, Frame, Rule
from .run import bind_symbols, returned, run_program
from .same import same_meaning

__all__ = [
    "Finding",
    "Frame",
    "Rule",
    "assert_close",
    "assert_exact",
    "bind_symbols",
    "returned",
    "run_program",
    "same_meaning",
    "tolerance",
]
