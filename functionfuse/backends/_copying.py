"""Copies of a value within this process, and digests that tell whether it was changed: both by its pickle.

Functions, classes, and what cannot be pickled (locks, open files, clients,
generators) are no part of it: a copy holds the same ones, and a digest counts
only which they are.
"""

from __future__ import annotations

import collections
import copyreg
import datetime
import decimal
import fractions
import functools
import io
import pathlib
import pickle
import types
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import xxhash

from functionfuse.fingerprint import of_value
from functionfuse.storage._arrays import array_reducers

#: Bytes of a pickle up to which a value is small. Buffers of at least as many are not copied into the pickle.
SMALL = 1 << 16

#: The types of most results that cannot be changed.
ATOMS = frozenset({int, float, complex, str, bytes, bool, type(None)})

_FIXED = ATOMS | {
    *(object, type, range, type(...), types.FunctionType, types.BuiltinFunctionType, types.ModuleType),
    *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
    *(decimal.Decimal, fractions.Fraction, uuid.UUID),
    *(pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath, pathlib.WindowsPath),
}
_BY_REFERENCE = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)
_PLAIN = ATOMS | {list, tuple, dict, set, frozenset, bytearray, collections.deque}
# Libraries whose tables may be laid out anew when they are read, so that they pickle otherwise.
_FRAMES = ("pandas", "polars")


def _by_type(function: Callable[[type], bool]) -> Callable[[type], bool]:
    return functools.lru_cache(maxsize=1024)(function)


def is_fixed(value: Any) -> bool:
    """Tell whether neither a value nor what it holds can be changed."""
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return set(map(type, value)) <= ATOMS or all(map(is_fixed, value))
    return _is_fixed_type(kind)


@_by_type
def _is_fixed_type(kind: type) -> bool:
    if kind in _FIXED:
        return True
    # By name, since no library is imported here. NumPy's records and scalars that hold objects are none of these.
    names = {f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__}
    if kind.__module__ == "numpy":
        return not names.isdisjoint(
            {"numpy.number", "numpy.bool", "numpy.bool_", "numpy.character", "numpy.datetime64"}
        )
    return not names.isdisjoint({f"pyarrow.lib.{name}" for name in ("_Tabular", "Table", "Array", "ChunkedArray")})


@_by_type
def is_iterator_type(kind: type) -> bool:
    """Tell whether objects of a type are Python's own iterators, such as generators: they can be gone through once."""
    return issubclass(kind, Iterator) and kind.__module__ in ("builtins", "itertools")


class Pickled:
    """The pickle of a value, for this process.

    Parameters
    ----------
    value : object
        Anything.

    Attributes
    ----------
    is_small : bool
        Whether `copy` is cheap; of what is not small there is a digest only.
    is_buffers : bool
        Whether the value is large and consists of large buffers, with little around them.
    is_opaque : bool
        Whether nothing of the value can be pickled, so that a copy is the value itself.

    Notes
    -----
    It holds buffers of what is not small: let it go before anybody gets the value, which could not be resized.
    """

    __slots__ = ("_buffers", "_shared", "_sink", "_value", "is_buffers", "is_opaque", "is_small")

    def __init__(self, value: Any) -> None:
        self._value = value
        self._sink, self._buffers, self._shared = _dumped(value)
        is_short = self._sink.size <= SMALL
        self.is_small = is_short and not self._buffers
        self.is_buffers = is_short and bool(self._buffers)
        self.is_opaque = id(value) in self._shared

    def digest(self) -> str:
        """Return a digest of the value; another one where it was changed since."""
        if type(self._value).__module__.partition(".")[0] in _FRAMES:
            fingerprint = of_value(self._value)
            if fingerprint is not None:
                return fingerprint
        self._sink.finish()
        for view in self._buffers:
            self._sink.hash.update(view)
        return self._sink.hash.hexdigest()

    def copy(self) -> Any:
        """Return a small value as it was, made anew."""
        if self.is_opaque:
            return self._value
        stream = b"".join(self._sink.chunks)
        if not self._shared:
            return pickle.loads(stream)
        unpickler = _Unpickler(io.BytesIO(stream))
        unpickler.shared = self._shared
        return unpickler.load()


class _Sink:
    """Takes a pickle: keeps a short one, hashes a long one, so that it takes no memory."""

    __slots__ = ("chunks", "hash", "size")

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.hash = xxhash.xxh3_128()
        self.size = 0

    def write(self, data: bytes) -> None:
        self.size += len(data)
        self.chunks.append(data)
        if self.size > SMALL:
            self.finish()

    def finish(self) -> None:
        for chunk in self.chunks:
            self.hash.update(chunk)
        self.chunks.clear()


def _dumped(value: Any) -> tuple[_Sink, list[memoryview], dict[int, Any]]:
    """Return the pickle of a value, its large buffers, and by their ids the objects that are no part of it."""
    if not _owns_something(type(value)):
        for kind in (pickle.Pickler, _Pickler):
            sink, buffers = _Sink(), []  # type: tuple[_Sink, list[memoryview]]
            pickler: Any = kind(sink, 5, buffer_callback=functools.partial(_keep_in_band, buffers))
            reducers = array_reducers()
            if reducers:
                pickler.dispatch_table = {**copyreg.dispatch_table, **reducers}
            with suppress(Exception):  # whatever a class raises that cannot be pickled
                pickler.dump(value)
                return sink, buffers, getattr(pickler, "shared", {})
    return _Sink(), [], {id(value): value}


def _keep_in_band(buffers: list[memoryview], buffer: pickle.PickleBuffer) -> bool:
    view = buffer.raw()
    if view.nbytes < SMALL:
        return True
    buffers.append(view)
    return False


@_by_type
def _owns_something(kind: type) -> bool:
    """Tell whether objects of a class clean up when they go, as a copy would do, or are a file that lies in memory."""
    is_file = any(base.__module__ == "numpy" and base.__qualname__ == "memmap" for base in kind.__mro__)
    return is_file or isinstance(getattr(kind, "__del__", None), types.FunctionType)


class _Pickler(pickle.Pickler):
    """Leaves out what plain pickle refuses."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shared: dict[int, Any] = {}

    def persistent_id(self, obj: Any) -> int | None:
        kind = type(obj)
        if kind in _PLAIN or not (isinstance(obj, _BY_REFERENCE) or _owns_something(kind) or _is_refused(obj)):
            return None
        self.shared[id(obj)] = obj
        return id(obj)


class _Unpickler(pickle.Unpickler):
    shared: dict[int, Any]

    def persistent_load(self, pid: Any) -> Any:
        return self.shared[pid]


def _is_refused(obj: Any) -> bool:
    try:
        obj.__reduce_ex__(5)
    except Exception:  # whatever it says
        return type(obj) not in copyreg.dispatch_table
    return False
