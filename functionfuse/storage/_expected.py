"""The digests that a result declares of its side files, looked up as they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from catalog.declared import DamagedList, declared
from functionfuse.errors import InvalidPickle

_NEEDED = ("side_files", "side_list", "side_digest")


class Expected:
    """What a result declares of its side files.

    Parameters
    ----------
    record : mapping
        What its blob says of itself.
    read : callable
        Returns the bytes of a side file; for the list, where that is one. It can be pickled.
    """

    def __init__(self, record: Mapping[str, Any], read: Callable[[str], bytes]) -> None:
        self._record = {key: record[key] for key in _NEEDED if key in record}
        self._read = read
        self._digests: dict[str, str | None] | None = None

    def digest(self, name: str) -> str | None:
        """Return the digest of a side file, None if there is none; `InvalidPickle` if the list is damaged."""
        if self._digests is None:
            try:
                files = declared(self._record, self._read)
            except DamagedList as error:
                raise InvalidPickle(str(error)) from error
            self._digests = {file.name: file.digest for file in files}
        return self._digests.get(name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_digests": None}
