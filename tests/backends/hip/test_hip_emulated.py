"""HIP bodies on the emulator with waves of 64: the gfx942 GEMM, MFMA, buffers; and faults that it
must catch.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.backends.hip.gemm_gfx942 import gemm_body, gemm_frame
from tilec.backends.manifest import Argument, Expr, LaunchSpec
from tilec.backends.prelude import FrameParameter, KernelFrame, Need, render_source
from tilec.ir.layout import fragments
from tilec.runtime.emulator import ORDERS, EmulatorError, build, run

pytestmark = pytest.mark.emulator
Array = NDArray[Any]
DTYPES: dict[str, Any] = {
    "f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64,
    "i8": np.int8, "i32": np.int32, "u8": np.uint8, "tf32": np.float32,
    "e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz, "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e2m3": ml_dtypes.float6_e2m3fn, "e3m2": ml_dtypes.float6_e3m2fn,
}  # fmt: skip


def launch(
    frame: KernelFrame,
    grid: tuple[Expr, Expr, Expr],
    arguments: dict[str, Any],
    order: Any = "forward",
    beside: tuple[KernelFrame, ...] = (),
    races: bool = True,
) -> None:
    """Runs `frame` with waves of 64; `arguments` by parameter, arrays in place.

    It is built together with the kernels `beside` it, which saves most of the compiler's time.
    """
    library = build(render_source("cpu", beside or (frame,), warp_size=64))
    spec = LaunchSpec(
        symbol=frame.name,
        arguments=tuple(Argument(p.kind, p.name, p.dtype, None) for p in frame.parameters),
        grid=grid,
        threads=frame.threads,
        shared_bytes=frame.shared_bytes,
    )
    run(library, spec, arguments, order=order, seed=3, races=races)


def run_gemm(
    frame: KernelFrame,
    a: Array,
    b: Array,
    beside: tuple[KernelFrame, ...] = (),
    races: bool = True,
) -> list[Array]:
    """C in each of the three orders of threads and blocks."""
    (m, k), n = a.shape, b.shape[0]
    results = []
    for order in ORDERS:
        c = np.full((m, n), 7, a.dtype)
        grid = (("ceildiv", "N", 128), ("ceildiv", "M", 128), 1)
        launch(frame, grid, {"A": a, "B": b, "C": c, "M": m, "N": n, "K": k}, order, beside, races)
        results.append(c)
    return results


def operands(m: int, n: int, k: int, dtype: str) -> tuple[Array, Array]:
    rng = np.random.default_rng(m * 7 + n * 3 + k)
    return tuple(rng.standard_normal(s).astype(DTYPES[dtype]) for s in ((m, k), (n, k)))  # type: ignore[return-value]


def within_tolerance(c: Array, a: Array, b: Array) -> bool:
    """Half a unit of the output's last place, and 2^-16 of the products' sizes for f32 sums."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    reference = wide_a @ wide_b.T
    half_unit = 2.0**-11 if c.dtype == np.float16 else 2.0**-8
    allowed = np.abs(reference) * half_unit + 2.0**-16 * (np.abs(wide_a) @ np.abs(wide_b).T)
    return bool(np.all(np.abs(c.astype(np.float64) - reference) <= allowed))


GEMMS = {(dtype, edge): gemm_frame(dtype, edge) for dtype in ("f16", "bf16") for edge in (32, 16)}


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("edge", [32, 16])
def test_gemm_equals_numpy_in_every_order(dtype: str, edge: int) -> None:
    sizes = [
        (128, 128, 32),
        (150, 140, 88),
        (100, 132, 72),
        (257, 60, 8),
        (1, 4, 40),
        (250, 200, 96),
    ]
    if edge == 16:  # which stores single elements, so N is free
        sizes += [(77, 131, 24), (129, 1, 16)]
    for m, n, k in sizes:
        a, b = operands(m, n, k, dtype)
        results = run_gemm(GEMMS[dtype, edge], a, b, tuple(GEMMS.values()))
        assert within_tolerance(results[0], a, b), (m, n, k)
        for other in results[1:]:
            assert np.array_equal(results[0].view(np.uint16), other.view(np.uint16)), (m, n, k)


