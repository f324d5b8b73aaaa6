"""A prefix in any place that fsspec reaches."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

from catalog.errors import CatalogUnusable
from catalog.format.ids import new_id
from catalog.format.names import CATALOG_FOLDER
from catalog.store.base import Changed, Entry, Listing, Tail
from catalog.store.filesystems import shared
from catalog.store.object_writer import Upload
from catalog.store.objects import UNDER_WAY, ObjectStore
from catalog.store.retry import Patience

#: Places in which an object that is written or copied by one call appears as a whole. Elsewhere it is moved.
_ATOMIC = frozenset({"memory", "s3", "s3a", "gs", "gcs", "abfs", "az", "abfss", "oss", "obs", "tos", "oci"})
_IS_SECRET = re.compile("token|secret|password|passwd|key|credential|sas|connection_string", re.IGNORECASE).search


class FsspecStore(ObjectStore):
    """A prefix in any place that fsspec reaches.

    Parameters
    ----------
    url : str
        The prefix as a person writes it.
    options : mapping
        Keyword arguments of the file system.

    Raises
    ------
    CatalogUnusable
        On use, if there is no such file system, or it does not take the options.
    """

    tells_changes = False

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        super().__init__(url, options)
        self._patience = Patience()

    def _connect(self) -> Any:
        protocol = self.root.partition("://")[0]
        made = {"auto_mkdir": True} if protocol in ("file", "local") else {}
        given = {**made, **self.options, "skip_instance_cache": protocol != "memory"}
        try:
            import fsspec

            return shared(protocol, given, lambda: fsspec.filesystem(protocol, **given))
        except (ImportError, ValueError, TypeError) as error:
            options = json.dumps(sorted(self.options))
            raise CatalogUnusable(f"{self.root} cannot be opened with the options {options}: {error}") from error

    @cached_property
    def _is_atomic(self) -> bool:
        protocol = self.filesystem.protocol
        return not _ATOMIC.isdisjoint((protocol,) if isinstance(protocol, str) else protocol)

    @property
    def patience(self) -> Patience:
        """For how long requests are tried again."""
        return self._patience

    @property
    def address(self) -> str:
        """URL and what options are texts, such as an account or a host, but no secrets, which change."""
        options = self.filesystem.storage_options.items()
        shown = sorted(item for item in options if isinstance(item[1], str) and not _IS_SECRET(item[0]))
        return f"{self.root} {shown}"

    @cached_property
    def prefix(self) -> str:
        """The root as the file system names it."""
        return str(self.filesystem._strip_protocol(self.root)).rstrip("/")

    def get(self, key: str) -> bytes:
        """Return an object."""
        return self.retry(lambda: bytes(self.filesystem.cat_file(self._path(key))))[0]

    def tail(self, key: str, most: int) -> Tail:
        """Return the last bytes of an object."""

        def read() -> Tail:
            path = self._path(key)
            about = self.filesystem.info(path)
            while about["type"] == "file":
                size = int(about["size"])
                data = bytes(self.filesystem.cat_file(path, start=max(0, size - most), end=size)) if size else b""
                before, about = about, self.filesystem.info(path)
                if _tag(about) == _tag(before):
                    return Tail(data, size, _changed(about), _tag(about))
            raise FileNotFoundError(path)

        return self.retry(read)[0]

    def span(self, key: str, begin: int, end: int, tag: str) -> bytes:
        """Return bytes of an object."""
        data = self.retry(lambda: bytes(self.filesystem.cat_file(self._path(key), start=begin, end=end)))[0]
        if len(data) < end - begin:  # it was overwritten by a smaller one
            raise Changed
        return data

    def put(self, key: str, data: bytes) -> bool:
        """Write an object."""
        return self.retry(lambda: self._write(key, data))[1]

    def create(self, key: str, data: bytes) -> None:
        """Write an object if there is none; two at once may both succeed, the last one counts."""
        if self.retry(lambda: self.filesystem.exists(self._path(key)))[0]:
            raise FileExistsError(f"{self.root}/{key} is there already")
        self.put(key, data)

    def delete_object(self, key: str, tag: str) -> bool:
        """Delete an object."""

        def remove() -> None:
            self._check(key, tag)
            try:
                self.filesystem.rm_file(self._path(key))
            except FileNotFoundError:
                self.filesystem.invalidate_cache()

        return self.retry(remove)[1]

    def copy(self, key: str, to: str, tag: str) -> None:
        """Copy an object."""

        def copy() -> None:
            self._check(key, tag)
            self.filesystem.makedirs(self.filesystem._parent(self._path(to)), exist_ok=True)
            self.filesystem.cp_file(self._path(key), self._path(to))

        self.retry(copy)

    def _check(self, key: str, tag: str) -> None:
        if tag and _tag(self.filesystem.info(self._path(key))) != tag:
            raise Changed

    def ls(self, prefix: str, deep: bool = True) -> Listing:
        """List objects."""
        folder, _, head = prefix.rpartition("/")

        def read() -> list[dict[str, Any]]:
            path = self._path(folder) if folder else self.prefix
            self.filesystem.invalidate_cache()
            try:
                if deep:
                    return self._below(path)
                return list(self.filesystem.ls(path, detail=True))
            except (FileNotFoundError, NotADirectoryError):
                return []

        found, folders = [], []
        for about in self.retry(read)[0]:
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

        if type(self.filesystem).find is not AbstractFileSystem.find:
            return list(self.filesystem.find(path, detail=True).values())
        found = []
        folders = [path]
        while folders:  # fsspec's own `find` takes a folder that cannot be read for an empty one
            with suppress(FileNotFoundError, NotADirectoryError):
                for about in self.filesystem.ls(folders.pop(), detail=True):
                    if about["type"] == "directory":
                        folders.append(about["name"])
                    else:
                        found.append(about)
        return found

    def now(self) -> float:
        """Return a time that is not ahead of the place's clock, which fsspec does not tell.

        That of the newest object of the catalog; this machine's clock may be ahead of it.
        """
        entries = self.ls(f"{CATALOG_FOLDER}/").entries
        return max((entry.modified for entry in entries), default=0.0)

    def upload(self, key: str) -> Upload:
        """Begin a large object."""
        return _Stream(self, key)

    def _path(self, key: str) -> str:
        return f"{self.prefix}/{key}"

    def _key(self, path: str) -> str:
        return str(path)[len(self.prefix) :].strip("/") if self.prefix else str(path).strip("/")

    def _write(self, key: str, data: bytes) -> None:
        if self._is_atomic:
            self.filesystem.pipe_file(self._path(key), data)
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

    def __init__(self, store: FsspecStore, key: str) -> None:
        self._fs = store.filesystem
        self._is_atomic = store._is_atomic
        self._path = store._path(key)
        self._beside = store._path(f"{UNDER_WAY}{new_id()}")
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
