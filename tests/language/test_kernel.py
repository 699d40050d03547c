"""The handle of a kernel: parameters, where annotations are resolved, specialisation."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import pickle  # noqa: TID251  (what users do)
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tilec.errors import ArgumentError, LanguageError
from tilec.ir.dtypes import DTYPES
from tilec.ir.print import print_program
from tilec.ir.types import MemoryType, Space
from tilec.language.kernel import Kernel, Specialisation

ROWS = T.dynamic("ROWS", multiple_of=8)


@tilec.kernel
def scale(
    A: T.Tensor(("M", "N"), "float16"),
    factor: T.float32,
    C: T.Tensor(("M", 64), T.float16),
    block: int = 64,
    swap=False,
):
    with T.Kernel(T.ceildiv(A.shape[0], block)) as bx:
        if swap:
            C[bx, 0] = A[bx, 0]
        else:
            C[bx, 0] = A[bx, 0] * T.cast(factor, "float16")


def memory(program: Any, index: int) -> MemoryType:
    type_ = program.params[index].type
    assert isinstance(type_, MemoryType)
    return type_


def test_parameters_by_kind() -> None:
    found = [(p.name, p.kind, p.has_default) for p in scale.parameters]
    assert found == [
        ("A", "tensor", False),
        ("factor", "scalar", False),
        ("C", "tensor", False),
        ("block", "constant", True),
        ("swap", "constant", True),
    ]
    assert scale.parameters[1].annotation == DTYPES["f32"]
    assert scale.name == "scale" and scale.__doc__ is None
    assert isinstance(scale, Kernel)


def test_programs_are_traced_once_for_a_specialisation() -> None:
    program = scale.lower_to_ir()
    assert scale.lower_to_ir() is program
    assert scale.lower_to_ir(Specialisation({"swap": True})) is not program
    # 1 and True are equal, and different all the same.
    assert scale.trace({"block": 1, "swap": 1}) is not scale.trace({"block": True, "swap": 1})
    assert [p.hint for p in program.params] == ["A", "factor", "C"]
    assert memory(program, 0) == MemoryType(DTYPES["f16"], ("M", "N"), Space.GLOBAL)
    assert program.symbols == ("M", "N")


def test_arguments_are_sorted_out() -> None:
    a, c = np.zeros((4, 4), np.float16), np.zeros((4, 64), np.float16)
    runtime, constants = scale.specialise((a, 2.0), {"C": c, "swap": True})
    assert [id(x) for x in runtime] == [id(a), id(runtime[1]), id(c)] and runtime[1] == 2.0
    assert constants == {"block": 64, "swap": True}


@pytest.mark.parametrize(
    ("args", "kwargs", "fragment"),
    [
        ((1, 2), {}, "not given: C"),
        ((1, 2, 3, 4, 5, 6), {}, "too many positional"),
        ((1, 2, 3), {"blok": 3}, "blok"),
        ((1, 2, 3), {"A": 3}, "multiple values"),
    ],
)
def test_wrong_calls(args: tuple[Any, ...], kwargs: dict[str, Any], fragment: str) -> None:
    with pytest.raises(ArgumentError, match=fragment):
        scale.specialise(args, kwargs)


def test_a_wrong_keyword_has_a_suggestion() -> None:
    with pytest.raises(ArgumentError) as caught:
        scale.specialise((1, 2, 3), {"blok": 3})
    assert caught.value.hint == "did you mean block?"


def test_a_compile_time_parameter_without_default() -> None:
    @tilec.kernel
    def k(A: T.Tensor("N", "int8"), size):
        with T.Kernel(size):
            A[0] = 0

    with pytest.raises(ArgumentError, match="size is not given"):
        k.specialise((np.zeros(1, np.int8),), {})
    with pytest.raises(ArgumentError, match="size"):
        k.lower_to_ir()
    with pytest.raises(ArgumentError, match="cannot be"):
        k.trace({"size": {1}})
    assert "launch 3, 1, 1" in print_program(k.trace({"size": 3}))


def make(rows: int, dtype: str) -> Kernel:
    """A factory: the annotation's names are in no closure of the kernel's."""
    columns = rows * 2
    kinds = {"t": dtype}

    def inside() -> Any:
        @tilec.kernel
        def made(A: T.Tensor((rows, columns), kinds["t"]), n: T.int32):
            with T.Kernel(1):
                A[0, 0] = n

        return made

    return inside()  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_factories(dtype: str) -> None:
    program = make(4, dtype).lower_to_ir()
    assert memory(program, 0).shape == (4, 8)
    assert T.float16 == "float16" and str(T.bfloat16) == "bfloat16"
    assert T.float16 == np.float16 == T.float16 != np.float32 and np.dtype("int8") == T.int8
    assert T.float16 in (np.int8, np.float16) and T.float32 not in (float, np.floating, None)
    assert f"cast %n <dtype = {memory(program, 0).dtype}>" in print_program(program)


KIND, OTHER = "int32", "in32"


def test_scalars_of_every_spelling() -> None:
    @tilec.kernel
    def k(
        A: T.Tensor((1,), "int32"),
        a: T.int32, b: "T.int32", c: "int32", d: KIND, e: np.int32, f: np.dtype("int32"), g: np.bool_,  # noqa: UP037
        h: int, i: "int", j: "bool", l: np.floating, m: bool, n: np.dtype, o: str | None, p,  # noqa: UP037
    ):  # fmt: skip
        with T.Kernel(1):
            A[0] = a

    kinds = ["tensor", *["scalar"] * 7, *["constant"] * 8]
    assert [p.kind for p in k.parameters] == kinds
    dtypes = [str(p.annotation) for p in k.parameters[1:8]]
    assert dtypes == ["i32"] * 6 + ["bool"]

    @tilec.kernel
    def in_body(A: T.Tensor((1,), "int32"), n):
        n: KIND
        with T.Kernel(1):
            A[0] = n

    assert str(in_body.lower_to_ir().params[1].type) == "i32"
    with pytest.raises(
        LanguageError, match="the annotation of n is 'in32', which is no element type"
    ):

        @tilec.kernel
        def wrong(A: T.Tensor((1,), "int32"), n: OTHER):
            with T.Kernel(1):
                A[0] = n


def test_symbols_of_every_spelling() -> None:
    @T.prim_func
    def k(A: "T.Tensor((ROWS, 'N'), 'int8')", B: T.Buffer(ROWS, "int8")):  # noqa: UP037 - quoted on purpose
        with T.Kernel(ROWS // 8) as bx:
            B[bx] = A[bx, B.shape[0] - ROWS]

    program = k.lower_to_ir()
    assert program.symbols == ("ROWS", "N")
    text = print_program(program)
    assert "floordiv %ROWS, 8" in text and text.count("= symbol") == 1
    assert "load %A[%bx, 0]" in text


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: T.Tensor(None, "int8"), "None is no dimension"),
        (lambda: T.dynamic(3), "3 names no symbol"),  # type: ignore[arg-type]
        (lambda: T.StridedTensor("M", -1), "a dimension or stride of -1"),
        (lambda: T.StridedTensor("M", ("a", "b")), "not one stride for each"),
        (lambda: tilec.compile(len, target="cuda:sm_80"), "built-in function len"),  # type: ignore[arg-type]
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_what_is_no_description(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(LanguageError, match=words) as caught:
        make()
    assert caught.value.hint and caught.value.loc.file == __file__


def test_annotations_in_the_body() -> None:
    @tilec.kernel
    def k(A, B, n, step=2):
        """Its dimensions are compile-time values."""
        M, N = T.const("M, N")
        A: T.Tensor((M, N // step), "int8")
        B: T.Tensor((N,), "int8")
        n: T.int32
        with T.Kernel(N // 4) as bx:
            A[bx, 0] = B[bx] + n

    assert [p.kind for p in k.parameters] == ["tensor", "tensor", "tensor", "constant"]
    shapes = {"A": (6, 4), "B": (8,)}
    dims = k.const_dims({"step": 2}, shapes)
    assert dims == {"M": 6, "N": 8}
    program = k.trace({"step": 2}, dims)
    assert [str(p.type) for p in program.params] == ["global i8[6, 4]", "global i8[8]", "i32"]
    assert "launch 2, 1, 1" in print_program(program)
    with pytest.raises(ArgumentError, match="N is 8 in B and 9 in C"):
        _two_values()
    with pytest.raises(LanguageError) as caught:
        k.trace({"step": 2}, {"M": 6})
    assert caught.value.code == "TLC0126"


DTYPE, WRONG = "float4_e2m1fn", True


def test_annotations_in_the_body_are_read_anew_while_there_is_no_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A first call that failed left a kernel that would go on with what it had read."""

    @tilec.kernel
    def k(A):
        N = T.const("N")
        A: T.Tensor((N,), DTYPE)
        with T.Kernel(1):
            if WRONG:
                raise ValueError
            A[0] = N

    with pytest.raises(LanguageError, match="ValueError"):
        k(np.zeros(4, np.uint8))
    monkeypatch.setitem(globals(), "DTYPE", "float32")
    monkeypatch.setitem(globals(), "WRONG", False)
    a = np.zeros(4, np.float32)
    k(a)
    assert a[0] == 4


