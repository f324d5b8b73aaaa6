"""Writers that die: killed at random, killed at every step, interrupted at random.

``python killing.py rounds FOLDER SEED FIRST ROUNDS`` and ``python killing.py steps|interrupts FOLDER`` do the killing,
without DuckDB, so that forking is cheap, and check by hand what is left in the folder. `test_kills` runs them and asks
the catalog.
"""

from __future__ import annotations

import builtins
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from functionfuse.errors import TaskNotFound
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import Buffer, Note, NoteSerializer
from oracle import left_over, lying, records, side_folders
from processes import Child

WRITERS = 4
TASKS = 5  # of each writer's own
ABSENT = -1


def opened(root: Path) -> FileStorage:
    """Open the storage, with a serializer."""
    storage = FileStorage(root)
    storage.register_persistent_serializers(NoteSerializer)
    return storage


# At random moments


def result(number: int) -> Any:
    """Make a result that tells its number, in one of several kinds; some are written in parts."""
    kinds: list[Callable[[], Any]] = [
        lambda: number,
        lambda: [number, "x" * (number * 611 % 9_000)],
        lambda: [number, Note(str(number))],
        lambda: [number, Buffer(str(number).encode() * 10_000), "between", Buffer(bytes(70_000))],
        lambda: [number, Note(str(number)), Buffer(bytes(70_000 + number % 7))],
    ]
    return kinds[number % 5]()


def number_of(found: Any) -> int:
    """Return the number of a result, checking all of it."""
    number: int = found if isinstance(found, int) else found[0]
    assert found == result(number), f"this is not what was saved as {number}"
    return number


Report = Callable[[str], None]


def keep_writing(root: Path, writer: int, seed: int, before: dict[str, int]) -> Callable[[Report], None]:
    """Return what a writer does until it is killed: each step is reported before and after."""

    def work(report: Report) -> None:
        storage = opened(root)
        chance = random.Random(seed)
        there = {name for name, number in before.items() if number != ABSENT}
        for number in itertools.count(seed * 1_000_000):
            name = f"{writer} {chance.randrange(TASKS)}"
            if chance.random() < 0.25 and name in there:
                report(f"start {ABSENT} {name}")
                storage.remove_task("own", name)
                there.remove(name)
                report(f"done {ABSENT} {name}")
            elif chance.random() < 0.2:
                storage.save("shared", f"{chance.randrange(2)}", result(number))
            else:
                report(f"start {number} {name}")
                storage.save("own", name, result(number))
                there.add(name)
                report(f"done {number} {name}")

    return work


@dataclass
class Ledger:
    """What is known of the tasks: the last state that was reported as done, and what may have come true since."""

    done: dict[str, int] = field(default_factory=dict)
    maybe: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    deaths_within: int = 0

    def take(self, lines: list[str]) -> None:
        """Take in what a writer reported before it died."""
        for line in lines:
            assert not line.startswith("failed"), line.replace("\\n", "\n")
            what, number, name = line.split(" ", 2)
            if what == "done":
                self.done[name] = int(number)
                self.maybe.pop(name, None)
                self.steps += 1
            else:
                self.maybe[name] = int(number)

    def settle(self, storage: FileStorage) -> None:
        """Check that each task is as it was reported, or as the step in which the writer died would have left it."""
        self.deaths_within += len(self.maybe)
        for name in {*self.done, *self.maybe}:
            try:
                found = number_of(storage.read_task("own", name))
            except TaskNotFound:
                found = ABSENT
            before = self.done.get(name, ABSENT)
            assert found in (before, self.maybe.get(name, before)), (name, found, before, self.maybe)
            self.done[name] = found
        self.maybe = {}

    def present(self) -> list[str]:
        """Return the tasks that have to be there."""
        return sorted(name for name, number in self.done.items() if number != ABSENT)


