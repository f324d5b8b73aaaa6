"""One index, two versions of DuckDB: each reads and writes what the other wrote."""

from __future__ import annotations

import os

import duckdb
import pytest

from functionfuse.storage.filestorage import FileStorage
from workshop import history, index_of, root_of, run_python, task_names

OLDEST = os.environ.get("FUNCTIONFUSE_OLDEST_PYTHON", "")

pytestmark = pytest.mark.skipif(
    not OLDEST, reason="FUNCTIONFUSE_OLDEST_PYTHON does not name a Python with the oldest supported DuckDB"
)

SAVE_AND_ASK = """
import sys
from functionfuse.storage.filestorage import FileStorage
storage = FileStorage(sys.argv[1])
for name in sys.argv[2:]:
    storage.save("w", name, {"accuracy": 0.5})
print(*storage.list_tasks("w"))
print(storage.catalog.sql("SELECT count(*) FROM events").fetchall()[0][0])
"""
READ_PLAINLY = """
import sys, duckdb
with duckdb.connect(sys.argv[1], read_only=True) as connection:
    print(connection.sql("SELECT count(*) FROM tasks WHERE value->>'accuracy' = '0.5'").fetchall()[0][0])
"""


def test_the_other_version_is_another_one() -> None:
    """The two Pythons have different versions of DuckDB, so that these tests say something."""
    other = run_python("import duckdb; print(duckdb.__version__)", python=OLDEST).strip()
    if other == duckdb.__version__:
        pytest.skip(f"both have DuckDB {other}")
    assert other < duckdb.__version__


def test_an_index_is_shared_by_both_versions(storage: FileStorage) -> None:
    """An index that one version made is read and written by the other, in turns, and is never built anew."""
    storage.save("w", "a", {"accuracy": 0.5})
    assert task_names(storage.catalog) == [("w", "a")]
    made = index_of(storage).stat().st_ino
    assert run_python(SAVE_AND_ASK, root_of(storage), "b", python=OLDEST).split() == ["a", "b", "2"]
    storage.save("w", "c", {"accuracy": 0.5})
    storage.remove_task("w", "a")
    assert task_names(storage.catalog) == [("w", "b"), ("w", "c")]
    assert run_python(SAVE_AND_ASK, root_of(storage), "d", python=OLDEST).split() == ["b", "c", "d", "5"]
    assert history(storage.catalog)[-1] == ("save", "d")
    assert index_of(storage).stat().st_ino == made
    assert run_python(READ_PLAINLY, index_of(storage), python=OLDEST).strip() == "3"


def test_an_index_of_the_oldest_version_is_read(storage: FileStorage) -> None:
    """An index that the oldest version made, with many rows, is taken over as it is."""
    names = [f"{number:03}" for number in range(300)]
    asked = run_python(SAVE_AND_ASK, root_of(storage), *names, python=OLDEST).split()
    assert asked == [*names, "300"]
    made = index_of(storage).stat().st_ino
    assert storage.list_tasks("w") == names
    assert run_python(READ_PLAINLY, index_of(storage)).strip() == "300"
    assert index_of(storage).stat().st_ino == made
