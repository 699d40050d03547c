"""Arguments against parameters: what is bound, and every refusal in the kernel's own names."""

from __future__ import annotations

import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilec.backends.launcher.arguments import fact_holds
from tilec.backends.manifest import (
    Fact,
    LaunchSpec,
    Manifest,
    Param,
    ScalarParam,
    TensorParam,
    Variant,
)
from tilec.errors import ArgumentError
from tilec.ir.dtypes import find_dtype
from tilec.runtime.arrays import ArrayDevice
from tilec.runtime.check_args import bind_arguments, pick_variant
from tilec.runtime.plan import deciding_scalars

from .conftest import device_array

A = TensorParam("A", "f16", ("M", "K"), "r")
B = TensorParam("B", "f16", ("N", "K"), "r")
C = TensorParam("C", "f32", ("M", "N"), "w")


def program(
    *params: Param, symbols: tuple[str, ...] = (), variants: tuple[Variant, ...] = ()
) -> Manifest:
    return Manifest(1, "matmul", "cuda:sm_90a", params, symbols, variants)


GEMM = program(A, B, C, symbols=("M", "N", "K"))


def test_symbols_are_bound_from_the_first_array_that_has_them() -> None:
    bound = bind_arguments(
        GEMM, [device_array((64, 128)), device_array((32, 128)), device_array((64, 32), "f32")]
    )
    assert bound.symbols == {"M": 64, "N": 32, "K": 128}
    assert list(bound.views) == ["A", "B", "C"]
    assert bound.device == ArrayDevice("cuda")
    assert bound.environment(132) == {"M": 64, "N": 32, "K": 128, "@multiprocessors": 132}


def refusal(manifest: Manifest, *arguments: object) -> str:
    with pytest.raises(ArgumentError) as caught:
        bind_arguments(manifest, arguments)
    assert caught.value.code.startswith("TLC08")
    return caught.value.message


GOOD = (device_array((64, 128)), device_array((32, 128)), device_array((64, 32), "f32"))


