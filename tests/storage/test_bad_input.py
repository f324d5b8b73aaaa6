"""Bad input and bad places for a storage: each is refused with a message that names the value and the remedy."""

from __future__ import annotations

import errno
import gc
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import (
    InvalidConfiguration,
    InvalidName,
    StorageUnusable,
    TaskNotFound,
    UnpicklableResult,
    UnsupportedFormat,
)
from functionfuse.storage import storage_factory
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import Note, NoteSerializer
from oracle import files, left_over, listed, lying

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder of the storage."""
    return tmp_path / "storage"


@pytest.fixture
def storage(root: Path) -> FileStorage:
    """Return a storage with nothing in it."""
    return FileStorage(root)


# Configuration


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param({"kind": "flie"}, r"unknown storage kind 'flie'; known: .*'file'", id="unknown kind"),
        pytest.param({"kind": None}, r"unknown storage kind None; known: .*'file'", id="no kind"),
        pytest.param({"kind": ["file"]}, r"unknown storage kind \['file'\]", id="kind that cannot be hashed"),
        pytest.param(
            {"kind": "file", "options": {"path": "x", "paht": "y"}},
            r"unknown option 'paht' of storage kind 'file'; known: 'path'",
            id="unknown option",
        ),
        pytest.param({"kind": "file", "options": {}}, r"kind 'file' needs the option 'path'", id="missing option"),
        pytest.param({"kind": "file"}, r"kind 'file' needs the option 'path'", id="no options"),
        pytest.param(
            {"kind": "file", "options": "x"}, r"dictionary \('path', .*\), not 'x'", id="options that are none"
        ),
        pytest.param({"options": {"path": "x"}}, r"described by .*'kind'.* not by .*'path': 'x'", id="no kind at all"),
        pytest.param({"kind": "file", "path": "x"}, r"described by .*'options'", id="path outside of the options"),
        pytest.param("file", r"described by .*not by 'file'", id="no mapping"),
        pytest.param({"kind": "file", "options": {"path": ""}}, r"name of a folder, not ''", id="empty path"),
        pytest.param({"kind": "file", "options": {"path": None}}, r"name of a folder, not None", id="no path"),
        pytest.param({"kind": "file", "options": {"path": 3}}, r"name of a folder, not 3", id="path that is none"),
    ],
)
def test_a_configuration_that_is_wrong(config: Any, message: str) -> None:
    """What is unknown or missing in a configuration is named, with what is known."""
    with pytest.raises(InvalidConfiguration, match=message) as caught:
        storage_factory(config)
    assert isinstance(caught.value, ValueError)


def test_the_path_is_a_file(root: Path) -> None:
    """A storage over a file is refused when it is opened, with the path."""
    root.touch()
    with pytest.raises(StorageUnusable, match=rf"{re.escape(str(root))} is a file.*choose another path"):
        FileStorage(root)


def test_the_path_lies_below_a_file(root: Path) -> None:
    """A storage below a file is refused when something is saved, with the place and what to do."""
    root.touch()
    storage = FileStorage(root / "below")
    message = r"is a file where a folder is needed|a file lies where a folder is needed"
    with pytest.raises(StorageUnusable, match=message) as caught:
        storage.new_workflow("w")
    assert caught.value.errno == errno.ENOTDIR
    with pytest.raises(StorageUnusable, match=rf"task 't' of workflow 'w'.*{re.escape(str(root))}.*({message})"):
        storage.save("w", "t", 1)
    with pytest.raises(TaskNotFound):
        storage.read_task("w", "t")


def test_a_file_in_place_of_a_workflow(storage: FileStorage, root: Path) -> None:
    """A file where a workflow's folder belongs is named, and stays."""
    root.mkdir()
    (root / "w").write_text("mine")
    with pytest.raises(StorageUnusable, match=r"task 't' of workflow 'w'.*a file.* where a folder is needed"):
        storage.save("w", "t", 1)
    with pytest.raises(StorageUnusable, match=r"storage/w is a file where a folder is needed"):
        storage.new_workflow("w")
    with pytest.raises(TaskNotFound):
        storage.read_task("w", "t")
    assert storage.stored("w") == set()
    assert (root / "w").read_text() == "mine"


