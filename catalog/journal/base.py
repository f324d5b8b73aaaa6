"""What every writer of a journal does: it writes the line of an event, and then makes the event true.

A reader must not believe the last line of a writer who was killed, so the line comes first: an event is confirmed when
a later word of its writer says so, and otherwise by a look at its blob.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from catalog.format.names import CATALOG_FOLDER

JOURNAL_FOLDER = f"{CATALOG_FOLDER}/journal"
#: Where compaction moves the segments of a disk before it deletes them.
RETIRED_FOLDER = f"{CATALOG_FOLDER}/retired"
SEGMENT_SUFFIX = ".ndjson"


@dataclass(frozen=True, eq=False)
class Publication:
    """An event, and what makes it true.

    Attributes
    ----------
    line : str
        The journal's line: one JSON object in ASCII, without the line's end.
    key : str
        The file that appears or goes; of one key, one publication follows the other. Empty for an event of no file.
    publish : callable, optional
        Lets the file appear or go, once the line is written. Returns whether that took more than one try, so that it
        may have undone what somebody else did meanwhile.
    undo : callable, optional
        What is done if that fails where nobody waits for it.
    on_success : callable, optional
        What is done when the event is true.
    size : int
        Bytes that are held until then.
    frees_space : bool
        Whether the file goes: on a full disk it goes first, and then its line is written.
    """

    line: str
    key: str = ""
    publish: Callable[[], bool] | None = None
    undo: Callable[[], object] | None = None
    on_success: Callable[[], None] | None = None
    size: int = 0
    frees_space: bool = False


class Journal(ABC):
    """The journal that this process writes for a storage.

    Notes
    -----
    Safe to use from several threads; can be pickled, and survives `fork`.
    """

    @abstractmethod
    def append(self, publication: Publication) -> None:
        """Write the line of an event and make it true; return when both are durable.

        Raises
        ------
        OSError
            If the line cannot be written; then nothing is published. Also what publishing raises.
        """

    @abstractmethod
    def submit(
        self, publication: Publication, failed: Callable[[BaseException], BaseException | None] = lambda error: error
    ) -> None:
        """Append an event while the caller goes on, where that is worth while.

        Parameters
        ----------
        publication : Publication
            The event.
        failed : callable
            Makes of an error that comes later the one that `check` raises, or None.

        Raises
        ------
        OSError
            As `append` does, where that is not worth while.
        """

    def batch(self) -> AbstractContextManager[None]:
        """Return a context in which the lines of what is submitted may be written at once, at its end."""
        return nullcontext()

    @abstractmethod
    def check(self) -> None:
        """Raise what went wrong with what was submitted."""

    @abstractmethod
    def wait(self) -> None:
        """Return when nothing that was submitted is under way any more."""

    @abstractmethod
    def sync(self) -> None:
        """Return when the names of the journal's files are on the medium."""
