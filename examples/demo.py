"""The main job on this machine, as `make demo` runs it: two kernels compiled, run and checked.

On a GPU with cupy the arrays are cupy's and the kernels run there; otherwise they are NumPy's and
tilec's interpreter runs the same programs. Exit status: 0 when both results are right, 5 when not.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from typing import Any

import dequantize_gemm
import gemm
import numpy as np


def pick_library() -> tuple[Any, str]:
    """(array library, why it was chosen)."""
    if importlib.util.find_spec("cupy") is None:
        return np, "NumPy arrays on the interpreter: cupy is not installed (no GPU driver found)"
    cupy = importlib.import_module("cupy")
    if not cupy.cuda.is_available():
        return np, "NumPy arrays on the interpreter: cupy sees no GPU"
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    return cupy, f"cupy arrays on {name}"


def run_dequantize(xp: Any) -> None:
    """C = A @ dequantize(B).T, B holding uint4 values, two to a byte, low half first."""
    M, N, K = dequantize_gemm.M, dequantize_gemm.N, dequantize_gemm.K
    rng = np.random.default_rng(1)
    # An eighth keeps the sum of K products within float16.
    A = (rng.standard_normal((M, K)) / 8).astype(np.float16)
    values = rng.integers(0, 16, (N, K), dtype=np.uint8)
    packed = (values[:, 0::2] | (values[:, 1::2] << 4)).view(np.int8)
    C = xp.zeros((M, N), dtype=xp.float16)
    dequantize_gemm.main(xp.asarray(A), xp.asarray(packed), C)
    error, share = gemm.check(A, values.astype(np.float16), C if xp is np else xp.asnumpy(C))
    print(
        f"dequantize_gemm [{M}, {K}] x uint4 [{N}, {K}]: {C.size} elements checked against "
        f"64-bit floats, largest error {error:.2e}, {share:.0%} of its bound"
    )


def main() -> int:
    xp, why = pick_library()
    print(f"device: {why}")
    for title, run in (("gemm.py", gemm.main), ("dequantize_gemm.py", run_dequantize)):
        start = time.perf_counter()
        try:
            run(xp)
        except AssertionError as wrong:
            print(f"{title}: WRONG RESULT: {wrong}", file=sys.stderr)
            return 5
        print(f"  {title}: {time.perf_counter() - start:.2f} s with compilation and the check")
    print("both results are right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
