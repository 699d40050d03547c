"""What the emulator raises."""

from __future__ import annotations

from ...errors import ExecutionError


class EmulatorError(ExecutionError):
    """The emulator found the kernel at fault: a finding, a deadlock, a crash, no end in the time
    given."""
