"""The folder that a bug of tilec leaves behind, so that it can be reported and replayed.

It holds `reproducer.json` (what was being done, the exception with its traceback, versions) and,
where there was a program, `reproducer.tir`: the program before the step that failed. `tilec repro
FOLDER` runs that step again.
"""

from __future__ import annotations

import json
import platform
import tempfile
import traceback
from pathlib import Path

from ..errors import InternalError, TilecError
from ..ir.core import Program
from ..ir.print import print_program
from ..version import __version__
from .context import PassContext

TEXT, ABOUT = "reproducer.tir", "reproducer.json"
EMISSION = "emit"
"""The step after the last pass, as reproducers name it."""


def internal_error(code: str, doing: str, cause: BaseException) -> InternalError:
    """A bug outside of the passes. Its folder has no program."""
    folder = _write(None, {"doing": doing}, cause)
    return InternalError(
        code,
        f"{type(cause).__name__}: {cause}",
        hint=f"this is a bug of tilec: report it with the folder {folder}",
    )


def failed_step(
    step: str,
    program: Program,
    context: PassContext,
    cause: Exception,
    folder: Path | None = None,
) -> InternalError:
    """A pass, or the emission of text, that failed on a program. The reproducer goes into `folder`,
    or a new one."""
    about: dict[str, object] = {
        "pass": step,
        "target": context.target.name,
        "assume": context.facts.assume.value,
    }
    folder = _write(folder, about, cause, program)
    reason = cause.message if isinstance(cause, TilecError) else f"{type(cause).__name__}: {cause}"
    what = "the emission of text" if step == EMISSION else f"pass {step}"
    return InternalError(
        "TLC9001",
        f"{what} failed: {reason}",
        loc=program.loc,
        hint=f"this is a bug of tilec: report it with the reproducer in {folder}, "
        f"which `tilec repro {folder}` replays",
    )


def _write(
    folder: Path | None,
    about: dict[str, object],
    cause: BaseException,
    program: Program | None = None,
) -> Path:
    """The folder, written."""
    folder = folder or Path(tempfile.mkdtemp(prefix="tilec-reproducer-"))
    folder.mkdir(parents=True, exist_ok=True)
    if program is not None:
        (folder / TEXT).write_text(print_program(program), encoding="utf-8")
        about["replay"] = "tilec repro ."
    about |= {
        "error": "".join(traceback.format_exception(cause)),
        "tilec": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return folder
