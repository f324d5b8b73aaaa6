"""The command `functionfuse`: the catalog of a storage at a terminal.

This is a thin skin: what a command does, storage and catalog do. The commands
are in the modules `_cli_*`; here are their names and what an error ends in.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import click

from functionfuse import _cli_ask, _cli_check, _cli_export, _cli_keep
from functionfuse.errors import DamagedResult, FunctionFuseError

__all__ = ["main"]

_HELP = """Find, check, hand on and remove the results of a storage.

STORAGE is the storage's folder; its URL, as s3://bucket/prefix; or a TOML, JSON or YAML file with the dictionary of
storage_factory: kind and options. For S3, credentials, profile, region and endpoint come from the environment and
files of AWS. Looking at a place makes nothing there: if it is no storage, that is an error.

On a terminal, answers are tables with sizes and local times as people read them. In a pipe they are lines without a
header, with a tab between exact values: bytes, UTC. --json and --csv are for programs.
"""
_EPILOG = """\b
Exit codes:
  0    all is well
  1    something is wrong with the storage, or the one thing asked for is not there
  2    the command cannot be done as it was given, or was refused
  130  interrupted

\b
Examples:
  functionfuse ls results --since yesterday
  functionfuse show results weather day
  functionfuse sql results "SELECT workflow, count(*) FROM tasks GROUP BY ALL"
  functionfuse verify results
  eval "$(functionfuse completion bash)"
"""
_INTERRUPTED, _BROKEN_PIPE = 130, 141  # as a shell counts signals


class _Failed(click.ClickException):
    """What cannot be done: a message instead of a traceback."""

    exit_code = 2


class _Wrong(_Failed):
    """What is not there, or damaged."""

    exit_code = 1


def _translated(error: Exception) -> _Failed:
    absent = isinstance(error, FileNotFoundError) and isinstance(error, FunctionFuseError)
    return (_Wrong if absent or isinstance(error, DamagedResult) else _Failed)(_as_typed(_message(error)))


def _as_typed(message: str) -> str:
    """Return a message with the options of the command line in place of Python's parameters."""
    for name, option in sorted({*_options(main), ("order_by", "--sort")}):
        message = re.sub(rf"(?<![\w'\".-]){name}=True\b", option, message)
        message = re.sub(rf"(?<![\w'\".-]){name}=", f"{option} ", message)
        if "_" in name:
            message = re.sub(rf"(?<![\w'\".-]){name}\b", option, message)
    return message


def _options(command: click.Command) -> set[tuple[str, str]]:
    """Return Python's name and the long name of every option, with those of all commands within."""
    found = {(each.name, each.opts[0]) for each in command.params if isinstance(each, click.Option) and each.name}
    within = command.commands.values() if isinstance(command, click.Group) else ()
    return found.union(*map(_options, within))


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:  # without the number, which says nothing to a person
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


class _Commands(click.Group):
    """The commands in the order in which they are added, with their errors translated into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            _drop_output()
            ctx.exit(_BROKEN_PIPE)
        except (FunctionFuseError, OSError) as error:
            raise _translated(error) from error
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted", err=True)
            ctx.exit(_INTERRUPTED)


def _drop_output() -> None:
    # What is still in the buffer would be written at the interpreter's end, and fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(cls=_Commands, help=_HELP, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="functionfuse", prog_name="functionfuse")
def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name may hold what the terminal's encoding has not


@click.command(
    epilog="\b\nExamples:\n"
    '  eval "$(functionfuse completion bash)"      in ~/.bashrc\n'
    "  functionfuse completion fish | source       in ~/.config/fish/config.fish",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    It completes commands, options, and the names of workflows and tasks.
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None, f"click completes in {shell}"
    click.echo(found(main, {}, "functionfuse", "_FUNCTIONFUSE_COMPLETE").source())


for _command in (
    _cli_ask.list_results,
    _cli_ask.show,
    _cli_ask.sql,
    _cli_ask.runs,
    _cli_ask.du,
    _cli_export.export,
    _cli_check.audit,
    _cli_check.verify,
    _cli_keep.rm,
    _cli_keep.gc,
    _cli_keep.pin,
    _cli_keep.unpin,
    _cli_keep.rebuild,
    _cli_keep.compact,
    completion,
):
    main.add_command(_command)
