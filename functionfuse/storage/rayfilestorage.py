"""Results as files on the disk of one node of a Ray cluster."""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from catalog.store.open import open_store
from functionfuse import _ray
from functionfuse.errors import (
    InfeasibleResources,
    InvalidConfiguration,
    StorageUnusable,
    UnpicklableResult,
)
from functionfuse.serializers.base import Serializer
from functionfuse.storage._raycatalog import RayCatalog, received, sent
from functionfuse.storage._translate import named
from functionfuse.storage.base import Origin, Storage

_Method = TypeVar("_Method", bound=Callable[..., Any])

_REFUSALS = (TypeError, ValueError, AttributeError, RuntimeError, pickle.PicklingError)  # of what cannot be pickled


def on_disk(storage: bytes, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], *_: Any) -> Any:
    """Call a method of a storage, on the node that owns its disk.

    Parameters
    ----------
    storage : bytes
        The storage, pickled.
    method : str
        The method's name.
    args, kwargs : tuple, dict
        Its arguments.

    Returns
    -------
    object
        What it returns, to be `received`.
    """
    return sent(getattr(_unpacked(storage), method)(*args, **kwargs))


def keep_on_disk(storage: bytes, workflow_name: str, task_name: str, obj: Any, origin: Origin | None) -> str:
    """Store a result there, once: Ray begins again what a dead worker was at; returns the id of the blob.

    An error is blamed on its task.
    """
    try:
        there = _unpacked(storage)
        earlier = there.kept(workflow_name, task_name, origin) if origin else None
        return earlier.blob_id if earlier else there.keep(workflow_name, task_name, obj, origin)
    except Exception as error:
        raise _ray.Blamed(task_name, error) from error


def read_from_disk(storage: bytes, workflow_name: str, task_name: str, *_: Any) -> Any:
    """Return a result that is stored there; an error is blamed on its task."""
    try:
        return _unpacked(storage).read_task(workflow_name, task_name)
    except Exception as error:
        raise _ray.Blamed(task_name, error) from error


@functools.lru_cache(maxsize=64)
def _unpacked(storage: bytes) -> Storage:
    found: Storage = _ray.module().cloudpickle.loads(storage)
    return found


def _there(method: _Method) -> _Method:
    @functools.wraps(method)
    def call(self: FileStorage, *args: Any, **kwargs: Any) -> Any:
        return self._call(method.__name__, args, kwargs)

    return call  # type: ignore[return-value]  # it takes and returns what the method does


