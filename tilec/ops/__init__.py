"""Tuned programs of the language, called with arrays: `tilec.ops.matmul`."""

from __future__ import annotations

from .matmul import matmul, prepare_matmul
from .schedules import Schedule

__all__ = ["Schedule", "matmul", "prepare_matmul"]