@pytest.mark.parametrize(
    ("place", "argument", "message"),
    [
        (1, device_array((32, 127)),
         "matmul: B has shape (32, 127), expected (N, K) = (32, 128), with K = 128 from A"),
        (2, device_array((32, 64), "f32"),
         "matmul: C has shape (32, 64), expected (M, N) = (64, 32), "
         "with M = 64 from A, N = 32 from B"),
        (1, device_array((32, 128), "bf16"), "matmul: B has dtype bf16, expected f16"),
        (1, device_array((32, 128, 1)),
         "matmul: B has shape (32, 128, 1), expected 2 dimensions (N, K)"),
        (1, device_array((32, 128), strides=(2, 64)),
         "matmul: B has strides of (2, 64) bytes, expected row-major without gaps"),
        (2, device_array((64, 32), "f32", readonly=True),
         "matmul: C is read-only, and the kernel writes it"),
        (1, device_array((32, 128), device=ArrayDevice("cuda", 1)),
         "matmul: B is on cuda:1, but A is on cuda:0"),
        (1, np.zeros((32, 128), np.float16), "matmul: B is on cpu, but A is on cuda:0"),
        (1, device_array((32, 128), library="torch"),
         "matmul: B is an array of torch, but A of numpy"),
        (1, 3.5, "matmul: B is float, expected an array of f16"),
        (1, [[1.0]], "matmul: B is list, expected an array of f16"),
        (1, None, "matmul: B is NoneType, expected an array of f16"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(place: int, argument: object, message: str) -> None:
    arguments = [*GOOD[:place], argument, *GOOD[place + 1 :]]
    assert refusal(GEMM, *arguments) == message


def test_arrays_that_overlap() -> None:
    a, b, (base, _) = GOOD[0], GOOD[1], (GOOD[0].pointer, 0)
    inside = replace(GOOD[2], pointer=base + 128)
    assert refusal(GEMM, a, b, inside) == (
        "matmul: C, which the kernel writes, lies partly in the memory of A"
    )
    bind_arguments(GEMM, (a, replace(b, pointer=base + 128), replace(inside, pointer=1 << 40)))
    bind_arguments(GEMM, (a, b, replace(inside, pointer=base + 64 * 128 * 2)))


def test_elements_that_lie_across_words() -> None:
    odd = replace(GOOD[1], pointer=GOOD[1].pointer + 1)
    assert refusal(GEMM, GOOD[0], odd, GOOD[2]) == (
        "matmul: B starts at 0x7f0000000001, no multiple of the 2 bytes of its elements"
    )


def test_numpys_own_bools_and_bytes_in_another_order() -> None:
    flags = program(ScalarParam("flag", "bool"), TensorParam("A", "f32", (2,), "r"))
    assert bind_arguments(flags, (np.bool_(True), np.zeros(2, np.float32))).scalars["flag"] == 1
    swapped = np.zeros(2, np.dtype(np.float32).newbyteorder())
    assert "another machine's order of bytes" in refusal(flags, True, swapped)


def test_the_number_of_arguments() -> None:
    assert refusal(GEMM, *GOOD[:2]) == "matmul: takes 3 arguments (A, B, C), 2 came"


def test_literal_extents_are_checked() -> None:
    manifest = program(TensorParam("A", "f16", (64, 128), "r"))
    assert refusal(manifest, device_array((64, 64))) == (
        "matmul: A has shape (64, 64), expected (64, 128)"
    )
    line = program(TensorParam("A", "f16", (64,), "r"))
    assert refusal(line, device_array((63,))) == "matmul: A has shape (63,), expected (64,)"


def test_compound_extents_are_solved_and_checked() -> None:
    packed = TensorParam("P", "u8", ("N", ("floordiv", "K", 2)), "r")
    manifest = program(packed, A, symbols=("M", "N", "K"))
    bound = bind_arguments(manifest, [device_array((8, 32), "u8"), device_array((16, 64))])
    assert bound.symbols["K"] == 64
    message = refusal(manifest, device_array((8, 33), "u8"), device_array((16, 64)))
    assert message.endswith(
        "P has shape (8, 33), expected (N, (K // 2)) = (8, 32), with K = 64 from A"
    )
    twice = program(TensorParam("X", "f16", (("add", ("mul", 2, "M"), 1),), "r"), symbols=("M",))
    assert bind_arguments(twice, [device_array((7,))]).symbols == {"M": 3}
    assert "no argument tells the value of M" in refusal(twice, device_array((8,)))
    alone = program(packed, symbols=("N", "K"))
    assert refusal(alone, device_array((8, 32), "u8")).endswith("no argument tells the value of K")


def test_strides_are_symbols_or_checked() -> None:
    free = program(TensorParam("A", "f16", ("M", "K"), "r", ("lda", 1)), symbols=("M", "K", "lda"))
    wide = device_array((4, 8), strides=(64, 2))
    assert bind_arguments(free, [wide]).symbols == {"M": 4, "K": 8, "lda": 32}
    assert refusal(free, device_array((4, 8), strides=(2, 8))).endswith(
        "A has strides of (2, 8) bytes, expected 1 elements = 2 bytes where it has 8"
    )
    single = device_array((4, 1), strides=(2, 2000))  # the stride of one column says nothing
    assert bind_arguments(free, [single]).symbols["lda"] == 1


def test_extents_of_one_and_zero_need_no_stride() -> None:
    for shape, strides in [((1, 128), (2, 2)), ((5, 1), (2, 999)), ((0, 128), (7, 7)), ((), ())]:
        assert device_array(shape, strides=strides).contiguous
    for shape, strides in [((2, 128), (2, 2)), ((5, 2), (2, 999)), ((2, 2), (4, 4))]:
        assert not device_array(shape, strides=strides).contiguous


@given(st.lists(st.integers(0, 3), max_size=4), st.integers(0, 3), st.integers(1, 3))
def test_contiguity_is_numpys(shape: list[int], axis: int, step: int) -> None:
    array = np.zeros([n * step if i == axis else n for i, n in enumerate(shape)], np.float16)
    index = tuple(slice(None, None, step) if i == axis else slice(None) for i in range(len(shape)))
    part = array[index]
    view = device_array(part.shape, strides=part.strides)
    assert view.contiguous == part.flags.c_contiguous


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "e4m3", "e5m2"])
def test_a_scalar_is_refused_where_it_would_round_to_no_number(dtype: str) -> None:
    """As ml_dtypes and NumPy round: halfway goes to the even neighbour, which may be outside."""
    single = program(ScalarParam("x", dtype))
    numpy_dtype = find_dtype(dtype).numpy
    largest = np.array([ml_dtypes.finfo(numpy_dtype).max]).astype(numpy_dtype)
    below = (largest.view(f"u{largest.itemsize}") - 1).view(numpy_dtype)
    last, before = float(largest[0]), float(below[0])
    halfway = last + (last - before) / 2
    for value in (last, halfway * (1 - 2**-20), halfway, halfway * (1 + 2**-20)):
        for signed in (value, -value):
            with np.errstate(over="ignore"):
                fits = bool(np.isfinite(np.float64(signed).astype(numpy_dtype).astype(np.float64)))
            if fits:
                assert bind_arguments(single, [signed]).scalars == {"x": signed}
            else:
                assert refusal(single, signed).endswith(f"which {dtype} cannot hold")


@pytest.mark.parametrize(
    ("dtype", "largest", "beyond"), [("e2m3", 7.5, 7.75), ("e3m2", 28.0, 30.0)]
)
def test_a_scalar_of_six_bits_is_refused_where_it_would_change(
    dtype: str, largest: float, beyond: float
) -> None:
    """These have no number for what is too large, and none for NaN."""
    single = program(ScalarParam("x", dtype))
    for value in (largest, -largest, math.nextafter(beyond, 0), 0.3):
        assert bind_arguments(single, [value]).scalars == {"x": value}
    for value in (beyond, -beyond, 1e30, math.inf, math.nan):
        assert refusal(single, value).endswith(f"which {dtype} cannot hold")


SCALAR = program(ScalarParam("n", "i32"), ScalarParam("x", "f32"), ScalarParam("flag", "bool"))


def test_scalars_are_taken_as_declared() -> None:
    assert bind_arguments(SCALAR, [np.int64(5), 2, True]).scalars == {"n": 5, "x": 2.0, "flag": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.5, 1.0, True), "matmul: n is 1.5, expected an integer (i32)"),
        ((1 << 31, 1.0, True), "matmul: n is 2147483648, which i32 cannot hold"),
        ((10**9999, 1.0, True), "matmul: n is a number of very many digits, which i32 cannot hold"),
        ((1, 10**9999, True), "matmul: x is a number of very many digits, which f32 cannot hold"),
        ((1, "1", True), "matmul: x is str, expected a number (f32)"),
        ((1, np.zeros(2), True), "matmul: x is ndarray, expected a number (f32)"),
        ((1, 1.0, 2), "matmul: flag is 2, which bool cannot hold"),
    ],
)
def test_scalars_that_would_change_are_refused(arguments: tuple[object, ...], message: str) -> None:
    assert refusal(SCALAR, *arguments) == message


