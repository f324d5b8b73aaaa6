"""The one road in and out of a storage: save, read, list, remove.

A storage kind only says where bytes go. `Storage` brings together codec, blob,
place, journal and catalog; it is the only class that knows them all.
"""

from __future__ import annotations

import errno
import fnmatch
import logging
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from catalog import ids, names, record
from functionfuse.errors import (
    InvalidName,
    InvalidPickle,
    SideFileMissing,
    StorageError,
    StorageUnusable,
    TaskNotFound,
    UnpicklableResult,
    add_note,
)
from functionfuse.serializers.base import Serializer
from functionfuse.storage import _blob, _codec
from functionfuse.storage._describe import describe
from functionfuse.storage._places import LocalPlace, SideFolder, Source

if TYPE_CHECKING:
    from datetime import date, datetime

    from catalog import Catalog

__all__ = ["Footer", "InvalidPickle", "Restored", "Storage", "new_id", "quote"]

# What backends need of the catalog's records they have from here: this module is the one place that meets the catalog.
Footer = record.Footer
new_id = ids.new_id
quote = record.quote

#: What workflow backends call; tab completion is for those who keep and look for results.
_FOR_BACKENDS = frozenset({"footer", "keep", "note", "restore", "stored"})

_log = logging.getLogger("functionfuse.storage")
_SERIALIZERS = record.fragment(serializers=["pickle"])


class Restored(NamedTuple):
    """A result that was read.

    Attributes
    ----------
    value : object
        The result.
    footer : Footer or None
        What its blob says of itself; None for the older format.
    """

    value: Any
    footer: Footer | None


@dataclass(frozen=True)
class _Present:
    """What is stored under a name just before it is overwritten or removed."""

    record: Mapping[str, Any]
    size: int
    pids: list[tuple[str, Any]]
    side: SideFolder
    older_format: bool

    @property
    def blob_id(self) -> str | None:
        return self.record.get("blob_id")


