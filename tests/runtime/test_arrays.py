"""Arrays and streams of many libraries, by stand-ins that have the libraries' attributes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tilec.errors import ArgumentError
from tilec.runtime import arrays
from tilec.runtime.allocate import allocate, hand_over, numpy_dtype
from tilec.runtime.arrays import (
    ArrayDevice,
    adapter_of,
    is_array,
    item_bytes,
    short_dtype,
    view_array,
)
from tilec.runtime.dlpack import view_dlpack
from tilec.runtime.streams import current_stream_of, stream_handle


class FakeCupyArray:
    __module__ = "cupy"

    def __init__(self, shape: tuple[int, ...], dtype: Any, device: int = 0) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.strides = arrays.contiguous_strides(shape, self.dtype.itemsize)
        self.data = SimpleNamespace(ptr=0x7000, device_id=device)


class FakeTensor:
    """What tilec reads of a torch tensor."""

    __module__ = "torch"

    def __init__(self, shape: tuple[int, ...], dtype: str, device: str = "cuda") -> None:
        self.shape = shape
        self.dtype = dtype
        self.device = SimpleNamespace(type=device, index=1)

    def data_ptr(self) -> int:
        return 0x9000

    def element_size(self) -> int:
        return 2

    def stride(self) -> tuple[int, ...]:
        return (1, self.shape[0])


@pytest.fixture(autouse=True)
def forget_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "ADAPTERS", dict(arrays.ADAPTERS))


@pytest.fixture
def fake_cupy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    cupy: Any = ModuleType("cupy")
    stream = SimpleNamespace(ptr=77)
    cupy.cuda = SimpleNamespace(
        runtime=SimpleNamespace(is_hip=False),
        get_current_stream=lambda device: stream if device == 0 else SimpleNamespace(ptr=78),
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return cupy  # type: ignore[no-any-return]


@pytest.fixture
def fake_torch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    torch: Any = ModuleType("torch")
    torch.Tensor = FakeTensor
    torch.version = SimpleNamespace(hip=None)
    torch._C = SimpleNamespace(_cuda_getCurrentRawStream=lambda index: 500 + index)
    monkeypatch.setitem(sys.modules, "torch", torch)
    return torch  # type: ignore[no-any-return]


def test_numpy() -> None:
    array = np.zeros((4, 6), np.float16)[:, ::2]
    view = view_array(array)
    assert view.pointer == array.ctypes.data
    assert (view.shape, view.strides, view.dtype) == ((4, 3), (12, 4), "f16")
    assert (str(view.device), view.library, view.readonly) == ("cpu", "numpy", False)
    assert view.extent_bytes == 3 * 12 + 2 * 4 + 2
    array.flags.writeable = False
    assert view_array(array).readonly


@pytest.mark.parametrize(
    ("dtype", "short", "size"),
    [
        (np.bool_, "bool", 1),
        (np.int8, "i8", 1),
        (np.uint64, "u64", 8),
        (np.float64, "f64", 8),
        (ml_dtypes.bfloat16, "bf16", 2),
        (ml_dtypes.float8_e4m3fn, "e4m3", 1),
        (ml_dtypes.float8_e5m2, "e5m2", 1),
        (ml_dtypes.float8_e4m3fnuz, "e4m3fnuz", 1),
        (ml_dtypes.float6_e2m3fn, "e2m3", 1),
        (ml_dtypes.float6_e3m2fn, "e3m2", 1),
    ],
)
def test_dtypes_have_their_short_names_both_ways(dtype: Any, short: str, size: int) -> None:
    assert view_array(np.zeros(3, dtype)).dtype == short
    assert item_bytes(short) == size
    assert numpy_dtype(short) == np.dtype(dtype)
    made = allocate("numpy", ArrayDevice("cpu"), (2, 3), short, None)
    assert view_array(made).dtype == short
    assert made.shape == (2, 3)


def test_elements_of_four_bits_are_bytes_of_two() -> None:
    assert [numpy_dtype(short) for short in ("i4", "u4", "e2m1")] == [np.int8, np.uint8, np.uint8]
    assert short_dtype("torch.float4_e2m1fn_x2") == "e2m1x2" and item_bytes("e2m1x2") == 1


def test_a_dtype_that_tilec_lacks_keeps_its_own_name() -> None:
    view = view_array(np.zeros(3, np.complex64))
    assert view.dtype == "complex64"


def test_cupy(fake_cupy: Any) -> None:
    view = view_array(FakeCupyArray((8, 4), "float32", device=3))
    assert (view.pointer, view.strides, view.dtype) == (0x7000, (16, 4), "f32")
    assert (view.device, view.library) == (ArrayDevice("cuda", 3), "cupy")
    fake_cupy.cuda.runtime.is_hip = True
    assert view_array(FakeCupyArray((8,), "int8")).device.kind == "hip"


def test_torch(fake_torch: Any) -> None:
    view = view_array(FakeTensor((8, 4), "torch.bfloat16"))
    assert (view.pointer, view.strides, view.dtype) == (0x9000, (2, 16), "bf16")
    assert (view.device, view.library) == (ArrayDevice("cuda", 1), "torch")
    assert view_array(FakeTensor((8,), "torch.float8_e4m3fn")).dtype == "e4m3"
    assert view_array(FakeTensor((8, 1), "torch.half", device="cpu")).device.kind == "cpu"
    fake_torch.version.hip = "7.0"
    assert view_array(FakeTensor((8, 1), "torch.half")).device.kind == "hip"


class ByInterface:
    """Numba's device arrays look so."""

    def __init__(self, **changes: Any) -> None:
        self.interface = {
            "shape": (4, 2), "typestr": "<f4", "data": (0x100, True), "version": 3, "strides": None,
        } | changes  # fmt: skip

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.interface


