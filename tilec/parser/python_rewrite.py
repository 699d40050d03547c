"""The syntax tree of a kernel, rewritten so that a run of it traces.

Control flow, assignments and boolean operators become calls on the function's `Scope` (see
python_scope.py), everything else stays as it is; every new node has the position of the one that
it stands for. With `s` for the scope:

    x = e                   x = s.assign("x", e)
    if c: A                 r = s.branch(c, locals())
    else: B                 if r.then(): A; r.end_then(); <names>
                            if r.otherwise(): B
                            r.close(); <names>
    for i in e: A           r = s.loop(e, locals(), False)
                            for v in r: i = s.assign("i", v); A
                            <names>
    break                   if r.jump("break"): break
    A (after a jump)        q = s.rest(r, locals())
                            if q.then(): A; q.end_then(); <names>
                            q.close(); <names>
    while c: A              r = s.loop_while(lambda: c, locals(), False)
                            while r.next(): A
                            <names>
    a and b, as a condition s.both(locals(), a, lambda: b, True)
    a and b, as a value     s.both(locals(), a, lambda: b, False)
    a < b < c               s.chain(locals(), ("Lt", "Lt"), a, lambda: b, lambda: c)
    a if c else b           s.choose(locals(), c, lambda: a, lambda: b)
    T.if_then_else(c, a, b) s.call_choice(locals(), T.if_then_else, c, lambda: a, lambda: b)

<names> gives each name that the region bound what it is to hold afterwards:
`if r.bound("x"): x = r.after("x")`. A name that the function binds is read as `s.read("x", x)`.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Sequence
from typing import NoReturn, TypeVar

from ..errors import LanguageError
from .python_compare import OF_OBJECTS
from .python_source import node_loc

SCOPE, OPEN, LOCALS = "__tilec", "__tilec_open", "__tilec_locals"
_REFUSED: dict[type[ast.AST], str] = {
    ast.Global: "global",
    ast.Nonlocal: "nonlocal",
    ast.Try: "try",
    ast.TryStar: "try",
    ast.ClassDef: "class",
    ast.Match: "match",
    ast.AsyncFor: "async",
    ast.AsyncWith: "async",
    ast.AsyncFunctionDef: "async",
    ast.Await: "await",
    ast.Yield: "yield",
    ast.YieldFrom: "yield",
}
_Node = TypeVar("_Node", bound=ast.AST)
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def bound_names(nodes: Iterable[ast.AST]) -> list[str]:
    """The names that statements bind, in order, nested functions and comprehensions aside."""
    found: dict[str, None] = {}
    pending = list(nodes)
    while pending:
        node = pending.pop(0)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.setdefault(node.id)
        elif isinstance(node, ast.FunctionDef):
            found.setdefault(node.name)
            continue
        elif isinstance(node, ast.alias):
            found.setdefault(node.asname or node.name.split(".")[0])
        if isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp):
            continue
        if isinstance(node, ast.GeneratorExp):
            continue
        pending[:0] = ast.iter_child_nodes(node)
    return list(found)


def parameter_names(arguments: ast.arguments) -> list[str]:
    """The names of all parameters."""
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [arg for arg in (arguments.vararg, arguments.kwarg) if arg is not None]
    return [arg.arg for arg in every]


def _free(function: ast.FunctionDef) -> set[str]:
    """The names that a function takes from around it, and at times some that one in it binds."""
    arguments, body = function.args, ast.Module(function.body, [])
    around = [*function.decorator_list, *arguments.defaults, *filter(None, arguments.kw_defaults)]
    shared = {n for node in ast.walk(body) if isinstance(node, ast.Nonlocal) for n in node.names}
    own = {*parameter_names(arguments), *bound_names(function.body)} - shared
    return _names_in(body) - own | {name for node in around for name in _names_in(node)}


def _names_in(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def rewrite_definition(definition: ast.FunctionDef, file: str) -> ast.FunctionDef:
    """A new definition that traces. Raises LanguageError for what has no meaning in a kernel.

    The old one stays as it is: the tree of a file serves every function that is made of it.
    """
    return _Rewriter(copy.deepcopy(definition), file).definition()


class _Rewriter(ast.NodeTransformer):
    def __init__(self, definition: ast.FunctionDef, file: str) -> None:
        self._definition = definition
        self._file = file
        self._params = parameter_names(definition.args)
        self._names = {*self._params, *bound_names(definition.body)}
        self._hidden: list[set[str]] = []  # names of lambdas and comprehensions around
        self._loops: list[str] = []  # the handles of the loops around, innermost last
        self._conditions: set[ast.BoolOp] = set()  # of which only the truth is asked
        self._count = 0

    def definition(self) -> ast.FunctionDef:
        old = self._definition
        opening = self._assign(
            SCOPE, ast.Call(_name(OPEN), [_locals_call(), self._captured()], []), old
        )
        body = [opening, *self._block(old.body)]
        new = ast.FunctionDef(
            name=old.name,
            args=_bare(old.args),
            body=body,
            decorator_list=[],
        )
        if "type_params" in ast.FunctionDef._fields:
            new.type_params = []  # type: ignore[attr-defined, unused-ignore]
        return ast.fix_missing_locations(ast.copy_location(new, old))

    def _captured(self) -> ast.expr:
        """The names of this function that plain functions in it read."""
        nested = (node for node in ast.walk(self._definition) if isinstance(node, ast.FunctionDef))
        inner = {name for node in nested if node is not self._definition for name in _free(node)}
        return ast.Tuple([ast.Constant(n) for n in sorted(inner & self._names)], ast.Load())

    # Making nodes -------------------------------------------------------------------------------

    def _refuse(self, node: ast.AST, code: str, message: str, hint: str = "") -> NoReturn:
        loc = node_loc(node, self._file, self._definition.name)
        raise LanguageError(code, message, loc=loc, hint=hint)

    def _call(self, at: ast.AST, method: str, *args: ast.expr, on: str = SCOPE) -> ast.Call:
        function = ast.Attribute(_name(on), method, ast.Load())
        return _place(ast.Call(function, list(args), []), at)

    def _assign(self, name: str, value: ast.expr, at: ast.AST) -> ast.stmt:
        return _place(ast.Assign([ast.Name(name, ast.Store())], value), at)

    def _handle(self) -> str:
        self._count += 1
        return f"{SCOPE}_{self._count}"

    def _block(self, statements: Sequence[ast.stmt]) -> list[ast.stmt]:
        """Statements in order; those that a jump may skip as a branch of their own."""
        found: list[ast.stmt] = []
        for number, statement in enumerate(statements, start=1):
            new = self.visit(statement)
            found.extend(new if isinstance(new, list) else [new])
            rest = statements[number:]
            if rest and self._loops and _may_jump(statement):
                opening = self._call(rest[0], "rest", _name(self._loops[-1]), _locals_call())
                return found + self._branch(opening, rest, (), rest[0])
        return found

    def _settle_names(self, handle: str, names: Iterable[str], at: ast.AST) -> list[ast.stmt]:
        found: list[ast.stmt] = []
        for name in names:
            test = self._call(at, "bound", ast.Constant(name), on=handle)
            value = self._call(at, "after", ast.Constant(name), on=handle)
            found.append(_place(ast.If(test, [self._assign(name, value, at)], []), at))
        return found

    def _thunk(self, body: ast.expr) -> ast.Lambda:
        empty = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        return _place(ast.Lambda(empty, body), body)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for refused, word in _REFUSED.items():
            if isinstance(node, refused):
                self._refuse(
                    node,
                    "TLC0108",
                    f"`{word}` is not part of the language of kernels",
                    hint="do it outside of the kernel, or in a plain function that it calls",
                )
        return super().generic_visit(node)

    # Names and assignments ----------------------------------------------------------------------

    def visit_Name(self, node: ast.Name) -> ast.expr:
        local = node.id in self._names and not any(node.id in names for names in self._hidden)
        if not local or not isinstance(node.ctx, ast.Load):
            return node
        return self._call(node, "read", ast.Constant(node.id), node)

    def _bind(self, name: str, value: ast.expr, at: ast.AST) -> ast.stmt:
        return self._assign(name, self._call(at, "assign", ast.Constant(name), value), at)

    def _assign_target(self, target: ast.expr, value: ast.expr, at: ast.stmt) -> list[ast.stmt]:
        """Statements that assign a rewritten value to a target."""
        if isinstance(target, ast.Name):
            return [self._bind(target.id, value, at)]
        names = bound_names([target])
        if isinstance(target, ast.Tuple | ast.List):
            value = self._call(at, "values", value)
        store = _place(ast.Assign([self.visit(target)], value), at)
        return [store, *(self._bind(name, _load(name, target), at) for name in names)]

    def visit_Assign(self, node: ast.Assign) -> list[ast.stmt]:
        value = self.visit(node.value)
        if len(node.targets) == 1:
            return self._assign_target(node.targets[0], value, node)
        held = self._handle()
        found = [self._assign(held, self._call(node, "values", value), node)]
        for target in node.targets:
            found += self._assign_target(target, _load(held, node), node)
        return found

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt | list[ast.stmt]:
        if not isinstance(node.target, ast.Name):
            return self.generic_visit(node)  # type: ignore[return-value]
        operator = ast.Constant(type(node.op).__name__)
        old = self.visit(_load(node.target.id, node.target))
        value = self._call(node, "in_place", operator, old, self.visit(node.value))
        return [self._bind(node.target.id, value, node)]

    def visit_AnnAssign(self, node: ast.AnnAssign) -> list[ast.stmt]:
        if not isinstance(node.target, ast.Name):
            self._refuse(node, "TLC0108", "only names can be annotated")
        name = node.target.id
        annotation = self._thunk(self.visit(node.annotation))
        if node.value is not None:
            value = self._call(node, "typed", annotation, self.visit(node.value))
            return [self._bind(name, value, node)]
        if name not in self._params:
            return [_place(ast.Pass(), node)]
        parameter = self._call(node, "parameter", ast.Constant(name), annotation)
        return [self._assign(name, parameter, node)]

    def visit_NamedExpr(self, node: ast.NamedExpr) -> ast.expr:
        if self._hidden:
            self._refuse(
                node,
                "TLC0108",
                "`:=` where it may run never or often: in a lambda, a comprehension, the condition of "
                "a `while`, behind `and` or `or`, in a ternary",
                hint="assign in a statement of its own",
            )
        name = ast.Constant(node.target.id)
        value = self._call(node, "assign", name, self.visit(node.value))
        return _place(ast.NamedExpr(node.target, value), node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> list[ast.stmt]:
        """A plain function stays as it is, a macro rewrites itself; the name is bound like any. Defaults
        are of the program around it, now."""
        given = node.args
        given.defaults = [self.visit(default) for default in given.defaults]
        given.kw_defaults = [default and self.visit(default) for default in given.kw_defaults]
        return [node, self._bind(node.name, _load(node.name, node), node)]

    def _import(self, node: ast.Import | ast.ImportFrom) -> list[ast.stmt]:
        names = [alias.asname or alias.name.split(".")[0] for alias in node.names]
        return [node, *(self._bind(name, _load(name, node), node) for name in names)]

    visit_Import = visit_ImportFrom = _import

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        self.visit(node.args)
        self._hidden.append(set(parameter_names(node.args)))
        body = self.visit(node.body)
        self._hidden.pop()
        return _place(ast.Lambda(node.args, body), node)

    def _comprehension(self, node: ast.AST) -> ast.AST:
        assert isinstance(node, _Comprehension)
        node.generators[0].iter = self.visit(node.generators[0].iter)  # sees what is outside
        targets = [generator.target for generator in node.generators]
        self._hidden.append(set(bound_names(targets)))
        new = self.generic_visit(node)
        self._hidden.pop()
        return new

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def visit_With(self, node: ast.With) -> ast.stmt:
        items = [
            ast.withitem(self.visit(item.context_expr), item.optional_vars) for item in node.items
        ]
        names = bound_names(item.optional_vars for item in items if item.optional_vars)
        body = [self._bind(name, _load(name, node), node) for name in names]
        return _place(ast.With(items, [*body, *self._block(node.body)]), node)

    # Control flow -------------------------------------------------------------------------------

    def visit_If(self, node: ast.If) -> list[ast.stmt]:
        opening = self._call(node.test, "branch", self._tested(node.test), _locals_call())
        return self._branch(opening, node.body, node.orelse, node.test)

    def _branch(
        self,
        opening: ast.expr,
        then: Sequence[ast.stmt],
        orelse: Sequence[ast.stmt],
        at: ast.AST,
    ) -> list[ast.stmt]:
        """Two arms of which the branch that `opening` makes runs one, or records both."""
        handle = self._handle()
        first = bound_names(then)
        every = list(dict.fromkeys([*first, *bound_names(orelse)]))
        found = [self._assign(handle, opening, at)]
        end = _place(ast.Expr(self._call(at, "end_then", on=handle)), at)
        body = [*self._block(then), end, *self._settle_names(handle, first, at)]
        found.append(_place(ast.If(self._call(at, "then", on=handle), body, []), at))
        if orelse:
            other = self._call(at, "otherwise", on=handle)
            found.append(_place(ast.If(other, self._block(orelse), []), at))
        found.append(_place(ast.Expr(self._call(at, "close", on=handle)), at))
        return found + self._settle_names(handle, every, at)

    def visit_For(self, node: ast.For) -> list[ast.stmt]:
        handle, item = self._handle(), self._handle()
        opening = self._call(
            node.iter,
            "loop",
            self.visit(node.iter),
            _locals_call(),
            ast.Constant(bool(node.orelse)),
        )
        self._loops.append(handle)
        target = _place(ast.Pass(), node.target)
        body = self._assign_target(node.target, _load(item, node.target), target)
        body += self._block(node.body)
        self._loops.pop()
        loop = ast.For(
            ast.Name(item, ast.Store()), _load(handle, node.iter), body, self._block(node.orelse)
        )
        names = bound_names([node.target, *node.body])
        return [
            self._assign(handle, opening, node.iter),
            _place(loop, node),
            *self._settle_names(handle, names, node.iter),
        ]

    def visit_While(self, node: ast.While) -> list[ast.stmt]:
        handle, test = self._handle(), node.test
        opening = self._call(
            test,
            "loop_while",
            self._lazy(self._asked(test)),
            _locals_call(),
            ast.Constant(bool(node.orelse)),
        )
        self._loops.append(handle)
        body = self._block(node.body)
        self._loops.pop()
        loop = ast.While(self._call(test, "next", on=handle), body, self._block(node.orelse))
        return [
            self._assign(handle, opening, test),
            _place(loop, node),
            *self._settle_names(handle, bound_names(node.body), test),
        ]

    def _jump(self, node: ast.Break | ast.Continue) -> ast.stmt:
        word = ast.Constant("break" if isinstance(node, ast.Break) else "continue")
        jumps = self._call(node, "jump", word, on=self._loops[-1])
        return _place(ast.If(jumps, [node], []), node)

    visit_Break = visit_Continue = _jump

    def visit_Return(self, node: ast.Return) -> ast.stmt:
        value = self.visit(node.value) if node.value is not None else ast.Constant(None)
        return _place(ast.Return(self._call(node, "leave", value)), node)

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        test, message = self._tested(node.test), self._lazy(node.msg or ast.Constant(""))
        return _place(ast.Expr(self._call(node.test, "require", test, message)), node)

    # Expressions --------------------------------------------------------------------------------

    def _tested(self, test: ast.expr) -> ast.expr:
        return self.visit(self._asked(test))  # type: ignore[no-any-return]

    def _asked(self, test: ast.expr) -> ast.expr:
        """An expression of which only the truth is asked, and so of its operands."""
        if isinstance(test, ast.BoolOp):
            self._conditions.add(test)
            for value in test.values:
                self._asked(value)
        return test

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        method = "both" if isinstance(node.op, ast.And) else "either"
        result: ast.expr = self.visit(node.values[0])
        for value in node.values[1:]:
            asked = ast.Constant(node in self._conditions)
            result = self._call(node, method, _locals_call(), result, self._lazy(value), asked)
        return result

    def _lazy(self, value: ast.expr) -> ast.Lambda:
        self._hidden.append(set())
        body = self.visit(value)
        self._hidden.pop()
        return self._thunk(body)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        if isinstance(node.op, ast.Not):
            return self._call(node, "negate", self._tested(node.operand))
        return _place(ast.UnaryOp(node.op, self.visit(node.operand)), node)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        words = ast.Tuple([ast.Constant(type(op).__name__) for op in node.ops], ast.Load())
        if len(node.ops) == 1 and type(node.ops[0]).__name__ not in OF_OBJECTS:
            return self.generic_visit(node)  # type: ignore[return-value]
        rest = [self._lazy(value) for value in node.comparators]
        left = self.visit(node.left)
        return self._call(node, "chain", _locals_call(), words, left, *rest)

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        condition = self._tested(node.test)
        sides = (self._lazy(node.body), self._lazy(node.orelse))
        return self._call(node, "choose", _locals_call(), condition, *sides)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if _is_choice(node):
            function, condition = self.visit(node.func), self._tested(node.args[0])
            sides = map(self._lazy, node.args[1:])
            return self._call(node, "call_choice", _locals_call(), function, condition, *sides)
        new = self.generic_visit(node)
        assert isinstance(new, ast.Call)
        shadowed = "range" in self._names
        if isinstance(new.func, ast.Name) and new.func.id == "range" and not shadowed:
            traced = ast.Attribute(_name(SCOPE), "range", ast.Load())
            return _place(ast.Call(traced, [new.func, *new.args], new.keywords), node)
        return new


def _is_choice(node: ast.Call) -> bool:
    """Whether something called if_then_else is called as T.if_then_else may be."""
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    plain = not node.keywords and not any(isinstance(a, ast.Starred) for a in node.args)
    return name == "if_then_else" and plain and len(node.args) == 3


def _may_jump(statement: ast.stmt) -> bool:
    """Whether a `break` or `continue` in it leaves the loop that it stands in."""
    pending: list[ast.AST] = [statement]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Break | ast.Continue):
            return True
        if not isinstance(node, ast.For | ast.While | ast.FunctionDef | ast.expr):
            pending.extend(ast.iter_child_nodes(node))
    return False


def _place(node: _Node, at: ast.AST) -> _Node:
    """`node` and what is in it that has no position, at the position of `at`."""
    ast.copy_location(node, at)
    for child in ast.walk(node):
        if "lineno" in child._attributes and not hasattr(child, "lineno"):
            ast.copy_location(child, at)
    return node


def _name(name: str) -> ast.expr:
    return ast.Name(name, ast.Load())


def _load(name: str, at: ast.AST) -> ast.expr:
    return _place(ast.Name(name, ast.Load()), at)


def _locals_call() -> ast.expr:
    return ast.Call(_name(LOCALS), [], [])


def _bare(arguments: ast.arguments) -> ast.arguments:
    """The same parameters without annotations or defaults, which the function object has."""

    def bare(arg: ast.arg) -> ast.arg:
        return ast.copy_location(ast.arg(arg.arg), arg)

    return ast.arguments(
        posonlyargs=[bare(a) for a in arguments.posonlyargs],
        args=[bare(a) for a in arguments.args],
        vararg=bare(arguments.vararg) if arguments.vararg else None,
        kwonlyargs=[bare(a) for a in arguments.kwonlyargs],
        kw_defaults=[None] * len(arguments.kwonlyargs),
        kwarg=bare(arguments.kwarg) if arguments.kwarg else None,
        defaults=[],
    )
