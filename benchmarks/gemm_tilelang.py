"""TileLang's GEMM in some configurations. Its annotations are values, so none are postponed here."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import tilelang
import tilelang.language as T

# block_M, block_N, bytes of a block's row along K, stages, threads
CONFIGURATIONS = (
    (128, 256, 128, 4, 256),
    (128, 256, 128, 3, 256),
    (128, 128, 128, 4, 256),
    (64, 128, 128, 4, 128),
)


@cache
def _kernel(M: int, N: int, K: int, dtype: str, out: str, *configuration: int) -> Any:
    block_m, block_n, block_k, stages, threads = configuration

    @tilelang.jit(out_idx=[2])
    def make() -> Any:
        @T.prim_func
        def main(A: T.Tensor((M, K), dtype), B: T.Tensor((N, K), dtype), C: T.Tensor((M, N), out)):
            with T.Kernel(T.ceildiv(N, block_n), T.ceildiv(M, block_m), threads=threads) as (x, y):
                A_s = T.alloc_shared((block_m, block_k), dtype)
                B_s = T.alloc_shared((block_n, block_k), dtype)
                sums = T.alloc_fragment((block_m, block_n), "float32")
                T.use_swizzle(panel_size=10)
                T.clear(sums)
                for k in T.Pipelined(T.ceildiv(K, block_k), num_stages=stages):
                    T.copy(A[y * block_m, k * block_k], A_s)
                    T.copy(B[x * block_n, k * block_k], B_s)
                    T.gemm(A_s, B_s, sums, transpose_B=True)
                T.copy(sums, C[y * block_m, x * block_n])

        return main

    return make()


def launches(
    a: Any, b: Any, c: Any, dtype: str
) -> Iterator[tuple[str, Callable[[], object], Callable[[], Any]]]:
    """The product of torch tensors in each configuration: name, launch, and what was made last;
    none but for A and B that are contiguous along K, which is the form of TileLang's example."""
    if a.stride(1) != 1 or b.stride(0) != 1:
        return
    kept = b.T
    out = str(c.dtype).removeprefix("torch.")
    for block_m, block_n, row, stages, threads in CONFIGURATIONS:
        depth = row // a.element_size()
        made: list[Any] = [None]

        def launch(
            made: list[Any] = made,
            shape: tuple[int, ...] = (block_m, block_n, depth, stages, threads),
        ) -> None:
            made[0] = _kernel(a.shape[0], c.shape[1], a.shape[1], dtype, out, *shape)(a, kept)

        name = f"{block_m}x{block_n}x{depth} stages {stages} threads {threads}"
        yield name, launch, lambda made=made: made[0]
