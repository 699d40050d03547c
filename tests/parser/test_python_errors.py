"""Programs that are refused: code, line, columns and words of each refusal."""

from __future__ import annotations

from pathlib import Path
from types import CodeType, FunctionType

import pytest

import tilec
import tilec.language as T
from tilec.errors import TilecError

from .programs import FRAME, HEAD, in_frame, read_marks, refusal

# (name, body of the launch with the place of the error in ⟦ ⟧, code, fragment of the message)
BODIES = [
    ("rebound in a loop", "x = 0\nfor i in T.serial(4):\n    ⟦x = x + i⟧", "TLC0104", "`x`"),
    ("rebound by +=", "x = 0\nfor i in range(n):\n    ⟦x += 1⟧", "TLC0104", "line 13"),
    (
        "read in the next trip of an outer loop",
        "x = 1\nfor i in range(n):\n    L[0] = x\n    for j in range(n):\n        ⟦x = j⟧",
        "TLC0104",
        "`x` is bound anew",
    ),
    (
        "rebound in the condition's loop",
        "x = n\nwhile x > 2:\n    ⟦x = x - 1⟧",
        "TLC0104",
        "later trip",
    ),
    (
        "read after a loop",
        "for i in T.serial(4):\n    x = i\nL[0] = ⟦x⟧",
        "TLC0106",
        "the loop of line 12",
    ),
    ("index after its loop", "for i in T.serial(4):\n    pass\nL[⟦i⟧] = 0", "TLC0106", "`i`"),
    ("read after a branch", "if n > 2:\n    y = n\nL[0] = ⟦y⟧", "TLC0106", "the branch of line 12"),
    (
        "old value after a branch",
        "y = 1\nif n > 2:\n    pass\nelse:\n    y = 2\nL[0] = ⟦y⟧",
        "TLC0106",
        "`y`",
    ),
    (
        "first bound in the other arm",
        "if n > 2:\n    y = n\nelse:\n    L[0] = ⟦y⟧",
        "TLC0106",
        "`y`",
    ),
    ("list appended to", "xs = []\nfor i in ⟦T.serial(4)⟧:\n    xs.append(i)", "TLC0105", "`xs`"),
    ("dict set in a branch", "d = {'a': 1}\nif ⟦n > 1⟧:\n    d['a'] = 2", "TLC0105", "`d`"),
    (
        "nested container",
        "d = {'a': [[1]]}\nfor i in ⟦range(n)⟧:\n    d['a'][0][0] = 2",
        "TLC0105",
        "`d`",
    ),
    (
        "a value kept in a list",
        "xs = [0]\ndef keep(v):\n    xs[0] = v\nif ⟦n > 0⟧:\n    keep(n)",
        "TLC0105",
        "`xs`",
    ),
    (
        "a plain function's counter",
        "def make():\n    c = 0\n    def count():\n        nonlocal c\n"
        "        c += 1\n        return c\n"
        "    return count\ncount = make()\nfor i in ⟦range(n)⟧:\n    L[0] = count()",
        "TLC0105",
        "`count`",
    ),
    (
        "an iterator advanced",
        "import itertools\nnumbers = itertools.count()\nif ⟦n > 1⟧:\n    L[0] = next(numbers)",
        "TLC0105",
        "`numbers`",
    ),
    (
        "a generator advanced",
        "g = (q for q in [1, 2, 3])\nfor i in ⟦range(n)⟧:\n    L[0] = next(g)",
        "TLC0105",
        "`g`",
    ),
    (
        "an attribute set",
        "import types\no = types.SimpleNamespace(x=1)\nif ⟦n > 1⟧:\n    o.x = 2",
        "TLC0105",
        "`o`",
    ),
    (
        "a list changed in a lazy side",
        "xs = []\nL[0] = 1 if ⟦n > 1 and xs.append(1) is None⟧ else 2",
        "TLC0105",
        "`xs`",
    ),
    (
        "a name that a plain function reads",
        "x = 0\ndef f():\n    return x\nfor i in range(n):\n    L[0] = f()\n    ⟦x = i⟧",
        "TLC0104",
        "`x`",
    ),
    (
        "a function of one arm",
        "if n > 1:\n    def f():\n        return 1\n"
        "else:\n    def f():\n        return 2\nL[0] = ⟦f⟧()",
        "TLC0106",
        "`f`",
    ),
    ("condition in a plain function", "L[0] = 1 if ⟦min(n, 3)⟧ else 0", "TLC0103", "true"),
    ("buffer as a condition", "if ⟦S⟧:\n    pass", "TLC0103", "`S`"),
    ("value as a Python integer", "⟦[0, 1][n]⟧", "TLC0125", "an integer"),
    ("value as a shape", "⟦T.alloc_shared((n, 4), 'float16')⟧", "TLC0129", "compile-time extents"),
    ("shape of nothing", "⟦T.alloc_local(0, 'float16')⟧", "TLC0129", "extent of 0"),
    ("unknown dtype", "⟦T.alloc_local(4, 'float15')⟧", "TLC0110", "float15"),
    ("loop over a value", "for i in ⟦n⟧:\n    pass", "TLC0122", "over a value"),
    ("parallel over a value", "for i in ⟦T.Parallel(n)⟧:\n    pass", "TLC0122", "compile-time"),
    ("float bound", "for i in ⟦T.serial(2.5)⟧:\n    pass", "TLC0122", "not an integer"),
    ("no step", "for i in ⟦T.serial(n, 0, 0)⟧:\n    pass", "TLC0122", "step of 0"),
    ("schedule by hand", "for i in ⟦T.Pipelined(4, order=[0])⟧:\n    pass", "TLC0122", "order"),
    (
        "break in a Python loop",
        "for i in range(4):\n    if n > i:\n        ⟦break⟧",
        "TLC0109",
        "Python runs",
    ),
    (
        "break in T.Parallel",
        "for i in T.Parallel(64):\n    if n > i:\n        ⟦break⟧",
        "TLC0109",
        "T.Parallel",
    ),
    (
        "continue in T.Pipelined",
        "for i in T.Pipelined(4):\n    if n > i:\n        ⟦continue⟧",
        "TLC0109",
        "T.Pipelined",
    ),
    (
        "break in T.vectorized",
        "for i in T.vectorized(4):\n    if n > i:\n        ⟦break⟧",
        "TLC0109",
        "T.vectorized",
    ),
    (
        "continue over threads",
        "for i in T.thread_binding(64):\n    if n > i:\n        ⟦continue⟧",
        "TLC0109",
        "the block's threads",
    ),
    (
        "a name bound behind a jump",
        "for i in T.serial(n):\n    if n > i:\n        if n > 4:\n            break\n"
        "        x = i\n    L[0] = ⟦x⟧",
        "TLC0106",
        "`x`",
    ),
    (
        "memory order",
        "⟦T.atomic_add(B[0, 0], 1, memory_order='sequential')⟧",
        "TLC0135",
        "memory_order='sequential'",
    ),
    ("a load that releases", "L[0] = ⟦T.atomic_load(B[0, 0], 'release')⟧", "TLC0135", "'release'"),
    ("a store that acquires", "⟦T.atomic_store(B[0, 0], 1, 'acq_rel')⟧", "TLC0135", "'acq_rel'"),
    ("a load of a tile", "L[0] = ⟦T.atomic_load(B)⟧", "TLC0135", "takes one element"),
    ("or of floats", "⟦T.atomic_or(B[0, 0], 1)⟧", "TLC0135", "which holds floats"),
    ("atomic on no memory", "⟦T.atomic_add(n, 1)⟧", "TLC0135", "no memory"),
    ("a value to a tile", "⟦T.atomic_add(B, 1)⟧", "TLC0135", "one value on a tile"),
    ("order of a tile", "⟦T.atomic_add(B, F, 'release')⟧", "TLC0135", "no memory_order"),
    ("atomic on a thread's own", "⟦T.atomic_add(L[0], 1)⟧", "TLC0135", "`L`, which is in local"),
    (
        "atomic on a fragment",
        "for i, j in T.Parallel(64, 64):\n    ⟦T.atomic_max(F[i, j], 1)⟧",
        "TLC0135",
        "`F`, which is in fragment",
    ),
    (
        "atomic on bytes",
        "Z = T.alloc_shared(8, 'int8')\n⟦T.atomic_min(Z[0], 1)⟧",
        "TLC0135",
        "16 bits",
    ),
    (
        "previous tile",
        "⟦T.atomic_add(B, F, return_prev=True)⟧",
        "TLC0135",
        "return_prev",
    ),
    ("a false assumption", "⟦T.assume(tile == 63)⟧", "TLC0142", "T.assume"),
    ("a message of another kind", "⟦T.device_assert(n > 0, n)⟧", "TLC0142", "message"),
    ("a barrier of no number", "⟦T.sync_threads(16)⟧", "TLC0162", "barrier_id=16"),
    ("atomic of two shapes", "⟦T.atomic_add(B[0:32, 0:64], F)⟧", "TLC0117", "T.atomic_add of"),
    ("return under a condition", "if n > 2:\n    ⟦return⟧", "TLC0109", "`return`"),
    ("else of a loop", "for i in ⟦range(n)⟧:\n    pass\nelse:\n    pass", "TLC0108", "`else`"),
    ("try", "⟦try:⟧\n    pass\nexcept ValueError:\n    pass", "TLC0108", "`try`"),
    ("global", "⟦global z⟧", "TLC0108", "`global`"),
    ("class", "⟦class Z:⟧\n    pass", "TLC0108", "`class`"),
    ("division of integers", "x = ⟦n / 2⟧", "TLC0123", "/ of two integers"),
    ("division by zero", "x = ⟦n // 0⟧", "TLC0123", "division by zero"),
    ("number too large", "S[0, 0] = 1\nx = ⟦S[0, 0] * 1e6⟧", "TLC0138", "1000000.0 is no f16"),
    ("stored number too large", "⟦S[0, 0]⟧ = 1e6", "TLC0138", "is no f16"),
    ("shift too far", "x = ⟦n << 32⟧", "TLC0123", "shift"),
    ("dtypes without a common one", "x = ⟦S[0, 0] + T.bfloat16(n)⟧", "TLC0111", "f16 and bf16"),
    ("unknown name", "⟦T.alloc_shard⟧((4,), 'int8')", "TLC0101", "T.alloc_shard"),
    ("too few indices", "⟦S[0]⟧ = 1", "TLC0115", "1 index into `S`"),
    ("too many indices", "L[0] = ⟦S[0, 1, 2]⟧", "TLC0115", "3 indices"),
    ("float index", "L[0] = ⟦S[0, 1.5]⟧", "TLC0115", "1.5"),
    ("float value as index", "L[0] = ⟦S[0, L[1]]⟧", "TLC0115", "is a f32"),
    ("negative index", "L[0] = ⟦S[-1, 0]⟧", "TLC0116", "index 0 of `S` is -1"),
    ("index too large", "⟦L[8]⟧ = 0", "TLC0116", "its extent is 8"),
    ("fragment element", "L[0] = ⟦F[n, 0]⟧", "TLC0119", "`F` is a fragment"),
    ("fragment element written", "⟦F[n, 0]⟧ = 1", "TLC0119", "T.Parallel"),
    ("region assigned", "⟦S[0:4, :]⟧ = 0", "TLC0128", "a region of `S`"),
    (
        "copy of two shapes",
        "⟦T.copy(S[0:32, 0:16], F)⟧",
        "TLC0117",
        "(32, 16) from `S` to (64, 64)",
    ),
    ("copy of two elements", "⟦T.copy(A[0, 0], S[0, 0])⟧", "TLC0117", "two elements"),
    ("copy of all of a dynamic tensor", "⟦T.copy(A, S)⟧", "TLC0117", "the extent M of `A`"),
    ("copy of a slice of unknown extent", "⟦T.copy(A[0:n, 0:64], S)⟧", "TLC0117", "dimension 0"),
    (
        "copy to an end of unknown extent",
        "⟦T.copy(A[0:64, :], S)⟧",
        "TLC0117",
        "ends with it, at N",
    ),
    ("copy of a number", "⟦T.copy(3, S)⟧", "TLC0117", "not 3"),
    ("copy in T.Parallel", "for i in T.Parallel(4):\n    ⟦T.copy(S, F)⟧", "TLC0120", "T.Parallel"),
    (
        "nested T.Parallel",
        "for i in T.Parallel(4):\n    for j in ⟦T.Parallel(4)⟧:\n        pass",
        "TLC0120",
        "another T.Parallel",
    ),
    ("copy by some threads", "if ⟦t < 2⟧:\n    T.copy(S, F)", "TLC0120", "depends on the thread"),
    ("copy from a thread's place", "⟦T.copy(A[t, 0], S)⟧", "TLC0120", "copy that the whole block"),
    (
        "thread in a nest",
        "for i in T.Parallel(4):\n    ⟦T.get_thread_binding()⟧",
        "TLC0120",
        "no thread",
    ),
    ("gemm of shapes", "⟦T.gemm(S, S[0:4, :], F)⟧", "TLC0245", "region [4, 64]"),
    ("gemm into shared", "⟦T.gemm(S, S, S)⟧", "TLC0131", "C of T.gemm"),
    (
        "gemm of dtypes",
        "X = T.alloc_shared((64, 64), 'bfloat16')\n⟦T.gemm(S, X, F)⟧",
        "TLC0253",
        "f16",
    ),
    (
        "gemm of sizes",
        "X = T.alloc_shared((32, 64), 'float16')\n⟦T.gemm(S, X, F)⟧",
        "TLC0245",
        "gemm of",
    ),
    (
        "gemm of floats into integers",
        "X = T.alloc_fragment((64, 64), 'int32')\n⟦T.gemm(S, S, X)⟧",
        "TLC0249",
        "gemm of f16 into i32",
    ),
    (
        "gemm of floats into 8 bits",
        "X = T.alloc_fragment((64, 64), 'float8_e5m2')\n⟦T.gemm(S, S, X)⟧",
        "TLC0249",
        "gemm of f16 into e5m2",
    ),
    ("launch in a launch", "with ⟦T.Kernel(4)⟧ as z:\n    pass", "TLC0118", "another T.Kernel"),
    ("other axis", "⟦T.thread_binding(0, 128, thread='threadIdx.y')⟧", "TLC0118", "threadIdx.y"),
    ("too many threads bound", "⟦T.thread_binding(0, 256)⟧", "TLC0118", "the block has 128"),
    ("unknown order", "⟦T.use_swizzle(4, order='diagonal')⟧", "TLC0118", "diagonal"),
    ("layout of a fragment", "⟦T.annotate_layout({F: 1})⟧", "TLC0127", "no shared buffer"),
    ("layout that is none", "⟦T.annotate_layout({S: 1})⟧", "TLC0127", "layout of `S` is a int"),
    (
        "safe value of shared memory",
        "⟦T.annotate_safe_value({S: 1})⟧",
        "TLC0127",
        "no tensor in global",
    ),
    ("safe value of the run", "⟦T.annotate_safe_value({A: n})⟧", "TLC0127", "safe value of `A`"),
    ("user's exception", "⟦{}['key']⟧", "TLC0112", "KeyError"),
    ("unbound name", "L[0] = ⟦undefined_name⟧", "TLC0112", "undefined_name"),
    ("constant symbol", "⟦T.const('Q')⟧", "TLC0126", "the value of Q"),
    ("ternary of buffers", "x = ⟦S if n > 1 else F⟧", "TLC0124", "gives scalars"),
    ("endless loop", "while ⟦True⟧:\n    pass", "TLC0122", "has run"),
    ("workspace", "⟦T.alloc_global((bx,), 'int8')⟧", "TLC0129", "computed in a launch"),
]


