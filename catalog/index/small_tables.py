"""The small tables of an index, as rows in memory: while nobody else writes the index, they need not be read again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

#: Those of which a fold reads all rows.
Name = Literal["meta", "segments", "compacted", "folders", "pending"]

_MOST = 20_000  # rows of all of them that are kept from one question to the next


class SmallTables:
    """Rows of tables that are read whole, from the first time that they are asked for until they are written.

    Attributes
    ----------
    newest : str or None
        The greatest id in the history; an empty text if it is only known to be less than all that came since; None if
        it is not known.
    are_written : bool
        Whether anything of the index was written since it was attached.
    """

    def __init__(self) -> None:
        self._rows: dict[Name, list[Any]] = {}
        self.newest: str | None = None
        self.are_written = False

    def rows(self, name: Name, read: Callable[[str], list[Any]]) -> list[Any]:
        """Return the rows of a table; `read` takes the SQL that selects them."""
        if name not in self._rows:
            self._rows[name] = read(f"FROM {name}")
        return self._rows[name]

    def forget(self, name: Name) -> None:
        """Forget the rows of a table, which is about to be written."""
        self._rows.pop(name, None)

    def forget_all(self) -> None:
        """Forget all: what was written is undone."""
        self._rows.clear()
        self.newest = None

    def keep_few(self) -> None:
        """Forget the rows of tables that are too large to be kept."""
        if sum(map(len, self._rows.values())) > _MOST:
            self._rows.clear()
