"""The one road in and out of a storage: save, read, list, remove.

A storage kind only says where bytes go. `Storage` brings together codec, blob,
store, journal and catalog; it is the only class that knows them all.
"""

from __future__ import annotations

import fnmatch
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cache
from typing import Any, Literal

from catalog.format.events import Kind, event_line
from catalog.format.footer import Footer
from catalog.format.ids import new_id
from catalog.format.names import from_text, to_text
from catalog.format.record import CodeParts, Origin, Record
from catalog.journal.base import Publication
from catalog.journal.open import journal_of
from catalog.store.base import Store
from functionfuse.errors import InvalidArgument, InvalidPickle, StorageUnusable, TaskNotFound, add_note
from functionfuse.serializers._defaults import installed_defaults
from functionfuse.serializers.base import Serializer
from functionfuse.storage import _codec, _lookup, _reading, _removal, _saving
from functionfuse.storage._catalogued import Catalogued
from functionfuse.storage._lookup import candidates, encoded
from functionfuse.storage._options import Options
from functionfuse.storage._reading import Restored
from functionfuse.storage._translate import EDGE, at_the_edge, named

__all__ = [
    "CodeParts",
    "Footer",
    "InvalidPickle",
    "Kind",
    "Origin",
    "Record",
    "Restored",
    "Storage",
    "from_text",
    "new_id",
    "to_text",
]

# What backends need of the catalog's records they have from here: this module is the one place that meets the catalog.

#: What workflow backends call; tab completion is for those who keep and look for results.
_FOR_BACKENDS = frozenset(
    {"batch", "flush", "footer", "footers", "is_remote", "keep", "kept", "mapped", "note", "prefetch"}
    | {"require_writable", "restore", "routed", "stored", "tidy"}
)
_USUAL = Options()
_log = logging.getLogger("functionfuse.storage")