# Where, what stands there, what the fault puts there, how it shows: a message, or a wrong result.
FAULTS = {
    "no barrier in the loop": (
        32,
        "    barrier();  // the only one of a step\n",
        "",
        "result|uninitialised",
    ),
    "no barrier after the first tile": (32, "  barrier();\n", "", "uninitialised"),
    "barrier in one wave only": (
        32,
        "  barrier();\n",
        "  if (wave == 0) barrier();\n",
        "deadlock|uninitialised",
    ),
    "rows of C as of another layout": (16, "lane / 16 * 4 + q", "lane / 16 + q * 4", "result"),
    "operands swapped": (
        32,
        "b, j * 8 + h * 4, a, i * 8 + h * 4",
        "a, i * 8 + h * 4, b, j * 8 + h * 4",
        "result",
    ),
    "k of the halves not paired": (16, "b, j * 8 + h * 4", "b, j * 8 + (1 - h) * 4", "result"),
    "divergent mfma": (
        32,
        "mfma<32, 32, 8>",
        "if (lane < 40) mfma<32, 32, 8>",
        "divergent|deadlock",
    ),
    "registers that depend on the lane": (
        16,
        "(i * 4 + j) * 4, a,",
        "(i * 4 + j) * 4 % (lane + 9), a,",
        "lane",
    ),
    "stores into the tile in use": (
        32,
        "(1 - slot) * 4096 + (row",
        "slot * 4096 + (row",
        "result|uninitialised",
    ),
    "read with another swizzle": (
        32,
        "lane / 32) ^ (lane / 2 % 4)",
        "lane / 32) ^ (lane % 4)",
        "result",
    ),
    "no bound along K": (32, "k_next < K", "true", "result"),
    "no bound along N": (16, "n < N", "true", "result"),
    "a buffer longer than its tensor": (
        32,
        "make_buffer(A, M * K)",
        "make_buffer(A, M * K + 8)",
        "which has",
    ),
    "shared memory overrun": (
        32,
        "wn + i * 32) * 32 + at",
        "wn + i * 96) * 32 + at",
        "shared elements",
    ),
    "accumulator not cleared": (32, "  fill_registers<64>(acc, 0, 0.0f);\n", "", "uninitialised"),
    "16 bytes from an odd address": (
        32,
        "A_b, (m0 + row + i * 64) * K + k",
        "A_b, (m0 + row) * K + 1 + k",
        "multiple",
    ),
    "an accumulator too few": (
        16,
        "(i * 4 + j) * 4, a,",
        "(i * 4 + j) * 4 + 4, a,",
        "register index",
    ),
    "writes to an input": (32, "buffer_store<4>(C_b", "buffer_store<4>(A_b", "read-only"),
}


FAULTY = {
    fault: replace(
        gemm_frame("f16", edge, gemm_body("f16", edge).replace(right, wrong)),
        name=f"faulty_{number}",
    )
    for number, (fault, (edge, right, wrong, _)) in enumerate(FAULTS.items())
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault: str) -> None:
    edge, right, _, shows = FAULTS[fault]
    assert right in gemm_body("f16", edge)
    a, b = operands(150, 140, 88, "f16")
    kinds = shows.split("|")
    shown = ""
    try:
        results = run_gemm(FAULTY[fault], a, b, tuple(FAULTY.values()), races=False)
    except EmulatorError as error:
        shown = error.message
    else:
        if not all(within_tolerance(c, a, b) for c in results):
            shown = "result"
    assert any(kind in shown for kind in kinds), shown or "the fault went unnoticed"
    if shown != "result":
        with pytest.raises(EmulatorError):
            run_gemm(FAULTY[fault], a, b, tuple(FAULTY.values()))


def test_columns_that_do_not_divide_are_found_and_not_mangled() -> None:
    a, b = operands(32, 130, 32, "f16")  # rows of C are not multiples of 8 bytes
    with pytest.raises(EmulatorError, match="multiple"):
        run_gemm(GEMMS["f16", 32], a, b, tuple(GEMMS.values()))


MFMA = [
    (32, 8, "f32", "f16"), (16, 16, "f32", "f16"), (32, 8, "f32", "bf16"), (16, 16, "f32", "bf16"),
    (32, 2, "f32", "f32"), (16, 4, "f32", "f32"), (16, 4, "f64", "f64"), (32, 8, "i32", "i8"),
    (16, 16, "i32", "i8"), (32, 16, "i32", "i8"), (16, 32, "i32", "i8"), (32, 4, "f32", "tf32"),
    (16, 8, "f32", "tf32"), (32, 16, "f32", "f16"), (16, 32, "f32", "f16"),
    (32, 16, "f32", "bf16"), (16, 32, "f32", "bf16"), (32, 32, "i32", "i8"),
    (16, 64, "i32", "i8"), (32, 16, "f32", "e4m3"), (16, 32, "f32", "e4m3"),
    (32, 16, "f32", "e5m2"), (16, 32, "f32", "e5m2"), (16, 32, "f32", "e4m3fnuz"),
    (32, 16, "f32", "e5m2fnuz"),
]  # fmt: skip


