"""The journal becomes the index: torn lines, doubled segments, killed writers, several writers, clocks that jump."""

from __future__ import annotations

import json
import random
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest

from catalog.format import author, ids
from catalog.format.ids import new_id
from catalog.store import blobs
from catalog.store.local import LocalStore
from functionfuse.storage.filestorage import FileStorage
from workshop import (
    blob_id,
    delete_index,
    history,
    index_of,
    lines,
    remove_event,
    root_of,
    run_python,
    running_python,
    save_event,
    say,
    segments,
    task_names,
    task_rows,
    wait_for,
    write_segment,
)


def forget_segment(storage: FileStorage) -> None:
    """Let the next event go to a segment of its own, as if another process wrote it."""
    storage._journal._abandon()


def be_another_process(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the segment, and what the ids of this process were."""
    forget_segment(storage)
    monkeypatch.setattr(ids, "_last_tick", 0)
    monkeypatch.setattr(ids, "_tail", f"9000-{random.getrandbits(48):012x}")


# What another process saved


WRITER = """
import sys
from functionfuse.storage.filestorage import FileStorage
storage = FileStorage(sys.argv[1])
for name in sys.argv[2:]:
    storage.save("w", name, name)
"""


def test_a_question_sees_what_another_process_saved(storage: FileStorage) -> None:
    """Every save that ended before a question is in its answer, from whatever process, asked before or not."""
    root = root_of(storage)
    run_python(WRITER, root, "a", "b")
    assert storage.list_tasks("w") == ["a", "b"]
    run_python(WRITER, root, "c")
    storage.save("w", "d", 1)
    assert storage.list_tasks("w") == ["a", "b", "c", "d"]
    assert [row["value"] for row in task_rows(storage.catalog)] == ['"a"', '"b"', '"c"', "1"]


LONG_WRITER = """
import sys
from functionfuse.storage.filestorage import FileStorage
storage = FileStorage(sys.argv[1])
for line in sys.stdin:
    storage.save("w", line.strip(), 1)
    print("saved", flush=True)
"""


@pytest.mark.slow
def test_a_question_sees_each_save_of_a_writer_that_goes_on(storage: FileStorage) -> None:
    """As soon as a save has returned in one process, a question in another one finds it: fifteen times in a row."""
    with running_python(LONG_WRITER, root_of(storage)) as writer:
        for number in range(15):
            say(writer, f"{number:02}")
            wait_for(writer, "saved")
            assert storage.list_tasks("w")[-1] == f"{number:02}"
        say(writer, "last")
        wait_for(writer, "saved")
        assert writer.stdin is not None
        writer.stdin.close()
        assert writer.wait() == 0


def test_a_table_of_the_users_in_the_index(storage: FileStorage) -> None:
    """Tables that a user made in the index, of whatever name, are not taken for what the journal says."""
    storage.save("w", "a", 1)
    storage.list_tasks("w")
    with duckdb.connect(str(index_of(storage))) as connection:
        for name in ("lines", "rows", "compacted_rows"):
            connection.execute(f"CREATE TABLE {name} (line VARCHAR, segment VARCHAR, position BIGINT)")
    storage.save("w", "b", 2)
    assert storage.list_tasks("w") == ["a", "b"]


def test_a_refresh_tells_what_was_new(storage: FileStorage) -> None:
    """`refresh` counts the events since the question before, and nothing twice."""
    assert_new(storage, 0)
    storage.save("w", "a", 1)
    storage.save("w", "a", 2)
    storage.remove_task("w", "a")
    assert_new(storage, 3)
    assert_new(storage, 0)


def assert_new(storage: FileStorage, events: int) -> None:
    """Assert how many events are new, and that no line is torn."""
    storage.new_workflow("w")
    refreshed = storage.catalog.refresh()
    assert (refreshed.events, refreshed.torn) == (events, 0)


# Torn and foreign lines


FAR_AHEAD = "e0000000-0000-7000-8000-000000000005"  # an id of the year 9,763
UNKNOWN = str(uuid.UUID(int=7 << 76 | 2 << 62 | 5))
BAD_LINES = {
    "cut short": b'{"event":"save","format":1,"size":112,"blob_id":"0189',
    "empty": b"",
    "no object": b"[1, 2]",
    "a number": b"17",
    "null": b"null",
    "an object that is no event": b'{"some": "thing"}',
    "an event without an id": b'{"event": "save", "workflow": "w", "task": "x"}',
    "an id that is none": b'{"event": "save", "blob_id": "5", "workflow": "w", "task": "x"}',
    "an id without an event": b'{"blob_id": "%s", "workflow": "w", "task": "x"}' % UNKNOWN.encode(),
    "a save of nothing": b'{"event": "save", "blob_id": "%s"}' % UNKNOWN.encode(),
    "a save of no task": b'{"event": "save", "blob_id": "%s", "workflow": "w"}' % UNKNOWN.encode(),
    "a removal of nothing": b'{"event": "remove", "event_id": "%s"}' % UNKNOWN.encode(),
    "two events joined": b'{"event":"save","blob_id":"%s"}{"event":"save"}' % UNKNOWN.encode(),
    "a torn line joined to a whole one": b'{"event":"sa{"event":"save","blob_id":"%s"}' % UNKNOWN.encode(),
    "zeros, as after a power failure": bytes(300),
    "random bytes": random.Random(3).randbytes(300).replace(b"\n", b" "),
    "not ASCII": b'{"event":"save","blob_id":"%s","workflow":"w","task":"\xc3\xa9"}' % UNKNOWN.encode(),
    "Latin-1": b'{"event":"save","blob_id":"%s","workflow":"w","task":"\xe9"}' % UNKNOWN.encode(),
    "a lone surrogate": b'{"event":"save","blob_id":"%s","workflow":"w","task":"\\ud800"}' % UNKNOWN.encode(),
    "nested too deep": b"[" * 100_000,
    "a carriage return": b"\r",
    "CSV": b"save,w,x,5",
}


def assert_no_nulls(storage: FileStorage) -> None:
    """Assert that no row of tasks or events lacks what every row has."""
    assert all(None not in (row["workflow"], row["task"], row["blob_id"]) for row in task_rows(storage.catalog))
    query = """
        FROM events WHERE event IS NULL OR event_id IS NULL OR time IS NULL
        OR event IN ('save', 'remove') AND (workflow IS NULL OR task IS NULL)
    """
    assert storage.catalog.sql(query).fetchall() == []


def test_lines_that_are_no_events_are_skipped_and_counted(storage: FileStorage) -> None:
    """Torn, damaged and foreign lines between whole ones are counted, make no row, and hide no neighbour."""
    storage.save("w", "a", 1)
    (segment,) = segments(storage)
    with segment.open("ab") as file:
        file.write(b"".join(line + b"\n" for line in BAD_LINES.values()))
    storage.save("w", "b", 2)
    refreshed = storage.catalog.refresh()
    assert refreshed.torn == len(BAD_LINES)
    assert task_names(storage.catalog) == [("w", "a"), ("w", "b")]
    assert history(storage.catalog) == [("save", "a"), ("save", "b")]
    assert_no_nulls(storage)
    assert storage.catalog.refresh().torn == len(BAD_LINES)


def test_each_bad_line_is_counted_once(storage: FileStorage) -> None:
    """A bad line of each kind, as the last one of a segment of its own, is counted, and so is what comes after it."""
    storage.save("w", "a", 1)
    for kind, line in BAD_LINES.items():
        write_segment(storage, [line], kind)
    assert storage.catalog.refresh().torn == len(BAD_LINES)
    for kind in BAD_LINES:
        write_segment(storage, [b"x"], kind)
    assert storage.catalog.refresh().torn == 2 * len(BAD_LINES)
    storage.save("w", "b", 2)
    assert storage.list_tasks("w") == ["a", "b"]
    assert_no_nulls(storage)


def test_a_torn_last_line_without_its_end(storage: FileStorage) -> None:
    """A segment that ends in the middle of a line is counted as torn, and its other lines are read."""
    storage.save("w", "a", 1)
    storage.save("w", "b", 1)
    (segment,) = segments(storage)
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-20])
    for _ in range(2):
        assert storage.catalog.refresh().torn == 1
        assert storage.list_tasks("w") == ["a", "b"]  # b by its blob
    with segment.open("ab") as file:
        file.write(whole[-20:])  # it was being written
    assert storage.catalog.refresh().torn == 0
    assert history(storage.catalog) == [("save", "a"), ("save", "b")]


@pytest.mark.slow
def test_a_segment_cut_at_every_byte(storage: FileStorage) -> None:
    """Wherever a crash cuts a segment, the index built from it has each whole line's event and every blob's task."""
    for name in ("a", "b"):
        storage.save("w", name, 1)
    (segment,) = segments(storage)
    whole = segment.read_bytes()
    for size in random.Random(1).sample(range(len(whole)), 12):
        segment.write_bytes(whole[:size])
        index_of(storage).unlink(missing_ok=True)
        assert storage.list_tasks("w") == ["a", "b"]
        assert storage.catalog.refresh().torn == (not whole[:size].endswith(b"\n") and size > 0)


def test_doubled_keys_do_no_harm(storage: FileStorage) -> None:
    """A line in which keys stand twice, or values have other types than they should, is an event or none, no error."""
    storage.save("w", "a", 1)
    odd = [
        b'{"event":"save","event":"remove","blob_id":"%s","workflow":"w","task":"x","saved_at":"2026-01-01T00:00:00Z"}',
        b'{"event":"save","blob_id":"%s","workflow":"w","task":"y","task":"z","size":"big","saved_at":"2026-01-01"}',
        b'{"event":"save","blob_id":"%s","workflow":5,"task":[1],"saved_at":"2026-01-01","serializers":"pickle"}',
        b'{"event":"save","blob_id":"%s","workflow":"w","task":"v","size":99999999999999999999,"pid":1e400,'
        b'"saved_at":"2026-01-01","inputs":5,"packages":[]}',
    ]
    write_segment(storage, [line % new_id().encode() for line in odd])
    storage.save("w", "b", 1)
    assert task_names(storage.catalog) == [("w", "a"), ("w", "b")]
    assert_no_nulls(storage)


def test_unknown_fields_and_kinds_are_kept(storage: FileStorage) -> None:
    """A newer writer's fields are left out, and its kinds of events are history."""
    event = {"event": "checked", "event_id": new_id(), "time": "2026-01-01T00:00:00Z", "workflow": "w", "colour": "red"}
    write_segment(storage, [event])
    storage.save("w", "a", 1)
    assert storage.catalog.refresh().torn == 0
    assert sorted(history(storage.catalog), key=str) == [("checked", None), ("save", "a")]


# Segments that were copied, doubled or overlap


def grown(storage: FileStorage) -> None:
    """Save, overwrite and remove, in two segments."""
    for name in ("a", "b", "c"):
        storage.save("w", name, 1)
    storage.save("w", "a", 2)
    forget_segment(storage)
    storage.remove_task("w", "b")
    storage.save("w", "b", 3)
    storage.remove_task("w", "c")


GROWN = [("save", "a"), ("save", "b"), ("save", "c"), ("save", "a"), ("remove", "b"), ("save", "b"), ("remove", "c")]


@pytest.mark.parametrize("asked_before", [True, False], ids=["asked before", "never asked"])
def test_copied_and_overlapping_segments_change_nothing(storage: FileStorage, asked_before: bool) -> None:
    """Copies of segments, of parts of them, backwards and all in one, change neither tasks nor history."""
    grown(storage)
    before = task_rows(storage.catalog)
    if not asked_before:
        delete_index(storage)
    everything = [line for segment in segments(storage) for line in segment.read_bytes().splitlines()]
    for segment in segments(storage):
        shutil.copy(segment, segment.with_name(f"copy-{segment.name}"))
    write_segment(storage, everything, "0-all")
    write_segment(storage, reversed(everything), "backwards")
    write_segment(storage, everything[2:5] * 2, "middle")
    storage.list_tasks("w")
    assert task_rows(storage.catalog) == before
    assert history(storage.catalog) == GROWN
    assert storage.catalog.refresh() == storage.catalog.refresh()


@pytest.mark.slow
def test_events_in_any_order_of_segments(storage: FileStorage) -> None:
    """However the lines are dealt out over segments, and in whatever order those are read, the index is the same."""
    grown(storage)
    before = task_rows(storage.catalog)
    everything = [line for segment in segments(storage) for line in segment.read_bytes().splitlines()]
    chance = random.Random(7)
    for _ in range(6):
        for segment in segments(storage):
            segment.unlink()
        dealt = everything[:]
        chance.shuffle(dealt)
        for number in range(3):
            write_segment(storage, dealt[number::3], f"{chance.random()}")
        delete_index(storage)
        assert task_rows(storage.catalog) == before
        assert history(storage.catalog) == GROWN


def test_a_segment_of_another_storage(storage: FileStorage, tmp_path: Path) -> None:
    """A segment copied in from another storage lists nothing whose file is not here, be its workflow known or not."""
    other = FileStorage(tmp_path / "other")
    for workflow in ("w", "v"):
        for name in ("ghost", "phantom"):
            other.save(workflow, name, 1)
    storage.save("w", "a", 1)
    assert storage.list_tasks("w") == ["a"]
    write_segment(storage, segments(other)[0].read_bytes().splitlines())
    assert task_names(storage.catalog) == [("w", "a")]
    assert storage.list_tasks("v") == []


# Writers that were killed


KILLED = """
import os, signal, sys
from functionfuse.storage.filestorage import FileStorage
root, step, *names = sys.argv[1:]
storage = FileStorage(root)
for name in names[:-1]:
    storage.save("w", name, "old")

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def replace_and_die(source, target, replace=os.replace):
    replace(source, target)
    die()

def wait_and_replace(source, target, replace=os.replace):
    print("waiting", flush=True)
    sys.stdin.readline()
    replace(source, target)

if step == "remove":
    os.unlink = die
    storage.remove_task("w", names[-1])
os.replace = {"before": die, "after": replace_and_die, "late": wait_and_replace}[step]
storage.save("w", names[-1], "new")
print("done", flush=True)
"""


def kill_while_saving(storage: FileStorage, step: str, *names: str) -> None:
    """Save results in another process, which is killed at a step of the last one."""
    with running_python(KILLED, root_of(storage), step, *names) as process:
        assert process.wait() == -9


@contextmanager
def paused_before_rename(storage: FileStorage, name: str) -> Iterator[Any]:
    """Stop another process between the record of a save and its rename; the value lets it go on."""
    with running_python(KILLED, root_of(storage), "late", name) as process:
        wait_for(process, "waiting")

        def go_on() -> None:
            say(process, "go")
            wait_for(process, "done")

        yield go_on


def test_a_record_without_its_rename_is_no_result(storage: FileStorage) -> None:
    """A new result whose writer was killed between record and rename is neither listed nor told of as saved."""
    storage.save("w", "a", 1)
    kill_while_saving(storage, "before", "b", "c")
    assert [line["task"] for line in lines(storage)] == ["a", "b", "c"]
    for _ in range(2):
        assert storage.list_tasks("w") == ["a", "b"]
        assert history(storage.catalog) == [("save", "a"), ("save", "b")]
    delete_index(storage)
    assert storage.list_tasks("w") == ["a", "b"]
    assert history(storage.catalog) == [("save", "a"), ("save", "b")]


@pytest.mark.slow
@pytest.mark.parametrize("asked_before", [True, False], ids=["asked before", "never asked"])
def test_an_overwrite_without_its_rename_leaves_the_old_result(storage: FileStorage, asked_before: bool) -> None:
    """A killed overwrite leaves the old result listed, with all its columns, at every later question."""
    storage.save("w", "a", "old")
    before = task_rows(storage.catalog)
    if not asked_before:
        delete_index(storage)
    kill_while_saving(storage, "before", "a")
    for _ in range(2):
        assert task_rows(storage.catalog) == before
        assert history(storage.catalog) == [("save", "a")]
    storage.save("w", "a", "newest")
    assert [row["value"] for row in task_rows(storage.catalog)] == ['"newest"']
    assert history(storage.catalog) == [("save", "a"), ("save", "a")]


def test_a_rename_that_was_the_last_thing_done(storage: FileStorage) -> None:
    """A result whose writer was killed right after the rename is listed, and its save is told of."""
    kill_while_saving(storage, "after", "a", "b")
    assert storage.list_tasks("w") == ["a", "b"]
    assert history(storage.catalog) == [("save", "a"), ("save", "b")]


def test_a_rename_that_comes_late(storage: FileStorage) -> None:
    """While a writer has not renamed yet, the old result is listed; when it has, the new one."""
    storage.save("w", "a", "old")
    with paused_before_rename(storage, "a") as go_on:
        for _ in range(2):
            assert [row["value"] for row in task_rows(storage.catalog)] == ['"old"']
            assert history(storage.catalog) == [("save", "a")]
        go_on()
        assert [row["value"] for row in task_rows(storage.catalog)] == ['"new"']
        assert history(storage.catalog) == [("save", "a"), ("save", "a")]


def test_a_late_rename_over_a_newer_result(storage: FileStorage) -> None:
    """A writer that renames late puts its older result over a newer one; the blob is what is listed."""
    storage.save("w", "a", "old")
    with paused_before_rename(storage, "a") as go_on:
        storage.save("w", "a", "newer")
        assert [row["value"] for row in task_rows(storage.catalog)] == ['"newer"']
        go_on()
        assert storage.read_task("w", "a") == "new"
        assert [row["value"] for row in task_rows(storage.catalog)] == ['"new"']
        assert str(task_rows(storage.catalog)[0]["blob_id"]) == blob_id(storage, "w", "a")


def test_a_late_rename_of_what_was_removed(storage: FileStorage) -> None:
    """A result that is renamed into place after the one before it was removed is listed."""
    storage.save("w", "a", "old")
    with paused_before_rename(storage, "a") as go_on:
        storage.remove_task("w", "a")
        assert storage.list_tasks("w") == []
        go_on()
        assert storage.list_tasks("w") == ["a"]
        assert [row["value"] for row in task_rows(storage.catalog)] == ['"new"']


def test_a_removal_that_was_not_done(storage: FileStorage) -> None:
    """A task whose remover was killed before it unlinked the file is still listed; no removal is told of."""
    storage.save("w", "a", 1)
    kill_while_saving(storage, "remove", "a", "a")
    assert lines(storage)[-1]["event"] == "remove"
    for _ in range(2):
        assert storage.list_tasks("w") == ["a"]
        assert [event for event, _ in history(storage.catalog)] == ["save", "save"]
    storage.remove_task("w", "a")
    assert storage.list_tasks("w") == []
    assert [event for event, _ in history(storage.catalog)][-1] == "remove"


def test_a_removal_and_a_save_by_another_process(storage: FileStorage) -> None:
    """A removal that was its process's last deed stays in the history when another process saves the task anew."""
    storage.save("w", "a", 1)
    storage.remove_task("w", "a")
    forget_segment(storage)
    storage.save("w", "a", 2)
    forget_segment(storage)
    for _ in range(2):
        assert history(storage.catalog) == [("save", "a"), ("remove", "a"), ("save", "a")]
        assert storage.list_tasks("w") == ["a"]


def test_each_event_by_a_process_of_its_own(storage: FileStorage) -> None:
    """When every event stands alone in its segment, the history is whole, asked in between or in the end."""
    for asked in (True, False):
        name = f"asked {asked}"
        for deed in ("save", "save", "remove", "save", "remove"):
            forget_segment(storage)
            if deed == "save":
                storage.save("w", name, deed)
            else:
                storage.remove_task("w", name)
            if asked:
                storage.list_tasks("w")
    expected = ["save", "save", "remove", "save", "remove"] * 2
    assert [event for event, _ in history(storage.catalog)] == expected
    delete_index(storage)
    assert [event for event, _ in history(storage.catalog)] == expected
    assert task_names(storage.catalog) == []


def test_killed_writers_do_not_make_later_questions_dear(storage: FileStorage) -> None:
    """After writers were killed, a question at which nothing is new writes nothing to the index."""
    for name in ("a", "b"):
        storage.save("w", name, 1)
    for task in ("a", "b", "absent"):
        write_segment(storage, [save_event("w", task, new_id())])
    assert storage.list_tasks("w") == ["a", "b"]
    before = index_of(storage).stat().st_mtime_ns, index_of(storage).read_bytes()
    assert storage.list_tasks("w") == ["a", "b"]
    assert (index_of(storage).stat().st_mtime_ns, index_of(storage).read_bytes()) == before


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count the footers that questions read."""
    found: list[str] = []
    look_at = blobs.blob_at

    def counted(store: LocalStore, folder: str, file: str) -> Any:
        found.append(f"{folder}/{file}")
        return look_at(store, folder, file)

    monkeypatch.setattr(blobs, "blob_at", counted)
    return found


def test_the_cost_of_a_kill_does_not_grow_with_the_storage(storage: FileStorage, looked_at: list[str]) -> None:
    """In a storage with hundreds of results, the questions after a kill read the footers of a handful of blobs."""
    for number in range(400):
        storage.save("w", f"{number:03}", number)
    storage.list_tasks("w")
    assert len(looked_at) <= 2
    kill_while_saving(storage, "before", "000", "001")
    looked_at.clear()
    assert len(storage.list_tasks("w")) == 400
    assert len(looked_at) <= 6
    looked_at.clear()
    assert len(storage.list_tasks("w")) == 400
    assert len(looked_at) <= 3


def test_a_first_question_opens_few_blobs(storage: FileStorage, looked_at: list[str]) -> None:
    """Folding a journal of one writer, overwrites included, opens a blob or two, not all of them."""
    for number in range(300):
        storage.save("w", f"{number % 100:03}", number)
    assert len(storage.list_tasks("w")) == 100
    assert len(looked_at) <= 2


# Several writers of one name


def overwritten_by_two(storage: FileStorage) -> tuple[dict[str, Any], dict[str, Any]]:
    """Let two writers overwrite one result; return the lines of both, the present one's last."""
    storage.save("w", "a", "first")
    forget_segment(storage)
    storage.save("w", "a", "second")
    found = lines(storage)
    for segment in segments(storage):
        segment.unlink()
    return found[0], found[1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_the_blob_decides_between_writers(storage: FileStorage, seed: int) -> None:
    """Whatever ids rivals have, in whatever order and segments their lines come, the one in the blob is listed."""
    chance = random.Random(seed)
    loser, winner = overwritten_by_two(storage)
    rivals = [save_event("w", "a", str(uuid.UUID(int=chance.getrandbits(128))), value="rival") for _ in range(4)]
    events = [loser, winner, *rivals]
    chance.shuffle(events)
    for number, event in enumerate(events):
        write_segment(storage, [event, save_event("w", "ghost", new_id())], f"{number}")
        if chance.random() < 0.5:
            storage.list_tasks("w")
    assert [(row["task"], row["value"]) for row in task_rows(storage.catalog)] == [("a", '"second"')]
    assert blob_id(storage, "w", "a") == winner["blob_id"]


def test_a_writer_whose_clock_is_ahead(storage: FileStorage) -> None:
    """A line from the future, of a writer whose blob was replaced, does not hide the blob that is there."""
    loser, winner = overwritten_by_two(storage)
    future = {**loser, "blob_id": FAR_AHEAD, "saved_at": "2999-01-01T00:00:00Z"}
    write_segment(storage, [winner])
    assert storage.list_tasks("w") == ["a"]
    write_segment(storage, [future, save_event("w", "ghost", new_id())])
    assert [row["value"] for row in task_rows(storage.catalog)] == ['"second"']


def test_lines_that_arrive_late_do_not_bring_back_what_was_removed(storage: FileStorage) -> None:
    """A removal holds against the older saves of its name, though their lines come to light after it."""
    storage.save("w", "a", 1)
    storage.save("w", "a", 2)
    storage.remove_task("w", "a")
    first, second, removal = lines(storage)
    for segment in segments(storage):
        segment.unlink()
    write_segment(storage, [removal])
    assert task_names(storage.catalog) == []
    write_segment(storage, [second])
    assert task_names(storage.catalog) == []
    write_segment(storage, [first, save_event("w", "ghost", new_id())])
    assert task_names(storage.catalog) == []
    assert [event for event, _ in history(storage.catalog)] == ["save", "save", "remove"]


def test_a_removal_of_what_was_saved_again(storage: FileStorage) -> None:
    """A removal whose line comes late does not hide the result that was saved after it."""
    storage.save("w", "a", 1)
    first = blob_id(storage, "w", "a")
    storage.remove_task("w", "a")
    storage.save("w", "a", 2)
    late = remove_event("w", "a", FAR_AHEAD, first)
    write_segment(storage, [late, save_event("w", "ghost", new_id())])
    assert storage.list_tasks("w") == ["a"]


# Clocks


class Clock:
    """A clock that is set by hand, as storage and ids see it."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def time(self) -> float:
        """Return seconds."""
        return self.now

    def time_ns(self) -> int:
        """Return nanoseconds."""
        return int(self.now * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give storage and ids a clock that the test sets."""
    clock = Clock()
    monkeypatch.setattr(ids, "time", clock)
    monkeypatch.setattr(ids, "_last_tick", 0)
    monkeypatch.setattr(author, "time", SimpleNamespace(time=clock.time))
    return clock


def test_an_overwrite_by_a_clock_that_is_behind(storage: FileStorage, clock: Clock, monkeypatch: Any) -> None:
    """Writers whose clocks are behind, by days, still overwrite with greater ids, and the last result is listed."""
    found = []
    for number in range(6):
        storage.save("w", "a", number)
        found.append(blob_id(storage, "w", "a"))
        be_another_process(storage, monkeypatch)
        clock.now -= 86_400
        if number % 2:
            assert [row["value"] for row in task_rows(storage.catalog)] == [str(number)]
    assert found == sorted(set(found))
    for _ in range(2):
        assert [row["value"] for row in task_rows(storage.catalog)] == ["5"]
        assert history(storage.catalog) == [("save", "a")] * 6
        delete_index(storage)


def test_a_removal_by_a_clock_that_is_behind(storage: FileStorage, clock: Clock, monkeypatch: Any) -> None:
    """What a process with a slow clock removes stays removed, and what it then saves is listed."""
    storage.save("w", "a", 1)
    be_another_process(storage, monkeypatch)
    clock.now -= 86_400
    storage.remove_task("w", "a")
    assert storage.list_tasks("w") == []
    be_another_process(storage, monkeypatch)
    clock.now -= 86_400
    storage.save("w", "a", 2)  # nothing tells this one what was there before
    for _ in range(2):
        assert [row["value"] for row in task_rows(storage.catalog)] == ["2"]
        delete_index(storage)


def test_a_clock_that_jumps_back_between_questions(storage: FileStorage, clock: Clock, monkeypatch: Any) -> None:
    """Folding goes by positions and ids, not by time: no question misses a save because the clock was set back."""
    from catalog.index import reconcile as settle

    monkeypatch.setattr(settle, "time", clock)
    for number in range(4):
        storage.save("w", str(number), number)
        clock.now -= 3600
        assert len(storage.list_tasks("w")) == number + 1


def test_a_journal_line_is_what_the_design_says(storage: FileStorage) -> None:
    """A segment's name is a UUIDv7, and a line one JSON object with the kind first, as any tool reads it."""
    storage.save("w", "a", 1)
    (segment,) = segments(storage)
    assert uuid.UUID(segment.stem).version == 7
    line = segment.read_bytes()
    assert line.startswith(b'{"event":"save"')
    assert line.endswith(b"}\n")
    assert json.loads(line)["blob_id"] == blob_id(storage, "w", "a")
