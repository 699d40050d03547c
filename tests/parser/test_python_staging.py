"""What rewritten code becomes: control flow, names, operators, thread-level code."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tilec.errors import LanguageError
from tilec.ir.print import print_program
from tilec.parser.python_source import find_definition

from .programs import HEAD, body_text, in_frame, load, traced


def simt(lines: list[str]) -> list[str]:
    """The lines of the only simt region of a launch that has nothing else."""
    assert lines[0].startswith("simt <threads = 128> (%t: i32) {") and lines[-2:] == ["yield", "}"]
    return lines[1:-2]


def test_compile_time_values_run_in_python(tmp_path: Path) -> None:
    body = """
    total = 0
    for i in range(4):
        if i % 2 == 0 and not i == 2:
            continue
        total += i
    while total < 10:
        total = total + 3
    names = {"x": [q * 2 for q in range(3) if 0 < q < 3]}
    L[0] = total if total > 1 else n
    L[sum(names["x"])] = 1
    """
    assert simt(body_text(tmp_path, body)) == ["store 12.0, %L[0]", "store 1.0, %L[6]"]


def test_loops_of_every_kind(tmp_path: Path) -> None:
    body = """
    for i in range(2, n, 3): L[0] = i
    for i in T.serial(4): L[0] = 1
    for i in T.unroll(4, unroll_factor=2): L[0] = 2
    for i in T.vectorized(4): L[0] = 3
    for i, j in T.grid(2, n): L[0] = 4
    """
    assert simt(body_text(tmp_path, body)) == [
        "for 2, %n, 3 (%i: i32) {",
        "%2 = cast %i <dtype = f32> : f32", "store %2, %L[0]", "yield", "}",
        "for 0, 4, 1 (%i_1: i32) {", "store 1.0, %L[0]", "yield", "}",
        'for 0, 4, 1 <kind = "unroll", unroll = 2> (%i_2: i32) {', "store 2.0, %L[0]", "yield", "}",
        'for 0, 4, 1 <kind = "vectorized"> (%i_3: i32) {', "store 3.0, %L[0]", "yield", "}",
        "for 0, 2, 1 (%i_4: i32) {", "for 0, %n, 1 (%j: i32) {",
        "store 4.0, %L[0]", "yield", "}", "yield", "}",
    ]  # fmt: skip


def test_a_plain_function_has_names_of_its_own(tmp_path: Path) -> None:
    """What it calls i and k are no names of the kernel's, which binds those anew."""
    body = """
    i, k, first = 1, 2, 2
    def f(i, j=first):
        k = i + j
        return k
    for m in range(n):
        for i in range(2): L[i] = f(i)
        k = m
        L[k] = 1
    """
    lines = simt(body_text(tmp_path, body))
    assert [line for line in lines if "store" in line] == [
        "store 2.0, %L[0]", "store 3.0, %L[1]", "store 1.0, %L[%m]",
    ]  # fmt: skip


def test_branches_take_the_names_of_before(tmp_path: Path) -> None:
    body = """
    x = 1
    nothing = None
    if n > 2:
        x = 2
        nothing = 7
        L[0] = x
    elif n > 1:
        L[1] = x
        if nothing is None:
            L[2] = 5
    else:
        x = 4
        L[3] = x
    """
    lines = body_text(tmp_path, body)
    assert lines[0] == '%2 = compare %n, 2 <predicate = "gt"> : bool'
    assert simt(lines[1:]) == [
        "if %2 {", "store 2.0, %L[0]", "yield", "} {",
        '%3 = compare %n, 1 <predicate = "gt"> : bool',
        "if %3 {", "store 1.0, %L[1]", "store 5.0, %L[2]", "yield", "} {",
        "store 4.0, %L[3]", "yield", "}", "yield", "}",
    ]  # fmt: skip


