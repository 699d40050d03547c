"""What kernels compute of dimensions in 32 bits: refused at a call exactly where those do not hold it."""

from __future__ import annotations

import itertools
import operator
import random
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tilec.backends.interface import Interface
from tilec.backends.launcher.limits import INDEX_LIMIT, SYMBOL_LIMIT, check_steps
from tilec.backends.launcher.unfit import Unfit
from tilec.backends.manifest import Manifest
from tilec.errors import ArgumentError

SIZES = (0, 1, 7, 1 << 10, 46341, 1 << 16, SYMBOL_LIMIT - 1)
Tree = Any  # a number, "M", "N", "K", or (operation, left, right)
OPERATIONS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "min": T.min,
    "max": T.max,
    "ceildiv": T.ceildiv,
}


def trips(tree: Tree) -> Manifest:
    """The interface of a kernel whose loop ends at a tree of its dimensions."""

    @tilec.kernel
    def looped(X: T.Tensor(("M", "N", "K"), "int8"), Y: T.Tensor((1,), "int32")):
        M, N, K = X.shape
        with T.Kernel(1, threads=32):
            count = T.alloc_var("int32", 0)
            for i in T.serial(grown(tree, {"M": M, "N": N, "K": K})):
                count = i
            if T.get_thread_binding() == 0:
                Y[0] = count

    return tilec.compile(looped, target="cuda:sm_80").interface


def grown(tree: Tree, names: dict[str, Any]) -> Any:
    if isinstance(tree, tuple):
        word, left, right = tree
        return OPERATIONS[word](grown(left, names), grown(right, names))
    return names.get(tree, tree)


def exact_steps(tree: Tree, names: dict[str, int]) -> list[int]:
    """What each step of a tree is, and of a division rounded up its sum too."""
    if not isinstance(tree, tuple):
        return [grown(tree, names)]
    word, left, right = tree
    steps = exact_steps(left, names) + exact_steps(right, names)
    if word == "ceildiv":
        steps.append(grown(left, names) + right - 1)
    return [*steps, grown(tree, names)]


def wrapped(tree: Tree, names: dict[str, int]) -> int:
    """What 32 bits make of a tree."""
    if not isinstance(tree, tuple):
        return int(grown(tree, names))
    word, left, right = tree
    a, b = wrapped(left, names), wrapped(right, names)
    if word == "ceildiv":
        return _in_32_bits(a + b - 1) // b
    return _in_32_bits(OPERATIONS[word](a, b))


def _in_32_bits(n: int) -> int:
    return (n + INDEX_LIMIT) % (2 * INDEX_LIMIT) - INDEX_LIMIT


def any_tree(rng: random.Random, depth: int) -> Tree:
    if depth == 0:
        return rng.choice(["M", "N", "K", rng.choice([1, 2, 64, 1000])])
    word = rng.choice(["*", "*", "*", "+", "-", "//", "ceildiv", "min", "max"])
    left = any_tree(rng, rng.randrange(depth))
    right = rng.choice([1, 3, 64]) if word in ("//", "ceildiv") else any_tree(rng, depth - 1)
    return word, left, right


def refused(manifest: Manifest, names: dict[str, int]) -> bool:
    try:
        for step in manifest.steps:
            check_steps(step.place, step.expression, names, INDEX_LIMIT)
    except Unfit:
        return True
    return False


def test_sizes_are_refused_where_32_bits_give_another_number() -> None:
    rng = random.Random(3)
    outcomes = set()
    for _ in range(24):
        tree = "*", any_tree(rng, 2), any_tree(rng, 2)
        manifest = trips(tree)
        for sizes in itertools.product(rng.sample(SIZES, 3), repeat=3):
            names = dict(zip("MNK", sizes, strict=True))
            steps = exact_steps(tree, names)
            fits = all(-INDEX_LIMIT < step < INDEX_LIMIT for step in steps)
            right = wrapped(tree, names) == grown(tree, names)
            told = refused(manifest, names)
            assert right or told, (tree, names, manifest.steps)
            assert not (told and fits), (tree, names, manifest.steps)
            outcomes.add((right, told))
    assert outcomes == {(True, True), (True, False), (False, True)}


@pytest.mark.parametrize(
    "tree",
    [
        "M",
        ("ceildiv", "K", 64),
        ("//", ("+", "M", 65535), 64),
        ("*", ("ceildiv", "K", 64), 64),
        ("min", ("//", "M", 2), "N"),
        ("*", ("min", "M", 1024), ("min", "N", 1024)),
        ("-", "M", "N"),
    ],
)
def test_nothing_is_said_of_single_dimensions(tree: Tree) -> None:
    assert trips(tree).steps == ()


@tilec.kernel
def over_all(X: T.StridedTensor(("M", "N"), ("s", "t"), "int8"), Y: T.Tensor((1,), "int32")):
    M, N = X.shape
    with T.Kernel(1, threads=32):
        for i in T.serial(T.ceildiv(M * N, 1 << 22)):
            if T.get_thread_binding() == 0:
                Y[0] = i


@tilec.kernel
def in_64_bits(X: T.StridedTensor(("M", "N"), ("s", "t"), "int8"), Y: T.Tensor((1,), "int32")):
    M, N = X.shape
    with T.Kernel(1, threads=32):
        for i in T.serial(T.ceildiv(T.cast(M, "int64") * N, 1 << 22)):
            if T.get_thread_binding() == 0:
                Y[0] = i


@pytest.mark.emulator
@pytest.mark.parametrize("device", ["interpreter", "emulator:cuda:sm_80"])
def test_a_call_that_is_too_large_is_refused_at_the_line(device: str) -> None:
    row, y = np.zeros(1, np.int8), np.zeros(1, np.int32)

    def rows(n: int, m: int) -> np.ndarray:
        return np.lib.stride_tricks.as_strided(row, (n, m), (0, 0), writeable=False)

    over_all(rows(1 << 15, 1 << 15), y, device=device)
    assert y[0] == 255
    for n, m in ((1 << 16, 1 << 15), (1 << 16, 1 << 16)):
        told = (
            rf"test_dimension_steps\.py:\d+ needs \(\(M \* N\) \+ \d+\) = {n * m + (1 << 22) - 1},"
        )
        with pytest.raises(ArgumentError, match=told):
            over_all(rows(n, m), y, device=device)
        in_64_bits(rows(n, m), y, device=device)
        assert y[0] == n * m // (1 << 22) - 1


def test_what_a_launch_does_not_use_is_not_asked() -> None:
    @tilec.kernel
    def unused(X: T.Tensor(("M", "N"), "int8"), Y: T.Tensor((1,), "int32")):
        _ = X.shape[0] * X.shape[1]
        with T.Kernel(1, threads=32):
            Y[0] = X.shape[0]

    assert Interface(tilec.compile(unused, target="cuda:sm_80").program).manifest("").steps == ()
