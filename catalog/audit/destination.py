"""Where exports go, and where they are read: a local path, or any URL that fsspec knows.

Files are made in a working folder and published when they are complete: on a
local disk by a rename; elsewhere they are sent under a temporary name and moved,
which on an object store is a copy that appears as a whole.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from catalog.errors import ExportRefused, InvalidQuestion
from catalog.format.ids import new_id
from catalog.store.sync import sync_path

#: The one file in each folder of an export in parts.
PART_FILE = "part.parquet"

_LOCAL = re.compile(r"(file|local)://")
_PART = re.compile(rf"((workflow|day)=[^/]*/)?{re.escape(PART_FILE)}").fullmatch
_LONGEST = 255  # bytes of a folder's name
# As Hive writes what has no value. A workflow of this very name is encoded.
_NOTHING = "__HIVE_DEFAULT_PARTITION__"


def part_folder(by: str, value: str | None) -> str:
    """Return the name of the folder of one part, as Hive writes it: ``workflow=<percent-encoded>``.

    Parameters
    ----------
    by : str
        ``workflow`` or ``day``.
    value : str or None
        The workflow, as text, or the day.

    Returns
    -------
    str
        At most 255 bytes: a longer name is cut and closed with a hash. The file inside has the whole name.
    """
    if value is None:
        return f"{by}={_NOTHING}"
    encoded = _percent(value)
    if value == _NOTHING:
        encoded = encoded.replace("_", "%5F", 1)
    room = _LONGEST - len(by) - 1
    if len(encoded) > room:
        digits = hashlib.sha256(value.encode()).hexdigest()[:32]
        head = value[:room]
        while len(_percent(head)) > room - 1 - len(digits):  # between characters: readers decode what they find
            head = head[:-1]
        encoded = f"{_percent(head)}~{digits}"
    return f"{by}={encoded}"


def _percent(text: str) -> str:
    return quote(text, safe="").replace("~", "%7E")


class Destination(Protocol):
    """A place for one export."""

    def check(self, *, is_folder: bool, overwrite: bool) -> None:
        """Refuse what would go nowhere or over something (`ExportRefused`)."""

    def workshop(self) -> AbstractContextManager[str]:
        """Return a context that makes a folder to work in and removes it, whatever happens."""

    def publish(self, made: str, *, overwrite: bool) -> None:
        """Give a file or folder that was made in the workshop its name."""


def destination(place: str | os.PathLike[str], storage_options: dict[str, Any] | None = None) -> Destination:
    """Return the place for an export.

    Parameters
    ----------
    place : str or path-like
        A local path, or a URL that fsspec knows.
    storage_options : dict, optional
        Keyword arguments of the URL's file system.

    Returns
    -------
    Destination
        Nothing is read or written yet.

    Raises
    ------
    InvalidQuestion
        If it is no place at all.
    ExportRefused
        If there is no such file system.
    """
    path = _checked(place)
    if _is_local(path):
        if storage_options:
            raise InvalidQuestion(f"storage_options are for URLs such as s3://bucket/name, not for {path}")
        return _Local(path)
    return _Remote(path, *_filesystem(path, storage_options))


def is_same(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Tell whether two places are one, however a local path is written."""
    return _real(_checked(one)) == _real(_checked(other))


