"""What runs on Ray's workers: one node, with its arguments at hand, read, or come from other nodes.

A worker waits for nothing: results of other nodes arrive as arguments of the
task, which Ray starts when they are there.
"""

from __future__ import annotations

import functools
import math
import operator
import os
import pickle
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from msgspec.structs import replace

from functionfuse._arguments import Reference, substitute
from functionfuse._ray import Blamed, module
from functionfuse.backends._returned import checked
from functionfuse.storage.base import Origin, Storage

#: Seconds that a small node takes at most: the median of its function's last calls.
SMALL = 5e-3
#: Bytes from which something is large: it is put into Ray's store by itself.
LARGE = 1 << 16

#: The source that is the result of the call before.
PREVIOUS = -1

#: The keys of an item, one after the other; none for the whole result.
Keys = tuple[Any, ...]

#: Where a worker has a result from: the number of an argument of the task, or `PREVIOUS`; of an item, by its keys; the
#: name of a stored result; None for the actor's own object.
Source = int | dict[Keys, int] | str | None


class Slot(Reference):
    """Stands in arguments for a result that the worker has, gets or reads.

    Parameters
    ----------
    place : int
        Which of the call's sources it comes from.
    keys : tuple
        What to index it by.
    """

    __slots__ = ("keys", "place")

    def __init__(self, place: int, keys: Keys = ()) -> None:
        self.place = place
        self.keys = keys

    def __getitem__(self, key: Any) -> Slot:
        return Slot(self.place, (*self.keys, key))

    def __reduce__(self) -> tuple[Any, ...]:
        return Slot, (self.place, self.keys)

    def _value(self, result_of: Callable[[Any], Any]) -> Any:
        return result_of(self)


class Session(NamedTuple):
    """What all nodes of a run share.

    Attributes
    ----------
    workflow : str
        The workflow's name.
    run_id : str
        The run's id.
    storage : Storage or None
        Where workers read and save; None if they do not.
    """

    workflow: str
    run_id: str
    storage: Storage | None


class Call(NamedTuple):
    """What one node needs.

    Attributes
    ----------
    node : str
        Its name.
    function : int
        Which of the task's values is the function, pickled.
    args, kwargs : tuple, dict
        The arguments, with a `Slot` for every result of another node.
    sources : list of Source
        Where these come from.
    origin : Origin or None
        What a record says of where the result comes from; None if the worker does not save it.
    prepare : callable or None
        A plugin's part.
    returns : tuple of Keys
        What of the result other nodes need.
    is_followed : bool
        Whether the next call needs it.
    """

    node: str
    function: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sources: list[Source]
    origin: Origin | None
    prepare: Callable[[], object] | None
    returns: tuple[Keys, ...]
    is_followed: bool


class Made(NamedTuple):
    """What a worker tells of a node that it computed.

    Attributes
    ----------
    blob_id : str or None
        The blob that it saved.
    duration : float
        What the call took, in seconds.
    details : dict or None
        Where it was, if the worker has not saved it.
    seconds : float
        How long the worker was at it; infinite where what it returned is large, and no company for others.
    """

    blob_id: str | None
    duration: float = 0.0
    details: dict[str, Any] | None = None
    seconds: float = 0.0


class Broken(NamedTuple):
    """An item that the result does not have; the error is for the node that wants it."""

    error: Exception


def compute(session: bytes, calls: list[Call], *values: Any) -> Any:
    """Run functions' nodes, one after the other, and return what was made, followed by what other nodes need.

    Parameters
    ----------
    session : bytes
        A `Session`, pickled.
    calls : list of Call
        What to call; several where they are small.
    *values : object
        What the calls number: functions, pickled, and results.

    Returns
    -------
    list of Made, or tuple
        What was made, alone or with what is wanted of the results.
    """
    shared: Session = unpacked(session)
    storage = shared.storage
    if storage is None or len(calls) == 1:
        return _row(shared, calls, values)
    try:
        with storage.batch():
            answer = _row(shared, calls, values)
    except BaseException:
        with suppress(Exception):  # what went well before is kept
            storage.flush()
        raise
    storage.flush()
    return answer


def _row(shared: Session, calls: list[Call], values: tuple[Any, ...]) -> Any:
    told: list[Made] = []
    wanted: list[Any] = []
    value = None
    for call in calls:
        if told and call.origin is not None:
            call = call._replace(origin=_with_blob(call.origin, unknown_blob(shared.run_id), told[-1].blob_id or ""))
        value, made = _one(shared, call, (*values, value), len(calls) == 1)
        told.append(made)
        wanted += _wanted(call, value)
    return _answer(told, wanted)


def unknown_blob(run_id: str) -> str:
    """Return what stands in inputs for the blob of the call before, until that is saved."""
    return f"{run_id}#"


def _with_blob(origin: Origin, unknown: str, blob_id: str) -> Origin:
    inputs = {name: value and value.replace(unknown, blob_id) for name, value in (origin.inputs or {}).items()}
    return replace(origin, inputs=inputs)


