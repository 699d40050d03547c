"""`python -m tilec` is `tilec`."""

from __future__ import annotations

from .cli import main

main()
