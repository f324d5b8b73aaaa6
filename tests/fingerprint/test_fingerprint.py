"""Fingerprints: equal for equal things in every process, different for different ones, none for what is unknown."""

from __future__ import annotations

import array
import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import io
import math
import operator
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import tracemalloc
import types
import typing
import unittest.mock
import uuid
import weakref
import zoneinfo
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counting import calls
from functionfuse import workflow
from functionfuse.fingerprint import Closure, code_of, combine, comparable, of_function, of_value
from functionfuse.fingerprint._walk import is_wrapper

PYTHON = f"py{sys.version_info[0]}.{sys.version_info[1]}"


class Color(enum.Enum):
    """Members with values of several types."""

    RED = 1
    BLUE = "b"


class Shade(enum.IntFlag):
    """Members that combine."""

    DARK = 1
    WARM = 2


class Pair(typing.NamedTuple):
    """A named tuple."""

    left: Any
    right: Any = 0


@dataclasses.dataclass
class Point:
    """A dataclass with a field that does not count and a property that is cached."""

    x: Any
    y: Any = 0
    label: str = dataclasses.field(default="", compare=False)

    @functools.cached_property
    def norm(self) -> float:
        """Return the distance from the origin."""
        return math.hypot(self.x, self.y)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    """A dataclass that pickles to a list."""

    x: Any
    label: str = dataclasses.field(default="", compare=False)


class Slotted:
    """A class with slots and with other attributes."""

    __slots__ = ("__dict__", "x")

    def __init__(self, x: Any, y: Any) -> None:
        self.x = x
        self.y = y


