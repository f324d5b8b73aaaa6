"""Compaction: what the journal says is the same before, after and in the middle, whoever writes, reads or is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog import Catalog
from catalog.format.ids import new_id
from catalog.index import opening
from catalog.journal import append as journal
from catalog.journal import compaction as compact
from functionfuse.errors import StorageUnusable, UnsupportedFormat
from functionfuse.storage.filestorage import FileStorage
from workshop import (
    age,
    delete_index,
    journal_of,
    lines,
    root_of,
    running_python,
    segments,
    task_rows,
    wait_for,
    write_segment,
)


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """Return a storage with a history: saves, overwrites, removals, a run's events, a pin."""
    storage = FileStorage(tmp_path / "storage")
    for number in range(6):
        storage.save("w", f"t{number}", {"number": number})
    storage.save("w", "t1", "over")
    storage.remove_task("w", "t2")
    storage.note("run-started", "w", "01a21316-00b6-7000-bcd2-c65debd16307", {"backend": "local"})
    return storage


def parquet(storage: FileStorage) -> list[Path]:
    """Return the journal's compacted files."""
    return sorted(journal_of(storage).glob("*.parquet"))


def retired(storage: FileStorage) -> list[Path]:
    """Return the segments that were moved away and not deleted."""
    return list((root_of(storage) / ".catalog" / "retired").glob("*"))


def uncompacted(storage: FileStorage) -> list[dict[str, Any]]:
    """Return the events of the segments that are still lines."""
    return [json.loads(line) for segment in segments(storage) for line in segment.read_bytes().splitlines()]


def events(catalog: Catalog) -> list[Any]:
    """Return all events, with their places in the journal."""
    with catalog._index.question() as (connection, _):
        return connection.sql("FROM history ORDER BY event_id").fetchall()


def said(storage: FileStorage) -> Any:
    """Return all that the catalog says, from an index that is there and from one that is built anew."""
    before = events(storage.catalog), task_rows(storage.catalog), storage.catalog.refresh().torn
    delete_index(storage)
    assert (events(storage.catalog), task_rows(storage.catalog), storage.catalog.refresh().torn) == before
    return before


def test_nothing_is_lost(storage: FileStorage) -> None:
    """Idle segments become one Parquet file; tasks, history and each event's place in the journal stay the same."""
    write_segment(storage, [b'{"event":"torn'])
    before = said(storage)
    age(storage)
    done = storage.catalog.compact()
    assert (done.segments, done.events, done.fresh) == (2, 9, 0)
    assert segments(storage) == retired(storage) == []
    assert len(parquet(storage)) == 1
    assert done.bytes_after == parquet(storage)[0].stat().st_size
    assert said(storage) == before


def test_any_engine_reads_the_history(storage: FileStorage) -> None:
    """A compacted file has the events as columns, with what they mean, compressed with zstd."""
    expected = lines(storage)
    age(storage)
    storage.catalog.compact()
    (path,) = parquet(storage)
    table = pq.read_table(path)
    assert [(row["event"], row["task"]) for row in table.to_pylist()] == [(e["event"], e.get("task")) for e in expected]
    assert table["position"].to_pylist() == list(range(1, 10))
    assert b"bytes" in table.schema.field("size").metadata[b"meaning"]
    assert pq.read_metadata(path).row_group(0).column(0).compression == "ZSTD"


def test_fields_that_are_unknown_today_are_kept(storage: FileStorage) -> None:
    """A line of a newer version, with a field that is no column, is in the compacted file as it was."""
    line = {"event": "tagged", "event_id": "01a21316-00b6-7000-bcd2-000000000001", "tags": {"a": "b"}}
    write_segment(storage, [line])
    age(storage)
    storage.catalog.compact()
    (path,) = parquet(storage)
    assert [json.loads(text) for text in pq.read_table(path)["line"].to_pylist() if text] == [line]


