"""Kernels run by the interpreter against the same text run by Python.

A text is written once. As a kernel its loops are traced and its variables are T.alloc_var; as plain
Python its loops are `range` and its variables numbers. Both must leave the same numbers behind.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilec.interpreter import run_program
from tilec.ir.ops import builtin_registry

from .programs import HEAD, load, traced

KERNEL = """
@tilec.kernel
def k(A: T.Tensor(16, "int32"), C: T.Tensor(16, "int32"), n: T.int32):
    with T.Kernel(1, threads=1):
        loop, variable = T.serial, lambda x: T.alloc_var("int32", x)
{body}

def plain(A, C, n):
    loop, variable = range, lambda x: x
{body_of_python}
"""

BODIES = {
    "divisions that do not count": """
        for i in loop(16):
            x = A[i] % 4
            if x != 0 and 100 // x > n:
                C[i] = 1
            if x == 0 or 100 % x == 0:
                C[i] += 2
            C[i] += 4 if x > 0 and n // x < 3 else 0
            C[i] += (8 // x) * (8 // x) if x != 0 else 1
    """,
    "sums": """
        total = variable(0)
        for i in loop(n):
            total += A[i]
            C[i] = total
    """,
    "branches": """
        for i in loop(16):
            x = A[i] // 3 % 7
            if x > 3 and i < n:
                C[i] = x
            elif x == 2 or not i % 2 == 0:
                C[i] = -x
            else:
                y = x * 2
                C[i] = y - 1
    """,
    "one of several": """
        for i in loop(16):
            x = A[i] % 8
            if x in (1, n, 5) or i in range(2, 12, 3) and x not in [4, i]:
                C[i] = 7
            if 0 <= x not in {2, 3}:
                C[i] += x
    """,
    "one of two values": """
        for i in loop(16):
            x = A[i] % 4
            C[i] = (x or n + 10) * 100 + (x and i) * 10
            C[i] += (x > 1 and n) + (x > 2 or 5) + (x and x > 1)
            C[i] += 1000 if x and i or n else 0
            if not (x and 100 // x > n or x):
                C[i] += 10000
            y = variable(x and 100 // x or 7)
            while x and y:
                y = y // 3
                C[i] -= y or 2
    """,
    "nested loops with a guard": """
        count = variable(0)
        for i in loop(n):
            for j in loop(i, n, 2):
                if 2 < A[j] <= 40:
                    count += 1
            C[i] = count if i != 3 else 100
    """,
    "collatz": """
        v = variable(n + 20)
        steps = variable(0)
        while v != 1:
            if v % 2 == 0:
                v = v // 2
            else:
                v = 3 * v + 1
            steps += 1
        C[0] = steps
    """,
    "swaps": """
        a = variable(1)
        b = variable(1)
        for i in loop(12):
            C[i] = a
            a, b = b, a + b
    """,
    "order of loads and stores": """
        for i in loop(15):
            x = C[i]
            C[i] = A[i] + x
            C[i + 1] = C[i] - x
    """,
    "counting down": """
        count = variable(0)
        for i in loop(n, -1, -1):
            for j in reversed(loop(i, n, 3)):
                count = (count * 3 + j - i) % 1009
            C[i] = count
        for k in reversed(range(n)):
            for m in range(14, k, -4):
                C[m], count = divmod(C[m] + count * 7 % 1013, 5)
            C[k] += count
    """,
    "defaults of functions": """
        v = variable(n)
        def early(x, seen=v, *, other=v + 1):
            return x * seen + other
        def late(x):
            return x * v
        v = A[3]
        C[0] = early(2) - late(3)
    """,
    "python around it": """
        parts = []
        for i in range(4):
            if i % 2 == 1:
                continue
            parts.append(A[i] * i)
        for i, part in enumerate(parts):
            C[i] = part + len(parts)
    """,
}


def text_of(body: str) -> str:
    plain = textwrap.dedent(body).strip("\n")
    return HEAD + KERNEL.format(
        body=textwrap.indent(plain, " " * 8), body_of_python=textwrap.indent(plain, " " * 4)
    )


def run_both(folder: Path, body: str, A: Any, n: int) -> tuple[Any, Any]:
    module = load(folder, text_of(body))
    found, wanted = np.zeros(16, np.int32), [0] * 16
    run_program(traced(module.k), {"A": A, "C": found, "n": n}, registry=builtin_registry())
    module.plain([int(a) for a in A], wanted, n)
    return found, wanted


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("n", [0, 1, 7, 15])
def test_kernels_mean_what_python_means(tmp_path: Path, body: str, n: int) -> None:
    A = np.random.default_rng(n).integers(-50, 50, 16, dtype=np.int32)
    found, wanted = run_both(tmp_path, body, A, n)
    assert found.tolist() == wanted


def expressions() -> st.SearchStrategy[str]:
    leaves = st.sampled_from(["n", "A[0]", "A[1]", "x", "3", "-2", "1"])

    def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            st.tuples(inner, st.sampled_from([*"+-&|^", "and", "or"]), inner).map(
                lambda t: f"({t[0]} {t[1]} {t[2]})"
            ),
            st.tuples(
                inner, st.sampled_from(["//", "%", "*"]), st.sampled_from(["-3", "2", "5"])
            ).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
            st.tuples(inner, st.sampled_from(["<", "<=", "==", "!="]), inner, inner, inner).map(
                lambda t: f"({t[3]} if {t[0]} {t[1]} {t[2]} else {t[4]})"
            ),
            st.tuples(inner, inner, inner, inner).map(
                lambda t: f"({t[0]} if {t[1]} < {t[2]} < {t[3]} or not {t[0]} else {t[3]})"
            ),
            st.tuples(inner, st.sampled_from(["<<", ">>"]), st.sampled_from("12")).map(
                lambda t: f"({t[0]} {t[1]} {t[2]})"
            ),
        )

    return st.recursive(leaves, grow, max_leaves=8)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(expressions(), min_size=4, max_size=4), st.integers(-9, 9), st.integers(0, 9))
def test_random_expressions(tmp_path: Path, several: list[str], first: int, n: int) -> None:
    """Sixteen-bit inputs and few operations: nothing leaves 32 bits."""
    lines = ["x = n - 4", *(f"C[{i}] = {text}" for i, text in enumerate(several))]
    A = np.array([first, n - 5, *range(14)], np.int32)
    found, wanted = run_both(tmp_path, "\n".join(lines), A, n)
    assert found.tolist() == wanted
