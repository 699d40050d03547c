"""tilec.ops.matmul beside NumPy in 64 bits: layouts, dtypes, batches, epilogues, parts of K."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import tilec
import tilec.language as T
from tests.kernels.legs import DEVICES, turns
from tilec import ops
from tilec.errors import ArgumentError, TilecError
from tilec.ir.dtypes import find_dtype
from tilec.ops.forms import Form
from tilec.ops.matrices import Matrix
from tilec.ops.operands import read_matrix

matmul = importlib.import_module("tilec.ops.matmul")  # the name in the package is the function
SMALL = ops.Schedule(64, 64, 32, 3, 128)
PARTS = ops.Schedule(64, 64, 32, 3, 128, split=3)


def normal(*shape: int, dtype: str = "float16", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed + sum(shape))
    if dtype in ("int8", "uint8"):
        return rng.integers(0, 256, shape).astype(dtype)
    return rng.standard_normal(shape).astype(np.float32).astype(find_dtype(dtype).numpy)


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32).astype(np.float64) if x.dtype.kind == "V" else x.astype(np.float64)


def check(
    found: np.ndarray, a: np.ndarray, b: np.ndarray, then: Callable[[Any], Any] = lambda x: x
):
    """Language.md's bound: a rounding of the result, and K of sums of the magnitude |a| @ |b|."""
    a, b = wide(a), wide(b)
    expected = then(a @ b)
    assert found.shape == expected.shape
    if found.dtype.kind == "i":
        assert np.array_equal(found, expected)
        return
    rounding = {2: 2.0**-10, 4: 2.0**-23, 8: 2.0**-52}[found.dtype.itemsize]
    rounding = 2.0**-7 if found.dtype.name == "bfloat16" else rounding
    sums = 2.0**-52 if found.dtype == np.float64 else 2.0**-23
    bound = 2 * rounding * np.abs(expected) + (a.shape[-1] + 4) * sums * (np.abs(a) @ np.abs(b))
    assert np.all(np.abs(wide(found) - expected) <= bound + 1e-30)


def layouts(x: np.ndarray) -> list[np.ndarray]:
    """The matrix stored by rows, by columns, with neither stride one, and in longer rows."""
    spread = np.zeros((2 * x.shape[0], 3 * x.shape[1]), x.dtype)[::2, ::3]
    longer = np.zeros((x.shape[0], x.shape[1] + 8), x.dtype)[:, : x.shape[1]]
    spread[...], longer[...] = x, x
    return [x, np.asfortranarray(x), spread, longer]


