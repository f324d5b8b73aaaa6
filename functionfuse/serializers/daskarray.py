"""Dask arrays: one HDF5 file or Zarr array each, written chunk by chunk, lazy when they are read.

Several threads compute chunks; one at a time is written, as it is, to its place
(HDF5's direct chunk writes), so that no more than a few are in memory. They are
read without HDF5, from the places and checksums that were recorded: in any
thread or process, and after the result was overwritten or removed meanwhile.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any, cast

from functionfuse._progress import Counter
from functionfuse.errors import SideFileMissing, UnpicklableResult
from functionfuse.serializers import _chunks, _zarrs
from functionfuse.serializers._computing import threads
from functionfuse.serializers._held import GONE
from functionfuse.serializers._needed import TypeOf, needed
from functionfuse.serializers._sides import Sides, damage
from functionfuse.serializers.base import generate_name

#: The HDF5 dataset and the Zarr group that hold the array.
DATASET = _zarrs.DATASET


class DaskArraySerializer:
    """Writes a Dask array to an HDF5 file, over S3 to a Zarr array.

    Attributes
    ----------
    compression : int or None
        Level of the file's own compression, 1 to 9 (HDF5: shuffle and gzip; Zarr: zstd); a subclass sets it.

    Notes
    -----
    A failed save leaves nothing behind. The chunks that come back are those that
    were saved. Each is checked against its checksum when it is computed.
    """

    name = "HDFSerializer"
    serializer_class: type = cast(type, TypeOf("dask.array.core", "Array", "dask"))
    compression: int | None = None

    @classmethod
    def pickle(cls, obj: Any, protocols: Mapping[str, Any]) -> tuple[str, Any]:
        """Compute the array chunk by chunk and write it.

        Returns
        -------
        tuple of (str, dict)
            This class's name, and where what was written is.

        Raises
        ------
        UnpicklableResult
            If the sizes of its chunks are not known, or it holds what a file of arrays cannot.
        """
        _check(obj)
        sides = Sides(protocols)
        return cls.name, _to_hdf5(obj, sides, cls.compression) if sides.is_local else _zarrs.write(
            obj, sides, cls.compression
        )

    @classmethod
    def unpickle(cls, pid: Any, protocols: Mapping[str, Any]) -> Any:
        """Return a lazy array over the file."""
        sides = Sides(protocols)
        if isinstance(pid, str):  # of Function Fuse
            return _from_named(pid, sides)
        return _zarrs.read(pid, sides) if "zarr" in pid else _from_hdf5(pid, sides)

    @classmethod
    def remove(cls, pid: Any, protocols: Mapping[str, Any]) -> None:
        """Delete the file."""
        Sides(protocols).remove(pid if isinstance(pid, str) else pid.get("zarr") or pid["file"])


class DaskZarrSerializer(DaskArraySerializer):
    """Writes a Dask array to a Zarr array, over files too: register it instead of `DaskArraySerializer`."""

    name = "ZarrSerializer"

    @classmethod
    def pickle(cls, obj: Any, protocols: Mapping[str, Any]) -> tuple[str, Any]:
        """Compute the array chunk by chunk and write it; raises as `DaskArraySerializer` does."""
        _check(obj)
        return cls.name, _zarrs.write(obj, Sides(protocols), cls.compression)


def _check(array: Any) -> None:
    import numpy as np

    if any(math.isnan(size) for axis in array.chunks for size in axis):
        raise UnpicklableResult("the Dask array has chunks of unknown sizes: call its compute_chunk_sizes() first")
    if array.dtype.hasobject:
        raise UnpicklableResult("a Dask array of Python objects has no chunks of bytes: use astype, or compute it")
    if not array.dtype.itemsize:
        raise UnpicklableResult(f"the elements of the Dask array are of no bytes ({array.dtype}): compute it")
    if type(array._meta) is not np.ndarray:
        kind = type(array._meta).__name__
        raise UnpicklableResult(
            f"the chunks of the Dask array are {kind}: use map_blocks(numpy.asarray), or compute it"
        )


# HDF5


def _to_hdf5(array: Any, sides: Sides, level: int | None) -> dict[str, Any]:
    h5py, dask = needed("h5py", "dask"), needed("dask", "dask")
    name = generate_name() + ".h5"
    level = level if array.size and array.ndim else None
    path = sides.path(name, "wb")
    try:
        with h5py.File(path, "w") as file:
            regular = _chunks.regular(array)
            with Counter(regular.npartitions, "Dask array") as counter, threads() as how:  # one file has one writer
                writer = _Writer(file, regular, level, counter)
                blocks = regular.to_delayed().ravel()
                write = dask.delayed(writer.write, pure=False)
                steps = [write(block, number) for number, block in enumerate(blocks)]
                dask.compute(*steps, **how)
            index = writer.index()
    except BaseException:
        sides.remove(name)
        raise
    dtype = _chunks.described(array.dtype)
    return {
        "file": name,
        "chunks": array.chunks,
        "grid": regular.chunks,
        "dtype": dtype,
        "level": level,
        "index": index,
    }


class _Writer:
    """Writes the blocks of an array to a new HDF5 dataset, in any order, from several threads.

    Parameters
    ----------
    file : h5py.File
        Where.
    array : dask.array.Array
        What: its chunks are of one size, but for the last ones.
    level : int or None
        Of compression.
    counter : Counter
        Counts them.
    """

    def __init__(self, file: Any, array: Any, level: int | None, counter: Counter) -> None:
        self._layout = _chunks.Layout(array.chunks, array.dtype, level)
        self._is_chunked = bool(array.size and array.ndim)
        filters = {"compression": level, "shuffle": True} if level and self._is_chunked else {}
        self._dataset = file.create_dataset(
            DATASET,
            shape=array.shape,
            dtype=_chunks.stored(array.dtype),
            chunks=self._layout.chunk if self._is_chunked else None,
            **filters,
        )
        self._lock = threading.Lock()
        self._hashes: dict[int, bytes] = {}
        self._counter = counter

    def write(self, block: Any, number: int) -> None:
        """Write one block; all but the writing itself goes on beside the others'."""
        import numpy as np

        data = self._layout.encoded(block, number)
        checksum = _chunks.checksum(data)
        with self._lock:
            self._hashes[number] = checksum
            if self._is_chunked:
                self._dataset.id.write_direct_chunk(self._layout.origin(number), data)
            elif self._dataset.size:
                self._dataset[()] = np.asarray(block, self._layout.dtype).view(self._dataset.dtype)
        self._counter.step()

    def index(self) -> bytes:
        """Return place and checksum of every chunk in the file."""
        self._dataset.file.flush()
        places = []
        for number in range(self._layout.count):
            if self._is_chunked:
                info = self._dataset.id.get_chunk_info_by_coord(self._layout.origin(number))
                place = (info.byte_offset, info.size)
            else:
                place = (self._dataset.id.get_offset() or 0, self._dataset.nbytes)
            places.append((*place, self._hashes[number]))
        return _chunks.index_of(places)