class Plain:
    """A class whose objects hold what they are given."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def method(self) -> int:
        """Return a number."""
        return 1


class Tags(set[Any]):
    """A set with attributes."""


class Params(dict[Any, Any]):
    """A dict of another type."""


def double(x: Any) -> Any:
    """Return twice the argument."""
    return 2 * x


def frame() -> pd.DataFrame:
    """Return a frame with a column of nearly every type."""
    return pd.DataFrame(
        {
            "int": [1, 2, 3],
            "float": [0.5, math.nan, 3.0],
            "text": ["x", "ü", "z"],
            "time": pd.date_range("2020", periods=3),
            "zoned": pd.date_range("2020", periods=3, tz="UTC"),
            "delta": pd.to_timedelta([1, 2, 3], unit="s"),
            "category": pd.Categorical(["a", "b", "a"]),
            "masked": pd.array([1, None, 3], dtype="Int64"),
            "boolean": pd.array([True, None, False], dtype="boolean"),
            "string": pd.array(["a", None, "b"], dtype="string"),
            "period": pd.period_range("2020", periods=3, freq="D"),
            "interval": pd.interval_range(0, 3),
            "arrow": pd.array([1, 2, None], dtype=pd.ArrowDtype(pa.int64())),
            "sparse": pd.arrays.SparseArray([0, 0, 1]),
            "object": [[1], {2}, None],
        }
    )


def arrow_table() -> pa.Table:
    """Return an Arrow table with a column of nearly every type."""
    return pa.table(
        {
            "int": [1, None, 3],
            "float": [0.5, None, 2.0],
            "bool": [True, None, False],
            "text": ["a", None, "ü"],
            "time": pa.array([1, None, 3], pa.timestamp("us", "UTC")),
            "day": pa.array([1, 2, None], pa.date32()),
            "decimal": pa.array([decimal.Decimal("1.5"), None, None]),
            "list": [[1], None, [2, 3]],
            "struct": [{"a": 1}, None, {"a": 2}],
            "dictionary": pa.array(["a", "b", None]).dictionary_encode(),
            "null": [None] * 3,
            "bytes": [b"a", None, b""],
        }
    )


def polars_frame() -> pl.DataFrame:
    """Return a Polars frame with a column of nearly every type."""
    return pl.DataFrame(
        {
            "int": [1, None, 3],
            "float": [0.5, None, 2.0],
            "bool": [True, None, False],
            "text": ["a", None, "ü"],
            "time": [datetime.datetime(2020, 1, 1), None, None],
            "day": [datetime.date(2020, 1, 1), None, None],
            "list": [[1], None, [2]],
            "struct": [{"a": 1}, {"a": None}, {"a": 2}],
            "category": pl.Series(["a", None, "b"], dtype=pl.Categorical),
            "enum": pl.Series(["a", None, "b"], dtype=pl.Enum(["a", "b"])),
            "decimal": pl.Series([decimal.Decimal("1.5"), None, None], dtype=pl.Decimal(10, 1)),
            "bytes": [b"a", None, b""],
        }
    )


#: One value after the other, each different from all others, made anew at every call.
SAMPLES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "False": lambda: False,
    "True": lambda: True,
    "0": lambda: 0,
    "1": lambda: 1,
    "int": lambda: 10**80,
    "negative int": lambda: -(10**80),
    "0.0": lambda: 0.0,
    "-0.0": lambda: -0.0,
    "1.0": lambda: 1.0,
    "nan": lambda: float("nan"),
    "inf": lambda: math.inf,
    "complex": lambda: 1 + 0j,
    "empty str": lambda: "",
    "str": lambda: "1",
    "long str": lambda: "1" * 100,
    "surrogate": lambda: "\ud800",
    "bytes": lambda: b"1",
    "long bytes": lambda: b"1" * 100,
    "bytearray": lambda: bytearray(b"1"),
    "memoryview": lambda: memoryview(b"1"),
    "strided memoryview": lambda: memoryview(b"1x2x")[::2],
    "cast memoryview": lambda: memoryview(bytes(8)).cast("i"),
    "array.array": lambda: array.array("i", [1]),
    "Ellipsis": lambda: ...,
    "NotImplemented": lambda: NotImplemented,
    "empty list": lambda: [],
    "empty tuple": lambda: (),
    "empty dict": lambda: {},
    "empty set": set,
    "empty frozenset": frozenset,
    "list": lambda: [1, 2],
    "reversed list": lambda: [2, 1],
    "tuple": lambda: (1, 2),
    "nested 1": lambda: [[1], 2],
    "nested 2": lambda: [[1, 2]],
    "nested 3": lambda: [1, [2]],
    "list of an empty list": lambda: [[]],
    "one str": lambda: ["a', 'b"],
    "two str": lambda: ["a", "b"],
    "two lines": lambda: ["a\nb"],
    "namedtuple": lambda: Pair(1, 2),
    "dict": lambda: {"a": 1, "b": 2},
    "other values": lambda: {"a": 2, "b": 1},
    "dict of tuples": lambda: {("a", "b"): (1, 2)},
    "OrderedDict": lambda: collections.OrderedDict(a=1, b=2),
    "other order": lambda: collections.OrderedDict(b=2, a=1),
    "defaultdict": lambda: collections.defaultdict(list, a=1, b=2),
    "Counter": lambda: collections.Counter(a=1, b=2),
    "deque": lambda: collections.deque([1, 2]),
    "bounded deque": lambda: collections.deque([1, 2], maxlen=2),
    "dict subclass": lambda: Params(a=1, b=2),
    "set": lambda: {"a", "b", "c"},
    "frozenset": lambda: frozenset("abc"),
    "set subclass": lambda: Tags("abc"),
    "range": lambda: range(3),
    "empty range": lambda: range(0),
    "huge range": lambda: range(10**30),
    "slice": lambda: slice(3),
    "Decimal": lambda: decimal.Decimal("1.5"),
    "Fraction": lambda: fractions.Fraction(3, 2),
    "datetime": lambda: datetime.datetime(2020, 1, 1),
    "datetime UTC": lambda: datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
    "datetime zoned": lambda: datetime.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    "date": lambda: datetime.date(2020, 1, 1),
    "time": lambda: datetime.time(1),
    "timedelta": lambda: datetime.timedelta(1),
    "timezone": lambda: datetime.timezone(datetime.timedelta(hours=1)),
    "Path": lambda: pathlib.Path("a/b"),
    "PurePosixPath": lambda: pathlib.PurePosixPath("a/b"),
    "PureWindowsPath": lambda: pathlib.PureWindowsPath("a/b"),
    "UUID": lambda: uuid.UUID(int=1),
    "Enum": lambda: Color.RED,
    "other member": lambda: Color.BLUE,
    "Flag": lambda: Shade.DARK,
    "combined Flag": lambda: Shade.DARK | Shade.WARM,
    "Pattern": lambda: re.compile("a"),
    "Pattern with flags": lambda: re.compile("a", re.IGNORECASE),
    "type": lambda: int,
    "class": lambda: Point,
    "generic alias": lambda: list[int],
    "module": lambda: os,
    "function": lambda: double,
    "lambda": lambda: lambda x: 3 * x,
    "builtin function": lambda: len,
    "builtin of a module": lambda: math.sin,
    "builtin method": lambda: [1].append,
    "method of an object": lambda: "a".upper,
    "method descriptor": lambda: str.upper,
    "bound method": lambda: Plain(a=1).method,
    "partial": lambda: functools.partial(double, 1),
    "other partial": lambda: functools.partial(double, x=1),
    "itemgetter": lambda: operator.itemgetter(1),
    "SimpleNamespace": lambda: types.SimpleNamespace(a=1),
    "object": lambda: Plain(a=1),
    "empty object": lambda: Plain(),
    "other attribute": lambda: Plain(b=1),
    "dataclass": lambda: Point(1, 2),
    "other dataclass": lambda: Point(2, 1),
    "slots": lambda: Slotted(1, 2),
    "other slots": lambda: Slotted(2, 1),
    "frozen dataclass": lambda: Frozen(1),
    "other frozen dataclass": lambda: Frozen(2),
    "exception": lambda: ValueError("a"),
    "iterator": lambda: iter([1]),
    "StringIO": lambda: io.StringIO("a"),
    "array": lambda: np.arange(6),
    "array of two rows": lambda: np.arange(6).reshape(2, 3),
    "array of another type": lambda: np.arange(6, dtype="i2"),
    "array of other bytes": lambda: np.arange(6).astype(">i8"),
    "empty array": lambda: np.zeros(0),
    "empty array of two rows": lambda: np.zeros((2, 0)),
    "array without dimensions": lambda: np.array(1),
    "bool array": lambda: np.array([True, False]),
    "complex array": lambda: np.array([1j]),
    "bytes array": lambda: np.array([b"a", b"bc"]),
    "str array": lambda: np.array(["a", "bc"]),
    "void array": lambda: np.array([b"ab"], dtype="V2"),
    "string array": lambda: np.array(["a", "bc"], dtype=np.dtypes.StringDType()),
    "object array": lambda: np.array(["a", {"b"}], dtype=object),
    "datetime array": lambda: np.array(["2020-01-01"], dtype="M8[D]"),
    "timedelta array": lambda: np.array([1], dtype="m8[s]"),
    "long double": lambda: np.array([1], dtype=np.longdouble),
    "structured array": lambda: np.array([(1, 2.0)], dtype="i1,f8"),
    "other field names": lambda: np.array([(1, 2.0)], dtype=[("a", "i1"), ("b", "f8")]),
    "subarrays": lambda: np.zeros(2, dtype=[("a", "i1", (2,))]),
    "recarray": lambda: np.rec.array([(1, 2.0)], dtype=[("a", "i1"), ("b", "f8")]),
    "matrix": lambda: np.arange(6).reshape(2, 3).view(np.matrix),
    "masked array": lambda: np.ma.masked_array([1, 2], [False, True]),
    "masked array without mask": lambda: np.ma.masked_array([1, 2]),
    "float64": lambda: np.float64(1),
    "float32": lambda: np.float32(1),
    "void": lambda: np.array([(1, 2.0)], dtype="i1,f8")[0],
    "datetime64": lambda: np.datetime64("2020-01-01"),
    "dtype": lambda: np.dtype("f8"),
    "structured dtype": lambda: np.dtype("i1,f8"),
    "aligned dtype": lambda: np.dtype("i1,f8", align=True),
    "subarray dtype": lambda: np.dtype(("f8", (2,))),
    "ufunc": lambda: np.sin,
    "Generator": lambda: np.random.default_rng(0),
    "other Generator": lambda: np.random.default_rng(1),
    "RandomState": lambda: np.random.RandomState(0),
    "DataFrame": frame,
    "fewer rows": lambda: frame()[:2],
    "fewer columns": lambda: frame()[["int", "float"]],
    "Series": lambda: pd.Series([1, 2]),
    "named Series": lambda: pd.Series([1, 2], name="a"),
    "indexed Series": lambda: pd.Series([1, 2], index=[1, 2]),
    "Index": lambda: pd.Index([1, 2]),
    "named Index": lambda: pd.Index([1, 2], name="a"),
    "RangeIndex": lambda: pd.RangeIndex(5, 0, -2),
    "MultiIndex": lambda: pd.MultiIndex.from_product([[1, 2], ["a", "b"]]),
    "extension array": lambda: pd.array([1, None], dtype="Int64"),
    "Categorical": lambda: pd.Categorical(["a", "b"]),
    "ordered Categorical": lambda: pd.Categorical(["a", "b"], ordered=True),
    "Timestamp": lambda: pd.Timestamp("2020-01-01"),
    "zoned Timestamp": lambda: pd.Timestamp("2020-01-01", tz="UTC"),
    "Timedelta": lambda: pd.Timedelta(1, unit="s"),
    "Period": lambda: pd.Period("2020-01-01", freq="D"),
    "Interval": lambda: pd.Interval(0, 1),
    "NaT": lambda: pd.NaT,
    "NA": lambda: pd.NA,
    "pandas dtype": lambda: pd.CategoricalDtype(["a", "b"]),
    "pl.DataFrame": polars_frame,
    "pl.Series": lambda: pl.Series("a", [1, 2]),
    "pl.Series of another type": lambda: pl.Series("a", [1, 2], dtype=pl.Int8),
    "pl.LazyFrame": lambda: pl.LazyFrame({"a": [1]}).filter(pl.col("a") > 0),
    "pl.Expr": lambda: pl.col("a") > 1,
    "pa.Table": arrow_table,
    "pa.RecordBatch": lambda: pa.record_batch({"a": [1]}),
    "pa.Array": lambda: pa.array([1, None]),
    "pa.ChunkedArray": lambda: pa.chunked_array([[1, None]]),
    "pa.Schema": lambda: pa.schema({"a": pa.int64()}),
    "pa.DataType": lambda: pa.int64(),
}


def fingerprints() -> Iterator[str]:
    """Tell the fingerprints of all samples; a subprocess tells them, too."""
    for name, make in SAMPLES.items():
        yield f"{name}: {of_value(make())}"
    for code in (double, Point, Plain, Color, Pair, membership, frame, functools.partial(double, {"a", "b", "c"})):
        yield f"{type(code)}: {of_function(code)}"


def membership(x: Any) -> bool:
    """Have a frozenset among the constants, whose order depends on the hashes of its members."""
    return x in {"alpha", "beta", "gamma", ("delta", "epsilon")}


# Values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (-3, "-3"),
        (True, "True"),
        (None, "None"),
        (0.1, "0.1"),
        (-0.0, "-0.0"),
        (math.inf, "inf"),
        (1 + 2j, "(1+2j)"),
        ("adam", "'adam'"),
        ("größe", "'größe'"),
        ("don't", '"don\'t"'),
        (b"ab", "b'ab'"),
        ("x" * 62, repr("x" * 62)),
        (b"x" * 61, repr(b"x" * 61)),
        (10**59, "1" + "0" * 59),
    ],
)
def test_short_scalars_are_readable(value: Any, text: str) -> None:
    """A scalar with a short repr is its own fingerprint, by which the catalog can be searched."""
    assert of_value(value) == text


@pytest.mark.parametrize("value", ["x" * 63, "\n" * 32, b"x" * 62, b"\0" * 20, 10**80, "\U0001fae8"])
def test_other_scalars_are_digests(value: Any) -> None:
    """A scalar with a longer repr, or with one that depends on the version of Python, is told by its digest."""
    assert re.fullmatch("xxh3:[0-9a-f]{32}", of_value(value) or "")


def test_huge_integers_take_no_time() -> None:
    """An int that Python refuses to write in decimals has a fingerprint."""
    assert of_value(10**5000) != of_value(10**5000 + 1)
    assert of_value(10**5000) is not None


def test_every_sample_is_known_and_different() -> None:
    """All types that are listed have fingerprints, and no two values share one."""
    found: dict[str | None, str] = {None: "unknown"}
    for name, make in SAMPLES.items():
        assert found.setdefault(of_value(make()), name) == name


@pytest.mark.parametrize("name", SAMPLES)
def test_equal_values_are_equal(name: str) -> None:
    """A value that is made a second time, or deep inside something else, has the same fingerprint."""
    make = SAMPLES[name]
    assert of_value(make()) == of_value(make())
    assert of_value([{"key": (make(),)}]) == of_value([{"key": (make(),)}])
    assert of_value([{"key": (make(),)}]) != of_value([{"key": (make(), make())}])


@pytest.mark.parametrize("name", SAMPLES)
def test_copies_are_equal(name: str) -> None:
    """A deep copy, and what comes back from a pickle, has the fingerprint of the original."""
    value = SAMPLES[name]()
    if name not in NOT_COPIED:
        assert of_value(copy.deepcopy(value)) == of_value(value)
    if not isinstance(value, memoryview):
        assert of_value(cloudpickle.loads(cloudpickle.dumps(value))) == of_value(value)


#: What `copy.deepcopy` refuses, or, as numpy 2.1 with its string arrays, dies of.
NOT_COPIED = {"memoryview", "strided memoryview", "cast memoryview", "module", "string array"}


def test_looking_changes_nothing() -> None:
    """Taking a fingerprint does not change the value: a second one is the same, an iterator stays where it is."""
    iterator = iter([1, 2])
    generator = np.random.default_rng(0)
    for value in (iterator, generator):
        assert of_value(value) == of_value(value)
    assert next(iterator) == 1
    assert of_value(iterator) != of_value(iter([1, 2]))


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_the_same_in_every_process(seed: str) -> None:
    """Neither the seed of the hashes nor an address leaves a trace in any fingerprint."""
    told = subprocess.run(
        [sys.executable, "-c", "import test_fingerprint as t; print(*t.fingerprints(), sep='\\n')"],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    assert told.stdout.splitlines() == "\n".join(fingerprints()).splitlines()


#: Fingerprints that storages hold. Whoever changes one makes every stored result look stale.
RELEASED = {
    "long str": "xxh3:8033a285fe7fd5d3a789683bfa488c15",
    "int": "xxh3:3f67e9633559696fbbf7040e02d8c672",
    "list": "xxh3:540b631440c1110e250986730fa86da9",
    "tuple": "xxh3:4d9209530f335da73877c01bce1b3159",
    "dict": "xxh3:cc7619e2e87ef4164ae835854972fbff",
    "set": "xxh3:2b80eb4871b0e486882e0b7b787e8eab",
    "datetime UTC": "xxh3:9c34680313a5e8ab1d2c945899ba6f94",
    "Path": "xxh3:5ea9dc13d0f458d713dab0a603c193b2",
    "Enum": "xxh3:d560d2f4d2d5c12c68e437ce3b7b394f",
    "dataclass": "xxh3:0371b6fa553429e6bae1c7a65535002b",
    "slots": "xxh3:ee0cbce61d068c0848449580cda21da3",
    "object": "xxh3:12131338e70b3f1e437a66517b945d33",
    "array": "xxh3:dae97a38c1832561461f650fd08c0582",
    "structured array": "xxh3:b97f1391cb16f8e92596d55f37429675",
    "float64": "xxh3:47d2415c3e3c6cf40089b6f33a35b2a0",
    "Generator": "xxh3:54d657cb23b68686247f87305e1a8a8f",
    "Series": "xxh3:bcee9642bfe5ea52727ee57032f2ce5a",
    "pl.Series": "xxh3:31f22c097074b182d79e1fb1045f09ea",
    "pa.Table": "xxh3:4a9076fb62142ae7627f29b227505cdf",
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_fingerprints_stay(name: str) -> None:
    """A fingerprint that was stored is still the value's, in every version of Python and of its library."""
    assert of_value(SAMPLES[name]()) == RELEASED[name]


