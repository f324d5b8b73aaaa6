"""The catalog of 1,000,000 results: the first fold, later ones, questions, and the journal compacted.

Questions are held against DuckDB itself: the same query on a connection that is
held open to a copy of the same index file. IBM's glob and `os.scandir` list the
same names as files; diskcache and MLflow hold fewer, as the table says.
"""

from __future__ import annotations

import fnmatch
import glob
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import diskcache
import duckdb
import million
from measuring import Times, milliseconds, show

from catalog import Catalog
from catalog.format.columns import TASKS
from catalog.format.names import CATALOG_FOLDER
from catalog.index.schema import names_of
from catalog.journal.base import JOURNAL_FOLDER, SEGMENT_SUFFIX
from functionfuse.storage import storage_factory

WORKFLOW = "workflow_3"
PATTERN = "task_00*"
LATER = (1, 100, 1_000, 10_000)
FOLDS = 3  # first folds: they take long
MLFLOW_RUNS = 2_000
_FRESH = -86_400.0  # seconds: no question compacts segments of tomorrow while it is measured
_OLD = 86_400.0

_FIRST_FOLD = """
import json, resource, sys, time
import catalog
began = time.perf_counter()
refreshed = catalog.Catalog.open(sys.argv[1]).refresh()
took = time.perf_counter() - began
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([refreshed.events, took * 1000, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""
_FIRST_FOLD_BY_DUCKDB = """
import json, resource, sys, time
import duckdb
began = time.perf_counter()
with duckdb.connect(sys.argv[2]) as connection:
    connection.execute("SET enable_progress_bar = false").fetchall()
    events = connection.execute(f"CREATE TABLE events AS FROM read_ndjson('{sys.argv[1]}')").fetchall()[0][0]