class Storage:
    """Keeps results, each as one file that describes itself, and knows them by a catalog.

    Parameters
    ----------
    place : LocalPlace
        Where the bytes go.
    index : {"storage", "private"}
        Where the catalog's index lies: with the results, or in the user's cache directory.

    Attributes
    ----------
    always_read : bool
        Whether a workflow hands on a result as it is read back, instead of the object that was saved.

    Notes
    -----
    Any number of threads and processes may save, read, list and remove in one
    storage at once. A storage object can be pickled and survives `fork`.

    Examples
    --------
    >>> from functionfuse.storage import storage_factory
    >>> storage = storage_factory({"kind": "file", "options": {"path": "results"}})
    >>> storage.save("weather", "mean", {"morning": 12.9})
    >>> storage.read_task("weather", "mean")
    {'morning': 12.9}
    >>> storage.list_tasks("weather", "m*")
    ['mean']
    >>> storage.catalog.tasks("weather", since="2026-01-01").project("task, value->>'morning'").fetchall()
    [('mean', '12.9')]
    >>> storage.remove_task("weather", "mean")
    """

    def __init__(self, place: LocalPlace, index: Literal["storage", "private"] = "storage") -> None:
        self._place = place
        self._registry = _codec.Registry()
        self._index = index
        self._catalog: Catalog | None = None
        self.always_read = False

    # Saving

    def new_workflow(self, workflow_name: str) -> None:
        """Make room for a workflow; `save` does so by itself."""
        self._place.make_room(_encoded("workflow", workflow_name))

    def save(self, workflow_name: str, task_name: str, obj: Any) -> None:
        """Store one result, in place of the one that has this name.

        When this returns, every process that asks finds the new result. Until
        then, and if it fails or is killed, the one before stays as it was.

        Parameters
        ----------
        workflow_name, task_name : str
            Any non-empty strings.
        obj : object
            What to store: anything that pickle, cloudpickle or a registered serializer can.

        Raises
        ------
        InvalidName
            If a name is empty or no string.
        UnpicklableResult
            If the object cannot become bytes.
        StorageUnusable
            If the folder is not writable or the disk is full.
        """
        self.keep(workflow_name, task_name, obj)

    def keep(self, workflow_name: str, task_name: str, obj: Any, origin: str = "") -> str:
        """Store one result as `save` does, together with where it came from.

        Parameters
        ----------
        workflow_name, task_name, obj
            As for `save`.
        origin : str
            The inside of a JSON object, with what a run adds to the record.

        Returns
        -------
        str
            The id of the blob.

        Raises
        ------
        StorageError
            As `save` does.
        """
        folder, file = self._find(workflow_name, task_name)  # what the older format kept raw is overwritten where it is
        names_fields = record.name_fields(workflow_name, task_name)
        try:
            return self._keep(folder, file, names_fields, obj, origin)
        except (StorageError, OSError) as error:
            raise _named(error, workflow_name, task_name) from error
        except Exception as error:
            add_note(error, f"while task {task_name!r} of workflow {workflow_name!r} was saved")
            raise

    def _keep(self, folder: str, file: str, names_fields: str, obj: Any, origin: str) -> str:
        present = self._present(folder, file)
        blob_id = ids.new_id(present.blob_id if present else None)
        fields = [f'"blob_id":"{blob_id}",{names_fields}', describe(obj)]
        if present:
            fields.append(record.fragment(replaces=present.blob_id))
        if origin:
            fields.append(origin)
        writer = _blob.BlobWriter(self._place, folder, blob_id)
        try:
            line = self._write(writer, obj, fields)
            self._place.journal.append(line, lambda: writer.publish(file))
        except BaseException:
            writer.discard()
            raise
        if present:
            self._forget(present, folder, file)
        return blob_id

    def _write(self, writer: _blob.BlobWriter, obj: Any, fields: list[str]) -> str:
        """Write all of a blob and return the line that tells of it."""
        dumped = _codec.dump(obj, writer, self._registry, lambda: writer.side.protocols)
        layout = f",{writer.write_buffers(dumped.buffers)}" if dumped.buffers else ""
        plain = not layout and len(dumped.serializers) == 1
        checksum = writer.checksum()
        fields.append(f'"saved_at":"{record.utc_text(time.time())}","checksum":"xxh3:{checksum.hex()}"')
        side_size = 0
        if dumped.serializers == ("pickle",):
            fields.append(_SERIALIZERS)
        else:
            sides = [{"name": names.to_text(name), "size": size} for name, size in writer.side.files()]
            side_size = sum(size for _, size in writer.side.files())
            fields.append(record.fragment(serializers=dumped.serializers, side_files=sides))
        fields.append(record.machine_fields())
        text = ",".join(fields)
        size = writer.finish(record.close_blob(f"{{{text}{layout}}}", checksum, plain)) + side_size
        return f'{{"event":"save","format":{record.FORMAT},"size":{size},{text}}}'

    # Reading

    def read_task(self, workflow_name: str, task_name: str) -> Any:
        """Return a stored result.

        Parameters
        ----------
        workflow_name, task_name : str
            The names under which it was saved.

        Returns
        -------
        object
            Equal to what was saved.

        Raises
        ------
        TaskNotFound
            If there is none (a `FileNotFoundError`).
        InvalidPickle
            If its bytes are damaged (a `ValueError`).
        SideFileMissing
            If a side file that it declares is gone.
        SerializerNotRegistered
            If it needs a serializer that was not registered.

        Notes
        -----
        All bytes are checked against the blob's checksum before any is unpickled.
        Unpickling executes what the pickle says: read only storages whose
        writers you trust. Large arrays lie over the mapped file, copied where
        they are written to; they stay valid when the task is overwritten or removed.
        """
        return self.restore(workflow_name, task_name).value

    def restore(self, workflow_name: str, task_name: str) -> Restored:
        """Return a stored result with its footer; raises as `read_task` does."""
        folder, file = self._find(workflow_name, task_name)
        try:
            while True:
                blob = _blob.read_blob(self._loaded(folder, file))
                try:
                    return Restored(self._load(blob, folder), blob.footer)
                except SideFileMissing as error:
                    if self._unchanged(folder, file, blob):
                        raise
                    _log.debug("task %r was overwritten while it was read, which ended in: %s", task_name, error)
        except (StorageError, OSError) as error:
            raise _named(error, workflow_name, task_name) from error
        except Exception as error:
            add_note(error, f"while task {task_name!r} of workflow {workflow_name!r} was unpickled")
            raise

    def footer(self, workflow_name: str, task_name: str) -> record.Footer | None:
        """Return what a stored result's blob says of itself, without reading the result.

        Returns
        -------
        Footer or None
            None for the older format, and where the footer is damaged.

        Raises
        ------
        TaskNotFound
            If there is no such result.
        """
        try:
            with self._open(*self._find(workflow_name, task_name)) as source:
                return _blob.peek_footer(source)
        except (StorageError, OSError) as error:
            raise _named(error, workflow_name, task_name) from error

    def file_exists(self, workflow_name: str, task_name: str) -> bool:
        """Tell whether a result is stored under these names."""
        return self._place.exists(*self._find(workflow_name, task_name))

    def stored(self, workflow_name: str) -> set[str]:
        """Return the names of all stored results of a workflow, by one look at its folder."""
        return {
            file if "%" not in file else self._name_of(folder, file)
            for folder in _candidates("workflow", workflow_name)
            for file in self._place.files(folder)
        }

    # Listing

    def list_tasks(
        self,
        workflow_name: str,
        pattern: str = "*",
        *,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
        as_of: datetime | date | str | None = None,
    ) -> list[str]:
        """Return the names of a workflow's results, sorted.

        Parameters
        ----------
        workflow_name : str
            The workflow, by its exact name.
        pattern : str
            A glob as in `fnmatch`, case-sensitive: ``*``, ``?``, ``[abc]``, ``[!a-c]``.
        since, until : datetime, date or str, optional
            Only what was saved at or after `since` and before `until`. Strings are ISO 8601; times without a
            zone are local.
        as_of : datetime, date or str, optional
            Those that were stored at that moment, instead of now.

        Returns
        -------
        list of str
            The names as they were given.

        Raises
        ------
        catalog.errors.InvalidQuestion
            If a date cannot be read, or `since` is after `until`.
        """
        _checked("workflow", workflow_name)
        return self.catalog.names(workflow_name, pattern, since=since, until=until, as_of=as_of)

    @property
    def catalog(self) -> Catalog:
        """The catalog of all results of this storage."""
        if self._catalog is None:
            from catalog import Catalog  # on use: saving and reading need none of it

            self._catalog = Catalog(self._place.root, must_exist=False, index=self._index)
        return self._catalog

    # Removing

    def remove_task(self, workflow_name: str, task_name: str | None = None, pattern: str | None = None) -> None:
        """Remove one result, or all that match a glob; their side files go too.

        Parameters
        ----------
        workflow_name : str
            The workflow, by its exact name.
        task_name : str, optional
            The task, by its exact name.
        pattern : str, optional
            A glob as in `list_tasks`; where it is given, `task_name` is not looked at.

        Raises
        ------
        TaskNotFound
            If the single task is not there. A pattern that matches nothing is no error.
        TypeError
            If neither a task nor a pattern is given.
        """
        if pattern is not None:
            if not isinstance(pattern, str):
                raise TypeError(f"a pattern is a string such as 'fit_*', not {pattern!r}")
            match = re.compile(fnmatch.translate(pattern)).match
            for name, (folder, file) in self._names(workflow_name).items():
                if match(name):
                    with suppress(TaskNotFound):  # another process was quicker
                        self._remove(workflow_name, name, folder, file)
        elif task_name is not None:
            self._remove(workflow_name, task_name, *self._find(workflow_name, task_name))
        else:
            raise TypeError("remove_task needs a task_name or a pattern; remove_workflow removes all")

    def remove_workflow(self, workflow_name: str) -> None:
        """Remove all results of a workflow.

        Raises
        ------
        TaskNotFound
            If there is no such workflow.
        """
        if not any(self._place.has_folder(folder) for folder in _candidates("workflow", workflow_name)):
            raise TaskNotFound(f"there is no workflow {workflow_name!r} in {self._place.root}")
        self.remove_task(workflow_name, pattern="*")
        for folder in _candidates("workflow", workflow_name):
            self._place.remove_folder(folder)

    # Serializers

    def register_persistent_serializers(self, *classes: type[Serializer]) -> None:
        """Let serializers take over the objects of their types, in what is saved and read from now on.

        Parameters
        ----------
        *classes : type
            Classes with ``name``, ``serializer_class``, ``pickle``, ``unpickle`` and ``remove``.
        """
        for serializer in classes:
            self._registry.add(serializer)

    def have_serializers(self) -> bool:
        """Tell whether any serializer is registered."""
        return bool(self._registry.by_name)

    # Events

    def note(
        self, event: str, workflow_name: str, run_id: str, details: Mapping[str, Any], task_name: str | None = None
    ) -> None:
        """Record an event that is no save or removal.

        Parameters
        ----------
        event : str
            What happened: "run-started", "run-finished", "task-failed".
        workflow_name, task_name : str
            Where; no task where it is the whole workflow.
        run_id : str
            In which run.
        details : mapping
            What else there is to say: numbers and strings.

        Raises
        ------
        StorageUnusable
            If the journal cannot be written.
        """
        names_fields = record.name_fields(workflow_name, task_name)
        said = {key: names.to_text(value) if isinstance(value, str) else value for key, value in details.items()}
        fields = f"{names_fields},{record.fragment(run_id=run_id, details=said)}"
        try:
            self._place.journal.append(_event(event, ids.new_id(), fields))
        except OSError as error:
            raise StorageUnusable(error.errno, f"the event {event!r} cannot be recorded: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_catalog": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._place.root!r})"

    def _repr_html_(self) -> str | None:
        return self.catalog._overview(type(self).__name__)

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name[0] != "_" and name not in _FOR_BACKENDS]

    def _names(self, workflow_name: str) -> dict[str, tuple[str, str]]:
        return {
            self._name_of(folder, file): (folder, file)
            for folder in reversed(_candidates("workflow", workflow_name))
            for file in self._place.files(folder)
        }

    def _name_of(self, folder: str, file: str) -> str:
        name = names.decode(file)
        if name is None:
            name = file
            with suppress(FileNotFoundError), self._place.open(folder, file) as source:  # removed since
                footer = _blob.peek_footer(source)
                name = names.from_text(footer.record["task"]) if footer else file
        return name

    def _find(self, workflow_name: str, task_name: str) -> tuple[str, str]:
        if _encoded("workflow", workflow_name) == workflow_name and _encoded("task", task_name) == task_name:
            return workflow_name, task_name  # as nearly always
        folders = _candidates("workflow", workflow_name)
        files = _candidates("task", task_name)
        if len(files) + len(folders) > 2:
            for folder in folders:
                for file in files:
                    if self._place.exists(folder, file):
                        return folder, file
        return folders[0], files[0]

    def _open(self, folder: str, file: str) -> Source:
        try:
            return self._place.open(folder, file)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise TaskNotFound(f"nothing is stored there ({self._place.path(folder, file)})") from error

    def _loaded(self, folder: str, file: str) -> memoryview:
        try:
            return self._place.load(folder, file)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise TaskNotFound(f"nothing is stored there ({self._place.path(folder, file)})") from error

    def _load(self, blob: _blob.Blob, folder: str) -> Any:
        footer = blob.footer
        if footer is not None and (footer.plain or len(footer.record["serializers"]) == 1):
            return _codec.load(blob.stream, blob.buffers)
        side = self._place.side_folder(folder, footer.record["blob_id"] if footer else "")
        return _codec.load_with_serializers(blob.stream, blob.buffers, self._registry, side.protocols)

    def _unchanged(self, folder: str, file: str, blob: _blob.Blob) -> bool:
        with self._open(folder, file) as source:
            now = _blob.peek_footer(source)
        return (now and now.record["blob_id"]) == (blob.footer and blob.footer.record["blob_id"])

    def _present(self, folder: str, file: str) -> _Present | None:
        """Return what is stored under a name, or None; what is damaged counts with what is known of it."""
        if not self._place.exists(folder, file):
            return None
        try:
            source = self._place.open(folder, file)
        except FileNotFoundError:  # removed since
            return None
        with source:
            footer = _blob.peek_footer(source)
            known = footer.record if footer else {}
            pids = self._pids(folder, file) if footer is None or len(known["serializers"]) > 1 else []
        side = self._place.side_folder(folder, known.get("blob_id", ""))
        return _Present(known, record.size_of(source.size, known), pids, side, footer is None)

    def _pids(self, folder: str, file: str) -> list[tuple[str, Any]]:
        try:
            blob = _blob.read_blob(self._place.load(folder, file))
            return _codec.persistent_ids(blob.stream, blob.buffers)
        except Exception as error:  # whatever is wrong with a result that goes away, it goes away
            _log.warning("a damaged result goes, of which it is not known which side files go with it: %s", str(error))
            return []

    def _forget(self, present: _Present, folder: str, file: str) -> None:
        """Delete the side files of a result that was overwritten or removed."""
        for name, pid in present.pids:
            serializer = self._registry.by_name.get(name)
            try:
                if serializer is not None:
                    serializer.remove(pid, present.side.protocols)
                elif present.older_format and isinstance(pid, str):
                    present.side.remove(pid)
            except Exception:  # the result itself is gone already; a third party's cleaning cannot undo that
                _log.warning("the serializer %r did not remove %r of %s/%s", name, pid, folder, file, exc_info=True)
        if not present.older_format:
            present.side.discard()

    def _remove(self, workflow_name: str, task_name: str, folder: str, file: str) -> None:
        try:
            present = self._present(folder, file)
            if present is None:
                raise TaskNotFound
            names_fields = record.name_fields(workflow_name, task_name)
            self._place.journal.append(_removal(present, names_fields), lambda: self._place.remove(folder, file))
            self._forget(present, folder, file)
        except FileNotFoundError as error:  # `TaskNotFound`, or another process was quicker
            message = f"nothing is stored there ({self._place.path(folder, file)})"
            raise _named(TaskNotFound(message), workflow_name, task_name) from error
        except (StorageError, OSError) as error:
            raise _named(error, workflow_name, task_name) from error


