"""What `tilec build` writes: the same bytes in any process and folder, and a launcher that runs the
program without tilec. cupy is played here by NumPy arrays and the emulator.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tests.modules import load_module
from tilec.backends.bundle import bundle
from tilec.backends.launcher.expressions import evaluate
from tilec.backends.manifest import Manifest
from tilec.cli import run as command_line
from tilec.cli.build import own_names
from tilec.cli.programs import load_file, trace
from tilec.errors import ArgumentError
from tilec.language.kernel import Kernel
from tilec.passes.ranges import SYMBOL_LIMIT
from tilec.runtime import emulator
from tilec.runtime.compiled import CompiledKernel
from tilec.target import find_target

ROOT = Path(__file__).resolve().parents[2]
GEMM = ROOT / "examples" / "gemm.py"
SIZES = {"block_M": 64, "block_N": 64, "block_K": 32, "threads": 128}
SMALL = [x for name, value in SIZES.items() for x in ("-D", f"{name}={value}")]
TARGETS = ("cuda:sm_80", "cuda:sm_90a", "hip:gfx942")
EMIT = "source,ir,ptx,binary,manifest,launcher"


@pytest.mark.hip
def test_the_same_bytes_in_another_process_and_folder(tmp_path: Path) -> None:
    made: list[dict[str, bytes]] = []
    for seed, folder, file in (("1", ROOT, "examples/gemm.py"), ("77", tmp_path, str(GEMM))):
        out = tmp_path / f"out{seed}"
        targets = [x for target in TARGETS for x in ("--target", target)]
        done = subprocess.run(
            [sys.executable, "-m", "tilec", "build", file, *SMALL, *targets, "-o", str(out),
             "--emit", EMIT],
            capture_output=True, text=True, check=False, cwd=folder, timeout=300,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "TILEC_CACHE": "0"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        files = sorted(p for p in out.rglob("*") if p.is_file())
        assert sorted(done.stdout.split()) == sorted(map(str, files))
        assert "0 bytes spilled" in done.stderr
        made.append({str(p.relative_to(out)): p.read_bytes() for p in files})
    assert list(made[0]) == list(made[1])
    assert [name for name in made[0] if made[0][name] != made[1][name]] == []
    assert {f"cuda-sm_80/{name}" for name in (
        "matmul.cu", "matmul.tir", "matmul_generic.tir", "matmul.json", "matmul_launch.py",
        "matmul.sm_80.ptx", "matmul.sm_80.bin",
    )} | {"hip-gfx942/matmul.hip", "hip-gfx942/matmul.gfx942.s"} <= set(made[0])  # fmt: skip


def test_one_file_has_every_variant(tmp_path: Path) -> None:
    assert command_line(["build", str(GEMM), *SMALL, "-o", str(tmp_path)]) == 0
    text = (tmp_path / "matmul.cu").read_text()
    manifest = Manifest.from_json((tmp_path / "matmul.json").read_text())
    symbols = [launch.symbol for v in manifest.variants for launch in v.launches]
    assert symbols == ["matmul_kernel", "matmul_kernel_read", "matmul_kernel_generic"]
    assert all(text.count(f" {symbol}(") == 1 for symbol in symbols)
    assert {v.source for v in manifest.variants} == {"matmul.cu"}
    assert text.count("namespace tilec {") == 1
    assert manifest.variants[0].requires and not manifest.variants[-1].requires


class Array:
    """What the launcher uses of a cupy array, over a NumPy array."""

    def __init__(self, host: np.ndarray, offset: int = 0) -> None:
        self.host = host
        self.shape, self.strides, self.dtype = host.shape, host.strides, host.dtype
        self.data = SimpleNamespace(ptr=0x10000 + offset)


class Function:
    """A kernel of one variant."""

    max_dynamic_shared_size_bytes = 0

    def __init__(self, gpu: Cupy, lowered: Any, spec: Any) -> None:
        self.gpu, self.lowered, self.spec = gpu, lowered, spec

    def __call__(self, grid: Any, block: Any, arguments: Any, shared_mem: int) -> None:
        assert shared_mem <= max(48 * 1024, self.max_dynamic_shared_size_bytes)
        self.gpu.run(self.lowered, self.spec, grid, block, arguments, shared_mem)


class Cupy:
    """A GPU that runs what the emulator runs, and writes down what was launched."""

    def __init__(self, compiled: CompiledKernel, capability: str) -> None:
        self.compiled = compiled
        self.manifest = bundle(
            compiled.interface, [(v.emitted, v.requires, v.suffix) for v in compiled.variants]
        ).manifest
        self.launched: list[str] = []
        device = SimpleNamespace(
            attributes={"MultiProcessorCount": 3}, compute_capability=capability
        )
        self.module = ModuleType("cupy")
        self.module.__dict__.update(
            cuda=SimpleNamespace(Device=lambda: device), RawModule=self.raw_module,
            empty=lambda shape, dtype: Array(np.empty(shape, dtype)),
        )  # fmt: skip

    def raw_module(self, path: str) -> Any:
        assert Path(path).read_bytes()
        return SimpleNamespace(get_function=self.get_function)

    def get_function(self, symbol: str) -> Any:
        for lowered, variant in zip(self.compiled.variants, self.manifest.variants, strict=True):
            for spec, own in zip(variant.launches, lowered.emitted.launches, strict=True):
                if spec.symbol == symbol:
                    return Function(self, lowered, own)
        raise KeyError(symbol)

    def run(
        self, lowered: Any, spec: Any, grid: Any, block: Any, arguments: Any, shared: int
    ) -> None:
        self.launched.append(lowered.suffix)
        named: dict[str, Any] = {}
        for argument, value in zip(spec.arguments, arguments, strict=True):
            if argument.kind == "tensor_map":
                assert value.size == 1 and value.itemsize == 128
            elif argument.kind == "pointer":
                named[argument.name] = value.host
            else:
                assert (
                    value.dtype
                    == {"i32": np.int32, "i64": np.int64, "f32": np.float32}[
                        argument.dtype or "i32"
                    ]
                )
                named[argument.name] = value.item()
        for argument in spec.arguments:
            if argument.tensor_map is not None:
                named[argument.tensor_map.tensor] = self.arrays[argument.tensor_map.tensor].host
        names = {**named, "@multiprocessors": 3}
        assert grid == tuple(evaluate(extent, names) for extent in spec.grid)
        assert block == spec.block_extents and shared == spec.shared_bytes
        library = emulator.build(lowered.emulated_text)
        emulator.run(library, spec, {**named, "@multiprocessors": 3}, "late")

    arrays: dict[str, Array]


@pytest.mark.parametrize(("target", "capability"), [("cuda:sm_80", "80"), ("cuda:sm_90a", "90")])
def test_the_launcher_runs_without_tilec(
    target: str, capability: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = ["build", str(GEMM), *SMALL, "--target", target, "-o", str(tmp_path), "--emit", EMIT]
    assert command_line(build) == 0
    launcher = load_module(tmp_path / "matmul_launch.py")
    assert "tilec" not in launcher.__dict__
    aim = find_target(target)
    compiled = CompiledKernel(trace(load_file(GEMM).kernels["matmul"], dict(SIZES), aim), aim)
    compiled.add_general()
    cupy = Cupy(compiled, capability)
    monkeypatch.setitem(sys.modules, "cupy", cupy.module)
    maps: list[int] = []

    def encode(address: ctypes.c_void_p, *rest: Any) -> int:
        maps.append(len(rest))
        return 0

    library = SimpleNamespace(cuTensorMapEncodeTiled=encode)
    monkeypatch.setattr(launcher, "driver_library", lambda: library)
    random = np.random.default_rng(3)
    for m, n, k, suffix, offset in (
        (64, 64, 64, "", 0), (65, 33, 40, "_read", 0), (64, 64, 64, "_generic", 2),
    ):  # fmt: skip
        a, b = (random.integers(-2, 3, s).astype(np.float16) for s in ((m, k), (n, k)))
        c = np.full((m, n), np.nan, np.float16)
        cupy.arrays = {"A": Array(a, 0x100000 + offset), "B": Array(b), "C": Array(c)}
        assert launcher.launch(*cupy.arrays.values()) is None
        assert cupy.launched.pop() == suffix and not cupy.launched
        assert np.array_equal(c, (a.astype(np.float32) @ b.astype(np.float32).T).astype(np.float16))
    assert bool(maps) == aim.tma
    a = Array(np.zeros((64, 64), np.float16))
    launcher.launch(Array(np.zeros((0, 64), np.float16)), a, Array(np.zeros((0, 64), np.float16)))
    assert not cupy.launched, "an empty grid launches nothing"
    for wrong, error in (
        ((a, a), TypeError),
        ((a, a, Array(np.zeros((64, 64), np.float32))), TypeError),
        ((a, a, Array(np.zeros((64, 32), np.float16))), ValueError),
        ((a, a, Array(np.zeros((64, 64), np.float16).T)), ValueError),
    ):
        with pytest.raises(error):
            launcher.launch(*wrong)


PROMISE = """
import tilec
import tilec.language as T


