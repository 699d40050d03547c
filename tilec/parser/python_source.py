"""From a function object to its syntax tree, and from a syntax tree back to a function object.

No text is evaluated: the user's own tree is compiled, the code object of the wanted function taken
out of the result, and a function made of it with the globals and the closure of the original.
"""

from __future__ import annotations
import __future__

import ast
import linecache
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import CellType, CodeType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from ..errors import LanguageError, Loc
from ..language.places import characters

_FUTURE = __future__.annotations.compiler_flag


_OUTER, _INNER = "__tilec_outer", "__tilec_inner"


@lru_cache(maxsize=64)
def _definitions(text: str, file: str) -> dict[str, list[ast.FunctionDef]]:
    """The functions of a file by their names, outer ones first."""
    found: dict[str, list[ast.FunctionDef]] = {}
    for node in ast.walk(ast.parse(text, file)):
        if isinstance(node, ast.FunctionDef):
            found.setdefault(node.name, []).append(node)
    return found


def node_loc(node: ast.AST, file: str, function: str = "") -> Loc:
    """The place of a syntax node."""
    line = getattr(node, "lineno", 1)
    column = characters(file, line, getattr(node, "col_offset", 0))
    end_line, end = getattr(node, "end_lineno", None), getattr(node, "end_col_offset", None)
    if end is None or end_line is None:
        stop = None
    elif end_line == line:
        stop = characters(file, line, end)
    else:
        stop = len(linecache.getline(file, line).rstrip("\n"))
    return Loc(file, line, column, stop, function)


_found: WeakKeyDictionary[FunctionType, ast.FunctionDef] = WeakKeyDictionary()
"""The definitions of functions as they were when they were first asked for: their files may be edited
while they are loaded, and what runs is what Python loaded."""


def find_definition(function: FunctionType) -> ast.FunctionDef:
    """The definition of a function, with the positions that it has in its file; the same one whenever
    it is asked for.

    Raises LanguageError where the source is not to be had, or is no `def`.
    """
    if function not in _found:
        _found[function] = _read_definition(function)
    return _found[function]


def _read_definition(function: FunctionType) -> ast.FunctionDef:
    code = function.__code__
    name = function.__name__
    try:
        definitions = _definitions(_source(function), code.co_filename)
    except (OSError, SyntaxError) as error:
        raise LanguageError(
            "TLC0100",
            f"the source of {name} is not to be found ({error})",
            loc=Loc(code.co_filename, code.co_firstlineno, 0, None, name),
            hint="define it in a file or a notebook cell, and do not edit it while it is loaded",
        ) from error
    for node in definitions.get(code.co_name, ()):
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        if code.co_firstlineno in (first, node.lineno) and _is_of(node, code):
            return node
    raise LanguageError(
        "TLC0100",
        f"{name} is no function written with `def`",
        loc=Loc(code.co_filename, code.co_firstlineno, 0, None, name),
        hint="a lambda or an async function cannot be a kernel, nor one whose file was edited since it "
        "was loaded",
    )


def _source(function: FunctionType) -> str:
    """The text of the file or cell that a function is written in. Raises OSError.

    inspect.findsource finds the same, but asks every loaded module whether it is the function's:
    with cupy loaded that imports SciPy, which takes half a second.
    """
    file = function.__code__.co_filename
    linecache.checkcache(file)
    lines = linecache.getlines(file, function.__globals__)  # a loader there may know the text
    if not lines:
        raise OSError("could not get source code")
    return "".join(lines)


def _is_of(node: ast.FunctionDef, code: CodeType) -> bool:
    """Whether a definition has the parameters of the code: the file may have been edited since."""
    arguments = node.args
    names = [arg.arg for arg in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return names == list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


def build_function(
    definition: ast.FunctionDef,
    original: FunctionType,
    scope: Mapping[str, Any],
    extra: Mapping[str, Any],
) -> FunctionType:
    """A function of `definition` that sees what `original` sees, and the names in `extra`.

    `scope` gives the local names around the definition that are in no closure of the original's.
    """
    closure = dict(zip(original.__code__.co_freevars, original.__closure__ or (), strict=True))
    cells: dict[str, CellType] = {name: CellType(value) for name, value in scope.items()}
    cells |= closure
    cells |= {name: CellType(value) for name, value in extra.items()}
    names = [name for name in cells if name.isidentifier()]
    code = _compile(definition, names, original.__code__)
    code = code.replace(co_name=definition.name, co_qualname=original.__qualname__)
    new = FunctionType(
        code,
        original.__globals__,
        original.__name__,
        original.__defaults__,
        tuple(cells[name] for name in code.co_freevars),
    )
    new.__kwdefaults__ = original.__kwdefaults__
    new.__qualname__ = original.__qualname__
    return new


def _compile(definition: ast.FunctionDef, names: Sequence[str], like: CodeType) -> CodeType:
    """The code of `definition`, in a function whose parameters are the free names.

    It goes by another name there, so that its own means what it means to the user.
    """
    fields = {name: getattr(definition, name) for name in definition._fields}
    renamed = ast.copy_location(ast.FunctionDef(**{**fields, "name": _INNER}), definition)
    outer = ast.FunctionDef(
        name=_OUTER,
        args=ast.arguments(
            posonlyargs=[],
            args=[ast.arg(name) for name in names],
            kwonlyargs=[],
            kw_defaults=[],
            defaults=[],
        ),
        body=[renamed],
        decorator_list=[],
    )
    if "type_params" in ast.FunctionDef._fields:
        outer.type_params = []  # type: ignore[attr-defined, unused-ignore]
    ast.copy_location(outer, definition)
    module = ast.fix_missing_locations(ast.Module([outer], []))
    flags = like.co_flags & _FUTURE
    whole = compile(module, like.co_filename, "exec", flags=flags, dont_inherit=True)
    return _inner(_inner(whole, _OUTER), _INNER)


def _inner(code: CodeType, name: str) -> CodeType:
    return next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name)


def expression_function(
    expression: ast.expr, original: FunctionType, scope: Mapping[str, Any]
) -> FunctionType:
    """A function without parameters that gives the value of an expression of the user's."""
    definition = ast.FunctionDef(
        name=original.__name__,
        args=ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[]),
        body=[ast.copy_location(ast.Return(expression), expression)],
        decorator_list=[],
    )
    if "type_params" in ast.FunctionDef._fields:
        definition.type_params = []  # type: ignore[attr-defined, unused-ignore]
    ast.copy_location(definition, expression)
    made = build_function(definition, original, scope, {})
    made.__defaults__ = None
    made.__kwdefaults__ = None
    return made
