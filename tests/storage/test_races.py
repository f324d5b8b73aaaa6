"""Many processes and threads in one storage at once: nothing torn, nothing lost, and the catalog right."""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalog.journal.base import Publication
from functionfuse.errors import TaskNotFound
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import Note, NoteSerializer
from oracle import left_over, listed, lying, side_folders
from processes import Child, at_once

# Forking beside DuckDB's threads is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

WORKERS = 4


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder of the storage."""
    return tmp_path / "storage"


def opened(root: Path) -> FileStorage:
    """Open the storage, with a serializer."""
    storage = FileStorage(root)
    storage.register_persistent_serializers(NoteSerializer)
    return storage


def result(worker: int, number: int) -> Any:
    """Make a result that tells of itself, in one of several kinds."""
    text = f"{worker} {number}"
    return [
        text,
        {"text": text, "padding": "x" * (number * 37 % 5_000)},
        [Note(text), text],
        (np.full(9_000, worker * 1_000_000 + number), text),
    ][number % 4]


def is_whole(found: Any) -> bool:
    """Tell whether a result is just as somebody saved it."""
    text = found if isinstance(found, str) else found["text"] if isinstance(found, dict) else found[1]
    worker, number = map(int, text.split())
    return same(found, result(worker, number))


def same(found: Any, expected: Any) -> bool:
    """Compare results, with arrays in them."""
    if isinstance(expected, tuple):
        return found[1] == expected[1] and np.array_equal(found[0], expected[0])
    return bool(found == expected)


class Worker:
    """Does at random what a storage can do, in tasks of its own and in tasks that all share.

    Parameters
    ----------
    storage : FileStorage
        Where.
    number : int
        Which worker it is; also the seed.
    """

    def __init__(self, storage: FileStorage, number: int) -> None:
        self.storage = storage
        self.number = number
        self.random = random.Random(number)
        self.own: dict[str, Any] = {}
        self.saved = 0

    def work(self, steps: int) -> dict[str, Any]:
        """Do that many steps, and return what there has to be of its own tasks."""
        for _ in range(steps):
            step = self.random.choice(
                [self.save, self.save, self.read, self.remove, self.share, self.share, self.sweep]
            )
            step()
        self.check()
        return self.own

    def save(self) -> None:
        """Save or overwrite a task of its own."""
        self.saved += 1
        name = f"{self.number} {self.random.randrange(20)}"
        self.own[name] = result(self.number, self.saved)
        self.storage.save("own", name, self.own[name])

    def read(self) -> None:
        """Read a task of its own, which nobody else changes."""
        if self.own:
            name = self.random.choice(sorted(self.own))
            assert same(self.storage.read_task("own", name), self.own[name])

    def remove(self) -> None:
        """Remove a task of its own, or several by pattern."""
        if self.own and self.random.random() < 0.7:
            name = self.random.choice(sorted(self.own))
            self.storage.remove_task("own", name)
            del self.own[name]
            assert not self.storage.file_exists("own", name)
        elif self.random.random() < 0.3:
            self.storage.remove_task("own", pattern=f"{self.number} 1?")
            self.own = {name: obj for name, obj in self.own.items() if len(name) == 3}

    def share(self) -> None:
        """Save, read or remove one of few tasks that others save, read and remove at the same time."""
        name = f"shared {self.random.randrange(3)}"
        action = self.random.randrange(4)
        self.saved += 1
        try:
            if action <= 1:
                self.storage.save("shared", name, result(self.number, self.saved))
            elif action == 2:
                assert is_whole(self.storage.read_task("shared", name))
            else:
                self.storage.remove_task("shared", name)
        except TaskNotFound:
            assert action >= 2

    def sweep(self) -> None:
        """Save to a workflow that others remove as a whole, or remove it; list it now and then."""
        action = self.random.randrange(8)
        try:
            if action < 4:
                self.storage.save("swept", f"{action}", result(self.number, action))
            elif action < 6:
                self.storage.remove_workflow("swept")
            elif action < 7:
                self.storage.remove_task("swept", pattern="*")
            else:
                assert set(self.storage.list_tasks("swept")) <= set("0123")
        except TaskNotFound:
            assert action in (4, 5)

    def check(self) -> None:
        """Check all of its own tasks."""
        for name, obj in self.own.items():
            assert same(self.storage.read_task("own", name), obj), name
        listed = self.storage.list_tasks("own", f"{self.number} *")
        assert listed == sorted(self.own)


def check_whole(root: Path, own: set[str]) -> None:
    """Check that the folder has just these tasks of the workers' own, all whole, and that the catalog agrees."""
    storage = opened(root)
    rows = lying(root)
    assert {task for workflow, task, *_ in rows if workflow == "own"} == own
    for workflow, task, *_ in rows:
        assert is_whole(storage.read_task(workflow, task)), (workflow, task)
    assert listed(storage) == rows
    (root / ".catalog" / "catalog.duckdb").unlink()
    assert listed(storage) == rows
    assert left_over(root) == []
    there, declared = side_folders(root)
    assert declared <= there


