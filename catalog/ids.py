"""Identifiers: UUIDv7, increasing within a process and above any id they follow.

Source: RFC 9562, section 5.7: 48 bits of milliseconds since 1970, then version,
variant and 74 other bits. Here the 12 bits after the version count within a
millisecond and the last 62 are drawn once a process: drawing them for every id
costs more than all the rest, and buys nothing that the counter does not give.
"""

from __future__ import annotations

import os
import threading
import time

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
        36 characters; ids of one process sort by the order in which they were made.
    """
    global _last_tick
    tick = time.time_ns() // 1_000_000 << 12
    with _lock:
        if tick <= _last_tick:
            tick = _last_tick + 1
        if after is not None and (known := _tick_of(after)) >= tick:
            tick = known + 1
        _last_tick = tick
    return f"{tick >> 28:08x}-{tick >> 12 & 0xFFFF:04x}-7{tick & 0xFFF:03x}-{_tail}"


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
    return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7{bits >> 68:03x}-{_form_tail(bits)}"


def _tick_of(identifier: str) -> int:
    number = int(identifier.replace("-", ""), 16)
    return number >> 80 << 12 | number >> 64 & 0xFFF


def _after_fork() -> None:
    global _lock, _tail
    _lock = threading.Lock()
    _tail = _form_tail(int.from_bytes(os.urandom(8), "big"))


os.register_at_fork(after_in_child=_after_fork)
