"""What is said of arrays, tables and containers by their types: shape, columns, length, and what else is cheap.

Builtins are asked by their own methods, objects of a library as far as their class is the library's own. Subclasses of
others may answer in their own way, so they are not asked: arrays and pandas' frames are looked at as what they are
below, of all others nothing is said.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from catalog.format.names import to_text
from functionfuse.serializers.base import Statistics
from functionfuse.storage import _static
from functionfuse.storage._json_readers import LONGEST, key_text, not_finite, to_json
from functionfuse.storage._json_value import json_value

_MOST_CELLS = 10_000  # of a pandas table, in which looking for nulls costs a millisecond at most
_MOST_COLUMNS = 1_000  # more of them have no place in a summary, and each costs microseconds
_MOST_MEASURED = 100  # columns that are asked for their size one by one
_MOST_STATISTICS = 100_000  # array elements over which min, max and mean cost well under a millisecond
_MOST_FIELDS = 100  # of a structured type
_MOST_KEYS = 50


def summary(obj: Any, cls: type) -> dict[str, Any] | None:
    """Return what is known of an object of a class; None where nothing is."""
    known = _SUMMARIES.find(cls)
    return None if known is None else known[1](obj, known[0])


def _of_library(summarize: Callable[[Any], dict[str, Any]]) -> Callable[[Any, Any], dict[str, Any] | None]:
    def of_library(obj: Any, base: Any) -> dict[str, Any] | None:
        known = _as_library(obj, type(obj), base)
        return None if known is None else summarize(known)

    return of_library


def _as_library(obj: Any, cls: type, base: Any) -> Any:
    """Return an object as one of a class of the library's own; None where that would run code of others."""
    if _static.package(cls) == _static.package(base) and _static.is_genuine(cls):
        return obj
    name = _static.qualname(base)
    if name == "ndarray":
        return base.view(obj, base)
    between = _static.bases(cls)[: _static.bases(cls).index(base)]
    hides = any(not _HIDING.isdisjoint(_static.namespace(each)) for each in between)
    return base(obj) if name == "DataFrame" and _static.package(base) == "pandas" and not hides else None


_HIDING = frozenset({"__getattribute__", "__class__", "_mgr"})  # what could run where pandas takes over the columns


def add_statistics(found: dict[str, Any], statistics: Statistics) -> None:
    """Add to the summary of a table what its files say: of its first columns, as many as there is room for.

    Parameters
    ----------
    found : dict
        The summary.
    statistics : Statistics
        Of the files.
    """
    columns = ((to_text(name), _json_members(column)) for name, column in statistics.columns.items())
    if "dtype" in found:  # of a series
        found.update(next(columns, ("", {}))[1])
        return
    if "columns" in found:  # a lazy table does not know its length
        found.setdefault("shape", [statistics.rows, len(found["columns"])])
    room = LONGEST - len(to_json(found))
    for name, column in columns:
        room -= sum(len(to_json({name: {key: value}})) for key, value in column.items())
        if room < 0:
            break
        for key, value in column.items():
            found.setdefault(key, {})[name] = value


def _json_members(column: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json_value(column).text) or {})


def _array(array: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"shape": list(array.shape), "dtype": _dtype_text(array.dtype), "bytes": int(array.nbytes)}
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
    return number if math.isfinite(number) else not_finite(number)


def _pandas_frame(frame: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"shape": list(frame.shape)}
    if frame.shape[1] > _MOST_COLUMNS:
        return found
    dtypes = list(frame.dtypes)
    found["columns"] = _typed(frame.columns, dtypes)
    if not all(map(_is_known_dtype, dtypes)):
        return found
    if all(map(_is_of_numpy, dtypes)):  # what objects hold is not counted
        found["bytes"] = len(frame) * sum(dtype.itemsize for dtype in dtypes) + int(frame.index.memory_usage())
    elif len(dtypes) <= _MOST_MEASURED:
        found["bytes"] = int(frame.memory_usage(deep=False).sum())
    return found | _nulls_of_pandas(frame, dtypes)


def _nulls_of_pandas(frame: Any, dtypes: list[Any]) -> dict[str, Any]:
    if frame.size > _MOST_CELLS or not all(type(name) is str or type(name) is int for name in frame.columns):
        return {}
    objects = [at for at, dtype in enumerate(dtypes) if dtype == "object"]
    if (
        not all(_is_known_cell(cell) for at in objects for cell in frame.iloc[:, at].array)
        or not frame.columns.is_unique
    ):
        return {}
    return _nulls(dict(frame.isna().sum()))


def _is_known_cell(cell: Any) -> bool:
    """Return whether pandas can look whether a cell is null without running code of a stranger."""
    cls = type(cell)
    return _static.package(cls) in _OF_CELLS and _static.is_genuine(cls)


_OF_CELLS = frozenset({"builtins", "numpy", "pandas", "datetime", "decimal"})


def _is_of_numpy(dtype: Any) -> bool:
    return _DTYPES.find(type(dtype)) is not None


_DTYPES = _static.Known({("numpy", "dtype"): True})


def _is_known_dtype(dtype: Any) -> bool:
    cls = type(dtype)
    return (_static.package(cls) in _OF_DTYPES and _static.is_genuine(cls)) or _is_of_numpy(dtype)


_OF_DTYPES = frozenset({"numpy", "pandas", "polars", "pyarrow", "torch"})


