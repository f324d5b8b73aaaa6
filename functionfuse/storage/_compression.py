"""Buffers to zstandard frames and back, by several threads; knows nothing of files.

Whether a buffer is compressed is decided on a sample of it. A compressed one is
a row of frames, each of `FRAME` bytes of it, so that threads share the work both
ways and no more than a few frames are held at once. What is not compressed stays
as it is, to be mapped.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import zstandard

from catalog.store.memory import anonymous
from functionfuse.errors import InvalidPickle
from functionfuse.storage._byte_shuffle import from_planes, in_planes

#: Bytes of a buffer in each frame.
FRAME = 1 << 20
#: How buffers' compression is called in footers.
CODEC = "zstd"
LEVELS = range(-100, 23)

_SAMPLES = 3
_SMALLEST_SAMPLE, _LARGEST_SAMPLE = 1 << 12, 1 << 16
_SAMPLED = 192  # one part in so many, three times
_MOST_PACKED = 1 << 15  # times: zstd stores 128 KiB in no less than 4 bytes (RFC 8878, section 3.1.1.2)
_THREADS = 8  # more do not help: the disk or the memory is slower
# Each small buffer's sample costs some percent of writing it. So after a row of buffers that did not shrink, some are
# taken to be no better: after 8 of them every second, after 16 four of five, after 24 nine of ten, then 15 of 16.
_PATIENCE, _MOST_SKIPPED, _SMALL_BUFFER = 8, 15, 1 << 23


@dataclass(frozen=True)
class Packing:
    """How to compress.

    Attributes
    ----------
    level : int
        As zstandard has it: the lower, the faster.
    worth : float
        The size of a compressed sample, as a share of the sample, up to which a buffer is compressed.
    """

    level: int
    worth: float = 0.98


#: What shrinks by a fifth or more, faster than a disk writes it.
AUTO = Packing(1, 0.8)


class Buffer(NamedTuple):
    """What is to be written.

    Attributes
    ----------
    data : memoryview
        All its bytes.
    width : int
        Bytes of each of the numbers that it holds.
    """

    data: memoryview
    width: int


class Piece(NamedTuple):
    """A part of a buffer as it is written.

    Attributes
    ----------
    buffer : int
        Which buffer it is of.
    data : bytes or memoryview
        The whole buffer as it is, or one frame of it.
    is_frame : bool
        Whether it is a frame.
    """

    buffer: int
    data: bytes | memoryview
    is_frame: bool


def pieces(buffers: Sequence[Buffer], packing: Packing | None) -> Iterator[Piece]:
    """Yield what is to be written of `buffers`, in their order; frames are compressed some way ahead by threads."""
    if packing is None:
        yield from (Piece(index, buffer.data, False) for index, buffer in enumerate(buffers))
        return
    ahead: deque[Piece | tuple[int, Future[bytes]]] = deque()
    threads = thread_count()
    with ThreadPoolExecutor(threads, "functionfuse-zstd") as pool:
        try:
            for index, part, is_frame in _parts(buffers, packing):
                job = (index, pool.submit(_pack, part, buffers[index].width, packing.level)) if is_frame else None
                ahead.append(job or Piece(index, part, False))
                if len(ahead) > 2 * threads:
                    yield _finished(ahead.popleft())
            while ahead:
                yield _finished(ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)  # nothing is left, unless the writing failed


def _finished(piece: Piece | tuple[int, Future[bytes]]) -> Piece:
    return piece if isinstance(piece, Piece) else Piece(piece[0], piece[1].result(), True)


def _parts(buffers: Sequence[Buffer], packing: Packing) -> Iterator[tuple[int, memoryview, bool]]:
    judge = _Judge(packing)
    for index, buffer in enumerate(buffers):
        data, width = buffer
        shrinks = judge.shrinks(buffer)
        step = FRAME // width * width if shrinks else data.nbytes
        for begin in range(0, data.nbytes, step):
            yield index, data[begin : begin + step], shrinks


class _Judge:
    """Says of one buffer after another whether it is worth compressing."""

    def __init__(self, packing: Packing) -> None:
        self._packing = packing
        self._compressor = zstandard.ZstdCompressor(packing.level)
        self._row = 0  # of small buffers that did not shrink
        self._skip = 0

    def shrinks(self, buffer: Buffer) -> bool:
        if buffer.data.nbytes >= _SMALL_BUFFER:
            return self._sample_shrinks(buffer)
        if self._skip:
            self._skip -= 1
            return False
        shrinks = self._sample_shrinks(buffer)
        self._row = 0 if shrinks else self._row + 1
        self._skip = min((self._row // _PATIENCE) ** 2, _MOST_SKIPPED)
        return shrinks

    def _sample_shrinks(self, buffer: Buffer) -> bool:
        data, width = buffer
        size = min(max(data.nbytes // _SAMPLED, _SMALLEST_SAMPLE), _LARGEST_SAMPLE) // width * width
        last = (data.nbytes - size) // (_SAMPLES - 1) // width * width
        samples = b"".join(data[step * last : step * last + size] for step in range(_SAMPLES))
        packed = self._compressor.compress(in_planes(memoryview(samples), width))
        return len(packed) <= self._packing.worth * len(samples)


def _pack(part: memoryview, width: int, level: int) -> bytes:
    # A compressor serves one thread at a time, and is quickly made.
    return zstandard.ZstdCompressor(level).compress(in_planes(part, width))


@dataclass(frozen=True)
class Packed:
    """A compressed buffer.

    Attributes
    ----------
    frames : tuple of memoryview
        Its frames.
    size : int
        Bytes that they hold together.
    width : int
        Bytes of each of the numbers.
    """

    frames: tuple[memoryview, ...]
    size: int
    width: int


def unpacked(packed: Sequence[Packed], alignment: int) -> list[memoryview]:
    """Return compressed buffers as they were, in one stretch of memory, each beginning at a multiple of `alignment`.

    Raises
    ------
    InvalidPickle
        If the frames are damaged, or hold another number of bytes.
    """
    begins, end = [], 0
    frames = [_contents(each) for each in packed]  # before there is memory for what a damaged one claims
    for each in packed:
        begins.append(end)
        end += each.size + -each.size % alignment
    memory = anonymous(end)
    found = [memory[begin : begin + each.size] for begin, each in zip(begins, packed, strict=True)]
    jobs = [job for parts in zip(packed, frames, found, strict=True) for job in _jobs(*parts)]
    with ThreadPoolExecutor(min(thread_count(), len(jobs)), "functionfuse-zstd") as pool:
        for _ in pool.map(_unpack, jobs):
            pass
    return found


class _Job(NamedTuple):
    frame: memoryview
    target: memoryview
    width: int


def _contents(packed: Packed) -> list[int]:
    """Return how many bytes the frames of a buffer hold, each whole items; together they are as many as it has."""
    sizes = [_content_size(frame) for frame in packed.frames]
    if sum(sizes) != packed.size:
        raise InvalidPickle(f"the frames of a buffer of {packed.size} bytes hold {sum(sizes)}")
    if any(size % packed.width for size in sizes):
        raise InvalidPickle(f"a frame of a buffer holds no whole items of {packed.width} bytes")
    return sizes


def _jobs(packed: Packed, sizes: list[int], target: memoryview) -> Iterator[_Job]:
    begin = 0
    for frame, size in zip(packed.frames, sizes, strict=True):
        yield _Job(frame, target[begin : begin + size], packed.width)
        begin += size


def _content_size(frame: memoryview) -> int:
    try:
        size = zstandard.frame_content_size(frame)
    except zstandard.ZstdError as error:
        raise InvalidPickle(f"a compressed buffer is damaged: {error}") from error
    if not 0 <= size <= len(frame) * _MOST_PACKED:
        raise InvalidPickle(f"a frame of {len(frame)} bytes claims to hold {size}")
    return size


def _unpack(job: _Job) -> None:
    try:
        data = zstandard.ZstdDecompressor().decompress(job.frame)
    except zstandard.ZstdError as error:
        raise InvalidPickle(f"a compressed buffer is damaged: {error}") from error
    if len(data) != len(job.target):
        raise InvalidPickle(f"a frame holds {len(data)} bytes where it says {len(job.target)}")
    from_planes(data, job.width, job.target)


def thread_count() -> int:
    """Return how many threads are worth starting."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(_THREADS, usable or 1)
