"""The record of one result, and the footer that carries it at the end of a blob.

A blob is ``body | footer | trailer``. The body is the pickle stream, followed by
buffers; the footer is one JSON object, the record; the trailer has 40 bytes:

====== ===== =====================================================
offset bytes content (integers are little-endian)
====== ===== =====================================================
0      16    XXH3-128 of the body, canonical (big-endian) form
16     4     length of the footer, bytes
20     2     format version
22     2     flags; bit 0: the body is one pickle stream, nothing else
24     8     XXH3-64 of the footer and the 24 bytes above
32     8     magic, ``89 46 46 62 0D 0A 1A 0A``
====== ===== =====================================================

The trailer keeps this layout in every format to come, so that a newer one is told
from damage.

XXH3 was chosen because a checksum has to find damage at the speed of memory
(measured: 8.2 GB/s, BLAKE3 4.2, SHA-256 1.1 on one core); against forgery no
unkeyed hash would help.

The same JSON, with the size put in front, is the blob's line in the journal.
"""

from __future__ import annotations

import json
import os
import re
import struct
import time
from collections.abc import Callable
from functools import cached_property
from json.encoder import encode_basestring_ascii
from typing import Any

import xxhash

from catalog.errors import DamagedFooter, LongerFooter, NewerFormat, NotABlob
from catalog.format.events import Kind
from catalog.format.ids import is_id
from catalog.format.names import to_text
from catalog.format.record import Record, decode

#: The format of every blob that is written. Read are also 2, which only blobs with compressed buffers had, and 1.
FORMAT = 3
MAGIC = b"\x89FFb\r\n\x1a\n"
PLAIN = 1

_TRAILER = struct.Struct("<16sIHHQ8s")
TRAILER_SIZE = _TRAILER.size
_SEALED = struct.Struct("<16sIHH")
_SEAL = struct.Struct("<Q8s")
_SEAL_SIZE = _SEAL.size

_ID = re.compile(rb'\{"blob_id": ?"([0-9a-f-]{36})"').match
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False, allow_nan=False).encode


class Footer:
    """What a blob says of itself.

    Attributes
    ----------
    text : bytes
        The JSON object of the footer, as it stands in the blob.
    body_size : int
        Bytes of pickle stream and buffers, which begin at offset 0.
    body_checksum : bytes
        Their XXH3-128, 16 bytes.
    plain : bool
        Whether the body is a pickle stream and nothing else.
    format : int
        Version of the blob's format.
    """

    def __init__(self, text: bytes, body_size: int, body_checksum: bytes, plain: bool, format: int) -> None:
        self.text = text
        self.body_size = body_size
        self.body_checksum = body_checksum
        self.plain = plain
        self.format = format

    @cached_property
    def blob_id(self) -> str:
        """The id of the blob, which stands first in every footer that this package writes."""
        first = _ID(self.text)
        blob_id = first[1].decode() if first else ""
        return blob_id if is_id(blob_id) else self.record.blob_id

    @cached_property
    def record(self) -> Record:
        """The JSON object, typed; `DamagedFooter` if it is invalid. Decoded on use: most reads need only the id."""
        return decode(self.text, self.body_size, self.plain)

    @property
    def known(self) -> Record | None:
        """The record; None if it is invalid, so that nothing is known."""
        try:
            return self.record
        except DamagedFooter:
            return None


def close_blob(record: str, body_checksum: bytes, plain: bool) -> bytes:
    """Return the footer and trailer that make a body a blob.

    Parameters
    ----------
    record : str
        One JSON object in ASCII.
    body_checksum : bytes
        XXH3-128 of the body, 16 bytes.
    plain : bool
        Whether the body is a pickle stream and nothing else.

    Returns
    -------
    bytes
        What stands behind the body.
    """
    footer = record.encode("ascii")
    sealed = footer + _SEALED.pack(body_checksum, len(footer), FORMAT, PLAIN if plain else 0)
    return sealed + _SEAL.pack(xxhash.xxh3_64_intdigest(sealed), MAGIC)


