"""Times have a zone: questions and answers are right wherever the machine stands; what earlier code wrote is read."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog import Catalog
from catalog.audit.audit import verify_exports
from catalog.index.schema import SCHEMA_VERSION
from functionfuse.storage.filestorage import FileStorage
from seeds import seeds
from workshop import delete_index, index_of, root_of

FIXTURE = Path(__file__).parents[2] / "fixtures" / "times-without-zone.zip"
UTC = pa.timestamp("us", tz="UTC")
SAVED = {  # in UTC, by task; from the fixture's blobs
    "a": datetime(2026, 11, 30, 22, 21, 41, 920914, timezone.utc),
    "n": datetime(2026, 11, 30, 22, 21, 41, 944385, timezone.utc),
    "c": datetime(2026, 11, 30, 22, 21, 46, 250330, timezone.utc),
    "later": datetime(2026, 11, 30, 22, 21, 46, 863529, timezone.utc),
}
ZONES = ["America/New_York", "UTC", "Asia/Tokyo", "Asia/Kolkata", "Australia/Lord_Howe"]

NOW = """
import sys
from datetime import date, datetime, timedelta, timezone
import numpy, pandas
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage

storage = FileStorage(sys.argv[1])
catalog = storage.catalog
storage.save("w", "t", 1)
run = LocalWorkflow(workflow(lambda: 1)().set_name("n"), workflow_name="r")
run.set_storage(storage)
run.run()

COLUMNS = {"tasks": "saved_at", "events": "time", "runs": "started"}
for table, column in COLUMNS.items():
    is_recent = f'"{column}" BETWEEN now() - INTERVAL 1 HOUR AND now()'
    recent = f"SELECT count(*) > 0 AND bool_and({is_recent})"
    assert catalog.sql(f"{recent} FROM {table}").fetchall() == [(True,)], table
    told = f'SELECT bool_and(typeof("{column}") = \\'TIMESTAMP WITH TIME ZONE\\'), max("{column}") FROM {table}'
    ((has_zone, last),) = catalog.sql(told).fetchall()
    assert has_zone, table
    for moment in (last, getattr(catalog, table)().project(f'"{column}"').fetchall()[0][0]):
        assert timedelta(0) <= datetime.now(timezone.utc) - moment < timedelta(hours=1), moment
        assert moment.utcoffset() == timedelta(0)
    answer = getattr(catalog, table)()
    assert str(answer.to_arrow_table().schema.field(column).type) == "timestamp[us, tz=UTC]"
    assert str(answer.df()[column].dtype) == "datetime64[us, UTC]"
    assert answer.pl()[column].dtype.time_zone == "UTC"
assert catalog.sql("SELECT bool_and(finished >= started) FROM runs").fetchall() == [(True,)]
as_before = "SELECT count(*) FROM tasks WHERE saved_at > (now() AT TIME ZONE 'UTC') - INTERVAL 1 HOUR"
assert catalog.sql(as_before).fetchall() == [(2,)]
assert catalog.task("w", "t").saved_at.tzinfo is timezone.utc

hour = timedelta(hours=1)
now = datetime.now()
moments = {
    "naive": lambda ago: now - ago,
    "aware": lambda ago: datetime.now(timezone(timedelta(hours=-9, minutes=-30))) - ago,
    "text": lambda ago: str(now - ago),
    "text in UTC": lambda ago: (datetime.now(timezone.utc) - ago).isoformat().replace("+00:00", "Z"),
    "pandas": lambda ago: pandas.Timestamp.now() - ago,
    "pandas, aware": lambda ago: pandas.Timestamp.now(tz="Asia/Tokyo") - ago,
    "numpy": lambda ago: numpy.datetime64(now - ago),
    "numpy, ns": lambda ago: numpy.datetime64(now - ago).astype("datetime64[ns]"),
    "date": lambda ago: (now - 26 * ago).date(),
}
for name, moment in moments.items():
    before, after = moment(hour), moment(-hour)
    assert storage.list_tasks("w", since=before, until=after) == ["t"], name
    assert storage.list_tasks("w", until=before) == storage.list_tasks("w", since=after) == [], name
    assert storage.list_tasks("w", as_of=after) == ["t"], name
    assert storage.list_tasks("w", as_of=before) == [], name
    for table in COLUMNS:
        ask = getattr(catalog, table)
        assert len(ask(since=before, until=after)) > 0 and len(ask(until=before)) == len(ask(since=after)) == 0, name
    assert len(storage.gc(workflow="w", older_than=before, dry_run=True)) == 0, name
    assert len(storage.gc(workflow="w", older_than=after, dry_run=True)) == 1, name
assert len(storage.gc(workflow="w", older_than="1h", dry_run=True)) == 0
print("done")
"""


def python(program: str, zone: str, *arguments: object) -> str:
    """Return what a program prints on a machine in a zone."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    env = os.environ | {"TZ": zone}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("zone", seeds(*ZONES))
def test_now_is_now(tmp_path: Path, zone: str) -> None:
    """In every zone `now()` compares with what was just saved, answers are aware, and every kind of moment is meant."""
    assert python(NOW, zone, tmp_path / "storage") == "done\n"