@pytest.mark.parametrize(
    ("body", "code", "fragment"), [c[1:] for c in BODIES], ids=[c[0] for c in BODIES]
)
def test_refused_bodies(tmp_path: Path, body: str, code: str, fragment: str) -> None:
    marked = read_marks(in_frame(body))
    error = refusal(tmp_path, marked.text)
    assert (error.code, error.message.count(fragment) > 0) == (code, True), str(error)
    found = (error.loc.line, error.loc.column, error.loc.end_column)
    assert found == (marked.line, marked.column, marked.end), str(error)
    caret = " " * marked.column + "^" * (marked.end - marked.column)
    assert f"| {caret}\n" in str(error) + "\n"


@pytest.mark.parametrize(
    ("body", "hint"),
    [("x = int(n)", 'T.cast(x, "int32")'), ("x = float(n)", "T.exp is math.exp")],
)
def test_conversions_of_python_are_told_what_to_write(tmp_path: Path, body: str, hint: str) -> None:
    error = refusal(tmp_path, in_frame(body))
    assert error.code == "TLC0125" and hint in error.hint


KERNEL = "@tilec.kernel\ndef k(A: T.Tensor('N', 'int8')):\n"
MODULES = [
    (
        "reserved name",
        "@tilec.kernel\ndef k(A: T.Tensor('N', 'int8'), ⟦stream: int⟧ = 0):\n    pass\n",
        "TLC0114",
        "'stream'",
    ),
    (
        "wrong dimension",
        "@tilec.kernel\ndef k(A: ⟦T.Tensor((4, 2.5), 'int8')⟧):\n    pass\n",
        "TLC0113",
        "2.5 is no dimension",
    ),
    (
        "a dimension named as a parameter is",
        "@tilec.kernel\ndef k(⟦A: T.Tensor(('M', 'W'), 'int8')⟧, W: T.Tensor('M', 'int8')):\n    pass\n",
        "TLC0113",
        "a dimension of A is called W, as a parameter is",
    ),
    (
        "a dimension named as a compile-time parameter is",
        "@tilec.kernel\ndef k(⟦A: T.Tensor(('M', 'D'), 'int8')⟧, D: int = 64):\n    pass\n",
        "TLC0113",
        "a dimension of A is called D, as a parameter is",
    ),
    (
        "no shape",
        "@tilec.kernel\ndef k(⟦A: T.Tensor⟧):\n    pass\n",
        "TLC0113",
        "has no shape",
    ),
    (
        "starred parameter",
        "@tilec.kernel\ndef ⟦k⟧(*A):\n    pass\n",
        "TLC0113",
        "*A",
    ),
    (
        "no launch",
        "@tilec.kernel\ndef ⟦k⟧(A: T.Tensor('N', 'int8')):\n    pass\n",
        "TLC0118",
        "no launch",
    ),
    (
        "outside of the launch",
        KERNEL + "    ⟦T.alloc_shared(4, 'int8')⟧\n",
        "TLC0118",
        "outside",
    ),
    (
        "element outside of the launch",
        KERNEL + "    x = ⟦A[0]⟧ + 1\n",
        "TLC0118",
        "outside",
    ),
    (
        "grid of four",
        KERNEL + "    with ⟦T.Kernel(1, 2, 3, 4)⟧ as b:\n        pass\n",
        "TLC0118",
        "not 4",
    ),
    (
        "threads of a block",
        KERNEL + "    with ⟦T.Kernel(1, threads=2048)⟧:\n        pass\n",
        "TLC0118",
        "1 to 1024",
    ),
    (
        "result",
        "@tilec.kernel\ndef k(A: T.Tensor('N', 'int8')):\n"
        "    with T.Kernel(1):\n        pass\n    ⟦return A⟧\n",
        "TLC0136",
        "k returns `A`",
    ),
    (
        "recursive macro",
        "@T.macro\ndef f(x):\n    ⟦f(x)⟧\n@tilec.kernel\ndef k(A: T.Tensor('N', 'int8')):\n"
        "    with T.Kernel(1):\n        f(A)\n",
        "TLC0121",
        "calls itself",
    ),
    (
        "kernel in a kernel",
        "@tilec.kernel\ndef f(A: T.Tensor('N', 'int8')):\n    pass\n"
        + KERNEL
        + "    with T.Kernel(1):\n        ⟦f(A)⟧\n",
        "TLC0102",
        "the kernel f is called in a kernel",
    ),
    ("called outside", "⟦T.copy(1, 2)⟧\n", "TLC0102", "T.copy"),
    ("macro called outside", "@T.macro\ndef f():\n    pass\n⟦f()⟧\n", "TLC0102", "the macro f"),
    (
        "buffer of another launch",
        KERNEL + "    with T.Kernel(1):\n        S = T.alloc_shared(4, 'int8')\n"
        "    with T.Kernel(1):\n        ⟦T.clear(S)⟧\n",
        "TLC0107",
        "`S` was allocated in a launch",
    ),
    (
        "value of another launch",
        KERNEL + "    with T.Kernel(4) as b:\n        pass\n"
        "    with T.Kernel(1):\n        A[0] = ⟦b + 1⟧\n",
        "TLC0107",
        "`bx`",
    ),
    (
        "launch under a condition",
        KERNEL + "    if A.shape[0] > 4:\n        with ⟦T.Kernel(4)⟧ as b:\n            pass\n",
        "TLC0118",
        "a branch or loop",
    ),
    (
        "heuristic below",
        "@⟦tilec.heuristic(lambda target, shapes: {})⟧\ndef k():\n    pass\n",
        "TLC0113",
        "decorates a kernel",
    ),
    (
        "wide characters before the place",
        KERNEL + "    with T.Kernel(1):\n        名 = 'é'; ⟦T.nothing⟧\n",
        "TLC0101",
        "T.nothing",
    ),
]