def read_footer(tail: bytes | memoryview, size: int) -> Footer:
    """Return the footer of a blob, checked.

    Parameters
    ----------
    tail : bytes-like
        The blob's last bytes; all of them, or as many as the footer has.
    size : int
        Bytes of the whole blob.

    Returns
    -------
    Footer
        Its JSON is not parsed yet.

    Raises
    ------
    NotABlob
        If the bytes do not end as a blob does: of another format, or cut short.
    NewerFormat
        If a newer version wrote it.
    LongerFooter
        If the footer begins before the bytes that were given.
    DamagedFooter
        If footer or trailer are not as they were written, or the blob has no valid id.
    """
    if len(tail) < TRAILER_SIZE or tail[-8:] != MAGIC:
        raise NotABlob("the bytes do not end in a blob's trailer")
    checksum, footer_size, version, flags, seal, _ = _TRAILER.unpack_from(tail, len(tail) - TRAILER_SIZE)
    span = footer_size + TRAILER_SIZE
    if span > size:
        raise DamagedFooter(f"the footer claims {span} bytes of {size}")
    if span > len(tail):
        raise LongerFooter(span)
    sealed = bytes(tail[-span:-_SEAL_SIZE])
    if xxhash.xxh3_64_intdigest(sealed) != seal:
        raise DamagedFooter("the footer's checksum is wrong")
    if version > FORMAT:  # not damage, which might claim any version
        raise NewerFormat(f"the blob has format {version}, this version reads up to {FORMAT}: install a newer one")
    footer = Footer(sealed[:footer_size], size - span, checksum, bool(flags & PLAIN), version)
    _ = footer.blob_id  # checked even where nothing else is needed: a wrong id spoils more than its own blob
    return footer


def fragment(**fields: Any) -> str:
    """Return `fields` as the inside of a JSON object, to be joined with others into a record.

    Strings have to be valid Unicode (`to_text`), numbers finite.
    """
    return _encode(fields)[1:-1]


def quote(text: str) -> str:
    """Return any string as a JSON string in ASCII; lone surrogates are escaped as `to_text` does."""
    return encode_basestring_ascii(text if text.isascii() else to_text(text))


def name_fields(workflow: str, task: str | None) -> str:
    """Return the fragment that names a result, or a workflow alone."""
    fields = f'"workflow":{quote(workflow)}'
    return fields if task is None else f'{fields},"task":{quote(task)}'


def event_line(event: Kind | str, event_id: str, seconds: float, fields: str) -> str:
    """Return the journal's line of an event that is no save.

    Parameters
    ----------
    event : Kind or str
        Its kind; `ValueError` if there is no such kind.
    event_id : str
        Its id.
    seconds : float
        When it happened, since 1970.
    fields : str
        What it has to say, as `fragment` and `name_fields` return it.

    Returns
    -------
    str
        One JSON object, without the line's end.
    """
    moment = utc_text(seconds)
    return f'{{"event":"{Kind(event).value}","event_id":"{event_id}","time":"{moment}",{fields},{machine_fields()}}}'


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
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _last_second = (second, text)
    return text


_origin: tuple[int, str] | None = None


def machine_fields() -> str:
    """Return the fragment that tells who writes: host, user, process and Python version."""
    global _origin
    pid = os.getpid()
    if _origin is None or _origin[0] != pid:
        _origin = (pid, fragment(host=os.uname().nodename, user=_user(), pid=pid, python=_python()))
    return _origin[1]


def _user() -> str:
    import pwd

    try:
        return to_text(pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:  # a user id without an entry, as in many containers
        return str(os.getuid())


def _python() -> str:
    import platform

    return platform.python_version()


def footer_from(read_tail: Callable[[int], bytes], size: int) -> Footer:
    """Return the footer of a blob of which the last `n` bytes come from ``read_tail(n)``.

    Returns
    -------
    Footer
        Read by one call in nearly every case.

    Raises
    ------
    NotABlob, DamagedFooter, NewerFormat
        As `read_footer` does.
    """
    try:
        return read_footer(read_tail(4096), size)
    except LongerFooter as longer:
        return read_footer(read_tail(longer.span), size)
