"""A storage as one question sees it: its identity, and the journal's segments and compacted parts.

In a bucket, one question lists ``.catalog/`` once: that tells all of it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

from catalog.errors import Refused
from catalog.format.ids import new_id
from catalog.format.names import CATALOG_FOLDER
from catalog.journal.base import JOURNAL_FOLDER, RETIRED_FOLDER, SEGMENT_SUFFIX
from catalog.journal.open import journal_of
from catalog.journal.segments import Segment, appended, is_compacted, name_of, uploaded
from catalog.store import regular_files
from catalog.store.base import Entry, Listing, OpenFile, Store
from catalog.store.identity import IDENTITY_FILE, ensure_identity, read_identity

_CHUNK = 1 << 24  # bytes of a segment that are read at once

_identities: dict[tuple[Store, str], str] = {}  # by store and tag: what this process has read


class StorageView:
    """A storage, as one question sees it.

    Parameters
    ----------
    store : Store
        Where it is.
    scans_folders : bool
        Whether the folders of results are scanned; on a disk they always are.
    listing : Listing, optional
        What there is of the catalog's own, where that is not looked up file by file.

    Attributes
    ----------
    store, scans_folders
        As above.
    root : str
        The path or URL.
    """

    def __init__(self, store: Store, scans_folders: bool = False, listing: Listing | None = None) -> None:
        self.store = store
        self.root = store.root
        self.scans_folders = scans_folders or store.is_local
        self._listing = listing
        self._is_fresh = listing is not None

    @classmethod
    def of(cls, store: Store, scans_folders: bool = False) -> StorageView:
        """Return a storage with what there is now; this process's saves are waited for."""
        if store.is_local:
            return cls(store)
        journal_of(store).wait()
        return cls(store, scans_folders, _listed(store))

    @property
    def _entries(self) -> list[Entry]:
        """What was listed of the catalog's own."""
        return self._listing.entries if self._listing else []

    def exists(self) -> bool:
        """Tell whether there is anything."""
        return bool(self._entries) or self.store.has_folder("")

    # Identity

    def identity(self) -> str:
        """Return the storage's UUID; its path or URL if it has none.

        On a disk it is given one, where it can be written.
        """
        if not self.store.is_local:
            return self._listed_identity()
        if self.store.is_writable():
            with suppress(OSError):  # something stands in its place, or the disk is full
                return ensure_identity(self.store).uuid
        identity = read_identity(self.store)
        return identity.uuid if identity else self.store.address

    def _listed_identity(self) -> str:
        tag = next((entry.tag for entry in self._entries if entry.key == IDENTITY_FILE), None)
        if tag is None:
            return self.root
        known = (self.store, tag)
        if known not in _identities:
            identity = read_identity(self.store)
            if identity is None:
                return self.root
            _identities[known] = identity.uuid
        return _identities[known]

    # Journal

    def segments(self, is_listed: bool = False) -> list[Segment]:
        """Return every segment that is not compacted, oldest first.

        Parameters
        ----------
        is_listed : bool
            Whether those of a bucket's last listing will do.

        Returns
        -------
        list of Segment
            By their names.
        """
        if self.store.is_local:  # what compaction moves meanwhile is seen where it goes to
            return appended([*self.files(JOURNAL_FOLDER), *self.files(RETIRED_FOLDER)])
        if not (is_listed or self._is_fresh):
            self._listing = _listed(self.store)
        self._is_fresh = False
        return uploaded(self.files(JOURNAL_FOLDER))

    def compacted(self) -> dict[str, int]:
        """Return the names of the journal's Parquet files, oldest first, and their bytes; listed after the segments.

        On a disk they are listed until nothing changes meanwhile: where several are being merged, one listing may miss
        old and new.
        """
        found: dict[str, int] = {}
        while True:
            before = found
            files = self.files(JOURNAL_FOLDER)
            found = {name_of(each): each.size for each in files if is_compacted(name_of(each))}
            if not self.store.is_local or found == before:
                return found

    def files(self, folder: str) -> list[Entry]:
        """Return the files of one of the catalog's folders, in the order of their names; of a bucket as last listed."""
        if self.store.is_local:
            return self.store.ls(f"{folder}/", deep=False).entries
        return [entry for entry in self._entries if entry.key.startswith(f"{folder}/")]

    def now(self) -> float:
        """Return the time by the clock of the place, seconds since 1970.

        Of a bucket the time when it was listed; where it does not tell, as fsspec does not, a time before: this
        machine's clock may be ahead of the server's.
        """
        if self.store.is_local:
            return self.store.now()
        listed = self._listing.now if self._listing else 0.0
        return listed or max((entry.modified for entry in self._entries), default=0.0)

    def read(self, wanted: Iterable[tuple[Segment, int]]) -> Iterator[tuple[Segment, bytes, int]]:
        """Yield what segments hold from their positions on, in whole lines.

        Parameters
        ----------
        wanted : iterable of (Segment, int)
            Segments, and bytes from their beginnings: none of a segment of a bucket, which never changes.

        Yields
        ------
        tuple of (Segment, bytes, int)
            The segment, whole lines without the last one's end, and the bytes from the beginning to behind them.

        Raises
        ------
        FileNotFoundError
            If one was compacted meanwhile.
        """
        wanted = list(wanted)
        for (segment, _), content in zip(wanted, self.contents(wanted), strict=True):
            if content is None:
                raise FileNotFoundError(segment.key)
            for lines, end in content:
                yield segment, lines, end

    def contents(self, wanted: list[tuple[Segment, int]]) -> Iterator[Iterable[tuple[bytes, int]] | None]:
        """Yield for each segment its lines and their ends, as `read` does; None if it was compacted meanwhile."""
        return self.store.map(self._content, wanted)

    def _content(self, wanted: tuple[Segment, int]) -> Iterable[tuple[bytes, int]] | None:
        segment, position = wanted
        try:
            if self.store.is_local:
                return _lines(self.store.open(segment.key), position)
            data = self.store.get(segment.key)
        except FileNotFoundError:
            return None
        return [(data.removesuffix(b"\n"), len(data))]

    def open_compacted(self, name: str) -> IO[bytes]:
        """Open one of the journal's Parquet files; `FileNotFoundError` if it was merged into another meanwhile."""
        path = f"{self.root}/{JOURNAL_FOLDER}/{name}"
        if self.store.is_local:
            return open(path, "rb", opener=regular_files.open_file)
        file = io.BytesIO(self.store.get(f"{JOURNAL_FOLDER}/{name}"))
        file.name = path
        return file

    # Writing

    def is_writable(self) -> bool:
        """Tell whether journal and index may be written by this user, as far as that is known."""
        return self.store.is_writable()

    def append(self, lines: Iterable[str]) -> None:
        """Write events that are confirmed already, as a segment of their own."""
        with self.noting_refusals():
            data = "".join(f"{line}\n" for line in lines).encode("ascii")
            self.store.put(f"{JOURNAL_FOLDER}/{new_id()}{SEGMENT_SUFFIX}", data)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files of the journal, those that are still there."""

        def delete(name: str) -> None:
            with suppress(FileNotFoundError):
                self.store.delete(f"{JOURNAL_FOLDER}/{name}")

        for _ in self.store.map(delete, names):
            pass

    @contextmanager
    def noting_refusals(self) -> Iterator[None]:
        """Take note if what is written in a block is refused: it is not tried again."""
        try:
            yield
        except Refused:
            self.store.note_refusal()
            raise


def known_identity(store: Store) -> str | None:
    """Return the identity that a question of this process found last, if it was of a bucket."""
    known = [identity for (each, _), identity in _identities.items() if each is store]
    return known[-1] if known else None


def _listed(store: Store) -> Listing:
    return store.ls(f"{CATALOG_FOLDER}/")


def _lines(file: OpenFile, position: int) -> Iterator[tuple[bytes, int]]:
    """Yield whole lines from a position on, some at a time, and the bytes up to behind them; close the file."""
    with file:
        at, rest = position, b""
        while at < file.size and (data := file.read(at, min(_CHUNK, file.size - at))):  # not what comes meanwhile
            at += len(data)
            whole, newline, rest = (rest + data).rpartition(b"\n")
            if newline:
                position += len(whole) + 1
                yield whole, position


os.register_at_fork(after_in_child=_identities.clear)  # they tell what this process asked for
