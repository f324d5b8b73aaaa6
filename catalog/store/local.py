"""A folder on a disk as a store: no step takes more than the system calls that it needs."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from catalog.errors import CatalogUnusable
from catalog.format.ids import new_id
from catalog.format.names import CATALOG_FOLDER, SIDE_FOLDER
from catalog.store import clock, regular_files
from catalog.store.base import Changed, Entry, Listing, Store, Tail, Unreadable
from catalog.store.identity import claim_identity
from catalog.store.local_file import LocalFile, tag_of
from catalog.store.local_writer import LocalWriter, own_folder, sweep
from catalog.store.memory import mapped, read_all
from catalog.store.sync import sync_folder, sync_path

_SMALL = 1 << 16  # bytes that are sooner read than mapped
_PATIENCE = 100  # times that a folder may vanish under us before it counts as an error


class LocalStore(Store):
    """A folder on a disk.

    Parameters
    ----------
    root : str
        Absolute path; made when the first result is saved.

    Notes
    -----
    Links are not followed, but those that the root and the folders of workflows may be. Safe to use from several
    threads; can be pickled, and survives `fork`.
    """

    is_local = True

    def __init__(self, root: str) -> None:
        self.root = root
        self._prepared: set[str] = set()
        self._synced: set[str] = set()  # folders whose own names are on the medium

    def __reduce__(self) -> tuple[type[LocalStore], tuple[str]]:
        return LocalStore, (self.root,)

    @property
    def address(self) -> str:
        """The folder's path without links."""
        return os.path.realpath(self.root)

    # Reading

    def get(self, key: str) -> bytes:
        """Return a file."""
        return bytes(self.load(key, is_mapped=False))

    def tail(self, key: str, most: int) -> Tail:
        """Return the last bytes of a file."""
        with self.open(key) as file:
            return Tail(file.tail(most), file.size, file.modified_ns / 1e9, file.tag)

    def span(self, key: str, begin: int, end: int, tag: str) -> bytes:
        """Return bytes of a file."""
        with self.open(key) as file:
            if tag and file.tag != tag:
                raise Changed
            return file.read(begin, end - begin)

    def open(self, key: str, is_read_whole: bool = False) -> LocalFile:
        """Open a regular file."""
        handle = regular_files.open_file(self._path(key))
        try:
            return LocalFile(handle)
        except BaseException:
            os.close(handle)
            raise

    def load(self, key: str, is_mapped: bool = True) -> memoryview:
        """Return all bytes of a file.

        A small file is read. A larger one is mapped, and copied page by page where it is written to; it stays valid
        when it is removed. Unless it is to be mapped, it is read too.
        """
        handle = regular_files.open_file(self._path(key))
        try:
            data = os.read(handle, _SMALL + 1)
            if len(data) > _SMALL:
                return mapped(handle) if is_mapped else read_all(handle, os.fstat(handle).st_size)
            return memoryview(data)
        finally:
            os.close(handle)

    def stat(self, key: str) -> Entry | None:
        """Return what is known of a regular file."""
        with suppress(OSError, ValueError):  # such as of a name that no file can have
            status = os.lstat(f"{self.root}/{key}")
            if stat.S_ISREG(status.st_mode):
                return _entry(key, status)
        return None

    def ls(self, prefix: str, deep: bool = True) -> Listing:
        """List the regular files whose keys begin with `prefix`; all else counts as a folder."""
        folder, _, head = prefix.rpartition("/")
        top = f"{self.root}/{folder}" if folder else self.root
        if not self._is_reached(prefix):
            return Listing([], [], 0.0)
        entries: list[Entry] = []
        folders: list[str] = []
        waiting = [(top, folder)]
        while waiting:
            path, below = waiting.pop()
            for found in regular_files.entries(path):
                key = f"{below}/{found.name}" if below else found.name
                if path == top and not found.name.startswith(head):
                    continue
                with suppress(FileNotFoundError):  # removed meanwhile
                    if found.is_file(follow_symlinks=False):
                        entries.append(_entry(key, found.stat(follow_symlinks=False)))
                    elif not deep:
                        folders.append(key)
                    elif found.is_dir(follow_symlinks=not below):  # a workflow's folder may be a link
                        waiting.append((found.path, key))
        return Listing(sorted(entries, key=lambda each: each.key), sorted(folders), 0.0)

    def names(self, folder: str) -> list[str]:
        """Return the names of the regular files in a folder."""
        found = regular_files.entries(f"{self.root}/{folder}") if self._is_reached(f"{folder}/") else ()
        return [each.name for each in found if each.name[0] != "." and each.is_file(follow_symlinks=False)]

    def folders(self) -> list[tuple[str, int]]:
        """Return the folders of workflows, and when their entries last changed."""
        found = []
        for entry in regular_files.entries(self.root):
            if entry.name[0] != ".":
                with suppress(OSError):  # removed meanwhile, or a loop of links
                    if entry.is_dir():
                        found.append((entry.name, entry.stat().st_mtime_ns))
        return found

    def has_folder(self, folder: str) -> bool:
        """Tell whether there is a folder, or a link to one that may be."""
        return self._is_reached(f"{folder}/") and os.path.isdir(f"{self.root}/{folder}")

    @contextmanager
    def local_files(self, keys: Sequence[str]) -> Iterator[list[str]]:
        """Yield the paths of files, none of which is a link."""
        paths = [f"{self.root}/{key}" for key in keys]
        for key, path in zip(keys, paths, strict=True):
            if not regular_files.is_file(path):
                if os.path.lexists(path):
                    raise Unreadable(f"{path} is {regular_files.kind_of(path)}, and no regular file")
                raise FileNotFoundError(path)
            if not self._is_reached(key):
                raise Unreadable(f"a link leads to {path} out of the workflow's folder")
        yield paths

    # Writing

    def prepare(self, folder: str) -> None:
        """Make the folder of a workflow, and the storage itself, with its identity, if it is new.

        The process's first time also deletes temporaries that killed writers left long ago.
        """
        try:
            claim_identity(self)
            regular_files.make_workflow_folder(f"{self.root}/{folder}")
            for own in (f"{CATALOG_FOLDER}/journal", own_folder()):
                regular_files.make_folders(self.root, own)
            if not self._prepared:
                sweep(self.root)
            self._prepared.add(folder)
        except (FileExistsError, NotADirectoryError) as error:
            path = regular_files.in_the_way(error.filename)
            message = (
                f"{path} is {regular_files.kind_of(path)} where a folder is needed: move it away, or use another path"
            )
            raise CatalogUnusable(error.errno, message) from error
        except OSError as error:
            message = f"{self.root} cannot be written ({error.strerror or error}): choose another path"
            raise CatalogUnusable(error.errno, message) from error

    def is_writable(self) -> bool:
        """Tell whether journal and index may be written by this user."""
        folder = f"{self.root}/{CATALOG_FOLDER}"
        if os.path.lexists(folder):
            return regular_files.is_folder(folder) and os.access(folder, os.W_OK | os.X_OK)
        return os.access(self.root, os.W_OK | os.X_OK)

    def require_writable(self, folder: str) -> None:
        """Raise `CatalogUnusable` if a folder is there and may not be written to."""
        path = f"{self.root}/{folder}"
        if os.path.isdir(path) and not os.access(path, os.W_OK | os.X_OK):
            raise CatalogUnusable(errno.EACCES, f"{path} may not be written to")

    def writer(self, key: str) -> LocalWriter:
        """Return a new file, whose folder is made if this process does not know it yet."""
        folder = key.rpartition("/")[0]
        if folder.partition("/")[0] == CATALOG_FOLDER:  # which a question writes to, and does not claim
            return LocalWriter(self.root, key, lambda: regular_files.make_folders(self.root, folder))
        if folder not in self._prepared:
            self.prepare(folder)
        return LocalWriter(self.root, key, lambda: self.prepare(folder))

    def put(self, key: str, data: bytes) -> bool:
        """Write a durable file, over the one that is there."""
        folder = os.path.dirname(key)
        regular_files.make_folders(self.root, folder)
        writer = LocalWriter(self.root, key, lambda: regular_files.make_folders(self.root, folder))
        try:
            writer.open()
            writer.write([data])
            writer.sync()
            writer.close()
            writer.publish()
        finally:
            writer.discard()
        self._sync_above(key)
        return False

    def create(self, key: str, data: bytes) -> None:
        """Write a durable file if there is none."""
        path = f"{self.root}/{key}"
        with self._written(key, data) as temporary:
            try:
                os.link(temporary, path)  # unlike a rename, it replaces nothing
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links
                if os.path.lexists(path):
                    raise FileExistsError(errno.EEXIST, "it is there already", path) from None
                os.replace(temporary, path)
        # Not before it appears: one commit of the file system's journal takes half as long as two.
        sync_path(path)
        self._sync_above(key)

    @contextmanager
    def _written(self, key: str, data: bytes) -> Iterator[str]:
        """Have a temporary file beside a key."""
        folder, _, name = key.rpartition("/")
        regular_files.make_folders(self.root, folder)
        temporary = f"{self.root}/{folder}/.{name}.{new_id()}.tmp"
        try:
            with open(temporary, "xb") as file:
                file.write(data)
            yield temporary
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)

    def _sync_above(self, key: str) -> None:
        folder = os.path.dirname(f"{self.root}/{key}")
        while len(folder) >= len(self.root):
            sync_folder(folder)
            folder = os.path.dirname(folder)

    def delete(self, key: str, tag: str = "") -> bool:
        """Delete a file."""
        path = self._path(key)
        if tag:
            self._require_tag(key, tag)
        os.unlink(path)
        return False

    def copy(self, key: str, to: str, tag: str) -> None:
        """Give a file a second name: its content is there once, and is never changed in place."""
        path = self._path(key)
        self._require_tag(key, tag)
        regular_files.make_folders(self.root, os.path.dirname(to))
        os.link(path, f"{self.root}/{to}", follow_symlinks=False)

    def move(self, key: str, to: str, tag: str) -> None:
        """Move a file."""
        self._rename(key, to)
        if self._tag_of(to) != tag:  # it was overwritten just before
            regular_files.give_back(f"{self.root}/{to}", f"{self.root}/{key}")
            raise Changed

    def move_all(self, key: str, to: str) -> None:
        """Move a file or folder."""
        if os.path.lexists(f"{self.root}/{key}"):
            self._rename(key, to)

    def require_movable(self, key: str) -> None:
        """Raise the `OSError` that a move would raise, as far as that is known before."""
        path = f"{self.root}/{key}"
        folder = os.path.dirname(path)
        if os.lstat(path).st_dev != os.lstat(f"{self.root}/{CATALOG_FOLDER}").st_dev:
            raise OSError(errno.EXDEV, "it lies on another file system than the storage's folder")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "its folder cannot be written", folder)

    def _rename(self, key: str, to: str) -> None:
        path = self._path(key)
        regular_files.make_folders(self.root, os.path.dirname(to))
        os.rename(path, f"{self.root}/{to}")

    def remove_folder(self, folder: str) -> None:
        """Delete the folder of a workflow, and that of its side files, if nothing is left in it."""
        for path in (f"{self.root}/{folder}/{SIDE_FOLDER}", f"{self.root}/{folder}"):
            try:
                os.rmdir(path)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):  # the last: a link
                    raise

    def sync(self, folder: str) -> None:
        """Have the file system put the names of what was published in `folder` on the medium."""
        sync_path(f"{self.root}/{folder}")
        if folder not in self._synced:
            sync_folder(self.root)
            self._synced.add(folder)

    def unchanged_for(self, key: str) -> float:
        """Return for how long nothing changed."""
        top = f"{self.root}/{key}"
        newest = regular_files.changed_ns(top)
        for folder, folders, files in regular_files.walk(top):
            newest = max([newest, *(regular_files.changed_ns(os.path.join(folder, name)) for name in folders + files)])
        return (clock.now_ns(self.root) - newest) / 1e9

    def now(self) -> float:
        """Return the time by the clock of the file system."""
        return clock.now_ns(self.root) / 1e9

    # Links

    def _is_reached(self, key: str) -> bool:
        """Tell whether there is the folder of a key, and no link leads to it but that of a workflow's folder."""
        top, _, below = key.partition("/")
        folder = os.path.dirname(below)
        if top == CATALOG_FOLDER:
            return regular_files.are_folders(self.root, os.path.dirname(key))
        return not folder or regular_files.are_folders(f"{self.root}/{top}", folder)

    def _path(self, key: str) -> str:
        """Return the path of a key; `NotRegular` if its folder is gone, or a link leads to it."""
        path = f"{self.root}/{key}"
        is_deep = key.count("/") > 1 or key.startswith(CATALOG_FOLDER)  # else only a workflow's folder is on the way
        if is_deep and not self._is_reached(key):
            raise regular_files.NotRegular(errno.ENOENT, "its folder is gone, or a link", path)
        return path

    def _tag_of(self, key: str) -> str:
        entry = self.stat(key)
        return entry.tag if entry else ""

    def _require_tag(self, key: str, tag: str) -> None:
        if self._tag_of(key) != tag:
            raise Changed


def _entry(key: str, status: os.stat_result) -> Entry:
    return Entry(key, status.st_size, status.st_mtime_ns / 1e9, tag_of(status))