def test_a_variable_is_stored_and_read(tmp_path: Path) -> None:
    body = """
    v = T.alloc_var("int32", 1)
    w = T.alloc_var("int32", init=2)
    v, w = w, v
    while v < 10:
        v += 1
    copy = v
    v = 0
    L[0] = copy
    """
    assert simt(body_text(tmp_path, body)) == [
        "store 1, %v[0]", "store 2, %w[0]",
        "%2 = load %w[0] : i32", "%3 = load %v[0] : i32", "store %2, %v[0]", "store %3, %w[0]",
        "while {", "%4 = load %v[0] : i32", '%5 = compare %4, 10 <predicate = "lt"> : bool',
        "yield %5", "} {", "%6 = load %v[0] : i32", "%7 = add %6, 1 : i32", "store %7, %v[0]",
        "yield", "}",
        "%copy = load %v[0] : i32", "store 0, %v[0]", "%8 = cast %copy <dtype = f32> : f32",
        "store %8, %L[0]",
    ]  # fmt: skip


def test_operators_short_circuit_around_loads(tmp_path: Path) -> None:
    lazy = body_text(tmp_path, "if n > 1 and S[n, 0] > 0:\n    L[0] = 1")
    assert lazy == [
        '%2 = compare %n, 1 <predicate = "gt"> : bool',
        "simt <threads = 128> (%t: i32) {",
        "%3 = if %2 {", "%4 = load %S[%n, 0] : f16",
        '%5 = compare %4, 0.0:f16 <predicate = "gt"> : bool',
        "yield %5", "} {", "yield false", "} : bool",
        "if %3 {", "store 1.0, %L[0]", "yield", "} {", "yield", "}", "yield", "}",
    ]  # fmt: skip
    eager = body_text(tmp_path, "L[0] = 1 if 0 <= n < 8 or not n == 9 else 2.5")
    assert [line.split(" = ")[1] for line in eager if " = " in line and "select" in line] == [
        "select %7, 1.0, 2.5 : f32"
    ]
    assert sum("bit_and" in line for line in eager) == 1
    assert sum("bit_or" in line for line in eager) == 1


@pytest.mark.parametrize(
    ("expression", "lines"),
    [
        ("n * 2 + 1", ["mul %n, 2 : i32", "add %2, 1 : i32"]),
        ("n // -3 % 5", ["floordiv %n, -3 : i32", "floormod %2, 5 : i32"]),
        ("S[0, 0] * 0.5", ["load %S[0, 0] : f16", "mul %2, 0.5:f16 : f16"]),
        ("1 << n >> 2", ["shift_left 1, %n : i32", "shift_right %2, 2 : i32"]),
        ("n * 0.5", ["cast %n <dtype = f32> : f32", "mul %2, 0.5 : f32"]),
        ("n + S[0, 0]", ["cast %n <dtype = f16> : f16", "load %S[0, 0] : f16", "add %2, %3 : f16"]),
        ("T.int8(n) & 255", ["cast %n <dtype = i8> : i8", "cast %2 <dtype = i32> : i32"]),
        ("T.uint8(n) & 255", ["cast %n <dtype = u8> : u8", "bit_and %2, 255:u8 : u8"]),
        ("-n", ["neg %n : i32"]),
        ("~n", ["not %n : i32"]),
        ("abs(n)", ["abs %n : i32"]),
        ("T.max(n, 3)", ["max %n, 3 : i32"]),
        ("T.exp2(L[0])", ["load %L[0] : f32", "exp2 %2 : f32"]),
        ("T.ceildiv(n, 4)", ["add %n, 3 : i32", "floordiv %2, 4 : i32"]),
        ("n.astype('float16')", ["cast %n <dtype = f16> : f16"]),
        ("T.reinterpret(n, 'float32')", ["reinterpret %n <dtype = f32> : f32"]),
        ("n + True", ["add %n, 1 : i32"]),
        (
            "T.if_then_else(n > 2, n, 0)",
            ['compare %n, 2 <predicate = "gt"> : bool', "select %2, %n, 0 : i32"],
        ),
        ("n * 4294967296", ["cast %n <dtype = i64> : i64", "mul %2, 4294967296:i64 : i64"]),
    ],
)
def test_scalar_expressions(tmp_path: Path, expression: str, lines: list[str]) -> None:
    text = body_text(tmp_path, f"L[1] = {expression}")
    found = [line.split(" = ", 1)[1] for line in text if line.startswith("%")]
    assert found[: len(lines)] == lines


