"""Dask arrays as Zarr arrays, on a file system or behind fsspec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from functionfuse._progress import Counter
from functionfuse.serializers import _chunks, _groups
from functionfuse.serializers._computing import threads
from functionfuse.serializers._needed import needed
from functionfuse.serializers._sides import Sides, damage
from functionfuse.serializers.base import generate_name

#: The group in which the array is.
DATASET = "dask_arrays"


def write(array: Any, sides: Sides, level: int | None) -> dict[str, Any]:
    """Write a Dask array chunk by chunk and return the pid.

    Parameters
    ----------
    array : dask.array.Array
        Of anything but Python objects, whose chunks' sizes are known.
    sides : Sides
        Where.
    level : int or None
        Of compression with zstd. A CRC-32C of each chunk is written in any case.
    """
    regular = _chunks.regular(array)
    name = generate_name() + ".zarr"
    with _groups.written(sides, name, "dask") as store:
        target = _created(store, regular, level)
        if regular.size:
            with Counter(regular.npartitions, "Dask array") as counter, threads() as how:
                watched = _Watched(target, array.dtype, counter)
                needed("dask.array", "dask").store(regular, watched, lock=False, **how)
        digest = _groups.digest(sides, name, [DATASET])
    about = {"chunks": array.chunks, "dtype": _chunks.described(array.dtype)}
    return {"zarr": name, "arrays": [DATASET], "digest": digest, **about}


def _is_raw(dtype: Any) -> bool:
    """Tell whether elements are written as their bytes, in one axis more: Zarr's readers share no such dtype."""
    widest = {"f": 8, "c": 16}.get(dtype.kind, 8)
    return dtype.kind not in "biufcmM" or dtype.itemsize > widest


def _created(store: Any, array: Any, level: int | None) -> Any:
    zarr = needed("zarr", "dask")
    compressors = [zarr.codecs.ZstdCodec(level=level)] if level else []
    inner = (array.dtype.itemsize,) if _is_raw(array.dtype) else ()
    return zarr.create_group(store).create_array(
        DATASET,
        shape=array.shape + inner,
        chunks=tuple(max(1, axis[0]) for axis in array.chunks) + inner,
        dtype=_viewed(array.dtype),
        compressors=[*compressors, zarr.codecs.Crc32cCodec()],
        config={"write_empty_chunks": True},
    )


def _viewed(dtype: Any) -> Any:
    """Return the dtype for Zarr, one that every reader has; times are the integers that they are."""
    return "uint8" if _is_raw(dtype) else "int64" if dtype.kind in "mM" else dtype


class _Watched:
    """A Zarr array that is being written with blocks of a dtype, and counted."""

    def __init__(self, target: Any, dtype: Any, counter: Counter) -> None:
        self._target = target
        self._counter = counter
        self.shape = target.shape[:-1] if _is_raw(dtype) else target.shape
        self.dtype = dtype

    def __setitem__(self, where: tuple[slice, ...], block: Any) -> None:
        array = _chunks.promised(block, tuple(part.stop - part.start for part in where), self.dtype)
        self._target[where] = _as_viewed(array)
        self._counter.step()

    def __dask_tokenize__(self) -> int:
        return id(self)


def _as_viewed(array: Any) -> Any:
    """Return a block as Zarr has it."""
    import numpy as np

    if _is_raw(array.dtype):
        return np.ascontiguousarray(array).reshape(-1).view("uint8").reshape(*array.shape, array.dtype.itemsize)
    return array.view("int64") if array.dtype.kind in "mM" else array


def _from_viewed(block: Any, dtype: Any) -> Any:
    """Return a block as it was: Zarr keeps no order of bytes, and no metadata of a dtype."""
    import numpy as np

    if _is_raw(dtype):
        return np.ascontiguousarray(block).reshape(-1).view(dtype).reshape(block.shape[:-1])
    return block.view(dtype) if dtype.kind in "mM" else block.astype(dtype, copy=False).view(dtype)


def read(pid: Mapping[str, Any], sides: Sides) -> Any:
    """Return the lazy array that `write` returned `pid` for."""
    import numpy as np

    _groups.check(sides, pid["zarr"], pid)
    array = opened(pid["zarr"], sides)
    dtype = _chunks.dtype_from(pid["dtype"])
    lost = array.ndim - 1 if _is_raw(dtype) else None
    meta = np.empty((0,) * (array.ndim - _is_raw(dtype)), dtype)
    found = array.map_blocks(_from_viewed, dtype, dtype=dtype, drop_axis=lost, meta=meta)
    return _chunks.as_saved(found, pid)


def opened(name: str, sides: Sides) -> Any:
    """Return a lazy array over the one in a Zarr group."""
    zarr = needed("zarr", "dask")
    with damage(name, ValueError, KeyError):
        group = zarr.open_group(_groups.store(sides, name, "dask"), mode="r")
        _groups.check_all(group, name)
        source = group[DATASET]
    return needed("dask.array", "dask").from_array(_Source(source, name), chunks=source.chunks, lock=False)


class _Source:
    """A Zarr array that says which side file is damaged."""

    def __init__(self, array: Any, name: str) -> None:
        self._array = array
        self._name = name
        self.shape = array.shape
        self.dtype = array.dtype
        self.ndim = array.ndim

    def __getitem__(self, where: Any) -> Any:
        with damage(self._name, ValueError):
            return self._array[where]