def _removal(present: _Present, names_fields: str) -> str:
    fields = record.fragment(
        replaces=present.blob_id,
        blob_id=present.blob_id,
        size=present.size,
        checksum=present.record.get("checksum"),
    )
    return _event("remove", ids.new_id(present.blob_id), f"{names_fields},{fields}")


def _event(event: str, event_id: str, fields: str) -> str:
    moment = record.utc_text(time.time())
    return f'{{"event":"{event}","event_id":"{event_id}","time":"{moment}",{fields},{record.machine_fields()}}}'


def _checked(what: str, name: str) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidName(f"a {what} name has to be a string that is not empty, not {name!r}")
    return name


def _encoded(what: str, name: str) -> str:
    return names.encode(_checked(what, name))


def _candidates(what: str, name: str) -> tuple[str, ...]:
    return names.candidates(_checked(what, name))


def _named(error: StorageError | OSError, workflow_name: str, task_name: str) -> StorageError:
    """Return an error that names workflow and task; those of the file system are translated here."""
    place = f"task {task_name!r} of workflow {workflow_name!r}"
    if isinstance(error, StorageUnusable):
        message = f"{place}: {error.strerror or error}"
        return StorageUnusable(message) if error.errno is None else StorageUnusable(error.errno, message)
    if isinstance(error, StorageError):
        return type(error)(f"{place}: {error}{_REMEDIES.get(type(error), '')}")
    remedy = _REMEDIES_BY_NUMBER.get(error.errno or 0, "")
    where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, (str, bytes)) else ""
    return StorageUnusable(error.errno, f"{place}: {error.strerror or error}{where}{remedy}")


_REMEDIES: dict[type[StorageError], str] = {
    InvalidPickle: "; remove the task, and the next run computes it again",
    SideFileMissing: "; remove the task, and the next run computes it again",
    UnpicklableResult: "; return something else or register a serializer for it; what was stored before is intact",
}
_REMEDIES_BY_NUMBER = {
    errno.ENOSPC: "; nothing was published, what was stored before is intact: free some space and save again",
    errno.EDQUOT: "; nothing was published, what was stored before is intact: free some space and save again",
    errno.EACCES: "; check who owns the storage's folder",
    errno.EROFS: "; the storage's folder is read-only here",
    errno.ENOTDIR: "; a file lies where a folder is needed: move it away, or choose another path",
    errno.EISDIR: "; a folder lies where the result's file belongs: move it away",
    errno.EMFILE: "; the process holds too many open files: raise its limit (ulimit -n)",
}
