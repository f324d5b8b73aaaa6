"""Digests of the side files that a save has written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from catalog.format.record import SideFile
from catalog.format.side_files import Digest

_PIECE = 1 << 20  # bytes that are read at once: they stay in the processor's cache until they are hashed
_WORTH_THREADS = 8 << 20  # bytes for which threads are begun
_THREADS = min(4, os.cpu_count() or 1)


def noted(digests: Mapping[str, tuple[int, str]], name: str, size: int) -> str | None:
    """Return the digest that was noted of a file, if it is of that size."""
    known = digests.get(name)
    return known[1] if known is not None and known[0] == size else None


def hashed(folder: str, files: Sequence[tuple[str, int]], digests: Mapping[str, tuple[int, str]]) -> list[SideFile]:
    """Return files with their digests: those that were noted, and of others those of what lies there.

    Parameters
    ----------
    folder : str
        Where they are.
    files : sequence of (str, int)
        Name and size of each.
    digests : mapping
        By name, the size and the digest that were noted as it was written.
    """
    unknown = [name for name, size in files if noted(digests, name, size) is None]
    found = {name: (size, noted(digests, name, size)) for name, size in files}
    paths = [os.path.join(folder, name) for name in unknown]
    if len(unknown) > 1 and sum(found[name][0] for name in unknown) > _WORTH_THREADS:
        with ThreadPoolExecutor(_THREADS, "functionfuse-digest") as pool:
            read = list(pool.map(digest_of_file, paths))
    else:
        read = [digest_of_file(path) for path in paths]
    found.update(zip(unknown, read, strict=True))
    return [SideFile(name, *found[name]) for name, _ in files]


def digest_of_file(path: str) -> tuple[int, str]:
    """Return size and digest of a file."""
    digest = Digest()
    size = 0
    buffer = bytearray(_PIECE)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
            size += count
    return size, digest.text()
