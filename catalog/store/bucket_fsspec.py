"""A prefix in any place that fsspec reaches."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any, TypeVar

from catalog.errors import CatalogUnusable
from catalog.format.ids import new_id
from catalog.store.bucket import UNDER_WAY, Bucket, Changed, Entry, Listing, Tail, Upload

T = TypeVar("T")

#: Places in which an object that is written or copied by one call appears as a whole. Elsewhere it is moved.
_ATOMIC = frozenset({"memory", "s3", "s3a", "gs", "gcs", "abfs", "az", "abfss", "oss", "obs", "tos", "oci"})
_IS_SECRET = re.compile("token|secret|password|passwd|key|credential|sas|connection_string", re.IGNORECASE).search


class FsspecBucket(Bucket):
    """A prefix in any place that fsspec reaches.

    Parameters
    ----------
    filesystem : fsspec.AbstractFileSystem
        How it is reached.
    root : str
        The prefix as the file system names it.
    url : str
        The prefix as a person writes it.
    """

    tells_changes = False

    def __init__(self, filesystem: Any, root: str, url: str) -> None:
        super().__init__()
        self._fs = filesystem
        self._root = root.rstrip("/")
        self.url = url.rstrip("/")
        protocol = filesystem.protocol
        self._is_atomic = not _ATOMIC.isdisjoint((protocol,) if isinstance(protocol, str) else protocol)

    @property
    def address(self) -> str:
        """URL and what options are texts, such as an account or a host, but no secrets, which change."""
        options = self._fs.storage_options.items()
        return f"{self.url} {sorted(item for item in options if isinstance(item[1], str) and not _IS_SECRET(item[0]))}"

    @property
    def filesystem(self) -> Any:
        """The file system."""
        return self._fs

    @property
    def root(self) -> str:
        """The prefix."""
        return self._root

    def get(self, key: str) -> bytes:
        """Return an object."""
        return self._try(lambda: bytes(self._fs.cat_file(self._path(key))))[0]

    def tail(self, key: str, most: int) -> Tail:
        """Return the last bytes of an object."""

        def read() -> Tail:
            path = self._path(key)
            about = self._fs.info(path)
            while about["type"] == "file":
                size = int(about["size"])
                data = bytes(self._fs.cat_file(path, start=max(0, size - most), end=size)) if size else b""
                before, about = about, self._fs.info(path)
                if _tag(about) == _tag(before):
                    return Tail(data, size, _changed(about), _tag(about))
            raise FileNotFoundError(path)

        return self._try(read)[0]

    def span(self, key: str, begin: int, end: int, tag: str) -> bytes:
        """Return bytes of an object."""
        data = self._try(lambda: bytes(self._fs.cat_file(self._path(key), start=begin, end=end)))[0]
        if len(data) < end - begin:  # it was overwritten by a smaller one
            raise Changed
        return data

    def put(self, key: str, data: bytes) -> bool:
        """Write an object."""
        return self._try(lambda: self._write(key, data))[1]

    def create(self, key: str, data: bytes) -> None:
        """Write an object if there is none; two at once may both succeed, the last one counts."""
        if self._try(lambda: self._fs.exists(self._path(key)))[0]:
            raise FileExistsError(f"{self.url}/{key} is there already")
        self.put(key, data)

    def delete(self, key: str, tag: str = "") -> bool:
        """Delete an object."""

        def remove() -> None:
            self._check(key, tag)
            try:
                self._fs.rm_file(self._path(key))
            except FileNotFoundError:
                self._fs.invalidate_cache()

        return self._try(remove)[1]

    def copy(self, key: str, to: str, tag: str) -> None:
        """Copy an object."""

        def copy() -> None:
            self._check(key, tag)
            self._fs.makedirs(self._fs._parent(self._path(to)), exist_ok=True)
            self._fs.cp_file(self._path(key), self._path(to))

        self._try(copy)

    def _check(self, key: str, tag: str) -> None:
        if tag and _tag(self._fs.info(self._path(key))) != tag:
            raise Changed

    def listing(self, prefix: str, deep: bool = True) -> Listing:
        """List objects."""
        folder, _, head = prefix.rpartition("/")

        def read() -> list[dict[str, Any]]:
            path = self._path(folder) if folder else self._root
            self._fs.invalidate_cache()
            try:
                if deep:
                    return self._below(path)
                return list(self._fs.ls(path, detail=True))
            except (FileNotFoundError, NotADirectoryError):
                return []

        found, folders = [], []
        for about in self._try(read)[0]:
            key = self._key(about["name"])
            if key.rpartition("/")[2].startswith(head) or (deep and key.startswith(prefix)):
                if about["type"] == "file":
                    found.append(Entry(key, int(about["size"]), _changed(about), _tag(about)))
                elif not deep:
                    folders.append(key)
        return Listing(sorted(found, key=lambda each: each.key), sorted(folders), 0.0)

    def _below(self, path: str) -> list[dict[str, Any]]:
        """Return all objects below a folder."""
        from fsspec import AbstractFileSystem

        if type(self._fs).find is not AbstractFileSystem.find:
            return list(self._fs.find(path, detail=True).values())
        found = []
        folders = [path]
        while folders:  # fsspec's own `find` takes a folder that cannot be read for an empty one
            with suppress(FileNotFoundError, NotADirectoryError):
                for about in self._fs.ls(folders.pop(), detail=True):
                    if about["type"] == "directory":
                        folders.append(about["name"])
                    else:
                        found.append(about)
        return found

    def upload(self, key: str) -> Upload:
        """Begin a large object."""
        return _Stream(self, key)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _key(self, path: str) -> str:
        return str(path)[len(self._root) :].strip("/") if self._root else str(path).strip("/")

    def _try(self, action: Callable[[], T]) -> tuple[T, bool]:
        return self.patiently(action)

    def _write(self, key: str, data: bytes) -> None:
        if self._is_atomic:
            self._fs.pipe_file(self._path(key), data)
            return
        upload = _Stream(self, key)
        try:
            upload.send(1, data)
            upload.complete()
        except BaseException:
            upload.abort()
            raise


class _Stream(Upload):
    """A large object, written in order: what fsspec has in common knows no parts that are sent at once.

    It is written beside and then moved or copied, in every place: a file of fsspec may replace the old object when it
    is opened, or when it is collected half written.
    """

    def __init__(self, bucket: FsspecBucket, key: str) -> None:
        self._fs = bucket._fs
        self._is_atomic = bucket._is_atomic
        self._path = bucket._path(key)
        self._beside = bucket._path(f"{UNDER_WAY}{new_id()}")
        for each in (self._path, self._beside) if not self._is_atomic else ():
            self._fs.makedirs(self._fs._parent(each), exist_ok=True)
        self._file = self._fs.open(self._beside, "wb")
        self._sent = 0
        self._failure: BaseException | None = None  # after which no part is written
        self._turn = threading.Condition()

    def send(self, number: int, data: bytes) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self._failure is not None or self._sent == number - 1)
            if self._failure is not None:
                raise self._failure
            try:
                self._file.write(data)
                self._sent = number
            except BaseException as error:
                self._failure = error
                raise
            finally:
                self._turn.notify_all()

    def complete(self) -> bool:
        self._file.close()
        if self._is_atomic:
            self._fs.cp_file(self._beside, self._path)
            with suppress(Exception):  # the object is there, so nothing has failed
                self._fs.rm_file(self._beside)
        else:
            self._fs.mv(self._beside, self._path)
        self._fs.invalidate_cache()
        return False

    def abort(self) -> None:
        with self._turn:
            self._failure = CatalogUnusable(f"{self._path} was given up before all of it was written")
            self._turn.notify_all()
        with suppress(Exception):  # such as that of the part that failed
            self._file.close()
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._beside)


def _changed(about: dict[str, Any]) -> float:
    for name in ("mtime", "LastModified", "last_modified", "updated", "created", "modified"):
        value = about.get(name)
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    return 0.0


def _tag(about: dict[str, Any]) -> str:
    return str(about.get("ETag") or about.get("etag") or f"{about['size']}-{_changed(about)}-{about.get('ino', '')}")
