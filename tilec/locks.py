"""Locks around what is made once a process, or once a kernel, whichever thread asks first.

Python's own leave two things to be desired: in a process that was forked while another thread held one
it is held for ever, and `functools.cached_property` of Python 3.11 has one, for all objects of a class.
"""

from __future__ import annotations

import functools
import os
from _thread import RLock
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Lock(RLock):  # type: ignore[misc]  # written in C: a signal finds it held within `with`, or not
    """Held by one thread, which may take it again, within a `with` block. It is free in a process that was
    forked while another thread held it: that thread is not there to give it back."""

    def __init__(self) -> None:
        _all.add(self)

    def __reduce__(self) -> tuple[type[Lock], tuple[()]]:
        return Lock, ()  # a copy is another lock, which nobody holds


_all: WeakSet[Lock] = WeakSet()


def _free_all() -> None:
    for lock in list(_all):
        lock._at_fork_reinit()  # type: ignore[attr-defined]  # as threading and logging do


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


class cached_property(functools.cached_property[_R]):  # noqa: TID251 (it replaces that one)
    """As functools' of Python 3.12: without a lock. Threads that ask at once may compute it twice."""

    def __init__(self, function: Callable[[Any], _R]) -> None:
        super().__init__(function)
        self.lock = nullcontext()
