"""`catalog.audit.export`: Parquet that any other tool reads, written whole or not at all."""

from __future__ import annotations

import json
import os
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from auditor import digest_of, manifest_of
from catalog.audit.audit import verify_exports
from catalog.audit.working_file import COLUMNS
from catalog.errors import ExportRefused, InvalidQuestion
from catalog.index.schema import SCHEMA_VERSION
from functionfuse.storage.filestorage import FileStorage
from workshop import run_python

RUN = "01890000-0000-7000-8000-000000000001"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> FileStorage:
    """Return a storage with two results, a removal and a run."""
    storage = FileStorage(tmp_path_factory.mktemp("stored"))
    storage.note("run-started", "w", RUN, {"backend": "local"})
    storage.save("w", "a", {"accuracy": 0.5})
    storage.save("w", "é😀", 2)
    storage.save("w", "gone", 3)
    storage.remove_task("w", "gone")
    storage.note("run-finished", "w", RUN, {"status": "finished", "computed": 3, "restored": 0})
    return storage


ROWS = {"tasks": 2, "events": 6, "runs": 1}


@pytest.mark.parametrize("table", ROWS)
def test_each_table_is_read_by_pyarrow(stored: FileStorage, tmp_path: Path, table: str) -> None:
    """Each table arrives with all its columns and rows, compressed with zstd."""
    stored.catalog.export(tmp_path / "out.parquet", table)
    file = pq.read_table(tmp_path / "out.parquet")
    assert file.column_names == [column.name for column in COLUMNS[table]]
    assert file.num_rows == ROWS[table]
    assert pq.ParquetFile(tmp_path / "out.parquet").metadata.row_group(0).column(0).compression == "ZSTD"
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_what_is_exported_is_what_is_asked(stored: FileStorage, tmp_path: Path) -> None:
    """The exported tasks, read by plain DuckDB, equal the answer of the catalog in every column."""
    path = tmp_path / "out.parquet"
    stored.catalog.export(str(path))
    with duckdb.connect() as connection:
        read = connection.sql(f"SELECT * FROM '{path}' ORDER BY workflow, task").fetchall()
    assert [tuple(map(str, row)) for row in read] == [tuple(map(str, row)) for row in stored.catalog.tasks().fetchall()]


def test_polars_reads_the_export(stored: FileStorage, tmp_path: Path) -> None:
    """Polars reads names, lists and JSON text of the exported tasks."""
    polars = pytest.importorskip("polars")
    stored.catalog.export(tmp_path / "out.parquet")
    frame = polars.read_parquet(tmp_path / "out.parquet")
    assert frame["task"].to_list() == ["a", "é😀"]
    assert frame["serializers"].to_list() == [["pickle"], ["pickle"]]
    assert frame["value"].to_list() == ['{"accuracy":0.5}', "2"]
    assert str(frame["saved_at"].dtype).startswith("Datetime")


def test_pandas_reads_the_export(stored: FileStorage, tmp_path: Path) -> None:
    """Pandas reads names and times of the exported events."""
    pandas = pytest.importorskip("pandas")
    stored.catalog.export(tmp_path / "out.parquet", "events")
    frame = pandas.read_parquet(tmp_path / "out.parquet")
    assert sorted(frame["event"]) == ["remove", "run-finished", "run-started", "save", "save", "save"]
    assert frame["time"].notna().all()


