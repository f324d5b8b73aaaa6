"""Exports of events that continue one another: no gap, no overlap, whatever arrives when."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor import hashes_of, link, manifest_of
from catalog.audit.audit import verify_exports
from catalog.errors import ExportRefused, InvalidQuestion
from catalog.format.ids import new_id
from functionfuse.storage.filestorage import FileStorage
from workshop import delete_catalog, root_of, save_event, segments, write_segment

RUN = "01890000-0000-7000-8000-000000000001"


def note(**fields: Any) -> dict[str, Any]:
    """Return a line that tells of a run: an event that is never provisional."""
    times = {"event_id": new_id(), "time": "2026-01-02T03:04:06.000000Z"}
    return {"event": "run-started", "workflow": "w", "run_id": RUN, "details": {}, **times, **fields}


def ids(*paths: Path) -> list[str]:
    """Return the ids of the events in exports."""
    return [event for path in paths for event in pq.read_table(path).column("event_id").to_pylist()]


def test_positions_and_chains(storage: FileStorage, tmp_path: Path) -> None:
    """Each event has its segment and line; each segment its lines, rows and a chain that can be computed by hand."""
    for name in ("b", "a"):
        write_segment(storage, [note(), note(), note()], name)
    path = tmp_path / "out.parquet"
    storage.catalog.export(path, "events")
    rows = pq.read_table(path)
    places = list(zip(rows.column("segment").to_pylist(), rows.column("position").to_pylist(), strict=True))
    assert places == [(f"{name}.ndjson", line) for name in ("a", "b") for line in (1, 2, 3)]
    for segment, lines in manifest_of(path)["segments"].items():
        mine = rows.filter(pa.compute.equal(rows.column("segment"), segment))
        assert lines == {
            "begin": 0,
            "end": 3,
            "rows": 3,
            "hash_before": "00" * 32,
            "hash_after": link("00" * 32, hashes_of(mine)),
            "missing": [],
        }


def test_torn_lines_are_declared(storage: FileStorage, tmp_path: Path) -> None:
    """A line that is no event has a number, and no row: the metadata say so, and the audit holds them to it."""
    write_segment(storage, [b'{"torn', note(), b"{", b"", note(), b"torn at the end"], "a")
    path = tmp_path / "out.parquet"
    storage.catalog.export(path, "events")
    (lines,) = manifest_of(path)["segments"].values()
    assert pq.read_table(path).column("position").to_pylist() == [2, 5]
    assert (lines["end"], lines["missing"]) == (5, [[1, 1], [3, 4]])
    assert verify_exports(path).ok


def test_an_export_begins_behind_the_one_before(storage: FileStorage, tmp_path: Path) -> None:
    """Exports that continue one another hold every event once, and say so by positions and chains."""
    paths: list[Path] = []
    for number in range(4):
        storage.save("w", "t", number)
        storage.note("run-started", "w", RUN, {})
        if number == 2:
            write_segment(storage, [note(), note()], "late")
        if number == 3:
            write_segment(storage, [note()], "late")
        paths.append(tmp_path / f"{number}.parquet")
        made = storage.catalog.export(paths[-1], "events", after=paths[-2] if number else None)
        assert made.rows == [2, 2, 4, 3][number]
    for before, behind in itertools.pairwise(paths):
        one, other = manifest_of(before), manifest_of(behind)
        assert other["previous"] == one["digest"]
        for segment, lines in one["segments"].items():
            assert other["segments"][segment]["begin"] == lines["end"]
            assert other["segments"][segment]["hash_before"] == lines["hash_after"]
    storage.catalog.export(tmp_path / "all.parquet", "events")
    assert sorted(ids(*paths)) == sorted(ids(tmp_path / "all.parquet"))
    assert verify_exports(*paths).ok


def test_nothing_new(storage: FileStorage, tmp_path: Path) -> None:
    """An export of nothing carries the chain on, so that the next one begins where the last event was."""
    storage.note("run-started", "w", RUN, {})
    paths = [tmp_path / f"{number}.parquet" for number in range(4)]
    storage.catalog.export(paths[0], "events")
    assert storage.catalog.export(paths[1], "events", after=paths[0]).rows == 0
    assert storage.catalog.export(paths[2], "events", after=paths[1]).rows == 0
    storage.note("run-started", "w", RUN, {})
    assert storage.catalog.export(paths[3], "events", after=paths[2]).rows == 1
    assert verify_exports(*paths).ok


def test_events_that_arrive_late(storage: FileStorage, tmp_path: Path) -> None:
    """A segment of an earlier time that arrives after an export is in the next one."""
    storage.note("run-started", "w", RUN, {})
    paths = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    storage.catalog.export(paths[0], "events")
    early = note(event_id="01000000-0000-7000-8000-000000000001", time="2001-01-01T00:00:00Z")
    write_segment(storage, [early], "00000000-early")
    storage.catalog.export(paths[1], "events", after=paths[0])
    assert ids(paths[1]) == [early["event_id"]]
    assert verify_exports(*paths).ok


def test_an_event_that_is_not_decided(storage: FileStorage, tmp_path: Path) -> None:
    """A save that may not have happened is in no export; once it is settled it is in the next, at its place."""
    provisional = save_event("w", "t", new_id())
    path = write_segment(storage, [note(), provisional], "a")
    paths = [tmp_path / f"{number}.parquet" for number in range(3)]
    assert storage.catalog.export(paths[0], "events").rows == 1
    assert manifest_of(paths[0])["segments"][path.name]["end"] == 1
    assert storage.catalog.export(paths[1], "events", after=paths[0]).rows == 0
    write_segment(storage, [note()], "a")
    assert storage.catalog.export(paths[2], "events", after=paths[1]).rows == 2
    assert ids(paths[2])[0] == provisional["blob_id"]
    assert verify_exports(*paths).ok


def test_torn_lines_before_one_that_is_not_decided(storage: FileStorage, tmp_path: Path) -> None:
    """Lines without events just before a provisional one belong to the export that ends there."""
    write_segment(storage, [note(), b"torn", b"torn", save_event("w", "t", new_id())], "a")
    path = tmp_path / "0.parquet"
    storage.catalog.export(path, "events")
    (lines,) = manifest_of(path)["segments"].values()
    assert (lines["end"], lines["missing"]) == (3, [[2, 3]])
    assert verify_exports(path).ok


def test_filters_have_the_same_positions(storage: FileStorage, tmp_path: Path) -> None:
    """A filtered chain tells of all lines, and of its own rows only; the audit finds it sound."""
    paths = [tmp_path / f"{number}.parquet" for number in range(2)]
    for number, path in enumerate(paths):
        storage.save("w", "t", number)
        storage.save("other", "t", number)
        storage.note("run-started", "w", RUN, {})
        after = paths[0] if number else None
        assert storage.catalog.export(path, "events", workflow="w", event="save", after=after).rows == 1
    storage.catalog.export(tmp_path / "all.parquet", "events")
    whole, filtered = manifest_of(tmp_path / "all.parquet"), manifest_of(paths[1])
    assert {name: lines["end"] for name, lines in whole["segments"].items()} == {
        name: lines["end"] for name, lines in filtered["segments"].items()
    }
    assert verify_exports(*paths).ok


def test_a_chain_in_parts(storage: FileStorage, tmp_path: Path) -> None:
    """Exports in parts continue one another, and exports in one file, and the other way round."""
    places = [tmp_path / name for name in ("0", "1", "2.parquet", "3")]
    for number, place in enumerate(places):
        for workflow in ("v", "w"):
            storage.save(workflow, f"t{number}", number)
        storage.note("run-started", "w", RUN, {})
        by = [None, "workflow", None, "day"][number - 1 if number else 1]
        made = storage.catalog.export(place, "events", partition_by=by, after=places[number - 1] if number else None)
        assert made.rows == 3
    assert verify_exports(*places).ok


def test_nothing_in_parts(storage: FileStorage, tmp_path: Path) -> None:
    """An export in parts that has no rows is one empty file, which can be continued."""
    storage.new_workflow("w")
    made = storage.catalog.export(tmp_path / "0", "events", partition_by="day")
    assert made.paths == (str(tmp_path / "0" / "part.parquet"),)
    storage.note("run-started", "w", RUN, {})
    assert storage.catalog.export(tmp_path / "1", "events", partition_by="day", after=tmp_path / "0").rows == 1
    assert verify_exports(tmp_path / "0", tmp_path / "1").ok


@pytest.fixture
def exported(storage: FileStorage, tmp_path: Path) -> Path:
    """Return an export of events."""
    storage.save("w", "t", 1)
    storage.note("run-started", "w", RUN, {})
    storage.catalog.export(tmp_path / "exported.parquet", "events")
    return tmp_path / "exported.parquet"


def refused(storage: FileStorage, after: Path | str, message: str, **filters: Any) -> None:
    """Expect that an export is not continued, for a reason, and that nothing is written."""
    new = root_of(storage).parent / "new.parquet"
    with pytest.raises(ExportRefused, match=message):
        storage.catalog.export(new, "events", after=after, **filters)
    assert not new.exists()


def test_after_something_else(storage: FileStorage, exported: Path, tmp_path: Path) -> None:
    """What is no export of events cannot be continued: the message says what it is."""
    storage.catalog.export(tmp_path / "tasks", "tasks")
    (tmp_path / "text").write_text("text")
    (tmp_path / "empty").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other")
    refused(storage, tmp_path / "absent", r"absent is no export that can be continued: .*No such file")
    refused(storage, tmp_path / "text", r"text is no export that can be continued: .*[Pp]arquet")
    refused(storage, tmp_path / "empty", r"empty holds no Parquet file")
    refused(storage, tmp_path / "other", r"it is no export of a catalog")
    refused(storage, tmp_path / "tasks", r"tasks is an export of tasks: only those of events are continued")
    refused(storage, "nowhere://a/b", r"nowhere://a/b cannot be reached")
    with pytest.raises(InvalidQuestion, match="cannot take the place of the one that it continues"):
        storage.catalog.export(exported, "events", after=exported, overwrite=True)


def test_after_what_it_would_replace(
    storage: FileStorage, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the place of an export is written, the one that continues it does not take its place."""
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to(exported)
    before = exported.read_bytes()
    for place in (exported.name, f"./{exported.name}", f"file://{exported}", "link"):
        with pytest.raises(InvalidQuestion, match="cannot take the place of the one that it continues"):
            storage.catalog.export(place, "events", after=exported, overwrite=True)
    assert exported.read_bytes() == before


