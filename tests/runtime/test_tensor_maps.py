"""Tensor maps: what the driver is asked to encode, what is refused, what is kept."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tilec.backends.launcher.tensor_maps import TensorMap
from tilec.backends.manifest import TensorMapSpec
from tilec.errors import ArgumentError
from tilec.runtime.arrays import ArrayView
from tilec.runtime.cuda import CudaDriver
from tilec.runtime.tensor_maps import TensorMapCache, encode

from .conftest import Stub, device_array

_LAYOUT = struct.Struct("<Q5Q4QII5H5H4B")


@dataclass(frozen=True)
class Encoded:
    """The stub's record of one cuTensorMapEncodeTiled call."""

    address: int
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: int
    box: tuple[int, ...]
    steps: tuple[int, ...]
    modes: tuple[int, ...]  # interleave, swizzle, L2 promotion, fill


def decode(made: TensorMap) -> Encoded:
    values = _LAYOUT.unpack_from(made.to_bytes())
    rank = values[11]
    return Encoded(
        values[0], values[1 : 1 + rank], values[6 : 6 + rank - 1], values[10],
        values[12 : 12 + rank], values[17 : 17 + rank], values[22:26],
    )  # fmt: skip


@pytest.fixture
def driver(stub: Stub) -> Iterator[CudaDriver]:
    return CudaDriver(stub.path)  # type: ignore[return-value]


def made(driver: CudaDriver, view: ArrayView, spec: TensorMapSpec) -> Encoded:
    return decode(encode(driver, view, spec, view.pointer))


def test_a_thread_that_has_used_no_gpu_gets_a_context(stub: Stub, driver: CudaDriver) -> None:
    """As one of a pool, which is given arrays that another thread has made."""
    assert stub.context == 0
    made(driver, device_array((64, 64)), TensorMapSpec("A", (8, 8)))
    assert stub.context != 0


def test_a_matrix_innermost_dimension_first(driver: CudaDriver) -> None:
    view = device_array((1000, 200), strides=(512, 2), pointer=0x10000)
    found = made(driver, view, TensorMapSpec("A", (128, 64), 128))
    assert found == Encoded(0x10000, (200, 1000), (512,), 6, (64, 128), (1, 1), (0, 3, 3, 0))


@pytest.mark.parametrize(
    ("dtype", "number"),
    [("f16", 6), ("bf16", 9), ("f32", 7), ("f64", 8), ("i32", 3), ("u32", 2), ("u16", 1),
     ("i16", 1),
     ("e4m3", 0), ("e5m2", 0), ("i8", 0), ("u8", 0), ("i64", 5), ("u64", 4), ("tf32", 7),
     ("bool", 0), ("e4m3fnuz", 0), ("e2m3", 0)],
)  # fmt: skip
def test_element_types(driver: CudaDriver, dtype: str, number: int) -> None:
    found = made(
        driver, device_array((16, 64), dtype), TensorMapSpec("A", (8, 16), 0, l2promotion=64)
    )
    assert found.dtype == number
    assert found.modes == (0, 0, 1, 0)