#: Pairs of values that are equal, though not made in the same way.
EQUAL: dict[str, Callable[[], tuple[Any, Any]]] = {
    "order of attributes": lambda: (Plain(a=1, b=2), Plain(b=2, a=1)),
    "order of a set": lambda: ({8, 0}, {0, 8}),
    "order of a set with attributes": lambda: (Tags([8, 0]), Tags([0, 8])),
    "interned and not": lambda: (["ab", "ab"], ["ab", "".join(["a", "b"])]),
    "shared and not": lambda: ([[1]] * 2, [[1], [1]]),
    "ranges": lambda: (range(0, 3, 2), range(0, 4, 2)),
    "empty ranges": lambda: (range(0), range(2, 2)),
    "a field that does not compare": lambda: (Point(1, label="a"), Point(1, label="b")),
    "a frozen field that does not compare": lambda: (Frozen(1, "a"), Frozen(1, "b")),
    "a cached property": lambda: (Point(3, 4), with_norm(Point(3, 4))),
    "memory order": lambda: (np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))),
    "strides": lambda: (np.arange(3), np.arange(6)[::2] // 2),
    "large strides": lambda: (np.arange(100_000), np.arange(200_000)[::2] // 2),
    "gaps in a structure": lambda: (aligned(0), aligned(1)),
    "gaps in a long double": lambda: (long_double(0), long_double(1)),
    "under a mask": lambda: (np.ma.masked_array([1, 2], [0, 1]), np.ma.masked_array([1, 3], [0, 1])),
    "no mask": lambda: (np.ma.masked_array([1, 2]), np.ma.masked_array([1, 2], [0, 0])),
    "strings of numpy": lambda: (
        np.array(["a" * 50, "b"], dtype=np.dtypes.StringDType()),
        np.array(["b", "a" * 50], dtype=np.dtypes.StringDType())[::-1],
    ),
    "blocks": lambda: (frame(), pd.concat([frame()[name] for name in frame()], axis=1)),
    "columns of one block": lambda: (
        pd.DataFrame(np.arange(6.0).reshape(3, 2), columns=["a", "b"]),
        pd.DataFrame({"a": [0.0, 2.0, 4.0], "b": [1.0, 3.0, 5.0]}),
    ),
    "kinds of index": lambda: (pd.RangeIndex(1, 8, 3), pd.Index([1, 4, 7])),
    "kinds of empty index": lambda: (pd.RangeIndex(0), pd.Index([], dtype="int64")),
    "levels of an index": lambda: (
        pd.MultiIndex.from_tuples([("b", 1)]),
        pd.MultiIndex.from_tuples([("a", 1), ("b", 1)])[1:],
    ),
    "kinds of text": lambda: (pd.Series(["a", "b"], dtype=object), pd.Series(["a", "b"], dtype="string")),
    "storage of text": lambda: (
        pd.Series(["a", None], dtype="string[python]"),
        pd.Series(["a", None], dtype="string[pyarrow]"),
    ),
    "text of many chunks": lambda: (many_texts(), many_texts().astype("string")),
    "under a pandas mask": lambda: (pd.array([1, None], dtype="Int64"), masked_after(pd.array([1, 2], dtype="Int64"))),
    "chunks": lambda: (arrow_table(), pa.concat_tables([arrow_table()[:1], arrow_table()[1:]])),
    "offsets": lambda: (pa.array([2, None, 3]), pa.array([1, 2, None, 3])[1:]),
    "metadata": lambda: (arrow_table(), arrow_table().replace_schema_metadata({"pandas": "version"})),
    "dictionaries": lambda: (
        pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["a", "b"])),
        pa.DictionaryArray.from_arrays(pa.array([1, 0]), pa.array(["b", "a"])),
    ),
    "under an Arrow null": lambda: (pa.array([1, None]), under_null(7)),
    "chunks of polars": lambda: (
        polars_frame(),
        pl.concat([polars_frame()[:1], polars_frame()[1:]], rechunk=False),
    ),
}


