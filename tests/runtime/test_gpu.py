"""The whole runtime on a real CUDA device, with a kernel written by hand: cupy, torch, graphs,
TMA."""

from __future__ import annotations

import importlib.util
import threading
from typing import Any

import numpy as np
import pytest

from tilec.backends.manifest import (
    Argument,
    LaunchSpec,
    Manifest,
    ScalarParam,
    TensorMapSpec,
    TensorParam,
    Variant,
)
from tilec.errors import ArgumentError, ExecutionError
from tilec.runtime.build import compile_variant
from tilec.runtime.cuda import cuda_driver
from tilec.runtime.devices import open_device, select_device
from tilec.runtime.launch import Loaded, load

pytestmark = pytest.mark.gpu

SCALE = """
extern "C" __global__ void __launch_bounds__(256)
scale_kernel(const float* a, float* c, int n, float factor) {
    extern __shared__ float line[];
    int i = blockIdx.x * 256 + threadIdx.x;
    line[threadIdx.x] = i < n ? a[i] : 0.0f;
    __syncthreads();
    if (i < n) c[i] = line[threadIdx.x] * factor;
}
"""
MANIFEST = Manifest(
    1,
    "scale",
    "cuda:sm_80",
    (
        TensorParam("A", "f32", ("N",), "r"),
        TensorParam("C", "f32", ("N",), "w"),
        ScalarParam("factor", "f32"),
    ),
    ("N",),
    (
        Variant(
            (),
            "scale.cu",
            (
                LaunchSpec(
                    "scale_kernel",
                    (
                        Argument("pointer", "A"),
                        Argument("pointer", "C"),
                        Argument("symbol", "N"),
                        Argument("scalar", "factor"),
                    ),
                    (("ceildiv", "N", 256), 1, 1),
                    256,
                    64 * 1024,
                ),
            ),
        ),
    ),
)
# One box of 8 x 32 floats to shared memory by TMA, and out again.
COPY = """
struct __align__(128) TensorMap { unsigned long long words[16]; };
extern "C" __global__ void
copy_box(const __grid_constant__ TensorMap map, float* out, int y, int x) {
    __shared__ __align__(1024) float box[256];
    __shared__ __align__(8) unsigned long long barrier;
    unsigned at = (unsigned)__cvta_generic_to_shared(&barrier);
    unsigned to = (unsigned)__cvta_generic_to_shared(box);
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(at));
        asm volatile("fence.mbarrier_init.release.cluster;");
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 1024;"
                     :: "r"(at) : "memory");
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                     "[%0], [%1, {%2, %3}], [%4];"
                     :: "r"(to), "l"(&map), "r"(x), "r"(y), "r"(at) : "memory");
    }
    __syncthreads();
    asm volatile("{ .reg .pred p;\\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], 0;\\n"
                 "@!p bra again; }" :: "r"(at) : "memory");
    out[threadIdx.x] = box[threadIdx.x];
}
"""


@pytest.fixture(scope="module")
def cupy() -> Any:
    return importlib.import_module("cupy")


@pytest.fixture(scope="module")
def target() -> str:
    return open_device("cuda").target.name


@pytest.fixture
def scale(target: str) -> Loaded:
    return load(compile_variant(SCALE, target, "scale.cu"), MANIFEST)


def test_cupy_arrays(cupy: Any, scale: Loaded) -> None:
    for n in (1, 255, 256, 257, 100_003, 0):
        a = cupy.arange(n, dtype=cupy.float32)
        c = cupy.full(n + 1, -1, dtype=cupy.float32)
        scale(a, c[:n], 2.0)
        assert (c[:n] == 2 * a).all()
        assert c[n] == -1


def test_other_streams_and_prepared_launches(cupy: Any, scale: Loaded) -> None:
    a, c = cupy.ones(1000, cupy.float32), cupy.zeros(1000, cupy.float32)
    prepared = scale.prepare(a, c, 3.0)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        prepared()
    prepared(stream=stream)
    scale(a, c, 5.0, stream=stream.ptr)
    stream.synchronize()
    assert (c == 5).all()


