"""wave_gains: which launches share their last wave by themselves, by the sizes of a call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import tilec
import tilec.language as T
from examples.flash_attention import attention
from examples.gemm import matmul
from tests.passes.planning import found, specialised
from tilec.ir.core import Program
from tilec.ir.ops.control import IF_POSSIBLE, Launch
from tilec.passes.size_choices import for_sizes, sizes_matter
from tilec.target import Target, find_target

HERE = replace(find_target("cuda:sm_90a"), present=True)
SM80 = replace(find_target("cuda:sm_80"), present=True, multiprocessors=132)


def shares(program: Program, target: Target = HERE, **sizes: int) -> bool:
    """Whether the only launch with products shares its last wave."""
    chosen = for_sizes(program, sizes, target)
    asked = [launch.stream_k for launch in found(chosen, Launch)]
    assert set(asked) <= {None, 0, IF_POSSIBLE} and (chosen is program) == (
        IF_POSSIBLE not in asked
    )
    return IF_POSSIBLE in asked


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((8192, 8192, 8192), True),  # 68 of 132 tiles in the last wave
        ((5120, 5120, 5120), True),  # 8
        ((150, 150, 8192), True),  # two tiles in all
        ((8192, 8192, 2048), False),  # the parts cost more than the steps
        ((4096, 4096, 4096), False),  # 116: a helper would have seven of them
        ((8448, 8192, 8192), False),  # nothing is left
        ((0, 8192, 8192), False),
        ((8192, 8192, 0), False),
    ],
)
def test_where_it_pays(sizes: tuple[int, int, int], expected: bool) -> None:
    M, N, K = sizes
    program = specialised(matmul, block_M=128, block_N=256, stages=4, threads=256)
    assert sizes_matter(program, SM80)
    assert shares(program, M=M, N=N, K=K) == expected
    if expected:
        once = for_sizes(program, {"M": M, "N": N, "K": K}, HERE)
        assert for_sizes(program, {"M": N, "N": M, "K": K}, HERE) is once


def test_who_makes_the_call_knows_the_gpu() -> None:
    program = specialised(matmul, block_M=128, block_N=256, stages=4, threads=256)
    sizes = {"M": 5120, "N": 5120, "K": 5120}
    assert shares(program, **sizes) and shares(program, SM80, **sizes)
    assert not shares(program, find_target("cuda:sm_90a"), **sizes)  # one may have fewer processors
    nobody_measured = replace(find_target("hip:gfx942"), present=True)
    assert not shares(program, nobody_measured, **sizes)
    assert not shares(program, M=5120, N=5120)  # K is not known


def test_blocks_that_two_fit_of_are_left_alone() -> None:
    program = specialised(matmul, block_M=128, block_N=128, stages=2, threads=256)
    assert not shares(program, M=5120, N=5120, K=5120)


def test_blocks_that_would_not_run_in_turn_have_more_to_gain() -> None:
    program = specialised(matmul, block_M=128, block_N=256, stages=4, threads=256)
    sizes = {"M": 16384, "N": 16384, "K": 4096}  # 0.75 of one of 63 waves
    assert shares(program, **sizes) and not shares(program, SM80, **sizes)


def known(asked: Any, kind: str = "") -> Any:
    """A product whose extents are known when it is traced, but for a number of steps."""
    options = {"pinned": {"persistent": False}, "clustered": {"cluster": 2}}.get(kind, {})

    @tilec.kernel
    def product(
        A: T.Tensor((5120, 8192), "float16"),
        C: T.Tensor((5120, 5120), "float16"),
        ends: T.Tensor((1,), "int32"),
        steps: T.int32,
    ):
        with T.Kernel(20, 40, threads=256, stream_k=asked, **options) as (bx, by):
            A_s, B_s = T.alloc_shared((128, 64), "float16"), T.alloc_shared((256, 64), "float16")
            acc = T.alloc_fragment((128, 256), "float32")
            T.clear(acc)
            last = T.min(steps, 128)
            if kind == "read":
                last = ends[0]
            elif kind == "by block":
                last = T.min(last, bx + 100)
            for _ in range(1000 * (kind == "long")):
                last = (last + last) // 2
            for k in T.Pipelined(last, num_stages=4):
                T.copy(A[by * 128, k * 64], A_s)
                T.copy(A[bx * 256, k * 64], B_s)
                T.gemm(A_s, B_s, acc, transpose_B=True)
                if kind == "scaled":
                    for i, j in T.Parallel(128, 256):
                        acc[i, j] = acc[i, j] * 0.5
            T.copy(acc, C[by * 128, bx * 256])

    return product


def test_numbers_that_a_call_passes_count_too() -> None:
    program = specialised(known(None))
    assert shares(program, steps=128) and not shares(program, steps=4)


def test_long_sums_of_values_used_twice() -> None:
    program = specialised(known(None, "long"))
    assert shares(program, steps=128) and not shares(program, steps=4)


@pytest.mark.parametrize(
    ("asked", "kind"),
    [(False, ""), (None, "pinned"), (None, "clustered"), (None, "scaled"), (None, "read"),
     (None, "by block")],
)  # fmt: skip
def test_what_is_left_as_it_is(asked: Any, kind: str) -> None:
    program = specialised(known(asked, kind))
    assert not shares(program, steps=128)
    assert sizes_matter(program, SM80) == (kind in ("read", "by block"))


def test_small_tiles_have_long_steps() -> None:
    program = specialised(matmul, block_M=64, block_N=64, stages=8, threads=128)
    assert shares(program, M=150, N=150, K=8192) and not shares(program, M=150, N=150, K=2048)


def test_elements_of_less_than_a_byte() -> None:
    """Two stages of these leave no room for another block; half as much would."""

    @tilec.kernel
    def packed(A: T.Tensor(("M", "K"), "float16"), B: T.Tensor(("N", "K"), "int4"),
               C: T.Tensor(("M", "N"), "float16"), deep: int = 256):  # fmt: skip
        M, N, K = C.shape[0], C.shape[1], A.shape[1]
        with T.Kernel(T.ceildiv(N, 128), T.ceildiv(M, 128), threads=256) as (bx, by):
            A_s, B_s = T.alloc_shared((128, deep), "float16"), T.alloc_shared((128, deep), "int4")
            B_wide = T.alloc_fragment((128, deep), "float16")
            acc = T.alloc_fragment((128, 128), "float32")
            T.clear(acc)
            for k in T.Pipelined(T.ceildiv(K, deep), num_stages=2):
                T.copy(A[by * 128, k * deep], A_s)
                T.copy(B[bx * 128, k * deep], B_s)
                T.copy(B_s, B_wide)
                T.gemm(A_s, B_wide, acc, transpose_B=True)
            T.copy(acc, C[by * 128, bx * 128])

    sizes = {"M": 1024, "N": 1024, "K": 8192}
    assert shares(specialised(packed), **sizes)
    assert not shares(specialised(packed, deep=128), **sizes)


def test_attention_is_no_sum_of_products() -> None:
    defaults = {p.name: p.default for p in attention.parameters if p.kind == "constant"}
    program = attention.trace(defaults, {"D": 128})
    assert not sizes_matter(program, SM80) and not found(program, Launch)[0].stream_k


def test_examples_say_what_text_is_made_for() -> None:
    """The text of a call by its sizes; right for all."""
    tiles = {"block_M": 128, "block_N": 256, "stages": 4, "threads": 256}

    def lowered(n: int, target: Target = HERE) -> Any:
        spec = tilec.spec((n, n), "float16")
        return matmul.lower(spec, spec, spec, target=target, **tiles)

    assert "TLC0338" in [r.code for r in lowered(5120).remarks]
    assert lowered(5120) is lowered(8192) is not lowered(4096)
    assert "TLC0338" not in [r.code for r in lowered(4096).remarks]
    shared, alone = lowered(5120), lowered(4096)
    assert len(shared.launches) == 2 and len(alone.launches) == 1
    assert shared.threads == alone.threads == 384 and shared.grid == (132, 1, 1)
    assert shared.shared_bytes == alone.shared_bytes
    assert lowered(5120, find_target("cuda:sm_90a")) is lowered(4096)
