"""Work in other processes: fresh interpreters, forked children, several at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable
from contextlib import suppress

_PATIENCE = 60  # seconds


def python(code: str, *arguments: str) -> str:
    """Run code in a fresh interpreter, which finds what this one finds, and return what it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


class Child:
    """A forked child, whose standing and failure the parent reads from a pipe.

    Parameters
    ----------
    work : callable
        What the child does; it is given a function that sends a line to the parent.
    start : tuple of int, optional
        A pipe: the child begins when its writing end is closed everywhere.
    """

    def __init__(self, work: Callable[[Callable[[str], None]], object], start: tuple[int, int] | None = None) -> None:
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(read)
            self._run(work, write, start)
        os.close(write)
        self._pipe = read

    def _run(self, work: Callable[[Callable[[str], None]], object], write: int, start: tuple[int, int] | None) -> None:
        signal.alarm(_PATIENCE)
        status = 1
        try:
            if start is not None:
                os.close(start[1])
                os.read(start[0], 1)
            work(lambda line: _send(write, line))
            status = 0
        except BaseException:
            _send(write, f"failed: {traceback.format_exc()!r}")
        finally:
            os._exit(status)

    def kill(self) -> None:
        """Send SIGKILL, if it is still there."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def lines(self) -> list[str]:
        """Wait for the end, and return the whole lines that the child sent."""
        with open(self._pipe, "rb") as pipe:
            data = pipe.read()
        _, self.status = os.waitpid(self.pid, 0)
        return data.decode().split("\n")[:-1]


def _send(pipe: int, line: str) -> None:
    os.write(pipe, f"{line}\n".encode())


def at_once(*works: Callable[[], object]) -> None:
    """Do each work in a child of its own, all beginning at the same moment; fail with their failures."""
    start = os.pipe()
    children = [Child(lambda _, work=work: work(), start) for work in works]
    for end in start:
        os.close(end)
    failures = [line for child in children for line in child.lines()]
    assert not failures, "\n".join(failures).replace("\\n", "\n")
    assert [child.status for child in children] == [0] * len(works)


def in_child(work: Callable[[], object]) -> None:
    """Do the work in a child, and fail with its failure."""
    at_once(work)
