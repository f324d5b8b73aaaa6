"""What Parquet does not tell of a data frame of pandas: it stands in the pid, beside the file, and is put back.

These are labels that are not texts, names, the kinds of time zones, categories,
attributes, flags and the frequency of the index. They are pickled with the result,
so that they come back as they were.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from typing import Any

from functionfuse.serializers._needed import needed

_INDEX = -1  # its number among the columns
_WHOLE = 2**53  # up to which floats have every integer
_ATOMS = (str, int, bool, type(None))


def is_importable(value: Any) -> bool:
    """Tell whether a value can be pickled as it is: what is the script's own, a pid cannot hold."""
    return b"__main__" not in (stream := pickle.dumps(value, 5)) and b"__mp_main__" not in stream


def is_json(value: Any) -> bool:
    """Tell whether JSON has a value exactly: other programs can read it then."""
    if type(value) is dict:
        return all(type(key) is str for key in value) and is_json(list(value.values()))
    if type(value) is list:
        return all(map(is_json, value))
    return type(value) in _ATOMS or (type(value) is float and value - value == 0)


# What stands beside the file


def told(frame: Any) -> dict[str, Any] | None:
    """Return what Parquet does not tell of a frame; None if that is nothing.

    Raises
    ------
    ValueError
        If it cannot stand in a pid.
    """
    found = {
        "columns": None if _is_told(frame.columns) else frame.columns,
        "names": None if _is_named(frame.index) else list(frame.index.names),
        "zones": _zones(_dtypes(frame)),
        "level zones": _zones(level_dtypes(frame.index)),
        "categories": _categories(frame),
        "arrow texts": _arrow_texts(frame),
        "freq": _frequency(frame.index),
        "attrs": dict(frame.attrs) or None,
        "duplicates": None if frame.flags.allows_duplicate_labels else False,
    }
    about = {key: value for key, value in found.items() if value is not None}
    if about and not is_importable(about):
        raise ValueError("labels or attributes are of classes of the script")
    return about or None


def _is_told(columns: Any) -> bool:
    """Tell whether the labels of columns come back from Parquet: texts, as pandas makes an index of them."""
    pandas = needed("pandas", "pandas")
    labels = list(columns)
    is_plain = type(columns) is pandas.Index and bool(labels) and all(type(label) is str for label in labels)
    return is_plain and _is_named(columns) and described(pandas.Index(labels).dtype) == described(columns.dtype)


def _is_named(index: Any) -> bool:
    return all(name is None or type(name) is str for name in index.names)


def _dtypes(frame: Any) -> list[Any]:
    return list(frame.dtypes)


def level_dtypes(index: Any) -> list[Any]:
    """Return the dtypes of the levels of an index."""
    return [index.get_level_values(number).dtype for number in range(index.nlevels)]


def _zones(dtypes: Iterable[Any]) -> dict[int, Any] | None:
    kind = needed("pandas", "pandas").DatetimeTZDtype
    return {number: dtype.tz for number, dtype in enumerate(dtypes) if isinstance(dtype, kind)} or None


def _categories(frame: Any) -> dict[int, Any] | None:
    """Return the categorical dtypes of columns that Parquet has no dictionary for, by number, the index at -1.

    It has one of texts, unless all values are missing.
    """
    found = {number: dtype for number, dtype in enumerate(frame.dtypes) if _is_categorical(dtype)}
    lost = {n: dtype for n, dtype in found.items() if not _has_dictionary(dtype, frame.iloc[:, n].cat.codes)}
    if _is_categorical(frame.index.dtype) and not _has_dictionary(frame.index.dtype, frame.index.codes):
        lost[_INDEX] = frame.index.dtype
    if not all(map(_is_found_again, lost.values())):
        raise ValueError("categories that are neither texts nor numbers, whose values would not be found again")
    return lost or None


def _is_found_again(dtype: Any) -> bool:
    """Tell whether values that come as numbers, with missing ones as floats, name their categories still."""
    categories = dtype.categories
    if needed("pandas", "pandas").api.types.is_string_dtype(categories.dtype):
        return True
    kind = categories.dtype.kind if type(categories.dtype).__module__.startswith("numpy") else ""
    return kind in ("b", "f") or (kind in ("i", "u") and bool(((categories <= _WHOLE) & (categories >= -_WHOLE)).all()))


