"""The side files of one save: what a serializer writes beside the blob, in a folder that no other save uses."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from catalog.format.names import SIDE_FOLDER
from catalog.format.record import Record, SideFile
from catalog.store import regular_files
from catalog.store.base import Store
from catalog.store.sync import sync_path
from catalog.store.verified import fault_of
from functionfuse.errors import InvalidPickle, SideFileMissing
from functionfuse.serializers.base import DIGESTS, EXPECTED, FILE_PROTOCOL, S3_PROTOCOL, VERIFIES
from functionfuse.storage._digests import hashed, noted
from functionfuse.storage._expected import Expected

if TYPE_CHECKING:
    from catalog.store.objects import ObjectStore


def side_files(store: Store, folder: str, name: str = "") -> SideFiles:
    """Return the side files of the save called `name` in the folder of a workflow; of the older format without one."""
    below = SIDE_FOLDER + (f"/{name}" if name else "")
    if store.is_local:
        return SideFolder(f"{store.root}/{folder}", below)
    from catalog.store.objects import ObjectStore

    assert isinstance(store, ObjectStore)
    return SideObjects(store, f"{folder}/{below}")


class SideFiles(ABC):
    """The side files of one save.

    Attributes
    ----------
    expected : Expected or None
        What the files shall be; None where nobody can know, or wants to.
    verifies : bool
        Whether serializers shall hold what they read against checksums of their own.
    """

    def __init__(self) -> None:
        self._digests: dict[str, tuple[int, str]] = {}  # of what was hashed as it was written
        self.expected: Expected | None = None
        self.verifies = True

    @property
    @abstractmethod
    def protocols(self) -> Mapping[str, Any]:
        """What serializers are given to reach them."""

    def expect(self, record: Record | None, verify: bool) -> None:
        """Hold what is read from now on against the digests in a record, if that is wanted."""
        self.verifies = verify
        self.expected = Expected(record, self._content) if verify else None

    @abstractmethod
    def _content(self, filename: str) -> bytes:
        """Return all of one."""

    @abstractmethod
    def files(self) -> list[SideFile]:
        """Return name, size and digest of every one, sorted by name."""

    @abstractmethod
    def write(self, filename: str, data: bytes) -> None:
        """Write one."""

    @abstractmethod
    def remove(self, filename: str) -> None:
        """Delete one, or a folder of them; what is gone already is no error."""

    @abstractmethod
    def sync(self) -> None:
        """Return when all of them are on the medium."""

    @abstractmethod
    def discard(self) -> None:
        """Delete all of them."""


class SideFolder(SideFiles):
    """A folder of side files on a disk, which a serializer sees as its file protocol.

    Parameters
    ----------
    top : str
        The folder of the workflow.
    name : str
        The folder's path in it; made when the first file is written.
    """

    def __init__(self, top: str, name: str) -> None:
        super().__init__()
        self._top = top
        self.path = f"{top}/{name}"

    @property
    def protocols(self) -> dict[str, SideFolder]:
        """What serializers are given to reach their files."""
        return {FILE_PROTOCOL: self}

    def open(self, filename: str, mode: str = "rb") -> IO[Any]:
        """Open a side file.

        Parameters
        ----------
        filename : str
            Relative to this folder; folders within it are made when a file is written.
        mode : str
            As for the builtin `open`.

        Raises
        ------
        SideFileMissing
            If it is opened for reading and is not there.
        InvalidPickle
            If it is not what was written.
        ValueError
            If the name leads out of the folder.
        """
        file = self.open_unchecked(filename, mode)
        if self.expected is None or set(mode) & set("wax"):
            return file
        try:
            self._check(self.expected, file, filename)
        except BaseException:
            file.close()
            raise
        return file

    def _check(self, expected: Expected, file: IO[Any], filename: str) -> None:
        path = self._inside(filename)
        digest = expected.digest(self._relative(path))
        reason = fault_of(file.fileno(), digest) if digest is not None else ""
        if reason:
            raise InvalidPickle(f"the side file {path} is damaged: {reason}")

    def _content(self, filename: str) -> bytes:
        with self.open_unchecked(filename) as file:
            return bytes(file.read())

    def open_unchecked(self, filename: str, mode: str = "rb") -> IO[Any]:
        """Open a side file as `open` does, for who checks what he reads himself, a part at a time."""
        path = self._inside(filename)
        if not set(mode) & set("wax"):
            try:
                if self._is_reached(path):
                    return open(path, mode, opener=regular_files.open_file)
                raise regular_files.NotRegular(errno.ENOENT, "its folder is gone, or a link", path)
            except FileNotFoundError as error:
                reason = f": {error.strerror}" if isinstance(error, regular_files.NotRegular) else ""
                raise SideFileMissing(f"the side file {path} is gone{reason}") from error
        self._digests.pop(self._relative(path), None)
        regular_files.make_folders(self._top, os.path.dirname(path)[len(self._top) + 1 :])
        return open(path, mode, opener=regular_files.open_file)

    def note_digest(self, filename: str, size: int, digest: str) -> None:
        """Take note of the digest of a file that was hashed as it was written, so that it is not read again."""
        self._digests[self._relative(self._inside(filename))] = (size, digest)

    def remove(self, filename: str) -> None:
        """Delete a side file, or a folder of them; one that is gone already is no error."""
        path = self._inside(filename)
        if self._is_reached(path):
            _delete_tree(path)

    def files(self) -> list[SideFile]:
        """Return name, size and digest of every file in the folder, sorted by name.

        What was not hashed as it was written (HDF5 goes back and forth, others' serializers write as they like) is
        read once more, from memory: it was written just now.
        """
        paths = (os.path.join(folder, name) for folder, _, names in regular_files.walk(self.path) for name in names)
        found = [(self._relative(path), os.path.getsize(path)) for path in paths if regular_files.is_file(path)]
        return hashed(self.path, sorted(found), self._digests)

    def write(self, filename: str, data: bytes) -> None:
        """Write a file."""
        with self.open(filename, "wb") as file:
            file.write(data)

    def sync(self) -> None:
        """Have the file system put all that is in the folder on the medium, and its own name; none is no error."""
        if not regular_files.is_folder(self.path):
            return
        for folder, _, names in regular_files.walk(self.path):
            for name in names:
                if regular_files.is_file(os.path.join(folder, name)):
                    sync_path(os.path.join(folder, name))
            sync_path(folder)
        sync_path(os.path.dirname(self.path))

    def discard(self) -> None:
        """Delete the folder and all that is in it; a link in its place alone."""
        if self._is_reached(self.path):
            _delete_tree(self.path)

    def _is_reached(self, path: str) -> bool:
        """Tell whether there is the folder of a path, and no link leads out of the workflow's to it."""
        return regular_files.are_folders(self._top, os.path.dirname(path)[len(self._top) + 1 :])

    def _relative(self, path: str) -> str:
        return path[len(self.path) + 1 :]

    def _inside(self, filename: str) -> str:
        path = os.path.normpath(os.path.join(self.path, filename))
        if not path.startswith(self.path + os.sep):
            raise ValueError(f"side file name {filename!r} leads out of {self.path}")
        return path


def _delete_tree(path: str) -> None:
    """Delete a file, or a folder and what is in it, as far as that is possible; of links only themselves.

    `shutil.rmtree` works on descriptors, and where Ctrl-C strikes as it closes one, it closes that number again: of a
    file, perhaps, that another thread has opened meanwhile.
    """
    for folder, folders, files in regular_files.walk(path):
        for name in (*files, *folders):
            _delete(os.path.join(folder, name))
    _delete(path)


def _delete(path: str) -> None:
    with suppress(OSError):
        os.rmdir(path) if regular_files.is_folder(path) else os.unlink(path)


class SideObjects(SideFiles):
    """Side files under a URL, which a serializer reaches by a file system of fsspec.

    Parameters
    ----------
    store : ObjectStore
        The storage.
    prefix : str
        Where they are in it.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        super().__init__()
        self._store = store
        self._prefix = prefix

    @property
    def protocols(self) -> dict[str, Any]:
        """What serializers are given to reach their files."""
        scheme = self._store.root.partition("://")[0]
        return {
            S3_PROTOCOL: {
                "client": self._store.filesystem,
                "folder": f"{scheme}://{self._store.prefix}/{self._prefix}",
                DIGESTS: self._digests,
                EXPECTED: self.expected,
                VERIFIES: self.verifies,
            }
        }

    def _content(self, filename: str) -> bytes:
        return self._store.get(f"{self._prefix}/{filename}")

    def files(self) -> list[SideFile]:
        """Return name, size and digest of every file, sorted by name.

        What a serializer wrote past this package, by the client itself, has no digest: it would have to be fetched.
        """
        entries = self._store.ls(f"{self._prefix}/").entries
        found = sorted((entry.key[len(self._prefix) + 1 :], entry.size) for entry in entries)
        return [SideFile(name, size, noted(self._digests, name, size)) for name, size in found]

    def write(self, filename: str, data: bytes) -> None:
        """Write a file."""
        self._store.put(f"{self._prefix}/{filename}", data)

    def remove(self, filename: str) -> None:
        """Delete a file, or a folder of them."""
        path = f"{self._prefix}/{filename}"
        for entry in self._store.ls(path).entries:
            if entry.key == path or entry.key.startswith(f"{path}/"):
                self._store.delete(entry.key)

    def sync(self) -> None:
        """Do nothing: an object that has appeared is durable."""

    def discard(self) -> None:
        """Delete all files; where nothing answers any more, `verify` finds them."""
        if not self._store.patience.is_over:
            for entry in self._store.ls(f"{self._prefix}/").entries:
                self._store.delete(entry.key)