CHANGES = """
import sys
from datetime import datetime
import numpy, pandas
from catalog.query.times import to_utc
naive = datetime.fromisoformat(sys.argv[1])
for moment in (naive, naive.replace(fold=1), sys.argv[1], numpy.datetime64(naive), pandas.Timestamp(naive)):
    print(f"{to_utc(moment, 'since'):%d %H:%M}")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("zone", "local", "first", "second"),
    [
        ("America/New_York", "2026-11-01 01:30", "01 05:30", "01 06:30"),  # told twice
        ("America/New_York", "2026-03-08 02:30", "08 07:30", "08 06:30"),  # left out
        ("America/New_York", "2026-11-01 03:00", "01 08:00", "01 08:00"),
        ("Australia/Lord_Howe", "2026-04-05 01:45", "04 14:45", "04 15:15"),  # told twice, by half an hour
        ("Australia/Lord_Howe", "2026-10-04 02:15", "03 15:45", "03 15:15"),  # left out
        ("Asia/Tokyo", "2026-11-01 01:30", "31 16:30", "31 16:30"),
        ("UTC", "2026-11-01 01:30", "01 01:30", "01 01:30"),
    ],
)
def test_a_change_of_daylight_time(zone: str, local: str, first: str, second: str) -> None:
    """Of an hour that is told twice the first is meant, or by `fold` the second; one left out counts on from before."""
    assert python(CHANGES, zone, local).splitlines() == [first, second, first, first, first]


@pytest.fixture
def older(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with a storage and exports that were written with times without a zone."""
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def saved(catalog: Catalog) -> dict[str, datetime]:
    """Return when each task was saved."""
    return dict(catalog.sql("SELECT task, saved_at FROM tasks").fetchall())


def types_in(folder: Path) -> set[str]:
    """Return the types of times in the journal's Parquet files."""
    found = set()
    for file in folder.glob(".catalog/journal/*.parquet"):
        found |= {str(pq.read_schema(file).field(name).type) for name in ("time", "saved_at")}
    return found


ANSWER = """
import sys
from catalog import Catalog
query = "SELECT task, saved_at, epoch_us(saved_at) FROM tasks ORDER BY saved_at"
rows = Catalog.open(sys.argv[1]).sql(query).fetchall()
print([(task, us) for task, at, us in rows if at.utcoffset().total_seconds() == 0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
@pytest.mark.parametrize("index", ["kept", "deleted"])
def test_an_older_storage(older: Path, zone: str, index: str) -> None:
    """Compacted files with times without a zone are folded as UTC, and an older index is built anew, in every zone."""
    root = older / "storage"
    path = root / ".catalog" / "catalog.duckdb"
    if index == "deleted":
        path.unlink()
    assert types_in(root) == {"timestamp[us]"}
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    moments = [(task, (at - epoch) // timedelta(microseconds=1)) for task, at in SAVED.items()]
    assert python(ANSWER, zone, root) == f"{moments}\n"
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.execute("SELECT schema_version FROM meta").fetchall() == [(SCHEMA_VERSION,)]


def test_older_and_newer_parts_of_a_journal(older: Path) -> None:
    """Compacted files of both kinds are folded together and merged into one, whose times have a zone."""
    storage = FileStorage(older / "storage")
    before = saved(storage.catalog)
    assert before == SAVED
    storage.save("w", "new", 5)
    expected = saved(storage.catalog)
    journal = root_of(storage) / ".catalog" / "journal"
    for segment in journal.glob("*.ndjson"):
        os.utime(segment, (1_700_000_000, 1_700_000_000))
    old = list(journal.glob("*.parquet"))
    storage.catalog.compact()
    assert types_in(root_of(storage)) == {"timestamp[us, tz=UTC]"}
    assert not any(file.exists() for file in old)
    delete_index(storage)
    assert saved(storage.catalog) == expected
    assert {task: expected[task] for task in SAVED} == SAVED
    assert index_of(storage).exists()


def test_older_exports_verify(older: Path) -> None:
    """Exports with times without a zone verify, and one of today continues them."""
    exports = older / "exports"
    paths = [exports / "tasks.parquet", exports / "runs.parquet", exports / "days"]
    assert str(pq.read_schema(paths[0]).field("saved_at").type) == "timestamp[us]"
    for each in paths:
        audit = verify_exports(each)
        assert audit.ok, audit.findings
    chain = [exports / "first.parquet", exports / "second.parquet"]
    storage = FileStorage(older / "storage")
    storage.save("w", "new", 5)
    storage.catalog.export(exports / "third.parquet", "events", after=chain[-1])
    audit = verify_exports(*chain, exports / "third.parquet")
    assert audit.ok, audit.findings
    assert [file.rows for file in audit.files] == [5, 2, 2]
    assert pq.read_schema(exports / "third.parquet").field("time").type == UTC
    continued = {file.path: file.follows for file in audit.files}
    assert continued[str(exports / "third.parquet")] == str(chain[-1])


@pytest.mark.parametrize("table", ["tasks", "events", "runs"])
def test_exports_have_a_zone(older: Path, table: str) -> None:
    """Every time in an export is `timestamp[us, tz=UTC]`, and as the catalog has it."""
    catalog = Catalog.open(older / "storage")
    catalog.export(older / "out.parquet", table)
    exported = pq.read_table(older / "out.parquet")
    times = [field.name for field in exported.schema if pa.types.is_timestamp(field.type)]
    assert times
    assert {exported.schema.field(name).type for name in times} == {UTC}
    for name in times:
        column = [moment for (moment,) in catalog.sql(f'SELECT "{name}" FROM {table}').fetchall()]
        assert sorted(map(str, exported[name].to_pylist())) == sorted(map(str, column))


def test_times_that_python_cannot_tell(storage: FileStorage) -> None:
    """Times before 1970 and beyond Python's calendar do not disturb an answer."""
    storage.save("w", "t", 1)
    far = ["1850-01-01 00:00:00+00", "9999-12-31 23:59:59+00", "20000-01-01 00:00:00+00", "infinity"]
    for text in far:
        rows = storage.catalog.sql("SELECT ?::TIMESTAMPTZ, saved_at FROM tasks", [text]).fetchall()
        assert rows[0][1].utcoffset() == timedelta(0)