def test_a_folder_in_place_of_a_task(storage: FileStorage, root: Path) -> None:
    """A folder where a result's file belongs is named, stays, and is no result."""
    (root / "w" / "t").mkdir(parents=True)
    (root / "w" / "t" / "mine").touch()
    with pytest.raises(StorageUnusable, match=r"task 't' of workflow 'w'.*a folder lies where"):
        storage.save("w", "t", 1)
    for ask in (storage.read_task, storage.remove_task):
        with pytest.raises((TaskNotFound, StorageUnusable), match=r"task 't' of workflow 'w'"):
            ask("w", "t")
    assert files(root) == {"w/t/mine": b""}
    assert storage.list_tasks("w") == []


def test_a_storage_that_a_newer_version_laid_out(storage: FileStorage, root: Path) -> None:
    """A storage of a newer layout is refused with its version and the remedy, and nothing is written to it."""
    (root / ".catalog").mkdir(parents=True)
    (root / ".catalog" / "storage.json").write_text('{"uuid": "018e0000-0000-7000-8000-000000000001", "format": 3}')
    for ask in (lambda: storage.save("w", "t", 1), lambda: storage.new_workflow("w")):
        with pytest.raises(UnsupportedFormat, match=r"storage format 3.*up to 2.*install a newer functionfuse"):
            ask()
    assert files(root) == {}


# Names


@pytest.mark.parametrize("name", ["", None, 3, b"w", ["w"], Path("w")], ids=repr)
@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda storage, name: storage.save(name, "t", 1), id="save to a workflow"),
        pytest.param(lambda storage, name: storage.save("w", name, 1), id="save as a task"),
        pytest.param(lambda storage, name: storage.new_workflow(name), id="new_workflow"),
        pytest.param(lambda storage, name: storage.read_task(name, "t"), id="read a workflow's"),
        pytest.param(lambda storage, name: storage.read_task("w", name), id="read a task"),
        pytest.param(lambda storage, name: storage.file_exists("w", name), id="file_exists"),
        pytest.param(lambda storage, name: storage.list_tasks(name), id="list_tasks"),
        pytest.param(lambda storage, name: storage.remove_task(name, "t"), id="remove a workflow's"),
        pytest.param(lambda storage, name: storage.remove_workflow(name), id="remove_workflow"),
    ],
)
def test_a_name_that_is_none(storage: FileStorage, root: Path, name: Any, ask: Callable[..., Any]) -> None:
    """A name that is empty or no string is refused with its value, and nothing comes of it."""
    with pytest.raises(InvalidName, match=rf"name has to be a string that is not empty, not {re.escape(repr(name))}"):
        ask(storage, name)
    assert not root.exists()


@pytest.mark.parametrize("pattern", [3, b"*", ["*"]], ids=repr)
def test_a_pattern_that_is_none(storage: FileStorage, root: Path, pattern: Any) -> None:
    """A pattern that is no string is refused with its value, and nothing is removed."""
    storage.save("w", "t", 1)
    with pytest.raises((TypeError, ValueError), match=rf"pattern.*{re.escape(repr(pattern))}"):
        storage.list_tasks("w", pattern)
    with pytest.raises(TypeError, match=rf"pattern.*{re.escape(repr(pattern))}"):
        storage.remove_task("w", pattern=pattern)
    assert files(root).keys() == {"w/t"}


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        ({"since": "yesterday"}, "yesterday"),
        ({"until": 3}, "3"),
        ({"since": "2024-02-30"}, "2024-02-30"),
        ({"since": "2024-03-02", "until": "2024-03-01"}, "2024-03-0[12].*2024-03-0[12]|since.*until"),
    ],
    ids=repr,
)
def test_a_date_that_is_none(storage: FileStorage, dates: Any, message: str) -> None:
    """A date that cannot be read, or `since` after `until`, is refused with its value."""
    storage.save("w", "t", 1)
    with pytest.raises(ValueError, match=message):
        storage.list_tasks("w", **dates)


# Results


def deep() -> list[Any]:
    """Return a list in a list in a list, deeper than pickle goes."""
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


