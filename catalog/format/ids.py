"""Identifiers: UUIDv7, increasing within a process and above any id they follow.

Source: RFC 9562, section 5.7: 48 bits of milliseconds since 1970, then version,
variant and 74 other bits. Here the 12 bits after the version count within a
millisecond and the last 62 are drawn once a process: drawing them for every id
costs more than all the rest, and buys nothing that the counter does not give.
"""

from __future__ import annotations

import os
import re
import threading
import time

#: Ids tell of times before this one, 9999-01-01 in UTC: what is later cannot be shown as a date, nor be followed.
LIMIT = "e6707a6e-b000-7000-8000-000000000000"

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}").fullmatch
_FAR = 86_400_000 << 12  # ticks of a day, by which clocks may differ

_lock = threading.Lock()
_last_tick = 0  # 60 bits: milliseconds and the counter within one


def _form_tail(bits: int) -> str:
    digits = f"{2 << 62 | bits & (1 << 62) - 1:016x}"
    return f"{digits[:4]}-{digits[4:]}"


_tail = _form_tail(int.from_bytes(os.urandom(8), "big"))


def new_id(after: str | None = None) -> str:
    """Return a new UUIDv7.

    Parameters
    ----------
    after : str, optional
        An id that the new one must be greater than, whatever the clocks say: that of the blob it replaces.

    Returns
    -------
    str
        36 characters; ids of one process sort by the order in which they were made, but for those that follow an id
        more than a day ahead: that one was made by mistake or malice, and takes nothing else along. Where an id has no
        valid one behind it, the new one is not greater; then the blob says which of the two counts.
    """
    global _last_tick
    now = time.time_ns() // 1_000_000 << 12
    known = -1 if after is None else _tick_of(after)
    with _lock:
        tick = max(now, _last_tick + 1)
        if known + 1 >= _END:
            known = -1
        if known - tick > _FAR:
            return _form(known + 1, _form_tail(int.from_bytes(os.urandom(8), "big")))
        _last_tick = tick = max(tick, known + 1)
    return _form(tick, _tail)


def is_id(value: object) -> bool:
    """Tell whether a value is the text of a UUIDv7 before `LIMIT`."""
    return type(value) is str and _ID(value) is not None and value < LIMIT


def id_at(milliseconds: int, digest: bytes) -> str:
    """Return the id of something that has none: the same for the same time and content.

    Parameters
    ----------
    milliseconds : int
        Since 1970, UTC.
    digest : bytes
        At least 10 bytes that tell one such thing from another.

    Returns
    -------
    str
        A UUIDv7 of that time.
    """
    bits = int.from_bytes(digest[:10], "big")
    return _form(milliseconds << 12 | bits >> 68, _form_tail(bits))


def _form(tick: int, tail: str) -> str:
    return f"{tick >> 28:08x}-{tick >> 12 & 0xFFFF:04x}-7{tick & 0xFFF:03x}-{tail}"


def _tick_of(identifier: str) -> int:
    number = int(identifier.replace("-", ""), 16)
    return number >> 80 << 12 | number >> 64 & 0xFFF


_END = _tick_of(LIMIT)


def _after_fork() -> None:
    global _lock, _tail
    _lock = threading.Lock()
    _tail = _form_tail(int.from_bytes(os.urandom(8), "big"))


os.register_at_fork(after_in_child=_after_fork)