def kill_in_rounds(root: Path, seed: int, first: int, rounds: int) -> None:
    """Kill four writers in each round, and check what they leave; the ledger lies beside the storage."""
    kept = root.with_suffix(".ledger")
    ledger = Ledger(**json.loads(kept.read_text())) if kept.exists() else Ledger()
    storage = opened(root)
    for number in range(first, first + rounds):
        begin = seed * 10_000 + number * 10
        chance = random.Random(begin)
        children = [Child(keep_writing(root, each, begin + each, ledger.done)) for each in range(WRITERS)]
        for child in chance.sample(children, len(children)):
            time.sleep(chance.random() * 0.012)
            child.kill()
        for child in children:
            ledger.take(child.lines())
            assert child.status == signal.SIGKILL
        ledger.settle(storage)
        for name in ("0", "1"):
            if storage.file_exists("shared", name):
                number_of(storage.read_task("shared", name))
        check_folder(root)
        assert [task for workflow, task, *_ in lying(root) if workflow == "own"] == ledger.present()
    kept.write_text(json.dumps(vars(ledger)))


def check_folder(root: Path) -> None:
    """Check that no blob is torn, no side file of a result is lost, and that no workflow's folder has litter in it."""
    found = records(root)
    there, declared = side_folders(root)
    assert declared <= there
    assert not list(root.glob("[!.]*/.*"))
    for path, (record, _) in found.items():
        for side in record.get("side_files", ()):
            assert (path.parent / "bigdata" / record["blob_id"] / side["name"]).stat().st_size == side["size"]


# At every step

STEPS = ("open", "write", "close", "replace", "rename", "link", "unlink", "mkdir", "rmdir", "fsync")