class Unwilling:
    """Raises what it is given when it is pickled."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        """Raise it."""
        raise self.error


UNPICKLABLE: list[Any] = [
    pytest.param(lambda: (each for each in ()), "'generator' object", id="generator"),
    pytest.param(lambda: [{"deep": sys._getframe()}], "'frame' object", id="frame, inside"),
    pytest.param(threading.Lock, "'_thread.lock' object", id="lock"),
    pytest.param(deep, "deep", id="nested too deep"),
    pytest.param(lambda: Unwilling(RuntimeError("no!")), "no!", id="RuntimeError"),
    pytest.param(lambda: Unwilling(NotImplementedError("no!")), "no!", id="NotImplementedError"),
    pytest.param(lambda: Unwilling(ValueError("no!")), "no!", id="ValueError"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "message"), UNPICKLABLE)
@pytest.mark.parametrize("size", [0, 3_000_000], ids=["small", "large"])
def test_what_cannot_be_pickled(
    storage: FileStorage, root: Path, make: Callable[[], Any], message: str, size: int
) -> None:
    """An unpicklable result is refused with its type and name; nothing is published, and the one before is intact."""
    storage.save("w", "the task", "before")
    before = files(root)
    obj = [np.zeros(size // 8), "x" * size, make()] if size else make()
    refusal = rf"task 'the task' of workflow 'w': an? {type(obj).__name__} cannot be pickled: .*{message}"
    with pytest.raises(UnpicklableResult, match=refusal):
        storage.save("w", "the task", obj)
    assert files(root) == before
    assert storage.read_task("w", "the task") == "before"
    assert lying(root) == listed(storage)


class Spiteful:
    """Once `refuses` is set, keeps the error that it raises when it is unpickled."""

    refuses = False

    def __getstate__(self) -> dict[str, int]:
        return {"number": 1}

    def __setstate__(self, state: dict[str, int]) -> None:
        if self.refuses:
            self.error = ValueError("not again")
            raise self.error


@pytest.mark.parametrize("serializers", [(), (NoteSerializer,)], ids=["plain", "serializers"])
def test_a_result_that_keeps_its_error_keeps_no_storage(
    root: Path, serializers: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error's traceback refers to the storage: one that a result keeps is collected with all that it holds open."""
    storage = FileStorage(root)
    storage.register_persistent_serializers(*serializers)
    with pytest.raises(UnpicklableResult, match="no!"):
        storage.save("w", "t", [Unwilling(ValueError("no!"))])
    storage.save("w", "t", [Spiteful(), Note("a") if serializers else "a"])
    monkeypatch.setattr(Spiteful, "refuses", True)
    with pytest.raises(Exception, match="not again"):
        storage.read_task("w", "t")
    kept = weakref.ref(storage)
    del storage
    gc.collect()
    assert kept() is None


def test_a_node_that_cannot_be_pickled(storage: FileStorage, root: Path) -> None:
    """A workflow names the node whose result cannot be pickled; what finished before it is saved."""

    @workflow
    def good() -> int:
        return 1

    @workflow
    def bad(number: int) -> Any:
        return (each for each in range(number))

    run = LocalWorkflow(bad(good().set_name("fine")).set_name("the generator"), workflow_name="the workflow")
    run.set_storage(storage)
    with pytest.raises(UnpicklableResult, match="task 'the generator' of workflow 'the workflow'"):
        run.run()
    assert files(root).keys() == {"the workflow/fine"}


def test_an_error_of_a_serializer_stays_itself(storage: FileStorage, root: Path) -> None:
    """An error that a serializer raises reaches the caller as itself; the result before is intact."""

    class Own(Exception):
        pass

    class Failing(NoteSerializer):
        @classmethod
        def pickle(cls, obj: Note, protocols: Mapping[str, Any]) -> tuple[str, str]:
            super().pickle(obj, protocols)
            raise Own("disk of my own")

        @classmethod
        def unpickle(cls, pid: str, protocols: Mapping[str, Any]) -> Note:
            raise Own("on reading")

    storage.register_persistent_serializers(NoteSerializer)
    storage.save("w", "t", Note("before"))
    before = files(root)
    storage.register_persistent_serializers(Failing)
    with pytest.raises(Own, match="disk of my own") as caught:
        storage.save("w", "t", [Note("a"), Note("b")])
    assert any("task 't' of workflow 'w'" in note for note in caught.value.__notes__)
    assert files(root) == before
    with pytest.raises(Own, match="on reading") as caught:
        storage.read_task("w", "t")
    assert any("task 't' of workflow 'w'" in note for note in caught.value.__notes__)


# A place that cannot be written


