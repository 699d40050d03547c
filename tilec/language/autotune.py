"""`@tilec.autotune`: compile-time parameters that are chosen by measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError
from .kernel import Kernel
from .trace import refuse

Config = Mapping[str, Any]
Configs = Sequence[Config] | Callable[[Any, Mapping[str, tuple[int, ...]]], Sequence[Config]]


@dataclass(frozen=True)
class Tuning:
    """What a kernel is tuned over. `key` names the symbols on whose values the choice depends;
    without any it depends on all shapes."""

    configs: Configs
    key: tuple[str, ...] = ()

    def candidates(
        self, kernel: Kernel, target: object, shapes: Mapping[str, tuple[int, ...]]
    ) -> list[dict[str, Any]]:
        """Values by parameter name, one for each candidate. Raises ArgumentError where there is
        none, or one names what is no compile-time parameter.
        """
        made = self.configs
        if callable(made):
            made = kernel.ask(made, "autotune", target, shapes)
        if isinstance(made, Mapping) or not isinstance(made, Iterable):
            raise ArgumentError(
                "TLC0302",
                f"autotune of {kernel.name} has the configurations {made!r}",
                hint='give a list of dicts: [{"block_M": 64}, {"block_M": 128}]',
            )
        found = [dict(kernel.check_choice(config, "autotune")) for config in made]
        if not found:
            raise ArgumentError(
                "TLC0305",
                f"autotune of {kernel.name} has no configuration",
                hint='give one or more: [{"block_M": 64}, {"block_M": 128}]',
            )
        return found


def autotune(configs: Configs, key: str | Sequence[str] = ()) -> Any:
    """Decorates a kernel with a search for the compile-time parameters that a call does not give.

    The first call for each `key` on a GPU compiles every candidate, checks that all give the same
    results, times them on the call's own arrays, and keeps the fastest, also for later processes.
    Arrays end as after one call. On the interpreter and the emulator, whose times mean nothing, the
    first candidate is taken.

    Args:
        configs: the candidates, each a dict of values by parameter name; or a function of target
            and shapes by tensor, as of `tilec.heuristic`, that gives them.
        key: names of symbols, or one; for other values of them the choice is made anew. By default
            all shapes.

    Raises:
        LanguageError: it stands below tilec.kernel, not above it.
    """

    if isinstance(configs, Iterator):
        configs = tuple(configs)  # every call asks for them

    def decorate(kernel: Any) -> Any:
        if not isinstance(kernel, Kernel):
            raise refuse(
                "TLC0113", "tilec.autotune decorates a kernel", hint="put it above tilec.kernel"
            )
        names = (key,) if isinstance(key, str) else tuple(key)
        kernel.tuning = Tuning(configs, names)
        kernel.forget_calls()
        return kernel

    return decorate
