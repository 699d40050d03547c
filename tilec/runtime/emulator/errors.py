"""What the emulator raises."""

from __future__ import annotations

from ...errors import ExecutionError, TimedOut


class EmulatorError(ExecutionError):
    """The emulator found the kernel at fault: a finding, a deadlock, a crash, no end in the time
    given."""


class EmulatorTimedOut(EmulatorError, TimedOut):
    """The kernel did not come to an end."""

    exit_status = TimedOut.exit_status