def test_a_graph_records_and_replays(cupy: Any, scale: Loaded) -> None:
    a, c = cupy.ones(1000, cupy.float32), cupy.zeros(1000, cupy.float32)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        try:
            with pytest.raises(ExecutionError, match="is being captured"):
                scale(a, c, 2.0)
        finally:
            stream.end_capture()
        scale(a, c, 2.0)
        stream.begin_capture()
        scale(a, c, 7.0)
        graph = stream.end_capture()
        graph.launch()
    stream.synchronize()
    assert (c == 7).all()
    a.fill(2)
    graph.launch(stream)
    stream.synchronize()
    assert (c == 14).all()


def test_a_new_thread_can_launch(cupy: Any, scale: Loaded) -> None:
    a, c = cupy.ones(1000, cupy.float32), cupy.zeros(1000, cupy.float32)
    prepared = scale.prepare(a, c, 3.0)
    problems: list[BaseException] = []

    def work() -> None:
        try:
            prepared(stream=0)
        except ExecutionError as problem:
            problems.append(problem)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    cupy.cuda.Device().synchronize()
    assert problems == []
    assert (c == 3).all()


def test_torch_tensors(scale: Loaded) -> None:
    if importlib.util.find_spec("torch") is None:
        return  # torch is no dependency of the tests; where it is installed it must work
    torch = importlib.import_module("torch")
    a = torch.arange(1000, dtype=torch.float32, device="cuda")
    c = torch.zeros_like(a)
    with torch.cuda.stream(torch.cuda.Stream()):
        scale(a, c, 2.0)
    torch.cuda.synchronize()
    assert bool((c == 2 * a).all())


def test_numpy_arrays_are_copied_there_and_back(scale: Loaded) -> None:
    class Program:
        def loaded(self) -> Loaded:
            return scale

    a, c = np.arange(1000, dtype=np.float32), np.zeros(1000, np.float32)
    open_device("cuda").run(Program(), (a, c, 2.0))
    assert (c == 2 * a).all()


def test_arrays_choose_the_device(cupy: Any) -> None:
    assert select_device([cupy.zeros(4)]).name == "cuda:0"


def test_mistakes_are_refused_before_the_gpu_sees_them(cupy: Any, scale: Loaded) -> None:
    a = cupy.zeros(100, cupy.float32)
    for wrong in (
        cupy.zeros(99, cupy.float32),
        cupy.zeros(100),
        cupy.zeros(200, cupy.float32)[::2],
    ):
        with pytest.raises(ArgumentError):
            scale(a, wrong, 1.0)


def test_tensor_maps_address_what_they_describe(cupy: Any) -> None:
    if cuda_driver().capability(0) < (9, 0):
        return  # no TMA on this device
    spec = TensorMapSpec("A", (8, 32), 128)
    launch = LaunchSpec(
        "copy_box",
        (
            Argument("tensor_map", "map", tensor_map=spec),
            Argument("pointer", "out"),
            Argument("scalar", "y"),
            Argument("scalar", "x"),
        ),
        (1, 1, 1),
        256,
        0,
    )
    params = (
        TensorParam("A", "f32", ("M", "N"), "r", ("lda", 1)),
        TensorParam("out", "f32", (8, 32), "w"),
        ScalarParam("y", "i32"),
        ScalarParam("x", "i32"),
    )
    program = Manifest(
        1,
        "copy_box",
        "cuda:sm_90a",
        params,
        ("M", "N", "lda"),
        (Variant((), "copy.cu", (launch,)),),
    )
    copy_box = load(compile_variant(COPY, "cuda:sm_90a", "copy.cu"), program)
    whole = cupy.arange(100 * 256, dtype=cupy.float32).reshape(100, 256)
    a = whole[:, :200]
    for y, x in ((0, 0), (40, 64), (96, 192)):
        out = cupy.full((8, 32), -1, cupy.float32)
        copy_box(a, out, y, x)
        expected = np.zeros((8, 32), np.float32)
        part = cupy.asnumpy(a)[y : y + 8, x : x + 32]
        expected[: part.shape[0], : part.shape[1]] = part
        chunks = expected.reshape(8, 8, 4)
        swizzled = np.empty_like(chunks)
        for row in range(8):
            for chunk in range(8):
                swizzled[row, chunk ^ row] = chunks[
                    row, chunk
                ]  # 16-byte chunks, address bits 4-6 ^ 7-9
        assert (cupy.asnumpy(out) == swizzled.reshape(8, 32)).all()