def with_norm(point: Point) -> Point:
    """Return the point after its cached property was read."""
    assert point.norm == 5
    return point


def aligned(filler: int) -> np.ndarray[Any, Any]:
    """Return one structure whose gap holds anything."""
    raw = np.full(16, filler, dtype="u1").view(np.dtype("i1,f8", align=True))
    raw["f0"], raw["f1"] = 1, 2.0
    return raw


def long_double(filler: int) -> np.ndarray[Any, Any]:
    """Return one long double whose unused bytes hold anything."""
    raw = np.full(np.dtype(np.longdouble).itemsize, filler, dtype="u1")
    number = np.ones(1, dtype=np.longdouble)
    raw[:10] = number.view("u1")[:10]
    return raw.view(np.longdouble)


def many_texts() -> pd.Series[Any]:
    """Return more texts than fit into one chunk."""
    return pd.Series([f"text {number}" for number in range(70_000)], dtype=object)


def masked_after(values: Any) -> Any:
    """Return masked values with something under the mask."""
    values[1] = pd.NA
    return values


def under_null(filler: int) -> pa.Array:
    """Return an array with something in the place of a null."""
    data = np.array([1, filler])
    return pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(data)])


@pytest.mark.parametrize("name", EQUAL)
def test_how_a_value_was_made_does_not_count(name: str) -> None:
    """Values that are equal have one fingerprint, whatever their history and their place in memory."""
    one, other = EQUAL[name]()
    assert of_value(one) == of_value(other) != None  # noqa: E711  # all three at once


