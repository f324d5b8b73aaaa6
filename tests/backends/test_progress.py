"""The progress bar: on a terminal, for long runs, and nowhere else."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Sleeps `count` times, and says afterwards whether anything was loaded to draw with.
SCRIPT = """
import sys, time
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage

count, seconds, name, progress, stored, failing, folder = eval(sys.argv[1])

@workflow
def nap(number):
    if number == failing:
        raise RuntimeError("of the node")
    time.sleep(seconds if number >= stored else 0)
    return number

def run(numbers, progress):
    naps = [nap(number).set_name(f"n{number}") for number in numbers]
    flow = LocalWorkflow(*naps, workflow_name=name, progress=progress)
    flow.set_storage(FileStorage(folder))
    return flow.run()

if stored:
    run(range(stored), False)
print(run(range(count), progress), "rich" in sys.modules)
"""


@dataclass(frozen=True)
class Scenario:
    """A run to watch.

    Attributes
    ----------
    terminal : bool
        Whether standard error is a terminal.
    count : int
        Nodes.
    seconds : float
        That each of them takes.
    name : str
        The workflow's.
    progress : bool or None
        What the workflow is told.
    stored : int
        Nodes that were stored before.
    failing : int
        The node that fails.
    """

    terminal: bool
    count: int = 4
    seconds: float = 0.4
    name: str = "flow"
    progress: bool | None = None
    stored: int = 0
    failing: int = -1


SCENARIOS = {
    "long": Scenario(terminal=True),
    "fast": Scenario(terminal=True, seconds=0.01),
    "switched off": Scenario(terminal=True, progress=False),
    "piped": Scenario(terminal=False),
    "piped, switched on": Scenario(terminal=False, progress=True),
    "fast, switched on": Scenario(terminal=False, seconds=0.01, progress=True),
    "odd name": Scenario(terminal=True, name="a{0}b[/c][red]d"),
    "failing": Scenario(terminal=True, failing=3),
    "half stored": Scenario(terminal=True, count=7, stored=3),
}


@dataclass(frozen=True)
class Seen:
    """What a process wrote to standard output and standard error, and how it ended."""

    out: str
    err: str
    code: int

    @property
    def text(self) -> str:
        """Standard error without colours and movements of the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.err)


def watch(scenario: Scenario, folder: Path) -> Seen:
    """Run a scenario in another process."""
    given = (
        scenario.count,
        scenario.seconds,
        scenario.name,
        scenario.progress,
        scenario.stored,
        scenario.failing,
        str(folder),
    )
    ours, theirs = pty.openpty() if scenario.terminal else os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, repr(given)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    pieces = []
    with contextlib.suppress(OSError):  # a terminal whose last writer is gone is an error, not an end
        while piece := os.read(ours, 65536):
            pieces.append(piece)
    os.close(ours)
    out, _ = process.communicate(timeout=240)
    return Seen(out.strip(), b"".join(pieces).decode(), process.returncode)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """Run all scenarios at once, since they mostly sleep."""
    root = tmp_path_factory.mktemp("stores")
    with ThreadPoolExecutor(len(SCENARIOS)) as threads:
        watched = threads.map(lambda name: watch(SCENARIOS[name], root / name), SCENARIOS)
        return dict(zip(SCENARIOS, watched, strict=True))


def test_a_long_run_on_a_terminal_shows_a_bar(seen: dict[str, Seen]) -> None:
    """After a second a bar on standard error has the workflow's name and how many nodes are done, to the end."""
    assert seen["long"].out == "[0, 1, 2, 3] True"
    assert re.search(r"flow .*\b3/4\b", seen["long"].text)
    assert re.search(r"flow .*\b4/4\b", seen["long"].text)
    assert not re.search(r"\b[01]/4\b", seen["long"].text)  # a second is not over yet


def test_the_terminal_is_left_as_it_was(seen: dict[str, Seen]) -> None:
    """The cursor, hidden while the bar moves, is shown again at the end, also before a failing run's traceback."""
    for name in ("long", "failing"):
        assert "\x1b[?25l" in seen[name].err
        assert seen[name].err.rindex("\x1b[?25h") > seen[name].err.rindex("\x1b[?25l")
    assert seen["failing"].err.rindex("\x1b[?25h") < seen["failing"].err.index("Traceback")
    assert "RuntimeError: of the node" in seen["failing"].text
    assert seen["failing"].code == 1


@pytest.mark.parametrize("name", ["fast", "switched off", "piped", "fast, switched on"])
def test_no_bar_where_none_is_wanted(seen: dict[str, Seen], name: str) -> None:
    """A run of under a second, a piped one, and one with ``progress=False`` write nothing and load no rich."""
    assert seen[name] == Seen("[0, 1, 2, 3] False", "", 0)


def test_a_bar_can_be_switched_on(seen: dict[str, Seen]) -> None:
    """With ``progress=True`` a long run tells its progress into a pipe as well, as plain text."""
    assert seen["piped, switched on"].out == "[0, 1, 2, 3] True"
    assert re.search(r"flow .*\b4/4\b", seen["piped, switched on"].err)
    assert "\x1b" not in seen["piped, switched on"].err


def test_a_name_is_shown_as_it_is(seen: dict[str, Seen]) -> None:
    """Braces and brackets in a workflow's name are no formats or colours."""
    assert seen["odd name"].out == "[0, 1, 2, 3] True"
    assert "a{0}b[/c][red]d" in seen["odd name"].text


def test_stored_results_are_no_part_of_the_work(seen: dict[str, Seen]) -> None:
    """The bar counts what has to be computed; what is restored is not in it."""
    assert seen["half stored"].out == "[0, 1, 2, 3, 4, 5, 6] True"
    assert re.search(r"\b4/4\b", seen["half stored"].text)
    assert "/7" not in seen["half stored"].text