def _two_values() -> None:
    @tilec.kernel
    def k(B, C):
        N = T.const("N")
        B: T.Tensor((N,), "int8")
        C: T.Tensor((N,), "int8")
        with T.Kernel(N):
            pass

    k.const_dims({}, {"B": (8,), "C": (9,)})


def test_heuristics_fill_what_is_not_given() -> None:
    seen = []

    def choose(target: Any, shapes: Any) -> dict[str, int]:
        seen.append((target, dict(shapes)))
        return {"block": 16 if shapes["A"][0] < 8 else 128}

    @tilec.heuristic(choose)
    @tilec.kernel
    def k(A: T.Tensor("N", "int8"), block: int = 32, other: int = 1):
        with T.Kernel(block):
            A[0] = 0

    small = np.zeros(4, np.int8)
    assert k.specialise((small,), {}, "here")[1] == {"block": 16, "other": 1}
    assert k.specialise((small,), {"block": 2})[1] == {"block": 2, "other": 1}
    assert k.specialise((np.zeros(9, np.int8),), {})[1]["block"] == 128
    assert seen[0] == ("here", {"A": (4,)})

    k.heuristic = lambda target, shapes: {"blok": 1}
    with pytest.raises(ArgumentError, match="blok"):
        k.specialise((small,), {})
    k.heuristic = lambda target, shapes: [("block", 1)]
    with pytest.raises(ArgumentError, match=r"TLC0302.*gives \[\('block', 1\)\], expected"):
        k.specialise((np.zeros(3, np.float32),), {}, None)
    with pytest.raises(LanguageError, match="takes a function"):
        tilec.heuristic({"block": 1})  # type: ignore[arg-type]
    k.heuristic = lambda target, shapes: {"block": shapes["B"][0]}
    with pytest.raises(ArgumentError, match="the heuristic of k: KeyError: 'B'") as caught:
        k.specialise((small,), {})
    assert "by name" in caught.value.hint and isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    "decorate",
    [tilec.heuristic(lambda target, shapes: {"n": 7}), tilec.autotune(configs=[{"n": 7}])],
    ids=["heuristic", "autotune"],
)
def test_what_decorates_a_kernel_that_has_been_called_counts(decorate: Any) -> None:
    @tilec.kernel
    def k(A: T.Tensor((1,), "int32"), n: int = 3):
        with T.Kernel(1, threads=32):
            A[0] = n

    a = np.zeros(1, np.int32)
    for _ in range(2):
        k(a, device="interpreter")
    assert a[0] == 3
    decorate(k)(a, device="interpreter")
    assert a[0] == 7