#: Pairs of values that look alike and are different.
DIFFERENT: dict[str, Callable[[], tuple[Any, Any]]] = {
    "frequency of an index": lambda: (
        pd.date_range("2020", periods=3),
        pd.DatetimeIndex(list(pd.date_range("2020", periods=3))).as_unit(pd.date_range("2020", periods=3).unit),
    ),
    "order of keys": lambda: ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "order of a dict subclass": lambda: (Params(a=1, b=2), Params(b=2, a=1)),
    "a state of two": lambda: (Stateful((5, None)), Stateful((None, 5))),
    "a state of dicts": lambda: (Stateful(({"a": 1}, None)), Stateful((None, {"a": 1}))),
    "attributes of a set": lambda: (tagged(1), tagged(2)),
    "attributes of an array": lambda: (unit_array("m"), unit_array("s")),
    "fill values": lambda: (np.ma.masked_array([1], fill_value=1), np.ma.masked_array([1], fill_value=2)),
    "one letter among many": lambda: (many_texts(), many_texts().replace("text 69999", "Text 69999")),
    "null and nan": lambda: (pa.array([None], pa.float64()), pa.array([math.nan])),
    "null and zero": lambda: (pl.Series([None], dtype=pl.Int64), pl.Series([0])),
    "missing marks": lambda: (pd.Series(["a", None], dtype=object), pd.Series(["a", math.nan], dtype=object)),
    "notes on a frame": lambda: (frame(), noted(frame())),
    "what a subclass declares": lambda: (Measured.of("m"), Measured.of("s")),
    "names of columns": lambda: (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
    "zones": lambda: (pd.Series(pd.date_range("2020", periods=1, tz="UTC")), other_zone()),
    "progress of a generator": lambda: (np.random.default_rng(0), advanced(np.random.default_rng(0))),
    "depth of a cycle": lambda: (cycle(1), cycle(2)),
    "goal of a cycle": lambda: (two_cycles(0), two_cycles(1)),
}


class Stateful:
    """An object whose state is what it is given."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def __reduce__(self) -> tuple[Any, ...]:
        return Stateful, (), self.state


class UnitArray(np.ndarray[Any, Any]):
    """An array with an attribute."""


class Measured(pd.DataFrame):
    """A frame with a property of its own."""

    _metadata: typing.ClassVar[list[str]] = ["unit"]

    @classmethod
    def of(cls, unit: str) -> Measured:
        """Return a frame with a unit."""
        made = cls({"a": [1]})
        object.__setattr__(made, "unit", unit)
        return made


def tagged(number: int) -> Tags:
    """Return a set with an attribute."""
    tags = Tags("ab")
    tags.number = number  # type: ignore[attr-defined]  # that is the point
    return tags


def unit_array(unit: str) -> Any:
    """Return an array with an attribute."""
    made: Any = np.arange(3).view(UnitArray)
    made.unit = unit
    return made


def noted(table: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with a note."""
    table.attrs["unit"] = "m"
    return table


def other_zone() -> pd.Series[Any]:
    """Return the moment that is midnight in London, in London's time."""
    return pd.Series(pd.date_range("2020", periods=1, tz="UTC").tz_convert("Europe/London"))


def advanced(generator: np.random.Generator) -> np.random.Generator:
    """Return the generator after it was used."""
    generator.random()
    return generator


def cycle(length: int) -> list[Any]:
    """Return a list that contains itself, so many lists below."""
    inner: list[Any] = []
    outer = inner
    for _ in range(length - 1):
        outer = [outer]
    inner.append(outer)
    return outer


def two_cycles(goal: int) -> list[Any]:
    """Return two lists, one in the other, which contains one of them."""
    lists: list[list[Any]] = [[], []]
    lists[0].append(lists[1])
    lists[1].append(lists[goal])
    return lists[0]


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_is_told_apart(name: str) -> None:
    """Values that differ in a single respect have two fingerprints."""
    one, other = map(of_value, DIFFERENT[name]())
    assert one != other
    assert None not in (one, other)


def test_cycles_have_fingerprints() -> None:
    """What contains itself is known, and so are its copies, in whatever else they lie."""
    value = Plain(children=[])
    value.children += [Plain(parent=value), {"parent": value}]  # type: ignore[attr-defined]  # Plain has what it is given
    assert of_value(value) == of_value(copy.deepcopy(value)) is not None
    assert of_value([value, 1]) == of_value([copy.deepcopy(value), 1])
    assert of_value([value, value]) == of_value([value, copy.deepcopy(value)])


def test_shared_parts_are_walked_once() -> None:
    """A value that holds its parts in a thousand billion ways takes no longer than its parts."""
    value: list[Any] = [1]
    for _ in range(40):
        value = [value, value]
    assert of_value(value) is not None


def test_a_tangle_is_unknown() -> None:
    """Objects that all know each other, in more ways than can be followed, end in unknown and not in a hang."""
    tangle: list[list[Any]] = [[] for _ in range(30)]
    for part in tangle:
        part.extend(tangle)
    assert of_value(tangle) is None


@pytest.mark.parametrize("step", [lambda inner: [inner], lambda inner: Plain(next=inner), lambda inner: {0: inner}])
def test_too_deep_is_unknown(step: Callable[[Any], Any]) -> None:
    """Beyond the recursion limit there is no fingerprint, least of all a constant one."""
    known, values = [], []
    for leaf in (1, 2):
        value: Any = leaf
        for _ in range(50):
            value = step(value)
        known.append(of_value(value))
        for _ in range(5000):
            value = step(value)
        values.append(value)
    assert list(map(of_value, values)) == [None, None]
    assert None not in known
    assert known[0] != known[1]


def broken_reduce() -> Any:
    """Return an object that fails in its own way."""
    return type("Broken", (), {"__reduce_ex__": lambda self, protocol: 1 / 0})()


UNKNOWN: dict[str, Callable[[], Any]] = {
    "lock": threading.Lock,
    "generator": lambda: (number for number in range(3)),
    "weak reference": lambda: weakref.ref(Plain()),
    "frame": lambda: sys._getframe(),
    "broken": broken_reduce,
    "function": lambda: lambda lock=threading.Lock(): lock,  # noqa: B008  # that is the point
    "array": lambda: np.array([threading.Lock()], dtype=object),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_at_any_depth(name: str) -> None:
    """A part without a fingerprint, wherever it is, leaves the whole without one."""
    part = UNKNOWN[name]()
    for whole in (part, [part], {"a": (1, part)}, {1: [[part]]}, Plain(a=part), functools.partial(double, part)):
        assert of_value(whole) is None
    assert of_value(collections.deque([part])) is None
    assert of_value(pd.DataFrame({"a": pd.Series([part, part], dtype=object)})) is None


def test_what_the_system_owns_is_unknown(tmp_path: pathlib.Path) -> None:
    """Open files and sockets have no fingerprint."""
    with open(tmp_path / "file", "w", encoding="utf-8") as file, socket.socket() as connection:
        assert of_value([file]) is None
        assert of_value([connection]) is None


def test_special_types_come_first() -> None:
    """The caller decides about objects of exactly the types that it names, at any depth; None is unknown."""
    special: dict[type, Callable[[Any], str | None]] = {Plain: lambda value: value.told, str: lambda value: "text"}
    assert of_value(Plain(told="key"), special) == "key"
    assert of_value(Plain(told=None), special) is None
    assert of_value("a", special) == "text"
    assert of_value([Plain(told="a")], special) == of_value([Plain(told="a", more=1)], special)
    assert of_value([Plain(told="a")], special) != of_value([Plain(told="b")], special)
    assert of_value([Plain(told="'a'")], special) != of_value(["a"])
    assert of_value([Plain(told="1\n2")], special) != of_value([Plain(told="1"), Plain(told="2")], special)
    assert of_value({"a": [Plain(told=None)]}, special) is None
    assert of_value([type("Other", (Plain,), {})()], special) == of_value([type("Other", (Plain,), {})()])


def test_torch_tensors_count_by_their_elements() -> None:
    """A tensor is told by its elements, since what it pickles to names an address."""
    tensor = type(
        "Tensor", (), {"__module__": "torch", "requires_grad": False, "__reduce__": lambda self: (id, (id(self),))}
    )

    def make(*elements: float) -> Any:
        made = tensor()
        made.detach = made.cpu = lambda: made
        made.numpy = lambda: np.array(elements)
        return made

    assert of_value(make(1, 2)) == of_value(make(1, 2)) is not None
    assert of_value(make(1, 2)) != of_value(make(1, 3))


def test_scikit_learn_estimators() -> None:
    """An estimator is told by its parameters and what it has learned, not by the version that made it."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    one, same, other = (linear_model.LogisticRegression(C=c) for c in (0.1, 0.1, 0.2))
    assert of_value(one) == of_value(same) is not None
    assert of_value(one) != of_value(other)
    with unittest.mock.patch("sklearn.base.__version__", "99"):
        assert of_value(one) == of_value(same)
    learned = same.fit([[0.0], [1.0]], [0, 1])
    assert of_value(learned) == of_value(copy.deepcopy(learned)) != of_value(one)


@pytest.mark.parametrize("value", [np.zeros(1 << 23), np.zeros(1 << 23).view("M8[s]"), memoryview(bytes(1 << 26))])
def test_large_arrays_are_not_copied(value: Any) -> None:
    """64 MiB that lie in one piece are read where they are."""
    assert peak(of_value, value) < 1 << 20


def test_scattered_arrays_are_copied_in_chunks() -> None:
    """64 MiB that do not lie in one piece take little more memory."""
    assert peak(of_value, np.asfortranarray(np.zeros((1 << 12, 1 << 11)))) < 1 << 22
    assert peak(of_value, pd.RangeIndex(1 << 23)) < 1 << 22


def peak(func: Callable[..., Any], *args: Any) -> int:
    """Return the most memory that a call had, in bytes."""
    tracemalloc.start()
    try:
        assert func(*args) is not None
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.skipif("coverage" in sys.modules, reason="coverage is called, too")
def test_fingerprints_of_small_arguments_are_little_work() -> None:
    """An argument costs a few calls: a number or a short text is its own fingerprint."""
    for value, limit in ((3, 8), ("adam", 10), ((1, 2, 3), 40)):
        assert calls(functools.partial(of_value, value)) <= limit


# What Hypothesis finds

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.dates()
)
keys = scalars | st.tuples(scalars, scalars) | st.frozensets(scalars, max_size=3)
nested = st.recursive(
    scalars | st.frozensets(scalars),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=4)
        | st.sets(keys, max_size=4)
        | st.builds(Plain, a=inner, b=inner)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=12,
)


def canonical(value: Any) -> Any:
    """Return what two values have in common exactly when they are equal, types and signs of zero included."""
    if isinstance(value, dict | Plain):
        items = value.items() if isinstance(value, dict) else vars(value).items()
        return type(value), frozenset((canonical(key), canonical(item)) for key, item in items)
    if isinstance(value, set | frozenset):
        return type(value), frozenset(map(canonical, value))
    if isinstance(value, list | tuple):
        return type(value), tuple(map(canonical, value))
    return type(value), repr(value)


@given(nested, nested)
def test_different_exactly_if_different(one: Any, other: Any) -> None:
    """Two nested values have one fingerprint if they are equal, and two if they are not."""
    assert (of_value(one) == of_value(other)) == (canonical(one) == canonical(other))
    assert of_value(one) is not None


@given(nested)
def test_one_change_anywhere_shows(value: Any) -> None:
    """A value, the same value in a container, and the same twice, are three different things."""
    wholes = [value, [value], (value,), [value, value], {"a": value}, Plain(a=value), [[value]]]
    assert len(set(map(of_value, wholes))) == len(wholes)


@given(nested)
def test_copies_of_anything_are_equal(value: Any) -> None:
    """Deep copies and pickles, which share and intern parts in their own way, keep the fingerprint."""
    assert of_value(copy.deepcopy(value)) == of_value(value)
    assert of_value(cloudpickle.loads(cloudpickle.dumps(value))) == of_value(value)
    assert of_value([value, value]) == of_value([value, copy.deepcopy(value)])


@given(st.dictionaries(keys, nested, min_size=2), st.randoms())
def test_the_order_of_keys_counts(value: dict[Any, Any], random: Any) -> None:
    """A dict whose keys were inserted in another order is another one: its list of keys is."""
    items = list(value.items())
    random.shuffle(items)
    assert (of_value(dict(items)) == of_value(value)) == (list(map(id, dict(items))) == list(map(id, value)))


@given(st.lists(st.none() | st.text()), st.lists(st.none() | st.text()))
def test_columns_of_text(one: list[str | None], other: list[str | None]) -> None:
    """Texts with gaps are told apart in every library, however they are chunked."""
    for make in (text_of_pandas, pl_text, lambda items: pa.array(items, pa.string())):
        assert (of_value(make(one)) == of_value(make(other))) == (one == other)
    chunks = pa.chunked_array([pa.array(one, pa.string()), pa.array(other, pa.string())])
    assert of_value(chunks) == of_value(pa.chunked_array([pa.array(one + other, pa.string())]))


def text_of_pandas(items: list[str | None]) -> Any:
    """Return a column of text."""
    return pd.Series(items, dtype="string[python]")


def pl_text(items: list[str | None]) -> pl.Series:
    """Return a column of text."""
    return pl.Series(items, dtype=pl.String)


# Functions


def compiled(source: str, name: str = "f", **scope: Any) -> Any:
    """Return what a module of this source has under a name."""
    module = {"__name__": "module", **scope}
    exec(source, module)
    return module[name]


BASE = """
import functools

def g(x):
    return x + 1

def f(a, b=2, *, c=(1, 2)):
    total = a
    for item in b:
        total += g(item) if item in {"x", "y"} else c[0]
    return total
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x + 1", "x + 2"),
        ("x + 1", "x - 1"),
        ("b=2", "b=3"),
        ("c=(1, 2)", "c=(1, 3)"),
        ("a, b=2", "a, b=2, d=0"),
        ("*, c", "c"),
        ("c[0]", "c[1]"),
        ('"x"', '"z"'),
        ("g(item)", "abs(item)"),
        ("in {", "not in {"),
        ("return total", "yield total"),
        ("def f", "async def f"),
        ("def f", "@functools.lru_cache\ndef g(x):\n    return x + 3\n\ndef f"),
        ("    total = a\n", "    try:\n        total = a\n    except ValueError:\n        return 1\n"),
    ],
)
def test_changed_code_shows(old: str, new: str) -> None:
    """A change in a function, its defaults, its signature, or a helper of it gives another fingerprint."""
    assert old in BASE
    assert of_function(compiled(BASE.replace(old, new, 1))) != of_function(compiled(BASE))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import functools\n", "import functools\n\n\n# a comment\nX = 1\n"),
        ("    total = a\n", '    """Explain."""\n    # a comment\n\n    total = a\n'),
        ("a, b=2", "a: int, b: int = 2"),
        ("    return x + 1", '    "Explain."\n    return x + 1'),
        ("def g(x):\n    return x + 1\n", "def other():\n    pass\ndef g(x): return x + 1\n"),
        ("import functools\n", "from __future__ import annotations\nimport functools\n"),
    ],
)
def test_unchanged_code_does_not_show(old: str, new: str) -> None:
    """Comments, docstrings, annotations, line numbers and other functions of the file do not count."""
    assert old in BASE
    assert of_function(compiled(BASE.replace(old, new, 1))) == of_function(compiled(BASE))


