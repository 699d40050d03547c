"""What kernels read from outside: a change gives a new program, and nothing else does."""

from __future__ import annotations

import functools
import os
import unittest.mock
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tilec.errors import LanguageError
from tilec.language.kernel import Kernel
from tilec.parser.python_captures import identity_of

Change = Callable[[], AbstractContextManager[Any]]

FACTOR: Any = 2
TYPE = T.float32
TABLE: list[Any] = [2, [3]]
NUMBERS = np.array([2, 3])
SETTINGS = SimpleNamespace(factor=2, inner=SimpleNamespace(factor=2))
SETTINGS_MODULE = ModuleType("settings")
SETTINGS_MODULE.factor = 2  # type: ignore[attr-defined]


class Options:
    factor = 2


class Slotted:
    __slots__ = ("factor",)

    def __init__(self) -> None:
        self.factor = 2


SLOTS = Slotted()


class Given:
    """An object whose factor is read in all the ways that there are."""

    factor = 2

    def __init__(self) -> None:
        self.own, self.held = FACTOR, {"factor": 2}

    @property
    def computed(self) -> int:
        return self.own

    @classmethod
    def of_class(cls) -> int:
        return cls.factor

    def method(self) -> int:
        return self.own

    def __call__(self) -> int:
        return self.own

    def __getitem__(self, key: str) -> int:
        return self.held[key]

    def __getattr__(self, name: str) -> int:
        return self.__dict__["held"][name.removeprefix("the_")]

    def __len__(self) -> int:
        return self.own

    def __iter__(self) -> Iterator[int]:
        yield self.own

    def __enter__(self) -> int:
        return self.own

    def __exit__(self, *problem: object) -> None:
        pass

    def __rmul__(self, x: Any) -> Any:
        return x * self.own

    @T.macro
    def times(self, x):
        return x * self.own


class Inherits(Given):
    pass


class Named(dict[str, Any]):
    __getattr__ = dict.__getitem__


OBJECT: Any = Given()
OBJECTS = [OBJECT]
NAMED = Named(factor=2)


def factor_of(x: Any) -> Any:
    return x.own


factor_of.factor = 2  # type: ignore[attr-defined]


def aliased(x: Any) -> Any:
    options = OBJECT
    with options as factor:
        return x * factor


def by_default(x: Any, factors: Any = [2]) -> Any:  # noqa: B006
    return x * factors[0]


def helper(x: Any) -> Any:
    return x * FACTOR


@functools.cache
def cached(factor: int) -> int:
    return factor * TABLE[0] // 2


@T.macro
def scaled(x):
    y: TYPE = x * FACTOR
    return y


HELPERS = (functools.partial(helper),)


def times(read: Callable[[Any], Any]) -> Kernel:
    """A kernel that gives `read` of every element."""

    @tilec.kernel
    def kernel(A: T.Tensor(("N",), "float32"), B: T.Tensor(("N",), "float32")):
        with T.Kernel(1, threads=32):
            for i in T.Parallel(4):
                B[i] = read(A[i])

    return kernel


def result(kernel: Kernel, *more: Any, **constants: Any) -> float:
    a, b = np.ones(4, np.float32), np.zeros(4, np.float32)
    kernel(a, b, *more, **constants)
    return float(b[0])


@contextmanager
def item(owner: Any, key: Any, value: Any) -> Iterator[None]:
    """owner[key] is another value for a while."""
    before, owner[key] = owner[key], value
    yield
    owner[key] = before


@contextmanager
def uncached(owner: Any, key: Any, value: Any) -> Iterator[None]:
    """As `item`, and forgotten by the function that is cached."""
    with item(owner, key, value):
        cached.cache_clear()
        yield
    cached.cache_clear()


def put(owner: Any, name: str, value: Any) -> Change:
    return lambda: unittest.mock.patch.object(owner, name, value)


def put_item(owner: Any, key: Any, value: Any) -> Change:
    return lambda: item(owner, key, value)


def rebind(name: str, value: Any) -> Change:
    return put_item(globals(), name, value)


PARTIAL = functools.partial(factor_of, OBJECT)
METHOD = OBJECT.method
own = put(OBJECT, "own", 3)
held = put_item(OBJECT.held, "factor", 3)