def _arrow_texts(frame: Any) -> list[int] | None:
    """Return the numbers of the columns of text that Arrow holds, the index at -1: PyArrow notes only text.

    Before pandas 3 they would come back as text that Python holds, and Dask makes all its texts such.
    """
    dtypes = {**dict(enumerate(frame.dtypes)), _INDEX: frame.index.dtype}
    return [number for number, dtype in dtypes.items() if dtype == _arrow_text()] or None


def _arrow_text() -> Any:
    return needed("pandas", "pandas").StringDtype("pyarrow")


def _is_categorical(dtype: Any) -> bool:
    return isinstance(dtype, needed("pandas", "pandas").CategoricalDtype)


def _has_dictionary(dtype: Any, codes: Any) -> bool:
    is_text = needed("pandas", "pandas").api.types.is_string_dtype(dtype.categories.dtype)
    return bool(is_text and len(codes) and codes.max() >= 0)


def _frequency(index: Any) -> str | None:
    """Return the name of an index's frequency; an error if the same index would not take it again."""
    frequency = getattr(index, "freq", None)
    if frequency is None or index.dtype.kind == "O":
        return None
    name = str(frequency.freqstr)
    again = index[:]
    again.freq = None
    again.freq = name
    return name


# Without it, and with it again


def without(frame: Any, about: Mapping[str, Any] | None) -> Any:
    """Return a frame to be written, without what stands beside it: labels are texts, other names there are none.

    Raises
    ------
    ValueError
        If two labels are the same text.
    """
    if about is None:
        return frame
    frame = frame.copy(deep=False)
    frame.flags.allows_duplicate_labels = True
    if "columns" in about:
        labels = [label if type(label) is str else str(label) for label in frame.columns]
        if len(set(labels)) < len(labels):
            raise ValueError("two columns have the same name")
        frame.columns = needed("pandas", "pandas").Index(labels)
    if "names" in about:
        frame.index = frame.index.set_names([None] * frame.index.nlevels)
    if "attrs" in about and not is_json(about["attrs"]):
        frame.attrs = {}
    return frame


def restored(frame: Any, about: Mapping[str, Any]) -> Any:
    """Return a frame that was read with what stands beside it."""
    texts = dict.fromkeys(about.get("arrow texts", ()), _arrow_text() if "arrow texts" in about else None)
    for number, dtype in {**about.get("categories", {}), **texts}.items():
        if number == _INDEX:
            frame.index = frame.index.astype(dtype)
        else:
            frame.isetitem(number, frame.iloc[:, number].astype(dtype))
    for number, zone in about.get("zones", {}).items():
        column = frame.iloc[:, number]
        if described(column.dtype)[1:] != _kind(zone):
            frame.isetitem(number, column.dt.tz_convert(zone))
    for number, zone in about.get("level zones", {}).items():
        frame.index = _in_zone(frame.index, number, zone)
    if "names" in about:
        frame.index = frame.index.set_names(about["names"])
    if "freq" in about:
        frame.index.freq = about["freq"]
    if "columns" in about:
        frame.columns = about["columns"]
    frame.attrs = about.get("attrs", {})
    frame.flags.allows_duplicate_labels = "duplicates" not in about
    return frame


def _in_zone(index: Any, number: int, zone: Any) -> Any:
    if index.nlevels == 1:
        return index.tz_convert(zone)
    return index.set_levels(index.levels[number].tz_convert(zone), level=number, verify_integrity=False)


# Comparing


def structure(frame: Any) -> list[Any]:
    """Return all of a frame but its values and attributes, so that what is equal is the same in every type."""
    return [
        _index(frame.index),
        _index(frame.columns),
        [[type(name) for name in frame.columns], list(frame.columns)],
        [described(dtype) for dtype in frame.dtypes],
        frame.shape,
    ]


def _index(index: Any) -> list[Any]:
    names = [(type(name), name) for name in index.names]
    return [type(index), names, list(map(described, level_dtypes(index))), getattr(index, "freq", None)]


def described(dtype: Any) -> list[Any]:
    """Return a dtype so that what is equal is the same: a zone of the same class, categories in the same order."""
    if _is_categorical(dtype):
        categories = dtype.categories
        return [dtype.ordered, *_index(categories), [type(each) for each in categories], list(categories)]
    if isinstance(dtype, needed("pandas", "pandas").DatetimeTZDtype):
        return [dtype.unit, *_kind(dtype.tz)]
    return [type(dtype), dtype, repr(dtype)]


def _kind(zone: Any) -> list[Any]:
    return [type(zone), repr(zone)]
