"""Where exports go: folders in parts, URLs, full disks; who reads them."""

from __future__ import annotations

import csv
import gc
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from auditor import manifest_of
from catalog.audit.audit import verify_exports
from catalog.audit.destination import part_folder
from catalog.errors import ExportRefused
from catalog.format.names import from_text
from functionfuse.storage.filestorage import FileStorage
from workshop import save_event, write_segment

RUN = "01890000-0000-7000-8000-000000000001"
# Names that need encoding in a path, look like another type, or like the way in which paths are written.
NAMES = [
    "w",
    "a/b",
    "..",
    "2026",
    "é 😀",
    "x=y&z",
    "100%",
    "%2F",
    "~",
    "_",
    "__HIVE_DEFAULT_PARTITION__",
    "null",
    "t\ud800",
]
LONG = "ü" * 120


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> FileStorage:
    """Return a storage with a result in each of many workflows, and events on several days."""
    storage = FileStorage(tmp_path_factory.mktemp("stored"))
    for name in (*NAMES, LONG):
        storage.save(name, "t", 1)
    days = ["2026-01-02T00:00:00Z", "2026-01-02T23:59:59.999999Z", "2026-01-03T00:00:00Z"]
    ids = [f"01890000-0000-7000-8000-00000000001{number}" for number in range(3)]
    run = {"event": "run-started", "run_id": RUN, "details": {}}
    write_segment(storage, [{**run, "event_id": ids[n], "time": day} for n, day in enumerate(days)])
    return storage


# Parts


def test_a_folder_for_each_workflow(stored: FileStorage, tmp_path: Path) -> None:
    """Each workflow has a file of its own, whose metadata tell of it; names come back exactly."""
    made = stored.catalog.export(tmp_path / "out", partition_by="workflow")
    assert made.rows == len(made.paths) == len(NAMES) + 1
    found = {}
    for path in made.paths:
        part = manifest_of(path)["part"]
        rows = pq.ParquetFile(path).read()
        assert rows.column("workflow").to_pylist() == [part["value"]]
        assert (part["by"], part["files"]) == ("workflow", len(NAMES) + 1)
        found[from_text(part["value"])] = path
    assert sorted(found) == sorted((*NAMES, LONG))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert sorted(path for path in made.paths) == sorted(map(str, (tmp_path / "out").glob("workflow=*/part.parquet")))
    assert verify_exports(tmp_path / "out").ok


def test_readers_of_hive_folders(stored: FileStorage, tmp_path: Path) -> None:
    """DuckDB, pyarrow and Polars read a folder of parts as one table, with the exact names of the workflows."""
    polars = pytest.importorskip("polars")
    stored.catalog.export(tmp_path / "out", partition_by="workflow", workflow="[!ü]*")
    by_arrow = pq.read_table(tmp_path / "out", partitioning=None)
    by_polars = polars.read_parquet(tmp_path / "out" / "**" / "*.parquet", hive_partitioning=False)
    with duckdb.connect() as connection:
        by_duckdb = connection.sql(f"FROM read_parquet('{tmp_path}/out/**/*.parquet', hive_partitioning=false)")
        names = [from_text(name) for (name,) in by_duckdb.select("workflow").fetchall()]
    assert sorted(names) == sorted(NAMES)
    assert sorted(map(from_text, by_polars["workflow"])) == sorted(NAMES)
    assert sorted(map(from_text, by_arrow.column("workflow").to_pylist())) == sorted(NAMES)


def test_readers_that_choose_by_folder(stored: FileStorage, tmp_path: Path) -> None:
    """DuckDB and pyarrow find a workflow, or a day, by the name of its folder."""
    stored.catalog.export(tmp_path / "w", partition_by="workflow")
    stored.catalog.export(tmp_path / "d", "events", until="2026-02-01T00:00:00Z", partition_by="day")
    with duckdb.connect() as connection:
        parts = f"read_parquet('{tmp_path}/w/**/*.parquet', hive_partitioning=true, hive_types_autocast=false)"
        assert connection.sql(f"SELECT count(*) FROM {parts} WHERE workflow = 'a/b'").fetchall() == [(1,)]
        parts = f"read_parquet('{tmp_path}/d/**/*.parquet', hive_partitioning=true)"
        assert connection.sql(f"SELECT count(*) FROM {parts} WHERE day = '2026-01-02'").fetchall() == [(2,)]
    hive = pyarrow.dataset.partitioning(pa.schema([("day", pa.string())]), flavor="hive")
    days = pyarrow.dataset.dataset(tmp_path / "d", partitioning=hive)
    assert days.count_rows(filter=pyarrow.dataset.field("day") == "2026-01-03") == 1


