"""The script's own classes, which another process has by another name or as other objects: written, and found again.

cloudpickle writes a class of ``__main__`` by value: how to make it, then what it has. Read plainly, that is a new class
each time, and an enum's member is no longer the script's. So where this process has a class of that name, it is taken
instead, and when what the stream has of it arrives, the two are compared. If they differ, the stream is read once more,
without that class. Nothing that is read is ever written into a class of this process.

The streams stay those of cloudpickle, which reads them alone: only the qualified name of a nested class, and in
cloudpickle's field for extensions the name by which the script can be imported, are added.
"""

from __future__ import annotations

import enum
import functools
import io
import pickle
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from operator import attrgetter
from typing import Any
from weakref import WeakSet

from functionfuse.fingerprint._definition import has_members, have_equal_values

_EXTENSION = "functionfuse"
_CLOUDPICKLE = "cloudpickle.cloudpickle"
#: What knows the classes that came to this process by value: Ray has a cloudpickle of its own.
_TRACKERS = (_CLOUDPICKLE, "ray.cloudpickle.cloudpickle")
_MAINS = ("__main__", "__mp_main__")

# Classes that were made from a stream and have not got what belongs to them yet.
_unfinished: WeakSet[type] = WeakSet()


# How they are written


@functools.cache
def pickler() -> Any:
    """Return the pickler that writes the script's classes by value."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is functools.cached_property:  # before Python 3.12 it has a lock
                return functools.cached_property, (obj.func,), {"attrname": obj.attrname}
            reduced = super().reducer_override(obj)
            if type(reduced) is tuple and isinstance(obj, type):
                return _named(obj, reduced)
            return reduced

    return Pickler


def _named(cls: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Add to what cloudpickle writes of a class its qualified name, and where it can be imported from."""
    make, arguments, *rest = reduced
    if make.__name__ == "_make_skeleton_class" and cls.__qualname__ != cls.__name__:
        constructor, name, bases, given, *others = arguments
        arguments = (constructor, name, bases, {**given, "__qualname__": cls.__qualname__}, *others)
    elif make.__name__ not in ("_make_skeleton_class", "_make_skeleton_enum"):
        return reduced
    main = sys.modules.get("__main__")
    script = script_name(main)
    if script is not None and _member(main, cls.__qualname__) is cls:
        arguments = (*arguments[:-1], {**(arguments[-1] or {}), _EXTENSION: script})
    return (make, arguments, *rest)


def script_name(main: Any) -> str | None:
    """Return the name by which the script that runs as ``__main__`` can be imported; None for a notebook."""
    spec = getattr(main, "__spec__", None)
    return _stem(getattr(main, "__file__", None)) if spec is None else str(spec.name)


@functools.lru_cache(maxsize=8)  # by its file: the module itself must not be kept alive when the interpreter ends
def _stem(file: str | None) -> str | None:
    found = re.search(r"([^\W\d]\w*)\.py$", file or "")
    return found[1] if found else None


def _member(module: Any, qualname: str) -> Any:
    try:
        return attrgetter(qualname)(module)
    except AttributeError:
        return None


# How they are read


def names_the_script(stream: memoryview) -> bool:
    """Tell whether a stream may refer by name to the module that the running script would be if it were imported."""
    name = script_name(sys.modules.get("__main__"))
    return name is not None and _search(name)(stream) is not None


@functools.lru_cache(maxsize=8)
def _search(name: str) -> Callable[[memoryview], object]:
    # As pickle writes a short text: its code, its length, itself.
    text = name.encode()
    return re.compile(re.escape(b"\x8c" + len(text).to_bytes(2, "little")[:1] + text)).search


class _OtherCode(Exception):
    """The class of this process that was taken is not the one that was written."""


def load(make: Callable[[set[int]], Unpickler]) -> Any:
    """Return the object in a stream, with the classes of this process wherever they are those that were written.

    Parameters
    ----------
    make : callable
        Makes the unpickler, given the ids of classes that it must not take.
    """
    others: set[int] = set()
    while True:
        try:
            return make(others).load()
        except _OtherCode as error:
            others.add(error.args[0])