SHAPES = [(65, 70, 40), (1, 1, 1), (3, 130, 67), (8, 72, 0)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_layout_of_both_operands(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    for a in layouts(normal(m, k)):
        for b in layouts(normal(k, n, seed=1)):
            check(ops.matmul(a, b, schedule=SMALL), a, b)


@pytest.mark.emulator
@pytest.mark.parametrize(("device", "pair"), turns([(0, 1), (1, 0), (1, 1), (2, 3)]))
def test_layouts_on_every_machine(device: str, pair: tuple[int, int]) -> None:
    for m, n, k in SHAPES[:: 1 if pair == (0, 1) else 2]:
        a, b = layouts(normal(m, k))[pair[0]], layouts(normal(k, n, seed=1))[pair[1]]
        with tilec.device(device):
            check(ops.matmul(a, b, schedule=SMALL), a, b)


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("device", "shape"), turns([(129, 130, 33), (136, 129, 40), (128, 136, 40)])
)
def test_operands_without_vectors_are_packed(device: str, shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    spread = layouts(normal(m, k))[2 if m == 128 else 0]
    a, b = spread, normal(n, k, seed=1).T
    with tilec.device(device):
        check(ops.matmul(a, b, schedule=SMALL), a, b)
    if m == 129:
        a, b = np.stack([a, a + 1]), np.stack([b, b])
        with tilec.device(device):
            check(ops.matmul(a, b, schedule=PARTS, epilogue=lambda x, z, i, j: x), a, b)


def test_only_operands_without_vectors_are_packed() -> None:
    def workspaces(a: np.ndarray, b: np.ndarray) -> list[str]:
        call = matmul.check(a, b, matmul.Options())
        lowered = call.kernel.lower(*call.launches[0], target="cuda:sm_90a")
        assert "tma" in lowered.source
        return [tensor.name for tensor in lowered.manifest.workspaces]

    zeros = functools.partial(np.zeros, dtype=np.float16)
    assert workspaces(zeros((256, 64)), zeros((64, 256))) == []
    assert workspaces(zeros((256, 64)), zeros((257, 64)).T) == ["result"]
    assert workspaces(zeros((256, 65)), zeros((256, 65)).T) == ["left", "right"]
    assert workspaces(zeros((256, 64)), zeros((64, 20))) == [], "few columns: C alone is not packed"


def test_lines_that_start_within_sectors_are_told() -> None:
    """Of 32 bytes: lines of 80 and 272 bytes do, and any that are put between two."""
    whole = placed(normal(128, 48))
    assert astray(whole, placed(normal(136, 48)).T) == ""
    assert astray(whole, placed(normal(48, 160), 16)) == "B"
    assert astray(placed(normal(128, 40)), placed(normal(40, 160))) == "A"
    assert astray(placed(normal(128, 40)), placed(normal(40, 136))) == "AB"
    assert astray(whole, placed(normal(137, 48, seed=1)).T[:, 1:]) == ""
    assert astray(normal(128, 41), placed(normal(41, 160))) == "", "A is copied"


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_lines_that_start_within_sectors_are_right(device: str) -> None:
    a, b = placed(normal(200, 40)), placed(normal(264, 40, seed=1), 16).T
    with tilec.device(device):
        check(ops.matmul(a, b), a, b)


def placed(array: np.ndarray, start: int = 0) -> np.ndarray:
    """A copy, row by row, whose address is `start` modulo 32."""
    memory = np.empty(array.nbytes + 32, np.uint8)
    first = (start - memory.ctypes.data) % 32
    found = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


def astray(a: np.ndarray, b: np.ndarray) -> str:
    """Which operands of a product have such lines."""
    left, right = read_matrix("a", a), read_matrix("b", b)
    result = read_matrix("out", np.zeros((left.rows, right.columns), np.float16))
    return matmul.form_of(Form(("f16", "f16"), "f16"), left, right, result).astray


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_the_chosen_schedule_at_tiny_sizes(device: str) -> None:
    for m, n, k in ((1, 64, 200), (0, 3, 4), (2, 0, 4)):
        a, b = normal(m, k), normal(n, k).T
        with tilec.device(device):
            check(ops.matmul(a, b), a, b)


VECTORS = [(1, 24, 1200), (9, 1, 1024), (1, 1, 7), (1, 9, 0), (1, 40, 16), (1, 3, 8197)]


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("device", "dtype"), turns(["float16", "int8", "float8_e4m3fn", "float64"])
)
def test_a_vector_times_a_matrix(device: str, dtype: str) -> None:
    for m, n, k in VECTORS if dtype == "float16" else VECTORS[:2]:
        a, b = normal(m, k, dtype=dtype), normal(n, k, dtype=dtype, seed=1).T
        bias = normal(m, n, dtype="int8" if dtype == "int8" else "float16")
        with tilec.device(device):
            found = ops.matmul(
                a, b, bias=bias, epilogue=lambda x, i, j, bias: x + bias[i, j],
                out_dtype="int32" if dtype == "int8" else "float32",
            )  # fmt: skip
        check(found, a, b, lambda x, bias=bias: x + wide(bias))


@pytest.mark.emulator
def test_many_rows_take_few_threads_each() -> None:
    a, b = normal(2112, 1030), normal(1030, 1, seed=1)
    with tilec.device("emulator:cuda:sm_80"):
        check(ops.matmul(a, b), a, b)


def test_a_vector_whose_elements_lie_apart_is_a_matrix_like_others() -> None:
    a, b = normal(1, 64), normal(40, 32).T
    for x in (a[:, ::2], a[:, :32]):
        check(ops.matmul(x, b), x, b)
    out = np.zeros((80, 3), np.float32)
    ops.matmul(a[:, :32], b, out=out.T[1:2, ::2])
    check(out[::2, 1][None], a[:, :32], b)
    assert not out[1::2].any() and not out[:, ::2].any()


DTYPES = {
    "bfloat16": None, "float32": None, "tfloat32": None, "float64": None, "int8": None,
    "uint8": None, "float8_e4m3fn": "float32", "float8_e5m2": "bfloat16",
}  # fmt: skip


@pytest.mark.emulator
@pytest.mark.parametrize(("device", "dtype"), turns(DTYPES))
def test_every_dtype(device: str, dtype: str) -> None:
    a, b = normal(40, 72, dtype=dtype), normal(33, 72, dtype=dtype, seed=1).T
    given = {"in_dtype": dtype} if dtype == "tfloat32" else {}
    with tilec.device(device):
        found = ops.matmul(a, b, out_dtype=DTYPES[dtype], **given)
    if dtype == "tfloat32":  # a gemm reads not the low 13 bits
        a, b = ((x.view(np.uint32) & 0xFFFFE000).view(np.float32) for x in (a, b))
    check(found, a, b)


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_two_dtypes_of_8_bits_and_exact_sums(device: str) -> None:
    a, b = normal(40, 300, dtype="float8_e4m3fn"), normal(33, 300, dtype="float8_e5m2", seed=1).T
    with tilec.device(device):
        found = ops.matmul(a, b, exact=True, out_dtype="float32")
        held = ops.matmul(
            a.view(np.uint8), b.view(np.uint8), out_dtype="float32",
            in_dtype=("float8_e4m3fn", "float8_e5m2"),
        )  # fmt: skip
    check(found, a, b)
    check(held, a, b)


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_parts_of_k_are_added_in_one_order(device: str) -> None:
    for m, n, k in ((5, 67, 300), (3, 5, 0)):
        a, b, bias = normal(m, k), normal(k, n, seed=1), normal(n)
        with tilec.device(device):
            found = [
                ops.matmul(a, b, schedule=PARTS, epilogue=add_bias, bias=bias, scale=0.5)
                for _ in range(2)
            ]
        assert found[0].tobytes() == found[1].tobytes()
        check(found[0], a, b, lambda x, bias=bias: np.maximum(0.5 * x + wide(bias), 0))


def add_bias(x: Any, i: Any, j: Any, bias: Any, scale: Any) -> Any:
    return T.max(x * scale + bias[j], 0)


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_an_epilogue_reads_arrays_and_numbers(device: str) -> None:
    a, b, residual = normal(70, 40), normal(40, 50, seed=1), normal(70, 50, seed=2)
    with tilec.device(device):
        found = ops.matmul(
            a, b, out_dtype="float32", schedule=SMALL, residual=residual, shift=3, flag=True,
            epilogue=lambda x, i, j, residual, shift, flag: T.if_then_else(
                flag, x + residual[i, j] + shift, 0
            ),
        )  # fmt: skip
    check(found, a, b, lambda x: x + wide(residual) + 3)


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_integers_are_scaled_into_their_own_dtype(device: str) -> None:
    a, b = normal(9, 40, dtype="int8"), normal(40, 20, dtype="int8", seed=1)
    with tilec.device(device):
        found = ops.matmul(a, b, out_dtype="int8", epilogue=lambda x, i, j, s: x * s, s=1e-4)
    exact = np.clip(np.trunc((wide(a) @ wide(b)) * np.float64(np.float32(1e-4))), -128, 127)
    assert np.abs(found - exact).max() <= 1 and found.dtype == np.int8


BATCHES = [
    ((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 3), ()), ((2, 1), (1, 3)), ((), (2,)), ((1,), (1,)),
    ((0,), ()), ((2, 1), (2, 3)),
]  # fmt: skip


@pytest.mark.emulator
@pytest.mark.parametrize(("device", "batches"), turns(BATCHES))
def test_batches_are_broadcast(device: str, batches: tuple[Any, Any]) -> None:
    a, b = normal(*batches[0], 9, 24), normal(*batches[1], 24, 10, seed=1)
    with tilec.device(device):
        check(ops.matmul(a, b, schedule=PARTS), a, b)


@pytest.mark.emulator
@pytest.mark.parametrize(("device", "shared"), turns([True, False]))
def test_an_epilogue_of_a_batch_counts_its_matrices(device: str, shared: bool) -> None:
    a, b = normal(2, 3, 20, 24), normal(*(() if shared else (2, 3)), 24, 10, seed=1)
    table = normal(6, 20, dtype="float32")
    with tilec.device(device):
        found = ops.matmul(
            a, b, schedule=SMALL, table=table, epilogue=lambda x, z, i, j, table: x + table[z, i]
        )
    check(found, a, b, lambda x: x + table.reshape(2, 3, 20, 1))


def test_out_is_written_in_place_whatever_its_strides() -> None:
    a, b = normal(20, 16), normal(16, 30, seed=1)
    for out in layouts(np.zeros((20, 30), np.float32)):
        assert ops.matmul(a, b, out=out) is out
        check(out, a, b)
    wide_array = np.zeros((20, 64), np.float16)
    wide_array[:, :16] = a
    check(ops.matmul(wide_array[:, :16], b, out=wide_array[:, 20:50]), a, b)
    assert not wide_array[:, 16:20].any() and not wide_array[:, 50:].any()


def test_a_call_like_an_earlier_one_is_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same kernel, passed the arrays in the same way: whole, transposed, a row, a column."""
    cases = [(8, 16, 24), (1, 16, 24), (8, 1, 24), (1, 1, 24)]
    kinds = [(np.ascontiguousarray, np.asfortranarray), (np.asfortranarray, np.ascontiguousarray)]
    for m, n, k in cases:
        for of_a, of_b in kinds:
            for out in (
                None,
                np.zeros((m, n), np.float32),
                np.zeros((2 * m, 2 * n), "f4")[::2, ::2],
            ):
                a, b = of_a(normal(m, k)), of_b(normal(k, n))
                ops.matmul(a, b, out=out)
                a[...], b[...] = normal(m, k, seed=2), normal(k, n, seed=3)
                with monkeypatch.context() as context:
                    context.setattr(matmul, "read_shape", None)  # which every check asks
                    found = ops.matmul(a, b, out=out)
                assert out is None or found is out
                check(found, a, b)


def test_what_a_call_depends_on_is_not_taken_from_an_earlier_one() -> None:
    a, b = normal(16, 24), normal(24, 16, seed=1)
    out = np.zeros((16, 16), np.float32)
    for x in (a, np.asfortranarray(a), normal(16, 48)[:, ::2], a[:, :20], a.astype(np.float32)):
        y = b.astype(x.dtype)[: x.shape[1]]
        check(ops.matmul(x, y, out=out), x, y)
        assert ops.matmul(x, y, out_dtype="float64").dtype == np.float64
    memory = np.zeros(2 * 24 * 24, np.float16)
    left, right, apart = memory[:384].reshape(16, 24), b, memory[400:656].reshape(16, 16)
    ops.matmul(left, right, out=apart)
    with pytest.raises(ArgumentError, match="in the memory of a"):
        ops.matmul(left, right, out=memory[128:384].reshape(16, 16))


def test_a_result_is_made_in_what_its_library_has() -> None:
    from tilec.ops.operands import storage_of
    from tilec.runtime.arrays import ArrayDevice, ArrayView

    def matrix(library: str, dtype: str) -> Matrix:
        place = ArrayDevice("cuda")
        return Matrix("a", ArrayView(0, (8, 8), (16, 2), dtype, place, False, library, None))

    assert storage_of(matrix("cupy", "f16"), "bf16", "f16") == "u16"
    assert storage_of(matrix("torch", "f16"), "bf16", "f16") == "bf16"
    assert storage_of(matrix("cupy", "u8"), "e4m3", "e4m3") == "u8", "as a is"
    assert storage_of(matrix("cupy", "u8"), "f16", "e4m3") == "f16"
    assert storage_of(matrix("cupy", "f32"), "f32", "tf32") == "f32"
    assert storage_of(matrix("cupy", "f32"), "tf32", "tf32") == "f32"


A, B = normal(8, 16), normal(16, 8)
REFUSED: list[tuple[Callable[[], Any], str, str]] = [
    (lambda: ops.matmul(A, A), "TLC0810", "16 columns and b 8 rows"),
    (lambda: ops.matmul(A, B.astype(np.float32)), "TLC0810", "a has dtype f16, b has f32"),
    (lambda: ops.matmul(A[0], B), "TLC0810", "a has shape"),
    (lambda: ops.matmul(3, B), "TLC0810", "a is int"),
    (lambda: ops.matmul(A[::-1], B), "TLC0810", "below 0"),
    (lambda: ops.matmul(A.astype(np.int32), B.astype(np.int32)), "TLC0811", "int32"),
    (lambda: ops.matmul(A, B, in_dtype="float8_e4m3fn"), "TLC0803", "expected e4m3"),
    (lambda: ops.matmul(A, B, out=np.zeros((8, 9))), "TLC0810", r"\(8, 9\), the product \(8, 8\)"),
    (lambda: ops.matmul(B.T[:, :8], B[:8], out=B[:8]), "TLC0810", "in the memory of"),
    (lambda: ops.matmul(A, B, bias=A), "TLC0810", "'bias'"),
    (lambda: ops.matmul(A, B, epilogue=3), "TLC0812", "epilogue is 3"),
    (lambda: ops.matmul(A, B, epilogue=lambda x, i: x), "TLC0812", "cannot be called"),
    (lambda: ops.matmul(A, B, epilogue=lambda x, i, j: x, bias=A), "TLC0812", "cannot be called"),
    (lambda: ops.matmul(A, B, epilogue=lambda x, i, j, s: x, s="s"), "TLC0810", "s is str"),
    (lambda: ops.matmul(A, B, epilogue=lambda x, i, j, s: x, s=1 << 63), "TLC0810", "s is 92"),
    (
        lambda: ops.matmul(A, B, epilogue=lambda x, i, j, row: x + row[i, j], row=A[0]),
        "TLC0115",
        r"2 indices into `row`",
    ),
    (
        lambda: ops.matmul(np.zeros((2, 8, 16), "f2"), np.zeros((3, 16, 8), "f2")),
        "TLC0810",
        "batch",
    ),
    (lambda: ops.matmul(A, B, schedule=3), "TLC0810", "schedule is 3"),
    (lambda: ops.matmul(A, B, schedule=replace(SMALL, split=-2)), "TLC0810", "split=-2"),
    (lambda: ops.matmul(A, B, schedule=replace(SMALL, block_M=64.0)), "TLC0810", "block_M=64.0"),
    (lambda: ops.matmul(A, B, schedule=replace(SMALL, threads=True)), "TLC0810", "threads=True"),
    (lambda: ops.matmul(A, B, epilogue=lambda x, i, j: None), "TLC0813", "the epilogue gives None"),
    (lambda: ops.matmul(A, B, out_dtype="float7"), "TLC0110", "float7"),
    (
        lambda: ops.matmul(A, B, out=np.zeros((8, 8), "f4"), out_dtype="float16"),
        "TLC0810",
        "out has dtype f32, and out_dtype is f16",
    ),
    (lambda: ops.matmul(A, B[:, :1], out=as_strided(A, (8, 1), (0, 2))), "TLC0810", "may overlap"),
    (
        lambda: ops.matmul(np.stack((A, A)), B, out=as_strided(A, (2, 8, 8), (0, 16, 2))),
        "TLC0810",
        "may overlap",
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[2][:20])
def test_what_does_not_fit_is_refused_at_the_call(case: tuple[Callable[[], Any], str, str]) -> None:
    call, code, words = case
    with pytest.raises(TilecError, match=words) as caught:
        call()
    assert caught.value.code == code
    assert caught.value.loc.file == __file__ and "ops.matmul" in str(caught.value)


def test_an_error_in_an_epilogue_is_at_its_line() -> None:
    def wrong(x: Any, i: Any, j: Any) -> Any:
        if x > 0:
            return x
        return 0

    with pytest.raises(TilecError) as caught:
        ops.matmul(A, B, epilogue=wrong)
    assert caught.value.loc.file == __file__
    assert caught.value.loc.line == wrong.__code__.co_firstlineno + 1


@pytest.mark.parametrize("columns", [1, 8])
def test_an_epilogue_that_writes_is_refused_at_its_line(columns: int) -> None:
    """Tiles overlap and reach over the end: it would write, or add, more than once for an element."""

    def add(x: Any, i: Any, j: Any, total: Any) -> Any:
        T.atomic_add(total[0], x)
        return x

    def store(x: Any, i: Any, j: Any, total: Any) -> Any:
        total[j] += x
        return x

    total = np.zeros(8, np.float32)
    for wrong in (add, store):
        with pytest.raises(TilecError, match="writes to an array") as caught:
            ops.matmul(A, B[:, :columns], epilogue=wrong, total=total)
        assert caught.value.loc.file == __file__
        assert caught.value.loc.line == wrong.__code__.co_firstlineno + 1


def test_prepare_takes_arrays_of_the_host_too() -> None:
    a, b = normal(5, 16), normal(16, 3, seed=1)
    prepared = ops.prepare_matmul(a, b, out_dtype="float32", epilogue=lambda x, i, j: x + j)
    for factor in (1, 2):
        a *= factor
        result = prepared()
        assert result is prepared()
        check(result - np.arange(3, dtype=np.float32), a, b)


def test_prepare_takes_one_launch() -> None:
    a, b = np.zeros((2, 1, 4, 8), "f2"), np.zeros((1, 3, 8, 4), "f2")
    with pytest.raises(ArgumentError, match="2 launches"):
        ops.prepare_matmul(a, b)


def test_the_stride_of_a_single_row_says_nothing() -> None:
    """Nor does the emulator, whose tensor maps are the launcher's, ask for one of TMA's."""
    a, b = normal(4, 64)[:1][::-1], normal(64, 128, seed=1)
    assert a.strides[0] < 0
    with tilec.device("emulator:cuda:sm_90a"):
        for _ in range(2):
            check(ops.matmul(a, b, schedule=ops.Schedule(64, 64, 64, 2, 128)), a, b)
