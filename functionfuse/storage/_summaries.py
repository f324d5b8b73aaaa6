"""What is said of arrays, tables and containers by their types: shape, columns, length, and what else is cheap."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from catalog.names import to_text
from functionfuse.serializers.base import Statistics
from functionfuse.storage._plain import LONGEST, Plain, not_finite, to_json

_MOST_CELLS = 10_000  # of a pandas table, in which looking for nulls costs a millisecond at most
_MOST_STATISTICS = 100_000  # array elements over which min, max and mean cost well under a millisecond


def summary(obj: Any, cls: type) -> dict[str, Any] | None:
    """Return what is known of an object of a class; None where nothing is."""
    for base in cls.__mro__:
        summarize = _SUMMARIES.get((package(base), base.__name__))
        if summarize is not None:
            return summarize(obj)
    return None


def add_statistics(found: dict[str, Any], statistics: Statistics) -> None:
    """Add to the summary of a table what its files say: of its first columns, as many as there is room for.

    Parameters
    ----------
    found : dict
        The summary.
    statistics : Statistics
        Of the files.
    """
    columns = ((to_text(name), Plain().of(column)) for name, column in statistics.columns.items())
    if "columns" not in found:  # of a series
        found.update(next(columns, ("", {}))[1])
        return
    found.setdefault("shape", [statistics.rows, len(found["columns"])])
    room = LONGEST - len(to_json(found))
    for name, column in columns:
        room -= sum(len(to_json({name: {key: value}})) for key, value in column.items())
        if room < 0:
            break
        for key, value in column.items():
            found.setdefault(key, {})[name] = value


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
    return number if math.isfinite(number) else not_finite(number)


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


def package(cls: type) -> str:
    """Return the package that a class is from."""
    return str(cls.__module__).partition(".")[0]
