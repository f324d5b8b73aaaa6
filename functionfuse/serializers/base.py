"""What a serializer is, and the protocols through which it reaches its files."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

#: Key of an object with ``open(filename, mode)`` and ``remove(filename)``, relative to the side folder.
FILE_PROTOCOL = "file_protocol"
#: Key of ``{"client": s3fs.S3FileSystem, "folder": "s3://..."}``.
S3_PROTOCOL = "s3 protocol"
#: Key, within the latter, of a dictionary for the digests of files that were hashed as they were written.
DIGESTS = "digests"
#: Keys there of what side files shall be (None where nobody knows, or wants to), and whether checksums are compared.
EXPECTED, VERIFIES = "expected", "verifies"


def generate_name() -> str:
    """Return a fresh name for a side file."""
    return str(uuid.uuid4())


class Statistics(NamedTuple):
    """What the files of a table say of it, for the column `summary` of the catalog.

    A serializer may have a class method ``statistics(pid, protocols)`` that returns it,
    which is called when it took over a whole result and has written it.

    Attributes
    ----------
    rows : int
        Their number.
    columns : dict
        Of each column, as far as it is known, ``min`` and ``max``, and ``nulls`` where it has any:
        numbers, texts and booleans.
    """

    rows: int
    columns: dict[str, dict[str, Any]]


@runtime_checkable
class Serializer(Protocol):
    """A class that takes over the objects of one exact type, anywhere inside a result.

    Attributes
    ----------
    name : str
        Recorded with the data; the storage that reads needs a serializer of this name.
    serializer_class : type
        The exact type of the objects.
    """

    name: str
    serializer_class: type

    @classmethod
    def pickle(cls, obj: Any, protocols: Mapping[str, Any]) -> tuple[str, Any] | None:
        """Write `obj` through one of `protocols`; return this class's name and what `unpickle` needs to find it.

        None declines, with nothing written: the object is pickled as if there were no serializer.
        """

    @classmethod
    def unpickle(cls, pid: Any, protocols: Mapping[str, Any]) -> Any:
        """Return the object that `pickle` returned `pid` for."""

    @classmethod
    def remove(cls, pid: Any, protocols: Mapping[str, Any]) -> None:
        """Delete what `pickle` wrote for `pid`."""