class Death:
    """Kills this process before the n-th call that changes a file, or within it.

    Parameters
    ----------
    moment : int
        Counted from 0; before each call is a moment, each write has a second one, when half of it is written, and
        behind each `open` is one, before what a file object writes by itself. Else after a call is before the next one.
    """

    def __init__(self, moment: int) -> None:
        self._left = moment

    def arm(self) -> None:
        """Replace the calls."""
        for name in STEPS:
            setattr(os, name, self._deadly(getattr(os, name), name))
        builtins.open = self._deadly(builtins.open, "open")

    def _deadly(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def deadly(*arguments: Any, **options: Any) -> Any:
            self._pass()
            if name == "write":
                if self._left == 0:
                    call(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                self._pass()
            answer = call(*arguments, **options)
            if name == "open":
                self._pass()
            return answer

        return deadly

    def _pass(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


def by_value() -> Any:
    """Return an object on which plain pickle gives up after it has written a side file."""
    return [Note("written twice"), lambda: "by value"]


Act = Callable[[FileStorage, str], object]


@dataclass(frozen=True)
class Scenario:
    """What is there before, and what is done to it.

    Attributes
    ----------
    before : dict
        The tasks of the workflow; None if there is no such workflow.
    act : callable
        Is given the storage and the workflow's name.
    between : tuple
        States of a task between before and after.
    """

    before: dict[str, Any]
    act: Act
    between: tuple[Any, ...] = ()

    def prepare(self, storage: FileStorage, workflow: str) -> None:
        """Bring the workflow into the state before."""
        for task in storage.stored(workflow) - set(self.before):
            storage.remove_task(workflow, task)
        for task, obj in self.before.items():
            storage.save(workflow, task, obj)

    def allowed(self, storage: FileStorage) -> dict[str, list[Any]]:
        """Return the states of each task that there may be, seen where nothing goes wrong."""
        self.prepare(storage, "unharmed")
        before = state(storage, "unharmed")
        self.act(storage, "unharmed")
        after = state(storage, "unharmed")
        return {task: [before.get(task), after.get(task), *self.between] for task in {*before, *after}}


NOTES = [Note("old"), Note("old too")]
SCENARIOS = {
    "save": Scenario({}, lambda storage, w: storage.save(w, "t", "new")),
    "save with a side file": Scenario({}, lambda storage, w: storage.save(w, "t", [Note("new"), 1])),
    "overwrite": Scenario({"t": "old"}, lambda storage, w: storage.save(w, "t", "new")),
    "overwrite with buffers": Scenario({"t": "old"}, lambda storage, w: storage.save(w, "t", Buffer(bytes(2_000_000)))),
    "overwrite side files": Scenario({"t": NOTES}, lambda storage, w: storage.save(w, "t", [Note("new")])),
    "overwrite by value": Scenario({"t": NOTES}, lambda storage, w: storage.save(w, "t", by_value())),
    "overwrite twice": Scenario({"t": "old"}, lambda storage, w: [storage.save(w, "t", each) for each in "ab"], ("a",)),
    "remove": Scenario({"t": "old"}, lambda storage, w: storage.remove_task(w, "t")),
    "remove side files": Scenario({"t": NOTES}, lambda storage, w: storage.remove_task(w, "t")),
    "remove a workflow": Scenario({"t": "old", "a/b": Note("u")}, lambda storage, w: storage.remove_workflow(w)),
}


def state(storage: FileStorage, workflow: str) -> dict[str, Any]:
    """Return the results of a workflow, so that they can be compared."""
    found = {task: storage.read_task(workflow, task) for task in storage.stored(workflow)}
    return {
        task: [item() if callable(item) else item for item in obj] if type(obj) is list else obj
        for task, obj in found.items()
    }


def check_state(storage: FileStorage, workflow: str, allowed: dict[str, list[Any]]) -> None:
    """Check that each task of the workflow is in an allowed state."""
    found = state(storage, workflow)
    assert set(found) <= set(allowed)
    for task, states in allowed.items():
        assert found.get(task) in states, (workflow, task, found.get(task))


def kill_at_every_step(root: Path, scenario: Scenario) -> dict[str, Any]:
    """Do the scenario in a workflow for each moment, in a child that is killed at that moment, until one survives."""
    storage = opened(root)
    allowed = scenario.allowed(storage)
    for moment in itertools.count():
        workflow = f"killed at {moment}"
        scenario.prepare(storage, workflow)

        def die(_: Report, moment: int = moment, workflow: str = workflow) -> None:
            own = opened(root)
            own.file_exists(workflow, "t")
            Death(moment).arm()
            scenario.act(own, workflow)

        child = Child(die)
        assert child.lines() == []
        check_state(storage, workflow, allowed)
        if child.status == 0:
            break
        assert child.status == signal.SIGKILL
    check_folder(root)
    return {"tries": moment}


# Ctrl-C

TRIES, STRIKES = 60, 15  # at least so many: a scenario may be over before the signal comes


def interrupt_at_random(root: Path, scenario: Scenario) -> dict[str, Any]:
    """Do the scenario many times in this process, interrupted after a random time by a signal."""
    storage = opened(root)
    allowed = scenario.allowed(storage)
    longest = 0.0
    for _ in range(5):
        scenario.prepare(storage, "warm up")
        began = time.perf_counter()
        scenario.act(storage, "warm up")
        longest += (time.perf_counter() - began) / 5
    signal.signal(signal.SIGALRM, _interrupt)
    chance = random.Random(0)
    struck = 0
    tries = 0
    while tries < TRIES or (struck < STRIKES and tries < 10 * TRIES):
        workflow = f"interrupted {tries % 10}"
        tries += 1
        scenario.prepare(storage, workflow)
        try:
            signal.setitimer(signal.ITIMER_REAL, 2e-6 + chance.random() * longest)
            scenario.act(storage, workflow)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except (KeyboardInterrupt, RuntimeError) as error:
            if not _is_interrupt(error):
                raise
            struck += 1
        check_state(storage, workflow, allowed)
        check_folder(root)
    # An interrupt may strike between the call that makes a temporary and the line that would know of it.
    assert len(left_over(root)) <= tries // 20
    return {"tries": struck}


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _is_interrupt(error: BaseException) -> bool:
    """Return whether the error is a Ctrl-C, or what Python's own `threading` makes of one.

    If a `Condition` is interrupted while it waits and has let go of its lock, leaving its `with` block raises that
    the lock is not held, and the interrupt is only the context of that error.
    """
    return isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt)


def main(what: str, folder: str, *numbers: str) -> None:
    """Do what the command line says."""
    if what == "rounds":
        kill_in_rounds(Path(folder), *map(int, numbers))
        return
    kill = {"steps": kill_at_every_step, "interrupts": interrupt_at_random}[what]
    found = {name: kill(Path(folder) / name, scenario) for name, scenario in SCENARIOS.items()}
    (Path(folder) / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
