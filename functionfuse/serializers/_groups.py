"""Side folders that hold a Zarr group, in which nothing can be lost or changed unnoticed.

Zarr takes a chunk that is not there for one of zeros, and does not check its
metadata. So every chunk is written, a missing one is an error, each has a CRC-32C,
and the checksum of the metadata stands in the pid.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import xxhash

from functionfuse.errors import InvalidPickle, SideFileMissing
from functionfuse.serializers._needed import needed
from functionfuse.serializers._sides import Sides, damage

_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


def new_store(sides: Sides, name: str, extra: str) -> Any:
    """Return Zarr's store over a new side folder."""
    zarr = needed("zarr", extra)
    if not sides.is_local:
        return zarr.storage.FsspecStore.from_mapper(sides.mapper(name))
    path = sides.path(name, "wb")
    os.unlink(path)  # the file only told the path
    os.mkdir(path)
    return zarr.storage.LocalStore(path)


def store(sides: Sides, name: str, extra: str) -> Any:
    """Return Zarr's store over a side folder that is there, to be read; `SideFileMissing` where it is not."""
    zarr = needed("zarr", extra)
    if not sides.is_local:
        return _strict()(zarr.storage.FsspecStore.from_mapper(sides.mapper(name), read_only=True))
    path = os.path.dirname(sides.path(f"{name}/zarr.json"))
    return _strict()(zarr.storage.LocalStore(path, read_only=True))


@cache
def _strict() -> Any:
    """Return the class of a store in which a chunk that is not there is an error."""
    base: Any = needed("zarr.storage", "dask").WrapperStore

    class Strict(base):  # type: ignore[misc]  # Zarr is imported on use
        async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
            found = await super().get(key, *arguments, **options)
            if found is None and not key.endswith(_METADATA):
                raise SideFileMissing(
                    f"the side file {key} of {self._store} is gone: it was lost, or its result was overwritten or "
                    "removed since it was read"
                )
            return found

        def __reduce__(self) -> tuple[Any, ...]:
            return _again, (self._store,)

    return Strict


def _again(inner: Any) -> Any:
    return _strict()(inner)


def digest(sides: Sides, name: str, arrays: Iterable[str]) -> bytes:
    """Return the checksum of the metadata of a group and of its arrays."""
    checksum = xxhash.xxh3_128()
    for array in ("", *sorted(f"{array}/" for array in arrays)):
        with damage(name), sides.open(f"{name}/{array}zarr.json", "rb") as file:
            checksum.update(file.read())
    return bytes(checksum.digest())


def check(sides: Sides, name: str, pid: Mapping[str, Any]) -> None:
    """Hold a group's metadata against the checksum in its pid; `InvalidPickle` if it was changed."""
    if digest(sides, name, pid["arrays"]) != pid["digest"]:
        raise InvalidPickle(f"the metadata of the side folder {name} is damaged: its checksum is wrong")