def test_names_of_functions_do_not_count() -> None:
    """A function or a helper that is renamed everywhere, even in itself, keeps its fingerprint."""
    one = compiled("def f(n):\n    return [lambda: f(n - 1), g(n)]\ndef g(n): return n", "f")
    other = compiled("def f2(n):\n    return [lambda: f2(n - 1), g2(n)]\ndef g2(n): return n", "f2")
    assert of_function(one) == of_function(other)
    one, other = (compiled(INNER.replace("f(", f"{name}("), name) for name in ("f", "renamed"))
    assert of_function(one) == of_function(other)


INNER = """
def f():
    def inner():
        class C:
            'Explain.'
            def m(self):
                self.a = self.b = self.c = 1
        return C
    return inner
"""


def test_a_class_inside_a_function_counts_without_its_bookkeeping() -> None:
    """The line, the docstring and the attributes' order of an inner class do not count; its code does."""
    base = of_function(compiled(INNER))
    assert of_function(compiled("\n" * 300 + INNER.replace("Explain", "Say"))) == base
    assert of_function(compiled(INNER.replace("= 1", "= 2"))) != base


def test_the_prefix_tells_the_version() -> None:
    """What rests on bytecode says on which, alone and as a part of a value."""
    pattern = re.escape(PYTHON) + ":[0-9a-f]{32}"
    for fingerprint in (of_function(double), of_value(double), of_value([double]), of_function(Plain)):
        assert re.fullmatch(pattern, fingerprint or "")
    assert of_function(double) == of_value(double)


def test_running_leaves_no_trace() -> None:
    """Neither the interpreter's specialization nor a tracer nor a monitor shows in a function's fingerprint."""
    func = compiled(BASE)
    before = of_function(func)
    for _ in range(5_000):
        func(1, ["x" and 1, 2])
    assert of_function(func) == before
    assert of_function(func) == traced(func) == before


def traced(func: Callable[..., Any]) -> str | None:
    """Return the fingerprint that a function has while every instruction of it is traced."""
    earlier = sys.gettrace()

    def trace(frame: types.FrameType, event: str, arg: object) -> Any:
        frame.f_trace_opcodes = True
        return trace

    sys.settrace(trace)
    try:
        func(1, [1])
        return of_function(func)
    finally:
        sys.settrace(earlier)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no sys.monitoring")
def test_monitoring_leaves_no_trace() -> None:
    """The instructions that sys.monitoring writes over the code do not show in its fingerprint."""
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined]  # checked for Python 3.10
    func = compiled(BASE)
    before = of_function(func)
    events = monitoring.events
    monitoring.use_tool_id(4, "test")
    try:
        monitoring.set_local_events(4, func.__code__, events.INSTRUCTION | events.LINE | events.PY_RETURN | events.JUMP)
        func(1, [1, 2])
        assert of_function(func) == before
    finally:
        monitoring.free_tool_id(4)


@pytest.mark.parametrize("core", ["ctrace", "pytrace", "sysmon"])
def test_coverage_leaves_no_trace(core: str, tmp_path: pathlib.Path) -> None:
    """A run under coverage gives the fingerprints of one without."""
    pytest.importorskip("coverage")
    if core == "sysmon" and sys.version_info < (3, 12):
        pytest.skip("there is no sys.monitoring")
    script = tmp_path / "script.py"
    script.write_text(BASE + "from functionfuse.fingerprint import of_function\nf(1, [1])\nprint(of_function(f))\n")
    environment = {**os.environ, "COVERAGE_CORE": core, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("COVERAGE_PROCESS_START", None)
    options = ["-m", "coverage", "run", f"--data-file={tmp_path / 'data'}", f"--source={tmp_path}"]
    told = {
        subprocess.run(
            [sys.executable, *command, str(script)], env=environment, stdout=subprocess.PIPE, check=True
        ).stdout
        for command in ([], options)
    }
    assert len(told) == 1
    assert told.pop().startswith(PYTHON.encode())


def adder(number: Any) -> Any:
    """Return a function that closes over what it is given."""

    def add(x: Any) -> Any:
        return x, number

    return add


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, 1.0),
        ("a", "b"),
        ((1, 2), (2, 1)),
        (frozenset("a"), frozenset("b")),
        (Color.RED, Color.BLUE),
        (int, str),
        (len, abs),
        (double, membership),
        (adder(1), adder(2)),
        ((1, double), (1, membership)),
    ],
)
def test_plain_variables_of_a_closure_count(one: Any, other: Any) -> None:
    """What cannot change in an enclosing function is part of the code."""
    assert of_function(adder(one)) != of_function(adder(other))
    assert of_function(adder(one)) == of_function(adder(copy.deepcopy(one)))


@pytest.mark.parametrize("state", [[], {}, np.zeros(3), [].append])
def test_values_in_a_closure_count(state: Any) -> None:
    """What is captured counts by its content, also if it can change; what has no fingerprint is unknown, by name."""
    func = adder(state)
    before = of_function(func)
    assert before is not None
    assert of_function(func) == before
    if isinstance(state, list):
        state.append(1)
        assert of_function(func) != before
    assert of_function(adder(1)) != before
    locked = code_of(adder(threading.Lock()), Closure())
    assert locked is not None
    assert locked.fingerprint is None
    assert [name.rpartition(".")[2] for name in locked.unknown] == ["number"]


def test_a_counter_in_a_closure_does_not_count() -> None:
    """A variable that the code rebinds, even from within, is state: unknown, by name; its neighbours still count."""

    def known(func: Any) -> str:
        code = code_of(func, Closure())
        assert code is not None
        assert code.fingerprint is None
        assert [name.rpartition(".")[2] for name in code.state] == ["count"]
        return code.known

    def make(step: int, count: int) -> Any:
        def outer() -> int:
            def inner() -> None:
                nonlocal count
                count += step

            inner()
            return count

        return outer

    func = make(1, 0)
    before = known(func)
    func()
    assert known(func) == before
    assert known(make(1, 5)) == before
    assert known(make(2, 0)) != before


