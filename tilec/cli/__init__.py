"""The command line: `tilec` and `python -m tilec`.

stdout is the product, stderr the diagnostics. Exit status: 0 ok, 1 errors in the input, 2 usage, 3
a tool is missing, 4 no device, 5 wrong result, 6 time-out, 70 internal.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from ..errors import TilecError
from .output import FORMAT, Output

COMMANDS = {
    "run": "Run a file's kernels and check the results.",
    "build": "Write what a file's kernels compile to.",
    "check": "Trace and lower a file's kernels, with every check.",
    "opt": "Run passes over IR text.",
    "show": "Print layouts, pipelines, IR, source or resources.",
    "bench": "Time a file's kernels on generated inputs.",
    "tune": "Search the configurations of a file's autotuned kernels.",
    "cache": "The disk cache: path, size, list, verify, clear.",
    "doctor": "What is installed here, and what is missing.",
    "explain": "The page of an error's code.",
    "repro": "Pack or replay a reproducer.",
}


class _Commands(click.Group):
    """Commands whose modules are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from importlib import import_module

        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module("." + cmd_name, __name__).command
        if FORMAT not in command.params:
            command.params.append(FORMAT)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from ..version import __version__

        click.echo(f"tilec {__version__}")
        ctx.exit()


@click.command(
    cls=_Commands, params=[FORMAT], context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Print the version.",
)
def cli() -> None:
    """Compile and run tile programs."""


def main(arguments: list[str] | None = None) -> None:
    """Runs a command line and exits with its status."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Runs a command line; its exit status."""
    output = Output()
    try:
        result: Any = cli.main(arguments, prog_name="tilec", standalone_mode=False, obj=output)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        output.usage(error)
        return 2
    except click.Abort:
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except TilecError as error:
        output.error(error)
        return error.exit_status
    except Exception as cause:  # noqa: BLE001  a bug: told as one, with its cause
        from ..passes.reproducer import internal_error

        wrapped = internal_error("TLC9000", "tilec " + " ".join(arguments), cause)
        output.error(wrapped)
        return wrapped.exit_status
    return result if isinstance(result, int) else 0