def _from_hdf5(pid: Mapping[str, Any], sides: Sides) -> Any:
    layout = _chunks.Layout(pid["grid"], _chunks.dtype_from(pid["dtype"]), pid["level"])
    name, index = pid["file"], pid["index"]
    reader: _chunks.Reader
    if sides.is_local:
        reader = _chunks.Reader(sides.path(name), layout, index, sides.verifies)
    else:  # the folder of the result was copied into a bucket
        if not sides.client.exists(sides.url(name)):
            raise SideFileMissing(f"the side file {sides.url(name)} is gone: {GONE}")
        reader = _chunks.RemoteReader(sides.client, sides.url(name), layout, index, sides.verifies)
    return _chunks.as_saved(_lazy(reader), pid)


def _lazy(reader: _chunks.Reader) -> Any:
    import numpy as np

    array = needed("dask.array", "dask")
    layout = reader.layout
    meta = np.empty((0,) * len(layout.chunks), layout.dtype)
    return array.map_blocks(reader, chunks=layout.chunks, dtype=layout.dtype, meta=meta, name=reader.name)


def _from_named(name: str, sides: Sides) -> Any:
    """Return what Function Fuse wrote: an HDF5 file, or a Zarr group over S3, which only its name tells."""
    if not sides.is_local:
        return _zarrs.opened(name, sides)
    h5py, array = needed("h5py", "dask"), needed("dask.array", "dask")
    path = sides.path(name)
    with damage(path, OSError, KeyError), h5py.File(path, "r", locking=False) as file:
        dataset = file[DATASET]
        shape, dtype, chunks = dataset.shape, dataset.dtype, dataset.chunks
    return array.from_array(_chunks.Dataset(path, DATASET, shape, dtype), chunks=chunks or shape, lock=False)