def _dtype_text(dtype: Any) -> str:
    """Return what a type is called; of one with many fields, and of one of others, no more than its kind."""
    if not _is_known_dtype(dtype):
        return to_text(_static.qualname(type(dtype)))
    is_long = len(getattr(dtype, "names", None) or ()) > _MOST_FIELDS or getattr(dtype, "num_fields", 0) > _MOST_FIELDS
    return _static.qualname(type(dtype)) if is_long else to_text(str(dtype))


def _label(name: Any) -> str:
    """Return the name of a column as text."""
    if type(name) is str:
        return to_text(name)
    if type(name) is tuple and all(type(part) is str or type(part) is int for part in name):
        return to_text(str(name))
    text = key_text(name)
    return text if isinstance(text, str) else f"<{to_text(_static.qualname(type(name)))}>"


def _typed(names: Iterable[Any], dtypes: Iterable[Any]) -> dict[str, str]:
    return {_label(name): _dtype_text(dtype) for name, dtype in zip(names, dtypes, strict=True)}


def _polars_frame(frame: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"shape": list(frame.shape)}
    if frame.width > _MOST_COLUMNS:
        return found
    found |= {"columns": _typed(frame.columns, frame.dtypes), "bytes": int(frame.estimated_size())}
    return found | _nulls({name: frame[name].null_count() for name in frame.columns})


def _nulls(counts: dict[Any, Any]) -> dict[str, Any]:
    nulls = {_label(name): int(count) for name, count in counts.items() if count}
    return {"nulls": nulls} if nulls else {}


def _series(series: Any) -> dict[str, Any]:
    return {"shape": list(series.shape), "dtype": _dtype_text(series.dtype), "name": _label(series.name)}


def _table(table: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"shape": [table.num_rows, table.num_columns]}
    if table.num_columns > _MOST_COLUMNS:
        return found
    fields = list(table.schema)
    found |= {"columns": _typed((field.name for field in fields), (field.type for field in fields))}
    found["bytes"] = int(table.nbytes)
    return found | _nulls({field.name: table.column(at).null_count for at, field in enumerate(fields)})


def _dask_array(array: Any) -> dict[str, Any]:
    found = {"shape": [_count(n) for n in array.shape], "dtype": _dtype_text(array.dtype)}
    is_short = sum(map(len, array.chunks)) <= _MOST_COLUMNS
    return found | ({"chunks": _chunks(array.chunks)} if is_short else {})


def _dask_frame(frame: Any) -> dict[str, Any]:
    found = {"partitions": frame.npartitions}
    if len(frame.columns) > _MOST_COLUMNS:
        return found
    return {"columns": _typed(frame.columns, frame.dtypes), **found}


def _dataset(dataset: Any) -> dict[str, Any]:
    sizes = _sizes(dataset)
    if len(dataset.variables) > _MOST_COLUMNS:
        return {"sizes": sizes}
    variables = {_label(name): _dtype_text(variable.dtype) for name, variable in dataset.variables.items()}
    return {"sizes": sizes, "variables": variables, "bytes": int(dataset.nbytes)}


def _sizes(array: Any) -> dict[str, int]:
    return {_label(name): size for name, size in islice(array.sizes.items(), _MOST_COLUMNS)}


def _array_with_sizes(array: Any) -> dict[str, Any]:
    about = {"shape": list(array.shape), "dtype": _dtype_text(array.dtype)}
    return {**about, "sizes": _sizes(array), "bytes": int(array.nbytes)}


def _tensor(tensor: Any) -> dict[str, Any]:
    size = tensor.numel() * tensor.element_size()
    return {"shape": list(tensor.shape), "dtype": _dtype_text(tensor.dtype), "bytes": size}


def _count(number: float) -> int | None:
    return None if math.isnan(number) else int(number)  # Dask does not know every length


def _chunks(chunks: Iterable[Iterable[float]]) -> list[list[int | None]]:
    return [[_count(n) for n in axis] for axis in chunks]


def _mapping(mapping: Any, _: type) -> dict[str, Any]:
    first = islice(dict.__iter__(mapping), _MOST_KEYS)
    keys = [to_text(key) for key in first if type(key) is str and len(key) <= LONGEST]
    return {"length": dict.__len__(mapping), "keys": keys}


def _sized(obj: Any, base: Any) -> dict[str, Any]:
    return {"length": base.__len__(obj)}


_SUMMARIES: _static.Known[Callable[[Any, Any], dict[str, Any] | None]] = _static.Known(
    {
        ("builtins", "dict"): _mapping,
        **{("builtins", name): _sized for name in ("list", "tuple", "set", "frozenset", "str", "bytes", "bytearray")},
        ("numpy", "MaskedArray"): _of_library(_array),
        ("numpy", "ndarray"): _of_library(_array),
        ("pandas", "DataFrame"): _of_library(_pandas_frame),
        ("polars", "DataFrame"): _of_library(_polars_frame),
        ("pandas", "Series"): _of_library(_series),
        ("polars", "Series"): _of_library(_series),
        ("pyarrow", "Table"): _of_library(_table),
        ("pyarrow", "RecordBatch"): _of_library(_table),
        ("dask", "Array"): _of_library(_dask_array),
        ("dask", "DataFrame"): _of_library(_dask_frame),
        ("xarray", "Dataset"): _of_library(_dataset),
        ("xarray", "DataArray"): _of_library(_array_with_sizes),
        ("torch", "Tensor"): _of_library(_tensor),
    }
)
