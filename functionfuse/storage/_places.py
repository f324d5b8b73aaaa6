"""Where bytes go: folders of files on a local disk."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Any

from catalog.errors import NewerFormat
from catalog.format.names import CATALOG_FOLDER, SIDE_FOLDER
from catalog.format.record import Record, SideFile
from catalog.journal.append import JOURNAL_FOLDER, journal_of
from catalog.store import clock, regular
from catalog.store.folder_identity import claim_identity
from catalog.store.sync import sync_folder, sync_path
from catalog.store.verified import fault_of
from functionfuse.errors import InvalidPickle, SideFileMissing, StorageUnusable, UnsupportedFormat
from functionfuse.serializers.base import FILE_PROTOCOL
from functionfuse.storage._digests import hashed
from functionfuse.storage._expected import Expected
from functionfuse.storage._memory import mapped, read_all
from functionfuse.storage._place import Change, Place
from functionfuse.storage._sync import sync_tree

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_SMALL = 1 << 16  # bytes that are sooner read than mapped
_SHARDS = 16  # folders of temporaries: enough to keep processes apart, and no litter of one for each
#: Where temporaries are, inside the storage's folder.
TEMPORARY_FOLDER = f"{CATALOG_FOLDER}/tmp"
_ABANDONED = 7 * 24 * 3600 * 1_000_000_000  # nanoseconds since a temporary was last written to
_PATIENCE = 100  # times that a folder may vanish under us before it counts as an error


_log = logging.getLogger("functionfuse.storage")


class LocalPlace(Place):
    """A folder on a disk.

    Parameters
    ----------
    root : str
        Absolute path; made when the first result is saved.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        #: This process's journal for the storage.
        self.journal = journal_of(root)
        self._rooms: set[str] = set()
        self._synced: set[tuple[str, str | None]] = set()

    def __reduce__(self) -> tuple[type[LocalPlace], tuple[str]]:
        return LocalPlace, (self.root,)

    def make_room(self, folder: str) -> None:
        """Make the folder of a workflow, and the storage itself if it is new."""
        try:
            claim_identity(self.root)
            _make_folder(f"{self.root}/{folder}")
            for below in (JOURNAL_FOLDER, f"{TEMPORARY_FOLDER}/{_shard()}"):
                regular.make_folders(self.root, below)
            if not self._rooms:
                self.sweep()
            self._rooms.add(folder)
        except (FileExistsError, NotADirectoryError) as error:
            path = regular.in_the_way(error.filename)
            message = f"{path} is {regular.kind_of(path)} where a folder is needed: move it away, or use another path"
            raise StorageUnusable(error.errno, message) from error
        except NewerFormat as error:
            raise UnsupportedFormat(str(error)) from error
        except OSError as error:
            message = f"{self.root} cannot be written ({error.strerror or error}): choose another path"
            raise StorageUnusable(error.errno, message) from error

    def require_writable(self, folder: str) -> None:
        """Raise `StorageUnusable` if the folder of a workflow is there and may not be written to."""
        path = f"{self.root}/{folder}"
        if os.path.isdir(path) and not os.access(path, os.W_OK | os.X_OK):
            raise StorageUnusable(errno.EACCES, f"{path} may not be written to")

    def commit(self, change: Change) -> None:
        """Tell the journal of a change, and do it; no other event of this process is told in between."""
        try:
            self.journal.append(change.line, change.act)
        except OSError as error:
            if not change.frees or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._make_space(change)
        else:
            change.after()

    def _make_space(self, change: Change) -> None:
        """Do what cannot be told on a full disk, so that it can."""
        change.act()
        change.after()
        try:
            self.journal.append(change.line)
        except OSError as error:  # the next question finds the file gone
            _log.warning("%s/%s/%s is removed, and its event was not recorded: %s", self.root, *change.at, str(error))

    def hand_over(self, change: Change, failed: Callable[[BaseException], BaseException]) -> None:
        """Commit a change at once: that takes less than handing it over."""
        self.commit(change)

    def check(self) -> None:
        """Do nothing: what went wrong was raised."""

    def wait(self) -> None:
        """Do nothing: nothing is under way."""

    def tell(self, line: str, *, waits: bool = True) -> None:
        """Tell the journal of an event that is no change."""
        self.journal.append(line)

    def create(self, folder: str, file: str) -> LocalTemporary:
        """Return a new temporary file, to be opened, written and then published in `folder`."""
        if folder not in self._rooms:
            self.make_room(folder)
        return LocalTemporary(self.root, _take_name())

    def sweep(self) -> None:
        """Delete temporaries that no writer can be writing any more: killed processes leave them."""
        for folder, _, names in regular.walk(f"{self.root}/{TEMPORARY_FOLDER}"):
            for name in names:
                path = os.path.join(folder, name)
                with suppress(FileNotFoundError):
                    if clock.now_ns(self.root) - os.lstat(path).st_mtime_ns > _ABANDONED:
                        os.unlink(path)

    def publish(self, temporary: LocalTemporary, folder: str, file: str) -> bool:
        """Put a temporary file into its place, over the file that is there."""
        for _ in range(_PATIENCE):
            try:
                temporary.publish(f"{self.root}/{folder}/{file}")
                return False
            except FileNotFoundError:  # the workflow is being removed, or was by hand
                self.make_room(folder)
        temporary.publish(f"{self.root}/{folder}/{file}")
        return False

    def sync(self, folder: str) -> None:
        """Have the file system put the names of what was published in `folder` on the medium."""
        sync_path(f"{self.root}/{folder}")
        made = folder, self.journal.segment
        if made not in self._synced:  # what has got a folder or a segment since
            for path in (self.root, f"{self.root}/{CATALOG_FOLDER}", f"{self.root}/{JOURNAL_FOLDER}"):
                sync_folder(path)
            self._synced.add(made)

    def path(self, folder: str, file: str) -> str:
        """Return the path of a result's file."""
        return f"{self.root}/{folder}/{file}"

    def has_folder(self, folder: str) -> bool:
        """Tell whether there is such a workflow."""
        return os.path.isdir(f"{self.root}/{folder}")

    def exists(self, folder: str, file: str) -> bool:
        """Tell whether there is such a file."""
        return regular.is_file(f"{self.root}/{folder}/{file}")

    def open(self, folder: str, file: str) -> LocalSource:
        """Open a file for reading; `FileNotFoundError` if there is none."""
        handle = regular.open_file(f"{self.root}/{folder}/{file}")
        try:
            return LocalSource(handle)
        except BaseException:
            os.close(handle)
            raise

    def load(self, folder: str, file: str, is_mapped: bool = True) -> memoryview:
        """Return all bytes of a file; `FileNotFoundError` if there is none.

        A small file is read. A larger one is mapped, and copied page by page
        where it is written to; it stays valid when it is removed. Unless it
        is to be mapped, it is read too.
        """
        handle = regular.open_file(f"{self.root}/{folder}/{file}")
        try:
            data = os.read(handle, _SMALL + 1)
            if len(data) > _SMALL:
                return mapped(handle) if is_mapped else read_all(handle, os.fstat(handle).st_size)
            return memoryview(data)
        finally:
            os.close(handle)

    def files(self, folder: str) -> list[str]:
        """Return the names of all files of a workflow, in no order; hidden ones are left out."""
        entries = regular.entries(f"{self.root}/{folder}")
        return [entry.name for entry in entries if entry.name[0] != "." and entry.is_file(follow_symlinks=False)]

    def remove(self, folder: str, file: str) -> bool:
        """Delete a file; `FileNotFoundError` if there is none."""
        os.unlink(f"{self.root}/{folder}/{file}")
        return False

    def remove_folder(self, folder: str) -> None:
        """Delete a workflow's folder if nothing is left in it: another process may be saving there."""
        for path in (f"{self.root}/{folder}/{SIDE_FOLDER}", f"{self.root}/{folder}"):
            try:
                os.rmdir(path)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):  # the last: a link
                    raise

    def side_folder(self, folder: str, name: str = "") -> SideFolder:
        """Return the folder for the side files of the save called `name`; of the older format without a name."""
        return SideFolder(f"{self.root}/{folder}", SIDE_FOLDER + (f"/{name}" if name else ""))


