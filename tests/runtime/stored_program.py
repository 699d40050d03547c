"""A program that test_stored.py runs in a process of its own: one call of a kernel on the stub."""

from __future__ import annotations

import json
import os
import sys
from functools import partial

import tilec
import tilec.language as T


@tilec.kernel
def add(
    A: T.Tensor("N", "float32"), B: T.Tensor("N", "float32"), C: T.Tensor("N", "float32"),
    block: int = 512,
):  # fmt: skip
    with T.Kernel(T.ceildiv(A.shape[0], block), threads=128) as bx:
        for i in T.Parallel(block):
            C[bx * block + i] = A[bx * block + i] + B[bx * block + i]


def main(library: str) -> None:
    """Calls `add` on arrays that claim to be on a GPU, whose driver is the stub."""
    from tilec.runtime import compiled, gpu_device
    from tilec.runtime.arrays import ArrayDevice, ArrayView
    from tilec.runtime.cuda import CudaDriver

    os.environ["TILEC_TARGET"] = "cuda:sm_80"
    driver = CudaDriver(library)
    compiled.driver_of = gpu_device.driver_of = lambda kind: driver
    launches: list[tuple[int, ...]] = []

    def launch(grid: tuple[int, ...]) -> int:
        launches.append(grid)
        return 0

    driver.binding = lambda function, grid, spec: lambda stream, params: partial(launch, grid)  # type: ignore[method-assign]
    arrays = [
        ArrayView(0x7F00_0000_0000 + 0x1_0000 * i, (1000,), (4,), "f32", ArrayDevice("cuda"),
                  False, "numpy", None)
        for i in range(3)
    ]  # fmt: skip
    add(*arrays)
    (found,) = add.remembered.plain.found.values()
    symbol = found.compiled.loaded().manifest.variants[0].launches[0].symbol
    print(
        json.dumps(
            {
                "grid": launches[0],
                "launches": len(launches),
                "symbol": symbol,
                "modules": sorted(sys.modules),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