@tilec.kernel
def promising(A: T.Tensor(("M", T.dynamic("K", multiple_of=8)), "float16")):
    with T.Kernel(1, threads=32):
        for i in T.Parallel(8):
            A[0, i] = 1
"""


def test_the_launcher_checks_what_symbols_are_multiples_of(tmp_path: Path) -> None:
    file = tmp_path / "promising.py"
    file.write_text(PROMISE)
    assert command_line(["build", str(file), "-o", str(tmp_path), "--emit", EMIT]) == 0
    launcher = load_module(tmp_path / "promising_launch.py")
    _, names = launcher.bind((Array(np.zeros((3, 16), np.float16)),))
    assert names == {"M": 3, "K": 16}
    with pytest.raises(ValueError, match="K = 12 from A is no multiple of 8"):
        launcher.bind((Array(np.zeros((3, 12), np.float16)),))


TOO_LARGE = """
import tilec
import tilec.language as T


@tilec.kernel
def large(A: T.Tensor(("M",), "int8"), n: T.int64, first: T.int32):
    out = T.empty((A.shape[0] * 2,), "int8")
    with T.Kernel(n, threads=32) as b:
        for i in T.Parallel(32):
            out[first + i] = A[i]
    return out
"""


@pytest.mark.parametrize(
    ("m", "n", "told"),
    [
        (SYMBOL_LIMIT, 1, "M is 2147418112"),
        (SYMBOL_LIMIT // 2, 1, "2147418112, expected less than 2147418112"),
        (8, 2**31, "2147483648 blocks along x, at most 2147483647 go"),
        (8, 2**32 + 5, "4294967301 blocks along x"),
    ],
)
def test_the_launcher_refuses_what_the_runtime_does(
    m: int, n: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "large.py"
    file.write_text(TOO_LARGE)
    assert command_line(["build", str(file), "-o", str(tmp_path), "--emit", EMIT]) == 0
    launcher = load_module(tmp_path / "large_launch.py")
    assert launcher.SYMBOL_LIMIT == SYMBOL_LIMIT
    cupy = ModuleType("cupy")
    device = SimpleNamespace(attributes={"MultiProcessorCount": 3})
    cupy.__dict__.update(
        cuda=SimpleNamespace(Device=lambda: device),
        empty=lambda shape, dtype: Array(np.broadcast_to(np.zeros(1, dtype), shape)),
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    launched: list[Any] = []
    monkeypatch.setattr(launcher, "kernel", lambda *_: lambda grid, *_, **__: launched.append(grid))
    for count in (0, -5, 3):
        launcher.launch(Array(np.zeros(8, np.int8)), count, 0)
    assert launched == [(3, 1, 1)]
    whole = np.broadcast_to(np.zeros(1, np.int8), (m,))
    array = Array(whole)
    array.strides = (1,)
    with pytest.raises(ValueError, match=told):
        launcher.launch(array, n, 0)
    assert len(launched) == 1
    kernel = load_file(file).kernels["large"]
    with pytest.raises(ArgumentError, match=told):
        kernel(np.zeros(m, np.int8), n, 0, device="emulator:cuda:sm_80")


TOGETHER = """
import tilec
import tilec.language as T


