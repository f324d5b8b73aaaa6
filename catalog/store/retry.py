"""Trying again what may pass: a server that is busy, a connection that is cut, a time-out.

A place that does not answer is asked for as long as all requests of a process together say, not each by itself.
"""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from catalog.errors import CatalogUnusable
from catalog.store.base import Changed

T = TypeVar("T")

#: Seconds between two tries: the first ones, doubled each time, and at most.
SHORTEST, LONGEST = 0.1, 5.0
#: Seconds for which what may pass is tried again.
PATIENCE = 60.0
#: The same for a place that was never reached: its address is wrong, perhaps.
FIRST_PATIENCE = 5.0


_TRANSIENT_CODES = frozenset(
    (
        *("BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"),  # the request was cut
        *("InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable"),
        *("SlowDown", "Throttling", "ThrottlingException", "TooManyRequests"),
    )
)
_TRANSIENT_NUMBERS = frozenset((errno.EBUSY, errno.EIO, getattr(errno, "EREMOTEIO", errno.EIO), errno.EAGAIN))


_log = logging.getLogger("functionfuse.catalog")


class Patience:
    """What the requests to one place learn from each other.

    A request is given up after a minute, or when no request to its place has succeeded for a minute: those that queue
    behind one that was given up are tried once. Else each of hundreds would wait for a minute of its own.

    Attributes
    ----------
    was_reached : bool
        Whether the place ever answered.

    Notes
    -----
    Threads may share one: each of its changes is one assignment, and a lost one is made up for by the next request.
    """

    def __init__(self) -> None:
        self.was_reached = False
        self._failing: tuple[float, float] | None = None  # since the last success: first try, and last failure

    def answered(self) -> None:
        """Take note of an answer."""
        self.was_reached = True
        self._failing = None

    def failed(self, began: float, tried: float) -> bool:
        """Take note of a try that failed, and tell whether its request is to be given up.

        Parameters
        ----------
        began, tried : float
            When the request began, and this try of it; as of `time.monotonic`.

        Returns
        -------
        bool
            Whether it was tried for long enough.
        """
        now = time.monotonic()
        first, last = self._failing or (tried, now)
        if now - last > PATIENCE:  # nobody asked since: the place may have been back for long
            first = tried
        self._failing = first, now
        return now - min(began, first) > self._most()

    @property
    def is_over(self) -> bool:
        """Whether nothing has succeeded for so long that nobody should ask for what is not necessary."""
        failing = self._failing
        return failing is not None and failing[1] - failing[0] > self._most()

    def _most(self) -> float:
        return PATIENCE if self.was_reached else FIRST_PATIENCE


def with_retries(
    action: Callable[[], T], patience: Patience, place: str, reason: Callable[[Exception], CatalogUnusable | None]
) -> tuple[T, bool]:
    """Do something that may fail for a while.

    Parameters
    ----------
    action : callable
        What is done.
    patience : Patience
        For how long it is tried again.
    place : str
        Where, for messages.
    reason : callable
        Returns what an error means that will not pass, or None.

    Returns
    -------
    tuple of (object, bool)
        What the action returns, and whether that took more than one try.

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
            patience.answered()
            raise
        except Exception as error:
            final = reason(error) or _verdict(error, patience, place, began, tried)
            if final is not None:
                final.tries = tries
                raise final from error
            _log.debug("%s: tried again after %s: %s", place, type(error).__name__, str(error))
        else:
            patience.answered()
            return result, tries > 1
        time.sleep(wait * (0.5 + random.random()))
        wait = min(2 * wait, LONGEST)


def _verdict(error: Exception, patience: Patience, place: str, began: float, tried: float) -> CatalogUnusable | None:
    """Return what is raised for an error, None if it may pass and is tried again."""
    if not is_transient(error):
        return CatalogUnusable(f"{place}: {error}")
    if patience.failed(began, tried):
        what = "does not answer as it should any more" if patience.was_reached else "cannot be reached"
        return CatalogUnusable(f"{place} {what}: {error}; check the address and the network")
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