@pytest.mark.parametrize(("span", "mode"), [(0, 0), (32, 1), (64, 2), (128, 3)])
def test_swizzles(driver: CudaDriver, span: int, mode: int) -> None:
    found = made(driver, device_array((64, 64)), TensorMapSpec("A", (8, max(span, 16) // 2), span))
    assert found.modes[1] == mode


@pytest.mark.parametrize(
    ("pointer", "row", "promotion"), [(0x1000, 64, 3), (0x1000, 48, 2), (0x1010, 64, 2)]
)
def test_rows_that_start_within_a_sector_are_fetched_by_the_line(
    driver: CudaDriver, pointer: int, row: int, promotion: int
) -> None:
    view = device_array((16, row // 2), pointer=pointer)
    assert made(driver, view, TensorMapSpec("A", (8, 8))).modes[2] == promotion


def test_a_vector_and_five_dimensions(driver: CudaDriver) -> None:
    found = made(driver, device_array((1000,)), TensorMapSpec("A", (256,)))
    assert (found.dims, found.strides, found.box) == ((1000,), (), (256,))
    found = made(driver, device_array((2, 3, 4, 5, 8)), TensorMapSpec("A", (1, 2, 3, 4, 8)))
    assert found.dims == (8, 5, 4, 3, 2)
    assert found.strides == (16, 80, 320, 960)
    assert found.box == (8, 4, 3, 2, 1)


@pytest.mark.parametrize(("rows", "box"), [(1, 1), (63, 63), (128, 128), (129, 128), (0, 1)])
def test_a_clipped_box_ends_with_the_array(driver: CudaDriver, rows: int, box: int) -> None:
    spec = TensorMapSpec("A", (2, 128, 64), 128, clipped=(1,))
    assert made(driver, device_array((1, rows, 64)), spec).box == (64, box, 2)


def test_the_stride_of_a_single_row_does_not_matter(driver: CudaDriver) -> None:
    view = device_array((3, 1, 24), strides=(48, 6, 2))
    found = made(driver, view, TensorMapSpec("A", (1, 1, 8)))
    assert found.dims == (24, 1, 3)
    assert found.strides == (48, 48)
    odd = made(driver, device_array((1, 7)), TensorMapSpec("A", (1, 8)))
    assert (odd.dims, odd.strides) == ((7, 1), (16,))


def test_an_empty_array_gets_a_valid_map(driver: CudaDriver) -> None:
    found = made(driver, device_array((64, 0), strides=(0, 2)), TensorMapSpec("A", (8, 8)))
    assert (found.dims, found.strides) == ((1, 64), (0,))
    empty = encode(driver, device_array((0, 8), pointer=0), TensorMapSpec("A", (8, 8)), 0)
    assert empty.to_bytes() == bytes(128)


@pytest.mark.parametrize(
    ("view", "spec", "message"),
    [
        (device_array((64, 64), pointer=0x1008), ((8, 8), 0), "starts at 0x1008"),
        (device_array((64, 60)), ((8, 8), 0), "a stride of 120 bytes"),
        (device_array((64, 64), strides=(2, 128)), ((8, 8), 0), "its last stride is 128 bytes"),
        (device_array((64, 64)), ((8, 4), 0), "rows of 8 bytes in the box"),
        (device_array((64, 64)), ((8, 64), 64), "rows of 128 bytes in the box, .* at most 64"),
        (device_array((64,)), ((8, 8), 0), "an array of 1 dimensions, a box of 2"),
        (device_array((64, 64), "complex128", strides=(1024, 16)), ((8, 8), 0), "no element type"),
        (
            device_array((4, 8), strides=(1 << 40, 2)),
            ((2, 8), 0),
            "a stride of 1099511627776 bytes",
        ),
    ],
)
def test_what_tma_cannot_address_is_refused_by_name(
    driver: CudaDriver, view: ArrayView, spec: tuple[tuple[int, ...], int], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        encode(driver, view, TensorMapSpec("weights", *spec), view.pointer)
    assert caught.value.message.startswith("weights cannot be read by TMA")


def test_the_drivers_refusal_is_an_error() -> None:
    class Refusing:
        def encode_tiled(self, *arguments: object) -> int:
            return 1

    with pytest.raises(ArgumentError, match="cuTensorMapEncodeTiled gave 1"):
        encode(Refusing(), device_array((64, 64)), TensorMapSpec("A", (8, 8)), 0x1000)


def test_descriptors_lie_at_multiples_of_128() -> None:
    assert all(TensorMap().address % 128 == 0 for _ in range(20))


def test_the_cache_keeps_what_was_used_last(driver: CudaDriver) -> None:
    cache = TensorMapCache(limit=2)
    spec = TensorMapSpec("A", (8, 8))
    view = device_array((64, 64))
    first = cache.find(driver, view, spec, 0x1000)
    assert cache.find(driver, device_array((64, 64)), spec, 0x1000) is first
    second = cache.find(driver, view, spec, 0x2000)
    assert cache.find(driver, view, spec, 0x1000) is first
    cache.find(driver, view, spec, 0x3000)
    assert len(cache) == 2
    assert cache.find(driver, view, spec, 0x1000) is first
    assert cache.find(driver, view, spec, 0x2000) is not second


def test_the_cache_tells_apart_all_that_is_encoded(driver: CudaDriver) -> None:
    cache = TensorMapCache()
    view, spec = device_array((64, 64)), TensorMapSpec("A", (8, 8))
    found = [
        cache.find(driver, view, spec, 0x1000),
        cache.find(driver, device_array((64, 64), "bf16"), spec, 0x1000),
        cache.find(driver, device_array((64, 32)), spec, 0x1000),
        cache.find(driver, device_array((64, 64), strides=(256, 2)), spec, 0x1000),
        cache.find(driver, view, TensorMapSpec("A", (16, 8)), 0x1000),
        cache.find(driver, view, TensorMapSpec("A", (96, 8), clipped=(0,)), 0x1000),
        cache.find(driver, view, TensorMapSpec("A", (96, 8)), 0x1000),
        cache.find(driver, view, TensorMapSpec("A", (8, 8), 32), 0x1000),
        cache.find(driver, view, TensorMapSpec("A", (8, 8), l2promotion=128), 0x1000),
    ]
    assert len({made.to_bytes() for made in found}) == len(found)
