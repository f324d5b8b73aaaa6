"""Property tests: whatever tables, arrays and nests of them go in come out, with serializers and without."""

from __future__ import annotations

import datetime
import enum
import io
import itertools
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal, assert_series_equal

from functionfuse.serializers.numpyarray import NumpySerializer
from functionfuse.storage.filestorage import FileStorage
from tests.serializers.test_arrays import arrays, assert_same

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")
parametric = pytest.importorskip("polars.testing.parametric")

SETTINGS = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = st.text(st.characters(codec="utf-8"), max_size=5)
#: Rows of a small table, and of one whose buffers leave the stream.
SIZES = st.sampled_from([0, 1, 2, 5, 20_000])


@pytest.fixture(params=[True, False], ids=["serializers", "pickle"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> FileStorage:
    """Return a storage with the serializers of this package, NumPy's too, and one without any."""
    storage = FileStorage(tmp_path)
    if request.param:
        storage.register_default_serializers()
        storage.register_persistent_serializers(NumpySerializer)
    return storage


def back(storage: FileStorage, obj: Any) -> Any:
    """Save an object and return what is read."""
    storage.save("w", "t", obj)
    return storage.read_task("w", "t")


def repeated(values: list[Any], size: int) -> list[Any]:
    """Return as many values, each again and again."""
    return list(itertools.islice(itertools.cycle(values), size)) if values else []


def texts(draw: st.DrawFn, size: int) -> list[str]:
    """Draw some texts and repeat them."""
    return repeated(draw(st.lists(TEXTS, min_size=1, max_size=3)), size)


# Arrays


@SETTINGS
@given(array=arrays())
def test_arrays(storage: FileStorage, array: np.ndarray) -> None:
    """An array comes back with bytes, dtype, shape and memory order, in the blob and in a `.npy` file."""
    assert_same(back(storage, array), array)


# pandas

ZONE = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
MOMENTS = ["2026-01-01 00:00:00", None, "1969-12-31 23:59:59", "2026-01-01 00:00:00"]


@cache
def columns_of_pandas(size: int) -> dict[str, Any]:
    """Return a column of every kind, with missing values where there are any."""

    def rows(*values: Any) -> list[Any]:
        return repeated(list(values), size)

    moments = pd.to_datetime(rows(*MOMENTS))
    return {
        **{name: np.array(rows(0, 1, 100), name) for name in ("i1", "u8", "f4", "f8", "?", "c16", "f2")},
        "NaN and -0.0": np.array(rows(float("nan"), -0.0, float("inf")), "f8"),
        **{f"M8[{unit}]": moments.astype(f"M8[{unit}]") for unit in ("s", "ms", "us", "ns")},
        **{f"m8[{unit}]": pd.array(rows(1, 5), dtype="i8").astype(f"m8[{unit}]") for unit in ("s", "ns")},
        "zone": moments.tz_localize("UTC").tz_convert("Europe/Berlin"),
        "offset": moments.tz_localize(ZONE),
        **{name: pd.array(rows(1, None, 0), dtype=name) for name in ("Int8", "UInt64", "Float32", "boolean")},
        "str": pd.array(rows("a", None, ""), dtype="str"),
        "string": pd.array(rows("a", None, ""), dtype="string"),
        "string[python]": pd.array(rows("a", None, ""), dtype="string[python]"),
        "string[pyarrow]": pd.array(rows("a", None, ""), dtype="string[pyarrow]"),
        "category": pd.Categorical(rows("x", "y", None), categories=["z", "y", "x"]),
        "ordered": pd.Categorical(rows(1, 2), categories=[3, 2, 1], ordered=True),
        "category of times": pd.Categorical(moments),
        "period": pd.PeriodIndex(rows("2026-01", "2025-12"), freq="M"),
        "interval": pd.arrays.IntervalArray.from_tuples(rows((0, 1), (1, 3)), "left", dtype="interval[int64, left]"),
        "sparse": pd.arrays.SparseArray(rows(0.0, 1.0), dtype="Sparse[float64]"),
        "arrow": pd.array(rows(1, None), dtype=pd.ArrowDtype(pa.int16())),
        "arrow list": pd.array(rows([1], None), dtype=pd.ArrowDtype(pa.list_(pa.int16()))),
        "texts": np.array(rows("a", "b"), object),
        "None": np.array(rows("a", None), object),
        "NaN": np.array(rows("a", float("nan")), object),
        "mixed": np.array(rows(1, "a", None, True, b"x"), object),
        "dates": np.array(rows(datetime.date(2026, 2, 28)), object),
        "decimals": np.array(rows(Decimal("1.50"), Decimal("2")), object),
        "bytes": np.array(rows(b"a", b""), object),
        "lists": pd.Series(rows([1], [2, 3]), dtype=object),
        "dicts": pd.Series(rows({"a": 1}, {}), dtype=object),
        "all None": np.array(rows(None), object),
        "surrogates": np.array(rows("\ud800"), object),
    }


LABELS = TEXTS | st.integers(-3, 3) | st.sampled_from([None, 1.5, True, ("a", 1), datetime.date(2026, 1, 1)])


def index_of_pandas(draw: st.DrawFn, size: int) -> Any:
    """Draw an index of any kind."""
    name = draw(st.none() | LABELS)
    columns = columns_of_pandas(size)
    column = columns[draw(st.sampled_from(sorted(columns.keys() - {"f2"})))]  # which no index can be of
    kinds = {
        "range": lambda: pd.RangeIndex(size, name=name),
        "steps": lambda: pd.RangeIndex(7, 7 - 2 * size, -2, name=name),
        "days": lambda: pd.date_range("2026-01-01", periods=size, freq="D", name=name),
        "hours": lambda: pd.date_range("2026-01-01", periods=size, freq="2h", tz="Europe/Berlin", name=name),
        "months": lambda: pd.date_range("1700-01-31", periods=min(size, 5), freq="ME", name=name, unit="s"),
        "seconds": lambda: pd.timedelta_range(0, periods=size, freq="3s", name=name),
        "periods": lambda: pd.period_range("2026", periods=size, freq="D", name=name),
        "column": lambda: pd.Index(column, dtype=column.dtype, name=name),
        "objects": lambda: pd.Index(columns["mixed"], dtype=object, name=name),
        "levels": lambda: pd.MultiIndex.from_arrays(
            [columns["category"], columns["zone"], columns["i1"]], names=[name, draw(LABELS), "third"]
        ),
    }
    index = kinds[draw(st.sampled_from(sorted(kinds)))]()
    return index if len(index) == size else pd.RangeIndex(size)


@st.composite
def frames(draw: st.DrawFn) -> Any:
    """Draw a frame of pandas, of any columns, labels and index, with attributes and flags perhaps."""
    size = draw(SIZES)
    kinds = draw(st.lists(st.sampled_from(sorted(columns_of_pandas(size))), max_size=4))
    index = index_of_pandas(draw, size)
    values = columns_of_pandas(size)
    series = [pd.Series(values[kind], dtype=values[kind].dtype, name=kind).set_axis(index) for kind in kinds]
    frame = pd.concat(series, axis=1) if series else pd.DataFrame(index=index)
    labels = draw(st.none() | st.lists(LABELS, min_size=len(kinds), max_size=len(kinds)))
    if labels is not None:
        frame.columns = pd.Index(labels, dtype=object, tupleize_cols=False, name=draw(st.none() | LABELS))
        if draw(st.booleans()):
            frame.columns = frame.columns.infer_objects()
    elif kinds and draw(st.booleans()):
        frame.columns = pd.MultiIndex.from_arrays([kinds, range(len(kinds))], names=["kind", draw(LABELS)])
    if draw(st.booleans()):
        frame.attrs.update(draw(st.dictionaries(TEXTS, st.integers() | st.just({1}), max_size=1)))
    if draw(st.booleans()) and frame.columns.is_unique and isinstance(index, pd.RangeIndex):
        frame.flags.allows_duplicate_labels = False
    return frame.iloc[:: draw(st.sampled_from([1, 2, -1]))] if draw(st.booleans()) else frame


def assert_same_index(found: Any, saved: Any) -> None:
    """Hold two indexes of pandas against each other in type, names, values, frequency and kind of every label."""
    exact: Any = "equiv" if isinstance(saved, pd.MultiIndex) else True  # a level may be a range of numbers
    pd.testing.assert_index_equal(found, saved, exact=exact, check_exact=True)
    assert type(found) is type(saved)
    assert list(found.names) == list(saved.names)
    assert [type(name) for name in found.names] == [type(name) for name in saved.names]
    assert getattr(found, "freq", None) == getattr(saved, "freq", None)
    if isinstance(saved, pd.MultiIndex):
        for one, other in zip(found.levels, saved.levels, strict=True):
            assert_same_dtype(one.dtype, other.dtype)
    assert_same_dtype(found.dtype, saved.dtype)
    if isinstance(saved, pd.RangeIndex):
        assert (found.start, found.stop, found.step) == (saved.start, saved.stop, saved.step)
    if saved.dtype == object:
        assert [type(label) for label in found] == [type(label) for label in saved]


def assert_same_dtype(found: Any, saved: Any) -> None:
    """Hold two dtypes of pandas against each other: the class of a zone too, and categories with order and types."""
    assert type(found) is type(saved)
    assert found == saved
    assert repr(found) == repr(saved)
    zones = getattr(found, "tz", None), getattr(saved, "tz", None)
    assert type(zones[0]) is type(zones[1])
    assert repr(zones[0]) == repr(zones[1])
    if isinstance(saved, pd.CategoricalDtype):
        assert_same_index(found.categories, saved.categories)
        assert [type(each) for each in found.categories] == [type(each) for each in saved.categories]


def assert_same_value(found: Any, saved: Any) -> None:
    """Hold two attributes against each other: in type, and so all that they hold, in its order."""
    assert type(found) is type(saved)
    if isinstance(saved, dict):
        assert_same_value(list(found.items()), list(saved.items()))
        assert getattr(found, "default_factory", None) is getattr(saved, "default_factory", None)
    elif isinstance(saved, (list, tuple)):
        assert len(found) == len(saved)
        for one, other in zip(found, saved, strict=True):
            assert_same_value(one, other)
    elif isinstance(saved, np.ndarray):
        assert_same(found, saved)
    else:
        assert repr(found) == repr(saved)
        assert found == saved or found != found


def assert_same_series(found: Any, saved: Any) -> None:
    """Hold two columns of pandas against each other, in the types of Python objects too."""
    assert_same_dtype(found.dtype, saved.dtype)
    pd.testing.assert_series_equal(found, saved, check_exact=True, check_freq=False)
    if saved.dtype == object:
        assert [type(value) for value in found] == [type(value) for value in saved]
    if saved.dtype.kind in "fc" and isinstance(saved.dtype, np.dtype):
        assert found.to_numpy().tobytes() == saved.to_numpy().tobytes()


def assert_same_frame(found: Any, saved: Any) -> None:
    """Hold two frames of pandas against each other in all that makes them what they are."""
    assert type(found) is type(saved)
    assert_same_index(found.index, saved.index)
    assert_same_index(found.columns, saved.columns)
    for number in range(saved.shape[1]):
        assert_same_series(found.iloc[:, number], saved.iloc[:, number])
    assert_same_value(found.attrs, saved.attrs)
    assert found.flags.allows_duplicate_labels == saved.flags.allows_duplicate_labels


@SETTINGS
@given(frame=frames())
def test_pandas_frames(storage: FileStorage, frame: Any) -> None:
    """A frame comes back with its values, types, labels, index and attributes, as Parquet or as a pickle."""
    assert_same_frame(back(storage, frame), frame)


@SETTINGS
@given(frame=frames(), name=st.none() | LABELS, data=st.data())
def test_pandas_series(storage: FileStorage, frame: Any, name: Any, data: st.DataObject) -> None:
    """A series comes back with its values, type, name and index."""
    if not frame.shape[1]:
        return
    series = frame.iloc[:, data.draw(st.integers(0, frame.shape[1] - 1))].rename(name)
    found = back(storage, series)
    assert_same_index(found.index, series.index)
    assert_same_series(found, series)
    assert (found.name, type(found.name), found.attrs) == (series.name, type(series.name), series.attrs)


def numbered(index: Any, *, names: Any = None) -> Any:
    """Return a frame of numbers with an index."""
    return pd.DataFrame({"a": range(len(index))}, index.rename(names) if names else index)


def days(offset: Any) -> Any:
    """Return a frame whose index has a frequency."""
    return numbered(pd.date_range("2026-01-01", periods=9, freq=offset))


@pytest.mark.parametrize(
    ("make", "is_parquet"),
    [
        (
            lambda: pd.DataFrame({"a": pd.arrays.FloatingArray(np.array([1.0, np.nan]), np.array([False, False]))}),
            False,
        ),
        (lambda: days(pd.offsets.CDay(holidays=["2026-01-06"])), False),
        (lambda: days(pd.offsets.BDay(offset=datetime.timedelta(hours=3))), False),
        (lambda: days(pd.offsets.BDay(2)), True),
        (lambda: pd.DataFrame([[1, 2]], columns=pd.date_range("2026", periods=2)), True),
        (lambda: numbered(pd.Index([1, 2]), names=5), True),
        (lambda: numbered(pd.Index([1, 2]), names="a"), True),
        (lambda: numbered(pd.MultiIndex.from_arrays([[1, 2], [3, 4]]), names=["x", "x"]), True),
        (lambda: numbered(pd.MultiIndex([[1, 2**60 + 1], ["x", "y"]], [[0, 1, -1], [0, 1, 1]])), False),
        (lambda: pd.DataFrame({"__index_level_0__": [1, 2]}, pd.Index([3, 4])), True),
        (lambda: pd.DataFrame({"a": pd.Categorical([f"x{n}" for n in range(70_000)] * 20)}), True),
    ],
    ids=[
        *("NaN", "holidays", "hours", "every other day", "columns", "name", "one name", "two", "missing in a level"),
        *("a name", "categories"),
    ],
)
def test_what_was_found_to_change(storage: FileStorage, make: Any, is_parquet: bool) -> None:
    """Frames that Parquet would change, which a first row does not always show, are pickled; others need not be."""
    frame = make()
    assert_same_frame(back(storage, frame), frame)
    if storage.have_serializers():
        assert ("PandasFrameSerializer" in list(storage.footer("w", "t").record.serializers)) == is_parquet


class Text(str, enum.Enum):
    """Texts that are members."""

    A = "a"


class Number(enum.IntEnum):
    """Numbers that are members."""

    A = 1


class OwnList(list):  # type: ignore[type-arg]
    """A list of another class."""


class OwnText(str):
    """A text of another class."""


#: What may stand in `attrs`, or be the name of something.
ODD_VALUES = {
    "float of NumPy": np.float64(1.5),
    "time of NumPy": np.datetime64("2026-01-01", "D"),
    "text of NumPy": np.str_("x"),
    "text enum": Text.A,
    "int enum": Number.A,
    "own text": OwnText("x"),
    "number": 5,
    "flag": True,
    "pair": ("a", 1),
    "timestamp": pd.Timestamp("2026-01-01", tz="UTC"),
}
ODD_ATTRS = {
    **ODD_VALUES,
    "tuple": (1, (2,)),
    "NaN": float("nan"),
    "ordered": OrderedDict(b=1, a=2),
    "counter": Counter("aab"),
    "default": defaultdict(list, a=[1]),
    "own list": OwnList([1]),
    "set": {1},
    "array": np.arange(3, dtype="i2"),
    "nested": {"a": [{"b": (np.float32(1), Number.A)}], 3: None},
}


@pytest.mark.parametrize("name", ODD_ATTRS)
def test_attributes_of_frames(storage: FileStorage, name: str) -> None:
    """Attributes of frames and series come back in their types, also those that JSON has not, beside a table."""
    frame = pd.DataFrame({"a": [1, 2]})
    frame.attrs = {"plain": {"a": [1, None]}, "odd": ODD_ATTRS[name], 5: "key"}
    for obj in (frame, frame["a"]):
        found = back(storage, obj)
        assert_same_value(found.attrs, frame.attrs)
        if storage.have_serializers():
            assert len(set(storage.footer("w", "t").record.serializers) - {"pickle", "NumpySerializer"}) == 1


@pytest.mark.parametrize("name", ODD_VALUES)
def test_names_of_anything(storage: FileStorage, name: str) -> None:
    """Names of indexes, columns and series, and labels, are those that they were, in type too."""
    value = ODD_VALUES[name]
    frame = pd.DataFrame(
        [[1, 2], [3, 4]],
        index=pd.Index(["x", "y"], name=value),
        columns=pd.Index(["a", value], dtype=object, name=value, tupleize_cols=False),
    )
    assert_same_frame(back(storage, frame), frame)
    series = frame.iloc[:, 0].rename(value)
    found = back(storage, series)
    assert_same_value(found.name, value)
    assert_same_index(found.index, series.index)


def zones() -> list[Any]:
    """Return zones of every kind that is installed."""
    one = datetime.timedelta(hours=1)
    found = [
        datetime.timezone.utc,
        datetime.timezone(one),
        datetime.timezone(one, "CET"),
        zoneinfo.ZoneInfo("UTC"),
        zoneinfo.ZoneInfo("Europe/Berlin"),
        "UTC",
        "Europe/Berlin",
    ]
    try:
        import pytz
    except ImportError:
        return found
    return [*found, pytz.UTC, pytz.timezone("Europe/Berlin"), pytz.FixedOffset(60)]


@pytest.mark.parametrize("zone", zones(), ids=repr)
def test_zones_of_every_kind(storage: FileStorage, zone: Any) -> None:
    """A zone is of the class that it was, with its name: in a column, an index, a level, and categories."""
    times = pd.date_range("2026-03-29", periods=3, freq="h").tz_localize("UTC").tz_convert(zone)
    levels = pd.MultiIndex.from_arrays([times[[0, 1, 2]], [1, 2, 3]], names=["t", "n"])
    for index in (times, levels, pd.RangeIndex(3)):
        frame = pd.DataFrame({"t": times, "c": pd.Categorical(times)}).set_axis(index)
        assert_same_frame(back(storage, frame), frame)
        assert_same_frame(back(storage, frame[["t"]]), frame[["t"]])
    series = pd.Series(times, times)
    found = back(storage, series)
    assert_same_index(found.index, series.index)
    assert_same_series(found, series)


CATEGORIES = {
    "texts": ["z", "b", "a"],
    "numbers": [3, 1, 2],
    "floats": [2.5, -1.0, 0.0],
    "flags": [True, False],
    "times": list(pd.to_datetime(["2026-01-02", "2026-01-01"])),
    "days": pd.date_range("2026", periods=2, freq="D"),
    "intervals": pd.interval_range(0, 3),
    "enums": [Text.A, "b"],
    "mixed": [1, "a"],
    "unknown": ["__UNKNOWN_CATEGORIES__"],
}


@pytest.mark.parametrize("is_ordered", [True, False])
@pytest.mark.parametrize("name", CATEGORIES)
def test_categories_of_every_kind(storage: FileStorage, name: str, is_ordered: bool) -> None:
    """Categories keep order, types and those that are not used, in columns and indexes, with and without rows."""
    dtype = pd.CategoricalDtype(CATEGORIES[name], is_ordered)
    for codes in ([], [-1, -1], [0, -1], [-1, 0], [len(dtype.categories) - 1, 0]):
        column = pd.Categorical.from_codes(codes, dtype=dtype)
        plain = pd.DataFrame({"a": column, "b": range(len(codes))})
        assert_same_frame(back(storage, plain), plain)
        indexed = plain.set_index("a")
        assert_same_frame(back(storage, indexed), indexed)


LEVELS = {
    "string": lambda: pd.array(["q", "r"], dtype="string"),
    "object": lambda: pd.Index(["q", "r"], dtype=object),
    "str": lambda: pd.Index(["q", "r"], dtype="str"),
    "numbers": lambda: [1, 0],
    "bytes": lambda: np.array([1, 0], "i1"),
    "times": lambda: pd.date_range("2026", periods=2, tz="Europe/Berlin"),
    "categories": lambda: pd.Categorical(["q", "r"], categories=["z", "r", "q"], ordered=True),
    "missing": lambda: [1.5, None],
    "enums": lambda: pd.Index([Text.A, "r"], dtype=object),
}


@pytest.mark.parametrize("name", LEVELS)
def test_levels_of_columns(storage: FileStorage, name: str) -> None:
    """Columns of several levels, or of any index, keep their levels' dtypes and labels."""
    level = LEVELS[name]()
    for columns in (
        pd.MultiIndex.from_arrays([level, ["B", "C"]], names=["l", None]),
        pd.MultiIndex.from_arrays([["B", "B"], level], names=[None, 3]),
        pd.Index(level, name="one"),
    ):
        frame = pd.DataFrame([[1, 2], [3, 4]], columns=columns)
        assert_same_frame(back(storage, frame), frame)


@pytest.mark.parametrize("cell", [Text.A, OwnText("a"), np.str_("a")], ids=lambda cell: type(cell).__name__)
def test_texts_of_other_classes(storage: FileStorage, cell: Any) -> None:
    """A text that is more than a text stays what it is, in a column, an index, and where the dtype is of texts."""
    objects = pd.DataFrame({"a": pd.Series(["x", cell], dtype=object)}, index=pd.Index(["y", cell], dtype=object))
    assert_same_frame(back(storage, objects), objects)
    column = pd.DataFrame({"a": pd.array(["x", cell], dtype="string[python]")})
    assert [type(each) for each in back(storage, column)["a"]] == [type(each) for each in column["a"]]


def test_what_stands_beside_a_frame_is_not_the_frames(tmp_path: Path) -> None:
    """Saving does not change the frame, nor does what is read share anything with what is read again."""
    storage = FileStorage(tmp_path)
    storage.register_default_serializers()
    frame = pd.DataFrame({0: [1], 1: [2]}, index=pd.Index([3], name=4))
    frame.attrs = {"k": {1}}
    frame.flags.allows_duplicate_labels = False
    same = frame.copy()
    first = back(storage, frame)
    assert_same_frame(frame, same)
    first.attrs["k"].add(2)
    first.columns.name = "changed"
    assert_same_frame(storage.read_task("w", "t"), same)


def test_a_pid_of_the_first_versions(tmp_path: Path) -> None:
    """Frames and series whose pid has a frequency and a name alone can be read."""
    from functionfuse.serializers.tables import PandasFrameSerializer, PandasSeriesSerializer

    frame = pd.DataFrame({"a": [1.5, 2.5]}, pd.date_range("2026", periods=2, freq="D"))
    file = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pandas(frame), file)
    data = memoryview(file.getvalue())
    pd.testing.assert_frame_equal(PandasFrameSerializer._read(data, "D"), frame)
    pd.testing.assert_series_equal(PandasSeriesSerializer._read(data, [7, "D"]), frame["a"].rename(7))


# Arrow


@cache
def arrow_arrays() -> dict[str, Any]:
    """Return an Arrow array of every type, those that Parquet lacks too."""
    codes, texts = pa.array([0, 1], pa.int8()), pa.array(["b", "a"])
    lists = pa.list_(pa.int8(), 2)
    zones = (None, "Europe/Berlin", "+05:30")
    return {
        **{name: pa.array([0, 100], name) for name in ("int8", "uint64", "date32", "time32[s]", "time64[ns]")},
        **{name: pa.array([float("nan"), -0.0], name) for name in ("float32", "float64")},
        **{name: pa.array(["", "\u00e9\0"], getattr(pa, name)()) for name in ("string", "large_string")},
        **{name: pa.array([b"", b"\xff"], getattr(pa, name)()) for name in ("binary", "large_binary")},
        **{f"{u} {zone}": pa.array([-1, 10**12], pa.timestamp(u, zone)) for u in ("s", "us", "ns") for zone in zones},
        **{f"duration {unit}": pa.array([-1, 10**9], pa.duration(unit)) for unit in ("s", "ns")},
        "long ago": pa.array([0, 2**61], pa.timestamp("s")),
        "float16": pa.array(np.array([1, np.nan], "f2")),
        "date64": pa.array([86_400_000, 0], pa.date64()),
        "bool": pa.array([True, False]),
        "null": pa.array([None, None]),
        "decimal128": pa.array([Decimal("1.50"), Decimal("-2")], pa.decimal128(7, 2)),
        "decimal256": pa.array([Decimal("1.50"), Decimal("-2")], pa.decimal256(60, 3)),
        "fixed": pa.array([b"ab", b"\0\0"], pa.binary(2)),
        "nothing": pa.array([b"", b""], pa.binary(0)),
        "interval": pa.array([pa.MonthDayNano([1, 2, 3]), pa.MonthDayNano([0, 0, 0])]),
        "dictionary": pa.DictionaryArray.from_arrays(codes, texts),
        "unused": pa.DictionaryArray.from_arrays(codes, pa.array(["b", "a", "z"]), ordered=True),
        "numbers": pa.DictionaryArray.from_arrays(codes, pa.array([5, 6])),
        "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int8())),
        "large list": pa.array([[1, None], []], pa.large_list(pa.int8())),
        "list view": pa.array([[1, None], []], pa.list_view(pa.int8())),
        "pairs": pa.array([[1, 2], [3, None]], lists),
        "no fields": pa.array([{}, {}], pa.struct([])),
        "required": pa.array([{"a": 1}, {"a": 2}], pa.struct([pa.field("a", pa.int8(), nullable=False)])),
        "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"x" * 16, b"y" * 16], pa.binary(16))),
        "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}", "[]"])),
    }


