"""One file of a storage, read to its end: whether its bytes are those that were written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import xxhash

from catalog.errors import DamagedFooter, NewerFormat, NotABlob
from catalog.format.footer import Footer, footer_from
from catalog.store.base import OpenFile, Store, Unreadable
from catalog.store.blobs import StoredBlob, blob_in
from catalog.store.reading import opened as opened_in

_SHA1_SIZE = 20


@dataclass(frozen=True)
class Examined:
    """What a file is.

    Attributes
    ----------
    kind : str
        "result" (intact), "damaged", "unchecked", or "stranger": no result at all.
    tag : str
        What tells it from another file; empty if it could not be read.
    size : int
        Bytes.
    reason : str
        What is wrong.
    blob : StoredBlob or None
        What it says of itself; only of a result.
    """

    kind: str
    tag: str
    size: int = 0
    reason: str = ""
    blob: StoredBlob | None = None


def examine(store: Store, folder: str, file: str) -> Examined | None:
    """Read a file to its end, a piece at a time.

    Parameters
    ----------
    store : Store
        The storage.
    folder, file : str
        Which file.

    Returns
    -------
    Examined or None
        None if there is no such file.
    """
    try:
        with opened_in(store, f"{folder}/{file}") as opened:
            return _examine(opened, folder, file)
    except FileNotFoundError:
        return None
    except Unreadable as error:
        return Examined("unchecked", "", reason=str(error))


def _examine(opened: OpenFile, folder: str, file: str) -> Examined:
    try:
        footer = footer_from(opened.tail, opened.size)
        fault = _fault_of_body(opened, footer)
        if not fault:
            _ = footer.record  # `DamagedFooter` if it is invalid
        return _judged(opened, folder, file, fault)
    except NotABlob:
        return _examine_older(opened, folder, file)
    except DamagedFooter as error:
        return _examined("damaged", opened, str(error))
    except NewerFormat as error:
        return _examined("unchecked", opened, str(error))


def _judged(opened: OpenFile, folder: str, file: str, fault: str) -> Examined:
    if fault:
        return _examined("damaged", opened, fault)
    return Examined("result", opened.tag, opened.size, blob=blob_in(opened, folder, file))


def _examined(kind: str, opened: OpenFile, reason: str) -> Examined:
    return Examined(kind, opened.tag, opened.size, reason)


def _fault_of_body(opened: OpenFile, footer: Footer) -> str:
    checksum = xxhash.xxh3_128()
    _feed(checksum, opened, footer.body_size)
    return "" if checksum.digest() == footer.body_checksum else "the checksum of the body is wrong"


def _examine_older(opened: OpenFile, folder: str, file: str) -> Examined:
    try:
        blob_in(opened, folder, file)
    except Unreadable:
        return _examined("stranger", opened, "it is neither a blob nor a file of the older format")
    checksum = hashlib.sha1(usedforsecurity=False)
    size = opened.size - _SHA1_SIZE
    _feed(checksum, opened, size)
    intact = checksum.digest() == opened.read(size, _SHA1_SIZE)
    return _judged(opened, folder, file, "" if intact else "the SHA-1 at its end is not that of the pickle")


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None:
        """Take in more bytes."""


def _feed(checksum: _Hash, opened: OpenFile, size: int) -> None:
    position = 0
    while position < size and (data := opened.read(position, min(opened.piece, size - position))):
        checksum.update(data)
        position += len(data)
