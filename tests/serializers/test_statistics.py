"""The catalog has minimum, maximum and nulls of what was saved as Parquet, from the files' own footers."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from functionfuse.serializers import _needed, _parquet
from functionfuse.storage.filestorage import FileStorage

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")

ROWS = 20_000  # too many for a look at the values themselves
DAYS = pd.date_range("2026-01-01", periods=ROWS, freq="min", name="when")


def frame() -> Any:
    """Return a table of pandas with an index."""
    columns = {"x": np.arange(ROWS), "y": [None, 1.5] * (ROWS // 2), "s": ["b", "a"] * (ROWS // 2)}
    return pd.DataFrame(columns, index=DAYS)


def dask_frame() -> Any:
    """Return it in partitions."""
    return pytest.importorskip("dask.dataframe").from_pandas(frame(), npartitions=3)


WHEN = {"min": {"when": "2026-01-01T00:00:00"}, "max": {"when": "2026-01-14T21:19:00"}}


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """Return a storage with all serializers."""
    storage = FileStorage(tmp_path)
    storage.register_default_serializers()
    return storage


def summary(storage: FileStorage, obj: Any) -> Any:
    """Save an object and return what the catalog says of it."""
    storage.save("w", "t", obj)
    ((text,),) = storage.catalog.sql("SELECT summary FROM tasks").fetchall()
    return json.loads(text)


@pytest.mark.parametrize(
    ("make", "has_index"),
    [
        (frame, True),
        (dask_frame, True),
        (lambda: pl.from_pandas(frame()), False),
        (lambda: pa.table(pl.from_pandas(frame()).to_arrow()), False),
        (lambda: pa.Table.from_pandas(frame(), preserve_index=False).combine_chunks().to_batches()[0], False),
    ],
    ids=["pandas", "Dask", "Polars", "Arrow", "Arrow batch"],
)
def test_tables_have_statistics(storage: FileStorage, make: Callable[[], Any], has_index: bool) -> None:
    """Minimum, maximum and nulls of every column, an index included, are in the summary; and a lazy table's length."""
    found = summary(storage, make())
    assert found["shape"] == [ROWS, 3]
    index = WHEN if has_index else {"min": {}, "max": {}}
    assert found["min"] == {"x": 0, "y": 1.5, "s": "a", **index["min"]}
    assert found["max"] == {"x": ROWS - 1, "y": 1.5, "s": "b", **index["max"]}
    assert found["nulls"] == {"y": ROWS // 2}


def test_sql_finds_results_by_them(storage: FileStorage) -> None:
    """SQL compares minimum and maximum of a column over results, and counts nulls."""
    for number in range(3):
        storage.save("w", f"t{number}", pd.DataFrame({"mean": [number / 2, None]}))
    query = "SELECT task FROM tasks WHERE (summary->'max'->>'mean')::DOUBLE > 0.4 AND (summary->'nulls'->>'mean') = '1'"
    assert storage.catalog.sql(query + " ORDER BY task").fetchall() == [("t1",), ("t2",)]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: pd.Series([3, 1, 2], name="q", index=pd.Index([7, 8, 9], name="i")), {"min": 1, "max": 3}),
        (lambda: pd.Series([1.5, None]), {"min": 1.5, "max": 1.5, "nulls": 1}),
        (lambda: pl.Series("q", [3, None, 1]), {"min": 1, "max": 3, "nulls": 1}),
        (lambda: pd.Series(pd.interval_range(0, 2), index=pd.Index([7, 8], name="i")), {}),
    ],
    ids=["pandas", "pandas without a name", "Polars", "intervals"],
)
def test_a_series_has_its_own(storage: FileStorage, make: Callable[[], Any], expected: Any) -> None:
    """Of a series the values stand there directly, as of an array, and nothing of its index."""
    found = summary(storage, make())
    assert {key: found[key] for key in ("min", "max", "nulls") if key in found} == expected
    assert list(storage.footer("w", "t").record.serializers) != ["pickle"]


