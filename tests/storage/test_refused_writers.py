"""A save that fails while several threads compute and write has ended with all of them: nothing is left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from functionfuse.errors import StorageUnusable
from functionfuse.serializers.daskarray import DaskArraySerializer, DaskZarrSerializer
from functionfuse.serializers.daskdataframe import DaskDataFrameSerializer
from functionfuse.serializers.xarraydata import XarrayArraySerializer, XarrayDatasetSerializer
from functionfuse.storage.filestorage import FileStorage

np = pytest.importorskip("numpy")
_BLOCKS = 16


class _Chunks:
    """Computes chunks: the first waits until the second has failed, and goes on for longer than telling that takes."""

    def __init__(self) -> None:
        self.failed = threading.Event()
        self.running = 0
        self._begun = 0
        self._lock = threading.Lock()

    def __dask_tokenize__(self) -> int:
        return id(self)

    def compute(self, value: Any) -> Any:
        """Return a chunk, or fail."""
        with self._lock:
            self.running += 1
            self._begun += 1
            is_second = self._begun == 2
        try:
            if is_second:
                self.failed.set()
                raise OSError(28, "No space left on device")
            self.failed.wait(10)
            threading.Event().wait(0.1)
            return value
        finally:
            with self._lock:
                self.running -= 1


def _array(chunks: _Chunks) -> Any:
    array = pytest.importorskip("dask.array")

    return array.zeros((_BLOCKS, 100), chunks=(1, 100)).map_blocks(chunks.compute, dtype=float, meta=np.empty((0, 0)))


def _frame(chunks: _Chunks) -> Any:
    dataframe = pytest.importorskip("dask.dataframe")
    pandas = pytest.importorskip("pandas")

    frame = dataframe.from_pandas(pandas.DataFrame({"x": range(_BLOCKS)}), npartitions=_BLOCKS)
    return frame.map_partitions(chunks.compute, meta={"x": "i8"})


def _dataset(chunks: _Chunks) -> Any:
    return pytest.importorskip("xarray").Dataset({"a": (("x", "y"), _array(chunks)), "b": ("z", np.arange(9))})


KINDS: dict[str, tuple[type, Callable[[_Chunks], Any]]] = {
    "a Dask array in HDF5": (DaskArraySerializer, _array),
    "a Dask array in Zarr": (DaskZarrSerializer, _array),
    "a Dask data frame": (DaskDataFrameSerializer, _frame),
    "a dataset": (XarrayDatasetSerializer, _dataset),
    "an array of Xarray": (XarrayArraySerializer, lambda chunks: _dataset(chunks)["a"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_of_a_refused_save(tmp_path: Path, zarr_loop: None, kind: str) -> None:
    """No thread computes any more when the error is told, and no file is there, then or later."""
    serializer, make = KINDS[kind]
    storage = FileStorage(tmp_path / "storage")
    storage.register_persistent_serializers(serializer)  # type: ignore[arg-type]  # each is one
    chunks = _Chunks()
    several = pytest.importorskip("dask").config.set(num_workers=4)
    with several, pytest.raises(StorageUnusable, match="No space left on device"):
        storage.save("w", "t", make(chunks))
    assert chunks.failed.is_set()
    assert chunks.running == 0
    assert [path for path in (tmp_path / "storage" / "w").rglob("*") if path.is_file()] == []


def test_chunks_of_an_array_in_memory(tmp_path: Path, zarr_loop: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zarr writes many chunks at once; when one fails, the others have ended or are not begun."""
    xarray = pytest.importorskip("xarray")
    storage = pytest.importorskip("zarr.storage")
    real = storage.LocalStore.set
    written: list[str] = []

    async def slow(self: Any, key: str, value: Any) -> None:
        import asyncio

        if key.endswith("c/1/0"):
            raise OSError(28, "No space left on device")
        if "/c/" in key:
            await asyncio.sleep(0.1)
        await real(self, key, value)
        written.append(key)

    monkeypatch.setattr(storage.LocalStore, "set", slow)
    kept = FileStorage(tmp_path / "storage")
    kept.register_persistent_serializers(XarrayDatasetSerializer)
    dataset = xarray.Dataset({"a": (("x", "y"), np.zeros((64, 4096)))})
    monkeypatch.setattr("functionfuse.serializers.xarraydata._encoded", _in_rows)
    with pytest.raises(StorageUnusable, match="No space left on device"):
        kept.save("w", "t", dataset)
    count = len(written)
    threading.Event().wait(0.3)
    assert len(written) == count
    assert [path for path in (tmp_path / "storage" / "w").rglob("*") if path.is_file()] == []


def _in_rows(variable: Any, codecs: list[Any]) -> dict[str, Any]:
    return {"compressors": codecs, "chunks": (1, variable.shape[1])}
