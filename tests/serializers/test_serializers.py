"""Every serializer of this package passes the suite for serializers, and what it cannot hold it declines."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from checked import Checked
from functionfuse.errors import LazyResultWarning, MissingDependency
from functionfuse.serializers import _needed
from functionfuse.serializers._defaults import installed_defaults
from functionfuse.serializers.base import FILE_PROTOCOL, generate_name
from functionfuse.serializers.numpyarray import NumpySerializer
from functionfuse.serializers.tables import (
    ArrowBatchSerializer,
    ArrowTableSerializer,
    PandasFrameSerializer,
    PandasSeriesSerializer,
    PolarsFrameSerializer,
    PolarsSeriesSerializer,
)
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import SerializerContract

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")


class TestNumpy(Checked):
    """Arrays as `.npy`."""

    serializer = NumpySerializer

    def samples(self) -> list[Any]:
        """Return arrays of every kind of shape, order and dtype."""
        return [
            np.arange(100_000.0).reshape(100, -1),
            np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
            np.zeros((0, 3), "?"),
            np.array(1.5),
            np.arange(10)[::3],
            np.array(["a", "bb", "é"]),
            np.array(["2020-02-29", "NaT"], "M8[D]"),
            np.zeros(3, [("a", "i4"), ("b", "f8", (2,))]),
        ]

    def equal(self, one: Any, other: Any) -> bool:
        """Compare values, dtype, order of memory, and that both can be written to."""
        is_fortran = one.flags.f_contiguous and not one.flags.c_contiguous
        same = type(one) is type(other) and one.dtype == other.dtype and one.shape == other.shape
        kind = (
            one.flags.writeable
            and other.flags.writeable
            and is_fortran == (other.flags.f_contiguous and not other.flags.c_contiguous)
        )
        return bool(same and (kind or not one.flags.c_contiguous) and one.tobytes() == other.tobytes())

    def test_the_file_is_numpys(self, tmp_path: Path) -> None:
        """`numpy.load` opens the side file."""
        self.open_storage(tmp_path).save("w", "t", self.samples()[0])
        (name,) = self.side_files(tmp_path)
        assert np.array_equal(np.load(tmp_path / name), self.samples()[0])

    def test_objects_are_declined(self, tmp_path: Path) -> None:
        """Arrays of Python objects, masked arrays and other subclasses are pickled, and it is recorded so."""
        storage = self.open_storage(tmp_path)
        masked = np.ma.masked_array([1, 2], [True, False])
        storage.save("w", "t", [np.array([{}, None], object), np.recarray((0,), "i4")])
        assert list(storage.footer("w", "t").record.serializers) == ["pickle"]
        storage.save("w", "t", masked)
        assert (storage.read_task("w", "t").mask == masked.mask).all()

    @pytest.mark.parametrize(
        "dtype",
        [
            np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [4, 0]}),
            np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]}),
            np.dtype([("a", "i1"), ("b", "i4")], align=True),
        ],
        ids=["out of order", "overlapping", "aligned"],
    )
    def test_odd_structures_are_declined(self, dtype: Any, tmp_path: Path) -> None:
        """Arrays of fields that the format cannot describe are pickled, and come back with their dtype."""
        storage = self.open_storage(tmp_path)
        storage.save("w", "t", np.zeros(2, dtype))
        assert list(storage.footer("w", "t").record.serializers) == ["pickle"]
        assert repr(storage.read_task("w", "t").dtype) == repr(dtype)


class Tables(Checked):
    """What the suites for tables share."""

    def equal(self, one: Any, other: Any) -> bool:
        """Compare as the library's own assertions do."""
        if type(one) is not type(other):
            return False
        try:
            self.compare(one, other)
        except AssertionError:
            return False
        return True

    def compare(self, one: Any, other: Any) -> None:
        """Fail where they differ."""
        raise NotImplementedError


