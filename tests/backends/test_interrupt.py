"""Ctrl-C and worse: an interrupted run leaves nothing torn, and the catalog knows what is there and what happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import catalog
import functionfuse
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage

ROOT = Path(__file__).resolve().parents[2]
PROLOGUE = """
import sys, time
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage

@workflow
def give(value, *parents):
    return value

storage = FileStorage(sys.argv[1])
"""

SLEEPER = """
@workflow
def sleep(parent):
    print("asleep", flush=True)
    time.sleep(60)

a = give("a").set_name("a")
b = give("b", a).set_name("b")
flow = LocalWorkflow(give("leaf", sleep(b).set_name("sleep")).set_name("leaf"), workflow_name="flow")
flow.set_storage(storage)
flow.run()
"""

ROUNDS = """
for number in range(int(sys.argv[2])):
    try:
        flow = LocalWorkflow(*[give(n).set_name(f"n{n}") for n in range(5_000)], workflow_name=f"flow{number}")
        flow.set_storage(storage)
        print("go", flush=True)
        flow.run()
        print("finished", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@contextmanager
def python(code: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Run code in another process, which can be talked to and is gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + code, *args],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def temporaries(root: Path, flow: str) -> set[Path]:
    """Return the hidden files beside a workflow's results, and the temporaries of the storage."""
    folders = (root / flow, root / ".catalog" / "tmp")
    hidden = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {path for path in hidden if path.name.startswith(".") or "tmp" in path.relative_to(root).parts}


def runs(storage: FileStorage) -> list[tuple[Any, ...]]:
    """Return workflow, status and the counts of all runs, the oldest first."""
    return storage.catalog.sql("SELECT workflow, status, computed, restored FROM runs ORDER BY started").fetchall()


def listed(storage: FileStorage) -> set[tuple[str, str]]:
    """Return what the catalog lists."""
    return set(storage.catalog.sql("SELECT workflow, task FROM tasks").fetchall())


# In a node


def test_an_interrupt_in_a_node_ends_the_run(tmp_path: Path) -> None:
    """Ctrl-C in a node is a KeyboardInterrupt that names it; what was finished is stored, the run is interrupted."""
    with python(SLEEPER, str(tmp_path)) as process:
        assert line(process) == "asleep"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=240)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in err
    if sys.version_info >= (3, 11):
        assert err.rstrip().endswith("in node 'sleep' of workflow 'flow'")
    storage = FileStorage(str(tmp_path))
    assert runs(storage) == [("flow", "interrupted", 2, 0)]
    assert {name: storage.read_task("flow", name) for name in storage.list_tasks("flow")} == {"a": "a", "b": "b"}
    failed = storage.catalog.sql("SELECT task, details->>'error' FROM events WHERE event = 'task-failed'").fetchall()
    assert failed == [("sleep", "KeyboardInterrupt()")]
    assert temporaries(tmp_path, "flow") == set()


def test_the_next_run_goes_on_where_the_interrupt_was(tmp_path: Path) -> None:
    """After Ctrl-C the finished nodes are restored, and the others are computed."""
    storage = FileStorage(str(tmp_path))
    patience = [KeyboardInterrupt]
    calls: list[str] = []

    @workflow
    def step(name: str, *parents: Any) -> str:
        calls.append(name)
        if name == "b" and patience:
            raise patience.pop()
        return name

    leaf = step("c", step("b", step("a").set_name("a")).set_name("b")).set_name("c")
    graph = LocalWorkflow(leaf, workflow_name="flow")
    graph.set_storage(storage)
    with pytest.raises(KeyboardInterrupt):
        graph.run()
    assert graph.run() == "c"
    assert calls == ["a", "b", "b", "c"]
    assert runs(storage) == [("flow", "interrupted", 1, 0), ("flow", "finished", 2, 1)]


def test_a_killed_run_is_known_as_one_without_an_end(tmp_path: Path) -> None:
    """A run that was killed has no end and the status running; what it had stored is there."""
    with python(SLEEPER, str(tmp_path)) as process:
        assert line(process) == "asleep"
        process.kill()
        process.wait(240)
    storage = FileStorage(str(tmp_path))
    assert runs(storage) == [("flow", "running", None, None)]
    assert storage.catalog.sql("SELECT finished FROM runs").fetchall() == [(None,)]
    assert [storage.read_task("flow", name) for name in storage.list_tasks("flow")] == ["a", "b"]


# While results are saved


def test_interrupts_while_results_are_saved(tmp_path: Path) -> None:
    """Ctrl-C at any moment of a run of many saves leaves whole results, all of them catalogued, and nothing else."""
    chance = random.Random(7)
    ends = []
    with python(ROUNDS, str(tmp_path), "12") as process:
        while line(process) == "go":
            time.sleep(chance.uniform(0.02, 0.2))
            process.send_signal(signal.SIGINT)
            ends.append(line(process))
        _, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (0, "")
    assert len(ends) == 12
    assert ends.count("interrupted") >= 8  # the others were faster
    storage = FileStorage(str(tmp_path))
    there = {(f"flow{number}", name) for number in range(12) for name in storage.stored(f"flow{number}")}
    assert listed(storage) == there
    assert all(storage.read_task(flow, name) == int(name[1:]) for flow, name in there)
    for flow, status, computed, restored in runs(storage):
        saved = sum(1 for other, _ in there if other == flow)
        assert status == ends[int(flow.removeprefix("flow"))]
        assert computed <= saved <= computed + 1  # the last one may be published and not counted
        assert restored == 0