class Storage(Catalogued):
    """Keeps results, each as one file that describes itself, and knows them by a catalog.

    Parameters
    ----------
    store : Store
        Where the bytes go.
    index : {"storage", "private"}
        Where the catalog's index lies: with the results, or in the user's cache directory.
    options : Options
        How results are written and read.

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

    def __init__(
        self, store: Store, index: Literal["storage", "private"] = "storage", options: Options = _USUAL
    ) -> None:
        self._store = store
        self._journal = journal_of(store)
        self._options = options
        self._registry = _codec.Registry()
        super().__init__(index)
        self.always_read = False

    @property
    def routed(self) -> Any:
        """What saves and reads on another machine, for workflows on Ray; None where workers reach the bytes."""
        return None

    # Saving

    @at_the_edge
    def new_workflow(self, workflow_name: str) -> None:
        """Make room for a workflow; `save` does so by itself."""
        self._store.prepare(encoded("workflow", workflow_name))

    @at_the_edge
    def require_writable(self, workflow_name: str) -> None:
        """Raise `StorageUnusable` if it is known, without trying, that nothing can be saved in a workflow."""
        self._store.require_writable(encoded("workflow", workflow_name))

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

    def keep(
        self,
        workflow_name: str,
        task_name: str,
        obj: Any,
        origin: Origin | None = None,
        *,
        is_new: bool = False,
        waits: bool = True,
    ) -> str:
        """Store one result as `save` does, together with where it came from.

        Parameters
        ----------
        workflow_name, task_name, obj
            As for `save`.
        origin : Origin, optional
            What a run adds to the record.
        is_new : bool
            Whether a plan has just found nothing under these names: a remote storage then does not look again.
        waits : bool
            Whether the result is durable when this returns. If not, `flush` waits for it; `obj` may be changed at once.

        Returns
        -------
        str
            The id of the blob.

        Raises
        ------
        StorageError
            As `save` does.
        """
        at = self._find(workflow_name, task_name)  # what the older format kept raw is overwritten where it is
        task = (workflow_name, task_name)
        target = _saving.Target(self._store, self._journal, self._registry, self._options, at, task, is_new)
        if not waits:
            self._journal.check()
        try:
            return _saving.keep(target, obj, origin, self._recorder(workflow_name, task_name, waits))
        except EDGE as error:
            raise named(error, workflow_name, task_name) from error
        except Exception as error:
            add_note(error, f"while task {task_name!r} of workflow {workflow_name!r} was saved")
            raise

    def batch(self) -> AbstractContextManager[None]:
        """Return a context in which what `keep` leaves to threads has its lines in one object of the journal."""
        return self._journal.batch()

    @property
    def is_remote(self) -> bool:
        """Whether each save waits for requests."""
        return not self._store.is_local

    @at_the_edge
    def flush(self) -> None:
        """Return when all that `keep` left to threads is durable.

        Raises
        ------
        StorageUnusable
            If one of the results could not be stored; it names the task.
        """
        self._journal.wait()
        self._journal.check()

    @at_the_edge
    def tidy(self) -> None:
        """Compact the journal of a remote storage after many saves, so that the next question lists and reads less.

        In a folder nothing is gained by it: questions read of a file what is new.
        """
        if self.is_remote:
            self.catalog.compact()

    def kept(self, workflow_name: str, task_name: str, origin: Origin) -> Footer | None:
        """Return what an earlier attempt to `keep` a result has left: a worker died after its save, and is begun again.

        Returns
        -------
        Footer or None
            That of the stored result if it has this origin, which names its run.
        """
        with suppress(TaskNotFound):
            footer = self.footer(workflow_name, task_name)
            if footer is not None and footer.origin.is_of_same_call(origin):
                return footer
        return None

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
        All bytes are checked against the blob's checksum before any is unpickled,
        unless the storage's option `verify` is ``"never"``; its footer, and results
        of the older format, are checked in any case. Unpickling executes what the
        pickle says: read only storages whose writers you trust. Large arrays lie
        over the mapped file, copied where they are written to; they stay valid when
        the task is overwritten or removed.
        """
        return self.restore(workflow_name, task_name).value

    def restore(self, workflow_name: str, task_name: str) -> Restored:
        """Return a stored result with its footer; raises as `read_task` does."""
        folder, file = self._find(workflow_name, task_name)
        try:
            return _reading.restore(self._store, self._registry, self._options, folder, file)
        except EDGE as error:
            raise named(error, workflow_name, task_name) from error
        except Exception as error:
            add_note(error, f"while task {task_name!r} of workflow {workflow_name!r} was unpickled")
            raise

    def mapped(self, workflow_name: str, task_name: str, blob_id: str, verify: bool = True) -> Any:
        """Return a stored result that lies over its file, once more and at little cost.

        Parameters
        ----------
        workflow_name, task_name : str
            The names under which it was saved.
        blob_id : str
            The blob that it is in.
        verify : bool
            Whether to check it; not if the same run has.

        Returns
        -------
        object
            None where it would be copied, read by a serializer, or another one has taken its place.
        """
        if not self._options.mmap or self.is_remote:
            return None
        with suppress(*EDGE):
            at = self._find(workflow_name, task_name)
            return _reading.mapped(self._store, *at, blob_id, verify and self._options.verify)
        return None

    def prefetch(self, workflow_name: str, task_names: Iterable[str]) -> AbstractContextManager[None]:
        """Return a context in which results that will be restored, in about that order, may be fetched before."""
        folder = encoded("workflow", workflow_name)
        return self._store.prefetch([f"{folder}/{encoded('task', name)}" for name in task_names])

    def footer(self, workflow_name: str, task_name: str) -> Footer | None:
        """Return what a stored result's blob says of itself, without reading the result.

        Returns
        -------
        Footer or None
            None for the older format, and where the footer is damaged. Its record is decoded as it is asked for.

        Raises
        ------
        TaskNotFound
            If there is no such result.
        """
        try:
            return _reading.footer_at(self._store, *self._find(workflow_name, task_name))
        except EDGE as error:
            raise named(error, workflow_name, task_name) from error

    @at_the_edge
    def footers(self, workflow_name: str, task_names: Sequence[str]) -> list[Footer | None]:
        """Return what the blobs of stored results say of themselves, several at a time; None for those that are gone.

        Returns
        -------
        list of (Footer or None)
            As `footer` returns them, in the order of the names.
        """

        def read(task_name: str) -> Footer | None:
            with suppress(TaskNotFound):
                return self.footer(workflow_name, task_name)
            return None

        return list(self._store.map(read, task_names))

    @at_the_edge
    def file_exists(self, workflow_name: str, task_name: str) -> bool:
        """Tell whether a result is stored under these names."""
        return self._store.stat("/".join(self._find(workflow_name, task_name))) is not None

    @at_the_edge
    def stored(self, workflow_name: str) -> set[str]:
        """Return the names of all stored results of a workflow, by one look at its folder."""
        return set(_lookup.stored(self._store, workflow_name))

    # Removing

    @at_the_edge
    def remove_task(self, workflow_name: str, task_name: str | None = None, pattern: str | None = None) -> None:
        """Remove one result, or all that match a glob; their side files go too.

        Parameters
        ----------
        workflow_name : str
            The workflow, by its exact name.
        task_name : str, optional
            The task, by its exact name.
        pattern : str, optional
            A glob as in `list_tasks`; where it is given, `task_name` is not looked at. Files beside the results that
            are none, such as notes, stay.

        Raises
        ------
        TaskNotFound
            If the single task is not there. A pattern that matches nothing is no error.
        InvalidArgument
            If neither a task nor a pattern is given (a `TypeError`).
        """
        if pattern is not None:
            if not isinstance(pattern, str):
                raise InvalidArgument(f"a pattern is a string such as 'fit_*', not {pattern!r}")
            match = re.compile(fnmatch.translate(pattern)).match
            found = [each for each in _lookup.stored(self._store, workflow_name).items() if match(each[0])]
            recorded = cache(lambda: set(self.list_tasks(workflow_name)))  # asked for if a file does not say what it is

            def remove(each: tuple[str, tuple[str, str]]) -> None:
                with suppress(TaskNotFound):  # another process was quicker, or it is no result
                    self._remove(workflow_name, *each, is_recorded=lambda: each[0] in recorded(), waits=False)

            with self._journal.batch():
                list(self._store.map(remove, found))
            self.flush()
        elif task_name is not None:
            self._remove(workflow_name, task_name, self._find(workflow_name, task_name))
        else:
            raise InvalidArgument("remove_task needs a task_name or a pattern; remove_workflow removes all")

    @at_the_edge
    def remove_workflow(self, workflow_name: str) -> None:
        """Remove all results of a workflow, and its folder, unless files are left there that are no results.

        Raises
        ------
        TaskNotFound
            If there is no such workflow.
        """
        if not any(self._store.has_folder(folder) for folder in candidates("workflow", workflow_name)):
            raise TaskNotFound(f"there is no workflow {workflow_name!r} in {self._store.root}")
        self.remove_task(workflow_name, pattern="*")
        for folder in candidates("workflow", workflow_name):
            self._store.remove_folder(folder)

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

    def register_default_serializers(self) -> list[str]:
        """Let the serializers of this package take over the arrays and tables whose libraries are installed.

        Returns
        -------
        list of str
            Their names. What is registered by hand, before or after, comes first.

        Notes
        -----
        No library is imported before an object of its types is saved or read.
        NumPy arrays stay in the blob, where they are mapped and checked: for
        `NumpySerializer` and its `.npy` files, register it by hand.
        """
        defaults = installed_defaults()
        for default in defaults:
            self._registry.add_default(default)
        return [default.name for default in defaults]

    def have_serializers(self) -> bool:
        """Tell whether any serializer is registered."""
        return bool(self._registry)

    # Events

    @at_the_edge
    def note(
        self,
        event: Kind,
        workflow_name: str,
        run_id: str,
        details: Mapping[str, Any],
        task_name: str | None = None,
        *,
        waits: bool = True,
    ) -> None:
        """Record an event that is no save or removal.

        Parameters
        ----------
        event : Kind
            What happened: a run was started, or finished, or a task failed.
        workflow_name, task_name : str
            Where; no task where it is the whole workflow.
        run_id : str
            In which run.
        details : mapping
            What else there is to say: numbers and strings.
        waits : bool
            Whether it is durable when this returns. If not, it may be lost, with a line in the log.

        Raises
        ------
        StorageUnusable
            If the journal cannot be written.
        """
        self._record(Kind(event), event_line(event, (workflow_name, task_name), details, run_id=run_id), waits=waits)

    def _record(self, event: Kind, line: str, *, waits: bool = True) -> None:
        try:
            self._journal.append(Publication(line)) if waits else self._journal.submit(Publication(line), _log_lost)
        except OSError as error:
            raise StorageUnusable(
                error.errno, f"the event {event.value!r} cannot be recorded: {error.strerror or error}"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_catalog": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._store.root!r})"

    def _repr_html_(self) -> str | None:
        return self.catalog._overview(type(self).__name__)

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name[0] != "_" and name not in _FOR_BACKENDS]

    def _find(self, workflow_name: str, task_name: str) -> tuple[str, str]:
        try:
            return _lookup.find(self._store, workflow_name, task_name)
        except OSError as error:
            raise named(error, workflow_name, task_name) from error

    def _recorder(self, workflow_name: str, task_name: str, waits: bool) -> Callable[[Publication], None]:
        """Return what appends to the journal, or leaves that to a thread, whose error then names the task."""
        if waits:
            return self._journal.append
        return lambda event: self._journal.submit(event, lambda error: _named(error, workflow_name, task_name))

    def _remove(
        self,
        workflow_name: str,
        task_name: str,
        at: tuple[str, str],
        why: Mapping[str, Any] | None = None,
        planned: str | None = None,
        is_recorded: Callable[[], bool] | None = None,
        *,
        waits: bool = True,
    ) -> None:
        try:
            task = (workflow_name, task_name)
            record_event = self._recorder(workflow_name, task_name, waits)
            _removal.remove(self._store, self._registry, task, at, record_event, why, planned, is_recorded)
        except FileNotFoundError as error:  # `TaskNotFound`, or another process was quicker
            message = f"nothing is stored there ({'/'.join((self._store.root, *at))})"
            raise named(TaskNotFound(message), workflow_name, task_name) from error
        except EDGE as error:
            raise named(error, workflow_name, task_name) from error


def _log_lost(error: BaseException) -> None:
    _log.debug("an event is not recorded: %s", str(error))


def _named(error: BaseException, workflow_name: str, task_name: str) -> BaseException:
    """Return an error of a save that was left to threads, with the names of its task."""
    if isinstance(error, EDGE):
        told = named(error, workflow_name, task_name)
        told.__cause__ = error
        return told
    add_note(error, f"while task {task_name!r} of workflow {workflow_name!r} was saved")
    return error
