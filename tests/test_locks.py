"""Locks, and functions that run in one thread at a time."""

from __future__ import annotations

import copy
import os
import threading
import time
import warnings
from collections.abc import Callable
from functools import cache

import pytest

from tilec.locks import Lock, cached_property, one_at_a_time

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")


def test_threads_that_ask_for_the_same_are_given_the_same() -> None:
    @one_at_a_time
    @cache
    def make(what: str) -> object:
        time.sleep(0.01)
        return object()

    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(make("a"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1
    assert make("b") is not make("a") and make.__name__ == "make"


def ends_in_a_child(work: Callable[[], object]) -> bool:
    """Whether `work` ends within some seconds in a process forked now, and raises nothing."""
    here = {thread.ident for thread in threading.enumerate()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside a thread, from 3.12 on
        child = os.fork()
    if child == 0:
        ended = threading.Event()

        def run() -> None:
            if threading.get_ident() in here:  # what a thread of the parent held would be its own
                threading.Event().wait()
            work()
            ended.set()

        for _ in here:  # one is the main thread's, so that one thread has a new number
            threading.Thread(target=run, daemon=True).start()
        os._exit(not ended.wait(5))
    return os.waitpid(child, 0)[1] == 0


@needs_fork
def test_a_lock_is_free_in_a_process_forked_while_a_thread_held_it() -> None:
    lock, held, done = Lock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock, lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    held.wait()
    assert ends_in_a_child(lock.__enter__)
    taken = threading.Thread(target=lock.__enter__, daemon=True)
    taken.start()
    taken.join(0.05)
    assert taken.is_alive()  # here it is held as before
    done.set()
    thread.join()
    taken.join()


@needs_fork
def test_a_property_is_computed_in_a_process_forked_while_a_thread_computed_it() -> None:
    """Of another object: Python 3.11 has one lock for all of a class."""
    begun, done = threading.Event(), threading.Event()

    class Slow:
        @cached_property
        def value(self) -> list[int]:
            begun.set()
            done.wait(5)
            return [1]

    one, other = Slow(), Slow()
    thread = threading.Thread(target=lambda: one.value, daemon=True)
    thread.start()
    begun.wait()

    def compute() -> None:
        done.set()
        assert other.value == [1]

    assert ends_in_a_child(compute)
    done.set()
    thread.join()
    assert one.value is one.value == [1] and one.value is not other.value


def test_a_copy_of_a_lock_is_another_lock() -> None:
    lock = Lock()
    with lock:
        other = copy.deepcopy(lock)
        thread = threading.Thread(target=other.__enter__, daemon=True)
        thread.start()
        thread.join(5)
        assert not thread.is_alive()
