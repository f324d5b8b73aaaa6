"""The digests that a result declares of its side files, looked up as they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from catalog.format.record import Record
from catalog.format.side_files import DamagedList, declared
from functionfuse.errors import InvalidPickle


class Expected:
    """What a result declares of its side files.

    Parameters
    ----------
    record : Record or None
        What its blob says of itself; None for the older format, which declares nothing.
    read : callable
        Returns the bytes of a side file; for the list, where that is one. It can be pickled.
    """

    def __init__(self, record: Record | None, read: Callable[[str], bytes]) -> None:
        self._record = record
        self._read = read
        self._digests: dict[str, str | None] | None = None

    def digest(self, name: str) -> str | None:
        """Return the digest of a side file, None if there is none; `InvalidPickle` if the list is damaged."""
        if self._digests is None:
            try:
                files = declared(self._record, self._read) if self._record is not None else []
            except DamagedList as error:
                raise InvalidPickle(str(error)) from error
            self._digests = {file.name: file.digest for file in files}
        return self._digests.get(name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_digests": None}