def test_a_variable_without_a_value() -> None:
    """A variable of a closure that was not assigned yet is no obstacle."""

    def outer() -> Any:
        def inner() -> Any:
            return later

        told = of_function(inner)
        later = 1
        return told, of_function(inner)

    early, late = outer()
    assert early is not None
    assert early != late


def test_recursion_of_any_kind() -> None:
    """Functions that call each other, by name or through a closure, have fingerprints; a change in one shows."""
    source = "def f(n): return g(n)\ndef g(n): return h(n)\ndef h(n): return f(n) or g(n) or h(n) or 1"
    assert of_function(compiled(source)) == of_function(compiled(source)) is not None
    assert of_function(compiled(source)) != of_function(compiled(source.replace("1", "2")))

    def local(n: int) -> Any:
        return local(n - 1)

    assert of_function(local) is not None


def test_many_functions_that_know_each_other() -> None:
    """The work grows with the number of helpers, not with the number of ways among them."""
    calls = " + ".join(f"f{number}()" for number in range(60))
    source = "".join(f"def f{number}(): return {calls} + {number}\n" for number in range(60))
    assert of_function(compiled(source, "f0")) != of_function(compiled(source.replace("+ 59\n", "+ 60\n"), "f0"))


def test_helpers_are_followed_in_own_modules_only() -> None:
    """A function of one's own module, whichever, counts by its code; one of an installed package by its name."""
    source = "def f(x): return g(x)"
    for module, count in (("module", 2), ("elsewhere", 2), ("numpy.linalg", 1), ("json.decoder", 1)):
        helpers = [compiled(f"def g(x): return x + {number}", "g", __name__=module) for number in (1, 2)]
        assert len({of_function(compiled(source, g=helper)) for helper in helpers}) == count


def test_helpers_inside_nested_code() -> None:
    """Helpers that a lambda, a comprehension or the body of an inner class calls are followed, too."""
    for body in ("return lambda: g(1)", "return [g(i) for i in x]", "class C:\n        y = g(1)\n    return C"):
        one, other = (compiled(f"def g(x): return x + {n}\ndef f(x):\n    {body}") for n in (1, 2))
        assert of_function(one) != of_function(other)


def test_decorated_helpers_are_followed() -> None:
    """A helper counts behind a decorator: of this package, of functools, or one that calls functools.wraps."""
    decorators = {
        "task": "from functionfuse import workflow as deco",
        "cache": "from functools import cache as deco",
        "wraps": (
            "import functools\ndef deco(func):\n    @functools.wraps(func)\n"
            "    def wrapper(*args):\n        return func(*args)\n    return wrapper"
        ),
    }
    for deco in decorators.values():
        source = deco + "\n@deco\ndef g(x): return x + 1\ndef f(x): return g(x)"
        assert of_function(compiled(source)) == of_function(compiled(source)) is not None
        assert of_function(compiled(source)) != of_function(compiled(source.replace("x + 1", "x + 2")))


def test_decorated_functions() -> None:
    """A decorated function is the wrapper and what it wraps; one of this package only what it wraps."""

    def scale(factor: int) -> Any:
        def decorate(func: Any) -> Any:
            @functools.wraps(func)
            def wrapper(x: Any) -> Any:
                return factor * func(x)

            return wrapper

        return decorate

    told = [of_function(func) for func in (double, scale(2)(double), scale(3)(double), scale(2)(membership))]
    assert len(set(told)) == 4
    assert None not in told
    assert of_function(workflow(double)) == of_function(double)
    assert of_function(workflow(Plain)) == of_function(Plain)
    assert of_function(functools.lru_cache(double)) == of_function(double)
    assert of_value(functools.lru_cache(double)) == of_function(double)
    recursive = "from functionfuse import task\n{}def f(n): return f(n - 1)"
    assert of_function(compiled(recursive.format("@task\n"))) == of_function(compiled(recursive.format("")))


@pytest.mark.parametrize(
    "source",
    [
        # A decorator that is a class, and what it was given.
        "class D:\n def __init__(self, fn): functools.update_wrapper(self, fn)\n"
        " def __call__(self): return self.__wrapped__() + @\n@D\ndef f(): return 0",
        "class D:\n def __init__(self, fn, by): functools.update_wrapper(self, fn); self.by = by\n"
        " def __call__(self, x): return self.by * self.__wrapped__(x)\n"
        "def scale(by): return lambda fn: D(fn, by)\n@scale(@)\ndef f(x): return x",
        # Partials and bound methods, of an enclosing function and of the module.
        "def g(x): return x\ndef make(h):\n def f(): return h()\n return f\nf = make(functools.partial(g, @))",
        "def g(): return @\ndef make(h):\n def f(): return h()\n return f\nf = make(functools.partial(g))",
        "class K:\n def g(self): return @\ndef make(h):\n def f(): return h()\n return f\nf = make(K().g)",
        "def g(): return @\nh = functools.partial(g)\ndef f(): return h()",
        "class K:\n def g(self): return @\nh = K().g\ndef f(): return h()",
        "class K:\n @classmethod\n def g(cls): return @\nh = K.g\ndef f(): return h()",
        # Methods of other kinds.
        "class K:\n def g(self, r): return r\n h = functools.partialmethod(g, @)\ndef f(): return K().h()",
        "class K:\n @functools.singledispatchmethod\n def g(self, r): return @\ndef f(): return K().g(1)",
        "class K:\n @functools.singledispatchmethod\n def g(self, r): return 0\n @g.register\n"
        " def _(self, r: int): return @\n @g.register\n def _(self, r: str): return 2\ndef f(): return K().g(1)",
        # A class as a default.
        "class K:\n def g(self): return @\ndef f(x=K): return x().g()",
        "class K:\n def g(self): return @\ndef f(*, x=K): return x().g()",
    ],
)
def test_code_behind_objects_shows(source: str) -> None:
    """What a function calls counts behind objects that only pass on calls, and nothing else there does."""
    one, again, other = (compiled("import functools\n" + re.sub(r"@(?![\w])", n, source)) for n in ("1", "1", "2"))
    assert of_function(one) == of_function(again) is not None
    assert of_function(one) != of_function(other)


def test_an_object_that_counts_its_calls() -> None:
    """What the methods of a wrapper or of a bound object change is no code."""
    source = (
        "import functools\nclass D:\n def __init__(self, fn): functools.update_wrapper(self, fn); self.calls = 0\n"
        " def __call__(self): self.calls += 1; return self.__wrapped__()\n@D\ndef f(): return 0"
    )
    func = compiled(source)
    before = of_function(func)
    func()
    assert of_function(func) == before is not None


