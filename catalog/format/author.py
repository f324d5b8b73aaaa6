"""Who writes a record or an event, and when."""

from __future__ import annotations

import os
import time
from time import gmtime, strftime
from typing import NamedTuple

from catalog.format.names import to_text


class Author(NamedTuple):
    """The process that writes, with its machine and user."""

    host: str
    user: str
    pid: int
    python: str


_author: Author | None = None


def author() -> Author:
    """Return what is written of this process."""
    global _author
    pid = os.getpid()
    if _author is None or _author.pid != pid:
        _author = Author(host=to_text(os.uname().nodename), user=_user(), pid=pid, python=_python())
    return _author


def _user() -> str:
    import pwd

    try:
        return to_text(pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:  # a user id without an entry, as in many containers
        return str(os.getuid())


def _python() -> str:
    import platform

    return platform.python_version()


def now_text() -> str:
    """Return the present as footers and lines have it."""
    return utc_text(time.time())


def utc_text(seconds: float) -> str:
    """Return a time as the text that journal and footers hold: ISO 8601, UTC, microseconds.

    Parameters
    ----------
    seconds : float
        Since 1970, as `time.time` gives them.

    Returns
    -------
    str
        Such as ``2026-11-23T18:30:00.000000Z``.
    """
    whole = int(seconds)
    return f"{_second_text(whole)}.{int((seconds - whole) * 1e6):06d}Z"


_last_second = (0, "1970-01-01T00:00:00")


def _second_text(second: int) -> str:
    # Formatting the date costs 2 µs, and nearly every save falls into the second of the one before.
    global _last_second
    known, text = _last_second
    if known != second:
        text = strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
        _last_second = (second, text)
    return text
