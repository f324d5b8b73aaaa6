"""The blob file: body, footer, trailer; written once, checked on every read.

The formats are described in `catalog.record`, which also reads the footer: the
catalog rebuilds itself from footers without this package. The older format, a
pickle followed by the SHA-1 of it, is read here too.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import xxhash

from catalog.errors import DamagedFooter, NewerFormat, NotABlob
from catalog.record import Footer, footer_from, fragment, read_footer
from functionfuse.errors import InvalidPickle, UnsupportedFormat
from functionfuse.storage._places import LocalPlace, SideFolder, Source, Temporary

#: Streams are gathered in memory up to this size, and written with their footer at once.
GATHERED = 1 << 20
#: Buffers begin at multiples of this, in bytes: a cache line, and enough for every vector unit.
ALIGNMENT = 64
_SHA1_SIZE = 20


class BlobWriter:
    """Writes one blob to a hidden file; nothing is seen of it before `publish`.

    Parameters
    ----------
    place : LocalPlace
        Where.
    folder : str
        The folder of the workflow.
    name : str
        The blob's id, which names the folder of side files.

    Attributes
    ----------
    size : int
        Bytes written so far.
    """

    __slots__ = ("_chunks", "_file", "_folder", "_gathered", "_hash", "_name", "_place", "size")

    def __init__(self, place: LocalPlace, folder: str, name: str) -> None:
        self._place = place
        self._folder = folder
        self._file: Temporary | None = None
        self._name = name
        self._begin()

    @property
    def side(self) -> SideFolder:
        """The folder for the files that serializers write beside the blob."""
        return self._place.side_folder(self._folder, self._name)

    def _begin(self) -> None:
        self._chunks: list[bytes] = []
        self._gathered = 0
        self._hash: Any = None
        self.size = 0

    def restart(self) -> None:
        """Discard all that was written, but no side files, and begin anew."""
        if self._file is not None:
            self._file.discard()
            self._file = None
        self._begin()

    def write(self, data: bytes) -> None:
        """Append to the body."""
        self._chunks.append(data)
        self.size += len(data)
        self._gathered += len(data)
        if self._gathered > GATHERED:
            self._spill()

    def write_buffers(self, buffers: tuple[memoryview, ...]) -> str:
        """Append `buffers` to the body, aligned, and return the fragment of the record that locates them."""
        places = []
        stream = self.size
        for buffer in buffers:
            self.write(bytes(-self.size % ALIGNMENT))
            places.append((self.size, buffer.nbytes))
            self._spill()
            self._append(buffer)
            self.size += buffer.nbytes
        return fragment(stream=stream, buffers=places)

    def checksum(self) -> bytes:
        """Return the XXH3-128 of the body."""
        if self._hash is None:
            self._chunks = [b"".join(self._chunks)]
            return xxhash.xxh3_128_digest(self._chunks[0])
        self._spill()
        return bytes(self._hash.digest())

    def finish(self, footer: bytes) -> int:
        """Write what is left and the footer, close the file, and return its size in bytes."""
        file = self._opened()
        self._chunks.append(footer)
        file.write(b"".join(self._chunks))
        file.close()
        return self.size + len(footer)

    def publish(self, file: str) -> None:
        """Put the blob into its place, over the one that is there."""
        assert self._file is not None, "finish comes first"
        self._place.publish(self._file, self._folder, file)

    def discard(self) -> None:
        """Delete the hidden file and the side files, unless the blob is published already.

        An interrupt may strike between the rename and its return; then the hidden file is gone, and all else stays.
        """
        file, self._file = self._file, None
        if file is None or file.discard():
            self.side.discard()

    def _opened(self) -> Temporary:
        if self._file is None:
            self._file = self._place.create(self._folder)
            self._file.open()
        return self._file

    def _spill(self) -> None:
        data = b"".join(self._chunks)
        self._chunks = []
        self._gathered = 0
        self._append(data)

    def _append(self, data: bytes | memoryview) -> None:
        if self._hash is None:
            self._hash = xxhash.xxh3_128()
        self._hash.update(data)
        self._opened().write(data)


class Blob(NamedTuple):
    """A blob that was opened and checked.

    Attributes
    ----------
    footer : Footer or None
        None for the older format.
    stream : memoryview
        The pickle stream.
    buffers : list of memoryview
        The buffers that it refers to.
    """

    footer: Footer | None
    stream: memoryview
    buffers: list[memoryview]


def read_blob(data: memoryview) -> Blob:
    """Check all of a blob, and tell its parts.

    Parameters
    ----------
    data : memoryview
        The whole file; the parts lie in this memory.

    Raises
    ------
    InvalidPickle
        If the bytes are not what was saved.
    UnsupportedFormat
        If a newer version wrote them.
    """
    try:
        footer = read_footer(data, len(data))
    except NotABlob:
        return Blob(None, _checked_older(data), [])
    except DamagedFooter as error:
        raise InvalidPickle(str(error)) from error
    except NewerFormat as error:
        raise UnsupportedFormat(str(error)) from error
    body = data[: footer.body_size]
    if xxhash.xxh3_128_digest(body) != footer.body_checksum:
        raise InvalidPickle("the checksum of the body is wrong")
    return _parts(footer, body)


def _parts(footer: Footer, body: memoryview) -> Blob:
    if footer.plain or "stream" not in footer.record:
        return Blob(footer, body, [])
    buffers = [body[offset : offset + size] for offset, size in footer.record["buffers"]]
    return Blob(footer, body[: footer.record["stream"]], buffers)


def _checked_older(data: memoryview) -> memoryview:
    body = data[:-_SHA1_SIZE]
    if len(data) <= _SHA1_SIZE or hashlib.sha1(body).digest() != data[-_SHA1_SIZE:]:
        raise InvalidPickle("the bytes end neither in a footer nor in their SHA-1: they were cut or changed")
    return body


def peek_footer(source: Source) -> Footer | None:
    """Return the footer of a blob without reading its body; None for the older format and for what is damaged.

    Raises
    ------
    UnsupportedFormat
        If a newer version wrote it.
    """
    try:
        return footer_from(source.tail, source.size)
    except (NotABlob, DamagedFooter):
        return None
    except NewerFormat as error:
        raise UnsupportedFormat(str(error)) from error