@st.composite
def arrow_columns(draw: st.DrawFn, size: int) -> Any:
    """Draw a column of any type, with nulls, in lists and structs perhaps, and in chunks."""
    base = arrow_arrays()[draw(st.sampled_from(sorted(arrow_arrays())))]
    rows = draw(st.lists(st.sampled_from([0, 1, None]), min_size=1, max_size=4))
    array = base.take(pa.array(repeated(rows, size), pa.int64()))
    if base.type in (pa.string(), pa.binary()) and draw(st.booleans()):
        array = array.cast(f"{base.type}_view")
    for wrap in draw(st.lists(st.sampled_from(["list", "struct"]), max_size=2)):
        if wrap == "list":
            array = pa.ListArray.from_arrays(pa.array(range(size + 1), pa.int32()), array)
        else:
            array = pa.StructArray.from_arrays([array], ["inner"])
    cut = draw(st.integers(0, size))
    return pa.chunked_array([array[:cut], array[cut:]]) if draw(st.booleans()) else pa.chunked_array([array])


@st.composite
def arrow_tables(draw: st.DrawFn) -> Any:
    """Draw a table with metadata and odd names perhaps, all of it or a slice."""
    size = draw(SIZES)
    columns = draw(st.lists(arrow_columns(size), min_size=1, max_size=4))
    names = draw(st.lists(TEXTS, min_size=len(columns), max_size=len(columns)))
    table = pa.Table.from_arrays(columns, names)
    metadata = draw(st.none() | st.dictionaries(TEXTS, st.binary(max_size=5), max_size=2))
    return table.replace_schema_metadata(metadata)[draw(st.sampled_from([0, 1])) :]


