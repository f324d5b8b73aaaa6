"""Columns of types that DuckDB does not have: they come as one that it has, and hide no other column."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functionfuse.storage.filestorage import FileStorage

pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")

HALVES = pa.array(np.array([1.5, 65504.0, -0.0], "f2"))
LONG = Decimal("-123456789012345678901234567890123456789012345.01")


def texts(values: list[Any], kind: Any) -> Any:
    """Return decimals, and none."""
    return pa.array([None if value is None else Decimal(value) for value in values], kind)


#: By name: a column of three rows; its type in SQL, and its first two rows.
COLUMNS: dict[str, tuple[Any, str, list[Any]]] = {
    "halves": (HALVES, "FLOAT", [1.5, 65504.0]),
    "decimal": (texts(["1.50", None, "2"], pa.decimal256(38, 2)), "DECIMAL(38,2)", [Decimal("1.50"), None]),
    "long decimal": (texts(["1.50", LONG, None], pa.decimal256(60, 2)), "DOUBLE", [1.5, float(LONG)]),
    "list": (pa.ListArray.from_arrays(pa.array([0, 2, 2, 3], pa.int32()), HALVES), "FLOAT[]", [[1.5, 65504.0], []]),
    "large list": (
        pa.LargeListArray.from_arrays(pa.array([0, 2, 2, 3], pa.int64()), HALVES),
        "FLOAT[]",
        [[1.5, 65504.0], []],
    ),
    "struct": (
        pa.StructArray.from_arrays([HALVES, pa.array([1, 2, 3])], ["half", "whole"]),
        "STRUCT(half FLOAT, whole BIGINT)",
        [{"half": 1.5, "whole": 1}, {"half": 65504.0, "whole": 2}],
    ),
    "list of decimals": (
        pa.array([[Decimal(1)], None, []], pa.list_(pa.decimal256(60, 2))),
        "DOUBLE[]",
        [[1.0], None],
    ),
    "map": (
        pa.MapArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), ["a", "b", "c"], HALVES),
        "MAP(VARCHAR, FLOAT)",
        [{"a": 1.5}, {"b": 65504.0}],
    ),
    "extension": (
        pa.ExtensionArray.from_storage(pa.opaque(pa.float16(), "half", "test"), HALVES),
        "FLOAT",
        [1.5, 65504.0],
    ),
    "tensors": (
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((3, 2, 1), "f2")),
        "FLOAT[2]",
        [(1.0, 1.0), (1.0, 1.0)],
    ),
    "pairs": (pa.FixedSizeListArray.from_arrays(pa.concat_arrays([HALVES, HALVES]), 2), "FLOAT[2]", None),
}
COLUMNS["list in a list"] = (
    pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), COLUMNS["list"][0]),
    "FLOAT[][]",
    [[[1.5, 65504.0]], [[]]],
)


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """Return a storage with the default serializers."""
    storage = FileStorage(tmp_path)
    storage.register_default_serializers()
    return storage


def rows(storage: FileStorage, query: str) -> list[Any]:
    """Return the rows of a query to the one table."""
    return storage.catalog.sql(query.format("result('w', 't')")).fetchall()


def test_columns_come_as_types_that_sql_has(storage: FileStorage) -> None:
    """Each is there with its values, beside other ones, and what is read is still what was saved."""
    table = pa.table({**{name: column for name, (column, _, _) in COLUMNS.items()}, "b": [1, 2, 3]})
    storage.save("w", "t", table)
    assert list(storage.footer("w", "t").record.serializers) == ["pickle", "ArrowTableSerializer"]
    found = {name: kind for name, kind, *_ in rows(storage, "DESCRIBE FROM {}")}
    assert found == {**{name: kind for name, (_, kind, _) in COLUMNS.items()}, "b": "BIGINT"}
    first = rows(storage, "SELECT * FROM {} WHERE b < 3 AND halves IS NOT NULL ORDER BY b")
    for number, (name, (_, _, values)) in enumerate(COLUMNS.items()):
        assert values is None or [row[number] for row in first] == values, name
    assert storage.read_task("w", "t").equals(table)


def test_conditions_on_such_columns(storage: FileStorage) -> None:
    """A condition is on the numbers as SQL has them, whatever the file's own statistics are of."""
    decimals = texts(["1.50", LONG, "9"], pa.decimal256(60, 2))
    storage.save("w", "t", pa.table({"half": HALVES, "long": decimals, "b": [1, 2, 3]}))
    found = rows(
        storage,
        """SELECT (SELECT list(b ORDER BY b) FROM {0} WHERE half > 1.4), (SELECT list(b) FROM {0} WHERE half = 0),
        (SELECT list(b) FROM {0} WHERE long < 0), (SELECT list(b ORDER BY b) FROM {0} WHERE long IN (1.5, 9)),
        (SELECT max(long) FROM {0})""",
    )
    assert found == [([1, 2], [3], [2], [1, 3], 9.0)]


