"""The command line: `tilec` and `python -m tilec`.

stdout is the product, stderr the diagnostics. Exit status: 0 ok, 1 errors in the input, 2 usage, 3
a tool is missing, 4 no device, 5 wrong result, 70 internal.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from typing import Any

import click

from ..errors import InternalError, TilecError, render_error

COMMANDS = ("run", "build", "check", "opt", "show")


class _Commands(click.Group):
    """Commands whose modules are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from importlib import import_module

        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module("." + cmd_name, __name__).command
        return command


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from ..version import __version__

        click.echo(f"tilec {__version__}")
        ctx.exit()


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Print the version.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How errors are printed.",
)
@click.pass_context
def cli(context: click.Context, form: str) -> None:
    """Compile and run tile programs."""
    context.obj = form


def main(arguments: list[str] | None = None) -> None:
    """Runs a command line and exits with its status."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Runs a command line; its exit status."""
    form = (
        "json"
        if "--format=json" in arguments or _follows(arguments, "--format", "json")
        else "text"
    )
    try:
        result: Any = cli.main(arguments, prog_name="tilec", standalone_mode=False)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except click.Abort:
        return 130
    except TilecError as error:
        _report(error, form)
        return error.exit_status
    except Exception as cause:  # noqa: BLE001  a bug: told as one, with its cause
        wrapped = InternalError(
            "TLC9000",
            f"{type(cause).__name__}: {cause}",
            hint="this is a bug of tilec; run with TILEC_DUMP=folder",
        )
        wrapped.__cause__ = cause
        _report(wrapped, form)
        return wrapped.exit_status
    return result if isinstance(result, int) else 0


def _follows(arguments: list[str], option: str, value: str) -> bool:
    return any(a == option and b == value for a, b in pairwise(arguments))


def _report(error: TilecError, form: str) -> None:
    if form == "json":
        click.echo(json.dumps(error.to_json()), err=True)
    else:
        click.echo(render_error(error), err=True)
