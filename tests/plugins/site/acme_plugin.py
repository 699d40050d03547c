"""A package of its own that extends tilec by an op, a pass, a dtype and a target.

It is installed as far as Python can tell (the folder beside it has its entry point), and imports
nothing of tilec but its public modules.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import tilec.language as T
from tilec import extend
from tilec.target import find_target

acme = extend.Extension("acme")


@acme.op
class Clip(extend.Unary, name="acme.clip", pure=True):
    """x held between -1 and 2."""

    text = "max(min({x}, 2.0f), -1.0f)"
    x: extend.Value = extend.operand()

    def evaluate(self, *inputs: Any) -> Any:
        return np.clip(inputs[0], np.float32(-1), np.float32(2))


acme.spell(Clip, "min(max({x}, -1.0f), 2.0f)", backend="hip")


def clip(x: Any) -> Any:
    """x, a float32 of the kernel, held between -1 and 2."""
    return extend.emit(Clip(extend.value(x, "float32")))


def merge_clips(program: extend.Program, context: extend.PassContext) -> extend.Program:
    """A clip of what a clip gives is that."""
    made = {op.result: op for op in extend.walk(program.body) if isinstance(op, Clip)}

    def rule(op: extend.Op) -> extend.Value | None:
        return op.x if isinstance(op, Clip) and op.x in made else None

    return program.with_body(extend.rewrite(program.body, rule))


acme.add_pass(merge_clips, before="promote_fragments")

fixed = acme.dtype(
    "fixed",
    "int8",
    decode=lambda bits: T.cast(bits, "float32") * 0.03125,
    encode=lambda x: T.cast(x * 32.0, "int8"),
)
"""Numbers from -4 to 3.96875 in steps of 1/32."""

orin = acme.target(replace(find_target("cuda:sm_80"), arch="sm_87", multiprocessors=16))
