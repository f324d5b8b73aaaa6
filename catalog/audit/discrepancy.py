"""What an audit finds wrong."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Discrepancy:
    """Something that is wrong.

    Attributes
    ----------
    path : str
        The file.
    kind : str
        ``unreadable``, ``columns``, ``rows``, ``digest``: of a file. ``parts``, ``order``, ``lines``, ``chain``: of an
        export. ``storage``, ``previous``, ``gap``, ``overlap``: between exports.
    message : str
        One sentence.
    """

    path: str
    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"