CASES: dict[str, tuple[Callable[[Any], Any], Change]] = {
    "a global": (lambda x: x * FACTOR, rebind("FACTOR", 3)),
    "a global of a helper": (lambda x: helper(x), rebind("FACTOR", 3)),
    "a helper": (lambda x: helper(x), rebind("helper", lambda x: x * 3)),
    "a global of a macro": (lambda x: scaled(x), rebind("FACTOR", 3)),
    "a helper in a tuple": (lambda x: HELPERS[0](x), rebind("FACTOR", 3)),
    "a list": (lambda x: x * TABLE[0], put_item(TABLE, 0, 3)),
    "a list in a list": (lambda x: x * (TABLE[1][0] - 1), put_item(TABLE[1], 0, 4)),
    "a list of a cached function": (lambda x: x * cached.__wrapped__(2), put_item(TABLE, 0, 3)),
    "an array": (lambda x: x * int(NUMBERS[0]), put_item(NUMBERS, 0, 3)),
    "an attribute": (lambda x: x * SETTINGS.factor, put(SETTINGS, "factor", 3)),
    "an inner attribute": (lambda x: x * SETTINGS.inner.factor, put(SETTINGS.inner, "factor", 3)),
    "an object between": (
        lambda x: x * SETTINGS.inner.factor,
        put(SETTINGS, "inner", SimpleNamespace(factor=3)),
    ),
    "an attribute of a module": (
        lambda x: x * SETTINGS_MODULE.factor,
        put(SETTINGS_MODULE, "factor", 3),
    ),
    "an attribute of a class": (lambda x: x * Options.factor, put(Options, "factor", 3)),
    "an attribute in a slot": (lambda x: x * SLOTS.factor, put(SLOTS, "factor", 3)),
    "a list of a function that is cached": (lambda x: x * cached(2), lambda: uncached(TABLE, 0, 3)),
    "a dictionary's methods": (lambda x: x * OBJECT.held.get("factor"), held),
    "names of a dictionary": (lambda x: x * NAMED.factor, put_item(NAMED, "factor", 3)),
    "an attribute that only the class had": (lambda x: x * OBJECT.factor, put(OBJECT, "factor", 3)),
    "an attribute that only the parent had": (lambda x: x * Inherits.factor, put(Inherits, "factor", 3)),
    "an attribute of a function": (lambda x: x * factor_of.factor, put(factor_of, "factor", 3)),
    "what a method of a class reads": (
        lambda x: x * Inherits.of_class(),
        put(Inherits, "factor", 3),
    ),
    "what a method reads": (lambda x: x * OBJECT.method(), own),
    "what a method of a variable reads": (lambda x: x * METHOD(), own),
    "what a macro that is a method reads": (lambda x: OBJECT.times(x), own),
    "what a property reads": (lambda x: x * OBJECT.computed, own),
    "an attribute by getattr": (lambda x: x * getattr(OBJECT, "own"), own),  # noqa: B009
    "an attribute by __getattr__": (lambda x: x * OBJECT.the_factor, held),
    "an item by __getitem__": (lambda x: x * OBJECT["factor"], held),
    "an object's call": (lambda x: x * OBJECT(), own),
    "an object's length": (lambda x: x * len(OBJECT), own),
    "an object's iteration": (lambda x: x * sum(OBJECT), own),
    "an object's arithmetic": (lambda x: x * OBJECT, own),
    "an object by another name": (aliased, own),
    "an object in a list": (lambda x: x * OBJECTS[0].own, own),
    "an object as an argument": (lambda x: x * factor_of(OBJECT), own),
    "an object of a partial": (lambda x: x * PARTIAL(), own),
    "an object that is made": (lambda x: x * Given().own, rebind("FACTOR", 3)),
    "a default that is changed": (
        lambda x: by_default(x),
        put_item(by_default.__defaults__[0], 0, 3),  # type: ignore[index]
    ),
    "a name in a comprehension": (lambda x: x * sum(FACTOR for _ in range(1)), rebind("FACTOR", 3)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_change_gives_a_new_program(case: str) -> None:
    read, change = CASES[case]
    kernel = times(read)
    assert result(kernel) == result(kernel) == 2
    assert len(kernel._programs) == 1
    with change():
        assert result(kernel) == result(kernel) == 3
        assert len(kernel._programs) == 1
    assert result(kernel) == 2


@pytest.mark.parametrize("case", CASES)
def test_a_change_gives_a_function_another_identity(case: str) -> None:
    read, change = CASES[case]
    before = identity_of(read)
    assert before == identity_of(read) and hash(before) == hash(identity_of(read))
    with change():
        assert identity_of(read) != before
    assert identity_of(read) == before


def test_arrays_of_equal_bytes_are_not_the_same() -> None:
    one, other = np.zeros(4, np.float32), np.zeros(2, np.float64)

    def reader(table: Any) -> Callable[[Any], Any]:
        return lambda x: x * len(table) + float(table[0])

    assert identity_of(reader(one)) == identity_of(reader(one.copy()))
    assert identity_of(reader(one)) != identity_of(reader(other))
    kernel = times(lambda x: x * len(one))
    assert result(kernel) == 4
    one.shape = (2, 2)
    assert result(kernel) == 2


def test_functions_of_an_installed_package_are_told_by_what_they_hold() -> None:
    """One that is made for each call is the same function, wherever its text lies."""
    place = f"{os.path.dirname(os.__file__)}/site-packages/acme/epilogues.py"
    scope: dict[str, Any] = {}
    text = "def scaled(factor):\n    return lambda x, i, j: x * factor"
    exec(compile(text, place, "exec"), scope)  # noqa: S102
    scaled = scope["scaled"]
    assert identity_of(scaled(2)) == identity_of(scaled(2)) != identity_of(scaled(3))
    assert identity_of(T.max) == identity_of(T.max) != identity_of(T.min)


@pytest.mark.parametrize("kind", ["function", "closure", "macro", "class", "object", "module"])
def test_what_a_compile_time_parameter_reads_may_change(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @tilec.kernel
    def kernel(A: T.Tensor(("N",), "float32"), B: T.Tensor(("N",), "float32"), read: Any = None):
        with T.Kernel(1, threads=32):
            for i in T.Parallel(4):
                B[i] = read(A[i]) if callable(read) and read is not Options else A[i] * read.factor

    cell = SimpleNamespace(factor=2)
    read, change = {
        "function": (helper, lambda: monkeypatch.setitem(globals(), "FACTOR", 3)),
        "closure": (lambda x: x * cell.factor, lambda: monkeypatch.setattr(cell, "factor", 3)),
        "macro": (scaled, lambda: monkeypatch.setitem(globals(), "FACTOR", 3)),
        "class": (Options, lambda: monkeypatch.setattr(Options, "factor", 3)),
        "object": (SLOTS, lambda: monkeypatch.setattr(SLOTS, "factor", 3)),
        "module": (SETTINGS_MODULE, lambda: monkeypatch.setattr(SETTINGS_MODULE, "factor", 3)),
    }[kind]
    assert result(kernel, read=read) == result(kernel, read=helper) == 2
    change()
    assert result(kernel, read=read) == 3


def test_books_that_a_heuristic_and_a_trace_keep_are_no_changes() -> None:
    class Books:
        def __init__(self) -> None:
            self.asked, self.factor = 0, 2

        def choose(self, target: object, shapes: object) -> dict[str, int]:
            self.asked += 1
            return {"factor": self.factor}

    books, traced = Books(), []

    @tilec.heuristic(books.choose)
    @tilec.kernel
    def kernel(
        A: T.Tensor(("N",), "float32"), B: T.Tensor(("N",), "float32"), factor: int, more: int = 0
    ):
        traced.append(more)
        with T.Kernel(1, threads=32):
            for i in T.Parallel(4):
                B[i] = A[i] * factor + more

    assert [result(kernel, more=m) for m in (0, 1, 0, 1, 1)] == [2, 3, 2, 3, 3]
    assert (books.asked, traced) == (2, [0, 1])
    books.factor = 3
    assert result(kernel) == 3


def test_the_kernels_of_tilec_are_compared_with_nothing() -> None:
    from tilec.ops.forms import Form
    from tilec.ops.product import product

    made = product(Form(("f32", "f32"), "f32"))
    a = np.ones((16, 16), np.float32)
    made(a, a, np.zeros_like(a))
    assert made.bindings == ()


def test_a_closure_cell_may_change() -> None:
    factor: Any = 2

    @tilec.kernel
    def kernel(A: T.Tensor(("N",), "float32"), B: T.Tensor(("N",), "float32")):
        with T.Kernel(1, threads=32):
            for i in T.Parallel(4):
                B[i] = A[i] * factor

    assert result(kernel) == 2
    factor = 3
    assert result(kernel) == 3
    del factor
    with pytest.raises(LanguageError, match="factor"):
        result(kernel)


def test_a_macro_and_its_types_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = times(lambda x: scaled(x))
    assert result(kernel) == 2
    monkeypatch.setitem(globals(), "FACTOR", 2.5)
    assert result(kernel) == 2.5
    monkeypatch.setitem(globals(), "TYPE", T.int32)  # in an annotation of the macro's body
    assert result(kernel) == 2
    monkeypatch.setitem(globals(), "scaled", T.macro(helper))
    assert result(kernel) == 2.5


def test_the_annotation_of_a_parameter_in_the_body_may_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @tilec.kernel
    def kernel(A, B):
        A: T.Tensor((4,), TYPE)
        B: T.Tensor((4,), "float32")
        with T.Kernel(1, threads=32):
            for i in T.Parallel(4):
                B[i] = A[i]

    assert result(kernel) == 1
    monkeypatch.setitem(globals(), "TYPE", T.int32)
    b = np.zeros(4, np.float32)
    kernel(np.full(4, 7, np.int32), b)
    assert b[0] == 7


def test_a_number_of_another_type_is_another_number(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = times(
        lambda x: T.cast(5, "int32") / T.cast(FACTOR, "float32") if FACTOR is True else x
    )
    monkeypatch.setitem(globals(), "FACTOR", 1)
    assert result(kernel) == 1
    monkeypatch.setitem(globals(), "FACTOR", True)
    assert result(kernel) == 5


def test_a_zero_of_another_sign_is_another_number(monkeypatch: pytest.MonkeyPatch) -> None:
    table = [0.0]

    @tilec.kernel
    def put(A: T.Tensor((3,), "float32"), zero: float = 0.0):
        with T.Kernel(1, threads=32):
            A[0], A[1], A[2] = FACTOR, table[0], zero

    for zero in (0.0, -0.0, 0.0):
        monkeypatch.setitem(globals(), "FACTOR", zero)
        table[0] = zero
        found = np.ones(3, np.float32)
        put(found, zero=zero, device="interpreter")
        assert not found.any() and (np.signbit(found) == np.signbit(zero)).all()


def test_what_is_equal_or_not_read_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "FACTOR", 10**6)
    kernel = times(lambda x: x * FACTOR)
    result(kernel)
    (program,) = kernel._programs.values()
    monkeypatch.setitem(globals(), "FACTOR", int("1000000"))  # another object
    monkeypatch.setitem(globals(), "TYPE", T.int32)
    TABLE.append(1)
    result(kernel)
    TABLE.pop()
    assert list(kernel._programs.values()) == [program]
    names = [key for _, key, _ in kernel.bindings]
    assert names.count("FACTOR") == 1 and "T" not in names and "tilec" not in names


def test_containers_that_every_call_would_go_through_are_not_watched() -> None:
    few, many = np.ones(4096), np.ones(4097)
    kernel = times(lambda x: x * few[0] * many[0])
    assert result(kernel) == 1
    many[0] = 2
    assert result(kernel) == 1
    few[0] = 3
    assert result(kernel) == 6


def test_every_specialisation_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    @tilec.kernel
    def kernel(A: T.Tensor(("N",), "float32"), B: T.Tensor(("N",), "float32"), more: int = 0):
        with T.Kernel(1, threads=32):
            for i in T.Parallel(4):
                B[i] = A[i] * FACTOR + more

    assert [result(kernel, more=m) for m in (0, 1, 0)] == [2, 3, 2]
    monkeypatch.setitem(globals(), "FACTOR", 3)
    assert [result(kernel, more=m) for m in (1, 0, 1)] == [4, 3, 4]
    compiled = kernel.lower(target="cuda:sm_80")
    monkeypatch.setitem(globals(), "FACTOR", 4)
    assert kernel.lower(target="cuda:sm_80").source != compiled.source


def test_a_heuristic_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    @tilec.heuristic(lambda target, shapes: {"factor": FACTOR})
    @tilec.kernel
    def kernel(A: T.Tensor(("N",), "float32"), B: T.Tensor(("N",), "float32"), factor: int):
        with T.Kernel(1, threads=32):
            for i in T.Parallel(4):
                B[i] = A[i] * factor

    assert result(kernel) == result(kernel) == 2
    monkeypatch.setitem(globals(), "FACTOR", 3)
    assert result(kernel) == 3


def test_a_compile_time_object_may_change() -> None:
    @tilec.kernel
    def kernel(A: T.Tensor(("N",), "float32"), B: T.Tensor(("N",), "float32"), options: object):
        with T.Kernel(1, threads=32):
            for i in T.Parallel(4):
                B[i] = A[i] * options.factor

    options = Plain(2)
    assert result(kernel, options=options) == 2
    options.factor = 3
    assert result(kernel, options=options) == 3


class Plain:
    def __init__(self, factor: int) -> None:
        self.factor = factor
