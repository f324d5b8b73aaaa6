"""Fingerprints of pandas, polars and pyarrow tables, column by column.

The same content has the same fingerprint whatever blocks, chunks or buffers
hold it, so these objects are not taken apart as pickle does it. No library is
imported here: who has a table to show has imported its library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from functionfuse.fingerprint._arrays import array_token, bytes_of, content_of_chunks, items_token
from functionfuse.fingerprint._digest import digest
from functionfuse.fingerprint._walk import Walk, family, short_name

_CHUNK = 1 << 16  # rows
_FIXED_WIDTH = frozenset({8, 16, 32, 64})  # bits


def _slices(column: Any) -> Iterator[Any]:
    return (column[at : at + _CHUNK] for at in range(0, len(column), _CHUNK))


def _text_token(chunks: Iterable[list[Any]]) -> str:
    """Return the token of lists, laid end to end, of nothing but str and missing marks.

    `ascii` quotes and escapes every str, and so separates it from the others and
    from ``None``, ``nan`` and ``<NA>``, in the same way in every Python.
    """
    return digest("text", (content_of_chunks(ascii(chunk)[1:-1].encode() + b", " for chunk in chunks if chunk),))


# pandas


@family("pandas", "DataFrame")
def _frame(walk: Walk, value: Any) -> str:
    columns = digest("columns", (_series_values(walk, column) for _, column in value.items()))
    parts = (walk.token(value.columns), walk.token(value.index), columns, _extra(walk, value))
    return digest(short_name(type(value)), parts)


@family("pandas", "Series")
def _series(walk: Walk, value: Any) -> str:
    parts = (walk.token(value.name), walk.token(value.index), _series_values(walk, value), _extra(walk, value))
    return digest(short_name(type(value)), parts)


def _extra(walk: Walk, value: Any) -> str:
    # What a subclass declares as its own, and what the user noted on the table.
    declared = [(name, getattr(value, name, None)) for name in value._metadata if name != "_name" and name != "name"]
    return walk.token((declared, value.attrs))


def _series_values(walk: Walk, series: Any) -> str:
    return _values(walk, series.array)


@family("pandas", "Index")
def _index(walk: Walk, value: Any) -> str:
    frequency = getattr(value, "freqstr", None)  # of times: `shift` and resampling go by it
    parts = [walk.token(list(value.names)), _values(walk, value.array)]
    return digest("pandas.Index", parts if frequency is None else [*parts, ascii(frequency)])


@family("pandas", "RangeIndex")
def _range_index(walk: Walk, value: Any) -> str:
    # The same as of an index that holds these numbers, without keeping them in memory.
    numpy = sys.modules["numpy"]
    dtype = numpy.dtype("int64")
    numbers = range(value.start, value.stop, value.step)
    parts = _slices(numbers)
    elements = content_of_chunks(numpy.arange(part.start, part.stop, part.step, dtype=dtype) for part in parts)
    return digest("pandas.Index", (walk.token(list(value.names)), array_token(walk, dtype, (len(numbers),), elements)))


@family("pandas", "MultiIndex")
def _multi_index(walk: Walk, value: Any) -> str:
    # Value by value: two equal ones may number their levels differently.
    levels = (_values(walk, value.get_level_values(level).array) for level in range(value.nlevels))
    return digest("pandas.MultiIndex", (walk.token(list(value.names)), *levels))


@family("pandas", "Timestamp", "Timedelta")
def _time(walk: Walk, value: Any) -> str:
    return digest(short_name(type(value)), map(walk.token, (value.isoformat(), getattr(value, "tzinfo", None))))


@family("pandas", "ExtensionArray")
def _values(walk: Walk, array: Any) -> str:
    dtype = array.dtype
    kinds = (kind.__name__ for kind in type(dtype).__mro__)
    special = next((_PANDAS[kind] for kind in kinds if kind in _PANDAS), _listed)
    return special(walk, array)


def _listed(walk: Walk, array: Any) -> str:
    return digest("pandas.array", (ascii(str(array.dtype)), items_token(walk, array)))


def _plain_array(walk: Walk, array: Any) -> str:
    values = array.to_numpy()
    if values.dtype.kind == "O" and _is_text(values):
        return _text_token(part.tolist() for part in _slices(values))
    return walk.token(values)


def _is_text(values: Any) -> bool:
    # pandas 3 holds as `str` what pandas 2 holds as `object`: the same column, the same fingerprint.
    kinds = set(map(type, values))
    marks = {str, type(None), type(getattr(sys.modules["pandas"], "NA", None))}
    if not kinds - marks:
        return True
    return not kinds - marks - {float} and all(item != item for item in values if type(item) is float)


def _strings(walk: Walk, array: Any) -> str:
    return _text_token(part.to_numpy(dtype=object).tolist() for part in _slices(array))


def _categorical(walk: Walk, array: Any) -> str:
    parts = (walk.token(array.categories), walk.token(bool(array.ordered)), walk.token(array.codes))
    return digest("pandas.Categorical", parts)


def _masked(walk: Walk, array: Any) -> str:
    # Under the mask there may be anything.
    values = array.to_numpy(dtype=array.dtype.numpy_dtype, na_value=0)
    return digest("pandas.masked", (walk.token(values), walk.token(array.isna())))


def _zoned_times(walk: Walk, array: Any) -> str:
    return digest("pandas.times", (ascii(str(array.dtype)), walk.token(array.asi8)))


def _arrow_backed(walk: Walk, array: Any) -> str:
    return digest("pandas.arrow", (walk.token(array.__arrow_array__()),))


#: Class of a dtype, or one it inherits from -> token of an array of that dtype.
_PANDAS: dict[str, Callable[[Walk, Any], str]] = {
    "NumpyEADtype": _plain_array,
    "PandasDtype": _plain_array,
    "dtype": _plain_array,  # numpy's own, of naive datetimes
    "StringDtype": _strings,
    "CategoricalDtype": _categorical,
    "BaseMaskedDtype": _masked,
    "DatetimeTZDtype": _zoned_times,
    "PeriodDtype": _zoned_times,
    "ArrowDtype": _arrow_backed,
}


# pyarrow


@family("pyarrow", "Table", "RecordBatch")
def _arrow_table(walk: Walk, value: Any) -> str:
    columns = (walk.token(column) for column in value.columns)
    fields = (_metadata(walk, field.metadata) for field in value.schema)
    parts = (walk.token(value.schema.names), _metadata(walk, value.schema.metadata), *fields, *columns)
    return digest(short_name(type(value)), parts)


def _metadata(walk: Walk, metadata: dict[bytes, bytes] | None) -> str:
    # Not where pandas writes its version.
    return walk.token(sorted((key, value) for key, value in (metadata or {}).items() if key != b"pandas"))


@family("pyarrow", "Array")
def _arrow_array(walk: Walk, value: Any) -> str:
    return digest("pyarrow.Array", (ascii(str(value.type)), _arrow_values(walk, value.type, [value])))


@family("pyarrow", "ChunkedArray")
def _chunked_array(walk: Walk, value: Any) -> str:
    return digest("pyarrow.ChunkedArray", (ascii(str(value.type)), _arrow_values(walk, value.type, value.chunks)))


def _arrow_values(walk: Walk, kind: Any, chunks: list[Any]) -> str:
    types = sys.modules["pyarrow"].types
    if types.is_dictionary(kind):
        return _arrow_values(walk, kind.value_type, [chunk.dictionary_decode() for chunk in chunks])
    if types.is_boolean(kind):
        return _fixed_width_token(chunks, lambda chunk: chunk.cast("int8"))
    if types.is_primitive(kind) and kind.bit_width in _FIXED_WIDTH:
        numbers = sys.modules["pyarrow"].type_for_alias(f"int{kind.bit_width}")
        return _fixed_width_token(chunks, lambda chunk: chunk.view(numbers))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_map(kind):
        return _arrow_lists(walk, kind, chunks)
    if types.is_struct(kind):
        return _arrow_structs(walk, kind, chunks)
    lists = (part.to_pylist() for chunk in chunks for part in _slices(chunk))
    if types.is_string(kind) or types.is_large_string(kind):
        return _text_token(lists)
    return items_token(walk, (item for part in lists for item in part))


def _arrow_lists(walk: Walk, kind: Any, chunks: list[Any]) -> str:
    # Not by Python objects, which cut off nanoseconds: the lengths, null by null, and the elements end to end.
    arrow = sys.modules["pyarrow"]
    if arrow.types.is_map(kind):
        items = arrow.list_(arrow.struct([("key", kind.key_type), ("value", kind.item_type)]))
        chunks, kind = [chunk.cast(items) for chunk in chunks], items
    lengths = [sys.modules["pyarrow.compute"].list_value_length(chunk).cast("int64") for chunk in chunks]
    counts = _fixed_width_token(lengths, lambda chunk: chunk)
    elements = _arrow_values(walk, kind.value_type, [chunk.flatten() for chunk in chunks])
    return digest("lists", (counts, ascii(str(kind.value_type)), elements))


def _arrow_structs(walk: Walk, kind: Any, chunks: list[Any]) -> str:
    nulls = content_of_chunks(chunk.is_null().to_numpy(zero_copy_only=False) for chunk in chunks)
    columns = [chunk.flatten() for chunk in chunks]
    fields = (
        f"{field.name!a}\n{_arrow_values(walk, field.type, [column[number] for column in columns])}"
        for number, field in enumerate(kind)
    )
    return digest("structs", (nulls, *fields))


def _fixed_width_token(chunks: list[Any], as_integers: Callable[[Any], Any]) -> str:
    # Null by null, and zeros in their place: there may be anything.
    values = (as_integers(chunk).fill_null(0).to_numpy(zero_copy_only=False) for chunk in chunks)
    nulls = (chunk.is_null().to_numpy(zero_copy_only=False) for chunk in chunks)
    return digest("fixed", (content_of_chunks(values), content_of_chunks(nulls)))


# polars


@family("polars", "DataFrame")
def _polars_frame(walk: Walk, value: Any) -> str:
    return digest("polars.DataFrame", map(walk.token, value.get_columns()))


@family("polars", "Series")
def _polars_series(walk: Walk, value: Any) -> str:
    polars = sys.modules["polars"]
    kind, name = ascii(str(value.dtype)), walk.token(value.name)
    if isinstance(value.dtype, polars.Categorical | polars.Enum):  # their text leaves out categories, or tells of them
        categories = value.dtype.categories if isinstance(value.dtype, polars.Enum) else None
        kind, value = walk.token(categories), value.cast(polars.String)
    return digest("polars.Series", (name, kind, _polars_values(walk, value)))


_POLARS_NUMBERS = frozenset(f"{kind}{bits}" for kind in ("Int", "UInt", "Float") for bits in _FIXED_WIDTH)


def _polars_values(walk: Walk, series: Any) -> str:
    polars = sys.modules["polars"]
    if series.dtype == polars.String:
        return _text_token(part.to_list() for part in _slices(series))
    numbers = series.cast(polars.UInt8) if series.dtype == polars.Boolean else series.to_physical()
    if str(numbers.dtype) in _POLARS_NUMBERS:
        nulls = bytes_of(series.is_null().to_numpy())
        return digest("fixed", (bytes_of(numbers.fill_null(0).to_numpy()), nulls))
    if isinstance(series.dtype, polars.Array):
        series = series.arr.to_list()
    if isinstance(series.dtype, polars.List):
        # Not by Python objects, which cut off nanoseconds.
        lengths = series.list.len()
        elements = series.filter(lengths > 0).explode()
        return digest("lists", (_polars_values(walk, lengths), _polars_values(walk, elements)))
    if isinstance(series.dtype, polars.Struct):
        fields = (f"{name!a}\n{_polars_values(walk, series.struct.field(name))}" for name in series.struct.fields)
        return digest("structs", (bytes_of(series.is_null().to_numpy()), *fields))
    return items_token(walk, (item for part in _slices(series) for item in part.to_list()))
