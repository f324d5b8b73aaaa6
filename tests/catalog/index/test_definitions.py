"""An index that defines anything but what this library makes: it is not used, and what it defines has no reach."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from catalog.index import attach, definitions, engine
from functionfuse.storage.filestorage import FileStorage
from workshop import index_of

SECRET = "the content of somebody else's file"

#: What somebody does to an index, with ``{secret}`` for an expression that reads a file.
CRAFTED = {
    "a view that reads a file": [
        "ALTER VIEW tasks RENAME TO kept",
        "CREATE VIEW tasks AS SELECT * REPLACE ({secret} AS type) FROM kept",
    ],
    "a view that reads settings": [
        "ALTER VIEW tasks RENAME TO kept",
        "CREATE VIEW tasks AS SELECT * REPLACE (current_setting('memory_limit') AS type) FROM kept",
    ],
    "a view beside ours": ["CREATE VIEW another AS SELECT 1 AS n"],
    "a view in place of a table": [
        "ALTER TABLE segments RENAME TO kept",
        "CREATE VIEW segments AS SELECT * FROM kept",
    ],
    "a view in place of the table of versions": ["DROP TABLE meta", "CREATE VIEW meta AS SELECT 9 AS schema_version"],
    "a table in place of a view": [
        "CREATE TABLE kept AS FROM runs",
        "DROP VIEW runs",
        "ALTER TABLE kept RENAME TO runs",
    ],
    "a table beside ours": ["CREATE TABLE another (n INTEGER)"],
    "a macro with the name of a function": ["CREATE MACRO starts_with(a, b) AS {secret}"],
    "a macro with the name of an operator": ['CREATE MACRO "->>"(a, b) AS {secret}'],
    "a macro of its own": ["CREATE MACRO other(a) AS a + 1"],
    "a macro that is a table": ["CREATE MACRO other() AS TABLE SELECT 1 AS n"],
    "a schema": ["CREATE SCHEMA other"],
    "a table in another schema": ["CREATE SCHEMA other", "CREATE TABLE other.tasks (n INTEGER)"],
    "a type": ["CREATE TYPE mood AS ENUM ('good')"],
    "a sequence": ["CREATE SEQUENCE numbers"],
    "a default that calls": ["ALTER TABLE pins ALTER COLUMN pinned SET DEFAULT (random() > 0.5)"],
    "a generated column": [
        "DROP TABLE compacted",
        "CREATE TABLE compacted (name VARCHAR, other VARCHAR GENERATED ALWAYS AS (upper(name)) VIRTUAL)",
    ],
    "a check that calls": [
        "DROP TABLE compacted",
        "CREATE TABLE compacted (name VARCHAR CHECK (length(name) < 3))",
    ],
    "a column of another type": ["ALTER TABLE segments ALTER COLUMN torn TYPE VARCHAR"],
    "a column more": ["ALTER TABLE pins ADD COLUMN other VARCHAR"],
    "a column less": ["ALTER TABLE pins DROP COLUMN event_id"],
    "an index over an expression": ["CREATE INDEX other ON pins (lower(task))"],
}


@contextmanager
def opened(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an index as anybody can."""
    with duckdb.connect(str(path)) as connection:
        yield connection


@pytest.mark.slow
@pytest.mark.parametrize("what", CRAFTED)
def test_an_index_that_is_not_ours_is_built_anew(storage: FileStorage, tmp_path: Path, what: str) -> None:
    """Whatever somebody defines in an index, the next question answers as if it were not there, and it is gone."""
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    storage.save("w", "ok", 41)
    expected = storage.catalog.tasks().fetchall()
    path = index_of(storage)
    with opened(path) as connection:
        for statement in CRAFTED[what]:
            connection.execute(statement.format(secret=f"(SELECT content FROM read_text('{secret}'))"))
    assert storage.catalog.tasks().fetchall() == expected
    assert storage.list_tasks("w") == ["ok"]
    assert storage.catalog.sql("SELECT value FROM tasks").fetchall() == [("41",)]
    with engine.engine():
        connection = engine.confined(str(path))
        connection.execute(f"ATTACH '{path}' AS made (READ_ONLY)")
        assert definitions.foreign(connection, "made") == []
        connection.close()


def test_an_index_of_ours_is_left_alone(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at once, again after others changed it, and not built anew; also by a process that comes later."""
    looked = []
    ours = definitions.foreign
    monkeypatch.setattr(attach, "foreign", lambda *args: looked.append(found := ours(*args)) or found)
    storage.save("w", "ok", 41)
    storage.list_tasks("w")
    inode = index_of(storage).stat().st_ino
    assert looked == []  # it was made by this process
    attach._left.clear()
    for _ in range(3):
        storage.list_tasks("w")
    assert looked == [[]]
    with opened(index_of(storage)) as connection:
        connection.execute("CREATE TABLE other (n INTEGER); DROP TABLE other")
    storage.list_tasks("w")
    assert looked == [[], []]
    assert index_of(storage).stat().st_ino == inode


def test_a_log_of_writes_without_an_index_is_not_replayed(storage: FileStorage) -> None:
    """What somebody leaves as `catalog.duckdb.wal` beside no index does not come into the new one."""
    storage.save("w", "ok", 41)
    path = index_of(storage)
    storage.list_tasks("w")
    with opened(path) as connection:
        connection.execute("SET checkpoint_threshold = '1TB'")
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")
        connection.execute("CREATE MACRO other(a) AS a")
    log = Path(f"{path}.wal")
    assert log.exists()
    path.unlink()
    assert storage.list_tasks("w") == ["ok"]
    with opened(path) as connection:
        found = connection.execute("SELECT count(*) FROM duckdb_functions() WHERE function_name = 'other'").fetchall()
    assert found == [(0,)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM glob('{folder}/*')",
        "FROM '{file}'",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "ATTACH '{folder}/other.duckdb'",
        "ATTACH '{path}.other' AS other",
        "EXPORT DATABASE '{folder}/out'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM read_text('https://127.0.0.1:1/x')",
        "SET enable_external_access = true",
        "RESET enable_external_access",
        "SET allowed_directories = ['/']",
        "SET autoload_known_extensions = true",
        "SET lock_configuration = false",
        "SELECT * FROM somebodys_variable",
    ],
)
def test_an_instance_that_has_an_index_has_nothing_else(storage: FileStorage, tmp_path: Path, statement: str) -> None:
    """Where an index is attached, no SQL reaches files, extensions, the network, settings and variables."""
    somebodys_variable = duckdb.sql("SELECT 1").to_arrow_table()
    file = tmp_path / "secret.txt"
    file.write_text(SECRET)
    storage.save("w", "ok", 41)
    before = sorted(os.listdir(tmp_path))
    path = index_of(storage)
    with storage.catalog._index.question() as (connection, _), pytest.raises(duckdb.Error):
        connection.execute(statement.format(file=file, folder=tmp_path, path=path)).fetchall()
    assert somebodys_variable.num_rows == 1
    assert sorted(os.listdir(tmp_path)) == before
    assert storage.list_tasks("w") == ["ok"]


@pytest.mark.slow
def test_several_storages_have_instances_of_their_own(tmp_path: Path) -> None:
    """More storages than instances are kept can be asked in turns."""
    storages = [FileStorage(tmp_path / f"it's {number}") for number in range(engine._KEPT + 2)]
    for number, each in enumerate(storages):
        each.save("w", f"task {number}", number)
    for _ in range(2):
        assert [each.list_tasks("w") for each in storages] == [[f"task {number}"] for number in range(len(storages))]
    assert len(engine._instances) <= engine._KEPT
