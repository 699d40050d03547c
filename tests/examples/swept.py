"""The kernels of examples/ as the sweep runs them: small tiles, extents around the tile, arguments
and what they must become."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from tests.kernels import programs
from tests.modules import example, example_targets
from tilec.interpreter import tolerance
from tilec.ir.dtypes import f16, find_dtype

Array = np.ndarray[Any, Any]
Size = tuple[int, ...]
Check = Callable[[Sequence[Array]], object]
"""Raises AssertionError where the arguments, as a run left them, are not what they must be."""

EMULATED = (
    "cuda:sm_75", "cuda:sm_80", "cuda:sm_89", "cuda:sm_90a",
    "hip:gfx90a", "hip:gfx942", "hip:gfx950",
)  # fmt: skip


@dataclass(frozen=True)
class Swept:
    """A kernel with its compile-time parameters. `extents` are the values that each symbolic extent
    takes; `prepare` makes arguments of a size, and the check of what becomes of them."""

    example: str
    kernel: Any
    extents: tuple[tuple[int, ...], ...]
    prepare: Callable[..., tuple[list[Array], Check]]
    constants: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    targets: tuple[str, ...] = EMULATED

    def __str__(self) -> str:
        return self.label or self.example

    def sizes(self) -> list[Size]:
        """Sizes in which any two values of two extents meet."""
        if len(self.extents) < 3:
            return list(itertools.product(*self.extents))
        first, second, *rest = self.extents
        return [
            (a, b, *(values[(i + j * (n + 1)) % len(values)] for n, values in enumerate(rest)))
            for (i, a), (j, b) in itertools.product(enumerate(first), enumerate(second))
        ]


def normal(*shape: int, dtype: Any = np.float16, seed: int = 0) -> Array:
    numbers = np.random.default_rng(seed + sum(shape)).standard_normal(shape)
    return numbers.astype(np.float32).astype(dtype)


def empty(*shape: int, dtype: Any = np.float16) -> Array:
    return np.full(shape, np.nan, np.float32).astype(dtype)


def equal(found: Array, exact: Array) -> None:
    assert np.array_equal(found, exact)


def close(found: Array, exact: Array, terms: int) -> None:
    """Up to a rounding of the result, and of each of `terms` 32-bit operations on numbers near 1."""
    rounding = float(np.finfo(found.dtype).eps)
    allowed = rounding * np.abs(exact) + 4 * terms * np.finfo(np.float32).eps
    assert np.all(np.abs(found.astype(np.float64) - exact) <= allowed)


ROWS = (0, 1, 3, 4, 5, 7)
COLUMNS = (1, 8, 97, 255, 256)
MORE_COLUMNS = (1, 97, 255, 256, 257, 511, 520)
ROW_TILE = {"block_M": 4, "block_N": 256, "threads": 64}
M, N, K = (programs.extents(t) for t in (64, 64, 32))
GEMM_TILE = {"block_M": 64, "block_N": 64, "block_K": 32, "threads": 128}


def rows() -> Iterator[Swept]:
    """Whole rows in registers, or piece by piece."""
    parts = {"whole": False}
    for name, weights, columns, how in (
        ("softmax", 0, COLUMNS, {}), ("rms_norm", 1, COLUMNS, {}), ("rms_norm", 1, MORE_COLUMNS, parts),
        ("layer_norm", 2, (2, *COLUMNS[1:]), {}), ("layer_norm", 2, (2, *MORE_COLUMNS[1:]), parts),
        ("online_softmax", 0, MORE_COLUMNS, {}), ("cumsum", 0, MORE_COLUMNS, {}),
    ):  # fmt: skip
        module = example(name)
        dtype = np.float32 if name == "cumsum" else np.float16

        def prepare(
            m: int, n: int, module: Any = module, weights: int = weights, dtype: Any = dtype
        ) -> tuple[list[Array], Check]:
            inputs = [normal(m, n, dtype=dtype)]
            inputs += [normal(n, dtype=dtype, seed=i) for i in range(weights)]
            exact = module.reference(*inputs) if m else np.zeros((m, n))
            return [*inputs, empty(m, n, dtype=dtype)], lambda a: close(a[-1], exact, 8 + n + m)

        label = f"{name} in parts" if how else ""
        yield Swept(name, getattr(module, name), (ROWS, columns), prepare, ROW_TILE | how, label)


def sums() -> Swept:
    module = example("reductions")

    def prepare(m: int, n: int) -> tuple[list[Array], Check]:
        x = normal(m, n)
        wanted = module.reference(x)

        def check(found: Sequence[Array]) -> None:
            for one, exact in zip(found[1:], wanted, strict=True):
                close(one, exact, 8 + n + m)

        return [x, empty(m, dtype=np.float32), empty(n, dtype=np.float32)], check

    tile = {"block_M": 16, "block_N": 64, "threads": 64}
    extents = ((1, 15, 16, 17, 31, 40), (1, 8, 63, 64, 65, 130))
    return Swept("reductions", module.sums, extents, prepare, tile)


def fp8_cast() -> Swept:
    module = example("fp8_cast")

    def prepare(m: int, n: int) -> tuple[list[Array], Check]:
        x = (np.random.default_rng(m + n).standard_normal((m, n)) * 30).astype(np.float16)
        x[:1, 1:] *= 0.001  # most of a row far below its largest element: subnormal quotients
        x[2:3] = 0
        made = [empty(m, n, dtype=ml_dtypes.float8_e4m3fn), empty(m, dtype=np.float32)]
        return [x, *made], lambda a: module.check(*a)

    return Swept("fp8_cast", module.fp8_cast, (ROWS, COLUMNS), prepare, ROW_TILE)


def elementwise() -> Iterator[Swept]:
    module = example("elementwise")
    inputs: dict[str, Callable[[int, int], list[Array]]] = {
        "add": lambda m, n: [normal(m, n), normal(m, n, seed=1)],
        "add_bias": lambda m, n: [normal(m, n), normal(n), normal(m, 1)],
        "gelu_chain": lambda m, n: [normal(m, n)],
    }
    for name, make in inputs.items():

        def prepare(
            m: int, n: int, name: str = name, make: Any = make
        ) -> tuple[list[Array], Check]:
            given = make(m, n)
            exact = getattr(module, f"reference_{name}")(*given)
            return [*given, empty(m, n)], lambda a: module.check(a[-1], exact)

        tile = {"block_N": 256, "threads": 64}
        extents = ((1, 3, 4, 5, 9), (1, 255, 256, 257, 520))
        yield Swept("elementwise", getattr(module, name), extents, prepare, tile, name)


def moves() -> Iterator[Swept]:
    transpose, gemv = example("transpose"), example("gemv")
    edges = (1, 7, 63, 64, 65, 72, 130)
    yield Swept(
        "transpose",
        transpose.transpose,
        (edges, edges),
        lambda m, n: ([normal(m, n), empty(n, m)], lambda a: equal(a[1], a[0].T)),
    )
    yield Swept(
        "gemv",
        gemv.gemv,
        ((1, 3, 4, 5, 7), (0, 1, 8, 255, 256, 257, 1000)),
        lambda m, k: (
            [normal(m, k), normal(k, seed=1), empty(m, dtype=np.float32)],
            lambda a: gemv.check(*a),
        ),
    )


def gemms() -> Iterator[Swept]:
    """C = A B^T and its kin; the exact ones in small integers."""
    gemm, transposes = example("gemm"), example("gemm_transposes")
    split, stream = example("split_k_gemm"), example("stream_k")
    bf16 = ml_dtypes.bfloat16

    def nt(check: Callable[..., object]) -> Callable[..., tuple[list[Array], Check]]:
        return lambda m, n, k: (
            [normal(m, k), normal(n, k, seed=1), empty(m, n)],
            lambda a: check(*a) if a[2].size else None,
        )

    def integers(m: int, n: int, k: int) -> tuple[list[Array], Check]:
        rng = np.random.default_rng(m + n + k)
        a, b = (rng.integers(-4, 5, s).astype(np.float16) for s in ((m, k), (k, n)))
        exact = split.reference(a, b)
        return [a, b, np.zeros((m, n), np.float32)], lambda found: equal(found[2], exact)

    yield Swept("gemm", gemm.matmul, (M, N, K), nt(gemm.check), {**GEMM_TILE, "stages": 3})
    yield Swept(
        "gemm_transposes",
        transposes.matmul,
        (M, N, K),
        lambda m, n, k: (
            [normal(k, m, dtype=bf16), normal(k, n, dtype=bf16, seed=1), empty(m, n, dtype=bf16)],
            lambda a: transposes.check(*a, True, False) if a[2].size else None,
        ),
        {"block_M": 64, "block_N": 64, "block_K": 32, "transpose_A": True, "dtype": "bfloat16"},
    )
    yield Swept(
        "split_k_gemm",
        split.split_k_gemm,
        (M, N, (0, 1, 31, 32, 33, 63, 513)),
        integers,
        {"split": 3},
    )
    streamed = {**GEMM_TILE, "workers": 4}
    yield Swept(
        "stream_k", stream.stream_k, (M, N, (0, 1, 31, 32, 33, 63, 300)), nt(stream.check), streamed
    )


def hand_written_gemms() -> Iterator[Swept]:
    """Roles, rings and turns as the program says; rows are whole 16 bytes. Up to two steps more than
    there are buffers, and tiles for some blocks only."""
    module = example("gemm_warp_specialized")

    def prepare(m: int, n: int, k: int) -> tuple[list[Array], Check]:
        arrays = [normal(m, k), normal(n, k, seed=1), empty(m, n)]
        return arrays, lambda found: module.check(*found)

    for name, rows in (("matmul", 128), ("pingpong", 64)):
        extents = (
            (0, 1, rows - 1, rows + 1, 4 * rows + 5),
            (8, 56, 64, 72, 200),
            (8, 32, 40, 96, 136),
        )
        tile = {"block_M": rows, "block_N": 64, "block_K": 32, "stages": 3, "blocks": 2}
        targets = example_targets("gemm_warp_specialized")
        kernel = getattr(module, name)
        yield Swept("gemm_warp_specialized", kernel, extents, prepare, tile, name, targets)


def gemms_of_every_dtype() -> Iterator[Swept]:
    """Each on two of the targets that tests/examples/test_gemm_dtypes.py does not run it on."""
    module = example("gemm_dtypes")
    others = ("cuda:sm_75", "hip:gfx90a", "cuda:sm_89", "hip:gfx950")
    for number, dtype in enumerate(module.RESULTS):

        def prepare(m: int, n: int, k: int, dtype: str = dtype) -> tuple[list[Array], Check]:
            a, b = module.operands(dtype, m, n, k)
            c = np.full((m, n), -77, module.numpy_dtype(module.RESULTS[dtype][1]))
            return [a, b, c], lambda found: module.check(dtype, *found)

        targets = others[number % 2 :: 2]
        extents = ((1, 63, 64, 65), (1, 63, 64, 130), (0, 31, 64, 127))
        label = f"gemm_{dtype}"
        yield Swept("gemm_dtypes", module.matmul(dtype), extents, prepare, {}, label, targets)


def attention() -> Swept:
    module = example("flash_attention")

    def prepare(n: int, s: int) -> tuple[list[Array], Check]:
        q, k, v = (normal(1, 2, r, 64, seed=i) for i, r in enumerate((n, s, s)))
        exact = module.reference(q, k, v, True)
        return [q, k, v, empty(1, 2, n, 64)], lambda a: module.check(a[3], exact, v)

    extents = ((1, 63, 64, 65, 130), (0, 1, 63, 64, 65, 129))
    return Swept("flash_attention", module.attention, extents, prepare, {"D": 64, "causal": True})


def convolution() -> Swept:
    module = example("convolution")

    def prepare(h: int, w: int, f: int) -> tuple[list[Array], Check]:
        x, taps = normal(2, h, w, 24), normal(9 * 24, f, seed=1)
        y = empty(2, module.extent(h, 3, 1, 1), module.extent(w, 3, 1, 1), f)
        return [x, taps, y], lambda a: module.check(*a)

    extents = ((1, 5, 8, 9), (1, 7, 8, 16), (1, 40, 64, 65))
    return Swept("convolution", module.convolution, extents, prepare, {"C": 24})


def dequantize_gemm() -> Swept:
    """Its sizes stand in its text."""
    m, n, k = 129, 127, 190

    def prepare() -> tuple[list[Array], Check]:
        values, b = programs.packed(n, k, seed=m)
        a = normal(m, k)
        exact = a.astype(np.float64) @ values.T.astype(np.float64)
        allowed = tolerance(exact, k, a, values.T, find_dtype(f16))

        def check(found: Sequence[Array]) -> None:
            assert np.all(np.abs(found[2].astype(np.float64) - exact) <= allowed)

        return [a, b, empty(m, n)], check

    return Swept("dequantize_gemm", programs.origin(m, n, k), (), prepare)


def mx_gemms() -> Iterator[Swept]:
    """Extents along K end within groups, and between them. Elements of 6 bits on two targets each."""
    module = example("mx_gemm")
    rows: dict[str, tuple[tuple[str, ...], Any]] = {
        "float4_e2m1fn": (EMULATED, ((0, 1, 63, 65), (1, 64, 65, 127), (0, 62, 64, 202))),
        "float6_e2m3fn": (("cuda:sm_90a", "hip:gfx942"), ((1, 65), (63, 65), (63, 202))),
        "float6_e3m2fn": (("cuda:sm_75", "hip:gfx950"), ((0, 63), (1, 127), (31, 201))),
    }
    for elements, (targets, extents) in rows.items():

        def prepare(m: int, n: int, k: int, kind: str = elements) -> tuple[list[Array], Check]:
            weights, scales = module.quantize(normal(n, k, dtype=np.float32, seed=1), kind)
            return [normal(m, k), weights, scales, empty(m, n)], lambda a: module.check(*a)

        constants = {
            "block_M": 64,
            "block_N": 64,
            "threads": 128,
            "stages": 2,
            "elements": elements,
        }
        label = f"mx_gemm_{elements}"
        yield Swept("mx_gemm", module.mx_gemm, extents, prepare, constants, label, targets)


def every_kernel() -> list[Swept]:
    return [
        *rows(), sums(), fp8_cast(), *elementwise(), *moves(), *gemms(), *gemms_of_every_dtype(),
        *hand_written_gemms(), attention(), convolution(), dequantize_gemm(),
        *mx_gemms(),
    ]  # fmt: skip