def files_at(place: str | os.PathLike[str], storage_options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the Parquet files at a place, by their paths, each as a function that opens it for reading.

    Parameters
    ----------
    place : str or path-like
        A file, or the folder of an export in parts: a path or a URL.
    storage_options : dict, optional
        Keyword arguments of the URL's file system.

    Returns
    -------
    dict of str to callable
        Sorted by path.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    """
    path = _checked(place)
    if _is_local(path):
        root = _local_path(path)
        names = _below(root) if os.path.isdir(root) else [root]
        opened = {name: _local_opener(name) for name in names}
    else:
        filesystem, root = _filesystem(path, storage_options)
        filesystem.invalidate_cache()
        names = sorted(filesystem.find(root)) if filesystem.isdir(root) else [root]
        opened = {filesystem.unstrip_protocol(name): _opener(filesystem, name) for name in names}
    if names != [root]:
        opened = {name: opener for name, opener in opened.items() if name.endswith(".parquet")}
    if not opened:
        raise FileNotFoundError(f"{path} holds no Parquet file")
    return opened


@dataclass(frozen=True)
class _Local:
    place: str

    @property
    def path(self) -> str:
        return _real(self.place)

    def check(self, *, is_folder: bool, overwrite: bool) -> None:
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise ExportRefused(f"{self.path} cannot be written: there is no folder {folder}; make it first")
        if not os.path.exists(self.path):
            return
        is_there = "folder" if os.path.isdir(self.path) else "file"
        wanted = "folder" if is_folder else "file"
        if is_there != wanted:
            raise ExportRefused(f"{self.path} is a {is_there}, and the export is a {wanted}: choose another name")
        if not overwrite:
            raise ExportRefused(f"{self.path} is there already: choose another name, or say overwrite=True")
        if is_folder:
            _check_holds_only_parts(self.path, [os.path.relpath(name, self.path) for name in _below(self.path)])

    @contextmanager
    def workshop(self) -> Iterator[str]:
        folder = os.path.join(os.path.dirname(self.path), f".{new_id()}.tmp")
        try:
            os.mkdir(folder)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, made: str, *, overwrite: bool) -> None:
        is_folder = os.path.isdir(made)
        for name in _below(made) if is_folder else [made]:
            sync_path(name)
        self.check(is_folder=is_folder, overwrite=overwrite)  # it may have come meanwhile
        if not (is_folder and os.path.isdir(self.path)):
            os.replace(made, self.path)
            return
        # A folder cannot be replaced in one step. The old one goes into the workshop, which is removed.
        aside = f"{made}.old"
        try:
            os.rename(self.path, aside)
            os.rename(made, self.path)
        except BaseException:
            if not os.path.exists(self.path):
                os.rename(aside, self.path)
            raise


@dataclass(frozen=True)
class _Remote:
    place: str
    filesystem: Any
    path: str

    def check(self, *, is_folder: bool, overwrite: bool) -> None:
        with self._translated():
            self.filesystem.invalidate_cache()
            self._check_top()
            if not self.filesystem.exists(self.path):
                return
            if not overwrite:
                raise ExportRefused(f"{self.place} is there already: choose another name, or say overwrite=True")
            if self.filesystem.isdir(self.path) != is_folder:
                kinds = ("file", "folder")[is_folder], ("folder", "file")[is_folder]
                raise ExportRefused(f"the export is a {kinds[0]}, {self.place} a {kinds[1]}: choose another name")
            if is_folder:
                _check_holds_only_parts(self.place, self._known())

    @contextmanager
    def workshop(self) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="functionfuse-") as folder:
            yield folder

    def publish(self, made: str, *, overwrite: bool) -> None:
        is_folder = os.path.isdir(made)
        self.check(is_folder=is_folder, overwrite=overwrite)
        with self._translated():
            if is_folder:
                self._send_folder(made)
            else:
                self._send(made, self.path)

    def _send_folder(self, made: str) -> None:
        # No object store renames a folder: the files appear one by one, and what is not of this export goes last.
        before = self._known() if self.filesystem.exists(self.path) else []
        sent = [name[len(made) + 1 :] for name in _below(made)]
        for name in sent:
            path = f"{self.path}/{name}"
            self.filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._send(f"{made}/{name}", path)
        for name in set(before) - set(sent):
            self.filesystem.rm_file(f"{self.path}/{name}")

    def _send(self, made: str, path: str) -> None:
        temporary = f"{path.rpartition('/')[0]}/.{new_id()}.tmp"
        try:
            self.filesystem.put_file(made, temporary)
            self.filesystem.mv(temporary, path)
        except BaseException:
            with suppress(Exception):  # what is wrong with the place is told by the error that came first
                self.filesystem.rm_file(temporary)
            raise

    def _check_top(self) -> None:
        """Refuse a bucket, or the like, that is not there; an object store knows no folders below it."""
        top = re.match("/*[^/]+(?=/)", self.path)
        if top and not self.filesystem.exists(top[0]):
            raise ExportRefused(f"{self.place} cannot be written: there is no {top[0]}; make it first")

    def _known(self) -> list[str]:
        return [name[len(self.path) + 1 :] for name in self.filesystem.find(self.path)]

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ExportRefused:
            raise
        except Exception as error:  # each file system has errors of its own
            raise ExportRefused(f"{self.place} cannot be written: {error!r}") from error


def _checked(place: str | os.PathLike[str]) -> str:
    path = os.fspath(place) if isinstance(place, (str, os.PathLike)) else place
    if not isinstance(path, str) or not path.rstrip("/"):
        raise InvalidQuestion(f"an export goes to a path or a URL, not to {place!r}")
    protocol, sign, rest = path.rstrip("/").partition("://")
    return f"{protocol.lower()}{sign}{rest}" if sign else protocol


def _is_local(path: str) -> bool:
    return "://" not in path or _LOCAL.match(path) is not None


def _check_holds_only_parts(place: str, names: list[str]) -> None:
    others = [name for name in names if not _PART(name)]
    if others:
        raise ExportRefused(f"{place} is not overwritten, as it holds more than an export: {others[0]}")


def _local_path(path: str) -> str:
    return os.path.expanduser(_LOCAL.sub("", path, count=1))


def _real(path: str) -> str:
    return os.path.realpath(_local_path(path)) if _is_local(path) else path


def _filesystem(url: str, storage_options: dict[str, Any] | None) -> tuple[Any, str]:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url, **(storage_options or {}))
    except (ImportError, ValueError) as error:
        raise ExportRefused(f"{url} cannot be reached: {error}") from error
    return filesystem, path


def _below(folder: str) -> list[str]:
    return sorted(os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)


def _opener(filesystem: Any, name: str) -> Any:
    return lambda: filesystem.open(name, "rb")


def _local_opener(name: str) -> Any:
    return lambda: open(name, "rb")
