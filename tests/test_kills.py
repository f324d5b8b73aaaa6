"""Death at any moment: SIGKILL at random and at every step, Ctrl-C at every line. Nothing saved is lost or torn."""

from __future__ import annotations

import builtins
import itertools
import os
import pickle
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from oracle import files, left_over, listed, lying, records, side_folders
from processes import Child

import catalog
import functionfuse
from catalog.names import encode
from functionfuse.errors import TaskNotFound
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import Note, NoteSerializer

# Forking beside DuckDB's threads is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

WRITERS = 4
TASKS = 5  # of each writer's own
ABSENT = -1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder of the storage."""
    return tmp_path / "storage"


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
        lambda: [number, np.full(10_000, number), "between", np.full(9_000, number)],
        lambda: [number, Note(str(number)), np.full(9_000, number)],
    ]
    return kinds[number % 5]()


def number_of(found: Any) -> int:
    """Return the number of a result, checking all of it."""
    number: int = found if isinstance(found, int) else found[0]
    expected = result(number)
    assert type(found) is type(expected)
    if isinstance(expected, list):
        assert len(found) == len(expected)
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    return number


def keep_writing(root: Path, writer: int, seed: int, before: dict[str, int]) -> Callable[[Callable[[str], None]], None]:
    """Return what a writer does until it is killed: each step is reported before and after."""

    def work(report: Callable[[str], None]) -> None:
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


def keep_asking(root: Path) -> Callable[[Callable[[str], None]], None]:
    """Return what somebody does who asks questions until killed: the index is being written all the time."""

    def work(_: Callable[[str], None]) -> None:
        storage = opened(root)
        while True:
            storage.list_tasks("own")

    return work


class Ledger:
    """What is known of the tasks: the last state that was reported as done, and what may have come true since."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        self.maybe: dict[str, int] = {}

    def take(self, lines: list[str]) -> None:
        """Take in what a writer reported before it died."""
        for line in lines:
            assert not line.startswith("failed"), line.replace("\\n", "\n")
            what, number, name = line.split(" ", 2)
            if what == "done":
                self.done[name] = int(number)
                self.maybe.pop(name, None)
            else:
                self.maybe[name] = int(number)

    def settle(self, storage: FileStorage) -> None:
        """Check that each task is as it was reported, or as the step in which the writer died would have left it."""
        for name in {*self.done, *self.maybe}:
            try:
                found = number_of(storage.read_task("own", name))
            except TaskNotFound:
                found = ABSENT
            allowed = {self.done.get(name, ABSENT), self.maybe.get(name, self.done.get(name, ABSENT))}
            assert found in allowed, (name, found, allowed)
            self.done[name] = found
        self.maybe = {}


def rounds_of_death(root: Path, seed: int, rounds: int) -> tuple[int, int]:
    """Kill four writers in each round; return how many steps they reported, and how many died within one."""
    chance = random.Random(seed)
    storage = opened(root)
    ledger = Ledger()
    reported = within = 0
    for number in range(rounds):
        begin = seed * 10_000 + number * 10
        children = [Child(keep_writing(root, each, begin + each, ledger.done)) for each in range(WRITERS)]
        if number % 4 == 3:
            children.append(Child(keep_asking(root)))
        for child in chance.sample(children, len(children)):
            time.sleep(chance.random() * 0.012)
            child.kill()
        for child in children:
            lines = child.lines()
            ledger.take(lines)
            assert child.status == signal.SIGKILL
            reported += len(lines) // 2
        within += len(ledger.maybe)
        ledger.settle(storage)
        for name in ("0", "1"):
            if storage.file_exists("shared", name):
                number_of(storage.read_task("shared", name))
        check(root, storage, ledger, with_catalog=number % 3 == 2 or number == rounds - 1)
    return reported, within


def check(root: Path, storage: FileStorage, ledger: Ledger, with_catalog: bool) -> None:
    """Check that the folder has just the tasks that there have to be, none torn, and that the catalog agrees."""
    rows = lying(root)  # fails where a blob is torn
    there, declared = side_folders(root)
    assert declared <= there
    present = sorted(name for name, number in ledger.done.items() if number != ABSENT)
    assert [task for workflow, task, *_ in rows if workflow == "own"] == present
    assert not list(root.glob("[!.]*/.*"))
    if with_catalog:
        assert storage.list_tasks("own") == present
        assert listed(storage) == rows


@pytest.mark.parametrize("seed", range(6))
def test_writers_killed_at_random(root: Path, seed: int) -> None:
    """In fifty rounds four writers are killed at random moments: no reported save is lost, and the catalog is right."""
    opened(root).list_tasks("own")
    reported, within = rounds_of_death(root, seed, rounds=50)
    assert reported > 500, "they were killed before they did anything"
    assert within > 10, "they were never killed within a step"
    rows = lying(root)
    shutil.rmtree(root / ".catalog")
    assert listed(opened(root)) == rows


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 110))
def test_writers_killed_at_random_for_long(root: Path, seed: int) -> None:
    """The same for two hundred rounds on one storage."""
    rounds_of_death(root, seed, rounds=200)


