"""The caller's end of the emulator's process: started on demand, restarted after a crash."""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from .errors import EmulatorError, EmulatorTimedOut
from .memory import SharedMemory


class Worker:
    """One child process that runs many requests, one at a time."""

    def __init__(self) -> None:
        self.memory = SharedMemory()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    def request(self, request: Mapping[str, object], timeout: float) -> None:
        """Runs one launch. EmulatorError for a finding, a deadlock, a crash, or no answer in
        `timeout` s."""
        child = self._start()
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            line = self._read_line(child, timeout)
        except BrokenPipeError:
            line = b""
        if line is None:
            self.stop()
            raise EmulatorTimedOut(
                "TLC0783", f"kernel {request['symbol']}: no end after {timeout:g} s"
            )
        if not line:
            status = child.wait()
            self.stop()
            how = (
                f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            )
            raise EmulatorError(
                "TLC0782", f"kernel {request['symbol']}: the emulator's process died by {how}"
            )
        answer = json.loads(line)
        if answer["status"]:
            raise EmulatorError("TLC0780", str(answer["message"]))

    def stop(self) -> None:
        """Ends the child, if there is one; the next request starts another."""
        child, self._child = self._child, None
        if child is None:
            return
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with_suppressed_pipe_errors(pipe.close)
        child.kill()
        child.wait()

    def belongs_here(self) -> bool:
        """False in a process forked from the one that made this: the pipes are the parent's."""
        return self._owner == os.getpid()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.stop()
            script = Path(__file__).with_name("child.py")
            self._child = subprocess.Popen(
                (sys.executable, "-I", str(script), str(self.memory.file)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(self.memory.file,),
            )
        return self._child

    def _read_line(self, child: subprocess.Popen[bytes], timeout: float) -> bytes | None:
        """One line; empty when the child died, None when time ran out."""
        assert child.stdout is not None
        end = time.monotonic() + timeout
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    return None
                piece = os.read(child.stdout.fileno(), 1 << 16)
                if not piece:
                    return b""
                line += piece
        return line


def with_suppressed_pipe_errors(close: Callable[[], None]) -> None:
    """Closes a pipe whose other end may be gone: what was still buffered has no reader."""
    try:
        close()
    except BrokenPipeError:
        return


LOCK = threading.RLock()
"""Held from placing arrays to reading them back: there is one shared memory a process."""

_workers: list[Worker] = []


def current_worker() -> Worker:
    """This process's worker."""
    if not _workers or not _workers[0].belongs_here():
        _workers[:] = [Worker()]
        _register_exit()
    return _workers[0]


@cache
def _register_exit() -> None:
    atexit.register(_stop_all)


def _stop_all() -> None:
    for worker in _workers:
        if worker.belongs_here():
            worker.stop()