class Instance:
    """The object that a class's node makes; an actor."""

    def __init__(self) -> None:
        self._object: Any = None

    def construct(self, session: bytes, calls: list[Call], *values: Any) -> Any:
        """Make the object."""
        self._object, made = _made(unpacked(session), calls[0], values, None)
        return [made]

    def call(self, session: bytes, calls: list[Call], *values: Any) -> Any:
        """Call a method of it."""
        value, made = _made(unpacked(session), calls[0], values, self._object)
        return _answer([made], _wanted(calls[0], value))

    def itself(self) -> Any:
        """Return the object as it is now: a copy, wherever it goes."""
        return self._object


@functools.lru_cache(maxsize=256)
def unpacked(data: bytes) -> Any:
    """Return what was pickled, the same object for the same bytes: most nodes of a worker share it."""
    return module().cloudpickle.loads(data)


def _one(session: Session, call: Call, values: Any, is_alone: bool) -> tuple[Any, Made]:
    """Compute one node; of several, say which one failed."""
    try:
        return _computed(session, call, values, is_alone)
    except Exception as error:
        if is_alone or isinstance(error, Blamed):
            raise
        raise Blamed(call.node, error) from error


def _computed(session: Session, call: Call, values: Any, waits: bool) -> tuple[Any, Made]:
    """Compute one node, unless an earlier attempt of this run has: Ray begins again what a dead worker or node lost."""
    storage = session.storage
    if storage is not None and call.origin is not None:
        footer = storage.kept(session.workflow, call.node, call.origin)
        if footer is not None:
            wanted = call.returns or call.is_followed
            return storage.read_task(session.workflow, call.node) if wanted else None, Made(footer.blob_id)
    return _made(session, call, values, None, waits)


def _made(session: Session, call: Call, values: Any, own: Any, waits: bool = True) -> tuple[Any, Made]:
    began = time.perf_counter()
    if call.prepare is not None:
        call.prepare()
    resolve = _Resolver(session, call.sources, values, own)
    args = substitute(call.args, resolve)
    kwargs = substitute(call.kwargs, resolve)
    value, duration = _called(unpacked(values[call.function]), args, kwargs)
    blob_id = None
    waited = 0.0
    if call.origin is not None:
        storage = session.storage
        assert storage is not None
        computed = time.perf_counter()
        waits = waits or storage.always_read
        origin = replace(call.origin, duration=duration, details=_where())
        blob_id = storage.keep(session.workflow, call.node, value, origin, waits=waits)
        if storage.is_remote:  # those that are computed in a row wait once
            waited = time.perf_counter() - computed
        if storage.always_read:
            value = storage.read_task(session.workflow, call.node)
    seconds = time.perf_counter() - began - waited
    if (call.returns or waited) and seconds < SMALL and is_large(value):
        seconds = math.inf
    return value, Made(blob_id, duration, None if blob_id else _where(), seconds)


def is_large(value: Any) -> bool:
    """Tell whether a value's pickle is large; what plain pickle refuses counts as small."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        size = len(pickle.dumps(value, 5, buffer_callback=buffers.append))
    except Exception:  # cloudpickle may do better
        return False
    return size + sum(buffer.raw().nbytes for buffer in buffers) > LARGE


def _called(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    try:
        value = checked(function(*args, **kwargs), function)
    except SystemExit as error:  # it would end the worker, and Ray would begin the node again
        raise RuntimeError(f"the node wanted to end its process: sys.exit({error.code!r})") from error
    return value, round(time.perf_counter() - began, 9)


def _wanted(call: Call, value: Any) -> list[Any]:
    return [_item(value, keys) for keys in call.returns]


def _answer(told: list[Made], wanted: list[Any]) -> Any:
    return (told, *wanted) if wanted else told


def _item(value: Any, keys: Keys) -> Any:
    try:
        return functools.reduce(operator.getitem, keys, value)
    except Exception as error:
        return Broken(error)


class _Resolver:
    """Puts results in the place of slots."""

    def __init__(self, session: Session, sources: list[Source], values: Any, own: Any) -> None:
        self._session = session
        self._sources = sources
        self._values = values
        self._own = own
        self._read: dict[str, Any] = {}

    def __call__(self, slot: Any) -> Any:
        source = self._sources[slot.place]
        if isinstance(source, dict):
            return _sound(self._values[source[slot.keys]])
        return functools.reduce(operator.getitem, slot.keys, self._whole(source))

    def _whole(self, source: int | str | None) -> Any:
        if source is None:
            return self._own
        if isinstance(source, int):
            return self._values[source]
        if source not in self._read:
            self._read[source] = read(self._session, source)
        return self._read[source]


def _sound(value: Any) -> Any:
    if type(value) is Broken:
        raise value.error
    return value


def read(session: Session, name: str) -> Any:
    """Return a stored result; an error is blamed on its node."""
    assert session.storage is not None
    try:
        return session.storage.read_task(session.workflow, name)
    except Exception as error:
        raise Blamed(name, error) from error


@functools.lru_cache(maxsize=1)
def _where() -> dict[str, Any]:
    context = module().get_runtime_context()
    return {"ray_node": context.get_node_id(), "host": os.uname().nodename, "pid": os.getpid()}
