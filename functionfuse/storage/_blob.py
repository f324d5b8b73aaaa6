"""The blob file: body, footer, trailer; written once, checked on every read.

The formats are described in `catalog.format.footer`, which also reads the footer: the
catalog rebuilds itself from footers without this package. The older format, a
pickle followed by the SHA-1 of it, is read here too.
"""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import xxhash

from catalog.errors import DamagedFooter, NewerFormat, NotABlob
from catalog.format.buffers import BufferPlace
from catalog.format.footer import Footer, footer_from, read_footer
from catalog.format.record import Record
from catalog.format.side_files import Declaration, declare
from catalog.store.base import OpenFile, Store, Writer
from functionfuse.errors import InvalidPickle, UnsupportedFormat
from functionfuse.storage._compression import CODEC, Buffer, Packed, Packing, pieces, unpacked
from functionfuse.storage._side_files import SideFiles, side_files

#: Streams are gathered in memory up to this size, and written with their footer at once.
GATHERED = 1 << 20
#: Buffers begin at multiples of this, in bytes: a cache line, and enough for every vector unit.
ALIGNMENT = 64
_SHA1_SIZE = 20
# Bytes that are written and hashed at once, and of how many pieces. Many pieces go to the file together: a file system
# that takes large pages does so for what is written at once, but for a piece alone only where it happens to lie well.
_AT_ONCE = 1 << 22
_MOST_PIECES = 512
_MOST_BEHIND = 8  # times that many bytes, by which the hash may be behind


class BlobWriter:
    """Writes one blob to a hidden file; nothing is seen of it before `publish`.

    Parameters
    ----------
    store : Store
        Where.
    folder, file : str
        The folder of the workflow, and the file in it.
    blob_id : str
        Names the folder of side files.

    Attributes
    ----------
    blob_id : str
        The id of the blob.
    size : int
        Bytes written so far.
    saved_by_packing : int or None
        Bytes by which the buffers were greater before they were compressed; None where none is.
    """

    __slots__ = (
        "_chunks",
        "_file",
        "_folder",
        "_gathered",
        "_hash",
        "_key",
        "_pieces",
        "_side",
        "_store",
        "_waiting",
        "blob_id",
        "saved_by_packing",
        "size",
    )

    def __init__(self, store: Store, folder: str, file: str, blob_id: str) -> None:
        self._store = store
        self._folder = folder
        self._key = f"{folder}/{file}"
        self._file: Writer | None = None
        self._hash: _Hash | None = None
        self.blob_id = blob_id
        self._side: SideFiles | None = None
        self._begin()

    @property
    def side(self) -> SideFiles:
        """The files that serializers write beside the blob; always the same object, as it keeps digests."""
        if self._side is None:
            self._side = side_files(self._store, self._folder, self.blob_id)
        return self._side

    def declare_sides(self) -> Declaration:
        """Return how the side files are declared; where they are many, write their list beside them."""
        declaration = declare(self.side.files(), self.blob_id)
        if declaration.listed is not None:
            self.side.write(declaration.listed.name, declaration.content)
        return declaration

    def _begin(self) -> None:
        self._chunks: list[bytes] = []  # small ones, to be joined
        self._gathered = 0
        self._pieces: list[bytes | memoryview] = []  # to be written at once
        self._waiting = 0
        self.size = 0
        self.saved_by_packing: int | None = None

    def restart(self) -> None:
        """Discard all that was written, but no side files, and begin anew."""
        self._abandon_hash()
        if self._file is not None:
            self._file.discard()
            self._file = None
        self._begin()

    def write(self, data: bytes) -> None:
        """Append to the body; what is large is not copied."""
        size = len(data)
        self.size += size
        if size > GATHERED:
            self._spill()
            self._append(memoryview(data))
            return
        self._chunks.append(data)
        self._gathered += size
        if self._gathered > GATHERED:
            self._spill()

    def write_buffers(self, buffers: tuple[Buffer, ...], packing: Packing | None) -> tuple[tuple[Any, ...], ...]:
        """Append `buffers` to the body, aligned, and return their places, as the record has them."""
        places: list[list[Any]] = []
        for index, data, is_frame in pieces(buffers, packing):
            if index == len(places):
                self.write(bytes(-self.size % ALIGNMENT))
                places.append(_place(self.size, buffers[index]) if is_frame else [self.size, 0])
            self._spill()
            self._append(data)
            self.size += len(data)
            places[-1][1] += len(data)
            if is_frame:
                places[-1][4].append(len(data))
        if saved := [place[2] - place[1] for place in places if len(place) > 2]:
            self.saved_by_packing = sum(saved)
        return tuple(map(tuple, places))

    def checksum(self) -> bytes:
        """Return the XXH3-128 of the body."""
        if self._hash is None and not self._pieces:
            self._chunks = [b"".join(self._chunks)]
            return xxhash.xxh3_128_digest(self._chunks[0])
        self._spill()
        if self._hash is None:
            self._hash = _Hash()
        return self._hash.digest(self._pieces)

    def finish(self, footer: bytes, sync: bool) -> int:
        """Write what is left and the footer, close the file, and return its size in bytes; `sync` as of `Options`."""
        file = self._opened()
        file.write([*self._pieces, *self._chunks, footer])
        if sync:
            file.sync()
            self.side.sync()
        file.close()
        return self.size + len(footer)

    def publish(self) -> bool:
        """Put the blob into its place, over the one that is there; returns as `Writer.publish` does."""
        assert self._file is not None, "finish comes first"
        return self._file.publish()

    def discard(self) -> None:
        """Delete the hidden file and the side files, unless the blob is published already or just being published.

        An interrupt may strike between the rename and its return; then the hidden file is gone, and all else stays.
        """
        self._abandon_hash()
        if self._file is None or self._file.discard():
            self._file = None
            self.side.discard()

    def _opened(self) -> Writer:
        if self._file is None:
            self._file = self._store.writer(self._key)
            self._file.open()
        return self._file

    def _spill(self) -> None:
        if self._chunks:
            data = b"".join(self._chunks)
            self._chunks = []
            self._gathered = 0
            self._append(data)

    def _append(self, data: bytes | memoryview) -> None:
        for begin in range(0, len(data), _AT_ONCE):
            piece = data[begin : begin + _AT_ONCE] if len(data) > _AT_ONCE else data
            self._pieces.append(piece)
            self._waiting += len(piece)
            if self._waiting >= _AT_ONCE or len(self._pieces) == _MOST_PIECES:
                self._write_pieces()

    def _write_pieces(self) -> None:
        if self._hash is None:
            self._hash = _Hash()
        file = self._opened()
        self._hash.update(self._pieces)
        file.write(self._pieces)
        self._pieces = []
        self._waiting = 0

    def _abandon_hash(self) -> None:
        digest, self._hash = self._hash, None
        if digest is not None:
            digest.abandon()


