"""Programs that are wrong, each in a way of its own: what a stranger, or somebody who means harm,
may write. `PROGRAMS` has the file's text by name.
"""

from __future__ import annotations

HEAD = """\
from __future__ import annotations
import tilec
import tilec.language as T
import tilec.layout as layout
"""
PARAMETERS = 'A: T.Tensor(("M", "N"), "float16"), B: T.Tensor(("M", "N"), "float16")'
LAUNCH = "T.Kernel(T.ceildiv(A.shape[0], 32), threads=128) as bx"
ONE = "T.Kernel(1, threads=32)"
WAIT = "b = T.alloc_barrier([128] * 2)\n"
SHARED = "S = T.alloc_shared((32, 32), 'float16')\n"
FRAGMENT = "F = T.alloc_fragment((32, 32), 'float32')\n"


def kernel(body: str, parameters: str = PARAMETERS, launch: str = LAUNCH) -> str:
    """A file with one kernel of one launch."""
    lines = "".join(f"        {line}\n" for line in body.splitlines())
    return f"{HEAD}\n@tilec.kernel\ndef k({parameters}):\n    with {launch}:\n{lines}"


def roles(body: str) -> str:
    """A file with one kernel of two warpgroups."""
    return kernel(body, launch="T.Kernel(1, threads=256) as bx")


def launch(text: str) -> str:
    return kernel("pass", launch=text)


def whole(text: str) -> str:
    return HEAD + "\n@tilec.kernel\n" + text


VECTOR = 'A: T.Tensor((32,), "float16")'
SQUARES = 'A: T.Tensor((32, 32), "float16"), B: T.Tensor((32, 32), "float16")'
WRITE = "    with T.Kernel(1, threads=32):\n        A[0] = 1\n"