@pytest.mark.parametrize(
    "annotation", ["T.float32", "'float32'", "np.dtype('float32')", "np.float32"]
)
def test_an_annotation_that_is_a_dtype_converts(tmp_path: Path, annotation: str) -> None:
    body = f"import numpy as np\nx: {annotation} = n\ny: int = 3\nL[0] = x + y"
    assert body_text(tmp_path, body) == body_text(tmp_path, "x = T.float32(n)\nL[0] = x + 3")
    body = f"import numpy as np\nx: {annotation} = T.alloc_var('float32')\nx = 3"
    assert body_text(tmp_path, body) == body_text(tmp_path, "x = T.alloc_var('float32')\nx = 3")


def test_macros_inline_with_control_flow(tmp_path: Path) -> None:
    text = (
        HEAD
        + """
@T.macro
def limit(value, low, high=8):
    if value < low:
        return_value = low  # its own name
        L_unknown = return_value
    return T.min(T.max(value, low), high)

@T.macro
def put(buffer, at, value):
    for i in T.serial(2):
        if i < at:
            buffer[i] = limit(value=value, low=1)

@tilec.kernel
def k(A: T.Tensor("N", "int32")):
    with T.Kernel(A.shape[0]) as bx:
        value = 3
        put(buffer=A, at=bx, value=bx)
        A[bx] = value
"""
    )
    program = print_program(traced(load(tmp_path, text).k))
    assert program.count("for 0, 2, 1") == 1
    assert '%i, %bx <predicate = "lt">' in program
    assert "store 3, %A[%bx]" in program


def test_statements_are_gathered_in_maximal_runs(tmp_path: Path) -> None:
    body = """
    w = t // 32
    x = S[t, 0]
    L[0] = x
    for i in range(n):
        T.copy(A[i * 64, 0], S)
        L[1] = S[t, 1]
        L[2] = x * w
    T.clear(F)
    if n > 2:
        L[3] = 1
    """
    lines = body_text(tmp_path, body)
    words = [line.split(" ")[0] for line in lines]
    statements = [word for word in words if word in ("simt", "copy", "fill", "for")]
    assert statements == ["simt", "for", "copy", "simt", "fill", "simt"]
    first = lines[lines.index("simt <threads = 128> (%t: i32) {") :]
    assert first[1:5] == ["%x_1 = load %S[%t, 0] : f16", "store %x_1, %x[0]",
                          "%2 = cast %x_1 <dtype = f32> : f32", "store %2, %L[0]"]  # fmt: skip
    second = lines[lines.index("simt <threads = 128> (%t_1: i32) {") :]
    assert "%w = floordiv %t_1, 32 : i32" in second and "%x_2 = load %x[0] : f16" in second


def test_uniform_loads_stay_on_the_tile_level(tmp_path: Path) -> None:
    text = (
        HEAD
        + """
@tilec.kernel
def k(table: T.Tensor("N", "int32"), A: T.Tensor((1024, 64), "float16")):
    with T.Kernel(table.shape[0]) as bx:
        S = T.alloc_shared((64, 64), "float16")
        v = T.alloc_var("int32", 2)
        row = table[bx]
        T.copy(A[row * v, 0], S)
"""
    )
    lines = [x.strip() for x in print_program(traced(load(tmp_path, text).k)).split("\n")]
    at = lines.index("%row = load %table[%bx] : i32")
    assert lines[at - 1] == "}" or lines[at + 1].startswith("%")
    assert any(line.startswith("copy %A[") for line in lines)
    assert not any(
        "copy" in line for line in lines[lines.index("simt <threads = 128> (%t: i32) {") : at - 1]
    )


