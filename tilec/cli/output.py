"""What a command prints: its product on stdout, diagnostics on stderr, each as text or as JSON.

As JSON the product is one document, written when the command ends, and every diagnostic is one
line. Neither holds dates or process ids, so that two runs may be compared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field

import click

from ..errors import TilecError, render_error
from ..passes.context import Remark


@dataclass
class Output:
    """The two streams of one command line, in the form that `--format` asks for."""

    form: str = "text"
    _remarks: list[object] = field(default_factory=list)

    @property
    def as_json(self) -> bool:
        return self.form == "json"

    def say(self, line: str) -> None:
        """A line of the product, where that is text."""
        if not self.as_json:
            click.echo(line)

    def write(self, text: str) -> None:
        """Text of the product as it stands: IR, source."""
        if not self.as_json:
            click.echo(text, nl=not text.endswith("\n"))

    def result(self, data: Mapping[str, object]) -> None:
        """The whole product as data, where that is JSON. Once a command, at its end."""
        if self.as_json:
            click.echo(json.dumps(data, indent=1))

    def note(self, message: str) -> None:
        """Something that a person should see beside the product."""
        self._diagnose({"kind": "note", "message": message}, message)

    def remark(self, remark: Remark) -> None:
        """What the compiler chose or gave up, once each."""
        if remark in self._remarks:
            return
        self._remarks.append(remark)
        data = {
            "kind": "warning" if remark.warning else "remark",
            "code": remark.code,
            "message": remark.message,
            "locations": remark.loc.to_json(),
        }
        self._diagnose(data, str(remark))

    def error(self, error: TilecError) -> None:
        """The refusal that ends the command."""
        self._diagnose(error.to_json(), render_error(error))

    def usage(self, error: click.ClickException) -> None:
        """A command line that is not understood."""
        if self.as_json:
            self._diagnose({"kind": "UsageError", "message": error.format_message()}, "")
        else:
            error.show()

    @contextmanager
    def users_code(self) -> Iterator[None]:
        """Runs code of the user's: as JSON, what it prints goes to stderr, since stdout is ours."""
        if not self.as_json:
            yield
            return
        with redirect_stdout(sys.stderr):
            yield

    def _diagnose(self, data: Mapping[str, object], text: str) -> None:
        click.echo(json.dumps(data) if self.as_json else text, err=True)


def output() -> Output:
    """The output of the command line that is running."""
    found = click.get_current_context().find_object(Output)
    assert found is not None
    return found


def _choose(context: click.Context, _: click.Parameter, form: str | None) -> None:
    if form is not None:
        context.ensure_object(Output).form = form


FORMAT = click.Option(
    ["--format"],
    type=click.Choice(["text", "json"]),
    expose_value=False,
    is_eager=True,
    callback=_choose,
    help="How the product and the diagnostics are printed.  [default: text]",
)
"""Stands before or after the name of a command."""
