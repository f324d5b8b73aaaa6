"""A blob, taken apart by hand."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import xxhash

_TRAILER = struct.Struct("<16sIHHQ8s")
_MAGIC = bytes.fromhex("894646620D0A1A0A")


@dataclass(frozen=True)
class StoredBlob:
    """A blob, taken apart by hand.

    Attributes
    ----------
    body : bytes
        The pickle stream, and the buffers behind it.
    record : dict
        The footer's JSON object.
    version : int
        Of the blob's format.
    plain : bool
        Whether the body is a pickle stream and nothing else.
    """

    body: bytes
    record: dict[str, Any]
    version: int
    plain: bool

    @property
    def stream(self) -> bytes:
        """The pickle stream."""
        return self.body[: self.record.get("stream", len(self.body))]

    @property
    def buffers(self) -> list[bytes]:
        """The buffers that the stream refers to."""
        return [_unpacked(self.body[place[0] : place[0] + place[1]], place) for place in self.record.get("buffers", ())]


def _unpacked(stored: bytes, place: list[Any]) -> bytes:
    if len(place) == 2:
        return stored
    import zstandard

    whole, begin, (frames, width) = b"", 0, place[4:]
    for size in frames:
        data = zstandard.ZstdDecompressor().decompress(stored[begin : begin + size])
        begin += size
        count = len(data) // width
        whole += b"".join(bytes(data[at::count]) for at in range(count))
    return whole


def read_blob(data: bytes) -> StoredBlob:
    """Take a blob apart, with `struct` and `json` alone, and check it.

    Parameters
    ----------
    data : bytes
        All of it.

    Returns
    -------
    StoredBlob
        Its parts.

    Raises
    ------
    ValueError
        If a checksum, the magic or a length is wrong.
    """
    if len(data) < _TRAILER.size:
        raise ValueError(f"{len(data)} bytes are no blob")
    checksum, length, version, flags, seal, magic = _TRAILER.unpack(data[-_TRAILER.size :])
    end = len(data) - _TRAILER.size
    body, footer = data[: end - length], data[end - length : end]
    expected = (_MAGIC, xxhash.xxh3_64_intdigest(footer + data[end : end + 24]), xxhash.xxh3_128_digest(body))
    if (magic, seal, checksum) != expected:
        raise ValueError("magic or checksum is wrong")
    return StoredBlob(body, json.loads(footer), version, bool(flags & 1))