@dataclass(frozen=True)
class Stop:
    """Where and how a run was interrupted.

    Attributes
    ----------
    flow : str
        The workflow's name.
    functions : tuple of str
        The functions that were running, the innermost first.
    left : list of Path
        Temporaries that it left.
    """

    flow: str
    functions: tuple[str, ...]
    left: list[Path]


OURS = tuple(os.path.dirname(str(module.__file__)) for module in (functionfuse, catalog))


def interrupted_at(number: int, func: Callable[[], Any]) -> tuple[str, ...] | None:
    """Raise KeyboardInterrupt at the given one of all moments at which a signal could be handled.

    CPython handles signals when a Python function is entered and when a C function has returned (and in loops); a
    profiling function is called at the same moments. Moments before the run's `execute` do not count.

    Returns
    -------
    tuple of str or None
        The functions that were running, the innermost first; None if there were not so many moments.
    """
    running: list[str] = []
    moments = -1

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal moments
        if event not in ("call", "c_return") or not frame.f_code.co_filename.startswith(OURS):
            return
        if moments >= 0 or frame.f_code.co_name == "execute":
            moments += 1
        if moments == number:
            sys.setprofile(None)
            here: FrameType | None = frame
            while here is not None:
                running.append(here.f_code.co_name)
                here = here.f_back
            raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        func()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return tuple(running) if running else None


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[FileStorage, list[Stop]]:
    """Interrupt a run at each moment in turn: it replaces the result "old" by "new"."""
    root = tmp_path_factory.mktemp("swept")
    storage = FileStorage(str(root))

    @workflow
    def give(value: Any) -> Any:
        return value

    stops: list[Stop] = []
    while True:
        name = f"flow{len(stops)}"
        storage.save(name, "replaced", "old")
        graph = LocalWorkflow(give("new").set_name("replaced"), workflow_name=name)
        graph.set_storage(storage)
        before = temporaries(root, name)
        functions = interrupted_at(len(stops), lambda graph=graph: graph.run(recompute="replaced"))  # type: ignore[misc]
        if functions is None:
            break
        stops.append(Stop(name, functions, sorted(temporaries(root, name) - before)))
    return storage, stops


def test_the_sweep_meets_every_step(swept: tuple[FileStorage, list[Stop]]) -> None:
    """The sweep interrupts the journal, the rename, the planning of the save, and the end of the run."""
    met = {function for stop in swept[1] for function in stop.functions}
    assert {"append", "publish", "writer", "close_blob", "new_id", "describe", "_finish", "_call"} <= met
    assert len(swept[1]) > 200


def test_an_interrupt_at_any_moment_leaves_whole_results(swept: tuple[FileStorage, list[Stop]]) -> None:
    """Whatever moment the interrupt struck, each result is the old one or the new one, and can be read."""
    storage, stops = swept
    assert {storage.read_task(stop.flow, "replaced") for stop in stops} == {"old", "new"}


def test_an_interrupt_at_any_moment_leaves_the_catalog_true(swept: tuple[FileStorage, list[Stop]]) -> None:
    """The catalog lists what is there, with the values that are there, and nothing that was not published."""
    storage, stops = swept
    flows = [f"flow{number}" for number in range(len(stops) + 1)]  # the last run was not interrupted
    values = storage.catalog.sql("SELECT workflow, task, value->>'$' FROM tasks").fetchall()
    assert sorted(values) == sorted((flow, "replaced", storage.read_task(flow, "replaced")) for flow in flows)


def test_an_interrupt_at_any_moment_is_recorded(swept: tuple[FileStorage, list[Stop]]) -> None:
    """A run that was interrupted after its start and before its end was written has the status interrupted."""
    storage, stops = swept
    status = dict(storage.catalog.sql("SELECT workflow, status FROM runs").fetchall())
    count = storage.catalog.sql("SELECT count(*) FROM runs").fetchall()[0][0]
    assert count == len(status)
    for stop in stops:
        if "_finish" in stop.functions or stop.functions[0] == "run":  # its end was being written, or had been
            assert status[stop.flow] in ("running", "finished"), stop
        elif "_compute" in stop.functions:
            assert status[stop.flow] == "interrupted", stop
        else:  # its start was being written, or it was still being planned
            assert status.get(stop.flow) in (None, "interrupted"), stop


def test_an_interrupt_at_any_moment_leaves_no_temporary(swept: tuple[FileStorage, list[Stop]]) -> None:
    """No hidden file is left, whatever moment the interrupt struck."""
    assert [stop for stop in swept[1] if stop.left] == []