class TestArrowTable(Tables):
    """Arrow tables."""

    serializer = ArrowTableSerializer

    def samples(self) -> list[Any]:
        """Return tables with nulls, nesting, dictionaries, metadata and types that Parquet has not."""
        return [
            pa.table({"a": [1, None], "s": ["x", "y"]}),
            pa.table({"t": pa.array([1, 2], pa.timestamp("s")), "l": pa.array(["a", "b"], pa.large_string())}),
            pa.table({"d": pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), ["a", "b", "c"])}),
            pa.table({"n": pa.array([{"x": [1, None]}]), "u": pa.array([5], pa.duration("us"))}),
            pa.table({"a": [1]}).replace_schema_metadata({"key": "value"}),
            pa.table({"a": pa.array([], "int8")}),
        ]

    def compare(self, one: Any, other: Any) -> None:
        """Compare values, types and metadata."""
        assert one.equals(other, check_metadata=True)


class TestArrowBatch(TestArrowTable):
    """Arrow record batches."""

    serializer = ArrowBatchSerializer

    def samples(self) -> list[Any]:
        """Return the tables' rows as batches."""
        return [pa.record_batch({"a": [1, None, 3]}), pa.record_batch({"a": pa.array([], "int8")})]


class TestPandasFrame(Tables):
    """Data frames of pandas."""

    serializer = PandasFrameSerializer

    def samples(self) -> list[Any]:
        """Return frames with every kind of index and column that Parquet holds."""
        frame = pd.DataFrame({"a": range(5), "f": [1.5, None, 3, 4, 5], "s": list("abcde"), "b": [True] * 5})
        days = pd.date_range("2020", periods=5, freq="D", name="day", tz="Europe/Berlin")
        nullable = {"i": pd.array([1, None], "Int64"), "s": pd.array(["x", None], "string")}
        text = {"p": pd.array(["x", None], "string[python]"), "a": pd.array(["x", None], "string[pyarrow]")}
        return [
            frame,
            frame.set_index(days),
            frame.set_index(["a", "s"]),
            frame[::2],
            frame.iloc[:0],
            frame[["a"]],
            pd.DataFrame(nullable),
            pd.DataFrame({"a": text["a"]}, index=pd.Index(["i", "j"], dtype="string[pyarrow]", name="index")),
            *([pd.DataFrame(text)] if pd.StringDtype() == "string[python]" else []),  # pandas 3 makes both Arrow's
            pd.DataFrame({"c": pd.Categorical(["x", "y"], categories=["z", "y", "x"], ordered=True)}),
        ]

    def compare(self, one: Any, other: Any) -> None:
        """Compare values, types, and index with its frequency."""
        pd.testing.assert_frame_equal(one, other, check_freq=True)

    @pytest.mark.parametrize(
        "frame",
        [
            pd.DataFrame([[1, 2]], columns=["a", "a"]),
            pd.DataFrame({"m": pd.Series([1, "a", None], dtype=object)}),
            pd.DataFrame({"m": pd.Series([{"a": 1}, {"b": 2}], dtype=object)}),
            pd.DataFrame({"c": [1 + 2j]}),
            pd.DataFrame(),
            pd.DataFrame({"a": [1]}, index=pd.Index([None], dtype=object)),
        ],
        ids=["duplicate columns", "mixed", "dictionaries", "complex", "empty", "index of objects"],
    )
    def test_what_does_not_fit_is_pickled(self, frame: Any, tmp_path: Path) -> None:
        """A frame that Parquet cannot hold exactly is pickled, recorded as that, and comes back the same."""
        storage = self.open_storage(tmp_path)
        storage.save("w", "t", [frame])
        assert list(storage.footer("w", "t").record.serializers) == ["pickle"]
        assert self.side_files(tmp_path) == {}
        pd.testing.assert_frame_equal(storage.read_task("w", "t")[0], frame)

    def test_attributes_come_back(self, tmp_path: Path) -> None:
        """A frame's attributes come back, in the Parquet file or by pickle where Arrow is too old for them."""
        storage = self.open_storage(tmp_path)
        frame = pd.DataFrame({"a": [1]})
        frame.attrs["unit"] = "m"
        storage.save("w", "t", frame)
        assert storage.read_task("w", "t").attrs == {"unit": "m"}


class TestPandasSeries(Tables):
    """Series of pandas."""

    serializer = PandasSeriesSerializer

    def samples(self) -> list[Any]:
        """Return series with and without names."""
        return [pd.Series([1, 2], name="q"), pd.Series([1.0, 2.0], index=["a", "b"]), pd.Series([True], name=3)]

    def compare(self, one: Any, other: Any) -> None:
        """Compare values, name and index."""
        pd.testing.assert_series_equal(one, other)