took = time.perf_counter() - began
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([events, took * 1000, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""
_NEW_PROCESS = """
import sys
from functionfuse.storage import storage_factory
print(len(storage_factory({"kind": "file", "options": {"path": sys.argv[1]}}).list_tasks(sys.argv[2], sys.argv[3])))
"""
_NEW_PROCESS_OF_DUCKDB = """
import sys
import duckdb
query = "SELECT task FROM tasks WHERE workflow = ? AND task GLOB ?"
print(len(duckdb.connect(sys.argv[1], read_only=True).execute(query, sys.argv[2:]).fetchall()))
"""


def run(folder: Path, rounds: int) -> None:
    """Measure and print."""
    root = folder / "storage"
    print(f"{million.RESULTS:,} results in {million.WORKFLOWS} workflows")
    print(f"  journal written in {milliseconds(million.write_journal, root) / 1000:.1f} s", flush=True)
    million.check_lines(root)
    print(f"  names of the files in {milliseconds(million.write_files, root) / 1000:.1f} s\n", flush=True)
    million.age(root, _FRESH)
    first_fold(root, folder, min(rounds, FOLDS))
    questions(root, folder, rounds)
    later_folds(root, folder, rounds)
    compacted(root)


# Folding


def first_fold(root: Path, folder: Path, rounds: int) -> None:
    """Build the index, each time in a new process."""
    segments = str(root / JOURNAL_FOLDER / f"*{SEGMENT_SUFFIX}")
    times: Times = defaultdict(list)
    for number in range(rounds):
        arguments = (segments, str(folder / f"floor-{number}.duckdb"))
        _note(times, "DuckDB reads the lines into a file", _FIRST_FOLD_BY_DUCKDB, *arguments)
        _drop_index(root)
        _note(times, "functionfuse", _FIRST_FOLD, str(root))
    show(f"First fold of {million.RESULTS:,} lines, DuckDB {duckdb.__version__}", times, next(iter(times)), "ms")


def _note(times: Times, name: str, program: str, *arguments: str) -> None:
    events, took, processor, memory = json.loads(_output(program, *arguments))
    assert events >= million.RESULTS, f"{name} knows {events} events"
    times[name].append(took)
    print(f"  {name}: {took / 1000:.1f} s, {processor:.1f} s of processor, at most {memory:,.0f} MiB", flush=True)


def _drop_index(root: Path) -> None:
    for file in (root / CATALOG_FOLDER).glob("catalog.duckdb*"):
        file.unlink()


def later_folds(root: Path, folder: Path, rounds: int) -> None:
    """Fold in a few more lines, against DuckDB that inserts the same lines into a table of a file."""
    catalog = Catalog.open(root)
    with duckdb.connect(str(folder / "later.duckdb")) as bare:
        bare.execute("CREATE TABLE events AS FROM read_ndjson(?) LIMIT 0", [_newest(root)]).fetchall()
        times: Times = defaultdict(list)
        for number in range(rounds):
            times["nothing new"].append(milliseconds(catalog.refresh))
            for count in LATER:
                million.append(root, f"later_{number}_{count}", count)
                million.age(root, _FRESH)
                times[f"DuckDB inserts {count:,}"].append(milliseconds(_insert, bare, _newest(root)))
                times[f"{count:,} new lines"].append(milliseconds(catalog.refresh))
    show(f"Later folds on top of {million.RESULTS:,}", times, "nothing new", "ms")


def _insert(bare: duckdb.DuckDBPyConnection, segment: str) -> None:
    bare.execute("INSERT INTO events BY NAME FROM read_ndjson(?)", [segment]).fetchall()


def _newest(root: Path) -> str:
    return str(max((root / JOURNAL_FOLDER).glob(f"*{SEGMENT_SUFFIX}")))


def compacted(root: Path) -> None:
    """Turn the journal into Parquet, and build the index from that."""
    million.age(root, _OLD)
    catalog = Catalog.open(root)
    began = time.perf_counter()
    done = catalog.compact()
    print(f"The journal compacted in {time.perf_counter() - began:.1f} s: {done.segments} segments")
    events = catalog.sql("SELECT count(*) FROM events").fetchall()[0][0]
    print(f"  {events:,} events, {done.bytes_after / events:.1f} bytes each")
    _drop_index(root)
    times: Times = defaultdict(list)
    _note(times, "first fold of what was compacted", _FIRST_FOLD, str(root))


# Questions


def questions(root: Path, folder: Path, rounds: int) -> None:
    """Ask in a warm process and in new ones."""
    copy = str(folder / "copy.duckdb")
    shutil.copy(root / CATALOG_FOLDER / "catalog.duckdb", copy)
    storage = storage_factory({"kind": "file", "options": {"path": str(root)}})
    with duckdb.connect(copy, read_only=True) as bare:
        _names(storage, bare, root, folder, rounds)
        for title, ours, query, parameters in _columns(storage.catalog):
            times: Times = defaultdict(list)
            for _ in range(rounds):
                times["DuckDB"].append(milliseconds(_ask, bare, query, parameters))
                times["functionfuse"].append(milliseconds(ours))
            show(title, times, "DuckDB", "ms")
    _new_process(root, copy, rounds)


def _ask(bare: duckdb.DuckDBPyConnection, query: str, parameters: list[Any]) -> None:
    bare.sql(query, params=parameters).to_arrow_table()


def _columns(catalog: Catalog) -> list[tuple[str, Callable[[], Any], str, list[Any]]]:
    yesterday = datetime.now().astimezone() - timedelta(days=1)
    recent = "saved_at >= (?::TIMESTAMPTZ AT TIME ZONE 'UTC')"
    columns = names_of(TASKS)
    sums = "SELECT workflow, count(*), sum(size), avg((value->>'loss')::DOUBLE) FROM tasks GROUP BY ALL ORDER BY ALL"
    return [
        (
            "Saved since yesterday",
            lambda: catalog.tasks(since=yesterday),
            f"SELECT {columns} FROM tasks WHERE {recent} ORDER BY workflow, task",
            [yesterday.isoformat()],
        ),
        (
            "The 100 largest",
            lambda: catalog.tasks(order_by="size DESC", limit=100),
            f"SELECT {columns} FROM tasks ORDER BY size DESC LIMIT 100",
            [],
        ),
        ("Sums by workflow", lambda: catalog.sql(sums), sums, []),
    ]


def _names(storage: Any, bare: duckdb.DuckDBPyConnection, root: Path, folder: Path, rounds: int) -> None:
    query = "SELECT task FROM tasks WHERE workflow = ? AND task GLOB ? ORDER BY task"
    peers: dict[str, Callable[[], list[str]]] = {
        "DuckDB": lambda: [name for (name,) in bare.execute(query, [WORKFLOW, PATTERN]).fetchall()],
        "functionfuse": lambda: storage.list_tasks(WORKFLOW, PATTERN),
        "glob.glob, as IBM's": lambda: sorted(map(os.path.basename, glob.glob(f"{root}/{WORKFLOW}/{PATTERN}"))),
        "os.scandir and fnmatch": lambda: _scanned(f"{root}/{WORKFLOW}"),
    }
    expected = peers["DuckDB"]()
    with diskcache.Cache(str(folder / "diskcache")) as cache:
        with cache.transact():
            for name in (f"task_{task:06d}" for task in range(million.TASKS)):
                cache.set(name, 1)
        peers[f"diskcache, {million.TASKS:,} keys"] = lambda: fnmatch.filter(cache, PATTERN)
        times: Times = defaultdict(list)
        for _ in range(rounds):
            for name, list_names in peers.items():
                assert sorted(list_names()) == expected, f"{name} lists other names"
                times[name].append(milliseconds(list_names))
    _with_mlflow(folder, times, rounds)
    show(f"{PATTERN} of {WORKFLOW}: {len(expected):,} names", times, "DuckDB", "ms")


def _scanned(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(fnmatch.filter([entry.name for entry in entries], PATTERN))


def _with_mlflow(folder: Path, times: Times, rounds: int) -> None:
    """Measure MLflow's search where it is installed; it is no part of the locked environment."""
    with suppress(ImportError):
        import mlflow

        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        client = mlflow.MlflowClient()
        experiment = client.create_experiment(WORKFLOW)
        for task in range(MLFLOW_RUNS):
            client.create_run(experiment, run_name=f"task_{task:06d}")
        like = f"attributes.run_name LIKE '{PATTERN.replace('*', '%')}'"
        for _ in range(rounds):
            search = lambda: mlflow.search_runs([experiment], like, output_format="list")  # noqa: E731
            times[f"MLflow, {MLFLOW_RUNS:,} runs"].append(milliseconds(search))
        return
    print("MLflow is not installed: left out\n")


def _new_process(root: Path, copy: str, rounds: int) -> None:
    times: Times = defaultdict(list)
    for _ in range(rounds):
        times["DuckDB"].append(milliseconds(_output, _NEW_PROCESS_OF_DUCKDB, copy, WORKFLOW, PATTERN))
        times["functionfuse"].append(milliseconds(_output, _NEW_PROCESS, str(root), WORKFLOW, PATTERN))
    show("A new process's answer, imports included", times, "DuckDB", "ms")


def _output(program: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True
    ).stdout