def test_bytes_stand_for_types_that_libraries_lack_and_for_nothing_else() -> None:
    fp8, fp6 = (program(TensorParam("A", d, ("M",), "r"), symbols=("M",)) for d in ("e4m3", "e3m2"))
    for dtype in ("e4m3", "u8", "i8"):
        assert bind_arguments(fp8, [device_array((4,), dtype)]).symbols == {"M": 4}
    for dtype in ("e3m2", "u8", "i8"):
        assert bind_arguments(fp6, [device_array((4,), dtype)]).symbols == {"M": 4}
    assert refusal(fp6, device_array((4,), "e2m3")).endswith("has dtype e2m3, expected e3m2")
    assert refusal(fp8, device_array((4,), "e4m3fnuz")).endswith(
        "has dtype e4m3fnuz, expected e4m3"
    )
    bf16 = program(TensorParam("A", "bf16", ("M",), "r"), symbols=("M",))
    for dtype in ("bf16", "u16", "i16"):  # cupy has no bfloat16
        assert bind_arguments(bf16, [device_array((4,), dtype)]).symbols == {"M": 4}
    assert refusal(bf16, device_array((4,), "f16")).endswith("A has dtype f16, expected bf16")
    plain = program(TensorParam("A", "i8", ("M",), "r"), symbols=("M",))
    assert refusal(plain, device_array((4,), "u8")).endswith("A has dtype u8, expected i8")


@pytest.mark.parametrize(
    ("shape", "strides", "pointer", "holds"),
    [
        ((4, 8), (16, 2), 0x1000, True),
        ((4, 8), (16, 2), 0x1008, False),
        ((4, 7), (14, 2), 0x1000, False),
        ((1, 7), (14, 2), 0x1000, False),
        ((1, 8), (16, 2), 0x1000, True),
        ((4, 1), (2, 2), 0x1000, False),
        ((7,), (2,), 0x1000, True),
        ((2, 3, 8), (40, 16, 2), 0x1000, False),
    ],
)
def test_aligned_means_base_and_outer_strides(
    shape: tuple[int, ...], strides: tuple[int, ...], pointer: int, holds: bool
) -> None:
    view = device_array(shape, strides=strides, pointer=pointer)
    assert fact_holds(Fact("aligned", "A", 16), view) == holds


