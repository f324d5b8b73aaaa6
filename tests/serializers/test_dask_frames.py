"""Dask data frames of every kind of column come back lazily: as Parquet, or as pickles where that is not exact."""

from __future__ import annotations

import datetime
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functionfuse.errors import UnpicklableResult
from functionfuse.storage.filestorage import FileStorage

dask = pytest.importorskip("dask")
dd = pytest.importorskip("dask.dataframe")
pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")


class Script(str):
    """A text of another class."""


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """Return a storage with the default serializers."""
    storage = FileStorage(tmp_path)
    storage.register_default_serializers()
    return storage


def of(column: Any, index: Any = None) -> Any:
    """Return a data frame of two partitions."""
    with dask.config.set({"dataframe.convert-string": False}):
        return dd.from_pandas(pd.DataFrame({"a": column, "b": range(4)}, index), 2)


def grouped() -> Any:
    """Return what groupby makes of a category."""
    frame = dd.from_pandas(pd.DataFrame({"g": pd.Categorical(["x", "y"] * 2), "v": range(4)}), 2)
    return frame.groupby("g", observed=True).v.sum().reset_index()


#: By name: a data frame, and whether its files are Parquet.
FRAMES: dict[str, tuple[Any, bool]] = {
    "numbers": (lambda: of([1, 2, 3, 4]), True),
    "categories": (lambda: of(pd.Categorical(["x", "y"] * 2, ["y", "z", "x"], ordered=True)), True),
    "one category a partition": (lambda: of(pd.Categorical(["x", "x", "y", None])), True),
    "categories of numbers": (lambda: of(pd.Categorical([1, None] * 2, [3, 1])), True),
    "unknown categories": (lambda: of(pd.Categorical(["x", "y"] * 2)).assign(a=lambda f: f.a.cat.as_unknown()), False),
    "categories of times": (lambda: of(pd.Categorical(pd.date_range("2026", periods=4))), False),
    "a categorical index": (lambda: of([1, 2, 3, 4], pd.CategoricalIndex(list("abcd"), list("abcdz"), name="i")), True),
    "what groupby makes": (grouped, True),
    "labels that are numbers": (lambda: dd.from_pandas(pd.DataFrame([[1, 2]] * 4), 2), True),
    "an index with a frequency": (lambda: of([1, 2, 3, 4], pd.date_range("2026", periods=4, freq="D", tz="UTC")), True),
    "dates": (lambda: of([datetime.date(2026, 1, 1)] * 4), False),
    "lists": (lambda: of([[1], [2]] * 2), False),
    "enums": (lambda: of(pd.Series([Script("a"), "b"] * 2, dtype=object)), False),
    "complex numbers": (lambda: of(np.arange(4) * 1j), False),
    "sparse numbers": (lambda: of(pd.arrays.SparseArray([0, 0, 1, 0])), False),
    "lists of Arrow": (lambda: of(pd.arrays.ArrowExtensionArray(pa.array([[1], None, [2], []]))), None),
}


@pytest.mark.parametrize("name", FRAMES)
def test_columns_of_every_kind(storage: FileStorage, name: str, tmp_path: Path) -> None:
    """Values, dtypes, index, partitions and divisions are those that were saved; the files are of one kind."""
    make, is_parquet = FRAMES[name]
    saved = make()
    storage.save("w", "t", saved)
    found = storage.read_task("w", "t")
    assert (found.npartitions, found.divisions) == (saved.npartitions, saved.divisions)
    for one, other in ((found._meta, saved._meta), (found.compute(), saved.compute())):
        assert list(map(repr, one.dtypes)) == list(map(repr, other.dtypes))
        assert repr(one.index.dtype) == repr(other.index.dtype)
        pd.testing.assert_frame_equal(one, other, check_freq=False)
    types = [list(map(type, each.compute().iloc[:, 0])) for each in (found, saved)]
    assert types[0] == types[1]
    kinds = {path.suffix for path in tmp_path.glob("w/bigdata/*/*")}
    if name != "unknown categories" and is_parquet is not None:
        assert (".pickle" in kinds) != is_parquet
    storage.remove_task("w", "t")
    assert list(tmp_path.glob("w/bigdata/*/*")) == []


def test_what_can_neither_be_parquet_nor_pickled(storage: FileStorage, tmp_path: Path) -> None:
    """It is refused with its columns, and nothing is left of it."""
    saved = of([1, 2, 3, 4]).map_partitions(
        lambda part: part.assign(a=[threading.Lock() for _ in part.a]), meta={"a": object, "b": "i8"}
    )
    with pytest.raises(UnpicklableResult, match="neither be Parquet nor pickled"):
        storage.save("w", "t", saved)
    assert list(tmp_path.glob("w/bigdata/*/*")) == []