def test_after_other_filters(storage: FileStorage, exported: Path) -> None:
    """An export with other filters is refused with both."""
    refused(storage, exported, r"has the filters \{\}, this export \{'event': 'save'\}", event="save")


def test_after_another_storage(exported: Path, tmp_path: Path) -> None:
    """An export of another storage is refused with both identities."""
    other = FileStorage(tmp_path / "other" / "storage")
    other.save("w", "t", 1)
    refused(other, exported, rf"is of storage {manifest_of(exported)['storage']}, this one is ")


def test_after_a_history_that_was_lost(storage: FileStorage, exported: Path) -> None:
    """Where the journal was lost, a chain is not continued as if nothing had happened."""
    (segment,) = segments(storage)
    identity = root_of(storage) / ".catalog" / "storage.json"
    content = identity.read_bytes()
    delete_catalog(storage)
    identity.parent.mkdir()
    identity.write_bytes(content)
    refused(storage, exported, rf"segment {segment.name}, which now has 0: part of it is lost; begin a new chain")


def test_after_a_part(storage: FileStorage, exported: Path, tmp_path: Path) -> None:
    """One part of an export, and a folder of several exports, are refused."""
    storage.save("v", "t", 1)
    storage.note("run-started", "v", RUN, {})
    made = storage.catalog.export(tmp_path / "parts", "events", partition_by="workflow")
    refused(storage, made.paths[0], r"has 1 of the 2 files of its export")
    storage.catalog.export(tmp_path / "second.parquet", "events")
    refused(storage, tmp_path, r"holds several exports: name the last one")


@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["note", "save", "torn", "export", "export in parts"])),
        max_size=25,
    )
)
@settings(max_examples=15)
def test_any_history(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]) -> None:
    """However lines of several writers and exports follow one another, every settled event is in one export."""
    folder = tmp_path_factory.mktemp("history")
    storage = FileStorage(folder / "storage")
    storage.new_workflow("w")
    exports: list[Path] = []
    for segment, step in [*steps, *((name, "note") for name in "abc"), ("", "export")]:
        if not step.startswith("export"):
            line = {"note": note(), "save": save_event("w", "t", new_id()), "torn": b"torn"}[step]
            write_segment(storage, [line], segment)
            continue
        exports.append(folder / str(len(exports)))
        by = "day" if step == "export in parts" else None
        storage.catalog.export(exports[-1], "events", partition_by=by, after=exports[-2] if exports[1:] else None)
    audit = verify_exports(*exports)
    assert audit.ok, audit.findings
    wanted = sum(step in ("note", "save") for _, step in steps) + 3
    assert sum(file.rows for file in audit.files) == wanted
