"""One file of a storage, read to its end: whether its bytes are those that were written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import xxhash

from catalog.errors import DamagedFooter, NewerFormat, NotABlob
from catalog.folder import OpenFile, Unreadable, found_in
from catalog.record import Footer, footer_from

_READ = os.O_RDONLY | os.O_CLOEXEC
_CHUNK = 1 << 20  # bytes that are in memory at once
_SHA1_SIZE = 20

Stamp = tuple[int, int, int, int]


@dataclass(frozen=True)
class Examined:
    """What a file is.

    Attributes
    ----------
    kind : str
        "result" (intact), "damaged", "unchecked", or "stranger": no result at all.
    stamp : tuple of int
        Device, inode, size and time of the last change: another one is another file.
    reason : str
        What is wrong.
    record : mapping
        What the journal has of it, or would have; only of a result.
    """

    kind: str
    stamp: Stamp
    reason: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)


def examine(root: str, folder: str, file: str) -> Examined | None:
    """Read a file to its end, a piece at a time.

    Parameters
    ----------
    root : str
        The storage's folder.
    folder, file : str
        Which file.

    Returns
    -------
    Examined or None
        None if there is no such file.
    """
    path = f"{root}/{folder}/{file}"
    try:
        handle = os.open(path, _READ)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return Examined("unchecked", (0, 0, 0, 0), f"it cannot be read: {error.strerror}")
    try:
        return _examine(handle, folder, file)
    finally:
        os.close(handle)


def stamp_of(status: os.stat_result) -> Stamp:
    """Return what tells one file from another."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _examine(handle: int, folder: str, file: str) -> Examined:
    stamp = stamp_of(os.fstat(handle))
    size = stamp[2]
    try:
        footer = footer_from(lambda count: os.pread(handle, count, max(0, size - count)), size)
        fault = _fault_of_body(handle, footer)
        return _judged(handle, folder, file, stamp, fault)
    except NotABlob:
        return _examine_older(handle, folder, file, stamp)
    except DamagedFooter as error:
        return Examined("damaged", stamp, str(error))
    except (NewerFormat, OSError) as error:
        return Examined("unchecked", stamp, str(error))


def _judged(handle: int, folder: str, file: str, stamp: Stamp, fault: str) -> Examined:
    if fault:
        return Examined("damaged", stamp, fault)
    return Examined("result", stamp, record=json.loads(found_in(OpenFile(handle), folder, file).line))


def _fault_of_body(handle: int, footer: Footer) -> str:
    checksum = xxhash.xxh3_128()
    _feed(checksum, handle, footer.body_size)
    return "" if checksum.digest() == footer.body_checksum else "the checksum of the body is wrong"


def _examine_older(handle: int, folder: str, file: str, stamp: Stamp) -> Examined:
    try:
        found_in(OpenFile(handle), folder, file)
    except Unreadable:
        return Examined("stranger", stamp, "it is neither a blob nor a file of the older format")
    checksum = hashlib.sha1(usedforsecurity=False)
    size = stamp[2] - _SHA1_SIZE
    _feed(checksum, handle, size)
    intact = checksum.digest() == os.pread(handle, _SHA1_SIZE, size)
    return _judged(handle, folder, file, stamp, "" if intact else "the SHA-1 at its end is not that of the pickle")


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None:
        """Take in more bytes."""


def _feed(checksum: _Hash, handle: int, size: int) -> None:
    position = 0
    while position < size and (data := os.pread(handle, min(_CHUNK, size - position), position)):
        checksum.update(data)
        position += len(data)