def test_an_export_of_an_empty_storage(storage: FileStorage, tmp_path: Path) -> None:
    """A storage without results is exported as a table without rows."""
    storage.new_workflow("w")
    storage.catalog.export(tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


def test_an_export_replaces_the_one_before(stored: FileStorage, tmp_path: Path) -> None:
    """A second export to the same file is refused, and takes its place if that is wanted."""
    path = tmp_path / "out.parquet"
    stored.catalog.export(path, "runs")
    with pytest.raises(ExportRefused, match=r"out\.parquet is there already.*overwrite=True"):
        stored.catalog.export(path, "tasks")
    assert pq.read_table(path).num_rows == ROWS["runs"]
    stored.catalog.export(path, "tasks", overwrite=True)
    assert pq.read_table(path).num_rows == ROWS["tasks"]


def test_a_destination_without_a_folder(stored: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare file name is in the current folder."""
    monkeypatch.chdir(tmp_path)
    stored.catalog.export("out.parquet")
    assert (tmp_path / "out.parquet").is_file()


@pytest.mark.parametrize("table", ["latest", "history", "Tasks", "", "tasks; DROP TABLE latest"])
def test_an_unknown_table(stored: FileStorage, tmp_path: Path, table: str) -> None:
    """A table that is not one of the three is refused, with their names."""
    with pytest.raises(InvalidQuestion, match="tasks, events, runs"):
        stored.catalog.export(tmp_path / "out.parquet", table)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder(stored: FileStorage, tmp_path: Path) -> None:
    """A destination in a folder that is not there is refused, and named."""
    with pytest.raises(ExportRefused, match=r"absent/out\.parquet"):
        stored.catalog.export(tmp_path / "absent" / "out.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_destination_that_is_a_folder(stored: FileStorage, tmp_path: Path) -> None:
    """A destination that is a folder is refused, and nothing is left in or beside it."""
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportRefused):
        stored.catalog.export(tmp_path / "out")
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError(), KeyboardInterrupt()])
def test_an_export_that_fails_half_way(
    stored: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A failure while writing leaves the file of an earlier export as it was, and nothing beside it."""
    path = tmp_path / "out.parquet"
    path.write_bytes(b"earlier")

    write = pq.ParquetWriter.write_table

    def write_half(writer: Any, table: Any, *args: Any, **options: Any) -> None:
        if "part" in table.schema.names:  # the working file
            return write(writer, table, *args, **options)
        raise error

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_half)
    wanted = ExportRefused if isinstance(error, OSError) else type(error)
    with pytest.raises(wanted):
        stored.catalog.export(path, overwrite=True)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


# What is asked for


FILTERS: list[tuple[str, dict[str, Any]]] = [
    ("tasks", {"workflow": "w", "task": "a*"}),
    ("tasks", {"since": "2000-01-01", "until": "2100-01-01", "serializer": "pickle"}),
    ("tasks", {"until": "2000-01-01"}),
    ("tasks", {"serializer": "*"}),
    ("tasks", {"type": "int", "min_size": 1, "max_size": 10**6}),
    ("events", {"event": "s*"}),
    ("events", {"task": "gone", "event": "remove"}),
    ("events", {"since": "2100-01-01"}),
    ("runs", {"workflow": "[vw]", "status": "finished", "backend": "local"}),
    ("runs", {"status": "failed"}),
]
EXPECTED = [1, 2, 0, 0, 1, 3, 1, 0, 1, 0]


@pytest.mark.parametrize(("asked", "rows"), list(zip(FILTERS, EXPECTED, strict=True)))
def test_filters(stored: FileStorage, tmp_path: Path, asked: tuple[str, dict[str, Any]], rows: int) -> None:
    """A filter leaves the rows that meet it, and stands in the metadata with times in UTC."""
    table, filters = asked
    path = tmp_path / "out.parquet"
    assert stored.catalog.export(path, table, **filters).rows == rows
    assert pq.read_table(path).num_rows == rows
    said = manifest_of(path)["filter"]
    assert said.keys() == filters.keys()
    assert {name: said[name] for name in filters if name not in ("since", "until")} == {
        name: value for name, value in filters.items() if name not in ("since", "until")
    }
    times = [said[name] for name in ("since", "until") if name in said]
    assert all(re.fullmatch(r"[\d-]{10}T\d\d:\d\d:00\.000000Z", time) for time in times)
    assert verify_exports(path).ok


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"table": "tasks", "status": "failed"}, "status='failed': tasks takes no", id="of runs"),
        pytest.param(
            {"table": "runs", "task": "a"}, "task='a': runs takes no such filter; it takes wor", id="of tasks"
        ),
        pytest.param({"table": "tasks", "event": "save"}, "event='save': tasks takes no such filter", id="of events"),
        pytest.param({"since": "yesterday"}, "since='yesterday' is no date", id="no date"),
        pytest.param({"since": "2026-02-01", "until": "2026-01-01"}, "exchange them", id="backwards"),
        pytest.param({"min_size": "1"}, "bound for size is a number, not '1'", id="no number"),
        pytest.param({"workflow": 3}, "pattern for workflow is a string", id="no pattern"),
        pytest.param({"partition_by": "week"}, "partition_by='week': it is None, 'workflow' or 'day'", id="partition"),
        pytest.param({"after": "out"}, "after=out: only exports of events continue others", id="after of tasks"),
        pytest.param({"storage_options": {"key": "a"}}, "storage_options are for URLs", id="options of no URL"),
    ],
)
def test_a_question_that_is_wrong(stored: FileStorage, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """What cannot be understood is named, and nothing is written."""
    with pytest.raises(InvalidQuestion, match=message):
        stored.catalog.export(tmp_path / "new.parquet", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["", "/", None, 3])
def test_no_place(stored: FileStorage, place: Any) -> None:
    """What is no path is refused, and named."""
    with pytest.raises(InvalidQuestion, match=f"not to {place!r}"):
        stored.catalog.export(place)


# What a file says of itself


@pytest.mark.parametrize("table", ROWS)
def test_the_metadata(stored: FileStorage, tmp_path: Path, table: str) -> None:
    """A file says what it is, whose, when it was made, with what filter, and how its columns are to be read."""
    path = tmp_path / "out.parquet"
    made = stored.catalog.export(path, table)
    said = manifest_of(path)
    identity = json.loads((Path(stored.catalog.path) / ".catalog" / "storage.json").read_text())
    assert (said["format"], said["schema_version"]) == (2, SCHEMA_VERSION)
    assert said["library"].startswith("functionfuse")
    age = datetime.now(timezone.utc) - datetime.fromisoformat(said["exported_at"].replace("Z", "+00:00"))
    assert timedelta(0) <= age < timedelta(hours=1)
    assert (said["table"], said["rows"], said["filter"]) == (table, ROWS[table], {})
    assert (said["storage"], said["path"]) == (identity["uuid"], stored.catalog.path)
    assert (said["part"], said["previous"]) == (None, None)
    rows = pq.read_table(path)
    assert made.digest == said["digest"] == digest_of(rows, said)
    assert made.paths == (str(path),)
    assert made.rows == rows.num_rows
    for field, column in zip(rows.schema, COLUMNS[table], strict=True):
        assert field.metadata[b"meaning"].decode() == column.meaning
    assert [name for name, _ in said["columns"]] == rows.column_names


def test_the_same_content_has_the_same_digest(stored: FileStorage, tmp_path: Path) -> None:
    """Two exports of one content have equal rows and one digest, though their bytes tell of different times."""
    for table in ROWS:
        one, other = (stored.catalog.export(tmp_path / f"{table} {name}", table) for name in ("one", "other"))
        assert one.digest == other.digest
        assert pq.read_table(one.paths[0]).equals(pq.read_table(other.paths[0]))


@pytest.mark.skipif(not os.environ.get("FUNCTIONFUSE_OLDEST_PYTHON"), reason="needs the oldest DuckDB too")
def test_the_oldest_duckdb_makes_the_same_digest(stored: FileStorage, tmp_path: Path) -> None:
    """Exports by two versions of DuckDB have one digest, and each version verifies the other's."""
    program = """if True:
        import sys
        from catalog import Catalog
        from catalog.audit.audit import verify_exports
        assert verify_exports(sys.argv[2]).ok
        print(Catalog.open(sys.argv[1]).export(sys.argv[3], "events").digest)
    """
    here = stored.catalog.export(tmp_path / "here", "events")
    there = run_python(
        program, stored.catalog.path, here.paths[0], tmp_path / "there", python=os.environ["FUNCTIONFUSE_OLDEST_PYTHON"]
    )
    assert there.strip() == here.digest
    assert verify_exports(tmp_path / "there").ok