# At every step

STEPS = ("open", "write", "close", "replace", "rename", "link", "unlink", "mkdir", "rmdir", "fsync")


class Death:
    """Kills this process before, within or after the n-th call that changes a file.

    Parameters
    ----------
    moment : int
        Counted from 0; each call has two moments, each write a third one within it.
    """

    def __init__(self, moment: int) -> None:
        self.moment = moment
        self.passed = 0

    def arm(self) -> None:
        """Replace the calls."""
        for name in STEPS:
            setattr(os, name, self._deadly(getattr(os, name), within=name == "write"))
        builtins.open = self._deadly(builtins.open, within=False)

    def _deadly(self, call: Callable[..., Any], within: bool) -> Callable[..., Any]:
        def deadly(*arguments: Any, **options: Any) -> Any:
            self._pass()
            if within and self.passed == self.moment:
                call(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            if within:
                self._pass()
            answer = call(*arguments, **options)
            self._pass()
            return answer

        return deadly

    def _pass(self) -> None:
        if self.passed == self.moment:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed += 1


class Local:
    """Stands for a class that cloudpickle stores by value: see `Scenario`."""


def by_value() -> Any:
    """Return an object that plain pickle gives up on after it has written a note."""
    return [Note("written twice"), lambda: "by value"]


def prepare_note(storage: FileStorage) -> None:
    """Save a result with side files."""
    storage.save("w", "t", [Note("old"), Note("old too")])


def prepare_plain(storage: FileStorage) -> None:
    """Save a small result."""
    storage.save("w", "t", "old")


def prepare_several(storage: FileStorage) -> None:
    """Save several results."""
    for task, obj in (("t", "old"), ("u", Note("u")), ("a/b", 1)):
        storage.save("w", task, obj)


def prepare_nothing(storage: FileStorage) -> None:
    """See to it that there is no workflow."""
    if storage.stored("w"):
        storage.remove_workflow("w")


SCENARIOS: list[Any] = [
    pytest.param(prepare_nothing, lambda storage: storage.save("w", "t", "new"), id="save"),
    pytest.param(prepare_nothing, lambda storage: storage.save("w", "t", [Note("new"), 1]), id="save with a side file"),
    pytest.param(prepare_plain, lambda storage: storage.save("w", "t", "new"), id="overwrite"),
    pytest.param(
        prepare_plain, lambda storage: storage.save("w", "t", np.arange(200_000)), id="overwrite with buffers"
    ),
    pytest.param(prepare_note, lambda storage: storage.save("w", "t", [Note("new")]), id="overwrite side files"),
    pytest.param(prepare_note, lambda storage: storage.save("w", "t", by_value()), id="overwrite by value"),
    pytest.param(prepare_plain, lambda storage: storage.remove_task("w", "t"), id="remove"),
    pytest.param(prepare_note, lambda storage: storage.remove_task("w", "t"), id="remove side files"),
    pytest.param(prepare_several, lambda storage: storage.remove_workflow("w"), id="remove a workflow"),
    pytest.param(prepare_plain, lambda storage: [storage.save("w", "t", each) for each in "ab"], id="overwrite twice"),
]

Prepare = Callable[[FileStorage], None]


def state(storage: FileStorage) -> dict[str, bytes]:
    """Return the results of the workflow, as pickles that can be compared."""
    found = {}
    for task in storage.stored("w"):
        obj = storage.read_task("w", task)
        plain = [each() if callable(each) else each for each in obj] if isinstance(obj, list) else obj
        found[task] = pickle.dumps(plain)
    return found


def states_along(root: Path, prepare: Prepare, act: Prepare) -> list[dict[str, bytes]]:
    """Return every state that the workflow goes through, seen at every change of its folder."""
    storage = opened(root)
    prepare(storage)
    seen = [state(storage)]
    for name in ("replace", "unlink"):
        call = getattr(os, name)

        def watched(*arguments: Any, call: Any = call, **options: Any) -> Any:
            answer = call(*arguments, **options)
            if (now := files(root / "w") if (root / "w").exists() else {}) is not None:
                del now
            return answer

        del watched
    act(storage)
    seen.append(state(storage))
    return seen


@pytest.mark.parametrize(("prepare", "act"), SCENARIOS)
def test_death_at_every_step(root: Path, prepare: Prepare, act: Prepare) -> None:
    """Killed before, within or after any call that changes a file, a writer leaves the old results or the new ones."""
    storage = opened(root)
    old, new = states_along(root, prepare, act)
    survived = False
    deaths = 0
    while not survived:
        prepare(storage)

        def die(_: Callable[[str], None], moment: int = deaths) -> None:
            own = opened(root)
            Death(moment).arm()
            act(own)

        child = Child(die)
        assert child.lines() == []
        survived = child.status == 0
        assert survived or child.status == signal.SIGKILL
        deaths += not survived
        check_either(root, storage, old, new)
    assert deaths >= 8, "hardly anything was tried"
    assert state(storage) == new


def check_either(root: Path, storage: FileStorage, old: dict[str, bytes], new: dict[str, bytes]) -> None:
    """Check that each task is as in one of two states, whole, and that the catalog says so."""
    found = state(storage)
    for task in {*old, *new, *found}:
        assert found.get(task) in (old.get(task), new.get(task), pickle.dumps("a")), task
    assert listed(storage) == lying(root)
    there, declared = side_folders(root)
    assert declared <= there
    assert storage.list_tasks("w") == sorted(found)


def test_death_while_a_storage_is_made(tmp_path: Path) -> None:
    """Killed at any step of the first save of all, a writer leaves a place where the next save just works."""
    for moment in itertools.count():
        root = tmp_path / f"storage {moment}"

        def die(_: Callable[[str], None], moment: int = moment, root: Path = root) -> None:
            Death(moment).arm()
            FileStorage(root).save("w", "t", "first")

        child = Child(die)
        assert child.lines() == []
        storage = FileStorage(root)
        assert storage.stored("w") <= {"t"}
        storage.save("w", "u", "second")
        assert storage.read_task("w", "u") == "second"
        assert len(lying(root)) == 1 + storage.file_exists("w", "t")
        if moment % 5 == 0:
            assert listed(storage) == lying(root)
        if child.status == 0:
            break
    assert moment > 20


def test_death_of_an_index(root: Path) -> None:
    """Killed at any step of a question, also the first, somebody who asks leaves a catalog that answers right."""
    storage = opened(root)
    for number in range(3):
        storage.save("w", f"t{number}", number)
    expected = lying(root)
    for moment in itertools.count():
        if moment % 2:
            (root / ".catalog" / "catalog.duckdb").unlink(missing_ok=True)

        def die(_: Callable[[str], None], moment: int = moment // 2) -> None:
            own = opened(root)
            Death(moment).arm()
            own.list_tasks("w")

        child = Child(die)
        assert child.lines() == []
        assert listed(storage) == expected
        if child.status == 0:
            break
    assert moment >= 2


def test_a_killed_writer_leaves_only_a_temporary(root: Path) -> None:
    """What a killed writer leaves is out of sight of every list, and goes away with its workflow or its storage."""
    storage = opened(root)
    storage.save("w", "t", "old")

    def die(_: Callable[[str], None]) -> None:
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        opened(root).save("w", "u", "never seen")

    assert Child(die).lines() == []
    assert storage.list_tasks("w") == ["t"]
    assert storage.stored("w") == {"t"}
    assert not storage.file_exists("w", "u")
    assert len(left_over(root)) == 1
    assert [path for path in records(root)] == [root / "w" / encode("t")]
    storage.remove_workflow("w")
    assert [path.name for path in root.iterdir()] == [".catalog"]


# Ctrl-C at every line


LIBRARY = tuple(os.path.dirname(str(package.__file__)) for package in (functionfuse, catalog))


class Interrupt:
    """Raises KeyboardInterrupt at the n-th line of the library that is about to be executed.

    Parameters
    ----------
    line : int
        Counted from 0.
    """

    def __init__(self, line: int) -> None:
        self.left = line

    def __enter__(self) -> Interrupt:
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(LIBRARY) else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            if self.left == 0:
                sys.settrace(None)
                self.left -= 1
                raise KeyboardInterrupt
            self.left -= 1
        return self._line


def interrupted(act: Callable[[], object]) -> Iterator[int]:
    """Do something again and again, interrupted one line later each time, until it ends by itself."""
    for line in itertools.count():
        with Interrupt(line) as interrupt:
            try:
                act()
            except KeyboardInterrupt:
                pass
        yield line
        if interrupt.left >= 0:
            return


@pytest.mark.parametrize(("prepare", "act"), SCENARIOS)
def test_an_interrupt_at_every_line(root: Path, prepare: Prepare, act: Prepare) -> None:
    """Ctrl-C at any line of a save or removal leaves the old results or the new ones, and the process works on."""
    storage = opened(root)
    old, new = states_along(root, prepare, act)
    prepare(storage)
    lines = 0
    for lines in interrupted(lambda: act(storage)):
        found = state(storage)
        for task in {*old, *new, *found}:
            assert found.get(task) in (old.get(task), new.get(task), pickle.dumps("a")), task
        assert left_over(root) == []
        if lines % 10 == 0:
            assert listed(storage) == lying(root)
            assert storage.list_tasks("w") == sorted(found)
        prepare(storage)
    assert lines > 50
    assert listed(storage) == lying(root)
    (root / ".catalog" / "catalog.duckdb").unlink()
    assert listed(storage) == lying(root)