def mount(*arguments: str) -> None:
    """Call ``mount``; skip the test where that is not permitted."""
    if sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("needs Linux's mount for a small or read-only file system")
    answer = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if answer.returncode:
        pytest.skip(f"mounting a file system is not permitted here: {answer.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of eight mebibytes: room for an index, and not for what these tests call large."""
    place = tmp_path / "disk"
    place.mkdir()
    mount("-t", "tmpfs", "-o", "size=8M", "tmpfs", str(place))
    yield place
    gc.collect()
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def read_only(disk: Path) -> Path:
    """Return a storage with one result, on a file system that is read-only."""
    root = disk / "storage"
    storage = FileStorage(root)
    storage.register_persistent_serializers(NoteSerializer)
    storage.save("w", "t", "stored")
    storage.save("w", "note", Note("stored"))
    del storage  # a segment that is open for writing would keep the disk from being made read-only
    gc.collect()
    mount("-o", "remount,ro", str(disk))
    return root


def test_a_read_only_storage_cannot_be_written(read_only: Path) -> None:
    """Saving, overwriting and removing are refused with task, reason and remedy; nothing changes."""
    storage = FileStorage(read_only)
    before = files(read_only)
    for ask in (
        lambda: storage.save("w", "t", 1),
        lambda: storage.save("w", "new", np.zeros(100_000)),
        lambda: storage.save("new", "t", 1),
        lambda: storage.remove_task("w", "t"),
        lambda: storage.remove_workflow("w"),
    ):
        with pytest.raises(StorageUnusable, match=r"^\[Errno 30\] task '.*' of workflow '.*ead-only") as caught:
            ask()
        assert caught.value.errno == errno.EROFS
    with pytest.raises(StorageUnusable, match=r"storage cannot be written \(Read-only file system\): choose another"):
        storage.new_workflow("new")
    assert files(read_only) == before


def test_a_read_only_storage_can_be_read(read_only: Path) -> None:
    """Reading, listing and the catalog work in a storage that cannot be written."""
    storage = FileStorage(read_only)
    storage.register_persistent_serializers(NoteSerializer)
    assert storage.read_task("w", "t") == "stored"
    assert storage.read_task("w", "note") == Note("stored")
    assert storage.list_tasks("w") == ["note", "t"]
    assert lying(read_only) == listed(storage)


def test_a_folder_that_cannot_be_made(read_only: Path) -> None:
    """A new storage in a read-only place says so when something is saved, and is empty until then."""
    storage = FileStorage(read_only.parent / "another")
    assert not storage.file_exists("w", "t")
    with pytest.raises(StorageUnusable, match=r"another cannot be written \(Read-only file system\)"):
        storage.save("w", "t", 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_of_somebody_else(storage: FileStorage, root: Path) -> None:
    """Where the permissions forbid it, a save says that and what to look at."""
    storage.save("w", "t", 1)
    (root / "w").chmod(0o555)
    try:
        with pytest.raises(StorageUnusable, match=r"task 't' of workflow 'w': Permission denied.*who owns"):
            storage.save("w", "t", 2)
    finally:
        (root / "w").chmod(0o755)


# A disk that is full


def fill(disk: Path, pages_left: int) -> Path:
    """Fill the disk up to some pages, and return the file that can be deleted to make room again."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(PAGE))
        except OSError:  # full
            pass
        file.truncate(os.fstat(file.fileno()).st_size // PAGE * PAGE - pages_left * PAGE)
    return filler


LARGE: list[Any] = [
    pytest.param(lambda: bytes(12_000_000), id="stream"),
    pytest.param(lambda: np.random.default_rng(0).random(1_500_000), id="buffer"),
    pytest.param(lambda: [Note("x" * 12_000_000)], id="side file"),
    pytest.param(lambda: [Note("x" * 4_000_000), bytes(4_000_000), Note("x" * 4_000_000)], id="all together"),
]


@pytest.mark.parametrize("make", LARGE)
def test_a_disk_that_fills_up(disk: Path, make: Callable[[], Any]) -> None:
    """A result that does not fit leaves nothing behind: the one before is intact, and the next save works at once."""
    root = disk / "storage"
    storage = FileStorage(root)
    storage.register_persistent_serializers(NoteSerializer)
    storage.save("w", "t", Note("before"))
    before = files(root)
    for task in ("t", "new"):
        message = rf"task '{task}' of workflow 'w': No space left on device.*free some space and save again"
        with pytest.raises(StorageUnusable, match=message) as caught:
            storage.save("w", task, make())
        assert caught.value.errno == errno.ENOSPC
        assert files(root) == before
    assert not [path for path in (root / "w").rglob("*") if path.is_dir() and not any(path.iterdir())]
    assert storage.read_task("w", "t") == Note("before")
    storage.save("w", "t", "after")
    assert storage.read_task("w", "t") == "after"
    assert lying(root) == listed(storage)


def test_a_disk_that_is_nearly_full(disk: Path) -> None:
    """With whatever few pages are left, a save either succeeds or leaves the result before; nothing is ever torn."""
    root = disk / "storage"
    storage = FileStorage(root)
    storage.save("w", "t", 0)
    outcomes = set()
    number = 0
    for pages_left in range(6):
        filler = fill(disk, pages_left)
        for size in (10, PAGE, 2 * PAGE, 3 * PAGE):
            try:
                storage.save("w", "t", [number + 1, bytes(size)])
            except StorageUnusable as error:
                outcomes.add(error.errno)
            else:
                number += 1
                outcomes.add(0)
            found = storage.read_task("w", "t")
            assert (found[0] if found else 0) == number
            assert len(lying(root)) == 1
        filler.unlink()
    assert outcomes == {0, errno.ENOSPC}
    assert left_over(root) == []
    storage.save("w", "t", "room again")
    assert storage.read_task("w", "t") == "room again"
    assert lying(root) == listed(storage)


def test_a_journal_that_does_not_fit(disk: Path) -> None:
    """Where the blob fits and its line does not, the torn line publishes nothing and harms no later one."""
    root = disk / "storage"
    storage = FileStorage(root)
    storage.save("w", "t", "before")
    (segment,) = (root / ".catalog" / "journal").iterdir()
    line = segment.stat().st_size
    while segment.stat().st_size % PAGE < PAGE - line // 2 or segment.stat().st_size % PAGE == 0:
        storage.save("w", "t", "before")  # until half a line is left of the segment's last page
        if segment.stat().st_size > 40 * PAGE:
            pytest.skip("no line ended near the end of a page")
    before, text = files(root), segment.read_bytes()
    filler = fill(disk, pages_left=1)
    with pytest.raises(StorageUnusable, match=r"task 't' of workflow 'w'.*free some space and save again") as caught:
        storage.save("w", "t", "after")
    assert caught.value.errno == errno.ENOSPC
    torn = segment.read_bytes()
    assert len(text) < len(torn) < len(text) + line, "the line was not torn: the test does not test what it says"
    assert files(root) == before
    assert storage.read_task("w", "t") == "before"
    filler.unlink()
    assert lying(root) == listed(storage)
    storage.save("w", "t", "after")
    assert storage.read_task("w", "t") == "after"
    assert segment.read_bytes() == torn
    assert lying(root) == listed(storage)


def test_a_full_disk_can_be_read(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On a disk without a byte left, results are read and listed, and removing one makes room for another."""
    root = disk / "storage"
    storage = FileStorage(root)
    for number in range(3):
        storage.save("w", f"t{number}", bytes([number]) * 100_000)
    fill(disk, pages_left=0)
    with pytest.raises(StorageUnusable):
        storage.save("w", "new", bytes(100_000))
    assert storage.list_tasks("w") == ["t0", "t1", "t2"]
    assert storage.read_task("w", "t1") == b"\1" * 100_000
    storage.remove_task("w", "t0")
    storage.save("w", "new", bytes(90_000))
    assert lying(root) == listed(storage)
    caplog.clear()  # the errors in the records keep the storage, and so its segment, open


def test_a_workflow_on_a_full_disk(disk: Path) -> None:
    """A run stops with the node whose result did not fit; what finished before it is kept, and restored."""

    @workflow
    def small() -> int:
        calls.append("small")
        return 1

    @workflow
    def large(number: int) -> bytes:
        return bytes(number * size[0])

    calls: list[str] = []
    size = [12_000_000]

    def run() -> Any:
        leaf = large(small().set_name("small")).set_name("large")
        local = LocalWorkflow(leaf, workflow_name="w", on_stale="ignore")
        local.set_storage(storage)
        return local.run()

    storage = FileStorage(disk / "storage")
    with pytest.raises(StorageUnusable, match="task 'large' of workflow 'w': No space left"):
        run()
    size[0] = 1_000
    assert run() == bytes(1_000)
    assert calls == ["small"]
    assert lying(disk / "storage") == listed(storage)


def test_pathlib_is_taken(tmp_path: pathlib.Path) -> None:
    """Good input, for once: paths may be strings or path-like."""
    FileStorage(tmp_path / "a").save("w", "t", 1)
    FileStorage(f"{tmp_path}/b").save("w", "t", 1)
    assert files(tmp_path / "a").keys() == files(tmp_path / "b").keys() == {"w/t"}
