"""Results as tables: SQL reads what was saved as Parquet where it lies, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import InvalidQuestion
from functionfuse.storage.filestorage import FileStorage

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """Return a storage with a table of each library, and results that are none."""
    storage = FileStorage(tmp_path / "storage")
    storage.register_default_serializers()
    days = pd.date_range("2020", periods=4, name="day")
    storage.save("weather", "pandas", pd.DataFrame({"station": list("abab"), "mean": [1.0, 2, 3, 4]}, index=days))
    storage.save("weather", "polars", pl.DataFrame({"station": ["a", "b"], "height": [100, 200]}))
    storage.save("weather", "arrow", pa.table({"id": range(1000), "text": [str(n) for n in range(1000)]}))
    storage.save("weather", "number", 12.9)
    storage.save("weather", "two", [pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})])
    return storage


def rows(storage: FileStorage, query: str, params: Any = None) -> list[Any]:
    """Return the rows of a query."""
    return storage.catalog.sql(query, params).fetchall()


def test_results_of_different_tasks_are_joined(storage: FileStorage) -> None:
    """Tables of pandas and Polars join with one another and with the catalog."""
    query = """
        SELECT station, sum(mean), any_value(height) FROM result('weather', 'pandas')
        JOIN result('weather', 'polars') USING (station) GROUP BY ALL ORDER BY station
    """
    assert rows(storage, query) == [("a", 4.0, 100), ("b", 6.0, 200)]
    joined = (
        "SELECT count(*) FROM RESULT ( 'weather' , 'arrow' ) x, result('weather', 'arrow') y, tasks WHERE x.id = y.id"
    )
    assert rows(storage, joined) == [(5000,)]
    assert rows(storage, "SELECT max(day)::DATE::VARCHAR FROM result('weather', 'pandas')") == [("2020-01-04",)]


def test_names_that_differ_in_case_alone(storage: FileStorage) -> None:
    """They are two tables, which they are not to DuckDB."""
    import pyarrow as pa

    storage.save("weather", "ARROW", pa.table({"id": [-7]}))
    query = "SELECT (SELECT min(id) FROM result('weather', '{}')), (SELECT min(id) FROM result('weather', '{}'))"
    assert rows(storage, query.format("arrow", "ARROW")) == [(0, -7)]
    assert rows(storage, query.format("ARROW", "arrow")) == [(-7, 0)]


def test_all_ways_to_read_a_table(storage: FileStorage) -> None:
    """FROM, DESCRIBE, SUMMARIZE, PIVOT, a CTE, parameters: a result is a table like any other."""
    assert len(rows(storage, "FROM result('weather', 'polars')")) == 2
    described = rows(storage, "DESCRIBE FROM result('weather', 'polars')")
    assert [row[:2] for row in described] == [("station", "VARCHAR"), ("height", "BIGINT")]
    assert len(rows(storage, "SUMMARIZE FROM result('weather', 'arrow')")) == 2
    assert rows(storage, "PIVOT result('weather', 'polars') ON station USING sum(height)") == [(100, 200)]
    query = "WITH t AS (FROM result('weather', 'arrow')) SELECT text FROM t WHERE id = $id"
    assert rows(storage, query, {"id": 7}) == [("7",)]


def test_only_what_is_asked_for_is_read(storage: FileStorage) -> None:
    """Columns and conditions reach the Parquet file."""
    ((plan,),) = [
        row[1:] for row in rows(storage, "EXPLAIN SELECT text FROM result('weather', 'arrow') WHERE id > 990")
    ]
    assert "Projections: text" in " ".join(plan.split())
    assert "990" in plan


def test_the_word_result_means_nothing_else(storage: FileStorage) -> None:
    """In texts, comments and names of columns it stays what it is."""
    query = "SELECT 'result(''w'',' || 1 AS result, \"result\" FROM (SELECT 2 AS \"result\") -- result('no', 'such')"
    assert rows(storage, query) == [("result('w',1", 2)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["o'brien", 'say "x"', "a/b", "..", "x" * 300, "é\U0001f9ea", "a.parquet", "*", "'; --"]
)
def test_odd_names(name: str, storage: FileStorage) -> None:
    """Any name can be asked for, with its quotes doubled."""
    storage.save(name, name, pl.DataFrame({"a": [1, 2]}))
    quoted = name.replace("'", "''")
    assert rows(storage, f"SELECT sum(a) FROM result('{quoted}', '{quoted}')") == [(3,)]


@pytest.mark.slow
def test_partitions_of_which_some_are_pickles(storage: FileStorage) -> None:
    """A Dask data frame of which one partition is no Parquet is no table: a part of its rows is no answer."""
    dd = pytest.importorskip("dask.dataframe")

    frame = dd.from_pandas(pd.DataFrame({"a": list("abcdefgh")}), npartitions=4)
    whole = frame.map_partitions(lambda part: part.assign(a=part.a), meta=frame._meta)
    storage.save("weather", "whole", whole)
    assert rows(storage, "SELECT count(*) FROM result('weather', 'whole')") == [(8,)]
    some = frame.map_partitions(
        lambda part: part.astype(object).assign(a=[1j, 2]) if "g" in set(part.a) else part, meta=frame._meta
    )
    storage.save("weather", "some", some)
    assert storage.read_task("weather", "some").compute().a.tolist() == [*"abcdef", 1j, 2]
    with pytest.raises(InvalidQuestion, match="some of its partitions"):
        rows(storage, "FROM result('weather', 'some')")


def test_partitions_are_one_table(storage: FileStorage) -> None:
    """The partitions of a Dask data frame are read together, the columns of all."""
    dd = pytest.importorskip("dask.dataframe")
    storage.save("weather", "dask", dd.from_pandas(pd.DataFrame({"a": range(100)}), npartitions=7))
    assert rows(storage, "SELECT count(*), sum(a) FROM result('weather', 'dask')") == [(100, 4950)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("FROM result('weather', 'nothing')", r"result\('weather', 'nothing'\): nothing is stored under these names"),
        ("FROM result('weather', 'number')", "is no table, it was saved by pickle: .*register_default_serializers"),
        ("FROM result('weather', 'two')", "holds several tables"),
        ("FROM result('weather')", r"write it as result\('workflow', 'task'\)"),
        ("FROM result($1, 'pandas')", r"write it as result\('workflow', 'task'\)"),
        ("FROM result('weather' || 'x', 'pandas')", r"write it as result\('workflow', 'task'\)"),
        ("FROM result(E'weather', 'pandas')", r"write it as result\('workflow', 'task'\)"),
        ("FROM result('', '')", "nothing is stored"),
    ],
)
def test_what_is_no_table(query: str, message: str, storage: FileStorage) -> None:
    """What cannot be read as a table says why, and what to do."""
    with pytest.raises(InvalidQuestion, match=message):
        rows(storage, query)


@pytest.mark.slow
@pytest.mark.parametrize(
    "query",
    [
        "FROM result('..', '..')",
        "FROM result('..', 'secret.parquet')",
        "FROM result('weather/..', 'polars')",
        "FROM result('weather', '../secret.parquet')",
        "FROM result('weather/bigdata', 'x')",
        "FROM result('.catalog', 'storage.json')",
        "FROM result('/etc', 'passwd')",
        "FROM 'secret.parquet'",
        "FROM read_parquet('secret.parquet')",
        "FROM parquet_scan('secret.parquet'), result('weather', 'polars')",
        "COPY (FROM result('weather', 'polars')) TO 'stolen.parquet'",
        "INSERT INTO result('weather', 'polars') VALUES ('c', 300)",
        "WITH x AS (DELETE FROM result('weather', 'polars') RETURNING *) FROM x",
        "SELECT result('weather', 'polars')",
        "FROM result('weather', 'polars'); DROP TABLE tasks",
        "FROM result('weather', 'polars') UNION FROM duckdb_settings()",
        "FROM \"result\"('weather', 'polars')",
        "FROM result/**/('weather', 'polars'), read_text('secret.parquet')",
    ],
)
def test_nothing_but_tables_of_this_storage(query: str, storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name and no statement beside it reaches another file, writes one, or changes a result."""
    folder = Path(storage.catalog.path).parent
    monkeypatch.chdir(folder)
    pl.DataFrame({"secret": [1]}).write_parquet("secret.parquet")
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(InvalidQuestion):
        rows(storage, query)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert rows(storage, "SELECT sum(height) FROM result('weather', 'polars')") == [(300,)]


