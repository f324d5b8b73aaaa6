"""Chunks of arrays as HDF5 lays them out: encoded, located, read and checked without it."""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import xxhash

from functionfuse.errors import InvalidPickle, SideFileMissing, UnpicklableResult
from functionfuse.serializers._held import GONE, Held, read_into

_PLACE = struct.Struct("<QQ16s")
_LARGEST = 1 << 30  # bytes of a chunk in a file: HDF5 takes less than 4 GiB


def regular(array: Any) -> Any:
    """Return a Dask array in chunks of one size, as the formats have them: the largest along each axis."""
    if not (array.size and array.ndim):
        return array
    sizes = [max(axis) for axis in array.chunks]
    while prod(sizes) * array.dtype.itemsize > _LARGEST:
        longest = sizes.index(max(sizes))
        sizes[longest] = -(-sizes[longest] // 2)
    return array.rechunk(tuple(sizes))


def as_saved(array: Any, pid: Mapping[str, Any]) -> Any:
    """Return the array that was read in the chunks in which it was saved."""
    return array if array.chunks == pid["chunks"] else array.rechunk(pid["chunks"])


def described(dtype: Any) -> Any:
    """Return a dtype as strings and lists, in which a pid can hold it; itself where they would not say all of it."""
    import numpy as np

    return np.lib.format.dtype_to_descr(dtype) if is_described(dtype) else dtype


def dtype_from(description: Any) -> Any:
    """Return the dtype that `described` was given."""
    import numpy as np

    return description if isinstance(description, np.dtype) else np.lib.format.descr_to_dtype(description)


def is_described(dtype: Any) -> bool:
    """Tell whether strings and lists say all of a dtype: not of fields that overlap, are out of order, or aligned."""
    import numpy as np

    if dtype.names is None:
        return not dtype.metadata
    try:
        again = np.lib.format.descr_to_dtype(np.lib.format.dtype_to_descr(dtype))
        return repr(again) == repr(dtype)  # two that are equal may be aligned differently
    except ValueError:
        return False


def stored(dtype: Any) -> Any:
    """Return the dtype for HDF5: opaque bytes for what it knows nothing of, as times and Unicode of fixed length."""
    import h5py
    import numpy as np

    if dtype.kind in "mM":
        return h5py.opaque_dtype(dtype)
    is_plain = dtype.kind in "biufcSV" and (dtype.names is None or (is_described(dtype) and _is_numeric(dtype)))
    return dtype if is_plain else np.dtype(f"V{dtype.itemsize}")


def _is_numeric(dtype: Any) -> bool:
    if dtype.subdtype:
        return _is_numeric(dtype.base)
    if dtype.names:
        return all(_is_numeric(dtype[name]) for name in dtype.names)
    return dtype.kind in "biufcS"


def promised(block: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return a block of a Dask array with the dtype that its array has; `UnpicklableResult` if that would change it."""
    import numpy as np

    array = np.asanyarray(block)
    if np.ma.isMaskedArray(array) or array.shape != shape or not np.can_cast(array.dtype, dtype, "safe"):
        found = f"{type(block).__name__} of shape {array.shape} and dtype {array.dtype}"
        raise UnpicklableResult(
            f"a chunk of the Dask array is a {found}, promised was {shape} and {dtype}: "
            "have map_blocks, from_delayed, ... promise what their functions return"
        )
    return array.astype(dtype, copy=False)


def checksum(data: bytes | memoryview) -> bytes:
    """Return the XXH3-128 of a chunk as it is in the file."""
    return xxhash.xxh3_128_digest(data)


def index_of(places: Iterable[tuple[int, int, bytes]]) -> bytes:
    """Return offset, size and checksum of every chunk in one piece."""
    return b"".join(_PLACE.pack(*place) for place in places)


@dataclass(frozen=True)
class Layout:
    """How an array is cut into chunks, and a chunk becomes bytes.

    Attributes
    ----------
    chunks : tuple of tuple of int
        Sizes along each axis, all the same but for the last one.
    dtype : numpy.dtype
        Of the elements.
    level : int or None
        Of compression: HDF5's shuffle and gzip.
    """

    chunks: tuple[tuple[int, ...], ...]
    dtype: Any
    level: int | None

    @cached_property
    def chunk(self) -> tuple[int, ...]:
        """The shape of a whole chunk."""
        return tuple(axis[0] for axis in self.chunks)

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """The number of chunks along each axis."""
        return tuple(len(axis) for axis in self.chunks)

    @cached_property
    def count(self) -> int:
        """The number of chunks."""
        return prod(self.blocks)

    def number(self, block: tuple[int, ...]) -> int:
        """Return the number of a block, in C order."""
        number = 0
        for position, count in zip(block, self.blocks, strict=True):
            number = number * count + position
        return number

    def block(self, number: int) -> tuple[int, ...]:
        """Return the position of the block with a number."""
        found = []
        for count in reversed(self.blocks):
            number, position = divmod(number, count)
            found.append(position)
        return tuple(reversed(found))

    def origin(self, number: int) -> tuple[int, ...]:
        """Return the position of a block's first element."""
        return tuple(position * size for position, size in zip(self.block(number), self.chunk, strict=True))

    def shape(self, number: int) -> tuple[int, ...]:
        """Return the shape of a block; at the edge it is smaller than a chunk."""
        return tuple(axis[position] for axis, position in zip(self.chunks, self.block(number), strict=True))

    def encoded(self, block: Any, number: int) -> Any:
        """Return a block as the bytes of a chunk: contiguous, whole, and compressed if that is wanted."""
        import numpy as np

        array = np.ascontiguousarray(promised(block, self.shape(number), self.dtype))
        if self.shape(number) != self.chunk:
            whole = np.zeros(self.chunk, self.dtype)
            whole[tuple(map(slice, array.shape))] = array
            array = whole
        data = array.reshape(-1).view(np.uint8)
        if not self.level:
            return data.data
        return zlib.compress(data.reshape(-1, self.dtype.itemsize).T.tobytes(), self.level)

    def decoded(self, data: Any, number: int) -> Any:
        """Return the block that a chunk's bytes hold, over these bytes where they are not compressed."""
        import numpy as np

        if self.level and data.size:
            shuffled = np.frombuffer(zlib.decompress(data), np.uint8)
            data = np.ascontiguousarray(shuffled.reshape(self.dtype.itemsize, -1).T).reshape(-1)
        whole = data.view(self.dtype).reshape(self.chunk)
        return whole[tuple(map(slice, self.shape(number)))]


class Reader:
    """Reads chunks of a file, for Dask: called with the position of a block, it returns it.

    Parameters
    ----------
    path : str
        The file.
    layout : Layout
        How it holds the array.
    index : bytes
        From `index_of`.
    verifies : bool
        Whether chunks are held against their checksums.

    Notes
    -----
    The file is kept open, so that the array outlives its result; in another
    process it is opened by its path for each chunk.
    """

    def __init__(self, path: str, layout: Layout, index: bytes, verifies: bool = True) -> None:
        self.path = path
        self._verifies = verifies
        self.layout = layout
        self._index = index
        self._held = Held([path])
        status = os.stat(path)
        #: Names the graph's tasks: the same for the same file.
        identity = f"{path} {status.st_ino} {status.st_mtime_ns}"
        self.name = f"stored-{xxhash.xxh3_128_hexdigest(identity.encode('utf-8', 'surrogateescape'))}"

    def __call__(self, block_id: tuple[int, ...] = ()) -> Any:
        """Return the block at a position."""
        import numpy as np

        number = self.layout.number(block_id)
        offset, size, expected = _PLACE.unpack_from(self._index, number * _PLACE.size)
        data = np.empty(size, np.uint8)
        self._fill(data.data, offset)
        if self._verifies and checksum(data.data) != expected:
            raise InvalidPickle(f"the side file {self.path} is damaged: chunk {block_id} is not what was saved")
        return self.layout.decoded(data, number)

    def _fill(self, data: memoryview, offset: int) -> None:
        with self._held.opened(self.path) as handle:
            read_into(handle, data, offset)

    def __reduce__(self) -> tuple[Any, ...]:
        return Reader, (self.path, self.layout, self._index, self._verifies)

    def __dask_tokenize__(self) -> str:
        return self.name


class RemoteReader(Reader):
    """The same for a file that was copied into a bucket: each chunk is one request.

    Parameters
    ----------
    client : fsspec.AbstractFileSystem
        How it is reached.
    path : str
        Its URL.
    layout, index, verifies
        As of `Reader`.
    """

    def __init__(self, client: Any, path: str, layout: Layout, index: bytes, verifies: bool = True) -> None:
        self.path = path
        self.layout = layout
        self._client = client
        self._verifies = verifies
        self._index = index
        self.name = f"stored-{xxhash.xxh3_128_hexdigest(path.encode())}"

    def _fill(self, data: memoryview, offset: int) -> None:
        try:
            found = self._client.cat_file(self.path, start=offset, end=offset + len(data)) if data else b""
        except FileNotFoundError as error:
            raise SideFileMissing(f"the side file {self.path} is gone: {GONE}") from error
        if len(found) != len(data):
            raise InvalidPickle(f"the side file {self.path} is damaged: it ends too soon")
        data[:] = found

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteReader, (self._client, self.path, self.layout, self._index, self._verifies)


class Dataset:
    """A dataset of an HDF5 file that another program wrote, opened for each slice by its path.

    Parameters
    ----------
    path, name : str
        File and dataset.
    shape, dtype
        The dataset's.
    """

    _lock = threading.Lock()

    def __init__(self, path: str, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.path = path
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self.ndim = len(shape)

    def __getitem__(self, where: Any) -> Any:
        import h5py

        try:
            with self._lock, h5py.File(self.path, "r", locking=False) as file:
                return file[self.name][where]
        except FileNotFoundError as error:
            raise SideFileMissing(f"the side file {self.path} is gone: {GONE}") from error
