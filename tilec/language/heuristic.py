"""`@tilec.heuristic`: compile-time parameters that follow from shapes and target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .kernel import Kernel
from .trace import refuse


def heuristic(choose: Callable[[Any, Mapping[str, tuple[int, ...]]], Mapping[str, Any]]) -> Any:
    """Decorates a kernel with a choice of the compile-time parameters that a call does not give.

    Args:
        choose: called with the target (its limits are attributes) and the shapes of the tensors by
            parameter name; gives values by parameter name.

    Raises:
        LanguageError: it stands below tilec.kernel, not above it; `choose` is no function.
    """

    if not callable(choose):
        raise refuse(
            "TLC0113",
            f"tilec.heuristic takes a function, not {choose!r}",
            hint="it is called with the target and the shapes of the tensors, and gives a dict",
        )

    def decorate(kernel: Any) -> Any:
        if not isinstance(kernel, Kernel):
            raise refuse(
                "TLC0113", "tilec.heuristic decorates a kernel", hint="put it above tilec.kernel"
            )
        kernel.heuristic = choose
        kernel.forget_calls()
        return kernel

    return decorate