@pytest.mark.slow
def test_processes_at_once(root: Path, tmp_path: Path) -> None:
    """Four processes that save, overwrite, read, list and remove in one storage lose nothing and tear nothing."""

    def work(number: int) -> Callable[[], None]:
        def run() -> None:
            own = Worker(opened(root), number).work(250)
            (tmp_path / f"own {number}").write_text(json.dumps(sorted(own)))

        return run

    at_once(*(work(number) for number in range(WORKERS)))
    own = {name for number in range(WORKERS) for name in json.loads((tmp_path / f"own {number}").read_text())}
    check_whole(root, own)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["one storage object", "one each"])
def test_threads_at_once(root: Path, shared: bool) -> None:
    """Threads do the same, with one storage object for all or with one each."""
    common = opened(root)
    workers = [Worker(common if shared else opened(root), number) for number in range(WORKERS)]
    with ThreadPoolExecutor(WORKERS) as pool:
        owns = list(pool.map(lambda worker: worker.work(100), workers))
    check_whole(root, {name for own in owns for name in own})


@pytest.mark.slow
def test_threads_in_processes_at_once(root: Path) -> None:
    """Forked children that each save from several threads get along too."""
    storage = opened(root)
    storage.save("own", "before", "0 0")

    def work(child: int) -> None:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda thread: Worker(storage, child * 3 + thread).work(25), range(3)))

    at_once(lambda: work(0), lambda: work(1))
    check_whole(root, {task for workflow, task, *_ in lying(root) if workflow == "own"})