@tilec.kernel
def together(A: T.Tensor(("M",), "float16")):
    with T.Kernel(A.shape[0], threads=32, cooperative=True) as b:
        A[b] = 1
"""


def test_the_launcher_refuses_grids_that_are_not_resident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "together.py"
    file.write_text(TOGETHER)
    assert command_line(["build", str(file), "-o", str(tmp_path), "--emit", EMIT]) == 0
    launcher = load_module(tmp_path / "together_launch.py")
    asked: list[tuple[int, int, int]] = []

    def occupancy(*question: int) -> int:
        asked.append(question)
        return 4

    cupy = ModuleType("cupy")
    device = SimpleNamespace(attributes={"MultiProcessorCount": 3})
    driver = SimpleNamespace(occupancyMaxActiveBlocksPerMultiprocessor=occupancy)
    cupy.__dict__.update(cuda=SimpleNamespace(Device=lambda: device, driver=driver))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    launched: list[Any] = []

    class Run:
        kernel = SimpleNamespace(ptr=7)

        def __call__(self, grid: Any, *_: Any, **__: Any) -> None:
            launched.append(grid)

    monkeypatch.setattr(launcher, "kernel", lambda *_: Run())
    launcher.launch(Array(np.zeros(12, np.float16)))
    assert launched == [(12, 1, 1)] and asked == [(7, 32, 0)]
    with pytest.raises(ValueError, match=r"the 13 blocks .* the GPU has room for 12"):
        launcher.launch(Array(np.zeros(13, np.float16)))


FACTORY = """
import tilec
import tilec.language as T


