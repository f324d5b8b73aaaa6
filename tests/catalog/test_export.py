"""`catalog.export`: Parquet that any other tool reads, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from catalog.errors import ExportRefused, InvalidQuestion
from catalog.schema import TABLES
from functionfuse.storage.filestorage import FileStorage

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
    assert file.column_names == [column.name for column in TABLES[table]]
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
    """A second export to the same file takes its place."""
    stored.catalog.export(tmp_path / "out.parquet", "runs")
    stored.catalog.export(tmp_path / "out.parquet", "tasks")
    assert pq.read_table(tmp_path / "out.parquet").num_rows == ROWS["tasks"]


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

    def write_half(_: Any, where: str, **options: Any) -> None:
        Path(where).write_bytes(b"half")
        raise error

    monkeypatch.setattr(pq, "write_table", write_half)
    wanted = ExportRefused if isinstance(error, OSError) else type(error)
    with pytest.raises(wanted):
        stored.catalog.export(path)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]
