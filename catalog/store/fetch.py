"""Objects of a remote storage as files of this machine, for the time of a question."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from catalog.store import threads as pool
from catalog.store.bucket import Bucket, Changed

_PIECE = 4 << 20  # bytes that one request reads


@contextmanager
def fetched(bucket: Bucket, keys: Sequence[str]) -> Iterator[list[str]]:
    """Have objects in a temporary folder, which is deleted with them behind the block.

    Parameters
    ----------
    bucket : Bucket
        Where they are.
    keys : sequence of str
        Which ones.

    Yields
    ------
    list of str
        The paths of their files, in the same order.

    Raises
    ------
    FileNotFoundError
        If there is no such object; also if it was written anew meanwhile.
    """
    with tempfile.TemporaryDirectory(prefix="functionfuse-") as folder:
        paths = [os.path.join(folder, str(number)) for number in range(len(keys))]
        for key, path in zip(keys, paths, strict=True):
            try:
                _fetch(bucket, key, path)
            except (FileNotFoundError, Changed) as error:
                raise FileNotFoundError(f"{bucket.url}/{key}") from error
        yield paths


def _fetch(bucket: Bucket, key: str, path: str) -> None:
    """Write an object into a new file, pieces of it at once."""
    tail = bucket.tail(key, _PIECE)
    rest = tail.size - len(tail.data)
    with open(path, "xb", buffering=0) as file:

        def fetch(begin: int) -> None:
            _write(file.fileno(), bucket.span(key, begin, min(begin + _PIECE, rest), tail.tag), begin)

        _write(file.fileno(), tail.data, rest)
        for _ in pool.each(fetch, range(0, rest, _PIECE)):
            pass


def _write(handle: int, data: bytes, position: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(handle, left, position)
        left, position = left[written:], position + written