def filled(number):
    @tilec.kernel
    def fill(A: T.Tensor((32,), "int32")):
        with T.Kernel(1, threads=32):
            T.fill(A, number)

    return fill


ones, twos = filled(1), filled(2)
again = twos


@tilec.kernel
def other(A: T.Tensor((32,), "int32")):
    with T.Kernel(1, threads=32):
        T.clear(A)
"""


def test_kernels_of_one_name_are_built_under_those_of_their_variables(tmp_path: Path) -> None:
    file = tmp_path / "factory.py"
    file.write_text(FACTORY)
    assert command_line(["build", str(file), "-o", str(tmp_path / "out"), "--emit", EMIT]) == 0
    texts = {p.name: p.read_text() for p in (tmp_path / "out").glob("*.cu")}
    assert sorted(texts) == ["ones.cu", "other.cu", "twos.cu"]
    assert texts["ones.cu"] != texts["twos.cu"]
    for name in ("ones", "twos", "other"):
        manifest = Manifest.from_json((tmp_path / "out" / f"{name}.json").read_text())
        assert manifest.program == name
        assert {v.source for v in manifest.variants} == {f"{name}.cu"}


def test_a_variable_may_have_the_name_of_another_kernel() -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

    a, b, c = (cast(Kernel, Named(name)) for name in "xyy")
    assert own_names({"p": a, "q": b, "r": c, "s": c}) == {"x": a, "q": b, "r": c}
    assert own_names({"p": a, "x": b, "r": c}) == {"p": a, "x": b, "r": c}


STRICT = """
import tilec
import tilec.language as T


@tilec.kernel
def strict(
    A: T.Tensor(("2 * M",), "float32"), n: T.int32, x: T.float16, flag: T.bool,
    B: T.StridedTensor(("M", "N"), ("S", 1), "float32"), C: T.Tensor(("2 * M",), "float32"),
    P: T.Tensor(("M", "N"), "int4"),
):
    with T.Kernel(B.shape[0], threads=32) as b:
        for i in T.Parallel(8):
            if flag:
                B[b, i] = A[2 * b] + n + T.cast(x, "float32") + T.cast(P[b, i], "float32")
        C[b] = A[b]