def test_thread_bindings_as_value_and_as_loop(tmp_path: Path) -> None:
    body = """
    u = T.thread_binding(0, 128, thread="threadIdx.x")
    for q in T.thread_binding(64, thread="threadIdx.x"):
        L[0] = q
    for q in T.thread_binding(128, "threadIdx.x"):
        L[1] = u + q
    """
    lines = simt(body_text(tmp_path, body))
    assert lines == [
        '%2 = compare %t, 64 <predicate = "lt"> : bool',
        "%3 = add %t, %t : i32", "%4 = cast %3 <dtype = f32> : f32",
        "if %2 {", "%5 = cast %t <dtype = f32> : f32", "store %5, %L[0]", "yield",
        "} {", "yield", "}",
        "store %4, %L[1]",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("statement", "copy"),
    [
        ("T.copy(A[by * 64, 0], S)", "copy %A[%2, 0], %S[0, 0] <shape = [64, 64], "),
        (
            "T.copy(S[n, 0:64], S[0, :])",
            "copy %S[%n, 0], %S[0, 0] <shape = [64], source_dims = [1], ",
        ),
        ("T.copy(A[n : n + 32, 0:64], S[32:, :])", "copy %A[%n, 0], %S[32, 0] <shape = [32, 64], "),
        (
            "T.copy(A[by * 64 : (by + 1) * 64, 64:128], F)",
            "copy %A[%2, 64], %F[0, 0] <shape = [64, 64], ",
        ),
        ("T.copy(B, F)", "copy %B[0, 0], %F[0, 0] <shape = [64, 64], "),
        (
            "T.copy(S[..., 0:1], S[:, 1])",
            "copy %S[0, 0], %S[0, 1] <shape = [64], source_dims = [0], ",
        ),
        ("T.copy(F, A[n, 0])", "copy %F[0, 0], %A[%n, 0] <shape = [64, 64], "),
    ],
)
def test_operands_of_copies(tmp_path: Path, statement: str, copy: str) -> None:
    lines = [line for line in body_text(tmp_path, statement) if line.startswith("copy")]
    assert len(lines) == 1 and lines[0].startswith(copy)


def test_reads_outside_of_a_tensor(tmp_path: Path) -> None:
    body = """
    T.copy(A[n, 0], S)
    T.annotate_safe_value({A: -1.5})
    T.copy(A[n, 0], S)
    L[0] = A[n, n]
    """
    lines = body_text(tmp_path, body)
    assert "safe_value" not in lines[0] and lines[1].endswith("safe_value = -1.5>")
    assert "%2 = load %A[%n, %n] <safe_value = -1.5> : f16" in lines


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("-T.infinity('bfloat16')", "-inf"),
        ("T.min_value('float16')", "-65504.0"),
        ("T.float32(1) / 4", "0.25"),
    ],
)
def test_safe_values_that_are_known(tmp_path: Path, value: str, printed: str) -> None:
    lines = body_text(tmp_path, f"T.annotate_safe_value({{A: {value}}})\nL[0] = A[n, n]")
    assert any(line.endswith(f"load %A[%n, %n] <safe_value = {printed}> : f16") for line in lines)


def test_elements_of_fragments_are_shown_before_threads_part(tmp_path: Path) -> None:
    body = """
    for i in T.serial(4):
        T.fill(F, 1)
        if T.get_thread_binding() == 0:
            L[i] = F[2, 1]
    unused = F[0, 0]
    """
    lines = body_text(tmp_path, body)
    shows = [line for line in lines if line.startswith("copy")]
    assert shows == [
        "copy %F[2, 1], %F_1[0, 0] <shape = [1, 1], source_dims = [0, 1], destination_dims = [0, 1]>"
    ]
    at = lines.index(shows[0])
    assert lines[at - 1].startswith("fill %F") and lines[at + 1].startswith("simt")