def _place(offset: int, buffer: Buffer) -> list[Any]:
    return [offset, 0, buffer.data.nbytes, CODEC, [], buffer.width]


class _Hash:
    """The XXH3-128 of what it is told of; a thread hashes while the caller writes.

    Nothing is copied: it must not be changed before the digest is asked for.
    """

    __slots__ = ("_hash", "_pending", "_thread")

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()
        self._thread: ThreadPoolExecutor | None = None
        self._pending: deque[Future[None]] = deque()

    def update(self, pieces: list[bytes | memoryview]) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "functionfuse-hash")
        self._pending.append(self._thread.submit(self._take, pieces))
        if len(self._pending) > _MOST_BEHIND:  # what it has not hashed stays in memory
            self._pending.popleft().result()

    def digest(self, last: list[bytes | memoryview]) -> bytes:
        """Return the hash of all, after which the last pieces come."""
        while self._pending:
            self._pending.popleft().result()
        self._take(last)
        self.abandon()
        return self._hash.digest()

    def abandon(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None

    def _take(self, pieces: list[bytes | memoryview]) -> None:
        for data in pieces:
            self._hash.update(data)


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


def read_blob(data: memoryview, verify: bool = True) -> Blob:
    """Check a blob, and tell its parts.

    Parameters
    ----------
    data : memoryview
        The whole file; the parts that are not compressed lie in this memory.
    verify : bool
        Whether to check the body. The footer, and all of a file of the older format, are checked in any case.

    Raises
    ------
    InvalidPickle
        If the bytes are not what was saved.
    UnsupportedFormat
        If a newer version wrote them, or a buffer is compressed in a way that this one does not know.
    """
    try:
        footer = read_footer(data, len(data))
        body = data[: footer.body_size]
        if verify and xxhash.xxh3_128_digest(body) != footer.body_checksum:
            raise InvalidPickle("the checksum of the body is wrong")
        # All of a plain blob is the stream: its record, which takes as long as all the rest, is not needed.
        record = None if footer.plain else footer.record
    except NotABlob:
        return Blob(None, _checked_older(data), [])
    except DamagedFooter as error:
        raise InvalidPickle(str(error)) from error
    except NewerFormat as error:
        raise UnsupportedFormat(str(error)) from error
    if record is None or record.stream is None:
        return Blob(footer, body, [])
    places = record.places
    packed = [_packed(body, place) for place in places if place.codec is not None]
    whole = iter(unpacked(packed, ALIGNMENT)) if packed else iter(())
    buffers = [
        next(whole) if place.codec is not None else body[place.offset : place.offset + place.size] for place in places
    ]
    return Blob(footer, body[: record.stream], buffers)


def _packed(body: memoryview, place: BufferPlace) -> Packed:
    if place.codec != CODEC:
        raise UnsupportedFormat(f"a buffer is compressed by {place.codec!r}, this version knows {CODEC!r}")
    ends = list(accumulate(place.frames, initial=place.offset))
    return Packed(tuple(body[begin:end] for begin, end in pairwise(ends)), place.logical_size, place.width)


def _checked_older(data: memoryview) -> memoryview:
    body = data[:-_SHA1_SIZE]
    if len(data) <= _SHA1_SIZE or hashlib.sha1(body).digest() != data[-_SHA1_SIZE:]:
        raise InvalidPickle("the bytes end neither in a footer nor in their SHA-1: they were cut or changed")
    return body


def peek_footer(file: OpenFile) -> Footer | None:
    """Return the footer of a blob without reading its body; None for the older format and for what is damaged.

    Raises
    ------
    UnsupportedFormat
        If a newer version wrote it.
    """
    try:
        return footer_from(file.tail, file.size)
    except (NotABlob, DamagedFooter):
        return None
    except NewerFormat as error:
        raise UnsupportedFormat(str(error)) from error


def peek_record(file: OpenFile) -> Record | None:
    """Return the record of a blob as `peek_footer` does its footer; None also where it is invalid."""
    footer = peek_footer(file)
    return None if footer is None else footer.known
