"""Locks, and functions that run in one thread at a time."""

from __future__ import annotations

import os
import threading
import time
import warnings
from functools import cache

import pytest

from tilec.locks import Lock, one_at_a_time


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_lock_is_free_in_a_process_forked_while_a_thread_held_it() -> None:
    lock, held, done = Lock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock, lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside a thread, from 3.12 on
        child = os.fork()
    if child == 0:
        taken = threading.Thread(target=lock.__enter__, daemon=True)
        taken.start()
        taken.join(5)
        os._exit(taken.is_alive())
    assert os.waitpid(child, 0)[1] == 0
    taken = threading.Thread(target=lock.__enter__, daemon=True)
    taken.start()
    taken.join(0.05)
    assert taken.is_alive()  # here it is held as before
    done.set()
    thread.join()
    taken.join()
