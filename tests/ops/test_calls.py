"""Calls of products like an earlier one pass what a call that is checked would pass, on a GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from itertools import count
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tilec import ops
from tilec.errors import ArgumentError, TilecError
from tilec.language.kernel import Kernel
from tilec.ops import calls
from tilec.runtime.arrays import is_array, view_array

matmul, grouped = map(import_module, ("tilec.ops.matmul", "tilec.ops.grouped"))


class OnGpu:
    """An array that is read as cupy's are; its elements are NumPy's."""

    def __init__(self, own: np.ndarray) -> None:
        self.own, self.shape, self.strides, self.dtype = own, own.shape, own.strides, own.dtype
        self.data = SimpleNamespace(ptr=own.ctypes.data, device_id=0)

    @property
    def _c_contiguous(self) -> bool:
        return self.own.flags.c_contiguous

    @property
    def T(self) -> OnGpu:
        return OnGpu(self.own.T)

    def __getitem__(self, index: Any) -> OnGpu:
        return OnGpu(self.own[index])

    def swapaxes(self, a: int, b: int) -> OnGpu:
        return OnGpu(self.own.swapaxes(a, b))


OnGpu.__module__ = "cupy"


def array(*shape: int, dtype: str = "float16") -> OnGpu:
    """Zeros that begin at a line of the cache."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 128, np.uint8)
    start = -memory.ctypes.data % 128
    return OnGpu(memory[start : start + size].view(dtype).reshape(shape))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What kernels are called with, none of which runs."""
    cupy = ModuleType("cupy")
    cupy.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        Device=lambda index: nullcontext(), runtime=SimpleNamespace(is_hip=False)
    )
    cupy.empty = lambda shape, dtype: array(*shape, dtype=dtype)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    found: list[Any] = []
    monkeypatch.setattr(
        Kernel, "__call__", lambda kernel, *args, **named: found.append((kernel, args, named))
    )
    monkeypatch.setattr(matmul, "remembered", calls.Memory())
    monkeypatch.setattr(grouped, "remembered", matmul.remembered)
    return found


def seen(arguments: tuple[Any, ...]) -> list[Any]:
    """Arguments as a kernel reads them: where arrays are, not by which object."""
    views = [view_array(x) if is_array(x) else (type(x), x) for x in arguments]
    return [
        (v.pointer, v.shape, v.strides, v.dtype, v.device, v.readonly, v.library, v.stream)
        if is_array(x) else v
        for x, v in zip(arguments, views, strict=True)
    ]  # fmt: skip


def scaled(x: Any, *indices: Any, bias: Any, scale: Any) -> Any:
    return x * scale + bias[indices[-1]]


def products() -> dict[str, Callable[[], tuple[Any, ...]]]:
    """By name: what makes new arrays a, b, out and what is named beside them."""
    a, numbers = array, count(1)

    def fused(*arrays: Any) -> tuple[Any, ...]:
        return (*arrays, {"epilogue": scaled, "bias": a(24), "scale": 0.5 * next(numbers)})

    wide = ops.Schedule(64, 64, 32, 2, 128)
    return {
        "NN": lambda: (a(16, 40), a(40, 24), None, {}),
        "NT": lambda: (a(16, 40), a(24, 40).T, None, {}),
        "TN": lambda: (a(40, 16).T, a(40, 24), a(16, 24), {}),
        "strided": lambda: (a(16, 80)[:, ::2], a(40, 48)[:, 8:32], a(32, 48)[::2, ::2], {}),
        "row": lambda: (a(1, 40), a(24, 40).T, None, {}),
        "column": lambda: (a(16, 40), a(40, 1), a(16, 1), {}),
        "f64": lambda: (a(16, 40), a(40, 24), None, {"out_dtype": "float64"}),
        "schedule": lambda: (a(16, 40), a(40, 24), None, {"schedule": wide}),
        "batch": lambda: (a(3, 16, 40), a(3, 40, 24), None, {}),
        "batch of NT": lambda: (a(3, 16, 40), a(3, 24, 40).swapaxes(1, 2), a(3, 16, 24), {}),
        "folded": lambda: (a(3, 16, 40), a(40, 24), None, {}),
        "broadcast": lambda: (a(16, 40), a(3, 40, 24), None, {}),
        "launches": lambda: (a(2, 1, 16, 40), a(1, 3, 40, 24), None, {}),
        "part": lambda: (a(6, 16, 40)[1:5:2], a(2, 40, 24), a(4, 16, 24)[::2], {}),
        "fused": lambda: fused(a(16, 40), a(40, 24), None),
        "fused batch": lambda: fused(a(3, 16, 40), a(3, 40, 24), None),
        "fused and folded": lambda: fused(a(3, 16, 40), a(40, 24), a(3, 16, 24)),
    }


@pytest.mark.parametrize("name", products())
def test_a_call_like_an_earlier_one(
    name: str, launched: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = products()[name]
    a, b, out, named = make()
    ops.matmul(a, b, out=out, **named)
    first = launched.copy()
    for _ in range(2):
        launched.clear()
        a, b, out, named = make()
        with monkeypatch.context() as context:
            context.setattr(matmul, "read_shape", None)  # which every check asks
            result = ops.matmul(a, b, out=out, **named)
        assert out is None or result is out
        schedule = named.pop("schedule", None)
        options = matmul.Options.among({**named, "out": result})
        call = matmul.check(a, b, replace(options, tiled=schedule is not None))
        assert [kernel for kernel, _, _ in launched] == [kernel for kernel, _, _ in first]
        assert [seen(args) for _, args, _ in launched] == list(map(seen, call.launches))
        assert [given for _, _, given in launched] == [given for _, _, given in first]


def test_groups_like_earlier_ones(launched: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> tuple[Any, ...]:
        return array(50, 40), array(3, 40, 24), array(4, dtype="int32"), array(24)

    def add(x: Any, g: Any, i: Any, j: Any, bias: Any) -> Any:
        return x + bias[j] + g

    a, b, offsets, bias = make()
    ops.grouped_matmul(a, b, offsets, epilogue=add, bias=bias)
    for _ in range(2):
        launched.clear()
        a, b, offsets, bias = make()
        with monkeypatch.context() as context:
            context.setattr(grouped, "read_dtypes", None)
            result = ops.grouped_matmul(a, b, offsets, epilogue=add, bias=bias)
        options = matmul.Options(out=result, epilogue=add, operands={"bias": bias})
        call = grouped._check(a, b, offsets, options)
        assert [seen(args) for _, args, _ in launched] == list(map(seen, call.launches))


def test_groups_whose_offsets_lie_in_out_are_refused_in_every_call(launched: list[Any]) -> None:
    a, b, memory = array(50, 40), array(3, 40, 24), array(50 * 24 + 128)
    out = OnGpu(memory.own[: 50 * 24].reshape(50, 24))
    apart = OnGpu(memory.own[19 * 64 :][:8].view("int32"))
    inside = OnGpu(memory.own[64:72].view("int32"))
    assert apart.data.ptr % 128 == inside.data.ptr % 128, "they have one key"
    with pytest.raises(ArgumentError, match="in the memory of offsets"):
        ops.grouped_matmul(a, b, inside, out=out)
    ops.grouped_matmul(a, b, apart, out=out)
    ops.grouped_matmul(a, b, apart, out=out)
    with pytest.raises(ArgumentError, match="in the memory of offsets"):
        ops.grouped_matmul(a, b, inside, out=out)
    assert len(launched) == 2


def test_what_a_call_depends_on(launched: list[Any]) -> None:
    """Each of these is checked anew, and comes to another kernel or other arguments."""
    a, b, bias = array(2, 16, 40), array(2, 40, 24), array(24)
    factor = [2.0]

    def run(**named: Any) -> Any:
        launched.clear()
        ops.matmul(a, b, **named)
        return launched[0][0]

    def by_factor(x: Any, z: Any, i: Any, j: Any) -> Any:
        return x * factor[0]

    plain = run()
    kernels = [plain, run(out_dtype="float32"), run(epilogue=by_factor)]
    factor[0] = 3.0
    kernels.append(run(epilogue=by_factor))
    for scale in (2, 2.0, True, 1 << 40):
        kernels.append(run(epilogue=scaled, bias=bias, scale=scale))
    kernels.append(run(epilogue=scaled, bias=array(24, dtype="float32"), scale=2))
    assert len(set(map(id, kernels))) == len(kernels)
    assert run() is plain
    assert run(epilogue=scaled, bias=bias, scale=7) is kernels[4], "numbers are arguments"
    assert launched[0][1][-1] == 7
    factor[0] = 2.0
    assert run(epilogue=by_factor) is kernels[2]


def test_what_does_not_fit_is_told_after_what_does(launched: list[Any]) -> None:
    a, b, out = array(2, 16, 40), array(2, 40, 24), array(2, 16, 24)
    ops.matmul(a, b, out=out)
    ops.matmul(a, b, out=out)
    whole = array(2 * 16 * 40 * 3)
    inside = OnGpu(whole.own[64 : 64 + out.own.size].reshape(out.shape))
    for call, message in (
        (lambda: ops.matmul(OnGpu(whole.own[: a.own.size].reshape(a.shape)), b, out=inside), "lies in"),
        (lambda: ops.matmul(a, array(2, 41, 24), out=out), "40 columns and b 41 rows"),
        (lambda: ops.matmul(a, b, out=out, bias=out), "no option 'bias'"),
        (lambda: ops.matmul(a, b, epilogue=3), "epilogue is 3"),
        (lambda: ops.matmul(a, b, epilogue=lambda x, z, i, j, s: x, s="s"), "s is str"),
        (lambda: ops.matmul(a, b, epilogue=lambda x, z, i, j, s: x, s=1 << 64), "64 bits"),
        (lambda: ops.matmul(a, b, in_dtype=["float16"]), "in_dtype|dtype"),
    ):  # fmt: skip
        with pytest.raises((ArgumentError, TilecError), match=message):
            call()