def test_other_types_are_as_they_were(storage: FileStorage) -> None:
    """A type that DuckDB has is not touched: times, texts, dictionaries, extensions that it knows."""
    kinds = {
        "a": (pa.array([1], pa.timestamp("ns")), "TIMESTAMP_NS"),
        "b": (pa.array(["x"]).dictionary_encode(), "VARCHAR"),
        "c": (pa.array([datetime.timedelta(seconds=1)]), "INTERVAL"),
        "d": (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"x" * 16], pa.binary(16))), "UUID"),
        "e": (pa.array([[{"x": 1}]]), "STRUCT(x BIGINT)[]"),
        "f": (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), "TINYINT[2]"),
        "g": (pa.array([Decimal(1)], pa.decimal128(38, 0)), "DECIMAL(38,0)"),
        "half": (HALVES[:1], "FLOAT"),
    }
    storage.save("w", "t", pa.table({name: column for name, (column, _) in kinds.items()}))
    found = {name: kind for name, kind, *_ in rows(storage, "DESCRIBE FROM {}")}
    assert found == {name: kind for name, (_, kind) in kinds.items()}


def test_labels_that_are_no_texts(storage: FileStorage) -> None:
    """Columns of pandas that are named by numbers or pairs are those of their texts, in SQL and in the summary."""
    pd = pytest.importorskip("pandas")
    storage.save("w", "t", pd.DataFrame({0: [5, 7], "b": [1, 2], ("x", 1): [1.5, 2.5]}))
    assert rows(storage, """SELECT sum("0"), sum(b), max("('x', 1)") FROM {}""") == [(12, 3, 2.5)]
    assert storage.footer("w", "t").record.summary["max"] == {"0": 7, "b": 2, "('x', 1)": 2.5}


WIDE = [name for name in ("Int128", "UInt128") if hasattr(pl, name)]


@pytest.mark.parametrize("name", WIDE)
def test_integers_of_128_bits(storage: FileStorage, name: str) -> None:
    """They come back exactly, are numbers in SQL and in the summary, or text where one has 39 digits."""
    kind = getattr(pl, name)
    frame = pl.DataFrame({"a": pl.Series([2**100, None, 7], dtype=kind), "b": [1, 2, 3]})
    storage.save("w", "t", frame)
    assert storage.read_task("w", "t").equals(frame)
    assert storage.read_task("w", "t").schema == frame.schema
    assert rows(storage, "SELECT sum(a), sum(b) FROM {}") == [(Decimal(2**100 + 7), 6)]
    summary = storage.footer("w", "t").record.summary
    assert (summary["max"], summary["min"]) == ({"a": str(2**100), "b": 3}, {"a": "7", "b": 1})

    frame = pl.DataFrame({"a": pl.Series([2**127 - 1, None, 7], dtype=kind), "b": [1, 2, 3]})
    storage.save("w", "t", frame)
    assert storage.read_task("w", "t").equals(frame)
    assert storage.read_task("w", "t").schema == frame.schema
    assert rows(storage, "SELECT a::HUGEINT FROM {} WHERE b = 1") == [(2**127 - 1,)]
    assert storage.footer("w", "t").record.summary["max"] == {"b": 3}  # text has another order


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("number", [5, 2**127 - 1])
def test_integers_of_128_bits_inside(storage: FileStorage, name: str, number: int) -> None:
    """They come back from lists, arrays and structs of them, and hide no other column; so does a series."""
    kind = getattr(pl, name)
    inner = pl.Struct({"x": pl.List(kind), "y": pl.String})
    frame = pl.DataFrame(
        {
            "list": pl.Series([[number], None], dtype=pl.List(kind)),
            "array": pl.Series([[[number, 1]], [[2, 3]]], dtype=pl.Array(kind, (1, 2))),
            "struct": pl.Series([{"x": [number], "y": "a"}, None], dtype=inner),
            "b": [1, 2],
        }
    )
    for obj in (frame.clear(), frame):
        storage.save("w", "t", obj)
        found = storage.read_task("w", "t")
        assert found.equals(obj)
        assert found.schema == obj.schema
        assert list(storage.footer("w", "t").record.serializers) == ["pickle", "PolarsFrameSerializer"]
    assert rows(storage, "SELECT b FROM {} ORDER BY b") == [(1,), (2,)]
    series = pl.Series("s", [number, None], dtype=kind)
    storage.save("w", "t", series)
    assert storage.read_task("w", "t").equals(series, check_dtypes=True, check_names=True)