class FileStorage(Storage):
    """Keeps each result as a file on the disk of one node of a Ray cluster, for all of its nodes and drivers.

    Parameters
    ----------
    path : str or path-like
        The folder on that node; made there when the first result is saved.
    remoteArgs : mapping
        The options of a remote function that lead to that node, such as ``{"resources": {"_disk": 0.001}}``. It needs
        no core of its own unless they say so.
    rayInitArgs : mapping, optional
        What `ray.init` is called with where this process is not connected to Ray yet: ``{"address": "auto"}``.

    Raises
    ------
    InvalidConfiguration
        If the path is no path, or the arguments are no dictionaries.

    Notes
    -----
    Reading, saving and removing are tasks on that node, questions to the catalog go to an actor there, which all
    drivers share. An object travels by Ray's own pickle, and so has to be picklable even where a serializer takes it
    over. Arrays that come back cannot be written to.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        remoteArgs: Mapping[str, Any],  # existing configurations have these names
        rayInitArgs: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise InvalidConfiguration(f"the path of a ray storage has to be the name of a folder, not {path!r}")
        if not isinstance(remoteArgs, Mapping):
            example = {"resources": {"_disk": 0.001}}
            raise InvalidConfiguration(
                f"remoteArgs are options of a remote function such as {example}, not {remoteArgs!r}"
            )
        if not isinstance(rayInitArgs, (Mapping, type(None))):
            raise InvalidConfiguration(f"rayInitArgs are keyword arguments of ray.init, not {rayInitArgs!r}")
        store = open_store(os.path.abspath(os.path.expanduser(os.fspath(path))))
        super().__init__(store)
        self._there = Storage(store)
        self._remote_args = {"num_cpus": 0, **remoteArgs}
        self._init_args = None if rayInitArgs is None else dict(rayInitArgs)

    new_workflow = _there(Storage.new_workflow)
    require_writable = _there(Storage.require_writable)
    restore = _there(Storage.restore)
    footer = _there(Storage.footer)
    footers = _there(Storage.footers)
    file_exists = _there(Storage.file_exists)
    stored = _there(Storage.stored)
    remove_task = _there(Storage.remove_task)
    remove_workflow = _there(Storage.remove_workflow)
    note = _there(Storage.note)
    gc = _there(Storage.gc)
    pin = _there(Storage.pin)
    unpin = _there(Storage.unpin)

    @property
    def catalog(self) -> RayCatalog:
        """The catalog of all results of this storage, asked on the disk's node."""
        return RayCatalog(self._store.root, self._remote_args, self._connect)

    @property
    def routed(self) -> FileStorage:
        """Itself: workflows on Ray save and read by it."""
        return self

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
        """Store one result as `Storage.keep` does, and wait; `UnpicklableResult` if it cannot go to the disk's node."""
        self._connect()
        try:
            reference = self.keep_later(workflow_name, task_name, obj, origin)
        except _REFUSALS as error:
            raise self.unsent(workflow_name, task_name, error) from error
        blob_id: str = self._fetch(reference)
        return blob_id

    def keep_later(self, workflow_name: str, task_name: str, obj: Any, origin: Origin | None) -> Any:
        """Store one result, when it is there.

        Parameters
        ----------
        workflow_name, task_name, origin
            As for `keep`.
        obj : object or ray.ObjectRef
            The result, or where Ray has it.

        Returns
        -------
        ray.ObjectRef
            Of the blob's id.
        """
        return self._submit(keep_on_disk, "keep", workflow_name, task_name, obj, origin)

    def unsent(self, workflow_name: str, task_name: str, error: BaseException) -> BaseException:
        """Return what is raised for a result that does not reach the disk's node, given what Ray raised."""
        if not isinstance(error, _REFUSALS):
            return error
        reason = str(error).partition("\n")[0]  # Ray's account of what it looked at goes on for pages
        refusal = named(UnpicklableResult(reason), workflow_name, task_name)
        refusal.__cause__ = error
        return refusal

    def restore_later(self, workflow_name: str, task_name: str, *after: Any) -> Any:
        """Read a result, when the references `after` are there; return a reference to it."""
        return self._submit(read_from_disk, "read_task", workflow_name, task_name, *after)

    def register_persistent_serializers(self, *classes: type[Serializer]) -> None:
        """Let serializers take over the objects of their types, on the disk's node.

        Parameters
        ----------
        *classes : type
            Classes with ``name``, ``serializer_class``, ``pickle``, ``unpickle`` and ``remove``.
        """
        self._there.register_persistent_serializers(*classes)

    def register_default_serializers(self) -> list[str]:
        """Let this package's serializers take over what the libraries on the disk's node make; return their names."""
        return self._there.register_default_serializers()

    def have_serializers(self) -> bool:
        """Tell whether any serializer is registered."""
        return self._there.have_serializers()

    def _call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._connect()
        return received(self._fetch(self._submit(on_disk, method, method, args, kwargs)))

    def _submit(self, function: Callable[..., Any], name: str, *args: Any) -> Any:
        packed = _ray.module().cloudpickle.dumps(self._there)
        options = {"name": f"storage.{name}", **self._remote_args}
        return _ray.remote(function).options(**options).remote(packed, *args)

    def _fetch(self, reference: Any) -> Any:
        try:
            return _ray.fetch(reference, self._remote_args)
        except InfeasibleResources as error:
            raise self._unreachable(error) from error

    def look(self, watch: _ray.Watch) -> None:
        """Raise `StorageUnusable` if the node that owns the disk has not been there for some seconds."""
        try:
            watch.look(lambda: [self._remote_args])
        except InfeasibleResources as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: InfeasibleResources) -> StorageUnusable:
        return StorageUnusable(f"the node that owns the disk of {self!r} is not there: {error}")

    def _connect(self) -> None:
        if self._init_args is not None:
            _ray.start(self._init_args)
        elif not _ray.module().is_initialized():
            raise StorageUnusable(
                f"{self!r} is reached by Ray, to which this process is not connected: call ray.init first, or give the "
                "storage the option rayInitArgs, such as {'address': 'auto'}"
            )