def test_what_a_condition_reads_is_shown_for_every_trip(tmp_path: Path) -> None:
    lines = body_text(tmp_path, "while F[0, 0] < 3:\n    T.fill(F, 5)\nL[0] = F[0, 0]")
    order = [line.split()[0] for line in lines if line.split()[0] in ("copy", "while", "fill")]
    assert order == ["copy", "while", "fill", "copy", "copy"]


def test_unused_loads_leave_nothing(tmp_path: Path) -> None:
    assert body_text(tmp_path, "x = S[n, 0]\ny = x + 1\nT.clear(F)") == ["fill %F, 0.0"]


def test_two_traces_give_one_text(tmp_path: Path) -> None:
    kernel = load(
        tmp_path, in_frame("for i in range(n):\n    L[i % 8] = S[i, 0] if n > 2 else i")
    ).k
    first = traced(kernel)
    assert kernel.trace({"tile": 64}) is first
    kernel._programs.clear()
    again = traced(kernel)
    assert again is not first and print_program(again, locations=True) == print_program(
        first, locations=True
    )


def test_staging_leaves_the_tree_of_the_file_as_it_is(tmp_path: Path) -> None:
    """The tree is kept for all functions of the file, and for all kernels that a factory makes."""
    kernel = load(tmp_path, in_frame("L[0] = S[0, 0] if n > 2 and n < 9 else n")).k
    before = ast.dump(find_definition(kernel.function))
    traced(kernel)
    assert ast.dump(find_definition(kernel.function)) == before


def test_every_op_has_its_place(tmp_path: Path) -> None:
    text = in_frame(
        "T.copy(A[by * 64, 0], S)\nfor i, j in T.Parallel(64, 64):\n    F[i, j] = S[i, j] * 2"
    )
    program = traced(load(tmp_path, text).k)
    lines = text.split("\n")
    spans = {
        op.name: lines[op.loc.line - 1][op.loc.column : op.loc.end_column]
        for launch in program.body.ops
        for op in launch.walk()
        if op.loc.known
    }
    assert spans["copy"] == "T.copy(A[by * 64, 0], S)"
    assert spans["load"] == "S[i, j]"
    assert spans["store"] == "F[i, j]"
    assert spans["parallel"] == "T.Parallel(64, 64)"
    assert all(
        op.loc.known for launch in program.body.ops for op in launch.walk() if op.name != "yield"
    )


def test_reading_a_source_asks_no_other_module(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"{name} was asked for: cupy would import SciPy")

    monkeypatch.setitem(sys.modules, "lazy", Lazy("lazy"))
    monkeypatch.setattr(inspect, "modulesbyfile", {})  # what it found for earlier tests
    found = find_definition(test_reading_a_source_asks_no_other_module)
    assert found.name == "test_reading_a_source_asks_no_other_module"


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        ("T.gemm(S, S, F, trans_B=True)", "did you mean transpose_B or transpose_A?"),
        (
            "T.print(S, colour=1)",
            "it is T.print(obj=…, msg=…, warp_group_id=…, warp_id=…), and gives nothing back",
        ),
        ("x = S.shap[0]", "did you mean shape?"),
        ("L[0] = round(S[0, 0])", "T.round"),
        ("L[0] = np.exp(S[0, 0])", "T.exp"),
    ],
)
def test_what_python_refuses_has_a_way_out(tmp_path: Path, body: str, hint: str) -> None:
    with pytest.raises(LanguageError) as caught:
        traced(load(tmp_path, "import numpy as np\n" + in_frame(body)).k)
    assert caught.value.code == "TLC0112" and hint in caught.value.hint
