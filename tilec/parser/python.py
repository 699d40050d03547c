"""The Python frontend: kernels and macros written in Python, staged.

Importing this module makes it the frontend that `tilec.language` uses.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import CellType, FunctionType
from typing import Any

from ..errors import LanguageError, Loc
from ..language.kernel import Kernel
from ..language.staging import Binding, Parsed, Staged, install
from .python_captures import bindings_of
from .python_rewrite import LOCALS, OPEN, bound_names, parameter_names, rewrite_definition
from .python_scope import Scope, Surroundings
from .python_source import build_function, expression_function, find_definition, node_loc


class PythonFrontend:
    """What `language.staging.Frontend` asks for."""

    def keep(self, function: FunctionType) -> None:
        """Reads the source of a function now, where there is one."""
        with suppress(LanguageError):  # which is told where the function is used
            find_definition(function)

    def parse(self, function: FunctionType, scope: Mapping[str, Any]) -> Parsed:
        """What the source says of the parameters. Raises LanguageError where there is none."""
        definition = find_definition(function)
        file = function.__code__.co_filename
        arguments = definition.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        annotations: dict[str, Callable[[], Any]] = {}
        places: dict[str, Loc] = {}
        for arg in every:
            places[arg.arg] = node_loc(arg, file, definition.name)
            if arg.annotation is not None:
                annotations[arg.arg] = functools.partial(_evaluate, arg.annotation, function, scope)
        names = parameter_names(arguments)
        in_body = frozenset(
            s.target.id
            for s in definition.body
            if isinstance(s, ast.AnnAssign)
            and s.value is None
            and isinstance(s.target, ast.Name)
            and s.target.id in names
        )
        return Parsed(_head(definition, file), annotations, places, in_body)

    def stage(self, function: FunctionType, scope: Mapping[str, Any]) -> Staged:
        """The function rewritten. Raises LanguageError for statements that have no meaning."""
        return self._stage(function, scope, find_definition(function))

    def stage_head(self, function: FunctionType, scope: Mapping[str, Any]) -> Staged:
        """Only the statements up to the last annotation of a parameter: what T.const is told by."""
        definition = find_definition(function)
        names = parameter_names(definition.args)
        last = max(
            (
                i
                for i, s in enumerate(definition.body)
                if isinstance(s, ast.AnnAssign) and set(bound_names([s])) & set(names)
            ),
            default=-1,
        )
        body = definition.body[: last + 1] or [ast.copy_location(ast.Pass(), definition)]
        head = ast.FunctionDef(
            name=definition.name, args=definition.args, body=body, decorator_list=[]
        )
        return self._stage(function, scope, ast.copy_location(head, definition))

    def bindings(self, kernel: Kernel) -> tuple[Binding, ...]:
        """What the code of a kernel reads from outside."""
        return bindings_of(kernel)

    def _stage(
        self, function: FunctionType, scope: Mapping[str, Any], definition: ast.FunctionDef
    ) -> Staged:
        file = function.__code__.co_filename
        cells: dict[str, CellType] = dict(
            zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        )
        around = Surroundings(function.__globals__, cells)
        extra = {OPEN: functools.partial(Scope, around), LOCALS: locals}
        try:
            new = build_function(rewrite_definition(definition, file), function, scope, extra)
        except RecursionError as problem:
            raise LanguageError(
                "TLC0196",
                "the syntax of this function is nested too deep for Python to walk it",
                loc=node_loc(_deepest(definition), file, definition.name),
                hint="give parts of a long expression names, or use a loop",
            ) from problem
        around.code = new.__code__
        return Staged(new, _head(definition, file))


def _deepest(definition: ast.FunctionDef) -> ast.AST:
    """The innermost statement that holds the node with the most others around it."""
    deepest: ast.AST = definition
    most = 0
    pending: list[tuple[ast.AST, ast.AST, int]] = [(definition, definition, 0)]
    while pending:
        node, statement, depth = pending.pop()
        if isinstance(node, ast.stmt):
            statement = node
        if depth > most:
            deepest, most = statement, depth
        pending += [(inner, statement, depth + 1) for inner in ast.iter_child_nodes(node)]
    return deepest


def _evaluate(expression: ast.expr, function: FunctionType, scope: Mapping[str, Any]) -> Any:
    value = expression_function(expression, function, scope)()
    if not isinstance(value, str) or not isinstance(expression, ast.Constant):
        return value
    inner = ast.parse(value, mode="eval").body  # an annotation that was quoted by hand
    for node in ast.walk(inner):
        ast.copy_location(node, expression)
    try:
        return expression_function(inner, function, scope)()
    except NameError:
        if isinstance(inner, ast.Name):
            return value  # of a dtype, as it may be
        raise


def _head(definition: ast.FunctionDef, file: str) -> Loc:
    loc = node_loc(definition, file, definition.name)
    name = loc.column + len("def ")
    return Loc(file, loc.line, name, name + len(definition.name), definition.name)


install(PythonFrontend())