def test_decorators_may_stand_above() -> None:
    def noted(kernel: Kernel) -> Kernel:
        kernel.__doc__ = "noted"
        return kernel

    @noted
    @tilec.kernel
    def k(A: T.Tensor("N", "int8")):
        with T.Kernel(1):
            A[0] = 0

    assert k.__doc__ == "noted" and "store 0:i8, %A[0]" in print_program(k.lower_to_ir())
    with pytest.raises(LanguageError, match="decorates a Python function"):
        tilec.kernel(k)


class Tile:
    """Macros may be methods, and kernels may use objects."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    @T.macro
    def put(self, buffer, value):
        for i in T.serial(self.rows):
            if value > i:
                buffer[i] = value


def test_macros_as_methods_and_plain_functions_with_values() -> None:
    tile = Tile(3)

    def twice(x):
        return x + x

    @tilec.kernel
    def k(A: T.Tensor("N", "int32"), n: T.int32):
        with T.Kernel(1):
            tile.put(A, twice(n))

    text = print_program(k.lower_to_ir())
    assert "add %n, %n" in text and "for 0, 3, 1" in text


def test_several_launches_and_rasters() -> None:
    @tilec.kernel
    def two_launches(A: T.Tensor("N", "int8")):
        for step in range(2):
            with T.Kernel(4, 2, 3, threads=(64, 1), persistent=bool(step)) as (bx, by, bz):
                T.use_swizzle(8, order="column", enable=bool(step))
                assert all(
                    x is y for x, y in zip(T.get_block_bindings(), (bx, by, bz), strict=True)
                )
                A[T.get_block_binding(2)] = T.get_thread_extent()

    text = print_program(two_launches.lower_to_ir())
    assert text.count("launch 4, 2, 3 <threads = 64, ") == 2
    assert text.count("store 64:i8, %A[%bz") == 2
    assert 'symbol = "two_launches_kernel", persistent = false' in text
    assert 'symbol = "two_launches_kernel1", persistent, panel = 8, order = "column"' in text


def test_a_cooperative_launch_is_not_persistent() -> None:
    @tilec.kernel
    def together(A: T.Tensor("N", "int8")):
        with T.Kernel(4, cooperative=True) as b:
            A[b] = 1

    assert "persistent = false, cooperative" in print_program(together.lower_to_ir())


def test_specs() -> None:
    assert tilec.spec((4, 8), "float16").shape == (4, 8)
    assert tilec.spec(4, np.int8, align=1).dtype == DTYPES["i8"]
    for shape in (("M", 3), "M", (2.5,), None, (-1,)):
        with pytest.raises(ArgumentError, match="is no array"):
            tilec.spec(shape, "int8")
    with pytest.raises(ArgumentError):
        tilec.spec((4,), "int8", align=3)


def test_numpys_matrices_are_arrays() -> None:
    a, c = np.ones((4, 64), np.float16).view(np.matrix), np.zeros((4, 64), np.float16)
    scale(a, 3, c, device="interpreter")
    assert c[0, 0] == 3


def test_the_public_names_have_docstrings() -> None:
    from tilec.language.dtypes import ElementType

    bare = [
        name
        for name in T.__all__
        if not isinstance(getattr(T, name), ElementType) and not inspect.getdoc(getattr(T, name))
    ]
    assert bare == []


MODULE = """\
import tilec, tilec.language as T