def test_cuda_array_interface() -> None:
    view = view_array(ByInterface(stream=5))
    assert (view.pointer, view.shape, view.strides) == (0x100, (4, 2), (8, 4))
    assert (view.dtype, view.readonly, view.stream) == ("f32", True, 5)
    assert view_array(ByInterface(strides=(4, 16))).strides == (4, 16)
    with pytest.raises(ArgumentError, match="mask"):
        view_array(ByInterface(mask=object()))


class ByDlpack:
    """An array of a library that only speaks DLPack."""

    __module__ = "jaxlib.array"

    def __init__(self, array: Any, old: bool) -> None:
        self.array = array
        self.old = old

    def __dlpack__(self, **options: Any) -> Any:
        if self.old and "max_version" in options:
            raise TypeError("unexpected keyword argument 'max_version'")
        return self.array.__dlpack__(**options)


@pytest.mark.parametrize("old", [False, True])
def test_dlpack(old: bool) -> None:
    array = np.arange(24, dtype=np.int32).reshape(4, 6)[1:, ::2]
    view = view_array(ByDlpack(array, old))
    assert view.pointer == array.ctypes.data
    assert (view.shape, view.strides, view.dtype) == (array.shape, array.strides, "i32")
    assert (view.device.kind, view.library, view.readonly) == ("cpu", "jax", True)


def test_dlpack_tells_read_only_memory_and_keeps_it_alive() -> None:
    array = np.arange(1000, dtype=np.float64)
    array.flags.writeable = False
    raw = view_dlpack(array)
    assert raw.readonly
    address = array.ctypes.data
    del array
    values = (ctypes.c_double * 1000).from_address(address)
    assert list(values) == list(range(1000))
    assert raw.pointer == address


def test_a_producer_that_refuses_is_named() -> None:
    with pytest.raises(ArgumentError, match="__dlpack__ refused: DLPack only supports"):
        view_array(ByDlpack(np.zeros(3, ml_dtypes.bfloat16), old=False))


@pytest.mark.parametrize("value", [3, 1.5, "text", [1, 2], None, np.float32(1), np.int64(2)])
def test_numbers_and_lists_are_no_arrays(value: object) -> None:
    assert not is_array(value)


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(ArgumentError, match="an array was expected, not list"):
        view_array([1, 2])


def test_fingerprints_differ_where_the_plan_would(fake_cupy: Any, fake_torch: Any) -> None:
    def key(array: object) -> object:
        return adapter_of(array).fingerprint(array)[1:]

    base = np.zeros((4, 4), np.float16)
    assert key(base) == key(np.ones((4, 4), np.float16))
    others = [base.T[:2], base[:2], base.view(np.int16), base.reshape(2, 8), base.reshape(16)]
    assert len({key(base), *map(key, others)}) == 6
    cupys = [FakeCupyArray((4, 4), "float16", device=d) for d in (0, 1)]
    assert key(cupys[0]) == key(FakeCupyArray((4, 4), "float16")) != key(cupys[1])
    assert key(ByInterface()) != key(ByInterface(typestr="<i4"))