def assert_same_arrow(found: Any, saved: Any) -> None:
    """Hold two tables or batches of Arrow against each other in values, types, names and metadata."""
    assert type(found) is type(saved)
    assert found.schema.equals(saved.schema, check_metadata=True)
    assert found.num_rows == saved.num_rows
    found.validate(full=True)
    for one, other in zip(found.columns, saved.columns, strict=True):
        assert one.equals(other) or repr(one.to_pylist()) == repr(other.to_pylist())  # NaN is not equal to itself


@SETTINGS
@given(table=arrow_tables(), is_batch=st.booleans())
def test_arrow(storage: FileStorage, table: Any, is_batch: bool) -> None:
    """Tables and record batches of Arrow come back with values, types, names and metadata."""
    obj = table.combine_chunks().to_batches()[0] if is_batch and table.num_rows else table
    assert_same_arrow(back(storage, obj), obj)


def test_days_with_a_time(storage: FileStorage) -> None:
    """Dates that are no whole days, which Arrow lets in but Parquet cuts off, come back as they were, nested too."""
    days = pa.array([0, 86_400_005], pa.int64()).view(pa.date64())
    for column in (days, pa.StructArray.from_arrays([days], ["inner"])):
        table = pa.table({"a": column})
        assert back(storage, table).equals(table)