def test_of_each_type_what_json_has(storage: FileStorage) -> None:
    """Times are ISO 8601, decimals and infinities text; bytes, long texts and nested columns have none."""
    moment = datetime.datetime(2026, 2, 28, 12, tzinfo=datetime.timezone.utc)
    names = ["t", "d", "c", "e", "f", "z", "u", "b", "long", "n", "n.x", "l", "void"]
    columns = [
        pa.array([moment], pa.timestamp("us", "UTC")),
        pa.array([datetime.date(2026, 2, 28)]),
        pa.array([Decimal("1.50")]),
        pa.array([""]),
        pa.array([float("inf")]),
        pa.array([0.0]),
        pa.array([2**64 - 1], pa.uint64()),
        pa.array([b"\xff"]),
        pa.array(["x" * 101]),
        pa.array([{"x": 1}]),
        pa.array([5]),
        pa.array([[1]]),
        pa.array([None]),
    ]
    found = summary(storage, pa.Table.from_arrays(columns, names))
    expected = {
        "t": "2026-02-28T12:00:00+00:00",
        "d": "2026-02-28",
        "c": "1.50",
        "e": "",
        "f": "Infinity",
        "z": 0.0,
        "u": 2**64 - 1,
        "n.x": 5,
    }
    assert found["min"] == found["max"] == expected
    assert str(found["min"]["z"]) == "0.0"


def test_what_a_file_does_not_tell_is_not_known(storage: FileStorage) -> None:
    """A column of which one row group has no bounds has none; NaN and a column without values count for nothing."""
    empty = pl.DataFrame({"x": []}, schema={"x": pl.Int8})
    assert not {"min", "max", "nulls"} & summary(storage, empty).keys()
    found = summary(storage, pl.DataFrame({"nan": [float("nan"), None], "some": [float("nan"), 2.0]}))
    assert (found["min"], found["max"], found["nulls"]) == ({"some": 2.0}, {"some": 2.0}, {"nan": 1})

    class Part:
        num_values = 2
        statistics = None

    column = _parquet._Column(0)
    column.add(Part())
    assert column.known() == {}


def test_the_summary_is_bounded(storage: FileStorage) -> None:
    """Of many columns the first ones have statistics; of very many, the shape and those are left."""
    found = summary(storage, pd.DataFrame({f"column {number}": [number / 7] for number in range(80)}))
    assert len(found["columns"]) == 80
    assert list(found["min"]) == list(found["max"])
    assert 5 < len(found["min"]) < 80
    assert found["min"] == {f"column {number}": number / 7 for number in range(len(found["min"]))}
    assert len(json.dumps(found, separators=(",", ":"))) <= 4096
    found = summary(storage, pd.DataFrame({f"column {number}": [number] for number in range(2000)}))
    assert list(found) == ["shape", "min", "max"]
    assert found["shape"] == [1, 2000]
    assert len(json.dumps(found, separators=(",", ":"))) <= 4096


def test_no_statistics_are_no_failure(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library that reads footers, a Polars table is saved with the rest of its summary."""
    needed = _needed.needed

    def without_arrow(module: str, extra: str) -> Any:
        return needed("a module that is not there" if module == "pyarrow.parquet" else module, extra)

    monkeypatch.setattr(_parquet, "needed", without_arrow)
    found = summary(storage, pl.DataFrame({"a": [1, None]}))
    assert (found["shape"], found["columns"], found["nulls"]) == ([2, 1], {"a": "Int64"}, {"a": 1})
    assert "min" not in found


def test_they_are_in_the_blob_too(storage: FileStorage, tmp_path: Path) -> None:
    """A catalog that is rebuilt from the files has the same summary."""
    told = summary(storage, frame())
    (tmp_path / ".catalog").rename(tmp_path / ".put away")
    ((text,),) = FileStorage(tmp_path).catalog.sql("SELECT summary FROM tasks").fetchall()
    assert json.loads(text) == told
