"""What the documents show of the compiler's output is what it prints.

A block of output stands behind a comment that says how to get it, and which lines of it are shown:

    <!-- $ tilec show ir examples/gemm.py --after plan_pipelines | %acc_1 = pipeline ... yield -->

`--update-golden` writes the blocks anew.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest

from tilec.cli import run

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"<!-- \$ tilec (?P<command>[^|\n]*?)(?: \| (?P<first>.*?) \.\.\. (?P<last>.*?))? -->\n"
    r"```\n(?P<shown>.*?)```",
    flags=re.DOTALL,
)
DOCS = [p for p in sorted((ROOT / "docs").glob("*.md")) if BLOCK.search(p.read_text("utf-8"))]


def excerpt(text: str, first: str | None, last: str | None) -> str:
    """The lines from the first that has `first` to the next that has `last`, dedented."""
    lines = text.splitlines()
    if first is not None and last is not None:
        start = next((n for n, line in enumerate(lines) if first in line), None)
        assert start is not None, f"no line has {first!r}:\n{text}"
        end = next((n for n in range(start + 1, len(lines)) if last in lines[n]), None)
        assert end is not None, f"no line after {first!r} has {last!r}:\n{text}"
        lines = lines[start : end + 1]
    return textwrap.dedent("\n".join(lines)) + "\n"


def output(command: str, capfd: pytest.CaptureFixture[str]) -> str:
    capfd.readouterr()
    status = run(shlex.split(command))
    out, err = capfd.readouterr()
    assert status == 0, err
    return out.replace(f"{ROOT}/", "")


@pytest.mark.emulator
@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.stem)
def test_blocks_are_what_the_compiler_prints(
    path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(ROOT)

    def anew(match: re.Match[str]) -> str:
        text = excerpt(output(match["command"], capfd), match["first"], match["last"])
        return match[0].replace(f"```\n{match['shown']}```", f"```\n{text}```")

    before = path.read_text(encoding="utf-8")
    after = BLOCK.sub(anew, before)
    if request.config.getoption("--update-golden"):
        path.write_text(after, encoding="utf-8")
        return
    assert after.splitlines() == before.splitlines()


def test_pipelines_and_the_ir_are_shown() -> None:
    assert {"pipelines", "ir"} <= {p.stem for p in DOCS}