class LocalTemporary:
    """A hidden file that becomes a result when it is complete.

    Parameters
    ----------
    root : str
        The storage's folder.
    name : str
        Its name, which another can have when it is gone.
    """

    __slots__ = ("_handle", "_name", "_path", "_publishing", "_root")

    def __init__(self, root: str, name: str) -> None:
        self._root = root
        self._handle = -1
        self._path = f"{root}/{TEMPORARY_FOLDER}/{name}"
        self._name = name
        self._publishing = False

    def open(self) -> None:
        """Make the file; not when its name is chosen, so that an interrupt in between finds who will discard it."""
        try:
            self._handle = os.open(self._path, _NEW, 0o666)
        except FileNotFoundError:
            regular.make_folders(self._root, f"{TEMPORARY_FOLDER}/{os.path.dirname(self._name)}")
            self._handle = os.open(self._path, _NEW, 0o666)

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Append all of some pieces."""
        written = os.writev(self._handle, pieces)
        if written < sum(map(len, pieces)):
            rest = memoryview(b"".join(pieces))[written:]
            while rest:
                rest = rest[os.write(self._handle, rest) :]

    def sync(self) -> None:
        """Return when all that was written is on the medium."""
        os.fsync(self._handle)

    def close(self) -> None:
        """Close the file; errors that the file system kept back are raised here."""
        handle, self._handle = self._handle, -1
        os.close(handle)

    def publish(self, path: str) -> None:
        """Rename the file to `path`, replacing what is there."""
        self._publishing = True
        try:
            os.replace(self._path, path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._move_beside(path)  # the workflow's folder is a link to another file system
            os.replace(self._path, path)
        name, self._name = self._name, ""
        _free_names.append(name)

    def _move_beside(self, path: str) -> None:
        beside = os.path.join(os.path.dirname(path), f".{os.path.basename(self._path)}")
        try:
            shutil.copyfile(self._path, beside)
            sync_path(beside)  # as the original may have been
        except BaseException:
            _unlink_present(beside)
            raise
        os.unlink(self._path)
        self._path = beside

    def discard(self) -> bool:
        """Delete the file; False if it was published and so is no longer there."""
        if not self._name:  # another may have the path by now
            return False
        if self._handle >= 0:
            self.close()
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            return not self._publishing
        return True


# Temporaries have folders of their own, of which each process uses one, and a name that is used again as soon as the
# file is published. Measured on ext4: four processes that make them in the workflow's folder wait for its lock and take
# 1.5 times as long; a new name for every file makes the folder grow, at 20 µs a save.
_free_names: deque[str] = deque()


def _take_name() -> str:
    try:
        return _free_names.pop()
    except IndexError:
        return f"{_shard()}/{os.urandom(6).hex()}"


def _shard() -> str:
    return f"{os.getpid() % _SHARDS:x}"


os.register_at_fork(after_in_child=_free_names.clear)


class LocalSource:
    """A file that is open for reading.

    Parameters
    ----------
    handle : int
        Its file descriptor.
    """

    __slots__ = ("_handle", "size")

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self.size = os.fstat(handle).st_size

    def tail(self, size: int) -> bytes:
        """Return the last `size` bytes, all of them if there are fewer."""
        return os.pread(self._handle, size, max(0, self.size - size))

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    def __enter__(self) -> LocalSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SideFolder:
    """The folder of side files that a serializer sees as its file protocol.

    Parameters
    ----------
    top : str
        The folder of the workflow.
    name : str
        The folder's path in it; made when the first file is written.
    """

    def __init__(self, top: str, name: str) -> None:
        self._top = top
        self.path = f"{top}/{name}"
        self._digests: dict[str, tuple[int, str]] = {}  # of what was hashed as it was written
        #: What the files shall be; None where nobody can know, or wants to.
        self.expected: Expected | None = None
        #: Whether serializers shall hold what they read against checksums of their own.
        self.verifies = True

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
            self._check(file, filename)
        except BaseException:
            file.close()
            raise
        return file

    def _check(self, file: IO[Any], filename: str) -> None:
        assert self.expected is not None
        path = self._inside(filename)
        digest = self.expected.digest(self._relative(path))
        reason = fault_of(file.fileno(), digest) if digest is not None else ""
        if reason:
            raise InvalidPickle(f"the side file {path} is damaged: {reason}")

    def expect(self, record: Record | None, verify: bool) -> None:
        """Hold what is read from now on against the digests in a record, if that is wanted."""
        self.verifies = verify
        self.expected = Expected(record, self._content) if verify else None

    def _content(self, filename: str) -> bytes:
        with self.open_unchecked(filename) as file:
            return bytes(file.read())

    def open_unchecked(self, filename: str, mode: str = "rb") -> IO[Any]:
        """Open a side file as `open` does, for who checks what he reads himself, a part at a time."""
        path = self._inside(filename)
        if not set(mode) & set("wax"):
            try:
                if self._is_reached(path):
                    return open(path, mode, opener=regular.open_file)
                raise regular.NotRegular(errno.ENOENT, "its folder is gone, or a link", path)
            except FileNotFoundError as error:
                reason = f": {error.strerror}" if isinstance(error, regular.NotRegular) else ""
                raise SideFileMissing(f"the side file {path} is gone{reason}") from error
        self._digests.pop(self._relative(path), None)
        regular.make_folders(self._top, os.path.dirname(path)[len(self._top) + 1 :])
        return open(path, mode, opener=regular.open_file)

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
        paths = (os.path.join(folder, name) for folder, _, names in regular.walk(self.path) for name in names)
        found = [(self._relative(path), os.path.getsize(path)) for path in paths if regular.is_file(path)]
        return hashed(self.path, sorted(found), self._digests)

    def write(self, filename: str, data: bytes) -> None:
        """Write a file."""
        with self.open(filename, "wb") as file:
            file.write(data)

    def sync(self) -> None:
        """Have the file system put all that is in the folder on the medium."""
        sync_tree(self.path)

    def discard(self) -> None:
        """Delete the folder and all that is in it; a link in its place alone."""
        if self._is_reached(self.path):
            _delete_tree(self.path)

    def _is_reached(self, path: str) -> bool:
        """Tell whether there is the folder of a path, and no link leads out of the workflow's to it."""
        return regular.are_folders(self._top, os.path.dirname(path)[len(self._top) + 1 :])

    def _relative(self, path: str) -> str:
        return path[len(self.path) + 1 :]

    def _inside(self, filename: str) -> str:
        path = os.path.normpath(os.path.join(self.path, filename))
        if not path.startswith(self.path + os.sep):
            raise ValueError(f"side file name {filename!r} leads out of {self.path}")
        return path


def _make_folder(path: str) -> None:
    """Make a workflow's folder, which others may be removing while it is empty; a link to one counts as one."""
    for _ in range(_PATIENCE):
        try:
            return regular.make_folder(path)
        except FileExistsError:  # of a folder, of one that is gone again, or of a file
            if os.path.isdir(path):
                return None
            if os.path.lexists(path):
                raise
    return regular.make_folder(path)


def _delete_tree(path: str) -> None:
    """Delete a file, or a folder and what is in it, as far as that is possible; of links only themselves.

    `shutil.rmtree` works on descriptors, and where Ctrl-C strikes as it closes one, it closes that number again: of a
    file, perhaps, that another thread has opened meanwhile.
    """
    for folder, folders, files in regular.walk(path):
        for name in (*files, *folders):
            _delete(os.path.join(folder, name))
    _delete(path)


def _delete(path: str) -> None:
    with suppress(OSError):
        os.rmdir(path) if regular.is_folder(path) else os.unlink(path)


def _unlink_present(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