SIX_BITS = ("e2m3", "e3m2")
FLOAT8 = (("e4m3", "e5m2"), ("e4m3fnuz", "e5m2fnuz"))
# Of two floats of 8 or 6 bits: M, K, dtypes of A and B.
MFMA_SMALL = [
    *((m, k, a, b) for m, k in ((32, 16), (16, 32)) for a, b in FLOAT8),
    *((m, k, b, a) for m, k in ((32, 16), (16, 32)) for a, b in FLOAT8),
    *((m, k, a, b) for m, k in ((32, 64), (16, 128)) for a in FLOAT8[0] for b in FLOAT8[0]),
    (32, 64, "e2m3", "e3m2"),
    (16, 128, "e3m2", "e3m2"),
    (32, 64, "e4m3", "e3m2"),
    (16, 128, "e2m3", "e5m2"),
]


def mfma_frame(m: int, k: int, d: str, t: str, use: str = "", right: str = "") -> KernelFrame:
    """One wave: registers from A, B and D, one element a register, D written back; B of dtype `right`
    where that is given."""
    right = right or t
    count, rows = m * k // 64, m * m // 64
    body = f"""
    regs<{t}, {count}> a; regs<{right}, {count}> b; regs<{d}, {rows}> c;
    for (i32 e = 0; e < {count}; ++e) {{
      a[e] = A[thread_id() * {count} + e];
      b[e] = B[thread_id() * {count} + e];
    }}
    for (i32 r = 0; r < {rows}; ++r) c[r] = D[thread_id() * {rows} + r];
    {use or f"mfma<{m}, {m}, {k}>(c, 0, a, 0, b, 0);"}
    for (i32 r = 0; r < {rows}; ++r) D[thread_id() * {rows} + r] = c[r];"""
    pointers = (("A", t, True), ("B", right, True), ("D", d, False))
    return KernelFrame(
        name=f"mfma_{m}_{k}_{t}_{right}",
        parameters=tuple(FrameParameter("pointer", n, dtype, const=c) for n, dtype, c in pointers),
        threads=64,
        shared_bytes=0,
        body=body,
        needs=(Need("regs"), Need("thread_id"), Need("mfma", mfma_key(m, k, d, t, right))),
    )


def mfma_key(m: int, k: int, d: str, t: str, right: str) -> tuple[int | str, ...]:
    return (m, m, k, d, *dict.fromkeys((t, right)))