class Places:
    """Context managers that write down where an allocation is made."""

    def __init__(self) -> None:
        self.entered: list[tuple[object, ...]] = []

    @contextmanager
    def __call__(self, *where: object, **named: object) -> Iterator[None]:
        self.entered.append((*where, *named.values()))
        yield


@pytest.mark.parametrize("modern", [True, False])
def test_outputs_are_made_by_cupy_on_the_device_and_stream_of_the_call(
    fake_cupy: Any, modern: bool
) -> None:
    device, external = Places(), Places()
    fake_cupy.cuda.Device = device
    fake_cupy.cuda.ExternalStream = external
    fake_cupy.cuda.Stream = SimpleNamespace()
    if modern:
        fake_cupy.cuda.Stream.from_external = lambda stream: external(stream_handle(stream), 1)
    fake_cupy.empty = np.empty
    place = ArrayDevice("cuda", 1)
    made = allocate("cupy", place, (2, 3), "e5m2", 99)
    assert (made.shape, short_dtype(made.dtype)) == ((2, 3), "e5m2")
    assert (device.entered, external.entered) == ([(1,)], [(99, 1)])
    allocate("jax", place, (2,), "f32", None)
    assert len(external.entered) == 1


def test_outputs_are_made_by_torch_on_the_device_and_stream_of_the_call(fake_torch: Any) -> None:
    streams = Places()
    fake_torch.bfloat16, fake_torch.int32 = "torch.bfloat16", "torch.int32"
    fake_torch.cuda = SimpleNamespace(stream=streams, ExternalStream=lambda s, device: (s, device))
    fake_torch.empty = lambda shape, dtype, device: (shape, dtype, device)
    place = ArrayDevice("cuda", 1)
    assert allocate("torch", place, (2,), "bf16", None) == ((2,), "torch.bfloat16", "cuda:1")
    assert allocate("torch", place, (2,), "i32", 99) == ((2,), "torch.int32", "cuda:1")
    assert streams.entered == [((99, "cuda:1"),)]
    fake_torch.uint8 = "torch.uint8"
    made = allocate("torch", place, (2,), "e2m3", None)
    assert made == ((2,), "torch.uint8", "cuda:1"), "which torch has not"


def test_without_a_library_that_allocates_there_is_no_output() -> None:
    with pytest.raises(ArgumentError, match="an output cannot be allocated for arrays of numba"):
        allocate("numba", ArrayDevice("cuda"), (2,), "f32", None)


def test_outputs_for_jax_are_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    jax: Any = ModuleType("jax")
    jax.dlpack = SimpleNamespace(from_dlpack=lambda array: ("jax", array))
    monkeypatch.setitem(sys.modules, "jax", jax)
    assert hand_over("jax", 5) == ("jax", 5)
    assert hand_over("cupy", 5) == 5


def test_streams_of_every_library() -> None:
    assert stream_handle(0) == 0
    assert stream_handle(123) == 123
    assert stream_handle(SimpleNamespace(ptr=5)) == 5
    assert stream_handle(SimpleNamespace(cuda_stream=6)) == 6
    assert stream_handle(SimpleNamespace(__cuda_stream__=lambda: (0, 7))) == 7
    assert stream_handle(SimpleNamespace(__cuda_stream__=(0, 8))) == 8
    with pytest.raises(ArgumentError, match="version 1 is newer"):
        stream_handle(SimpleNamespace(__cuda_stream__=lambda: (1, 7)))
    for wrong in ("default", True, 1.5, object()):
        with pytest.raises(ArgumentError, match="which is no stream"):
            stream_handle(wrong)


def test_the_current_stream_is_the_librarys(fake_cupy: Any, fake_torch: Any) -> None:
    assert current_stream_of("torch", 2)() == 502
    assert current_stream_of("cupy", 0)() == 77
    assert current_stream_of("cupy", 1)() == 78
    del fake_torch._C._cuda_getCurrentRawStream
    streams = SimpleNamespace(current_stream=lambda index: SimpleNamespace(cuda_stream=600 + index))
    fake_torch.cuda = streams
    assert current_stream_of("torch", 2)() == 602


def test_without_a_library_the_default_stream_is_current() -> None:
    assert current_stream_of("other", 0)() == 0
