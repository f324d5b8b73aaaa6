"""What the catalog's tests share: journals read and forged by hand, programs of other processes, answers as rows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from catalog import Catalog
from functionfuse.storage.filestorage import FileStorage

ROOT = Path(__file__).resolve().parents[2]


def index_of(storage: FileStorage) -> Path:
    """Return the file of a storage's index."""
    return root_of(storage) / ".catalog" / "catalog.duckdb"


def root_of(storage: FileStorage) -> Path:
    """Return the folder of a storage."""
    return Path(storage.catalog.path)


def journal_of(storage: FileStorage) -> Path:
    """Return the folder of a storage's journal."""
    return root_of(storage) / ".catalog" / "journal"


def segments(storage: FileStorage) -> list[Path]:
    """Return the journal's segments, oldest first."""
    return sorted(journal_of(storage).glob("*.ndjson"))


def told(storage: FileStorage) -> dict[str, list[dict[str, Any]]]:
    """Return the events of every segment, compacted ones too, read without the code under test."""
    found = {path.name: [json.loads(line) for line in path.read_bytes().splitlines()] for path in segments(storage)}
    for path in sorted(journal_of(storage).glob("*.parquet")):
        for row in pq.ParquetFile(path).read().to_pylist():
            found.setdefault(row["segment"], []).append(row)
    return found


def lines(storage: FileStorage) -> list[dict[str, Any]]:
    """Return the events of the whole journal, segment by segment."""
    return [line for _, segment in sorted(told(storage).items()) for line in segment]


def age(storage: FileStorage, seconds: float = 300.0) -> None:
    """Let all segments be as old as if nobody had written to them for a while."""
    then = time.time() - seconds
    for segment in segments(storage):
        os.utime(segment, (then, then))


def write_segment(storage: FileStorage, content: Iterable[dict[str, Any] | bytes], name: str | None = None) -> Path:
    """Add a segment to the journal, or append to one; each line a dictionary or raw bytes, closed by a newline."""
    journal_of(storage).mkdir(parents=True, exist_ok=True)
    path = journal_of(storage) / f"{name or uuid.uuid4()}.ndjson"
    with path.open("ab") as file:
        for line in content:
            file.write((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n")
    return path


def save_event(workflow: str, task: str, blob_id: str, **fields: Any) -> dict[str, Any]:
    """Return a line that tells of a save, as a foreign writer would have written it."""
    record = {"workflow": workflow, "task": task, "saved_at": "2026-01-02T03:04:05.000006Z", "size": 1}
    return {"event": "save", "format": 1, "blob_id": blob_id, **record, **fields}


def remove_event(workflow: str, task: str, event_id: str, replaces: str, **fields: Any) -> dict[str, Any]:
    """Return a line that tells of a removal."""
    ids = {"event_id": event_id, "blob_id": replaces, "replaces": replaces}
    return {"event": "remove", **ids, "time": "2026-01-02T03:04:06Z", "workflow": workflow, "task": task, **fields}


def blob_id(storage: FileStorage, workflow: str, task: str) -> str:
    """Return the id in a blob's footer, read without the code under test."""
    content = (root_of(storage) / workflow / task).read_bytes()
    size = int.from_bytes(content[-24:-20], "little")
    return str(json.loads(content[-40 - size : -40])["blob_id"])


def task_rows(catalog: Catalog) -> list[dict[str, Any]]:
    """Return the whole table `tasks`, sorted by name."""
    answer = catalog.tasks()
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.fetchall()]


def task_names(catalog: Catalog) -> list[tuple[str, str]]:
    """Return workflow and task of every row of `tasks`."""
    return [(row["workflow"], row["task"]) for row in task_rows(catalog)]


def history(catalog: Catalog) -> list[tuple[str, str | None]]:
    """Return kind and task of every row of `events`, by id."""
    return catalog.sql("SELECT event, task FROM events ORDER BY event_id").fetchall()


def delete_index(storage: FileStorage) -> None:
    """Delete a storage's index, and leave its journal."""
    index_of(storage).unlink()


def delete_catalog(storage: FileStorage) -> None:
    """Delete all that a storage has beside its blobs."""
    shutil.rmtree(root_of(storage) / ".catalog")


def run_python(program: str, *arguments: object, python: str = sys.executable) -> str:
    """Run a program in another process, and return what it printed."""
    command = [python, "-c", program, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    return run.stdout


@contextmanager
def running_python(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a program beside the test: its input and output are pipes; it is killed in the end if it still runs."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    """Wait until a process prints a word on a line of its own."""
    assert process.stdout is not None
    assert process.stdout.readline().strip() == word


def say(process: subprocess.Popen[str], word: str) -> None:
    """Write a line to a process."""
    assert process.stdin is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
