"""The caller's end of the emulator's process: started on demand, restarted after a crash."""

from __future__ import annotations

import atexit
import io
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

from ...locks import Lock
from .child import DIED, ENDLESS
from .errors import EmulatorError, EmulatorTimedOut
from .memory import SharedMemory

GRACE = 5.0  # seconds that a child has to tell where its time went


class Worker:
    """One child process that runs many requests, one at a time, on a memory that it shares."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._child: subprocess.Popen[bytes] | None = None
        self._symbol: object = ""

    def send(self, request: Mapping[str, object]) -> None:
        """Starts one launch, which `receive` waits for."""
        child = self._start()
        assert child.stdin is not None
        self._symbol = request["symbol"]
        # A child that is gone closes its other pipe too: `receive` says how it went.
        with suppress(BrokenPipeError):
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()

    def receive(self, end: float, timeout: float) -> dict[str, Any]:
        """The answer at the end of the launch. EmulatorError for a finding, a deadlock, a crash, or no end after
        `timeout` s, which the child tells itself, or is not there to tell at `end`, by the
        monotonic clock."""
        child = self._child
        assert child is not None
        line = self._read_line(child, end)
        if line is None:
            self.stop()
            raise EmulatorTimedOut("TLC0783", f"kernel {self._symbol}: no end after {timeout:g} s")
        if not line:
            status = child.wait()
            self.stop()
            how = (
                f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            )
            raise EmulatorError(
                "TLC0782", f"kernel {self._symbol}: the emulator's process died by {how}"
            )
        answer: dict[str, Any] = json.loads(line)
        if answer["status"] in (DIED, ENDLESS):
            self.stop()
        raise_for(answer["status"], str(answer["message"]))
        return answer

    @property
    def process_id(self) -> int | None:
        """Of the child, where there is one."""
        return self._child.pid if self._child is not None else None

    def stop(self) -> None:
        """Ends the child, if there is one; the next request starts another."""
        child, self._child = self._child, None
        if child is None:
            return
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what was still buffered has no reader
                    pipe.close()
        child.kill()
        child.wait()

    def disown(self) -> None:
        """Lets go of a child that is the parent process's, without a word to it."""
        child, self._child = self._child, None
        if child is None:
            return
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                cast(
                    io.BufferedWriter, pipe
                ).raw.close()  # what is buffered is the parent's to send
        child.returncode = 0  # it is not for this process to wait for

    def _start(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.stop()
            script = Path(__file__).with_name("child.py")
            self._child = subprocess.Popen(
                (sys.executable, "-I", str(script), str(self._memory.file)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(self._memory.file,),
                process_group=0,  # an interrupt at the terminal is the caller's to hear
            )
        return self._child

    def _read_line(self, child: subprocess.Popen[bytes], end: float) -> bytes | None:
        """One line; empty when the child died, None when time ran out."""
        assert child.stdout is not None
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


def raise_for(status: int, message: str) -> None:
    """EmulatorError for what a launch returned, unless it is 0."""
    if status == DIED:
        raise EmulatorError("TLC0782", message)
    if status == ENDLESS:
        raise EmulatorTimedOut("TLC0783", message)
    if status:
        raise EmulatorError("TLC0780", message)


class Team:
    """The workers of one process of ours, and the memory that all of them share."""

    def __init__(self) -> None:
        self.memory = SharedMemory()
        self.workers: list[Worker] = []

    def request(
        self, requests: Sequence[Mapping[str, object]], timeout: float
    ) -> list[dict[str, Any]]:
        """Runs the parts of one launch, each in a process of its own; the answers of all.
        EmulatorError as the first part that fails has it."""
        while len(self.workers) < len(requests):
            self.workers.append(Worker(self.memory))
        end = time.monotonic() + timeout + GRACE
        busy = self.workers[: len(requests)]
        answers: list[dict[str, Any]] = []
        failures: list[EmulatorError] = []
        try:
            for worker, request in zip(busy, requests, strict=True):
                worker.send(request)
            for worker in busy:
                try:
                    answers.append(worker.receive(end, timeout))
                except EmulatorError as failure:
                    failures.append(failure)
        except BaseException:  # interrupted: nobody will read what the workers answer
            self.stop()
            raise
        if failures:
            raise failures[0]
        return answers

    def stop(self) -> None:
        """Ends every worker's process."""
        for worker in self.workers:
            worker.stop()


LOCK = Lock()
"""Held from placing arrays to reading them back: there is one shared memory a process."""

_teams: list[Team] = []


def current_team() -> Team:
    """This process's team."""
    if not _teams:
        _teams.append(Team())
        _register_exit()
    return _teams[0]


@cache
def _register_exit() -> None:
    atexit.register(_stop_all)


def _stop_all() -> None:
    for team in _teams:
        team.stop()


def _disown_all() -> None:
    """A process that was forked has no team yet: the one that it finds is its parent's."""
    for team in _teams:
        for worker in team.workers:
            worker.disown()
    _teams.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
