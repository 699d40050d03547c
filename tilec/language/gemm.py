"""`T.gemm`: the product of two matrices in shared memory or fragments; `T.gemm_scaled`: of matrices in
blocks with scales; `T.wgmma_gemm`: issued, and waited for by `T.wait_wgmma`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..errors import LanguageError
from ..ir.core import Value
from ..ir.ops.arith import Not
from ..ir.ops.gemm import Gemm
from ..ir.ops.pipeline import WaitGemms
from ..ir.types import Space
from .areas import area_of, in_memory, slot_of, times
from .arithmetic import truth
from .buffers import Buffer, Slice
from .flags import flag
from .four_bits import check_arithmetic
from .operand import Operand
from .reshape import Reshaped
from .tile import in_fragment
from .trace import Trace, current, refuse

MOST_PENDING = 7  # groups of wgmma that a wait may leave under way


class GemmWarpPolicy(Enum):
    """How T.gemm divides its result among the warps."""

    Square = "square"
    FullRow = "full_row"
    FullCol = "full_col"


def gemm(
    A: Any,
    B: Any,
    C: Any,
    transpose_A: bool = False,
    transpose_B: bool = False,
    policy: GemmWarpPolicy = GemmWarpPolicy.Square,
    clear_accum: Any = False,
    k_pack: int = 1,
    mbar: Any = None,
) -> None:
    """C += op(A) @ op(B), done when it returns.

    Args:
        A: shared memory or fragment (M, K), or (K, M) with `transpose_A`; or a region of one, as
            `A_s[slot, 0:64, :]`. Regions of fragments start at numbers.
        B: (K, N), or (N, K) with `transpose_B`, likewise; of A's dtype, or another of its kind:
            float8_e4m3fn, float8_e5m2, float6_e2m3fn and float6_e3m2fn; the fnuz forms of float8; int8
            and uint8.
        C: fragment (M, N), whole.
        policy: the warps as a square, or all along the rows or the columns of C.
        clear_accum: start from zero instead of C; may be a condition of the kernel.
        k_pack: a hint of other compilers on packing along K; it changes no result.

    Of 8-bit floats Hopper's tensor cores keep about 14 bits of a sum, whatever C's dtype ("DeepSeek-V3
    Technical Report", 2024, section 3.3.2). Where that is too few, sum a few steps of k in a fragment
    of their own, with `clear_accum=k % 4 == 0`, and add that to a second one every fourth step.

    Raises:
        LanguageError: an argument of another kind.
        TypeMismatch: shapes or dtypes that do not fit.
    """
    if mbar is not None:
        raise refuse(
            "TLC0131", "T.gemm takes no barrier: it is done when it returns", hint="leave mbar out"
        )
    _product("T.gemm", A, B, C, transpose_A, transpose_B, policy, clear_accum, asynchronous=False)


def gemm_scaled(
    A: Any,
    B: Any,
    C: Any,
    scale_A: Any,
    scale_B: Any,
    transpose_A: bool = False,
    transpose_B: bool = False,
    policy: GemmWarpPolicy = GemmWarpPolicy.Square,
    clear_accum: Any = False,
) -> None:
    """C += (op(A) * sA) @ (op(B) * sB), where 32 elements along K share a factor 2^(s - 127): the MXFP8,
    MXFP6 and MXFP4 of "OCP Microscaling Formats (MX) Specification" 1.0. Done when it returns.

    Args:
        A, B, C, transpose_A, transpose_B, policy, clear_accum: as those of T.gemm; A and B each of
            float8_e4m3fn, float8_e5m2, float6_e2m3fn, float6_e3m2fn or float4_e2m1fn, K a multiple of 32,
            C of float32. Of float4_e2m1fn, A is shared memory (M, K), B (N, K) with transpose_B: a
            byte's two elements are consecutive k.
        scale_A: shared memory (M, K / 32) of uint8: exponents plus 127 (E8M0); 255 is NaN.
        scale_B: (N, K / 32) likewise.

    Only hip:gfx950 has such instructions (K a multiple of 64, or of 128 for tiles of 16); other targets
    refuse it.

    Raises:
        LanguageError: an argument of another kind.
        TypeMismatch: shapes or dtypes that do not fit.
    """
    what, scales = "T.gemm_scaled", (scale_A, scale_B)
    _product(what, A, B, C, transpose_A, transpose_B, policy, clear_accum, False, scales)


def wgmma_gemm(
    A: Any,
    B: Any,
    C: Any,
    transpose_A: bool = False,
    transpose_B: bool = False,
    policy: GemmWarpPolicy = GemmWarpPolicy.Square,
    clear_accum: Any = False,
    annotations: Any = None,
) -> None:
    """C += op(A) @ op(B) by Hopper's wgmma, as one group that is only issued: it reads A and B and
    writes C until T.wait_wgmma has waited for it.

    Args: as T.gemm; B in shared memory. No statement but T.wgmma_gemm may use C before the wait, and what
    is written to A or B in shared memory before it may or may not be what is multiplied. Of A in a
    fragment it takes what that holds now; the wait for it stands in the same block of statements.

    Raises:
        LanguageError: an argument of another kind.
        TypeMismatch: shapes or dtypes that do not fit.
    """
    what = "T.wgmma_gemm"
    if annotations:
        raise refuse("TLC0164", f"{what} takes no annotations", hint="leave them out")
    buffer = B.buffer if isinstance(B, Slice) else B
    if isinstance(buffer, Buffer) and buffer.type.space is Space.FRAGMENT:
        raise refuse(
            "TLC0164",
            f"B of {what} is {_named(B)}, and wgmma reads it from shared memory",
            hint="T.copy it there, or exchange the operands",
        )
    _product(what, A, B, C, transpose_A, transpose_B, policy, clear_accum, asynchronous=True)


def wait_wgmma(id: int) -> None:
    """Waits until at most `id` of the products that T.wgmma_gemm issued last are under way.

    A fragment all of whose products are older than those may be used again; and what they read in
    shared memory may be written.
    """
    trace = current("T.wait_wgmma")
    trace.need_tile_level("T.wait_wgmma")
    if isinstance(id, bool) or not isinstance(id, int) or not 0 <= id <= MOST_PENDING:
        raise refuse(
            "TLC0164",
            f"T.wait_wgmma({id!r}): a compile-time int, 0 to {MOST_PENDING}",
            hint="0 waits for all of them",
        )
    with trace.here():
        trace.builder.emit(WaitGemms(pending=id))


def _product(
    what: str,
    A: Any,
    B: Any,
    C: Any,
    transpose_A: bool,
    transpose_B: bool,
    policy: GemmWarpPolicy,
    clear_accum: Any,
    asynchronous: bool,
    scales: tuple[Any, ...] = (),
) -> None:
    trace = current(what)
    trace.need_tile_level(what)
    with trace.here():
        if not isinstance(policy, GemmWarpPolicy):
            raise LanguageError(
                "TLC0131",
                f"{what} with policy={policy!r}",
                hint="policies are T.GemmWarpPolicy.Square, FullRow and FullCol",
            )
        left, right = _matrix(trace, "A", A), _matrix(trace, "B", B)
        if not scales:
            check_arithmetic(what, left.buffer.type.dtype, right.buffer.type.dtype)
        keep: tuple[Value, ...] = ()
        if isinstance(clear_accum, Operand):
            keep = (trace.pure(Not(truth(clear_accum))),)
            clear_accum = False
        trace.builder.emit(
            Gemm(
                left.memory, right.memory, _accumulator(C).handle(), keep,
                left.indices, right.indices, tuple(_scale(what, x) for x in scales),
                a_shape=left.shape, a_dims=left.dims, b_shape=right.shape, b_dims=right.dims,
                transpose_a=flag(what, "transpose_A", transpose_A),
                transpose_b=flag(what, "transpose_B", transpose_B),
                clear=flag(what, "clear_accum", clear_accum), policy=policy.value, asynchronous=asynchronous,
            )
        )  # fmt: skip


def _scale(what: str, x: Any) -> Value:
    if isinstance(x, Buffer) and x.type.space is Space.SHARED and not isinstance(x, Reshaped):
        return x.handle()
    raise LanguageError(
        "TLC0131",
        f"a scale of {what} is {_named(x)}, and must be shared memory, whole",
        hint="T.copy it there first",
    )


@dataclass(frozen=True)
class _Matrix:
    """An operand of a product: all of a buffer (or of one `slot` of it), or the region of `shape`
    along `dims`.
    """

    buffer: Buffer
    indices: tuple[Value, ...] = ()
    shape: tuple[int, ...] = ()
    dims: tuple[int, ...] = ()
    slot: Value | None = None

    @property
    def memory(self) -> Value:
        return self.buffer.handle() if self.slot is None else self.slot


def _matrix(trace: Trace, name: str, x: Any) -> _Matrix:
    """An operand as the gemm op takes it. What is no region of memory goes through a fragment of
    its own: a region of a fragment, for registers have no address, and a view of another order.
    """
    buffer = x.buffer if isinstance(x, Slice) else x
    if not (isinstance(buffer, Buffer) and buffer.type.space in (Space.FRAGMENT, Space.SHARED)):
        raise LanguageError(
            "TLC0131",
            f"{name} of T.gemm is {_named(x)}, and must be shared memory or a fragment, or a "
            "region of one",
            hint="T.copy it there first",
        )
    if not isinstance(x, Slice | Reshaped):
        return _Matrix(buffer)
    area = area_of(trace, "T.gemm", x)
    extents = area.extents or ()
    dims = tuple(range(len(extents)))
    if isinstance(x, Slice):
        dims = tuple(d for d, key in enumerate(x.keys) if isinstance(key, slice))
    dims = dims if len(dims) <= 2 else area.kept
    if len(dims) != 2:
        raise LanguageError(
            "TLC0131",
            f"{name} of T.gemm is a region {times(extents)} of {buffer.label}, and must have rows "
            "and columns",
            hint="two slices, and an index in every other dimension: A_s[slot, 0:64, :]",
        )
    place = in_memory(trace, area)
    found = dims if place is area else place.kept
    in_registers = buffer.type.space is Space.FRAGMENT or isinstance(place.buffer, Reshaped)
    if in_registers or len(found) != 2:
        return _Matrix(in_fragment(trace, area, dims))
    slot = slot_of(trace, place)
    if slot is not None:
        return _Matrix(place.buffer, slot=slot)
    shape = tuple((place.extents or ())[d] for d in found)
    return _Matrix(place.buffer, place.indices, shape, found)


def _accumulator(x: Any) -> Buffer:
    if isinstance(x, Buffer) and x.type.space is Space.FRAGMENT:
        return x
    raise LanguageError(
        "TLC0131",
        f"C of T.gemm is {_named(x)}, and must be a fragment, whole",
        hint="give the product a fragment of its own, and copy that",
    )


def _named(x: Any) -> str:
    if isinstance(x, Slice):
        return f"a region of {x.buffer.label}"
    return f"{x.label} in {x.scope()} memory" if isinstance(x, Buffer) else repr(x)