class Unpickler(pickle.Unpickler):
    """Takes the classes of this process for those that a stream has by value.

    Parameters
    ----------
    stream : memoryview
        What to read.
    buffers : sequence of memoryview
        What left it.
    others : set of int
        The ids of classes that are other ones, though they have the name.
    """

    def __init__(self, stream: memoryview, buffers: Sequence[memoryview], others: set[int]) -> None:
        super().__init__(io.BytesIO(stream), buffers=buffers)
        self._others = others
        self._taken: set[int] = set()  # to be compared when their members arrive
        self._ready: set[int] = set()

    def find_class(self, module: str, name: str) -> Any:
        """Return what a stream refers to by name."""
        found = super().find_class
        if module == _CLOUDPICKLE and name in _REPLACED:
            return _REPLACED[name](self, found(module, name))
        main = sys.modules.get("__main__")
        if module == script_name(main) and module not in sys.modules and _is_file_of(module, main):
            member = _member(main, name)
            if member is not None:
                return member
        return found(module, name)

    def _class(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def made(constructor: Any, name: str, bases: Any, given: Any, tracked: Any, extra: Any) -> Any:
            def fits(cls: Any) -> bool:
                generic = vars(cls).get("__orig_bases__")
                return type(cls) is constructor and (cls.__bases__ == types.resolve_bases(bases) or generic == bases)

            found = self._find(given.get("__qualname__", name), tracked, extra, fits)
            return found or _begun(make(constructor, name, bases, given, tracked, extra))

        return made

    def _enum(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def made(bases: Any, name: str, qualname: str, members: Any, module: str, tracked: Any, extra: Any) -> Any:
            def fits(cls: Any) -> bool:
                return isinstance(cls, enum.EnumMeta) and cls.__bases__ == bases and have_equal_values(cls, members)

            found = self._find(qualname, tracked, extra, fits)
            return found or _begun(make(bases, name, qualname, members, module, tracked, extra))

        return made

    def _members(self, fill: Callable[..., Any]) -> Callable[..., Any]:
        def filled(cls: type, state: tuple[dict[str, Any], Any]) -> type:
            if cls in _unfinished:
                fill(cls, state)
                _unfinished.discard(cls)
            elif id(cls) in self._taken and not has_members(cls, state[0]):
                raise _OtherCode(id(cls))
            return cls

        return filled

    def _find(self, qualname: str, tracked: str | None, extra: Any, fits: Callable[[Any], bool]) -> type | None:
        """Return the class that this process has in the place of one that was written; None if it has none."""
        written: type | None = _tracked(_CLOUDPICKLE).get(tracked)
        for cls in _candidates(qualname, (extra or {}).get(_EXTENSION)):
            if cls is written:
                return cls
            if id(cls) not in self._others and cls not in _unfinished and fits(cls):
                self._taken.add(id(cls))
                return cls
        return written


_REPLACED: Mapping[str, Callable[[Unpickler, Callable[..., Any]], Callable[..., Any]]] = {
    "_make_skeleton_class": Unpickler._class,
    "_make_skeleton_enum": Unpickler._enum,
    "_class_setstate": Unpickler._members,
}


def _begun(cls: type) -> type:
    _unfinished.add(cls)
    return cls


def _candidates(qualname: str, script: str | None) -> Iterator[type]:
    """Yield the classes of this process that have a name: of the script that wrote it, of this one, from elsewhere."""
    if "<locals>" not in qualname:
        main = sys.modules.get("__main__")
        named = sys.modules.get(script) if script is not None and script != script_name(main) else None
        found = [_member(module, qualname) for module in (named, main) if module is not None]
        yield from (cls for cls in found if isinstance(cls, type))
    for tracker in _TRACKERS:  # the latest first: a notebook's cell may have been executed again
        yield from (
            cls
            for cls in reversed(_tracked(tracker).values())
            if cls.__module__ in _MAINS and cls.__qualname__ == qualname
        )


def _tracked(module: str) -> dict[str | None, Any]:
    """Return the classes that were written or read by value in this process, by cloudpickle's ids."""
    tracker = sys.modules.get(module)
    if tracker is None:
        return {}
    with tracker._DYNAMIC_CLASS_TRACKER_LOCK:
        known = dict(tracker._DYNAMIC_CLASS_TRACKER_BY_ID)
    return {key: cls for key, cls in known.items() if isinstance(cls, type)}


def _is_file_of(module: str, main: Any) -> bool:
    """Tell whether importing a module would execute the script's file a second time."""
    if getattr(main, "__spec__", None) is not None:  # run by `python -m`, under this name
        return True
    spec = find_spec(module)
    return spec is not None and spec.origin is not None and spec.origin == getattr(main, "__file__", None)
