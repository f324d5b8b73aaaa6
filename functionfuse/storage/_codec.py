"""Objects to a pickle stream and buffers, and back; knows nothing of files.

Pickle protocol 5: large buffers (of arrays, say) are handed on out of band,
uncopied. What registered serializers take over stands in the stream as a
persistent id, ``(name, pid)``. What plain pickle refuses, and all that belongs
to ``__main__``, is pickled by value with cloudpickle: another process has
another ``__main__``.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast

from catalog.format.footer import Footer
from functionfuse.errors import (
    InvalidArgument,
    SerializerNotRegistered,
    SideFileMissing,
    UnpicklableResult,
    UnreadableResult,
)
from functionfuse.serializers._defaults import Default
from functionfuse.serializers.base import Serializer, Statistics
from functionfuse.storage import _own_classes
from functionfuse.storage._arrays import array_reducers
from functionfuse.storage._byte_shuffle import plane_width
from functionfuse.storage._compression import Buffer
from functionfuse.storage._lazy import LAZY, lazy_reducers
from functionfuse.storage._substitutes import SUBSTITUTES
from functionfuse.storage._trial import may_fail, text_of, try_to_load

PROTOCOL = 5
#: Buffers of at least this many bytes leave the stream; smaller ones are cheaper to copy than to map.
OUT_OF_BAND = 1 << 16

# What a script's own classes and functions are of: in processes that `multiprocessing` spawns, the second.
_SPAWNED_MAIN = "__mp_main__"
_MAINS = (b"__main__", _SPAWNED_MAIN.encode())
_LONGEST_MAIN = max(map(len, _MAINS))


class Sink(Protocol):
    """Where a pickle stream goes."""

    def write(self, data: bytes) -> object:
        """Append `data`."""

    def restart(self) -> None:
        """Discard all that was written; side files stay, they are referred to again."""


class Registry:
    """The serializers of a storage, by name and by the type that they take over."""

    def __init__(self, serializers: Iterable[type[Serializer]] = ()) -> None:
        self.by_name: dict[str, type[Serializer]] = {}
        self.by_type: dict[type, type[Serializer]] = {}
        self._defaults: dict[str, Default] = {}
        for serializer in serializers:
            self.add(serializer)

    def add(self, serializer: type[Serializer]) -> None:
        """Register `serializer`, in place of an earlier one of its name or type."""
        parts = ("name", "serializer_class", "pickle", "unpickle", "remove")
        missing = [part for part in parts if not hasattr(serializer, part)]
        if missing:
            raise InvalidArgument(f"{serializer!r} is no serializer: it lacks {', '.join(missing)}")
        self.by_name[serializer.name] = serializer
        self.by_type[serializer.serializer_class] = serializer

    def add_default(self, default: Default) -> None:
        """Register a serializer that is imported as soon as there can be objects of its type, or one is read."""
        self._defaults[default.name] = default

    def settle(self) -> None:
        """Import the default serializers of the libraries that are imported: of others, there are no objects."""
        for default in [each for each in self._defaults.values() if each.library in sys.modules]:
            self._take(default)

    def _take(self, default: Default) -> None:
        serializer = default.load()
        self.by_name.setdefault(default.name, serializer)  # what was registered by hand comes first
        self.by_type.setdefault(serializer.serializer_class, serializer)
        self._defaults.pop(default.name, None)

    def __bool__(self) -> bool:
        return bool(self.by_name or self._defaults)

    def named(self, name: str) -> type[Serializer]:
        """Return the serializer of that name; `SerializerNotRegistered` if there is none."""
        if name in self._defaults:
            self._take(self._defaults[name])
        try:
            return self.by_name[name]
        except KeyError:
            known = ", ".join(sorted(self.by_name)) or "none"
            raise SerializerNotRegistered(
                f"the result needs the serializer {name!r} (registered: {known}): "
                "call storage.register_persistent_serializers with its class first"
            ) from None


@dataclass(frozen=True)
class Dumped:
    """What an object became, beside the stream that was written.

    Attributes
    ----------
    buffers : tuple of Buffer
        What left the stream, in the order in which it needs it.
    serializers : tuple of str
        "pickle" or "cloudpickle", then the names of the registered serializers that took part.
    root : tuple of (str, object), optional
        The persistent id of the object itself, where a serializer took over all of it.
    lazy : dict, optional
        The classes of lazy objects that were pickled, with what to do instead.
    """

    buffers: tuple[Buffer, ...]
    serializers: tuple[str, ...]
    root: tuple[str, Any] | None = None
    lazy: dict[type, str] | None = None


_DISPATCH_TABLE: Any = vars(pickle.Pickler)["dispatch_table"]
_WITH_REDUCERS = frozenset({"numpy", *LAZY})
_STREAM_ONLY = Dumped((), ("pickle",))
_BY_NAME = pickle.STACK_GLOBAL
_SMALL = 1 << 12  # bytes that are copied faster than looked through in their place
_ATOMS = frozenset({int, float, bool, str, bytes, type(None)})


def dump(obj: Any, sink: Sink, registry: Registry, protocols: Callable[[], Mapping[str, Any]]) -> Dumped:
    """Write the pickle stream of an object.

    Parameters
    ----------
    obj : object
        What to write.
    sink : Sink
        Takes the stream. It is restarted where plain pickle gives up half way.
    registry : Registry
        The serializers that take part.
    protocols : callable
        Gives what they reach their files through.

    Raises
    ------
    UnpicklableResult
        If neither pickle nor cloudpickle can, or what they wrote is small, and cannot be read.
    """
    registry.settle()
    if type(obj) in _ATOMS and not registry.by_type:  # numbers and strings, a third of the time
        sink.write(pickle.dumps(obj, PROTOCOL))
        return _STREAM_ONLY
    taken = Taken()  # by serializers: what took an hour to compute is not computed again for the second attempt
    watch = _Watch(sink)
    try:
        dumped = _dump("pickle", pickle.Pickler, obj, watch, registry, protocols, taken)
    except Exception as error:  # `__reduce__` and the like may raise anything
        if not _is_of_pickle(error, watch, taken):
            raise
    else:
        if (
            watch.whole is not None
            and may_fail(watch.whole)
            and dumped.serializers == ("pickle",)
            and not dumped.buffers
        ):
            try_to_load(watch.whole, obj)
        return dumped
    sink.restart()
    return _dump_by_cloudpickle(obj, _Guard(sink), registry, protocols, taken)


def _dump_by_cloudpickle(
    obj: Any, sink: _Guard, registry: Registry, protocols: Callable[[], Mapping[str, Any]], taken: Taken
) -> Dumped:
    import cloudpickle

    main = sys.modules.get(_SPAWNED_MAIN)
    if main is not None and main.__name__ == _SPAWNED_MAIN:
        cloudpickle.register_pickle_by_value(main)
    try:
        return _dump("cloudpickle", _own_classes.pickler(), obj, sink, registry, protocols, taken)
    except Exception as error:
        if not _is_of_pickle(error, sink, taken):
            raise
        raise UnpicklableResult(f"a {type(obj).__qualname__} cannot be pickled: {error}") from error


def _is_of_pickle(error: Exception, sink: _Guard, taken: Taken) -> bool:
    """Tell whether an error says that an object cannot be pickled so; that of a disk or a serializer does not."""
    return not (isinstance(error, MemoryError) or error is sink.error or taken.error)


class Taken(dict[int, tuple[Any, Any]]):
    """Each object that a serializer was asked to take over, by its id, with its persistent id; None if it declined.

    Attributes
    ----------
    error : Exception or None
        What a serializer raised: that is its own, and says nothing of pickle.
    """

    error: Exception | None = None

    def pid(self, obj: Any, serializer: type[Serializer], protocols: Mapping[str, Any]) -> Any:
        """Return the persistent id of an object; that of one that comes twice is the same."""
        if id(obj) not in self:
            try:
                pid = serializer.pickle(obj, protocols)
            except Exception as error:
                self.error = error
                raise
            self[id(obj)] = (obj, pid and tuple(pid))  # the object is kept, so that its id is not given again
        return self[id(obj)][1]


def _dump(
    name: str,
    base: Any,
    obj: Any,
    sink: _Guard,
    registry: Registry,
    protocols: Callable[[], Mapping[str, Any]],
    taken: Taken,
) -> Dumped:
    buffers: list[Buffer] = []
    lazy: dict[type, str] = {}

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND:
            return True
        buffers.append(Buffer(view, plane_width(memoryview(buffer).itemsize)))
        return False

    if not registry.by_type:
        _pickle(obj, base(sink, PROTOCOL, buffer_callback=keep_in_band), lazy)
        if not buffers and not lazy and name == "pickle":
            return _STREAM_ONLY
        return Dumped(tuple(buffers), (name,), lazy=lazy)
    pickler = _with_serializers(base)(sink, PROTOCOL, buffer_callback=keep_in_band)
    pickler.take(registry, protocols(), taken)
    _pickle(obj, pickler, lazy)
    _, root = taken.get(id(obj), (obj, None))
    return Dumped(tuple(buffers), (name, *sorted(pickler.used)), root, lazy)


def _pickle(obj: Any, pickler: Any, lazy: dict[type, str]) -> None:
    given = getattr(pickler, "dispatch_table", None)  # cloudpickle has one of its own
    if given is None and sys.modules.keys().isdisjoint(_WITH_REDUCERS):  # as for most small results
        reducers = {}
    else:
        reducers = {**array_reducers(), **lazy_reducers(lazy), **(SUBSTITUTES if given is not None else {})}
    if reducers:
        # cloudpickle's is an attribute of its class, which hides the slot that is looked at.
        _DISPATCH_TABLE.__set__(pickler, {**(copyreg.dispatch_table if given is None else given), **reducers})
    try:
        pickler.dump(obj)
    except BaseException:
        # An object that keeps the error it raised keeps its traceback, hence this pickler, whose memo keeps the object.
        # Python 3.10 and 3.11.2 do not look for cycles in a memo: the storage in the traceback would never be closed.
        pickler.clear_memo()
        raise


@cache
def _with_serializers(base: Any) -> Any:
    class SerializingPickler(base):  # type: ignore[misc]  # the base is chosen at run time
        def take(self, registry: Registry, protocols: Mapping[str, Any], taken: Taken) -> None:
            self._by_type = registry.by_type
            self._protocols = protocols
            self._taken = taken
            self.used: set[str] = set()

        def persistent_id(self, obj: Any) -> Any:
            serializer = self._by_type.get(type(obj))
            if serializer is None:
                return None
            pid = self._taken.pid(obj, serializer, self._protocols)
            if pid is not None:
                self.used.add(serializer.name)
            return pid

    return SerializingPickler


class _OfMain(Exception):
    """The stream refers to a class or function of the script by name."""


class _Guard:
    """Hands a stream on.

    Attributes
    ----------
    error : Exception or None
        What the sink raised.
    """

    __slots__ = ("_sink", "error")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.error: Exception | None = None

    def write(self, data: bytes) -> None:
        try:
            self._sink.write(data)
        except Exception as error:
            self.error = error
            raise


class _Watch(_Guard):
    """Hands a stream on until it mentions the script's module, which another process would look up in its own.

    Attributes
    ----------
    whole : bytes or None
        All of the stream, if it came in one piece, as those do that are small; None otherwise.
    """

    __slots__ = ("_last", "whole")

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        self.whole: bytes | None = None
        self._last = b""

    def write(self, data: bytes) -> None:
        self.whole = None if self._last else data
        seam = self._last + bytes(data[:_LONGEST_MAIN]) if self._last else b""
        if any(main in data or main in seam for main in _MAINS):
            raise _OfMain
        self._last = bytes(data[-_LONGEST_MAIN:])
        try:  # as above: a call would take as long again
            self._sink.write(data)
        except Exception as error:
            self.error = error
            raise


def load(stream: memoryview, buffers: Sequence[memoryview], footer: Footer) -> Any:
    """Return the object that a pickle stream without persistent ids and its buffers hold.

    Parameters
    ----------
    stream : memoryview
        As `dump` wrote it.
    buffers : sequence of memoryview
        As `dump` returned them. Arrays are made over this very memory.
    footer : Footer
        It tells whether there may be classes in the stream by value.
    """
    try:
        if len(stream) <= _SMALL and _BY_NAME not in stream.tobytes():  # it refers to nothing by name
            return pickle.loads(stream, buffers=buffers)
        if footer.is_by_pickle and not _own_classes.names_the_script(stream):
            return pickle.loads(stream, buffers=buffers)
        return _own_classes.load(lambda others: _own_classes.Unpickler(stream, buffers, others))
    except MemoryError:
        raise
    except Exception as error:  # classes and functions that are called may raise anything
        raise _unreadable(error) from error


def load_with_serializers(
    stream: memoryview, buffers: Sequence[memoryview], registry: Registry, protocols: Mapping[str, Any]
) -> Any:
    """Return the object that a pickle stream with persistent ids and its buffers hold.

    Parameters
    ----------
    stream, buffers
        As for `load`.
    registry : Registry
        The serializers, looked up by the names in the stream.
    protocols : mapping
        What they reach their files through.

    Raises
    ------
    SerializerNotRegistered
        If a persistent id names a serializer that is not there.
    SideFileMissing
        If a serializer does not find its file.
    """
    known: dict[bytes, Any] = {}  # what serializers have read is kept when the stream is read once more
    failure = _Failure()

    def unpickler(others: set[int]) -> _SerializedUnpickler:
        return _SerializedUnpickler(stream, buffers, others, registry, protocols, known, failure)

    try:
        # No variable holds it: an error's traceback would, and Python looks for no cycles in its stack (see `_pickle`).
        return _own_classes.load(unpickler)
    except MemoryError:
        raise
    except Exception as error:
        if error is failure.error:
            raise
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> UnreadableResult:
    return UnreadableResult(f"its bytes are what was saved, but they cannot be unpickled: {text_of(error)}")


class _Failure:
    """What a serializer raised, if it did: that is its own, and says nothing of pickle."""

    error: Exception | None = None


class _SerializedUnpickler(_own_classes.Unpickler):
    def __init__(
        self,
        stream: memoryview,
        buffers: Sequence[memoryview],
        others: set[int],
        registry: Registry,
        protocols: Mapping[str, Any],
        known: dict[bytes, Any],
        failure: _Failure,
    ) -> None:
        super().__init__(stream, buffers, others)
        self._registry = registry
        self._protocols = protocols
        self._known = known
        self._failure = failure

    def persistent_load(self, pid: Any) -> Any:
        name, own = pid
        key = pickle.dumps(pid)  # a pid may be unhashable; one that comes twice is one object twice
        if key not in self._known:
            try:
                self._known[key] = self._unpickled(name, own)
            except Exception as error:
                self._failure.error = error
                raise
        return self._known[key]

    def _unpickled(self, name: str, own: Any) -> Any:
        serializer = self._registry.named(name)
        try:
            return serializer.unpickle(own, self._protocols)
        except FileNotFoundError as error:
            raise SideFileMissing(f"the serializer {name!r} does not find its side file: {error}") from error


def statistics(root: tuple[str, Any] | None, registry: Registry, protocols: Mapping[str, Any]) -> Statistics | None:
    """Return what the files of an object say of it, where a serializer took it over and can tell; None otherwise."""
    if root is None:
        return None
    name, pid = root
    tell = getattr(registry.named(name), "statistics", None)
    return None if tell is None else cast(Statistics, tell(pid, protocols))


def persistent_ids(stream: memoryview, buffers: Iterable[memoryview]) -> list[Any]:
    """Return the persistent ids of a pickle stream, executing nothing that it refers to."""
    unpickler = _InertUnpickler(io.BytesIO(stream), buffers=buffers)
    unpickler.found = {}
    unpickler.load()
    return list(unpickler.found.values())


class _InertUnpickler(pickle.Unpickler):
    found: dict[bytes, Any]

    def find_class(self, module: str, name: str) -> Any:
        return _Inert

    def persistent_load(self, pid: Any) -> Any:
        self.found[pickle.dumps(pid)] = pid  # a pid may be unhashable; one that comes twice is one object twice
        return None


class _Anything(type):
    """Lets a class be called, filled and given a state, as a function, a class, a container or an instance is."""

    def __call__(cls, *_: Any, **__: Any) -> Any:
        return cls

    def __setitem__(cls, _: Any, __: Any) -> None:
        pass

    def __setstate__(cls, _: Any) -> None:
        pass

    def append(cls, _: Any) -> None:
        """Take an item of a list's subclass."""

    extend = add = append


class _Inert(metaclass=_Anything):
    """Stands for all that a stream refers to and makes of it: takes what it is given and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return cls
