"""Tuned programs of the language, called with arrays: `tilec.ops.matmul` and its relatives."""

from __future__ import annotations

from .grouped import grouped_matmul
from .matmul import matmul, prepare_matmul
from .schedules import Schedule, choose_tile

__all__ = ["Schedule", "choose_tile", "grouped_matmul", "matmul", "prepare_matmul"]