def test_a_task_that_vanishes_just_before_it_is_replaced(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save over a task that another process removes in the same moment succeeds; a removal finds nothing there."""
    storage = opened(root)
    for act in (storage.remove_task, lambda *names: storage.save(*names, "new")):
        storage.save("w", "t", "old")
        with monkeypatch.context() as patched:
            patched.setattr(storage._store, "open", vanish(root / "w" / "t", storage._store.open))
            try:
                act("w", "t")
            except TaskNotFound:
                assert act == storage.remove_task
    assert storage.read_task("w", "t") == "new"
    assert listed(storage) == lying(root)


@pytest.mark.parametrize("act", ["overwrite", "remove"])
def test_a_question_between_a_line_and_what_it_tells(root: Path, monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    """Asked before a blob is in its place, or gone, the catalog has the one before; and asked later, what came true."""
    storage, asking = opened(root), opened(root)
    storage.save("w", "t", "old")
    append = storage._journal.append
    between: list[Any] = []

    def asked(publication: Publication) -> None:
        def late() -> bool:
            between.append(listed(asking) == lying(root))
            assert publication.publish is not None
            return publication.publish()

        append(replace(publication, publish=late))

    with monkeypatch.context() as patched:
        patched.setattr(storage._journal, "append", asked)
        storage.save("w", "t", "new") if act == "overwrite" else storage.remove_task("w", "t")
    storage.save("w", "other", "its line is behind the first one's")
    assert between == [True]
    assert listed(asking) == lying(root)


def vanish(path: Path, opened: Callable[..., Any]) -> Callable[..., Any]:
    """Return what opens a file that is gone when it has done so."""

    def open_and_lose(*at: str) -> Any:
        source = opened(*at)
        path.unlink(missing_ok=True)
        return source

    return open_and_lose


def test_folders_that_vanish_while_they_are_made(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save makes its folders again as often as others remove them while they are empty."""
    storage = opened(root)
    mkdir = os.mkdir
    tries: list[str] = []

    def interfering(path: str, *arguments: Any) -> None:
        mkdir(path, *arguments)
        tries.append(path)
        if len(tries) % 3 and re.fullmatch(rf"{root}/w\d(/bigdata)?", path):
            os.rmdir(path)  # another process removes the workflow

    monkeypatch.setattr(os, "mkdir", interfering)
    for number in range(5):
        storage.save(f"w{number}", "t", [Note("x"), "0 2"])
    assert len(tries) > 15
    assert all(storage.read_task(f"w{number}", "t") == [Note("x"), "0 2"] for number in range(5))


@pytest.mark.slow
def test_a_new_storage_has_one_identity(tmp_path: Path) -> None:
    """Processes that all save first into a storage that is not there yet lose nothing, and agree on what it is."""
    for number in range(10):
        root = tmp_path / f"storage {number}"

        def save(worker: int, root: Path = root) -> Callable[[], None]:
            return lambda: FileStorage(root).save("w", f"t{worker}", f"{worker} 0")

        at_once(*(save(worker) for worker in range(WORKERS)))
        identity = json.loads((root / ".catalog" / "storage.json").read_text())
        assert identity["format"] == 2
        assert [path.name for path in (root / ".catalog").iterdir() if path.is_file()] == ["storage.json"]
        assert len(list((root / ".catalog" / "journal").iterdir())) == WORKERS
        assert [task for _, task, *_ in lying(root)] == [f"t{worker}" for worker in range(WORKERS)]
        if number % 5 == 0:
            assert listed(FileStorage(root)) == lying(root)


@pytest.mark.slow
def test_readers_of_what_is_overwritten(root: Path) -> None:
    """While one process overwrites a task that has a side file, others always read a whole result, never an error."""
    opened(root).save("w", "hot", [Note("9 2"), "9 2"])

    def write() -> None:
        storage = opened(root)
        for number in range(400):
            storage.save("w", "hot", result(1, 2 + 4 * (number % 50)) if number % 3 else result(1, 3))

    def read() -> None:
        storage = opened(root)
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            assert is_whole(storage.read_task("w", "hot"))

    at_once(write, read, read)
    there, declared = side_folders(root)
    assert there == declared
    assert listed(opened(root)) == lying(root)


@pytest.mark.slow
def test_two_processes_overwrite_one_task(root: Path) -> None:
    """Whoever is the last to overwrite a task, the catalog has the blob that lies there, with its own id and size."""

    def write(worker: int) -> Callable[[], None]:
        def run() -> None:
            storage = FileStorage(root)
            for number in range(200):
                storage.save("w", f"t{number % 5}", f"{worker} {number}")

        return run

    for _ in range(3):
        at_once(write(1), write(2), lambda: [FileStorage(root).list_tasks("w") for _ in range(30)] and None)
        assert listed(FileStorage(root)) == lying(root)
        assert len(lying(root)) == 5


@pytest.mark.slow
def test_a_question_sees_every_save_that_finished(root: Path) -> None:
    """As soon as another process reports a save or a removal as done, the next question here knows of it."""
    storage = FileStorage(root)
    storage.save("w", "first", 0)
    go_on, written = os.pipe()

    def work(report: Callable[[str], None]) -> None:
        writer = FileStorage(root)
        for number in range(20):
            writer.save("w", f"t{number}", number)
            if number % 4 == 3:
                writer.remove_task("w", f"t{number - 1}")
            report(str(number))
            os.read(go_on, 1)

    child = Child(work)
    expected = {"first"}
    for number in range(20):
        assert os.read(child._pipe, 100).decode().strip() == str(number)
        expected.add(f"t{number}")
        expected -= {f"t{number - 1}"} if number % 4 == 3 else set()
        assert storage.list_tasks("w") == sorted(expected)
        os.write(written, b"x")
    assert child.lines() == []
    for end in (go_on, written):
        os.close(end)


@pytest.mark.slow
def test_questions_at_once(root: Path) -> None:
    """Processes and threads that ask questions while others save all get true answers, and none is turned away."""
    FileStorage(root).save("w", "t0", 0)

    def ask() -> None:
        storage = FileStorage(root)
        before: set[str] = set()

        def question(_: int) -> None:
            found = set(storage.list_tasks("w"))
            assert found >= before
            before.update(found)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(question, range(20)))

    def save() -> None:
        storage = FileStorage(root)
        for number in range(300):
            storage.save("w", f"t{number}", number)

    at_once(save, ask, ask, ask)
    assert listed(FileStorage(root)) == lying(root)
    assert len(lying(root)) == 300


@pytest.mark.slow
def test_an_index_is_deleted_while_others_ask(root: Path) -> None:
    """Deleting the index at any moment never makes an answer wrong."""
    storage = FileStorage(root)
    for number in range(50):
        storage.save("w", f"t{number:02}", number)
    stop = threading.Event()

    def delete() -> None:
        while not stop.wait(0.01):
            (root / ".catalog" / "catalog.duckdb").unlink(missing_ok=True)

    deleter = threading.Thread(target=delete)
    deleter.start()
    try:
        for _ in range(15):
            assert storage.list_tasks("w") == [f"t{number:02}" for number in range(50)]
    finally:
        stop.set()
        deleter.join()