"""


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("strict")
    (folder / "strict.py").write_text(STRICT)
    assert command_line(["build", str(folder / "strict.py"), "-o", str(folder)]) == 0
    return load_module(folder / "strict_launch.py")


def strict_arguments() -> dict[str, Any]:
    return {
        "A": Array(np.zeros(8, np.float32)), "n": 3, "x": 1.5, "flag": True,
        "B": Array(np.zeros((4, 6), np.float32), 0x1000), "C": Array(np.zeros(8, np.float32), 0x2000),
        "P": Array(np.zeros((4, 3), np.int8), 0x3000),
    }  # fmt: skip


def test_the_launcher_binds_what_sizes_tell(strict: Any) -> None:
    _, names = strict.bind(tuple(strict_arguments().values()))
    assert {n: names[n] for n in ("M", "N", "S", "n", "x", "flag")} == {
        "M": 4, "N": 6, "S": 6, "n": 3, "x": 1.5, "flag": 1,
    }  # fmt: skip
    row = np.lib.stride_tricks.as_strided(np.zeros(6, np.float32), (1, 6), (4000, 4))
    given = strict_arguments() | {
        "A": Array(np.zeros(2, np.float32)), "B": Array(row, 0x1000),
        "C": Array(np.zeros(2, np.float32), 0x2000), "P": Array(np.zeros((1, 3), np.int8)),
    }  # fmt: skip
    assert strict.bind(tuple(given.values()))[1]["M"] == 1, "the stride of one row says nothing"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"A": np.zeros(8, np.float32)}, TypeError, "A is ndarray, expected an array of cupy's"),
        ({"n": 1.5}, ValueError, "n is 1.5, expected an integer"),
        ({"n": 2**31}, ValueError, "which i32 cannot hold"),
        ({"n": "3"}, TypeError, "n is str, expected a number"),
        ({"x": 1e6}, ValueError, "which f16 cannot hold"),
        ({"flag": 2}, ValueError, "which bool cannot hold"),
        ({"A": Array(np.zeros(9, np.float32))}, ValueError, "A has shape"),
        (
            {"A": Array(np.zeros(8, np.float32), 2)},
            ValueError,
            "A starts at 0x10002, no multiple of the 4 bytes",
        ),
        ({"B": Array(np.zeros((4, 12), np.float32)[:, ::2])}, ValueError, "B has strides"),
        (
            {"B": Array(np.lib.stride_tricks.as_strided(np.zeros(12, "f4"), (4, 6), (8, 4)))},
            ValueError,
            "its elements may overlap, and the kernel writes it",
        ),
        (
            {"C": Array(np.zeros(8, np.float32), 4)},
            ValueError,
            "C, which the kernel writes, lies partly",
        ),
        ({"P": Array(np.zeros((4, 6), np.int8))}, ValueError, "P has shape"),
    ],
)
def test_the_launcher_refuses_what_tilec_does(
    strict: Any, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        strict.bind(tuple((strict_arguments() | change).values()))


THROUGH_A_WORKSPACE = """
import tilec
import tilec.language as T


@tilec.kernel
def through(A: T.Tensor(("M", 128), "bfloat16"), C: T.Tensor(("M", 64), "float32")):
    W = T.alloc_global(A.shape, "bfloat16")
    with T.Kernel(A.shape[0], threads=128) as b:
        for j in T.Parallel(128):
            W[b, j] = A[b, j]
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as b:
        tile = T.alloc_shared((64, 64), "bfloat16")
        sums = T.alloc_fragment((64, 64), "float32")
        T.clear(sums)
        for k in T.Pipelined(2, num_stages=2):
            T.copy(W[b * 64, k * 64], tile)
            T.gemm(tile, tile, sums, transpose_B=True)
        T.copy(sums, C[b * 64, 0])
"""


def test_the_launcher_maps_workspaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "through.py"
    file.write_text(THROUGH_A_WORKSPACE)
    build = ["build", str(file), "--target", "cuda:sm_90a", "-o", str(tmp_path)]
    assert command_line(build) == 0
    launcher = load_module(tmp_path / "through_launch.py")
    kinds: list[int] = []

    def encode(address: ctypes.c_void_p, kind: ctypes.c_int, *rest: Any) -> int:
        kinds.append(kind.value)
        return 0

    library = SimpleNamespace(cuTensorMapEncodeTiled=encode)
    monkeypatch.setattr(launcher, "driver_library", lambda: library)
    arrays = {name: Array(np.zeros((64, 128), np.uint16)) for name in "ACW"}
    for spec in launcher.MANIFEST.variants[0].launches:
        for argument in spec.arguments:
            launcher.argument(argument, arrays, {"M": 64})
    assert 9 in kinds, "CU_TENSOR_MAP_DATA_TYPE_BFLOAT16"