@pytest.mark.parametrize(
    ("text", "code", "fragment"), [c[1:] for c in MODULES], ids=[c[0] for c in MODULES]
)
def test_refused_modules(tmp_path: Path, text: str, code: str, fragment: str) -> None:
    marked = read_marks(HEAD + text)
    error = refusal(tmp_path, marked.text)
    assert error.code == code and fragment in error.message, str(error)
    found = (error.loc.line, error.loc.column, error.loc.end_column)
    assert found == (marked.line, marked.column, marked.end), str(error)


def test_a_user_exception_keeps_its_cause(tmp_path: Path) -> None:
    error = refusal(tmp_path, in_frame("raise OSError('what')"))
    assert isinstance(error.__cause__, OSError)


def test_a_function_without_source() -> None:
    names: dict[str, object] = {}
    code = compile("def f(a, b=1): pass", "<nowhere>", "exec")
    inner = next(c for c in code.co_consts if isinstance(c, CodeType))
    with pytest.raises(TilecError) as caught:
        tilec.kernel(FunctionType(inner, names, "f"))
    assert caught.value.code == "TLC0100"


def test_unknown_names_are_attribute_errors_too() -> None:
    assert not hasattr(T, "no_such_thing")
    assert not hasattr(T, "__no_such_thing__")


def test_the_frame_is_the_one_that_lines_are_counted_in() -> None:
    assert in_frame("pass").split("\n")[11].strip() == "pass"
    assert FRAME.count("\n") == 8 and HEAD.count("\n") == 3
