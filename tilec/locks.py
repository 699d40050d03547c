"""Locks around what is made once a process, or once a kernel, whichever thread asks first."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar
from weakref import WeakSet

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Lock:
    """Held by one thread, which may take it again, within a `with` block. It is free in a process that was
    forked while another thread held it: that thread is not there to give it back."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _all.add(self)

    def __reduce__(self) -> tuple[type[Lock], tuple[()]]:
        return Lock, ()  # a copy is another lock, which nobody holds

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()


_all: WeakSet[Lock] = WeakSet()


def _free_all() -> None:
    for lock in list(_all):
        lock._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_all)


def one_at_a_time(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Has threads run a function one after another. Around one with a cache: those that ask for the
    same are given the same object, which functools.cache alone may make twice."""
    lock = Lock()

    @functools.wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with lock:
            return function(*args, **kwargs)

    return run
