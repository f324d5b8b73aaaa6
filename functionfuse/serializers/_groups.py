"""Side folders that hold a Zarr group, in which nothing can be lost or changed unnoticed.

Zarr takes a chunk that is not there for one of zeros, and does not check its
metadata. So every chunk is written, a missing one is an error, each has a CRC-32C,
and the checksum of the metadata stands in the pid.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import xxhash

from functionfuse.errors import InvalidPickle, SideFileMissing
from functionfuse.serializers._held import GONE, Held
from functionfuse.serializers._needed import needed
from functionfuse.serializers._sides import Sides, damage

_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


@contextmanager
def written(sides: Sides, name: str, extra: str) -> Iterator[Any]:
    """Have Zarr's store over a new side folder, of which nothing is left, or comes later, if that fails."""
    store = None
    try:
        store = _new_store(sides, name, extra)
        yield store
    except BaseException:
        if store is not None:
            store.writes.stop()
        sides.remove(name)
        raise


class _Writes:
    """What is being written to a store. Zarr raises the first error of many chunks while it goes on with the others."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._is_over = False

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count a write, or refuse it."""
        with self._changed:
            if self._is_over:
                raise RuntimeError("nothing is written after an error")
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def stop(self) -> None:
        """Return when nothing is being written, nor will be."""
        with self._changed:
            self._is_over = True
            self._changed.wait_for(lambda: not self._count)


def _new_store(sides: Sides, name: str, extra: str) -> Any:
    zarr = needed("zarr", extra)
    if not sides.is_local:
        return _hashing()(zarr.storage.FsspecStore.from_mapper(sides.mapper(name)), sides, name)
    path = sides.path(name, "wb")
    os.unlink(path)  # the file only told the path
    os.mkdir(path)
    return _hashing()(zarr.storage.LocalStore(path), sides, name)


def store(sides: Sides, name: str, extra: str) -> Any:
    """Return Zarr's store over a side folder that is there, to be read; `SideFileMissing` where it is not."""
    zarr = needed("zarr", extra)
    if not sides.is_local:
        inner = zarr.storage.FsspecStore.from_mapper(sides.mapper(name), read_only=True)
        return _strict()(inner, name, sides.expected)
    path = os.path.dirname(sides.path(f"{name}/zarr.json"))
    inner = zarr.storage.LocalStore(path, read_only=True)
    return _strict()(inner, name, sides.expected, path, Held(_chunks_in(path)))


def _chunks_in(path: str) -> Iterator[str]:
    for folder, _, files in os.walk(path):
        yield from (f"{folder}/{file}" for file in files if file not in _METADATA)


def check_all(group: Any, name: str) -> None:
    """Raise `SideFileMissing` if a chunk of a group is gone already, as far as its files are kept open."""
    held = len(group.store.held)
    wanted = sum(array.nchunks for _, array in group.arrays())
    if held and held < wanted:
        raise SideFileMissing(f"of the {wanted} side files in {name}, {wanted - held} are gone")


@cache
def _hashing() -> Any:
    """Return the class of a store that tells the digests of what is written to it; in other processes it does not."""
    base: Any = needed("zarr.storage", "dask").WrapperStore

    class Hashing(base):  # type: ignore[misc]  # Zarr is imported on use
        def __init__(self, store: Any, sides: Any = None, folder: str = "", writes: _Writes | None = None) -> None:
            super().__init__(store)
            self._sides = sides
            self._folder = folder
            self.writes = writes or _Writes()

        def _with_store(self, store: Any) -> Any:
            return type(self)(store, self._sides, self._folder, self.writes)

        async def set_if_not_exists(self, key: str, value: Any) -> None:
            with self.writes.one():
                await super().set_if_not_exists(key, value)

        async def set(self, key: str, value: Any) -> None:
            with self.writes.one():
                await super().set(key, value)
            if self._sides is not None:
                data = value.as_numpy_array().data
                self._sides.note_digest(f"{self._folder}/{key}", data.nbytes, f"xxh3:{_hexdigest(data)}")

        async def _set_many(self, values: Iterable[tuple[str, Any]]) -> None:
            for key, value in values:
                await self.set(key, value)

        def __reduce__(self) -> tuple[Any, ...]:
            return _unhashed, (self._store,)

    return Hashing


def _unhashed(store: Any) -> Any:
    return _hashing()(store)


def _hexdigest(data: memoryview) -> str:
    return xxhash.xxh3_128_hexdigest(data)


@cache
def _strict() -> Any:
    """Return the class of a store in which a chunk that is not there, or is another one, is an error."""
    base: Any = needed("zarr.storage", "dask").WrapperStore

    class Strict(base):  # type: ignore[misc]  # Zarr is imported on use
        def __init__(self, store: Any, name: str = "", expected: Any = None, folder: str = "", held: Any = ()) -> None:
            super().__init__(store)
            self.name = name
            self.expected = expected
            self.folder = folder
            self.held = held

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            if f"{self.folder}/{key}" in self.held and byte_range is None:
                data = await asyncio.to_thread(self.held.read, f"{self.folder}/{key}")
                self.check(key, data)
                return prototype.buffer.from_bytes(data)
            found = await super().get(key, prototype, byte_range)
            if found is not None and byte_range is None:
                self.check(key, found.as_numpy_array().data)
            if found is None and not key.endswith(_METADATA):
                raise SideFileMissing(f"the side file {key} of {self._store} is gone: it was lost, or {GONE}")
            return found

        def check(self, key: str, data: Any) -> None:
            # Its CRC says that a chunk is whole, not that it is the one that was written there.
            wanted = None if self.expected is None else self.expected.digest(f"{self.name}/{key}")
            if wanted is not None and f"xxh3:{_hexdigest(data)}" != wanted:
                raise InvalidPickle(f"the side file {self.name}/{key} is damaged: its checksum is wrong")

        def __reduce__(self) -> tuple[Any, ...]:
            return _again, (self._store, self.name, self.expected)

    return Strict


def _again(inner: Any, name: str, expected: Any) -> Any:
    return _strict()(inner, name, expected)


def digest(sides: Sides, name: str, arrays: Iterable[str]) -> bytes:
    """Return the checksum of the metadata of a group and of its arrays."""
    checksum = xxhash.xxh3_128()
    for array in ("", *sorted(f"{array}/" for array in arrays)):
        with damage(name), sides.open(f"{name}/{array}zarr.json", "rb") as file:
            checksum.update(file.read())
    return bytes(checksum.digest())


def check(sides: Sides, name: str, pid: Mapping[str, Any]) -> None:
    """Hold a group's metadata against the checksum in its pid; `InvalidPickle` if it was changed."""
    if sides.verifies and digest(sides, name, pid["arrays"]) != pid["digest"]:
        raise InvalidPickle(f"the metadata of the side folder {name} is damaged: its checksum is wrong")
