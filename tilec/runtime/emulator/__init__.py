"""The emulator: a kernel's own text, compiled for the CPU, run thread by thread with every access
checked.

`build` compiles the "cpu" rendering of a kernel; `run` executes a launch on NumPy arrays. Threads
are fibers that yield where a GPU's threads wait; uninitialised values, accesses out of bounds or
not aligned, missing waits and fences, divergent collectives and deadlocks end the launch with an
EmulatorError that says where."""

from __future__ import annotations

from .build import build
from .compilers import HostCompiler, find_host_compiler
from .counts import SHARED, AccessCount, Counts, collecting, counted
from .errors import EmulatorError
from .launch import MODES, ORDERS, Kind, Mode, Order, Value, run

__all__ = [
    "MODES",
    "ORDERS",
    "SHARED",
    "AccessCount",
    "Counts",
    "EmulatorError",
    "HostCompiler",
    "Kind",
    "Mode",
    "Order",
    "Value",
    "build",
    "collecting",
    "counted",
    "find_host_compiler",
    "run",
]
