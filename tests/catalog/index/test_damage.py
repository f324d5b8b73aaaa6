"""An index is deleted on proof that it is damaged, and left alone whatever else goes wrong."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from catalog.index.damage import is_damaged
from functionfuse.storage.filestorage import FileStorage
from workshop import index_of, root_of

KERNEL = """
class Shell:
    config = {"IPKernelApp": {}}

def get_ipython():
    return Shell()
"""

CELLS = """
import sys
import IPython  # with __main__ without a file, DuckDB takes this process for a notebook
sys.modules["ipywidgets"] = None
from functionfuse.storage.filestorage import FileStorage
storage = FileStorage(sys.argv[1])
print(storage.list_tasks("w"), storage.catalog.sql("SELECT task, value FROM tasks").fetchall())
print(storage.catalog.tasks().to_arrow_table().num_rows, storage.catalog.task("w", "a").task)
print("a" in str(storage.catalog.sql("FROM tasks")), "a" in repr(storage.catalog.events()))
print(storage.catalog.export(sys.argv[2]).rows)
from catalog.audit.audit import verify_exports
print(verify_exports(sys.argv[2]).ok)
"""


def python(program: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program that has no file, as a notebook's cells have none."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    paths = os.pathsep.join([str(cwd), *filter(None, sys.path)])
    env = os.environ | {"PYTHONPATH": paths}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env)


def made(storage: FileStorage) -> str:
    """Return the id that an index gets when it is made."""
    with duckdb.connect(str(index_of(storage)), read_only=True) as connection:
        return str(connection.execute("SELECT index_id FROM meta").fetchall()[0][0])


@pytest.mark.slow
def test_a_notebook_without_widgets(storage: FileStorage, tmp_path: Path) -> None:
    """In a kernel without ipywidgets every question is answered, nothing is drawn, and the index stays."""
    storage.save("w", "a", 1)
    storage.list_tasks("w")
    before = made(storage)
    (tmp_path / "IPython").mkdir()
    (tmp_path / "IPython" / "__init__.py").write_text(KERNEL)
    run = python(CELLS, root_of(storage), tmp_path / "out.parquet", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["['a'] [('a', '1')]", "1 a", "True True", "1", "True"]
    assert run.stderr == ""
    assert made(storage) == before


def test_no_connection_draws() -> None:
    """Where Python is interactive, neither an instance nor its cursors draw a progress bar."""
    program = """
from catalog.index.engine import connect
connection = connect()
for each in (connection, connection.cursor()):
    print(each.execute("SELECT current_setting('enable_progress_bar')").fetchall())
"""
    assert python(program).stdout.splitlines() == ["[(False,)]", "[(False,)]"]


# A process that wants to ask, and in which something else than the index is wrong.
WRONG = {
    "a full disk": "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))",
    "no package": "import sys; sys.modules['pyarrow'] = None",
    "no memory": """
from catalog.index import engine
connect = engine.connect
engine.connect = lambda config=None: connect({**(config or {}), "memory_limit": "1MB"})
""",
    "too many open files": """
import os, resource, duckdb
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
files = []
while len(files) < 64:
    try:
        files.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        break
os.close(files.pop())
os.close(files.pop())
""",
}
QUESTION = """
import sys
from functionfuse.storage.filestorage import FileStorage
storage = FileStorage(sys.argv[1])
{wrong}
try:
    print("answered", len(storage.catalog.tasks().fetchall()))
except BaseException as error:
    print("failed", type(error).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_damage_deletes_nothing(storage: FileStorage, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever keeps a process from using an intact index, the index stays, and the next process uses it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(root_of(storage) / ".cache"))
    storage.save("w", "a", 1)
    storage.list_tasks("w")
    for number in range(200):
        storage.save("w", f"{number}", "x" * 100)  # to be folded
    before = made(storage)
    run = python(QUESTION.format(wrong=WRONG[wrong]), root_of(storage))
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(("answered 201", "failed")), run.stdout
    assert made(storage) == before
    assert not is_damaged(str(index_of(storage)))
    assert len(storage.list_tasks("w")) == 201
    assert made(storage) == before


def test_lines_that_cannot_be_folded_delete_nothing(storage: FileStorage) -> None:
    """A compacted part of the journal that DuckDB cannot take is no damage to the index."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    storage.save("w", "a", 1)
    storage.list_tasks("w")
    before = made(storage)
    bad = root_of(storage) / ".catalog" / "journal" / "01ffffff-0000-7000-8000-000000000000.parquet"
    pq.write_table(pa.table({"event": ["save"]}).replace_schema_metadata({"functionfuse": "nonsense"}), bad)
    with pytest.raises(Exception, match="damaged"):
        storage.list_tasks("w")
    bad.unlink()
    assert storage.list_tasks("w") == ["a"]
    assert made(storage) == before


def test_damage_that_only_an_answer_meets(storage: FileStorage) -> None:
    """A block that is damaged in the midst of an index is found when it is read, and the answer is right anyway."""
    storage.save("w", "a", 1)
    storage.list_tasks("w")
    path = index_of(storage)
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "INSERT INTO past (event, event_id, details) SELECT 'x', uuid(), to_json(repeat(md5(range::VARCHAR), 50))"
            " FROM range(5000)"
        ).fetchall()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(random.Random(2).randbytes(8192))
    assert is_damaged(str(path))
    question = "SELECT event, count(*), max(details) FROM events GROUP BY event"
    assert storage.catalog.sql(question).fetchall() == [("save", 1, None)]
    assert not is_damaged(str(path))


def test_what_somebody_asks_proves_nothing(storage: FileStorage) -> None:
    """A query whose error has the words of a damage leaves the index as it is."""
    from catalog.errors import InvalidQuestion

    storage.save("w", "a", 1)
    storage.list_tasks("w")
    before = made(storage)
    with pytest.raises(InvalidQuestion, match="Corrupt"):
        storage.catalog.sql(f"SELECT error('IO Error: Corrupt database file {index_of(storage)}')")
    assert made(storage) == before