def test_below_counts_bytes_from_first_to_past_last() -> None:
    view = device_array((4, 8), strides=(100, 2))
    assert view.extent_bytes == 3 * 100 + 7 * 2 + 2
    assert not fact_holds(Fact("below", "A", 316), view)
    assert fact_holds(Fact("below", "A", 317), view)
    assert fact_holds(Fact("below", "A", 1), replace(view, shape=(0, 8)))


@pytest.mark.parametrize(("length", "holds"), [(0, True), (6, True), (7, False)])
def test_whole_is_about_the_length_of_a_row(length: int, holds: bool) -> None:
    for shape in ((length,), (3, length)):
        view = device_array(shape, pointer=0x1002)
        assert fact_holds(Fact("whole", "A", 4), view) == holds
    variant = Variant((Fact("whole", "A", 4),), "even.cu", ())
    manifest = program(TensorParam("A", "f16", ("N",), "r"), symbols=("N",), variants=(variant,))
    if not holds:
        with pytest.raises(ArgumentError, match="A is 14 bytes long, expected a multiple of 4"):
            pick_variant(manifest, {"A": device_array((length,))})


def test_the_first_variant_whose_facts_hold_is_picked() -> None:
    fast = Variant((Fact("aligned", "A", 16), Fact("below", "A", 1 << 31)), "fast.cu", ())
    slow = Variant((Fact("aligned", "A", 4),), "slow.cu", ())
    manifest = program(A, symbols=("M", "K"), variants=(fast, slow))
    assert pick_variant(manifest, {"A": device_array((4, 8))}) is fast
    assert pick_variant(manifest, {"A": device_array((4, 6))}) is slow
    huge = {"A": device_array((1 << 20, 1 << 12))}
    assert pick_variant(manifest, huge) is slow
    with pytest.raises(ArgumentError) as caught:
        pick_variant(manifest, {"A": device_array((1 << 20, 1 << 12), pointer=0x1002)})
    assert "A starts at 0x1002, expected a multiple of 16 bytes" in caught.value.message
    assert f"A spans {1 << 33} bytes, expected fewer than {1 << 31}" in caught.value.message


def test_a_single_row_counts_as_the_program_addresses_it() -> None:
    fast = Variant((Fact("aligned", "A", 16),), "fast.cu", ())
    slow = Variant((), "slow.cu", ())
    manifest = program(A, symbols=("M", "K"), variants=(fast, slow))
    # Seven elements to a row: vectors of eight would read past the end, one row or many.
    assert pick_variant(manifest, {"A": device_array((1, 7), strides=(16, 2))}) is slow
    assert pick_variant(manifest, {"A": device_array((1, 8), strides=(2, 2))}) is fast
    stated = TensorParam("A", "f16", ("M", "K"), "r", ("lda", 1))
    manifest = program(stated, symbols=("M", "K", "lda"), variants=(fast, slow))
    assert pick_variant(manifest, {"A": device_array((1, 7), strides=(16, 2))}) is slow
    assert pick_variant(manifest, {"A": device_array((1, 8), strides=(32, 2))}) is fast
    assert pick_variant(manifest, {"A": device_array((1, 8), strides=(2, 2))}) is slow


def test_an_empty_array_is_not_aligned_but_an_empty_grid_takes_any() -> None:
    launch = LaunchSpec("fast", (), ("M", 1, 1), 32, 0)
    fast = Variant((Fact("aligned", "A", 16),), "fast.cu", (launch,))
    slow = Variant((), "slow.cu", (launch,))
    manifest = program(A, symbols=("M", "K"), variants=(fast, slow))
    for shape, source in (((1, 0), "slow.cu"), ((4, 0), "slow.cu"), ((0, 8), "fast.cu")):
        env = {"M": shape[0], "K": shape[1]}
        assert pick_variant(manifest, {"A": device_array(shape)}, env).source == source
    with pytest.raises(ArgumentError, match="A has no elements"):
        pick_variant(program(A, symbols=("M", "K"), variants=(fast,)), {"A": device_array((1, 0))})


def test_which_scalars_decide_the_plan() -> None:
    params = (TensorParam("A", "f16", (("mul", "n", 2),), "r"), *SCALAR.params)
    assert deciding_scalars(program(*params)) == {"n"}