def test_what_is_fresh_is_left(storage: FileStorage) -> None:
    """A segment that was written to a moment ago may have a writer, and is left as it is."""
    before = segments(storage)
    assert storage.catalog.compact().segments == 0
    assert storage.catalog.compact().fresh == 1
    assert segments(storage) == before
    assert parquet(storage) == []


def test_a_writer_that_wakes_up(storage: FileStorage) -> None:
    """A writer whose segment was compacted under it begins a new one."""
    age(storage)
    storage.catalog.compact()
    storage.save("w", "late", 1)
    assert [line["task"] for line in uncompacted(storage)] == ["late"]
    assert "late" in storage.list_tasks("w")


def test_a_writer_leaves_its_segment_after_a_pause_or_when_it_is_full(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No segment is appended to after a minute's pause, nor grows beyond some megabytes."""
    assert len(segments(storage)) == 1
    monkeypatch.setattr(journal, "FULL", 1)
    storage.save("w", "a", 1)
    assert len(segments(storage)) == 2
    monkeypatch.setattr(journal, "FULL", 1 << 30)
    storage.save("w", "b", 1)
    assert len(segments(storage)) == 2
    monkeypatch.setattr(journal, "PAUSE", 0.0)
    storage.save("w", "c", 1)
    assert len(segments(storage)) == 3
    assert len(storage.list_tasks("w")) == 8


@pytest.mark.parametrize("moment", ["before the move", "after the move"])
def test_a_line_that_comes_late(storage: FileStorage, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """What a writer appends while its segment is being compacted stays in the journal."""
    event = {"event": "late", "event_id": "01a21316-00b6-7000-bcd2-000000000002", "workflow": "w"}
    rename = os.rename

    def moving(source: str, target: str) -> None:
        is_move = target.endswith(".ndjson") and "retired" in target
        if is_move and moment == "before the move":
            write_segment(storage, [event], Path(source).stem)
        rename(source, target)
        if is_move and moment == "after the move":
            with open(target, "a") as file:  # a writer that had the file open, and will write it again
                file.write(json.dumps(event) + "\n")

    monkeypatch.setattr(os, "rename", moving)
    age(storage)
    storage.catalog.compact()
    assert retired(storage) == []
    assert [line["event"] for line in uncompacted(storage)] == ["late"]
    assert storage.catalog.sql("SELECT count(*) FROM events WHERE event = 'late'").fetchall() == [(1,)]


@pytest.mark.slow
def test_questions_compact_by_themselves(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """When many segments lie idle, the next question makes them one file."""
    for number in range(compact._MANY):
        write_segment(storage, [{"event": "x", "event_id": f"01a21316-00b6-7000-bcd2-0000000000{number:02x}"}])
    before = said(storage)
    assert parquet(storage) == []
    age(storage)
    opening._compact_again.clear()
    storage.list_tasks("w")
    assert len(parquet(storage)) == 1
    assert segments(storage) == []
    assert said(storage) == before


def test_small_files_are_merged(storage: FileStorage) -> None:
    """Many compacted files become one, which names all segments of theirs."""
    for _ in range(3):
        age(storage)
        storage.catalog.compact()
        assert len(parquet(storage)) == 1
        storage.save("w", "t0", "again")
    before = said(storage)
    age(storage)
    storage.catalog.compact()
    assert said(storage) == before


@pytest.mark.slow
def test_questions_merge_small_files(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many segments come and go, questions keep the number of compacted files small."""
    monkeypatch.setattr(compact, "_MANY", 4)
    monkeypatch.setattr(opening, "_RARELY", 0.0)
    for number in range(40):
        write_segment(storage, [{"event": "x", "event_id": f"01a21316-00b6-7000-bcd2-0000000000{number:02x}"}])
        age(storage)
        storage.list_tasks("w")
    assert len(parquet(storage)) + len(segments(storage)) < 8
    said(storage)
    assert storage.catalog.sql("SELECT count(*) FROM events WHERE event = 'x'").fetchall() == [(40,)]


def test_a_torn_end_is_counted_once(storage: FileStorage) -> None:
    """A segment that ends within a line is compacted with the lines that it has, and the torn one is counted."""
    with segments(storage)[0].open("a") as file:
        file.write('{"event":"sa')
    before = said(storage)
    assert before[2] == 1
    age(storage)
    storage.catalog.compact()
    assert said(storage) == before


def test_torn_lines_that_are_known_are_counted_once(storage: FileStorage) -> None:
    """Torn lines of which an index knows some are as many after compaction as before it."""
    write_segment(storage, [b'{"event":"torn'], "torn")
    assert storage.catalog.refresh().torn == 1
    with (journal_of(storage) / "torn.ndjson").open("a") as file:
        file.write('{"event":"sa')
    age(storage)
    storage.catalog.compact()
    assert storage.catalog.refresh().torn == 2
    said(storage)


def test_a_copied_segment_behind_a_torn_one_adds_nothing(storage: FileStorage) -> None:
    """Where a compacted file holds nothing new, what is told again after it is known all the same."""
    (path,) = segments(storage)
    whole = path.read_bytes()
    with open(path, "ab") as file:
        file.write(b'{"event":"sa')
    count = "SELECT count(*), count(DISTINCT event_id) FROM events"
    before = storage.catalog.sql(count).fetchall()
    age(storage)
    storage.catalog.compact()
    write_segment(storage, whole.splitlines(), new_id())
    assert storage.catalog.sql(count).fetchall() == before


def test_a_killed_writers_last_line_stays_provisional(storage: FileStorage) -> None:
    """An event of which nobody knows whether it came true is no more certain for being compacted."""
    line = {**lines(storage)[0], "task": "never", "blob_id": "01a21316-00b6-7000-bcd2-000000000003"}
    write_segment(storage, [line])
    age(storage)
    storage.catalog.compact()
    said(storage)
    assert storage.catalog.sql("SELECT count(*) FROM events WHERE task = 'never'").fetchall() == [(0,)]


def test_a_killed_writers_last_line_in_a_large_file(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An overwrite that never came true stays so in a compacted file whose rows are read some at a time."""
    monkeypatch.setattr(compact, "_GROUP", 2)
    saved = next(line for line in lines(storage) if line["task"] == "t0")
    never = {**saved, "blob_id": new_id(saved["blob_id"]), "replaces": saved["blob_id"], "value": "never"}
    write_segment(storage, [never], "1-killed")
    for number in range(6):
        write_segment(
            storage, [{"event": "x", "event_id": f"01a21316-00b6-7000-bcd2-00000000010{number}"}], f"2-{number}"
        )
    age(storage)
    storage.catalog.compact()
    delete_index(storage)
    assert [row["value"] for row in task_rows(storage.catalog) if row["task"] == "t0"] == ['{"number":0}']
    said(storage)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not Parquet at all"])
def test_a_damaged_file_is_told(storage: FileStorage, content: bytes) -> None:
    """A compacted file that cannot be read is an error that names it, as events would be missing without it."""
    path = journal_of(storage) / "damaged.parquet"
    path.write_bytes(content)
    with pytest.raises(StorageUnusable, match=r"damaged\.parquet is damaged.*restore it"):
        storage.list_tasks("w")


def test_damaged_rows_are_told(storage: FileStorage) -> None:
    """A compacted file whose end is whole and whose rows are not is the same error."""
    for name in "abc":
        storage.save("w", name, 1)
    age(storage)
    storage.catalog.compact()
    delete_index(storage)
    (path,) = journal_of(storage).glob("*.parquet")
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    with pytest.raises(StorageUnusable, match=f"(?s){path.name} is damaged.*restore it"):
        storage.list_tasks("w")


def test_a_newer_format_is_refused(storage: FileStorage) -> None:
    """A compacted file of a newer version is refused by a message that says what to do."""
    content = json.dumps({"format": 99, "segments": []})
    table = pa.table({"event": ["x"]}).replace_schema_metadata({"functionfuse": content})
    pq.write_table(table, journal_of(storage) / "new.parquet")
    with pytest.raises(UnsupportedFormat, match=r"new\.parquet has format 99.*install a newer one"):
        storage.list_tasks("w")


def test_a_file_of_an_earlier_version_is_merged(storage: FileStorage) -> None:
    """A compacted file without the column `logical_size` is merged with others, and says the same."""
    age(storage)
    storage.catalog.compact()
    (path,) = parquet(storage)
    said_of_itself = {b"functionfuse": pq.read_metadata(path).metadata[b"functionfuse"]}
    rows = pq.read_table(path).drop_columns(["logical_size"]).replace_schema_metadata(said_of_itself)
    pq.write_table(rows, path)
    write_segment(storage, [{"event": "x", "event_id": "01a21316-00b6-7000-bcd2-000000000004"}])
    delete_index(storage)
    before = said(storage)
    age(storage)
    storage.catalog.compact()
    assert len(parquet(storage)) == 1
    assert said(storage) == before


# Kills and races


@pytest.mark.slow
def test_death_at_every_step(tmp_path: Path) -> None:
    """Killed before, within or after any call, a compaction loses nothing, and the next one finishes its work.

    The program ``compacting.py`` forks, which DuckDB's and Arrow's threads in this process would not survive.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, Path(__file__).parents[2] / "support" / "compacting.py", tmp_path / "storage"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert 15 < answer.returncode < 200, answer.stderr


WRITES = """
import sys, time
from functionfuse.storage.filestorage import FileStorage
storage = FileStorage(sys.argv[1])
for number in range(int(sys.argv[3])):
    storage.save(sys.argv[2], str(number), number)
    time.sleep(0.001)
"""
COMPACTS = """
import os, sys
os.environ["XDG_CACHE_HOME"] = sys.argv[2]  # an index of its own
from catalog import Catalog
from catalog.journal import retiring
retiring._IDLE = -1.0  # whoever writes
catalog = Catalog.open(sys.argv[1], index="private")
catalog.compact()
print("ready", flush=True)
while True:
    catalog.compact()
"""


@pytest.mark.slow
def test_writers_compactors_and_readers_at_once(storage: FileStorage) -> None:
    """Compacted under the hands of their writers by two compactors, segments lose no event, and no question misses one.

    Only the writers' look after each line protects them here: the pause that compaction grants is taken away.
    """
    count = 1_000
    path = root_of(storage)
    reader = Catalog.open(path, index="private")
    caches = [path.parent / name for name in ("one", "two")]
    with running_python(COMPACTS, path, caches[0]) as one, running_python(COMPACTS, path, caches[1]) as two:
        for compactor in (one, two):
            wait_for(compactor, "ready")
        with running_python(WRITES, path, "a", count) as first, running_python(WRITES, path, "b", count) as second:
            seen = 0
            while first.poll() is None or second.poll() is None:
                now = len(reader.names("a")) + len(reader.names("b"))
                assert now >= seen
                seen = now
    assert len(parquet(storage)) > 0
    for catalog in (reader, storage.catalog, Catalog.open(path)):
        assert len(catalog.names("a")) == len(catalog.names("b")) == count
    saves = "SELECT count(*), count(DISTINCT event_id) FROM events WHERE event = 'save' AND workflow IN ('a', 'b')"
    delete_index(storage)
    assert storage.catalog.sql(saves).fetchall() == [(2 * count, 2 * count)]


def test_the_index_can_be_kept_private(storage: FileStorage) -> None:
    """By choice the index lies in the user's cache directory, and none in the storage; an unknown choice is refused."""
    assert not (root_of(storage) / ".catalog" / "catalog.duckdb").exists()  # nobody has asked yet
    private = FileStorage(root_of(storage), index="private")
    assert len(private.list_tasks("w")) == 5
    assert not (root_of(storage) / ".catalog" / "catalog.duckdb").exists()
    assert list(Path(os.environ["XDG_CACHE_HOME"], "functionfuse").glob("*/catalog-*.duckdb"))
    with pytest.raises(ValueError, match="index is 'storage' or 'private', not 'both'"):
        Catalog.open(root_of(storage), index="both")  # type: ignore[arg-type]