def mfma_places(m: int, k: int, d: str, operand: str = "") -> tuple[Array, Array]:
    """By lane and element the (row, k) of A, which is also the (column, k) of B; by lane and
    register the (row, column) of D; `operand` is the dtype of A, which matters where it has 6 bits. Written
    out from the CDNA3 manual's tables, apart from the prelude's formulas."""
    count = m * k // 64
    a = np.zeros((64, count, 2), int)
    for group, row, e in itertools.product(range(64 // m), range(m), range(count)):
        if count == 32 and operand not in SIX_BITS:  # 16 elements in either half of k
            a[group * m + row, e] = row, k // 2 * (e // 16) + 16 * group + e % 16
        else:
            a[group * m + row, e] = row, group * count + e
    out = np.zeros((64, m * m // 64, 2), int)
    for column, group in itertools.product(range(m), range(64 // m)):
        if m == 32:  # blocks of 8 rows, half of each block in either half of the wave
            rows = [block * 8 + group * 4 + i for block in range(4) for i in range(4)]
        elif d == "f64":
            rows = [group, group + 4, group + 8, group + 12]
        else:
            rows = [group * 4 + i for i in range(4)]
        out[group * m + column] = [(row, column) for row in rows]
    return a, out


@pytest.mark.parametrize(("m", "k", "d", "t"), MFMA)
def test_mfma_layouts(m: int, k: int, d: str, t: str) -> None:
    places, out = mfma_places(m, k, d)
    rng = np.random.default_rng(m + k)
    a, b = (rng.integers(-4, 5, (m, k)).astype(DTYPES[t]) for _ in "ab")
    c = rng.integers(-99, 100, (m, m)).astype(DTYPES[d])
    registers = {
        "A": a[places[..., 0], places[..., 1]].copy(),
        "B": b[places[..., 0], places[..., 1]].copy(),
        "D": c[out[..., 0], out[..., 1]].copy(),
    }
    beside = tuple(mfma_frame(*shape) for shape in MFMA)
    launch(mfma_frame(m, k, d, t), (1, 1, 1), registers, beside=beside)
    bits = a.dtype.itemsize * 8
    # The compiler's own idea of these layouts.
    assert np.array_equal(fragments.mfma("a", m, m, k, bits).coords(), places)
    assert np.array_equal(fragments.mfma("c", m, m, k, bits).coords(), out)
    expected = c.astype(np.int64) + a.astype(np.int64) @ b.astype(np.int64).T
    got = np.zeros_like(expected)
    got[out[..., 0], out[..., 1]] = registers["D"].astype(np.int64)
    assert np.array_equal(got, expected)


@pytest.mark.parametrize(("m", "k", "t", "right"), MFMA_SMALL)
def test_mfma_of_two_dtypes(m: int, k: int, t: str, right: str) -> None:
    (places, out), (columns, _) = (mfma_places(m, k, "f32", x) for x in (t, right))
    rng = np.random.default_rng(m + k)
    a, b = (rng.integers(-4, 5, (m, k)).astype(DTYPES[x]) for x in (t, right))
    registers = {
        "A": a[places[..., 0], places[..., 1]].copy(),
        "B": b[columns[..., 0], columns[..., 1]].copy(),
        "D": np.zeros((64, m * m // 64), np.float32),
    }
    beside = tuple(mfma_frame(mm, kk, "f32", tt, right=rr) for mm, kk, tt, rr in MFMA_SMALL)
    launch(mfma_frame(m, k, "f32", t, right=right), (1, 1, 1), registers, beside=beside)
    for operand, dtype, found in (("a", t, places), ("b", right, columns)):
        bits = 6 if dtype in SIX_BITS else 8
        assert np.array_equal(fragments.mfma(operand, m, m, k, bits).coords(), found)
    got = np.zeros((m, m))
    got[out[..., 0], out[..., 1]] = registers["D"]
    assert np.array_equal(got, a.astype(np.float64) @ b.astype(np.float64).T)


@pytest.mark.parametrize(("threads", "use", "message"), [
    (64, "if (thread_id() != 5) mfma<16, 16, 16>(c, 0, a, 0, b, 0);", "deadlock"),
    (96, "mfma<16, 16, 16>(c, 0, a, 0, b, 0);", "whole wave"),
    (64, "regs<f16, 4> z; mfma<16, 16, 16>(c, 0, z, 0, b, 0);", "uninitialised"),
])  # fmt: skip
def test_mfma_refuses(threads: int, use: str, message: str) -> None:
    frame = mfma_frame(16, 16, "f32", "f16", use)
    frame = KernelFrame(frame.name, frame.parameters, threads, 0, frame.body, frame.needs)
    arrays = {
        "A": np.ones(512, np.float16),
        "B": np.ones(512, np.float16),
        "D": np.ones(512, np.float32),
    }
    with pytest.raises(EmulatorError, match=message):
        launch(frame, (1, 1, 1), arrays)


@pytest.mark.parametrize(("k", "d", "t"), [(16, "i32", "i8"), (32, "f32", "e4m3")])
def test_what_is_uninitialised_spreads_through_mfma(k: int, d: str, t: str) -> None:
    """In types that have no NaN to say so, too."""
    use = f"""regs<{t}, {k // 4}> z;
    for (i32 e = 0; e < {k // 4 - 1}; ++e) z[e] = a[e];
    mfma<16, 16, {k}>(c, 0, z, 0, b, 0);"""
    arrays = {n: np.ones(16 * k, DTYPES[t]) for n in "AB"} | {"D": np.ones(256, DTYPES[d])}
    with pytest.raises(EmulatorError, match="uninitialised"):
        launch(mfma_frame(16, k, d, t, use), (1, 1, 1), arrays)


def test_xf32_reads_no_low_bits() -> None:
    """As the language says of tfloat32; f32 reads all of them."""
    arrays = {"A": np.zeros((16, 8), np.float32), "B": np.eye(16, 8, dtype=np.float32)}
    arrays["A"][3, 5] = 1 + 2.0**-10 + 2.0**-11
    places, out = mfma_places(16, 8, "f32")
    registers = {n: x[places[..., 0], places[..., 1]].copy() for n, x in arrays.items()}
    registers["D"] = np.zeros((64, 4), np.float32)
    launch(mfma_frame(16, 8, "f32", "tf32"), (1, 1, 1), registers)
    product = np.zeros((16, 16))
    product[out[..., 0], out[..., 1]] = registers["D"]
    assert product[3, 5] == 1 + 2.0**-10 and np.count_nonzero(product) == 1


def buffer_frame(body: str, dtype: str = "f16") -> KernelFrame:
    names = (
        "regs",
        "thread_id",
        "fill_registers",
        "make_buffer",
        "buffer_load",
        "buffer_store",
        "set_priority",
    )
    return KernelFrame(
        name="buffers",
        parameters=(
            FrameParameter("pointer", "P", dtype, const=True),
            FrameParameter("pointer", "Q", dtype),
            FrameParameter("symbol", "n"),
            FrameParameter("symbol", "shift"),
        ),
        threads=64,
        shared_bytes=0,
        body=body,
        needs=tuple(Need(n) for n in names),
    )


def run_buffers(
    body: str, size: int = 256, dtype: str = "f16", n: int = 256, shift: int = 0
) -> Array:
    """Q after the body; P counts from 1."""
    p = (np.arange(size) % 100 + 1).astype(DTYPES[dtype])
    q = np.full(size, -1).astype(DTYPES[dtype])
    launch(buffer_frame(body, dtype), (1, 1, 1), {"P": p, "Q": q, "n": n, "shift": shift})
    return q


COPY = """buffer<{t}> B = make_buffer(P, n);
  buffer<{t}> C = make_buffer(Q, n);
  regs<{t}, {c}> r;
  set_priority<1>();
  buffer_load<{c}>(r, 0, B, thread_id() * {c} + shift, {p});
  buffer_store<{c}>(C, thread_id() * {c}, r, 0, {q});"""


@pytest.mark.parametrize(
    ("dtype", "count"), [("f16", 4), ("f16", 1), ("i8", 4), ("f32", 4), ("f64", 2)]
)
def test_buffers_end_where_they_say(dtype: str, count: int) -> None:
    size, n = 64 * count, 40 * count
    body = COPY.format(t=dtype, c=count, p="thread_id() % 3 != 0", q="thread_id() % 5 != 0")
    q = run_buffers(body, size, dtype, n, shift=count)
    i = np.arange(size)
    lane = i // count
    p = np.where((lane % 3 != 0) & (i + count < n), (i + count) % 100 + 1, 0)
    expected = np.where((lane % 5 != 0) & (i < n), p, -1)
    assert np.array_equal(q.astype(np.int64), expected)


def test_negative_indices_are_outside() -> None:
    q = run_buffers(COPY.format(t="f32", c=1, p="true", q="true"), 64, "f32", 64, shift=-10)
    assert np.array_equal(q, [max(0, i - 10 + 1) if i >= 10 else 0 for i in range(64)])


def test_an_access_may_leave_by_whole_words() -> None:
    # 4 halves are two words; the buffer ends between those of lane 10.
    body = COPY.format(t="f16", c=4, p="true", q="true")
    q = run_buffers(body, 256, "f16", n=42)
    assert np.array_equal(q[:42], np.arange(42) + 1) and np.all(q[42:] == -1)


@pytest.mark.parametrize(("body", "n", "shift", "message"), [
    (COPY.format(t="f16", c=4, p="true", q="true"), 43, 0, "4-byte word"),
    (COPY.format(t="f16", c=4, p="true", q="true"), 256, 2, "multiple"),
    (COPY.format(t="f16", c=1, p="true", q="true"), 257, 0, "which has 256"),
    (COPY.format(t="f16", c=1, p="true", q="true"), -1, 0, "buffer of -1"),
    (COPY.format(t="f16", c=1, p="true", q="true"), 256, 1 << 30, "32 bits"),
    ("regs<f16, 1> r; buffer_store<1>(make_buffer(P, n), 0, r, 0, true);", 256, 0, "uninitialised"),
    ("regs<f16, 1> r; fill_registers<1>(r, 0, P[0]);"
     "buffer_store<1>(make_buffer(P, n), 0, r, 0, true);", 9, 0, "read-only"),
])  # fmt: skip
def test_buffers_refuse(body: str, n: int, shift: int, message: str) -> None:
    with pytest.raises(EmulatorError, match=message):
        run_buffers(body, n=n, shift=shift)