PROGRAMS: dict[str, str] = {
    # Extents and shapes
    "tensor of no dimension": kernel("B[0] = 1", 'B: T.Tensor((), "float16")', ONE),
    "tensor of a negative extent": kernel("B[0] = 1", 'B: T.Tensor((-4,), "float16")', ONE),
    "tensor without a shape": whole(f'def k(A: T.Tensor("float16")):\n{WRITE}'),
    "symbol that is no name": whole(f'def k(A: T.Tensor(("M N",), "float16")):\n{WRITE}'),
    "row of half a byte": kernel("pass", 'X: T.Tensor((3, 3), "int4")', ONE),
    "buffer of no dimension": kernel("T.alloc_shared((), 'float16')"),
    "buffer of a negative extent": kernel("T.alloc_shared((-4, 3), 'float16')"),
    "buffer of no elements": kernel("T.alloc_shared((0, 32), 'float16')"),
    "dtype before the shape": kernel("T.alloc_shared('float16', (32, 32))"),
    "buffer of a float extent": kernel("T.alloc_shared((4.0, 32), 'float16')"),
    "tile of 20 GB": kernel("S = T.alloc_shared((100000, 100000), 'float16')\nT.copy(A[0, 0], S)\n"
                            "T.copy(S, B[0, 0])"),
    "tiles that do not fit": kernel("S = T.alloc_shared((512, 128), 'float16')\n"
                                    "R = T.alloc_shared((512, 128), 'float16')\n"
                                    "T.copy(A[0, 0], S)\nT.copy(B[0, 0], R)\nT.copy(S, B[0, 0])\n"
                                    "T.copy(R, A[0, 0])"),
    "fragment of 32 MB": kernel("F = T.alloc_fragment((4096, 4096), 'float16')\nT.copy(A[0, 0], F)\n"
                                "T.copy(F, B[0, 0])"),
    # Launches
    "no thread": launch("T.Kernel(1, threads=0)"),
    "threads below none": launch("T.Kernel(1, threads=-32)"),
    "half a thread": launch("T.Kernel(1, threads=32.5)"),
    "threads in words": launch("T.Kernel(1, threads='many')"),
    "threads in four dimensions": launch("T.Kernel(1, threads=(1, 2, 3, 4))"),
    "threads known at run time": launch("T.Kernel(1, threads=A.shape[0])"),
    "grid of four dimensions": launch("T.Kernel(1, 2, 3, 4, threads=32)"),
    "grid of none": launch("T.Kernel(threads=32)"),
    "grid below none": launch("T.Kernel(-1, threads=32)"),
    "half a block": launch("T.Kernel(2.5, threads=32)"),
    "grid by zero": launch("T.Kernel(T.ceildiv(A.shape[0], 0), threads=32)"),
    "three blocks as two": launch("T.Kernel(1, 2, 3, threads=32) as (bx, by)"),
    "launch in a launch": kernel("with T.Kernel(1, threads=32):\n    pass"),
    "no launch": whole(f"def k({VECTOR}):\n    pass\n"),
    "copy behind the launch": whole(f"def k({SQUARES}):\n    with T.Kernel(1):\n        pass\n"
                                    "    T.copy(A, B)\n"),
    "fragment behind its launch": whole(
        f"def k({SQUARES}):\n    with T.Kernel(1):\n        F = T.alloc_fragment((32, 32), 'float16')\n"
        "        T.copy(A, F)\n    with T.Kernel(1):\n        T.copy(F, B)\n"),
    "fragment before the launch": whole(
        f"def k({SQUARES}):\n    F = T.alloc_fragment((32, 32), 'float16')\n    with T.Kernel(1):\n"
        "        T.copy(A, F)\n"),
    "binding of too many threads": kernel("for t in T.thread_binding(256, thread='threadIdx.x'):\n"
                                          "    B[0, t] = 1"),
    "binding of no dimension": kernel("for t in T.thread_binding(128, thread='threadIdx.q'):\n"
                                      "    B[0, t] = 1"),
    # Moves and products
    "copy of other shapes": kernel(SHARED + "F = T.alloc_fragment((16, 32), 'float16')\nT.copy(S, F)"),
    "copy of other ranks": kernel(SHARED + "F = T.alloc_fragment((32,), 'float16')\nT.copy(S, F)"),
    "copy of a number": kernel("T.copy(3, B)"),
    "product in global memory": kernel(FRAGMENT + "T.gemm(A, B, F)"),
    "product into shared memory": kernel(SHARED + "C = T.alloc_shared((32, 32), 'float32')\n"
                                         "T.gemm(S, S, C)"),
    "product of vectors": kernel("S = T.alloc_shared((32,), 'float16')\n" + FRAGMENT
                                 + "T.gemm(S, S, F)"),
    "product of floats into integers": kernel(SHARED + "C = T.alloc_fragment((32, 32), 'int32')\n"
                                              "T.gemm(S, S, C)"),
    "product of integers and floats": kernel(SHARED + "R = T.alloc_shared((32, 32), 'int8')\n"
                                             + FRAGMENT + "T.gemm(S, R, F)"),
    "product of no policy": kernel(SHARED + FRAGMENT + "T.gemm(S, S, F, policy='diagonal')"),
    "reduction of no dimension": kernel(FRAGMENT + "G = T.alloc_fragment((32,), 'float32')\n"
                                        "T.reduce_sum(F, G, dim=2)"),
    "reduction of another shape": kernel(FRAGMENT + "G = T.alloc_fragment((16,), 'float32')\n"
                                         "T.reduce_sum(F, G, dim=0)"),
    "bits of floats": kernel(FRAGMENT + "G = T.alloc_fragment((32,), 'float32')\n"
                             "T.reduce_bitand(F, G, dim=1)"),
    "atomic of a byte": kernel("T.atomic_add(X[0], 1)", 'X: T.Tensor((4,), "int8")', ONE),
    "layout of nothing": kernel("T.annotate_layout(None)"),
    "layout of a fragment": kernel(FRAGMENT + "T.annotate_layout({F: layout.make_linear_layout(F)})"),
    "reshape to other elements": kernel(SHARED + "T.reshape(S, (5, 5))"),
    "view of other elements": kernel(SHARED + "T.view(S, (32, 32), 'float32')"),
    "panels of no rows": kernel("T.use_swizzle(0)"),
    # Elements and indices
    "index below the first": kernel("B[0, 0] = A[-1, 0]"),
    "index behind the last": kernel("S = T.alloc_shared((32,), 'float16')\nS[32] = 1"),
    "index of a float": kernel("B[0.5, 0] = 1"),
    "index of text": kernel("B['a', 0] = 1"),
    "index too few": kernel("B[0] = 1"),
    "slice that is assigned to": kernel("B[0:32, 0:32] = A[0:32, 0:32]"),
    "diagonal of a fragment": kernel(FRAGMENT + "for i, j in T.Parallel(32, 2):\n    F[i, i] = j\n"
                                     "T.copy(F, B[0, 0])"),
    "fragment that is shifted": kernel(
        FRAGMENT + "G = T.alloc_fragment((32, 32), 'float32')\nT.clear(F)\n"
        "for i, j in T.Parallel(32, 32):\n    G[i, (j + 1) // 2] = F[i, j]\nT.copy(G, B[0, 0])"),
    "region of a fragment that is no registers": kernel(
        "F = T.alloc_fragment((32, 64), 'float32')\nS = T.alloc_shared((32, 32), 'float32')\nT.clear(S)\n"
        "T.fill(F, 0)\nT.copy(S, F[0:32, 0:32])\nT.copy(F, B[0, 0])"),
    "division by zero": kernel("B[bx % 0, 0] = 1"),
    "sum of 1500 terms": kernel(
        "x = 1\nB[0, 0] = (\n    " + "\n    + ".join(["A[0, 0]"] * 1500) + ")"),
    "shift by 40": kernel("B[bx << 40, 0] = 1"),
    "power of two by a float": kernel("B[0, 0] = T.ldexp(A[0, 0], A[0, 1])"),
    "neighbour of a half": kernel("B[0, 0] = T.nextafter(A[0, 0], A[0, 1])"),
    "cast to nothing": kernel("B[0, 0] = T.cast(A[0, 0], 'real')"),
    "buffer as a condition": kernel("if A:\n    B[0, 0] = 1"),
    "buffers that are compared": kernel("if A == B:\n    B[0, 0] = 1"),
    "buffers that are added": kernel("C = A + B"),
    "loop over a buffer": kernel("for x in A:\n    B[0, 0] = x"),
    "length of a buffer": kernel("B[0, 0] = len(A)"),
    "shape that is set": kernel("A.shape = 3"),
    # Loops
    "Parallel over nothing": kernel("for i in T.Parallel():\n    B[0, 0] = 1"),
    "Parallel below none": kernel("for i in T.Parallel(-3):\n    B[0, i] = 1"),
    "Parallel over 10^10": kernel("for i, j, n in T.Parallel(1000, 100000, 100):\n    B[i, j] = 1"),
    "Parallel unpacked": kernel("for i, j in T.Parallel(32):\n    B[i, j] = 1"),
    "step of 0": kernel("for i in T.serial(0, 4, 0):\n    B[0, i] = 1"),
    "stages below none": kernel("for i in T.Pipelined(4, num_stages=-2):\n    pass"),
    "half a stage": kernel("for i in T.Pipelined(4, num_stages=1.5):\n    pass"),
    "loop in a list": kernel("x = [A[0, i] for i in T.serial(4)]"),
    "loop without end": kernel("while True:\n    B[0, 0] = 1"),
    "barrier of some threads": kernel("t = T.get_thread_binding()\nif t < 3:\n    T.sync_threads()"),
    # Schedules that are the program's own
    "warpgroup that is not there": roles("with T.ws(2):\n    pass"),
    "warpgroups apart": roles("with T.ws(1, 0):\n    pass"),
    "warpgroup of two roles": roles("with T.ws(0):\n    T.sync_warp()\nwith T.ws(0, 1):\n    T.sync_warp()"),
    "role in a role": roles("with T.ws(0):\n    with T.ws(1):\n        pass"),
    "copy by no role": roles("S = T.alloc_shared((32, 32), 'float16')\nT.copy(A[0, 0], S)\n"
                             "with T.ws(0):\n    T.copy(S, B[0, 0])"),
    "barrier of no arrivals": roles("T.alloc_barrier(0)"),
    "barriers of floats": roles("T.alloc_barrier([1.5] * 4)"),
    "barrier in a loop": roles("for i in T.serial(4):\n    T.alloc_barrier(1)"),
    "barrier that nobody arrives at": roles(WAIT + "T.mbarrier_wait_parity(b[0], 0)"),
    "barrier without a number": roles(WAIT + "T.mbarrier_wait_parity(b, 0)"),
    "barrier that is copied": roles(WAIT + "T.copy(b, A[0, 0])"),
    "barrier out of its ring": roles(WAIT + "T.mbarrier_arrive(b[2])"),
    "parity of a float": roles(WAIT + "T.mbarrier_arrive(b[0])\nT.mbarrier_wait_parity(b[0], A[0, 0])"),
    "parity of 2": roles(WAIT + "T.mbarrier_arrive(b[0])\nT.mbarrier_wait_parity(b[0], 2)"),
    "bytes of a value": roles(WAIT + "T.mbarrier_expect_tx(b[0], bx)"),
    "bytes below none": roles(WAIT + "T.mbarrier_arrive_expect_tx(b[0], -16)"),
    "load without a barrier": roles(SHARED + "T.tma_copy(A[0, 0], S)"),
    "store with a barrier": roles(WAIT + SHARED + "T.tma_copy(S, B[0, 0], barrier=b[0])"),
    "engine that converts": roles(WAIT + "S = T.alloc_shared((32, 32), 'float32')\n"
                                  "T.tma_copy(A[0, 0], S, barrier=b[0])"),
    "engine to a fragment": roles(WAIT + FRAGMENT + "T.tma_copy(A[0, 0], F, barrier=b[0])"),
    "engine of some threads": roles(
        WAIT + SHARED + "if T.get_thread_binding() < 32:\n    T.tma_copy(A[0, 0], S, barrier=b[0])"),
    "product of a fragment": roles(
        SHARED + FRAGMENT + "X = T.alloc_fragment((32, 32), 'float16')\nT.wgmma_gemm(S, X, F)"),
    "waits below none": roles("T.wait_wgmma(-1)"),
    "registers by sevens": roles("with T.ws(0):\n    T.set_max_nreg(231, 1)"),
    "registers of all": roles("T.set_max_nreg(240, 1)"),
    "barrier 16": roles("T.sync_threads(16, 128)"),
    "half a warp": roles("with T.ws(0):\n    T.sync_threads(1, 240)"),
    "barrier of more than there are": roles("T.sync_threads(1, 512)"),
    "barrier of fewer than come": roles("with T.ws(1):\n    T.sync_threads(1, 64)"),
    "shuffle by thirds": roles("T.shfl_xor(A[0, 0], 1, width=3)"),
    "shuffle beyond the warp": roles("T.shfl_down(A[0, 0], 32)"),
    "shuffle of 4 bits": roles("T.shfl_xor(T.cast(A[0, 0], 'int4'), 1)"),
    "shuffle by a float": roles("T.shfl_xor(A[0, 0], 1.5)"),
    # Flags
    "transposed by a word": kernel(SHARED + FRAGMENT + "T.gemm(S, S, F, 'NT')"),
    "persistent by a number": launch("T.Kernel(1, threads=32, persistent=4)"),
    "cooperative by a word": launch("T.Kernel(1, threads=32, cooperative='yes')"),
    "previous value by a list": kernel("T.atomic_add(A[0, 0], 1, return_prev=[0])"),
    "sum that clears at run time": kernel(
        FRAGMENT + "R = T.alloc_fragment((32,), 'float32')\nT.reduce_sum(F, R, dim=1, clear=bx)"),
    "loop unrolled by half a trip": kernel("for i in T.unroll(4, unroll_factor=1.5):\n    pass"),
    "panel of a flag": kernel("T.use_swizzle(True)"),
    "dimension of one that no tensor has": kernel(
        "pass", 'A: T.Tensor(("K + 1",), "int8")', ONE),
    "tiles in groups of none": roles("for i, j in T.Persistent([4, 4], 2, bx, 0):\n    pass"),
    # Values of the kernel
    "elements of a value": kernel("B[0, 0] = bx[0]"),
    "extents of a value": kernel("T.alloc_shared(bx.shape, 'float16')"),
    "value plus a list": kernel("B[0, 0] = bx + [1]"),
    "name before it is bound": kernel("B[0, 0] = x\nx = 1"),
    "module called": kernel("T.reductions(A, B)"),
    # NumPy's ways
    "region times two": kernel(FRAGMENT + "F[0, :] = F[1, :] * 2"),
    "region that is doubled": kernel(FRAGMENT + "F[0, :] *= 2"),
    "buffer plus one": kernel(FRAGMENT + "G = 1 + F"),
    "reduction without a result": kernel(FRAGMENT + "s = T.reduce_sum(F, dim=1)"),
    "reduction into a dimension": kernel(FRAGMENT + "s = T.reduce_max(F, 1)"),
    "product without a result": kernel(SHARED + "C = T.gemm(S, S)"),
    "two names for one index": launch("T.Kernel(1) as (a, b)"),
    "three names for two indices": launch("T.Kernel(1, 2) as (a, b, c)"),
    "one name for two indices": kernel("A[a, 0] = 1", launch="T.Kernel(1, 2) as a"),
    "ceildiv by a float": launch("T.Kernel(T.ceildiv(A.shape[0], 16.0)) as bx"),
    "ceildiv of floats": launch("T.Kernel(T.ceildiv(100, 0.5)) as bx"),
    "dimension over a float": kernel("pass", 'A: T.Tensor((T.ceildiv("M", 16.0),), "int8")', ONE),
    # Python
    "name of nothing": kernel("T.copy(Aa, B)"),
    "parameters without annotation": whole("def k(A, B):\n    with T.Kernel(1):\n        A[0] = B[0]\n"),
    "starred parameter": whole(f"def k(*A: T.Tensor((32,), 'float16')):\n{WRITE}"),
    "parameters of one name": whole(f"def k({VECTOR}, {VECTOR}):\n{WRITE}"),
    "dimension named as a parameter": kernel(
        "pass", 'N: T.int32, A: T.Tensor(("N",), "float16")', ONE),
    "parameter called stream": kernel("pass", 'stream: T.Tensor((4,), "int8")', ONE),
    "constant dimension in the signature": kernel("pass", 'A: T.Tensor((T.const("N"),), "int8")', ONE),
    "dimension that no tensor has": whole(f"def k({VECTOR}):\n    M = T.const('M')\n{WRITE}"),
    "coroutine": HEAD + f"\n@tilec.kernel\nasync def k({VECTOR}):\n{WRITE}",
    "lambda": HEAD + "\nk = tilec.kernel(lambda A: 1)\n",
    "class": whole("class K:\n    pass\n"),
    "kernel decorated twice": HEAD + f"\n@tilec.kernel\n@tilec.kernel\ndef k({VECTOR}):\n{WRITE}",
    "kernel in a kernel": HEAD + f"\n@tilec.kernel\ndef inner({VECTOR}):\n{WRITE}"
    f"\n@tilec.kernel\ndef k({VECTOR}):\n    with T.Kernel(1):\n        inner(A)\n",
    "generator": whole(f"def k({VECTOR}):\n    with T.Kernel(1):\n        yield A[0]\n"),
    "return of a number": kernel("return 5"),
    "match": kernel("match bx:\n    case 0:\n        B[0, 0] = 1"),
    "global": kernel("global q\nq = 1"),
    "exception": kernel("raise ValueError('not today')"),
    "function without end": kernel("def f(x):\n    return f(x + 1)\nB[0, 0] = f(1)"),
    "zero byte": "x = '\0'\n",
    "nothing": "",
    "method": HEAD + f"\nclass K:\n    @tilec.kernel\n    def k(self, {VECTOR}):\n"
    + WRITE.replace("    ", "        ", 1).replace("        A", "            A"),
}  # fmt: skip