def test_a_folder_for_each_day(stored: FileStorage, tmp_path: Path) -> None:
    """Days are those of UTC, midnight included in the day that begins."""
    stored.catalog.export(tmp_path / "out", "events", until="2026-02-01T00:00:00Z", partition_by="day")
    rows = {path.parent.name: pq.ParquetFile(path).metadata.num_rows for path in (tmp_path / "out").rglob("*.parquet")}
    assert rows == {"day=2026-01-02": 2, "day=2026-01-03": 1}


def test_rows_without_a_part(stored: FileStorage, tmp_path: Path) -> None:
    """Events that belong to no workflow have a part of their own, which no name can have."""
    stored.catalog.export(tmp_path / "out", "events", until="2026-02-01T00:00:00Z", partition_by="workflow")
    (path,) = (tmp_path / "out").rglob("*.parquet")
    assert path.parent.name == "workflow=__HIVE_DEFAULT_PARTITION__"
    assert manifest_of(path)["part"] == {"by": "workflow", "value": None, "files": 1}


def test_names_of_folders() -> None:
    """Different names have different folders, of at most 255 bytes, that leave no place and hide nothing."""
    names = [None, *NAMES[:-1], LONG, f"{LONG}ü", f"{LONG}é", "a" * 246, "a" * 247]
    folders = [part_folder("workflow", name) for name in names]
    assert len(set(folders)) == len(folders)
    assert all(len(folder.encode()) <= 255 and "/" not in folder and folder.isascii() for folder in folders)


