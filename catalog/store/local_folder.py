"""A storage's folder on a disk, as the catalog sees it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from catalog.errors import NewerFormat
from catalog.format.names import CATALOG_FOLDER
from catalog.journal.append import RETIRED_FOLDER, append_all
from catalog.journal.base import JOURNAL_FOLDER, SEGMENT_SUFFIX
from catalog.journal.compaction import Compaction
from catalog.store import regular
from catalog.store.folder import Compactor, Folder, Found, OpenFile, Segment, Unreadable, found_in, is_compacted
from catalog.store.folder_identity import ensure_identity, read_identity

if TYPE_CHECKING:
    from catalog.journal.compaction import FoldedJournal
    from catalog.store.upkeep import Upkeep

_CHUNK = 1 << 24  # bytes of a segment that are read at once


class LocalFolder(Folder):
    """A folder on a disk.

    Parameters
    ----------
    root : str
        Absolute path.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def is_writable(self) -> bool:
        """Tell whether journal and index may be written by this user."""
        folder = f"{self.root}/{CATALOG_FOLDER}"
        if os.path.lexists(folder):
            return regular.is_folder(folder) and os.access(folder, os.W_OK | os.X_OK)
        return os.access(self.root, os.W_OK | os.X_OK)

    def exists(self) -> bool:
        """Tell whether there is a folder."""
        return os.path.isdir(self.root)

    def has_catalog(self) -> bool:
        """Tell whether there is a catalog's folder."""
        return regular.is_folder(f"{self.root}/{CATALOG_FOLDER}")

    def identity(self) -> str:
        """Return the storage's UUID, which it is given if it has none; its path where it cannot be written."""
        if self.is_writable():
            with suppress(OSError):  # something stands in its place, or the disk is full
                return ensure_identity(self.root).uuid
        identity = read_identity(self.root)
        return identity.uuid if identity else self.real_root()

    def real_root(self) -> str:
        """Return the folder's path without links."""
        return os.path.realpath(self.root)

    def append(self, lines: Iterable[str]) -> None:
        """Write events that came true already, as a segment of their own."""
        append_all(self.root, lines)

    def compaction(self, index: FoldedJournal) -> Compactor:
        """Return what compacts the journal."""
        return Compaction(index, self)

    def segments(self) -> list[Segment]:
        """Return every journal segment that is not compacted, oldest first.

        The journal's folder is listed first: a segment that compaction moves meanwhile is seen where it goes to.
        """
        found = {}
        for folder in (JOURNAL_FOLDER, RETIRED_FOLDER):
            for entry in self._files(folder):
                if entry.name.endswith(SEGMENT_SUFFIX) and entry.name[0] != ".":
                    with suppress(FileNotFoundError):  # compacted meanwhile
                        status = entry.stat(follow_symlinks=False)
                        found[entry.name] = Segment(entry.name, entry.path, status.st_size, status.st_mtime_ns)
        return [found[name] for name in sorted(found)]

    def compacted(self) -> list[str]:
        """Return the names of the journal's Parquet files, oldest first.

        Listed until nothing changes meanwhile: where several are being merged, one listing may miss old and new.
        """
        names: list[str] | None = None
        while True:
            before = names
            names = sorted(e.name for e in self._files(JOURNAL_FOLDER) if is_compacted(e.name))
            if names == before or not names:
                return names

    def read(self, wanted: Iterable[tuple[Segment, int]]) -> Iterator[tuple[Segment, bytes, int]]:
        """Yield what segments hold from their positions on."""
        for segment, position in wanted:
            for data, end in self.lines(segment, position, _CHUNK):
                yield segment, data, end

    def lines(self, segment: Segment, position: int, most: int) -> Iterator[tuple[bytes, int]]:
        """Yield what a segment holds from `position` on, in whole lines, with the position behind them.

        Parameters
        ----------
        segment : Segment
            One of `segments`.
        position : int
            Bytes from its beginning.
        most : int
            About how many bytes to yield at once.

        Yields
        ------
        tuple of (bytes, int)
            Whole lines without the last one's end, and the bytes from the beginning to behind them.

        Raises
        ------
        FileNotFoundError
            If it was compacted meanwhile.
        """
        with open(segment.path, "rb", opener=regular.open_file) as file:
            left = os.fstat(file.fileno()).st_size - position  # not what is written meanwhile: it would never end
            file.seek(position)
            rest = b""
            while left > 0 and (data := file.read(min(most, left))):
                left -= len(data)
                whole, newline, rest = (rest + data).rpartition(b"\n")
                if newline:
                    position += len(whole) + 1
                    yield whole, position

    def open_compacted(self, name: str) -> IO[bytes]:
        """Open one of the journal's Parquet files; `FileNotFoundError` if it was merged into another meanwhile."""
        return open(f"{self.root}/{JOURNAL_FOLDER}/{name}", "rb", opener=regular.open_file)

    def _files(self, folder: str) -> Iterator[os.DirEntry[str]]:
        """Yield the files of one of the catalog's folders."""
        if regular.are_folders(self.root, folder):
            yield from (e for e in regular.entries(f"{self.root}/{folder}") if e.is_file(follow_symlinks=False))

    def look_at(self, folder: str, file: str) -> Found | None:
        """Return what a file holds, None if it is not there; raises as `look` does."""
        try:
            handle = regular.open_file(f"{self.root}/{folder}/{file}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Unreadable from error
        try:
            return found_in(OpenFile(handle), folder, file)
        except (OSError, ValueError, NewerFormat) as error:
            raise Unreadable from error
        finally:
            os.close(handle)

    @contextmanager
    def fetched(self, folder: str, names: Sequence[str]) -> Iterator[list[str]]:
        """Yield the paths of files below a folder, none of which is a link."""
        paths = [f"{folder}/{name}" for name in names]
        for path in paths:
            workflow, _, below = path.partition("/")
            if not regular.is_file(f"{self.root}/{path}"):
                if os.path.lexists(f"{self.root}/{path}"):
                    raise Unreadable
                raise FileNotFoundError(f"{self.root}/{path}")
            if not regular.are_folders(f"{self.root}/{workflow}", os.path.dirname(below)):
                raise Unreadable
        yield [f"{self.root}/{path}" for path in paths]

    def upkeep(self) -> Upkeep:
        """Return what verifies and repairs the folder."""
        from catalog.store.upkeep import LocalUpkeep

        return LocalUpkeep(self.root)

    def workflows(self) -> list[tuple[str, int]]:
        """Return every workflow's folder and when its entries last changed, ns since 1970."""
        found = []
        for entry in regular.entries(self.root):
            if entry.name[0] != ".":
                with suppress(OSError):  # removed meanwhile, or a loop of links
                    if entry.is_dir():
                        found.append((entry.name, entry.stat().st_mtime_ns))
        return found

    def files(self, folder: str) -> list[str]:
        """Return the names of the files in a workflow's folder that can be results."""
        entries = regular.entries(f"{self.root}/{folder}")
        with suppress(PermissionError):  # such as lost+found
            return [each.name for each in entries if each.name[0] != "." and each.is_file(follow_symlinks=False)]
        return []