# Polars


@SETTINGS
@given(
    frame=parametric.dataframes(max_cols=4, allow_null=True, excluded_dtypes=[pl.Object]),
    times=st.sampled_from([1, 9999]),
)
def test_polars(storage: FileStorage, frame: Any, times: int) -> None:
    """Frames of Polars, and each of their series, come back with values, types and names."""
    frame = pl.concat([frame] * times) if frame.width else frame
    found = back(storage, frame)
    assert type(found) is pl.DataFrame
    assert list(found.schema.items()) == list(frame.schema.items())
    assert_frame_equal(found, frame, check_exact=True)
    for series in frame.iter_columns():
        found = back(storage, series)
        assert type(found) is pl.Series
        assert (found.name, found.dtype) == (series.name, series.dtype)
        assert_series_equal(found, series, check_exact=True)


# Nests


@dataclass
class Holder:
    """An object that holds another."""

    held: Any


def leaves() -> list[Any]:
    """Return objects of every kind, none of them twice."""
    return [
        np.arange(7.0),
        np.asfortranarray(np.arange(20_000.0).reshape(100, 200)),
        np.arange(40_000, dtype=">i4"),
        np.array("2026-02-28", "M8[D]"),
        np.array([{}, None], object),
        pd.DataFrame({"a": [1.5, None], "b": ["x", "y"]}),
        pd.DataFrame({"a": [1, 2]}, dtype=object),
        pd.Series([1, 2], name="s"),
        pl.DataFrame({"a": [1, None]}),
        pa.table({"a": ["x", None]}),
        bytearray(100_000),
        [],
        {},
        {1, 2},
        ("a", 1),
        None,
        1.5,
        "text",
    ]