class TestPolarsFrame(Tables):
    """Data frames of Polars."""

    serializer = PolarsFrameSerializer

    def samples(self) -> list[Any]:
        """Return frames with nulls, nesting and categories."""
        return [
            pl.DataFrame({"a": [1, None], "s": ["x", "y"], "l": [[1], []], "f": [float("nan"), 1.0]}),
            pl.DataFrame({"e": pl.Series(["a", "b"], dtype=pl.Enum(["b", "a", "z"]))}),
            pl.DataFrame({"a": []}, schema={"a": pl.Int8}),
        ]

    def compare(self, one: Any, other: Any) -> None:
        """Compare values and types."""
        from polars.testing import assert_frame_equal

        assert_frame_equal(one, other)


class TestPolarsSeries(Tables):
    """Series of Polars."""

    serializer = PolarsSeriesSerializer

    def samples(self) -> list[Any]:
        """Return series with and without names."""
        return [pl.Series("x", [1, 2, None]), pl.Series("", [], dtype=pl.Date)]

    def compare(self, one: Any, other: Any) -> None:
        """Compare values and name."""
        from polars.testing import assert_series_equal

        assert_series_equal(one, other)


class TestDaskDataFrame(Tables):
    """Data frames of Dask."""

    @pytest.fixture(autouse=True)
    def _set(self) -> None:
        pytest.importorskip("dask.dataframe")
        from functionfuse.serializers.daskdataframe import DaskDataFrameSerializer

        type(self).serializer = DaskDataFrameSerializer

    def samples(self) -> list[Any]:
        """Return frames of several partitions, with known and unknown divisions."""
        import dask.dataframe as dd

        frame = pd.DataFrame({"a": range(50), "s": list("ab") * 25}, index=pd.date_range("2020", periods=50))
        return [dd.from_pandas(frame, npartitions=3), dd.from_pandas(frame, npartitions=2).clear_divisions()]

    def compare(self, one: Any, other: Any) -> None:
        """Compare values, types and partitions."""
        pd.testing.assert_frame_equal(one.compute(), other.compute(), check_freq=False)
        assert one.divisions == other.divisions


@pytest.mark.slow
class TestXarrayDataset(Tables):
    """Datasets of Xarray."""

    attribute = "XarrayDatasetSerializer"

    @pytest.fixture(autouse=True)
    def _set(self, zarr_loop: None) -> None:
        pytest.importorskip("xarray")
        pytest.importorskip("zarr")
        from functionfuse.serializers import xarraydata

        type(self).serializer = getattr(xarraydata, self.attribute)

    def samples(self) -> list[Any]:
        """Return datasets with coordinates, attributes, times and texts, in memory."""
        import xarray as xr

        times = pd.date_range("2020", periods=4)
        values = {"a": (("x", "t"), np.arange(12.0).reshape(3, 4)), "b": ("x", [True, False, True])}
        return [
            xr.Dataset(values, coords={"x": ["p", "q", "r"], "t": times}, attrs={"unit": "m"}),
            xr.Dataset({"a": ("x", np.array([np.nan, 1], "f4"), {"k": [1, 2]})}),
        ]

    def compare(self, one: Any, other: Any) -> None:
        """Compare values, coordinates, names and attributes."""
        assert one.identical(other)

    def test_what_was_lazy_is_lazy(self, tmp_path: Path) -> None:
        """What lay in Dask arrays is read in the same chunks, when it is computed."""
        pytest.importorskip("dask.array")
        storage = self.open_storage(tmp_path)
        lazy = self.samples()[1].chunk(1)
        storage.save("w", "t", lazy)
        found = storage.read_task("w", "t")
        assert found.chunks == lazy.chunks
        assert self.equal(found.compute(), lazy.compute())

    def test_attributes_that_are_no_json_come_back(self, tmp_path: Path) -> None:
        """The values go to Zarr all the same, and the attributes beside them."""
        storage = self.open_storage(tmp_path)
        odd = self.samples()[1].assign_attrs(odd={1, 2})
        storage.save("w", "t", odd)
        assert self.serializer.name in list(storage.footer("w", "t").record.serializers)
        found = storage.read_task("w", "t")
        assert found.attrs == odd.attrs
        assert self.equal(found, odd)

    def test_what_zarr_cannot_hold_is_pickled(self, tmp_path: Path) -> None:
        """Objects go with the pickle; no file is left."""
        storage = self.open_storage(tmp_path)
        odd = self.samples()[1].astype(object)
        storage.save("w", "t", odd)
        assert list(storage.footer("w", "t").record.serializers) == ["pickle"]
        assert self.side_files(tmp_path) == {}
        assert self.equal(storage.read_task("w", "t"), odd)

    def declined(self) -> list[Any]:
        """Return datasets of pandas' dtypes, and of text that is no UTF-8."""
        import xarray as xr

        columns = [pd.Categorical(["a", "b"]), pd.array([1, None], dtype="Int64"), np.array(["\udc80"])]
        return [xr.Dataset({"a": ("x", column)}) for column in columns]

    def test_what_has_no_place_in_a_group_is_pickled(self, tmp_path: Path) -> None:
        """What has no dtype in Zarr, or no variable of its own in a group, does not make the save fail."""
        storage = self.open_storage(tmp_path)
        for odd in self.declined():
            storage.save("w", "t", odd)
            assert list(storage.footer("w", "t").record.serializers) == ["pickle"]
            assert self.equal(storage.read_task("w", "t"), odd)