CLASS = """
import functools

def helper(x):
    return x

class Base:
    limit = 10

    def run(self):
        return self.limit

class C(Base):
    rate = 0.1
    count = 0
    table = {}

    class Inner:
        y = 1

    def __init__(self, x=1):
        super().__init__()
        self.x = helper(x)
        self.count += 1

    @property
    def size(self):
        return 1

    @staticmethod
    def make():
        return 2

    @classmethod
    def build(cls):
        return 3

    @functools.cached_property
    def cached(self):
        return 4

    def __call__(self, y):
        return 5
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rate = 0.1", "rate = 0.2"),
        ("limit = 10", "limit = 11"),
        ("count = 0", "count = 1"),
        ("table = {}", "table = {1: 2}"),
        ("return self.limit", "return -self.limit"),
        ("x=1", "x=2"),
        ("y = 1", "y = 2"),
        ("    return x\n", "    return -x\n"),
        *((f"return {number}", f"return {number}0") for number in range(1, 6)),
    ],
)
def test_changed_classes_show(old: str, new: str) -> None:
    """A method of any kind, a plain attribute, a helper or a base of the module that changes shows in a class."""
    assert old in CLASS
    base, changed = compiled(CLASS, "C"), compiled(CLASS.replace(old, new, 1), "C")
    assert of_function(changed) != of_function(base)
    assert of_function(changed()) != of_function(base())
    assert of_function(changed().run) != of_function(base().run)


@pytest.mark.parametrize(
    ("old", "new"),
    [("class C(", "\n# comment\nclass C("), ("    def run(self)", "    note: str\n\n    def run(self)")],
)
def test_unchanged_classes_do_not_show(old: str, new: str) -> None:
    """The place of a class and annotations that nobody reads do not count."""
    assert old in CLASS
    assert of_function(compiled(CLASS.replace(old, new, 1), "C")) == of_function(compiled(CLASS, "C"))


def test_classes_of_the_module_are_helpers() -> None:
    """A class that a function makes objects of counts by its code; an empty one counts by its name."""
    source = CLASS + "class Error(ValueError): pass\nclass Fault(ValueError): pass\ndef f(x):\n    raise Error(C(x))"
    base = of_function(compiled(source))
    assert base is not None
    assert of_function(compiled(source.replace("0.1", "0.2"))) != base
    assert of_function(compiled(source.replace("Error(C", "Fault(C"))) != base


def test_enums_count_by_their_members() -> None:
    """A member with another value is another enum."""
    source = "import enum\nclass C(enum.Enum):\n    A = 1\n    B = 'b'"
    assert of_function(compiled(source, "C")) == of_function(compiled(source, "C")) is not None
    assert of_function(compiled(source, "C")) != of_function(compiled(source.replace("'b'", "'c'"), "C"))


def test_callable_objects() -> None:
    """A callable object is the code of its class and its state, and unknown if its state is."""
    cls = compiled(CLASS, "C")
    assert of_function(cls(1)) == of_function(cls(1)) != of_function(cls(2))
    assert of_function(cls(threading.Lock())) is None


def test_bound_methods_and_partials() -> None:
    """The object of a method and the arguments of a partial count, and make it unknown if they are."""
    assert of_function(Plain(a=1).method) == of_function(Plain(a=1).method) != of_function(Plain(a=2).method)
    assert of_function(Plain(a=threading.Lock()).method) is None
    told = [
        of_function(functools.partial(double, *args, **more)) for args, more in (((1,), {}), ((2,), {}), ((), {"x": 1}))
    ]
    assert len(set(told)) == 3
    assert None not in told
    assert of_function(functools.partial(double, threading.Lock())) is None


@pytest.mark.parametrize(
    "func",
    [len, math.sin, int, dict, np.sin, functools.partial(int, base=2), functools.lru_cache(len), 3, None, Plain()],
)
def test_without_python_code_there_is_no_fingerprint(func: Any) -> None:
    """Builtin functions, C classes and what cannot be called are unknown."""
    assert of_function(func) is None


def test_unknown_defaults_are_unknown() -> None:
    """A default without a fingerprint leaves the function, and whoever calls it, without one."""
    source = "def g(x=LOCK): pass\ndef f(): g()"
    assert of_function(compiled(source, "g", LOCK=threading.Lock())) is None
    assert of_function(compiled(source, "f", LOCK=threading.Lock())) is None
    assert of_function(compiled(source, "f", LOCK=[1])) != of_function(compiled(source, "f", LOCK=[2]))


def test_functions_as_defaults_count() -> None:
    """A default that is a function counts by its code, also where the two call each other."""
    source = "def g(x): return f(x) + 1\ndef f(x, then=g): return then(x)"
    assert of_function(compiled(source)) == of_function(compiled(source)) is not None
    assert of_function(compiled(source)) != of_function(compiled(source.replace("+ 1", "+ 2")))


def test_global_constants_count() -> None:
    """A global value counts as one that is bound as a default; one that the code assigns to is state, by name."""
    for source in ("def f(x): return x * RATE", "def f(x, rate=RATE): return x * rate"):
        assert of_function(compiled(source, RATE=1)) != of_function(compiled(source, RATE=2))
    counter = code_of(compiled("def f(x):\n global RATE\n RATE += 1\n return RATE", RATE=1), Closure())
    assert counter is not None
    assert (counter.fingerprint, counter.state) == (None, ("module.RATE",))


def test_functions_that_were_sent_are_equal() -> None:
    """A function of __main__ that cloudpickle took to another process by value has the same fingerprint."""
    source = (BASE + CLASS).replace("@functools.cached_property", "@property")  # in Python 3.10 it has a lock
    for name in ("f", "C"):
        original = compiled(source, name, __name__="__main__")
        assert of_function(cloudpickle.loads(cloudpickle.dumps(original))) == of_function(original) is not None


def test_changes_at_run_time_show() -> None:
    """Nothing is remembered from call to call: new code, new defaults and a new helper show at once."""
    scope: dict[str, Any] = {"__name__": "module"}
    exec(BASE, scope)
    func, told = scope["f"], [of_function(scope["f"])]
    func.__defaults__ = (9,)
    told.append(of_function(func))
    scope["g"] = compiled("def g(x): return 7", "g")
    told.append(of_function(func))
    func.__code__ = double.__code__
    told.append(of_function(func))
    assert len(set(told)) == 4


def test_answers_of_mocks_are_not_believed() -> None:
    """An object that claims to have every attribute is no wrapper."""

    class Eager:
        def __getattr__(self, name: str) -> Any:
            return double

    source = "def f(x): return g(x)"
    assert not is_wrapper(Eager())
    assert not is_wrapper(unittest.mock.MagicMock())
    assert of_function(compiled(source, g=Eager())) is not None
    assert of_function(compiled(source, g=Eager())) != of_function(compiled(source, g=unittest.mock.MagicMock()))


# Combining and comparing


def test_combine_keeps_parts_apart() -> None:
    """Order, number, borders and unknown parts all make a difference."""
    lists: list[list[str | None]] = [
        [],
        [""],
        ["", ""],
        ["1", "2"],
        ["2", "1"],
        ["12"],
        ["1\n2"],
        ["1", None],
        [None, "1"],
    ]
    lists += [["1"], [None], ["None"], ["?"], ["1:1"], [None, None], ["1", "?"], ["ä"], ["\ud800"]]
    told = [combine(parts) for parts in lists]
    assert len(set(told)) == len(lists)
    assert all(re.fullmatch("xxh3:[0-9a-f]{32}", fingerprint) for fingerprint in told)
    assert combine(iter(["1", None])) == combine(["1", None])


@given(st.lists(st.none() | st.text(), max_size=4), st.lists(st.none() | st.text(), max_size=4))
def test_combine_is_injective(one: list[str | None], other: list[str | None]) -> None:
    """Two lists of parts have one fingerprint only if they are one list."""
    assert (combine(one) == combine(other)) == (one == other)


def test_combine_names_the_versions() -> None:
    """What is made of parts that rest on bytecode rests on the same, of every version."""
    assert combine(["1", "py3.10:ab"]).startswith("py3.10:")
    assert combine(["py3.11:ab", None, combine(["py3.10:cd"])]).startswith("py3.10+py3.11:")
    assert combine(["'py3.10:ab'"]).startswith("xxh3:")


def test_comparable() -> None:
    """Unknown parts, and bytecode of two versions, leave no room for a comparison; all else can be compared."""
    code, other, both = "py3.10:ab", "py3.11:ab", "py3.10+py3.11:ab"
    assert all(
        comparable(a, b) for a, b in [("3", "4"), ("3", "xxh3:ab"), (code, "py3.10:cd"), (both, both), ("3", code)]
    )
    assert not any(comparable(a, b) for a, b in [(None, "3"), ("3", None), (None, None), (code, other), (code, both)])
