"""Verification beside processes that save, overwrite and remove, and repairs that are killed."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from catalog.verify.report import KINDS, Verification
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import Note, NoteSerializer
from killing import Death
from processes import Child
from seeds import seeds
from workshop import root_of, running_python, say, task_names, wait_for

# Forking beside DuckDB's threads is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

BUSY = """
import logging, random, sys, threading
from functionfuse.errors import TaskNotFound
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import Note, NoteSerializer

logging.disable(logging.WARNING)
root, me = sys.argv[1:]
storage = FileStorage(root)
storage.register_persistent_serializers(NoteSerializer)
stop = threading.Event()
chance = random.Random(me)
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set())).start()
print("up", flush=True)
while not stop.wait(0.03):
    for name in (f"{me} {chance.randrange(8)}", f"shared {chance.randrange(3)}"):
        if chance.random() < 0.3:
            try:
                storage.remove_task("w", name)
            except TaskNotFound:
                pass
        else:
            result = [chance.random(), "x" * chance.randrange(20_000)]
            storage.save("w", name, [Note(name), *result] if chance.random() < 0.3 else result)
"""


def faults(report: Verification) -> list[str]:
    """Return what was found, but for side files that a running save may own."""
    return [f"{kind} {each}" for kind in KINDS for each in getattr(report, kind) if not each.perhaps_in_use]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("times", seeds(1, 3))
def test_a_busy_storage_has_no_faults(storage: FileStorage, times: int) -> None:
    """While three processes save, overwrite and remove, also the same names, no verification finds anything."""
    storage.save("w", "quiet", 1)
    root = root_of(storage)
    with (
        running_python(BUSY, root, "a") as a,
        running_python(BUSY, root, "b") as b,
        running_python(BUSY, root, "c") as c,
    ):
        for process in (a, b, c):
            wait_for(process, "up")
        reports = [storage.catalog.verify() for _ in range(times)]
        for process in (a, b, c):
            say(process, "stop")
            assert process.wait() == 0
    assert [faults(report) for report in reports] == [[]] * len(reports)
    assert max(report.results for report in reports) > 3
    final = storage.catalog.verify()
    assert faults(final) == []
    assert final.results == len(task_names(storage.catalog))


# Death on the way


def damaged(root: Path) -> FileStorage:
    """Return a storage with a sound result, two damaged ones, one that is gone, and an orphaned side folder."""
    storage = FileStorage(root)
    storage.register_persistent_serializers(NoteSerializer)
    for name in ("sound", "cut", "gone"):
        storage.save("w", name, name)
    storage.save("w", "note", [Note("its side file")])
    (root / "w" / "cut").write_bytes((root / "w" / "cut").read_bytes()[:40])
    (root / "w" / "note").write_bytes(b"!" + (root / "w" / "note").read_bytes()[1:])
    (root / "w" / "gone").unlink()
    (root / "w" / "bigdata" / ORPHAN).mkdir()
    (root / "w" / "bigdata" / ORPHAN / "data").write_bytes(b"orphaned")
    return storage


ORPHAN = "01906d6e-0000-7000-8000-000000000000"


def kept(root: Path) -> list[bytes]:
    """Return the content of all files but those that the catalog needs, wherever they are now."""
    folders = [root / "w", root / ".catalog" / "quarantine"]
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != "about.json"]
    return sorted(path.read_bytes() for path in paths)


def repair_and_die(root: Path, moment: int) -> Any:
    """Return what a child does: repair, and be killed at a moment of it, counted from the first look at a blob."""

    def die(_: Any) -> None:
        from catalog.verify import check

        real = check.Repair.mend

        def mend(*arguments: Any) -> Any:
            Death(moment).arm()
            return real(*arguments)

        check.Repair.mend = mend  # type: ignore[method-assign]
        Catalog(root).verify(repair=True)

    return die


@pytest.mark.slow
@pytest.mark.parametrize("first", seeds(0, 1))
def test_a_repair_may_be_killed_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """Wherever a repair is killed, no byte is lost, and the next one brings everything to the same end."""
    monkeypatch.setattr("catalog.verify.side_files.QUIET", -1.0)
    for moment in itertools.count(first, 2):
        root = tmp_path / str(moment)
        storage = damaged(root)
        before = kept(root)
        child = Child(repair_and_die(root, moment))
        assert child.lines() == []
        assert kept(root) == before
        storage.catalog.verify(repair=True)
        assert storage.catalog.verify().ok
        assert kept(root) == before
        assert task_names(storage.catalog) == [("w", "sound")]
        assert storage.read_task("w", "sound") == "sound"
        if child.status == 0:
            break
        assert child.status == signal.SIGKILL
    assert moment > 20


def test_the_side_folder_of_a_killed_save(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a save that was killed after it wrote a side file leaves is found, and goes into quarantine."""
    storage.save("w", "quiet", 1)
    root = root_of(storage)

    def save_and_die(_: Any) -> None:
        own = FileStorage(root)
        own.register_persistent_serializers(NoteSerializer)
        own.save("w", "killed", [Note("written"), DyingWhenPickled()])

    child = Child(save_and_die)
    assert child.lines() == []
    assert child.status == signal.SIGKILL
    report = storage.catalog.verify()
    assert [each.perhaps_in_use for each in report.orphans] == [True]
    monkeypatch.setattr("catalog.verify.side_files.QUIET", -1.0)
    (orphan,) = storage.catalog.verify(repair=True).orphans
    assert [path.read_text() for path in (root / orphan.done.removeprefix("moved to ")).iterdir()] == ["written"]
    assert storage.catalog.verify().ok


class DyingWhenPickled:
    """Kills whoever pickles it."""

    def __reduce__(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
