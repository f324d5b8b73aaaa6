"""What the catalog says of a result without unpickling it: its type, a summary and, if it is small, its value.

Captured at save, cheaply and within bounds; nothing here makes a save fail.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from catalog.names import to_text
from catalog.record import fragment

#: Neither summary nor value is longer than this, in characters of JSON.
LONGEST = 4096
_MOST_ITEMS = 500
_MOST_CELLS = 10_000  # of a pandas table, in which looking for nulls costs a millisecond at most
_MOST_STATISTICS = 100_000  # array elements over which min, max and mean cost well under a millisecond

_log = logging.getLogger("functionfuse.storage")
_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


def describe(obj: Any) -> str:
    """Return the fragment of a record with ``type``, ``summary``, ``value`` and ``packages``.

    Parameters
    ----------
    obj : object
        The result.

    Returns
    -------
    str
        The inside of a JSON object. ``value`` is null where the result is no
        small scalar or JSON-like container, ``summary`` where nothing is known.
    """
    cls = type(obj)
    try:
        scalar = _SCALARS.get(cls)
        if scalar is not None and (text := scalar(obj)) is not None:
            return f'"type":"{cls.__name__}","summary":null,"value":{text},"packages":{{}}'
        return _describe(obj, cls)
    except Exception:  # an object of any class may do anything when it is looked at
        _log.debug("no summary of a %s", cls, exc_info=True)
        return fragment(type=_safe_type_name(cls), summary=None, value=None, packages={})


def type_name(cls: type) -> str:
    """Return the name of a type with its module, builtins without."""
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    return to_text(name)


def _safe_type_name(cls: type) -> str | None:
    try:
        return type_name(cls)
    except Exception:  # a metaclass may do anything too
        return None


def _describe(obj: Any, cls: type) -> str:
    value = _bounded(_value(obj))
    summary = _bounded(_summary(obj, cls))
    names = fragment(type=type_name(cls), packages=_packages(obj, cls))
    return f'{names},"summary":{summary},"value":{value}'


def _bounded(found: Any) -> str:
    if found is None:
        return "null"
    text = _to_json(found)
    return text if len(text) <= LONGEST else "null"


def _int(number: int) -> str | None:
    return str(number) if -(2**63) <= number < 2**64 else None


def _float(number: float) -> str:
    return repr(number) if math.isfinite(number) else f'"{_not_finite(number)}"'


def _not_finite(number: float) -> str:
    # JSON has no such numbers; DuckDB casts these strings back to DOUBLE.
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _str(text: str) -> str | None:
    # A character takes 18 at most: a lone surrogate becomes an escaped mark and six digits.
    return _to_json(to_text(text)) if len(text) <= LONGEST // 18 else None


_SCALARS: dict[type, Callable[[Any], str | None]] = {
    int: _int,
    float: _float,
    str: _str,
    bool: lambda flag: "true" if flag else "false",
    type(None): lambda _: "null",
}


class _NoValue(Exception):
    """The object is not JSON-like, or too large."""


def _value(obj: Any) -> Any:
    try:
        return _Plain().of(obj)
    except _NoValue:
        return None


class _Plain:
    """Turns a small nest of scalars, lists, tuples and dicts into what JSON can hold."""

    def __init__(self) -> None:
        self._left = _MOST_ITEMS

    def of(self, obj: Any) -> Any:
        self._left -= 1
        cls = type(obj)
        if self._left < 0:
            raise _NoValue
        if cls is dict:
            return {self._key(key): self.of(item) for key, item in obj.items()}
        if cls in (list, tuple):
            return [self.of(item) for item in obj]
        return self._scalar(obj, cls)

    def _key(self, key: Any) -> str:
        if type(key) is not str:
            raise _NoValue
        return to_text(key)

    def _scalar(self, obj: Any, cls: type) -> Any:
        if hasattr(cls, "item") and cls.__module__ == "numpy" and getattr(obj, "shape", None) == ():
            obj = obj.item()
            cls = type(obj)
        if cls is float:
            return obj if math.isfinite(obj) else _not_finite(obj)
        if cls is str and len(obj) <= LONGEST:
            return to_text(obj)
        if cls is bool or obj is None or (cls is int and -(2**63) <= obj < 2**64):
            return obj
        raise _NoValue


def _summary(obj: Any, cls: type) -> dict[str, Any] | None:
    for base in cls.__mro__:
        summarize = _SUMMARIES.get((_package(base), base.__name__))
        if summarize is not None:
            return summarize(obj)
    return None


def _array(array: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"shape": list(array.shape), "dtype": str(array.dtype), "bytes": int(array.nbytes)}
    if array.dtype.kind in "iufmM" and 0 < array.size <= _MOST_STATISTICS:
        found |= _statistics(array)
    return found


def _statistics(array: Any) -> dict[str, Any]:
    """Return minimum, maximum, mean (not of times) and, where there are any, the number of NaN and NaT, left out."""
    import numpy as np

    found: dict[str, Any] = {}
    if array.dtype.kind in "fmM":
        is_null = np.isnat(array) if array.dtype.kind in "mM" else np.isnan(array)
        if nulls := int(is_null.sum()):
            found["nulls"] = nulls
            array = array[~is_null]
    if array.size:
        with np.errstate(all="ignore"):  # the mean of infinities is a summary, not a mistake to warn of
            for name in ("min", "max") if array.dtype.kind in "mM" else ("min", "max", "mean"):
                found[name] = _number(getattr(array, name)())
    return found


def _number(scalar: Any) -> Any:
    if scalar.dtype.kind in "mM":
        return str(scalar)
    number = scalar.item()
    return number if math.isfinite(number) else _not_finite(number)


def _frame(frame: Any) -> dict[str, Any]:
    columns = {to_text(str(name)): str(dtype) for name, dtype in zip(frame.columns, frame.dtypes, strict=True)}
    found: dict[str, Any] = {"shape": list(frame.shape), "columns": columns}
    if hasattr(frame, "estimated_size"):  # Polars
        nulls = {name: frame[name].null_count() for name in frame.columns}
        return {**found, "bytes": int(frame.estimated_size()), **_nulls(nulls)}
    found["bytes"] = int(frame.memory_usage(deep=False).sum())  # what objects hold is not counted
    if frame.size <= _MOST_CELLS and frame.columns.is_unique:
        found |= _nulls(dict(frame.isna().sum()))
    return found


def _nulls(counts: dict[Any, Any]) -> dict[str, Any]:
    nulls = {to_text(str(name)): int(count) for name, count in counts.items() if count}
    return {"nulls": nulls} if nulls else {}


def _series(series: Any) -> dict[str, Any]:
    return {"shape": list(series.shape), "dtype": str(series.dtype), "name": to_text(str(series.name))}


def _table(table: Any) -> dict[str, Any]:
    columns = {to_text(field.name): str(field.type) for field in table.schema}
    found = {"shape": [table.num_rows, table.num_columns], "columns": columns, "bytes": int(table.nbytes)}
    return {**found, **_nulls({field.name: table.column(at).null_count for at, field in enumerate(table.schema)})}


def _dask_array(array: Any) -> dict[str, Any]:
    return {"shape": [_count(n) for n in array.shape], "dtype": str(array.dtype), "chunks": _chunks(array.chunks)}


def _dask_frame(frame: Any) -> dict[str, Any]:
    columns = {to_text(str(name)): str(dtype) for name, dtype in frame.dtypes.items()}
    return {"columns": columns, "partitions": frame.npartitions}


def _dataset(dataset: Any) -> dict[str, Any]:
    variables = {to_text(str(name)): str(variable.dtype) for name, variable in dataset.variables.items()}
    sizes = {to_text(str(name)): size for name, size in dataset.sizes.items()}
    return {"sizes": sizes, "variables": variables, "bytes": int(dataset.nbytes)}


def _array_with_sizes(array: Any) -> dict[str, Any]:
    sizes = {to_text(str(name)): size for name, size in array.sizes.items()}
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sizes": sizes, "bytes": int(array.nbytes)}


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype), "bytes": tensor.numel() * tensor.element_size()}


def _count(number: float) -> int | None:
    return None if math.isnan(number) else int(number)  # Dask does not know every length


def _chunks(chunks: Iterable[Iterable[float]]) -> list[list[int | None]]:
    return [[_count(n) for n in axis] for axis in chunks]


def _mapping(mapping: dict[Any, Any]) -> dict[str, Any]:
    keys = [to_text(key) for key in islice(mapping, 50) if type(key) is str]
    return {"length": len(mapping), "keys": keys}


def _sized(obj: Any) -> dict[str, Any]:
    return {"length": len(obj)}


_SUMMARIES: dict[tuple[str, str], Callable[[Any], dict[str, Any]]] = {
    ("numpy", "ndarray"): _array,
    ("pandas", "DataFrame"): _frame,
    ("polars", "DataFrame"): _frame,
    ("pandas", "Series"): _series,
    ("polars", "Series"): _series,
    ("pyarrow", "Table"): _table,
    ("pyarrow", "RecordBatch"): _table,
    ("dask", "Array"): _dask_array,
    ("dask", "DataFrame"): _dask_frame,
    ("xarray", "Dataset"): _dataset,
    ("xarray", "DataArray"): _array_with_sizes,
    ("torch", "Tensor"): _tensor,
    ("builtins", "dict"): _mapping,
    **{("builtins", name): _sized for name in ("list", "tuple", "set", "frozenset", "str", "bytes", "bytearray")},
}


def _packages(obj: Any, cls: type) -> dict[str, str]:
    classes = {cls}
    if cls in (list, tuple, dict) and len(obj) <= 50:
        classes.update(type(item) for item in (obj.values() if cls is dict else obj))
    names = sorted({_package(each) for each in classes})
    versions = ((name, getattr(sys.modules.get(name), "__version__", None)) for name in names)
    return {name: version for name, version in versions if type(version) is str}


def _package(cls: type) -> str:
    return str(cls.__module__).partition(".")[0]
