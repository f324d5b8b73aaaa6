"""The command line, called in this process and as a program of its own."""

from __future__ import annotations

import inspect
import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from functionfuse.cli import main

MODULE = [sys.executable, "-W", "error", "-m", "functionfuse"]


def run(*arguments: object, stdin: str | None = None, code: int = 0) -> Result:
    """Run a command in this process, its output piped; fail unless it ends in the exit code."""
    separate = "mix_stderr" in inspect.signature(CliRunner).parameters  # before click 8.2, to be asked for
    runner = CliRunner(mix_stderr=False) if separate else CliRunner()  # type: ignore[call-arg]
    result = runner.invoke(main, [str(argument) for argument in arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code == code, f"{result.exit_code}: {result.stdout}{result.stderr}{result.exception!r}"
    return result


def lines(*arguments: object) -> list[list[str]]:
    """Run a command and return the fields of the lines that it prints into a pipe."""
    return [line.split("\t") for line in run(*arguments).stdout.splitlines()]


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment, in which another Python finds what this one finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}


def program(*arguments: object, encoding: str = "utf-8", **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a program whose output is piped, with more variables in its environment."""
    command = [*MODULE, *map(str, arguments)]
    variables = environment(PYTHONIOENCODING=encoding, **more)
    return subprocess.run(command, env=variables, stdin=subprocess.DEVNULL, capture_output=True, encoding=encoding)


def at_terminal(*arguments: object, columns: int = 100) -> tuple[str, int]:
    """Run a command on a pseudo-terminal, and return what a person sees and the exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        variables = environment(COLUMNS=str(columns), TERM="xterm", TZ="UTC")
        os.execve(MODULE[0], [*MODULE, *map(str, arguments)], variables)
    seen = b""
    with open(terminal, "rb", buffering=0) as stream:
        while True:
            try:
                data = stream.read(65536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            seen += data
    return seen.decode().replace("\r\n", "\n"), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def put_on_path(folder: Path) -> str:
    """Make the program `functionfuse` in a folder, and return a PATH in which it comes first."""
    folder.mkdir()
    script = folder / "functionfuse"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(MODULE)} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
