"""Objects under a prefix: read, written and listed as a whole, patiently.

Whatever may pass (a server that is busy, a connection that is cut, a time-out)
is tried again; what will not is told at once, and clearly.
"""

from __future__ import annotations

import errno
import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from catalog.errors import CatalogUnusable, Refused
from catalog.format.names import CATALOG_FOLDER
from catalog.store.retry import Patience

T = TypeVar("T")

#: Where an object is written that does not appear as a whole, before it is put into its place.
UNDER_WAY = f"{CATALOG_FOLDER}/tmp/"
#: Seconds between two tries: the first ones, doubled each time, and at most.
SHORTEST, LONGEST = 0.1, 5.0

_TRANSIENT_CODES = frozenset(
    (
        *("BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"),  # the request was cut
        *("InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable"),
        *("SlowDown", "Throttling", "ThrottlingException", "TooManyRequests"),
    )
)
_TRANSIENT_NUMBERS = frozenset((errno.EBUSY, errno.EIO, getattr(errno, "EREMOTEIO", errno.EIO), errno.EAGAIN))

_log = logging.getLogger("functionfuse.catalog")


@dataclass(frozen=True)
class Entry:
    """An object, as it was listed.

    Attributes
    ----------
    key : str
        Its name below the prefix.
    size : int
        Bytes.
    changed : float
        When it was written, by the server's clock; seconds since 1970.
    tag : str
        What changes when it is written anew; empty where nothing tells.
    """

    key: str
    size: int
    changed: float
    tag: str


@dataclass(frozen=True)
class Listing:
    """The objects whose names begin in the same way.

    Attributes
    ----------
    entries : list of Entry
        In the order of their names.
    folders : list of str
        What lies deeper, by the names up to the next slash; empty where all was listed.
    now : float
        The server's time, seconds since 1970; 0 where it does not tell.
    """

    entries: list[Entry]
    folders: list[str]
    now: float


@dataclass(frozen=True)
class Tail:
    """The end of an object.

    Attributes
    ----------
    data : bytes
        Its last bytes; all of them if there are no more.
    size : int
        Bytes of the whole.
    changed : float
        When it was written; seconds since 1970.
    tag : str
        As of `Entry`.
    """

    data: bytes
    size: int
    changed: float
    tag: str


class Changed(Exception):
    """An object was written anew while it was read."""


class Upload(ABC):
    """A large object that is sent in parts, and appears when it is complete."""

    @abstractmethod
    def send(self, number: int, data: bytes) -> None:
        """Send a part; its number counts from 1. Parts may be sent at once, from several threads."""

    @abstractmethod
    def complete(self) -> bool:
        """Let the object appear; return whether that took more than one try."""

    @abstractmethod
    def abort(self) -> None:
        """Forget all that was sent."""


class Bucket(ABC):
    """Objects under a prefix.

    Attributes
    ----------
    url : str
        Where, as a person writes it; without a slash at the end.
    tells_changes : bool
        Whether `span` raises `Changed`; if not, whoever reads several looks at the tag again.
    patience : Patience
        For how long requests are tried again.
    """

    url: str
    tells_changes = True

    def __init__(self) -> None:
        self.patience = Patience()

    @abstractmethod
    def get(self, key: str) -> bytes:
        """Return an object; `FileNotFoundError` if there is none."""

    @abstractmethod
    def tail(self, key: str, most: int) -> Tail:
        """Return the last bytes of an object, at most so many; `FileNotFoundError` if there is none."""

    @abstractmethod
    def span(self, key: str, begin: int, end: int, tag: str) -> bytes:
        """Return bytes of an object; `Changed` if it is not the one with that tag, where `tells_changes`."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> bool:
        """Write an object, which appears as a whole; return whether that took more than one try."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> None:
        """Write an object if there is none, as far as the place can tell; `FileExistsError` if there is one."""

    @abstractmethod
    def delete(self, key: str, tag: str = "") -> bool:
        """Delete an object, none is no error; return whether that took more than one try.

        With a tag, `Changed` if it is another one: as far as the place can tell, not even if that came just before.
        """

    @abstractmethod
    def copy(self, key: str, to: str, tag: str) -> None:
        """Copy an object within the place; `Changed` if it is not the one with that tag."""

    def move(self, key: str, to: str, tag: str) -> None:
        """Give an object another name; `Changed` if it is not the one with that tag, of which then nothing is lost."""
        self.copy(key, to, tag)
        self.delete(key, tag)

    @abstractmethod
    def listing(self, prefix: str, deep: bool = True) -> Listing:
        """List all objects whose names begin with `prefix`, or only those without a further slash."""

    @abstractmethod
    def upload(self, key: str) -> Upload:
        """Begin a large object."""

    @property
    @abstractmethod
    def address(self) -> str:
        """The URL, and what tells places apart that have the same: an endpoint, an account."""

    @property
    @abstractmethod
    def filesystem(self) -> Any:
        """The fsspec file system behind it, of this process."""

    @property
    @abstractmethod
    def root(self) -> str:
        """The prefix as that file system names it; without a slash at the end."""

    def patiently(self, action: Callable[[], T]) -> tuple[T, bool]:
        """Do something that may fail for a while.

        Parameters
        ----------
        action : callable
            What is done.

        Returns
        -------
        tuple of (object, bool)
            What it returns, and whether that took more than one try.

        Raises
        ------
        CatalogUnusable
            If the place cannot be reached, or does not do it for a minute; at the first failed try where nothing has
            succeeded for a minute.
        Refused
            If it may not be done.
        FileNotFoundError, FileExistsError, Changed
            As they are.
        """
        began = time.monotonic()
        wait = SHORTEST
        tries = 0
        while True:
            tries += 1
            tried = time.monotonic()
            try:
                result = action()
            except (FileNotFoundError, FileExistsError, Changed, CatalogUnusable):
                self.patience.answered()
                raise
            except Exception as error:
                self._judge(error, tries, began, tried)
                _log.debug("%s: tried again after %s: %s", self.url, type(error).__name__, str(error))
            else:
                self.patience.answered()
                return result, tries > 1
            time.sleep(wait * (0.5 + random.random()))
            wait = min(2 * wait, LONGEST)

    def _judge(self, error: Exception, tries: int, began: float, tried: float) -> None:
        """Return if it may pass, and raise what it means otherwise."""
        reason = self.reason(error)
        if reason is None and not is_transient(error):
            reason = CatalogUnusable(f"{self.url}: {error}")
        if reason is None and self.patience.failed(began, tried):
            what = "does not answer as it should any more" if self.patience.was_reached else "cannot be reached"
            reason = CatalogUnusable(f"{self.url} {what}: {error}; check the address and the network")
        if reason is not None:
            reason.tries = tries
            raise reason from error

    def reason(self, error: Exception) -> CatalogUnusable | None:
        """Return what an error means that will not pass, if that is known."""
        if isinstance(error, PermissionError):
            return Refused(f"{self.url} may not be used in this way: {error}")
        return None


def is_transient(error: BaseException) -> bool:
    """Tell whether an error may pass."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        passes = response.get("Error", {}).get("Code") in _TRANSIENT_CODES
        return passes or status == 429 or (status >= 500 and status != 501)  # 501 is what a server does not know
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    if isinstance(error, OSError) and error.errno in _TRANSIENT_NUMBERS:
        return True
    names = {each.__name__ for each in type(error).__mro__}
    return bool(names & {"HTTPClientError", "ConnectionError", "ClientError", "ResponseStreamingError", "TimeoutError"})
