"""Datasets of Xarray come back in their order, with attributes and encodings as they were."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functionfuse.storage.filestorage import FileStorage

xr = pytest.importorskip("xarray")
pytest.importorskip("zarr")

#: Dask's and Zarr's threads outlive a test.
pytestmark = pytest.mark.slow


@pytest.fixture
def storage(tmp_path: Path, zarr_loop: None) -> FileStorage:
    """Return a storage with the default serializers."""
    storage = FileStorage(tmp_path)
    storage.register_default_serializers()
    return storage


def back(storage: FileStorage, obj: Any) -> Any:
    """Save an object and return what is read."""
    storage.save("w", "t", obj)
    return storage.read_task("w", "t")


def taken_by(storage: FileStorage) -> list[str]:
    """Return the names of the serializers that took part."""
    return list(storage.footer("w", "t").record.serializers)


ORDERS = ["b a", "z a m", "temperature pressure humidity wind", "x1 x0 x10 x2"]


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_of_variables_and_coordinates(storage: FileStorage, order: str) -> None:
    """Variables, coordinates, dimensions and attributes stand in the order in which they were, as Zarr groups."""
    names = order.split()
    coords = {f"c_{name}": ("x", [1, 2]) for name in reversed(names)} | {"x": [5, 6]}
    variables = {name: (("y", "x"), [[at, at]]) for at, name in enumerate(names)}
    saved = xr.Dataset(variables, coords, attrs=dict.fromkeys(names, 1))
    found = back(storage, saved)
    assert taken_by(storage) == ["pickle", "XarrayDatasetSerializer"]
    assert found.identical(saved)
    for part in ("variables", "data_vars", "coords", "sizes", "xindexes", "attrs"):
        assert list(getattr(found, part)) == list(getattr(saved, part)), part
    array = saved[names[0]]
    assert list(back(storage, array).coords) == list(array.coords)
    assert taken_by(storage) == ["pickle", "XarrayArraySerializer"]


ATTRS = {
    "single float": np.float32(1.5),
    "int of NumPy": np.int64(1),
    "flag of NumPy": np.bool_(True),
    "text of NumPy": np.str_("m"),
    "time": np.datetime64("2026-01-01", "D"),
    "array": np.array([1, 2], "i2"),
    "tuple": (1, 2),
    "ordered": OrderedDict(b=1, a=2),
    "complex": 1j,
    "none": None,
    "NaN": float("nan"),
}
# What other programs take for a way to code the values.
CODED = {"scale_factor": 2.0, "add_offset": 1.0, "_FillValue": 1.0, "missing_value": 1.0, "units": "m", "dtype": "bool"}


@pytest.mark.parametrize("name", [*ATTRS, *CODED])
def test_attributes(storage: FileStorage, name: str) -> None:
    """Attributes come back in type and value, of datasets, variables and coordinates; they change no values."""
    attrs = {name: ATTRS.get(name, CODED.get(name)), "z": 1, 5: "key"}
    saved = xr.Dataset({"v": ("x", [1.0, 2.0], attrs)}, {"c": ("x", [3, 4], attrs)}, attrs)
    found = back(storage, saved)
    assert taken_by(storage) == ["pickle", "XarrayDatasetSerializer"]
    for one, other in ((found, saved), (found.v, saved.v), (found.c, saved.c)):
        assert list(one.attrs) == list(other.attrs)
        assert [type(value) for value in one.attrs.values()] == [type(value) for value in other.attrs.values()]
        assert repr(one.attrs) == repr(other.attrs)
    assert found.v.values.tolist() == [1.0, 2.0]
    assert found.c.values.tolist() == [3, 4]


def test_encodings(storage: FileStorage) -> None:
    """How a variable is to be written to a file is kept, and nothing is added."""
    saved = xr.Dataset({"v": ("x", [1.0, 2.0])}, {"c": ("x", [3, 4])})
    saved.v.encoding = {"dtype": np.dtype("i2"), "scale_factor": 0.1, "_FillValue": -1}
    saved.encoding = {"source": "a.nc", "unlimited_dims": {"x"}}
    found = back(storage, saved)
    assert (found.encoding, found.v.encoding, found.c.encoding) == (saved.encoding, saved.v.encoding, {})
    assert found.v.values.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "name",
    ["x" * 256, "\u00e9" * 200, "a/b", ".", "..", "", "__a", "zarr.json", "a\0b", "\ud800", ".zattrs"],
    ids=lambda name: ascii(name)[:10],
)
def test_names_that_are_no_names_of_files(storage: FileStorage, name: str) -> None:
    """A variable whose name cannot be that of a folder is kept by pickle, with what lies beside it."""
    saved = xr.Dataset({name: ("x", [1, 2]), "b": ("x", [3, 4])})
    assert back(storage, saved).identical(saved)
    assert taken_by(storage) == ["pickle"]


def test_names_that_differ_in_case(storage: FileStorage) -> None:
    """Two names that are one folder on some file systems are kept by pickle; the longest name that fits is Zarr's."""
    saved = xr.Dataset({"A": ("x", [1, 2]), "a": ("x", [3, 4])})
    assert back(storage, saved).identical(saved)
    assert taken_by(storage) == ["pickle"]
    saved = xr.Dataset({"x" * 255: ("x", [1, 2])})
    assert back(storage, saved).identical(saved)
    assert taken_by(storage) == ["pickle", "XarrayDatasetSerializer"]


@pytest.mark.parametrize("dtype", [np.dtype([("a", "i1"), ("b", "f8")], align=True), "V3", "S2"], ids=str)
def test_chunked_variables_that_zarr_lacks(storage: FileStorage, dtype: Any) -> None:
    """A dataset over Dask arrays of dtypes that Zarr lacks is pickled, its arrays lie in files, and are lazy."""
    da = pytest.importorskip("dask.array")
    pytest.importorskip("h5py")
    saved = xr.Dataset({"a": ("x", da.from_array(np.zeros(4, dtype), 2)), "b": ("x", [1, 2, 3, 4])})
    found = back(storage, saved)
    assert taken_by(storage) == ["pickle", "HDFSerializer"]
    assert found.a.chunks == saved.a.chunks
    assert repr(found.a.dtype) == repr(saved.a.dtype)
    assert found.compute().identical(saved.compute())
