"""The one refusal of this folder."""

from __future__ import annotations


class Unfit(ValueError):
    """An argument that a program cannot take, or a launch that no GPU can. `hint`: what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}: {hint}" if hint else message)
        self.message, self.hint = message, hint
