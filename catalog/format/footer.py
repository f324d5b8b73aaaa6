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

import re
import struct
from collections.abc import Callable
from functools import cached_property
from typing import Any

import msgspec
import xxhash

from catalog.errors import DamagedFooter, LongerFooter, NewerFormat, NotABlob
from catalog.format.ids import is_id
from catalog.format.record import Origin, Record, decode

#: The format of every blob that is written. Read are also 2, which only blobs with compressed buffers had, and 1.
FORMAT = 3
MAGIC = b"\x89FFb\r\n\x1a\n"
PLAIN = 1

_TRAILER = struct.Struct("<16sIHHQ8s")
TRAILER_SIZE = _TRAILER.size
_SEALED = struct.Struct("<16sIHH")
_SEAL = struct.Struct("<Q8s")
_SEAL_SIZE = _SEAL.size


class _Outline(msgspec.Struct, gc=False):
    serializers: Any = None


# It stands first in every footer that this package writes: most reads need no more, and a search takes half the time.
_ID = re.compile(rb'\{"blob_id": ?"([0-9a-f-]{36})"').match
# They pass over all other members.
_decode_outline = msgspec.json.Decoder(_Outline).decode
_decode_origin = msgspec.json.Decoder(Origin).decode


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
        """The id of the blob."""
        first = _ID(self.text)
        blob_id = first[1].decode() if first else ""
        return blob_id if is_id(blob_id) else self.record.blob_id

    @property
    def is_by_pickle(self) -> bool:
        """Whether pickle alone wrote it, so that no class or function is in the stream by value."""
        try:
            return bool(_decode_outline(self.text).serializers == ["pickle"])
        except msgspec.DecodeError:
            return False

    @cached_property
    def origin(self) -> Origin:
        """Where the result comes from; of one that was saved by hand, or whose record is invalid, nothing is known."""
        try:
            return _decode_origin(self.text)
        except msgspec.DecodeError:
            return Origin()

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


def close_blob(footer: bytes, body_checksum: bytes, plain: bool) -> bytes:
    """Return the footer and trailer that make a body a blob.

    Parameters
    ----------
    footer : bytes
        What the blob says of itself: a `Record`, by `to_json`.
    body_checksum : bytes
        XXH3-128 of the body, 16 bytes.
    plain : bool
        Whether the body is a pickle stream and nothing else.

    Returns
    -------
    bytes
        What stands behind the body.
    """
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