@pytest.mark.slow
class TestXarrayArray(TestXarrayDataset):
    """Arrays of Xarray."""

    attribute = "XarrayArraySerializer"

    def samples(self) -> list[Any]:
        """Return an array with a name and one without."""
        import xarray as xr

        named = xr.DataArray(np.arange(6).reshape(2, 3), dims=["x", "y"], name="q", coords={"x": ["a", "b"]})
        return [named, xr.DataArray(np.arange(3.0), dims="x")]

    def declined(self) -> list[Any]:
        """Return arrays whose variables would have the names of their dimensions."""
        import xarray as xr

        return [xr.DataArray([1, 2], dims="x", name="x"), xr.DataArray([1, 2], dims="values")]


class Text:
    """What the third party's serializer takes over."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Text) and self.text == other.text

    __hash__ = None  # type: ignore[assignment]


class ThirdParty:
    """A serializer written for IBM Function Fuse, by the page on compatibility and nothing else."""

    name = "TextSerializer"
    serializer_class = Text

    @classmethod
    def pickle(cls, obj: Text, protocols: Mapping[str, Any]) -> tuple[str, str]:
        """Write a file of a fresh name."""
        pid = generate_name()
        with protocols["file_protocol"].open(pid, "w") as file:
            file.write(obj.text)
        return cls.name, pid

    @classmethod
    def unpickle(cls, pid: str, protocols: Mapping[str, Any]) -> Text:
        """Read it."""
        with protocols["file_protocol"].open(pid, "r") as file:
            return Text(file.read())

    @classmethod
    def remove(cls, pid: str, protocols: Mapping[str, Any]) -> None:
        """Delete it."""
        protocols["file_protocol"].remove(pid)


class TestThirdParty(SerializerContract):
    """A third party's serializer runs unchanged."""

    serializer = ThirdParty

    def samples(self) -> list[Any]:
        """Return two texts."""
        return [Text("one"), Text("two")]


