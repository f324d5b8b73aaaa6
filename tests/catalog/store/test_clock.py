"""How old a file is, the clock of the file system says; this machine's may be hours ahead, or behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from catalog.store import clock
from functionfuse.storage.filestorage import FileStorage
from strange import their_folder
from workshop import age, root_of, segments


@pytest.fixture(params=[2 * 3600, -2 * 3600, 30 * 86400], ids=["ahead", "behind", "a month ahead"])
def wrong_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Set this machine's clock wrong, by seconds."""
    wrong: int = request.param
    real, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real() + wrong)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + wrong * 1_000_000_000)
    return wrong


def test_a_repair_leaves_what_is_being_saved(storage: FileStorage, wrong_clock: int) -> None:
    """Side files that were written just now may be a running save's, whatever this machine's clock says."""
    storage.save("w", "a", 1)
    side = root_of(storage) / "w" / "bigdata" / "0197c5a0-0000-7000-8000-00000000aaaa"
    side.mkdir(parents=True)
    (side / "part").write_text("half")
    (finding,) = storage.verify(repair=True).orphans
    assert finding.perhaps_in_use
    assert (side / "part").read_text() == "half"


def test_a_first_save_leaves_temporaries_that_are_being_written(tmp_path: Path, wrong_clock: int) -> None:
    """Of the temporaries of others, only what has been left alone for a week is deleted."""
    FileStorage(tmp_path / "storage").save("w", "a", 1)
    folder = tmp_path / "storage" / ".catalog" / "tmp" / "0"
    folder.mkdir(exist_ok=True)
    for name in ("fresh", "old"):
        (folder / name).write_text("half")
    week = 8 * 86400
    os.utime(folder / "old", (time.time() - wrong_clock - week,) * 2)
    FileStorage(tmp_path / "storage").save("w", "b", 2)
    assert [path.name for path in folder.iterdir()] == ["fresh"]


def test_compaction_waits_for_segments_that_are_being_written(
    storage: FileStorage, wrong_clock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question compacts what has been left alone for two minutes, and nothing else."""
    monkeypatch.setattr("catalog.journal.compaction._MANY", 1)
    storage.save("w", "a", 1)
    storage.list_tasks("w")
    assert segments(storage)
    age(storage, 300 + wrong_clock)  # by this machine's clock
    monkeypatch.setattr("catalog.index.opening._compact_again", {})
    storage.list_tasks("w")
    assert not segments(storage)


def test_a_storage_that_cannot_be_written(tmp_path: Path) -> None:
    """Where no file can be made this machine's clock is asked, and nothing is made."""
    folder = their_folder(tmp_path / "theirs")
    before = sorted(folder.rglob("*"))
    assert abs(clock.now_ns(str(folder)) - time.time_ns()) < 60e9
    assert sorted(folder.rglob("*")) == before
