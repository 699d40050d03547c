"""A persistent GEMM in Triton, by tensor descriptors, as a user of Triton would write and tune it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
import triton.language as tl

# block_M, block_N, bytes of a block's row along K, stages, warps
CONFIGURATIONS = (
    (128, 256, 128, 3, 8), (128, 128, 128, 4, 4), (128, 128, 128, 4, 8), (64, 128, 128, 4, 4),
    (64, 64, 256, 4, 4),
)  # fmt: skip


@triton.jit
def product(
    a, b, c, M, N, K, a_pitch, b_pitch,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, ROWS: tl.constexpr,
    PROCESSORS: tl.constexpr, A_COLUMNS: tl.constexpr, B_COLUMNS: tl.constexpr,
):  # fmt: skip
    """C = A @ B; A_COLUMNS: A is kept as [K, M], B_COLUMNS: B as [N, K]."""
    if A_COLUMNS:
        from_a = tl.make_tensor_descriptor(a, [K, M], [a_pitch, 1], [BK, BM])
    else:
        from_a = tl.make_tensor_descriptor(a, [M, K], [a_pitch, 1], [BM, BK])
    if B_COLUMNS:
        from_b = tl.make_tensor_descriptor(b, [N, K], [b_pitch, 1], [BN, BK])
    else:
        from_b = tl.make_tensor_descriptor(b, [K, N], [b_pitch, 1], [BK, BN])
    to_c = tl.make_tensor_descriptor(c, [M, N], [N, 1], [BM, BN])
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, BN)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, PROCESSORS, flatten=False):
        first = tile // (ROWS * tiles_n) * ROWS
        height = min(tiles_m - first, ROWS)
        m = (first + tile % height) * BM
        n = (tile % (ROWS * tiles_n)) // height * BN
        sums = tl.zeros((BM, BN), tl.float32)
        for k in range(0, K, BK):
            if A_COLUMNS:
                left = from_a.load([k, m]).T
            else:
                left = from_a.load([m, k])
            if B_COLUMNS:
                right = from_b.load([n, k]).T
            else:
                right = from_b.load([k, n])
            sums = tl.dot(left, right, sums)
        to_c.store([m, n], sums.to(c.dtype.element_ty))


def launches(a: Any, b: Any, c: Any) -> Iterator[tuple[str, Callable[[], object]]]:
    """The product of torch tensors in each configuration, by name; none where a row's bytes are no
    multiple of 16, which descriptors need."""
    a_columns, b_columns = a.stride(1) != 1, b.stride(0) == 1
    kept_a, kept_b = a.T if a_columns else a, b.T if b_columns else b
    size = a.element_size()
    if any(x.stride(0) * x.element_size() % 16 for x in (kept_a, kept_b, c)):
        return
    triton.set_allocator(lambda size, _, stream: torch.empty(size, device="cuda", dtype=torch.int8))
    (M, K), N = a.shape, b.shape[1]
    processors = torch.cuda.get_device_properties(a.device).multi_processor_count
    for block_m, block_n, row, stages, warps in CONFIGURATIONS:

        def launch(
            block_m: int = block_m, block_n: int = block_n, row: int = row,
            stages: int = stages, warps: int = warps,
        ) -> object:  # fmt: skip
            tiles = triton.cdiv(M, block_m) * triton.cdiv(N, block_n)
            return product[(min(processors, tiles),)](
                kept_a, kept_b, c, M, N, K, kept_a.stride(0), kept_b.stride(0),
                block_m, block_n, row // size, 8, processors, a_columns, b_columns,
                num_stages=stages, num_warps=warps,
            )  # fmt: skip

        yield f"{block_m}x{block_n}x{row // size} stages {stages} warps {warps}", launch
