"""Where the buffers of a blob lie: behind its pickle stream, without overlap, up to the end of its body."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple

from msgspec import Meta, Struct, convert

#: The most bytes that a size says: what the catalog's BIGINT holds.
LARGEST = (1 << 63) - 1
Size = Annotated[int, Meta(ge=0, le=LARGEST)]

_ALIGNMENT = 64  # bytes: where buffers begin


class BufferPlace(NamedTuple):
    """Where a buffer lies in a blob.

    Attributes
    ----------
    offset, size : int
        Bytes, as it is stored.
    logical_size : int
        Bytes before it was compressed.
    codec : str or None
        How it is compressed; None if it is not.
    frames : tuple of int
        Bytes of each compressed frame.
    width : int
        Bytes of each of the numbers in it.
    """

    offset: int
    size: int
    logical_size: int
    codec: str | None = None
    frames: tuple[int, ...] = ()
    width: int = 1


class _Packed(Struct, array_like=True, forbid_unknown_fields=True):
    """The place of a compressed buffer, as a footer has it."""

    offset: Size
    size: Size
    logical_size: Size
    codec: str
    frames: tuple[Size, ...]
    width: Annotated[int, Meta(ge=1, le=LARGEST)]


def place_of(values: tuple[Any, ...]) -> BufferPlace:
    """Return the place of a buffer from what a footer has of it; `ValueError` if it cannot be one."""
    if len(values) == 2:
        offset, size = convert(values, tuple[Size, Size])
        return BufferPlace(offset, size, size)
    packed = convert(values, _Packed)
    if sum(packed.frames) != packed.size:
        raise ValueError(f"the frames of a buffer of {packed.size} bytes have {sum(packed.frames)}")
    if packed.logical_size % packed.width:
        raise ValueError(f"a buffer of {packed.logical_size} bytes has items of {packed.width}")
    return BufferPlace(packed.offset, packed.size, packed.logical_size, packed.codec, packed.frames, packed.width)


def check_places(places: Iterable[BufferPlace], stream: int, body_size: int) -> None:
    """Raise `ValueError` unless buffers follow a stream of so many bytes, one behind the other, up to the end."""
    end = stream
    for place in places:
        if place.offset < end or place.offset % _ALIGNMENT:
            raise ValueError(f"a buffer is at {place.offset}, where {end} bytes come before it")
        end = place.offset + place.size
    if end != body_size:
        raise ValueError(f"the buffers end at {end} of {body_size} bytes")