def test_defaults_import_nothing_before_they_are_used(tmp_path: Path) -> None:
    """`register_default_serializers` names those whose libraries are installed, and imports none of them."""
    import json
    import subprocess

    code = """
import json, sys
from functionfuse.storage.filestorage import FileStorage
storage = FileStorage(sys.argv[1])
names = storage.register_default_serializers()
storage.save("w", "t", {"a": [1, "b"]})
assert storage.have_serializers() and storage.read_task("w", "t") == {"a": [1, "b"]}
print(json.dumps([names, sorted({"dask", "pandas", "polars", "numpy", "xarray", "torch", "h5py"} & set(sys.modules))]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[default.name for default in installed_defaults()], []]


def test_defaults_take_over_and_read(tmp_path: Path) -> None:
    """A data frame is taken over by default, and read by a storage that has seen none before."""
    storage = FileStorage(tmp_path)
    storage.register_default_serializers()
    storage.save("w", "t", pd.DataFrame({"a": [1]}))
    assert list(storage.footer("w", "t").record.serializers) == ["pickle", "PandasFrameSerializer"]
    reader = FileStorage(tmp_path)
    reader.register_default_serializers()
    assert reader.read_task("w", "t").a.tolist() == [1]


def test_what_is_registered_by_hand_comes_first(tmp_path: Path) -> None:
    """A serializer of one's own for a type is not displaced by the default for it."""

    class Own(PandasFrameSerializer):
        name = "Own"

    storage = FileStorage(tmp_path)
    storage.register_default_serializers()
    storage.register_persistent_serializers(Own)
    storage.save("w", "t", pd.DataFrame({"a": [1]}))
    assert list(storage.footer("w", "t").record.serializers) == ["pickle", "Own"]


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Registering a serializer without its library says which extra to install."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependency, match=r"pandas is not installed.*pip install 'functionfuse\[pandas\]'"):
        FileStorage(tmp_path).register_persistent_serializers(PandasFrameSerializer)
    assert issubclass(MissingDependency, ImportError)
    assert _needed.needed("json", "none").__name__ == "json"


class Failing:
    """A serializer whose own work fails."""

    name = "Failing"
    serializer_class = Text
    calls = 0

    @classmethod
    def pickle(cls, obj: Text, protocols: Mapping[str, Any]) -> tuple[str, str]:
        """Write something, and fail as pickle itself might."""
        cls.calls += 1
        with protocols[FILE_PROTOCOL].open("half", "w") as file:
            file.write("half")
        raise ValueError("the work failed")

    unpickle = remove = ThirdParty.remove


def test_an_error_of_a_serializer_is_its_own(tmp_path: Path) -> None:
    """What a serializer raises comes out as it is, its work is not done again with cloudpickle, nothing is left."""
    storage = FileStorage(tmp_path)
    storage.register_persistent_serializers(Failing)  # type: ignore[arg-type]  # it removes nothing
    with pytest.raises(ValueError, match="the work failed"):
        storage.save("w", "t", Text("x"))
    assert Failing.calls == 1
    assert not list(tmp_path.glob("w/bigdata/*"))


def test_the_work_is_not_done_twice_for_cloudpickle(tmp_path: Path) -> None:
    """Beside what only cloudpickle can write, a serializer is asked once for an object."""
    calls = []

    class Counting(ThirdParty):
        @classmethod
        def pickle(cls, obj: Text, protocols: Mapping[str, Any]) -> tuple[str, str]:
            calls.append(obj)
            return super().pickle(obj, protocols)

    storage = FileStorage(tmp_path)
    storage.register_persistent_serializers(Counting)
    storage.save("w", "t", [Text("once"), lambda: 5])
    text, function = storage.read_task("w", "t")
    assert (text, function()) == (Text("once"), 5)
    assert len(calls) == 1
    assert list(storage.footer("w", "t").record.serializers) == ["cloudpickle", "TextSerializer"]


@pytest.mark.slow
def test_summaries(tmp_path: Path) -> None:
    """The catalog knows sizes, columns, types and bytes of what Dask and Xarray hold, without reading it."""
    dd = pytest.importorskip("dask.dataframe")
    xr = pytest.importorskip("xarray")
    storage = FileStorage(tmp_path)
    with pytest.warns(LazyResultWarning):
        storage.save("w", "a", dd.from_pandas(pd.DataFrame({"x": [1, 2, 3]}), npartitions=2))
    storage.save("w", "b", xr.Dataset({"v": ("t", np.zeros(4))}))
    storage.save("w", "c", xr.DataArray(np.zeros((2, 3), "f4"), dims=["p", "q"]))
    found = [storage.footer("w", name).record.summary for name in "abc"]
    assert found == [
        {"columns": {"x": "int64"}, "partitions": 2},
        {"sizes": {"t": 4}, "variables": {"v": "float64"}, "bytes": 32},
        {"shape": [2, 3], "dtype": "float32", "sizes": {"p": 2, "q": 3}, "bytes": 24},
    ]
