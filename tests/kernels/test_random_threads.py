"""Random programs of threads that meet in shared memory: loops that end when a count there says so, counts
that one thread keeps, exchanges, branches that all take. The interpreter's results from the emulated text,
in which no two accesses may meet without a barrier between.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kernels.machines import TARGETS
from tests.parser.programs import load

pytestmark = pytest.mark.emulator
HEAD = """\
import tilec
import tilec.language as T

@tilec.kernel
def k(G: T.Tensor((72,), "int32"), O: T.Tensor((64,), "int32"), n: T.int32):
    with T.Kernel(1, threads=64):
        S, W = T.alloc_shared((4,), "int32"), T.alloc_shared((16,), "int32")
        X, Y = T.alloc_shared((64,), "int32"), T.alloc_shared((64,), "int32")
        t = T.get_thread_binding()
        if t < 4:
            S[t] = t + 1
        X[t] = t
        Y[t] = G[t]
"""
END = "        O[t] = O[t] + X[t] + Y[t] * 7 + S[t % 3]\n"


class Writer:
    """Draws one program; a statement is its lines."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.names = self.counts = 0

    def text(self) -> str:
        lines = self._some(0, 3, 6)
        return HEAD + "".join(f"        {line}\n" for line in lines) + END

    def _some(self, depth: int, least: int, most: int) -> list[str]:
        simple: list[Callable[[], list[str]]] = [
            self._one_thread, self._each, self._meet, self._seen, self._exchange
        ]  # fmt: skip
        nested = [self._serial, self._branch, self._until, self._until]
        found: list[str] = []
        for _ in range(self.draw.randint(least, most)):
            if depth < 3 and self.draw.random() < 0.5:
                found += self.draw.choice(nested)(depth)
            else:
                found += self.draw.choice(simple)()
        return found

    def _inside(self, head: str, depth: int) -> list[str]:
        return [head, *("    " + line for line in self._some(depth + 1, 1, 2))]

    def _name(self, letter: str) -> str:
        self.names += 1
        return f"{letter}{self.names}"

    def _shared(self) -> str:
        return f"S[{self.draw.randrange(3)}]"

    def _number(self) -> str:
        shift = self.draw.randrange(64)
        other = ("X[t]", f"X[(t + {shift}) % 64]", "Y[63 - t]", "t", "n", "G[t + 8]")
        return self.draw.choice((self._shared(), *other))

    def _one_thread(self) -> list[str]:
        value = f"({self._number()} + {self._number()}) % 7"
        return [f"if t == {self.draw.randrange(3)}:", f"    {self._shared()} = {value}"]

    def _each(self) -> list[str]:
        array = self.draw.choice("XY")
        return [f"{array}[t] = ({array}[t] + {self._shared()}) % 13"]

    def _exchange(self) -> list[str]:
        found = self._name("v")
        return [f"{found} = {self._number()} + {self._number()}", f"X[t] = {found} % 11"]

    def _meet(self) -> list[str]:
        return ["T.sync_threads()"]

    def _seen(self) -> list[str]:
        return [f"O[t] = O[t] * 3 + {self._number()}"]

    def _serial(self, depth: int) -> list[str]:
        bound = self.draw.choice(("2", "n", f"{self._shared()} % 3"))
        return self._inside(f"for {self._name('i')} in T.serial({bound}):", depth)

    def _branch(self, depth: int) -> list[str]:
        found = self._inside(f"if {self._shared()} > 2:", depth)
        return found + self._inside("else:", depth) if self.draw.random() < 0.5 else found

    def _until(self, depth: int) -> list[str]:
        """A loop whose count one thread keeps, and may use for another number behind it."""
        if self.counts == 16:
            return self._each()
        count = f"W[{self.counts}]"
        self.counts += 1
        body = self._inside(f"while {count} < {self.draw.randint(1, 3)}:", depth)
        step = ["if t == 0:", f"    {count} = {count} + 1"]
        last = self.draw.choice(([], self._meet(), self._exchange()))
        after = ["if t == 0:", f"    {count} = 9"] if self.draw.random() < 0.5 else []
        first = ["if t == 0:", f"    {count} = 0", *self.draw.choice(([], self._meet()))]
        return [*first, *body, *("    " + line for line in (*step, *last)), *after]


def check(seed: int, target: str, folder: Path) -> None:
    kernel = load(folder, Writer(seed).text()).k
    found: list[Any] = []
    for device in ("interpreter", f"emulator:{target}"):
        out = np.arange(64, dtype=np.int32)
        kernel((np.arange(72) * 5 % 9).astype(np.int32), out, 2, device=device)
        found.append(out)
    np.testing.assert_array_equal(*found, err_msg=f"seed {seed} on {target}")


def test_threads_meet_in_shared_memory(tmp_path: Path) -> None:
    for seed in range(3, 7):
        check(seed, TARGETS[seed % len(TARGETS)], tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("start", range(100, 200, 20))
def test_more_threads_meet_in_shared_memory(start: int, tmp_path: Path) -> None:
    for seed in range(start, start + 20):
        check(seed, TARGETS[seed % len(TARGETS)], tmp_path)
