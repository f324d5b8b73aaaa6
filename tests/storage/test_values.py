"""What is captured of a result at its save: `value`, `summary`, `type`, `packages`; bounded, and never in the way."""

from __future__ import annotations

import json
import math
import sys
from collections import OrderedDict, namedtuple
from datetime import datetime, timezone
from enum import IntEnum
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.format.names import from_text
from functionfuse.storage._describe import describe
from functionfuse.storage.filestorage import FileStorage
from workshop import task_names

LONGEST = 4096  # bytes of JSON that are kept of value and of summary


def described(obj: Any) -> dict[str, Any]:
    """Return what is captured of an object."""
    found = describe(obj)
    summary, value = (
        json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        for text in (found.summary, found.value)
    )
    return {"type": found.type, "summary": summary, "value": value, "packages": found.packages}


Point = namedtuple("Point", "x y")


class Colour(IntEnum):
    """An integer that is more than an integer."""

    RED = 1


class Text(str):
    """A string that is more than a string."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("result", "value"),
    [
        (None, None),
        (True, True),
        (0, 0),
        (-(2**63), -(2**63)),
        (2**64 - 1, 2**64 - 1),
        (2**64, None),
        (-(2**63) - 1, None),
        (0.1, 0.1),
        (-0.0, -0.0),
        (1e308, 1e308),
        (5e-324, 5e-324),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        ("", ""),
        ("é😀\n\0", "é😀\n\0"),
        ([], []),
        ([1, (2.5, "x"), [None, True]], [1, [2.5, "x"], [None, True]]),
        ({"a": {"b": [math.nan]}}, {"a": {"b": ["NaN"]}}),
        ({}, {}),
        ({1: "a"}, {"1": "a"}),
        ({None: 1}, {"null": 1}),
        ([2**64], None),
        ([b"bytes"], None),
        ({"a": {1, 2}}, {"a": [1, 2]}),
        (b"bytes", None),
        (1j, {"real": 0.0, "imag": 1.0}),
        (datetime(2026, 1, 1, tzinfo=timezone.utc), "2026-01-01T00:00:00+00:00"),
        (Point(1, 2), {"x": 1, "y": 2}),
        (OrderedDict(a=1), {"a": 1}),
        (Colour.RED, 1),
        (Text("x"), "x"),
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.float16("nan"), "NaN"),
        (np.float64("-inf"), "-Infinity"),
        (np.int8(-5), -5),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.array(3), 3),
        (np.array(2.5, dtype="f4"), 2.5),
        ({"accuracy": np.float64(0.97), "n": np.int64(3)}, {"accuracy": 0.97, "n": 3}),
        ([np.float64("nan")], ["NaN"]),
        (np.datetime64("2026-01-01"), "2026-01-01"),
        (np.complex128(1j), {"real": 0.0, "imag": 1.0}),
        (np.longdouble(1), 1.0),
        (np.array(None), None),
        (np.array((1, 2.0), dtype="i4,f4"), None),
        (np.array([1]), [1]),
        (np.array([]), []),
    ],
    ids=ascii,
)
def test_small_results_are_values(result: Any, value: Any) -> None:
    """A scalar or JSON-like result is kept itself, NaN and infinities as words; what is neither has no value."""
    found = described(result)["value"]
    assert (found, type(found)) == (value, type(value))


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=40,
)


def as_json(result: Any) -> Any:
    """Return what JSON can hold of a result, NaN and infinities as words."""
    if isinstance(result, float) and not math.isfinite(result):
        return "NaN" if math.isnan(result) else "Infinity" if result > 0 else "-Infinity"
    if isinstance(result, list):
        return [as_json(item) for item in result]
    if isinstance(result, dict):
        return {key: as_json(item) for key, item in result.items()}
    return result


def restored(found: Any) -> Any:
    """Return a value with its escaped surrogates as they were."""
    if isinstance(found, str):
        return from_text(found)
    if isinstance(found, list):
        return [restored(item) for item in found]
    if isinstance(found, dict):
        return {from_text(key): restored(item) for key, item in found.items()}
    return found


@pytest.mark.slow
@given(result=plain)
@settings(max_examples=300)
def test_any_json_like_result_comes_back(result: Any) -> None:
    """A nest of scalars, lists and dictionaries is kept exactly, or what does not fit into 4 KiB is named."""
    about = described(result)
    found = about["value"]
    if restored(found) != as_json(result):
        assert len(json.dumps(as_json(result), separators=(",", ":"))) > LONGEST
        assert found is None or about["summary"]["omitted"]
    assert len(json.dumps(found, separators=(",", ":"))) <= LONGEST


@pytest.mark.parametrize(
    "result",
    [
        "x" * 5000,
        "😀" * 600,
        "\udc80" * 600,
        "\x01" * 680,
        ["😀" * 300] * 3,
        list(range(501)),
        list(range(10**6)),
        [[0] * 30 for _ in range(30)],
        {str(number): number for number in range(600)},
        {"k" * 5000: 1},
        {"k" * 5000: {1, 2}},
        {f"key {number} {'k' * 200}": b"" for number in range(50)},
    ],
    ids=lambda result: f"{type(result).__name__} {ascii(result)[:12]}",
)
def test_what_is_kept_is_bounded(result: Any) -> None:
    """Neither value nor summary takes more than 4 KiB of the footer, whatever the result."""
    found = described(result)
    for part in ("value", "summary"):
        assert len(json.dumps(found[part], separators=(",", ":"))) <= LONGEST


def test_just_what_fits_is_kept() -> None:
    """A list of a few hundred numbers is kept, a string of 4,000 letters too."""
    assert described(list(range(499)))["value"] == list(range(499))
    assert described("x" * 4000)["value"] == "x" * 4000


def test_a_huge_result_is_described_without_going_through_it() -> None:
    """Of a dictionary with many entries no more than 500 values are kept, and how many are left out is told."""
    found = described(dict.fromkeys(range(10**5), 0))
    assert found["value"] == dict.fromkeys(map(str, range(len(found["value"]))), 0)
    assert 400 < len(found["value"]) <= 500
    assert found["summary"]["length"] == 10**5
    assert found["summary"]["omitted_count"] == 10**5 - len(found["value"])


def test_a_result_that_holds_itself() -> None:
    """A list or object that contains itself is kept without what would have no end, and that is named."""
    result: list[Any] = [1]
    result.append(result)
    summary = {"length": 2, "omitted": {"[1]": "recursive"}}
    assert described(result) == {"type": "list", "summary": summary, "value": [1, None], "packages": {}}
    deeper: dict[str, Any] = {"loss": 0.5, "history": [1]}
    deeper["history"].append(deeper)
    found = described(deeper)
    assert found["value"] == {"loss": 0.5, "history": [1, None]}
    assert found["summary"]["omitted"] == {"history[1]": "recursive"}


@pytest.mark.parametrize(
    ("result", "summary"),
    [
        ([1, 2], {"length": 2}),
        ((1,), {"length": 1}),
        ({1, 2, 3}, {"length": 3}),
        (b"1234", {"length": 4}),
        ("x" * 5000, {"length": 5000}),
        ({"a": 1, 2: 3}, {"length": 2, "keys": ["a"]}),
        (5, None),
        (object(), None),
        (np.array([1, 2, 6]), {"shape": [3], "dtype": "int64", "bytes": 24, "min": 1, "max": 6, "mean": 3.0}),
        (np.zeros((2, 0)), {"shape": [2, 0], "dtype": "float64", "bytes": 0}),
        (
            np.array([1.0, np.nan]),
            {"shape": [2], "dtype": "float64", "bytes": 16, "nulls": 1, "min": 1.0, "max": 1.0, "mean": 1.0},
        ),
        (np.array([np.nan]), {"shape": [1], "dtype": "float64", "bytes": 8, "nulls": 1}),
        (
            np.array(["2026-11-25", "NaT", "2026-11-23"], "M8[D]"),
            {
                "shape": [3],
                "dtype": "datetime64[D]",
                "bytes": 24,
                "nulls": 1,
                "min": "2026-11-23",
                "max": "2026-11-25",
            },
        ),
        (
            np.array([np.inf, -np.inf]),
            {"shape": [2], "dtype": "float64", "bytes": 16, "min": "-Infinity", "max": "Infinity", "mean": "NaN"},
        ),
        (np.array(["a", "bc"]), {"shape": [2], "dtype": "<U2", "bytes": 16}),
        (np.array([True, False]), {"shape": [2], "dtype": "bool", "bytes": 2}),
        (np.array([None]), {"shape": [1], "dtype": "object", "bytes": 8}),
        (np.broadcast_to(np.float32(1), (1000, 1000)), {"shape": [1000, 1000], "dtype": "float32", "bytes": 4_000_000}),
    ],
    ids=lambda part: ascii(part).partition(" at 0x")[0][:30],
)
@pytest.mark.filterwarnings("error")
def test_summaries(result: Any, summary: Any) -> None:
    """A container has its length, an array shape, type and, where cheap, its statistics; no warning is given."""
    assert described(result)["summary"] == summary


def test_a_data_frame_is_summarised() -> None:
    """A DataFrame has its shape and the types of its columns; so has a Series; the packages are named."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], 5: [0.5, None]})
    found = described(frame)
    columns = {"a": "int64", "5": "float64"}
    size = int(frame.memory_usage().sum())
    assert found["summary"] == {"shape": [2, 2], "columns": columns, "bytes": size, "nulls": {"5": 1}}
    assert found["packages"] == {"pandas": pandas.__version__}
    assert described(frame["a"])["summary"] == {"shape": [2], "dtype": "int64", "name": "a"}
    assert described({"one": frame})["packages"] == {"pandas": pandas.__version__}