def test_a_folder_that_is_there(stored: FileStorage, tmp_path: Path) -> None:
    """A folder is refused, replaced as a whole if that is wanted, and never if it holds anything else."""
    place = tmp_path / "out"
    stored.catalog.export(place, partition_by="workflow")
    before = sorted(place.rglob("*"))
    with pytest.raises(ExportRefused, match=r"out is there already.*overwrite=True"):
        stored.catalog.export(place, partition_by="workflow")
    with pytest.raises(ExportRefused, match=r"out is a folder, and the export is a file"):
        stored.catalog.export(place, overwrite=True)
    assert sorted(place.rglob("*")) == before
    stored.catalog.export(place, partition_by="workflow", workflow="w", overwrite=True)
    assert [path.name for path in place.iterdir()] == ["workflow=w"]
    (place / "workflow=w" / "notes.txt").write_text("mine")
    with pytest.raises(ExportRefused, match=r"holds more than an export: workflow=w/notes\.txt"):
        stored.catalog.export(place, partition_by="day", overwrite=True)
    assert (place / "workflow=w" / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_in_place_of_the_folder(stored: FileStorage, tmp_path: Path) -> None:
    """An export in parts does not take the place of a file."""
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ExportRefused, match=r"out is a file, and the export is a folder"):
        stored.catalog.export(tmp_path / "out", partition_by="day", overwrite=True)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_a_folder_whose_replacement_fails(
    stored: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Where the new folder cannot be renamed, the old one is put back, and nothing is left beside it."""
    place = tmp_path / "out"
    stored.catalog.export(place, partition_by="day")
    before = {path: path.read_bytes() for path in place.rglob("*.parquet")}
    rename = os.rename

    def fail_once(source: str, target: str) -> None:
        if target == str(place) and source.endswith("made"):
            raise error
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(ExportRefused if isinstance(error, OSError) else KeyboardInterrupt):
        stored.catalog.export(place, "events", partition_by="day", overwrite=True)
    assert {path: path.read_bytes() for path in place.rglob("*.parquet")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# URLs


@pytest.fixture
def memory() -> Iterator[Any]:
    """Return fsspec's file system in memory, with a folder and nothing else."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    filesystem.mkdir("/audit")
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


def test_a_url(stored: FileStorage, memory: Any) -> None:
    """An export goes to any file system of fsspec, is continued and verified there, and replaced only if wanted."""
    first, second = "memory://audit/0.parquet", "memory://audit/1.parquet"
    assert stored.catalog.export(first, "events").paths == (first,)
    assert stored.catalog.export(second, "events", after=first).rows == 0
    assert verify_exports(first, second).ok
    with pytest.raises(ExportRefused, match=r"memory://audit/0\.parquet is there already"):
        stored.catalog.export(first, "events")
    stored.catalog.export(first, "runs", overwrite=True)
    with memory.open("/audit/0.parquet") as file:
        assert manifest_of(file)["table"] == "runs"
    assert sorted(memory.find("/")) == ["/audit/0.parquet", "/audit/1.parquet"]


def test_parts_at_a_url(stored: FileStorage, memory: Any) -> None:
    """Parts are sent one by one; parts of an export that was there go when the new ones are complete."""
    place = "memory://audit/out"
    made = stored.catalog.export(place, partition_by="workflow", workflow="[!ü]*")
    assert len(made.paths) == len(NAMES)
    assert verify_exports(place).ok
    with pytest.raises(ExportRefused, match="is there already"):
        stored.catalog.export(place, partition_by="workflow")
    with pytest.raises(ExportRefused, match=r"the export is a file, memory://audit/out a folder"):
        stored.catalog.export(place, overwrite=True)
    stored.catalog.export(place, partition_by="workflow", workflow="w", overwrite=True)
    assert memory.find("/") == ["/audit/out/workflow=w/part.parquet"]
    memory.pipe("/audit/out/mine", b"mine")
    with pytest.raises(ExportRefused, match="holds more than an export: mine"):
        stored.catalog.export(place, partition_by="workflow", overwrite=True)


def test_a_local_url(stored: FileStorage, tmp_path: Path) -> None:
    """A URL of the local file system is a path."""
    stored.catalog.export(f"file://{tmp_path}/out.parquet", "events")
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    stored.catalog.export(tmp_path / "next.parquet", "events", after=f"file://{tmp_path}/out.parquet")
    assert verify_exports(f"file://{tmp_path}/next.parquet", tmp_path / "out.parquet").ok
    with pytest.raises(ExportRefused, match=r"there is no folder .*absent"):
        stored.catalog.export(f"file://{tmp_path}/absent/out.parquet")


def test_a_url_that_cannot_be_reached(stored: FileStorage, memory: Any) -> None:
    """An unknown file system and a bucket that is not there are refused, and named."""
    with pytest.raises(ExportRefused, match=r"nowhere://a/b cannot be reached: .*nowhere"):
        stored.catalog.export("nowhere://a/b")
    with pytest.raises(ExportRefused, match=r"memory://absent/out cannot be written: there is no /absent; make it"):
        stored.catalog.export("memory://absent/out")


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("refused"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("step", ["put_file", "mv"])
def test_sending_fails(
    stored: FileStorage, memory: Any, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    """Whatever a file system raises at whichever step, the old file stands as it was, with nothing beside it."""
    memory.pipe("/audit/out", b"earlier")
    monkeypatch.setattr(type(memory), step, lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(ExportRefused if isinstance(error, Exception) else KeyboardInterrupt):
        stored.catalog.export("memory://audit/out", overwrite=True)
    assert memory.find("/") == ["/audit/out"]
    assert memory.cat("/audit/out") == b"earlier"


# A full disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 64 KiB: room for a small export, and not for a large one."""
    place = tmp_path / "disk"
    place.mkdir()
    if sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("needs Linux's mount for a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64K", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield place
    gc.collect()
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("by", [None, "day"])
def test_a_full_disk(tmp_path: Path, disk: Path, by: str | None) -> None:
    """Where there is no room, the export is refused, the one before it stays readable, and nothing is left."""
    storage = FileStorage(tmp_path / "storage")
    storage.new_workflow("w")
    storage.catalog.export(disk / "out", "events", partition_by=by)
    content = [os.urandom(500).hex() for _ in range(400)]
    write_segment(storage, [save_event("w", text[:9], _id(n), user=text) for n, text in enumerate(content)])
    with pytest.raises(ExportRefused, match=r"out cannot be written: .*[Nn]o space left"):
        storage.catalog.export(disk / "out", "events", partition_by=by, overwrite=True)
    assert verify_exports(disk / "out").ok
    assert [path.name for path in disk.iterdir()] == ["out"]


def _id(number: int) -> str:
    return f"01890000-0000-7000-8000-{number:012d}"


# Readers


def shell() -> str:
    """Return DuckDB's own command-line client, which the tests' requirements install."""
    found = shutil.which("duckdb", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
    assert found, "DuckDB's command-line client is missing: it is in requirements/tests.in as duckdb-cli"
    return found


def asked(query: str) -> list[list[str]]:
    """Return what DuckDB's client answers, as text, without its header."""
    command = [shell(), "-csv", "-noheader", "-init", os.devnull, "-c", query]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(csv.reader(io.StringIO(run.stdout)))


def test_duckdbs_own_client(stored: FileStorage, tmp_path: Path) -> None:
    """DuckDB's command-line client reads rows, types and metadata of an export."""
    path = tmp_path / "out.parquet"
    stored.catalog.export(path, "events")
    rows = pq.read_table(path)
    query = f"SELECT event_id, segment, position FROM '{path}'"
    wanted = zip(*(rows.column(name).to_pylist() for name in ("event_id", "segment", "position")), strict=True)
    assert asked(query) == [list(map(str, row)) for row in wanted]
    assert asked(f"SELECT count(*) FROM '{path}' WHERE \"time\" < '2026-01-03'") == [["2"]]
    said = f"SELECT decode(value)->>'digest' FROM parquet_kv_metadata('{path}') WHERE decode(key) = 'functionfuse'"
    assert asked(said) == [[manifest_of(path)["digest"]]]