@T.macro
def put(X, i):
    X[i] = 4


@tilec.kernel
def fill(X: T.Tensor((8,), "float32")):
    with T.Kernel(1, threads=32):
        for i in T.Parallel(8):
            put(X, i)


@tilec.kernel
def plain(X: T.Tensor((8,), "float32")):
    with T.Kernel(1, threads=32):
        for i in T.Parallel(8):
            X[i] = 4
"""


@pytest.mark.parametrize("edit", [lambda s: s.replace("= 4", "= 777"), lambda s: "\n\n" + s])
def test_what_was_loaded_runs_though_its_file_was_edited(
    edit: Callable[[str], str], tmp_path: Path
) -> None:
    path = tmp_path / "edited.py"
    path.write_text(MODULE)
    spec = importlib.util.spec_from_file_location("edited", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path.write_text(edit(MODULE))
    for kernel in (module.fill, module.plain):
        found = np.zeros(8, np.float32)
        kernel(found)
        assert (found == 4).all()


@tilec.kernel
def pickled(X: T.Tensor((8,), "float32")):
    with T.Kernel(1, threads=32):
        for i in T.Parallel(8):
            twice(X, i)


@T.macro
def twice(X, i):
    X[i] = X[i] * 2


@pytest.mark.parametrize("handle", [pickled, twice], ids=["kernel", "macro"])
def test_kernels_and_macros_are_pickled_and_copied_by_name(handle: Any) -> None:
    assert pickle.loads(pickle.dumps(handle)) is handle  # noqa: S301
    assert copy.deepcopy({"of a model": handle})["of a model"] is copy.copy(handle) is handle


def test_a_kernel_that_is_a_method_is_told_of_self() -> None:
    class Layer:
        scale = 2

        @tilec.kernel
        def run(self, X: T.Tensor((8,), "float32")):
            with T.Kernel(1, threads=32):
                for i in T.Parallel(8):
                    X[i] = X[i] * self.scale

    layer, found = Layer(), np.ones(8, np.float32)
    layer.run(layer, found)
    assert (found == 2).all()
    with pytest.raises(ArgumentError, match="not given: X") as caught:
        layer.run(found)
    assert "pass the object too" in caught.value.hint