@st.composite
def nests(draw: st.DrawFn) -> Any:
    """Draw containers of leaves and of one another, in which some come more than once, or hold themselves."""
    pool = leaves()
    for _ in range(draw(st.integers(1, 8))):
        members = draw(st.lists(st.integers(0, len(pool) - 1), max_size=5))
        held = [pool[number] for number in members]
        kind = draw(st.sampled_from(["list", "tuple", "dict", "holder", "deque"]))
        if kind == "dict":
            pool.append({f"key {number}": each for number, each in enumerate(held)})
        else:
            make: Any = {"list": list, "tuple": tuple, "holder": Holder, "deque": deque}[kind]
            pool.append(make(held))
    containers = [each for each in pool if type(each) is list]
    if draw(st.booleans()):
        draw(st.sampled_from(containers)).append(draw(st.sampled_from(containers)))
    return [pool[-1], *draw(st.lists(st.sampled_from(pool), max_size=3))]


def assert_same_nest(found: Any, saved: Any, met: dict[int, int]) -> None:
    """Hold two nests against each other: what was one object is one object, what was two is two."""
    assert type(found) is type(saved)
    if isinstance(saved, (str, float, int, type(None))):
        assert found == saved
        return
    if id(saved) in met:
        assert id(found) == met[id(saved)] or saved == ()
        return
    assert id(found) not in met.values() or saved == ()
    met[id(saved)] = id(found)
    if isinstance(saved, (list, tuple, deque)):
        assert len(found) == len(saved)
        for one, other in zip(found, saved, strict=True):
            assert_same_nest(one, other, met)
    elif isinstance(saved, dict):
        assert list(found) == list(saved)
        assert_same_nest(list(found.values()), list(saved.values()), met)
    elif isinstance(saved, Holder):
        assert_same_nest(found.held, saved.held, met)
    else:
        assert_same_leaf(found, saved)


def assert_same_leaf(found: Any, saved: Any) -> None:
    """Hold two objects that hold no others against each other."""
    compare = {
        np.ndarray: assert_same,
        pd.DataFrame: assert_same_frame,
        pd.Series: assert_same_series,
        pl.DataFrame: assert_frame_equal,
        pa.Table: assert_same_arrow,
    }.get(type(saved))
    if compare is None:
        assert found == saved
    else:
        compare(found, saved)


@SETTINGS
@given(nest=nests())
def test_identity_within_a_result(storage: FileStorage, nest: Any) -> None:
    """However arrays, tables and containers are shared, or hold themselves, they come back so."""
    assert_same_nest(back(storage, nest), nest, {})