def test_a_frame_with_a_thousand_columns() -> None:
    """Of a table whose columns do not fit into 4 KiB, shape and size are told, and its values are not."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({f"a long name {number}": [0] for number in range(1000)})
    found = described(frame)
    expected = {"shape": [1, 1000], "bytes": int(frame.memory_usage().sum())}
    assert (found["summary"], found["value"]) == (expected, None)
    assert found["type"].endswith("DataFrame")


def test_a_polars_frame_and_an_arrow_table_are_summarised() -> None:
    """Polars and Arrow tables have their shape and columns."""
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": [1, None]})
    found = described(frame)["summary"]
    assert found.pop("bytes") >= 16
    assert found == {"shape": [2, 1], "columns": {"a": "Int64"}, "nulls": {"a": 1}}
    table = described(frame.to_arrow())["summary"]
    assert table.pop("bytes") >= 16
    assert table == {"shape": [2, 1], "columns": {"a": "int64"}, "nulls": {"a": 1}}


@pytest.mark.parametrize(
    ("result", "type_name"),
    [(None, "NoneType"), (5, "int"), ([], "list"), (np.zeros(1), "numpy.ndarray"), (Point(1, 2), f"{__name__}.Point")],
)
def test_the_name_of_the_type(result: Any, type_name: str) -> None:
    """The type is named with its module, a builtin without."""
    assert described(result)["type"] == type_name


# Objects that do not want to be looked at


class Furious(type):
    """A metaclass whose classes refuse to say what they are."""

    def __getattribute__(cls, name: str) -> Any:
        if name in ("__mro__", "__module__", "item"):
            raise RuntimeError(f"not my {name}")
        return super().__getattribute__(name)


def refuse(*_: object, **__: object) -> Any:
    """Refuse to answer."""
    raise RuntimeError("leave me alone")


class Stubborn:
    """An object that pickles, and refuses all else."""

    __len__ = __iter__ = __getattr__ = __eq__ = __repr__ = __str__ = __bool__ = refuse
    __hash__ = None

    def __reduce__(self) -> Any:
        return (int, (5,))


class StubbornList(list):  # type: ignore[type-arg]
    """A list that refuses to tell its length."""

    __len__ = __iter__ = __getitem__ = refuse

    def __reduce__(self) -> Any:
        return (int, (5,))


class StubbornDict(dict):  # type: ignore[type-arg]
    """A dictionary whose keys and items are not to be had."""

    __len__ = __iter__ = keys = values = items = refuse

    def __reduce__(self) -> Any:
        return (int, (5,))


class Endless(list):  # type: ignore[type-arg]
    """A list that says it is longer than any."""

    def __len__(self) -> int:
        return sys.maxsize


class StubbornArray(np.ndarray):
    """An array that has no statistics."""

    min = max = mean = refuse


class FuriousClass(metaclass=Furious):
    """An object of a class that refuses."""

    def __reduce__(self) -> Any:
        return (int, (5,))


ODD = {
    "stubborn": Stubborn(),
    "stubborn list": StubbornList([1]),
    "stubborn dict": StubbornDict(a=1),
    "endless": Endless([1]),
    "array": np.zeros(3).view(StubbornArray),
    "furious": FuriousClass(),
    "list of furious": [FuriousClass()],
    "value of stubborn": {"a": Stubborn()},
    "masked": np.ma.masked_all(3),
    "record": np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
    "longdouble": np.zeros(2, dtype=np.longdouble),
    "float16": np.full(1000, 60000, dtype=np.float16),
    "0-d": np.array(np.inf),
    "deep": (lambda nest: [nest := [nest] for _ in range(400)][-1])([]),
    "surrogate": "\udc80",
    "surrogate key": {"\udc80": "\udc80", "x": 1},
    "mark": "\U0010f8ff",
    "nul": "\0",
    "int": 10**5000,
    "type": int,
    "module class": ModuleType,
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_result_is_described(kind: str) -> None:
    """Whatever an object does when it is looked at, its record is made, and is JSON."""
    assert set(described(ODD[kind])) == {"type", "summary", "value", "packages"}


def test_odd_results_are_saved_and_listed(storage: FileStorage) -> None:
    """Results that refuse to be looked at, or whose values are odd, are saved, and the catalog lists every one."""
    for kind, result in ODD.items():
        storage.save("w", kind, result)
    assert sorted(task_names(storage.catalog)) == sorted(("w", kind) for kind in ODD)
    assert storage.catalog.refresh().torn == 0


def test_values_in_sql(storage: FileStorage) -> None:
    """Captured values come back from SQL: numbers, NaN, texts that are no valid Unicode, null for what was None."""
    for name, result in {
        "nan": np.float32("nan"),
        "inf": -math.inf,
        "big": 2**64 - 1,
        "nest": {"a": [1, {"b": np.int8(7)}]},
        "surrogate": "\udc80",
        "none": None,
        "bytes": b"x",
    }.items():
        storage.save("w", name, result)
    found = dict(storage.catalog.sql("SELECT task, value->>'$' FROM tasks").fetchall())
    assert math.isnan(float(found["nan"]))
    assert float(found["inf"]) == -math.inf
    assert int(found["big"]) == 2**64 - 1
    assert json.loads(found["nest"]) == {"a": [1, {"b": 7}]}
    assert from_text(found["surrogate"]) == "\udc80"
    assert found["none"] is None
    assert found["bytes"] is None
    ranked = storage.catalog.sql("SELECT task FROM tasks WHERE TRY_CAST(value->>'$' AS DOUBLE) > 0 ORDER BY task")
    assert ranked.fetchall() == [("big",), ("nan",)]  # DuckDB sorts NaN above every number