def side_file(storage: FileStorage, task: str) -> Path:
    """Return the Parquet file of a result."""
    ((blob_id,),) = storage.catalog.tasks("weather", task).project("blob_id::VARCHAR").fetchall()
    (path,) = Path(storage.catalog.path, "weather", "bigdata", blob_id).iterdir()
    return path


def test_a_link_leads_nowhere(storage: FileStorage, tmp_path: Path) -> None:
    """A side file that was replaced by a link to a file elsewhere is refused."""
    path = side_file(storage, "polars")
    elsewhere = tmp_path / "secret.parquet"
    os.rename(path, elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(InvalidQuestion, match="does not lie in the result's folder"):
        rows(storage, "FROM result('weather', 'polars')")


def test_a_lost_or_damaged_file_is_named(storage: FileStorage) -> None:
    """What is gone or no Parquet is named, with the remedy; other results are read all the same."""
    path = side_file(storage, "polars")
    path.write_bytes(b"no parquet")
    with pytest.raises(InvalidQuestion, match=r"result\('weather', 'polars'\): its side file .* is damaged.*remove"):
        rows(storage, "FROM result('weather', 'polars')")
    unchecked = FileStorage(path.parents[3], verify="never")
    with pytest.raises(InvalidQuestion, match=r"result\('weather', 'polars'\) cannot be read"):
        rows(unchecked, "FROM result('weather', 'polars')")
    path.unlink()
    with pytest.raises(InvalidQuestion, match=r"its file .* is gone; remove the task"):
        rows(storage, "FROM result('weather', 'polars')")
    assert rows(storage, "SELECT count(*) FROM result('weather', 'arrow')") == [(1000,)]


@pytest.mark.slow
def test_among_thousands_of_results(tmp_path: Path) -> None:
    """In a folder with thousands of results two tables are found by their names and joined."""
    storage = FileStorage(tmp_path)
    for number in range(3000):
        storage.save("w", f"n{number}", number)
    storage.register_default_serializers()
    for name in ("left", "right"):
        storage.save("w", name, pl.DataFrame({"task": [f"n{number}" for number in range(1000)], name: range(1000)}))
    query = """
        SELECT count(*), sum(t.value::INTEGER = l.left) FROM result('w', 'left') l
        JOIN result('w', 'right') r USING (task) JOIN tasks t USING (task)
    """
    assert rows(storage, query) == [(1000, 1000)]
