"""What an object is to JSON: a scalar, a list, an object with members, or something that is left out.

Nothing here runs code of the object. Subclasses of builtins and of types written in C are read by the methods of those;
of all others only what they store is read (`_static`), and types of Python's own library are taken as they are when
nobody has subclassed them.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from itertools import islice
from typing import Any, NamedTuple

from catalog.format.json_text import quote
from catalog.format.names import to_text
from functionfuse.storage import _static

#: Neither summary nor value is longer than this, in characters of JSON.
LONGEST = 4096
_LONGEST_ARRAY = 64
_LONGEST_KEY = 10

#: What the classes of models of pydantic have, by version: of 2.10 and later, of 2, of 1.
_OF_PYDANTIC = (
    ("__pydantic_fields__", "__pydantic_fields__"),
    ("model_fields", "__pydantic_decorators__"),
    ("__fields__", "__validators__"),
)

#: Writes it as it is kept.
to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


class Reason(Enum):
    """Why something is left out of a value."""

    LONG = "long"  # more members, characters or bits than a value may have
    NO_ROOM = "no room"  # it does not fit beside what is kept already
    OPAQUE = "opaque"  # JSON has nothing like it
    DEEP = "deep"
    RECURSIVE = "recursive"  # it holds itself
    SAME_KEY = "same key"  # as one before it, once keys are text


class Items(NamedTuple):
    """A list."""

    items: Iterable[Any]
    length: int
    is_ordered: bool = True


class Members(NamedTuple):
    """An object."""

    pairs: Iterable[tuple[Any, Any]]
    length: int


#: The JSON text of a scalar, or what is inside of a container, or why there is neither.
Found = str | Items | Members | Reason


def read(obj: Any) -> Found:
    """Return what an object is to JSON."""
    reader = _EXACT.get(id(type(obj)))  # by id: a metaclass may have its own idea of hash and equality
    try:
        return reader(obj) if reader is not None else _read_by_bases(obj, type(obj))
    except Exception:  # a library says in its own way that it has no answer
        return Reason.OPAQUE


def key_text(key: Any) -> str | Reason:
    """Return the name of a member: the text of a scalar, the JSON of a tuple of scalars; or why there is none."""
    if type(key) is str:
        return to_text(key) if len(key) <= LONGEST else Reason.LONG
    found = read(key)
    if type(found) is Items and type(key) is tuple and found.length <= _LONGEST_KEY:
        parts = [read(part) for part in found.items]
        texts = [part for part in parts if type(part) is str]
        return f"[{','.join(texts)}]" if len(texts) == len(parts) else Reason.OPAQUE
    if type(found) is str:
        return str(json.loads(found)) if found.startswith('"') else found
    return found if type(found) is Reason else Reason.OPAQUE


def not_finite(number: float) -> str:
    """Return what stands for a number that is none, or has no end."""
    # JSON has no such numbers; DuckDB casts these strings back to DOUBLE.
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


# Scalars


def read_int(number: int) -> str | Reason:
    """Return the text of an integer of at most 64 bits, which is what DuckDB has."""
    return str(number) if -(2**63) <= number < 2**64 else Reason.LONG


def read_float(number: float) -> str:
    """Return the text of a number; what is not finite is a string."""
    return repr(number) if math.isfinite(number) else f'"{not_finite(number)}"'


def read_bool(flag: bool) -> str:
    """Return true or false."""
    return "true" if flag else "false"


def read_none(_: None) -> str:
    """Return null."""
    return "null"


def read_str(text: str) -> str | Reason:
    """Return the text of a string."""
    if len(text) > LONGEST:
        return Reason.LONG
    quoted = quote(text)
    return quoted if len(quoted) <= LONGEST else Reason.LONG


def _complex(number: Any, base: Any) -> Found:
    pairs = [("real", base.real.__get__(number)), ("imag", base.imag.__get__(number))]
    return Members(pairs, 2)


def _enumeration(member: Any, _: type) -> Found:
    held = _static.attributes(member)
    name, value = held.get("_name_"), held.get("_value_")
    if type(name) is str:
        return read_str(name)
    return read_int(value) if type(value) is int else Reason.OPAQUE  # flags together have no name before Python 3.11


def _moment(moment: Any, base: Any) -> Found:
    if not _is_known_zone(base.tzinfo.__get__(moment)):
        return Reason.OPAQUE
    return read_str(base.isoformat(moment))


def _is_known_zone(zone: Any) -> bool:
    """Return whether a zone can be asked for its offset without running code of a stranger."""
    if zone is None:
        return True
    giver = next(base for base in _static.bases(type(zone)) if "utcoffset" in _static.namespace(base))
    packages = {_static.package(type(zone)), _static.package(giver)}
    return packages <= {"datetime", "zoneinfo", "pytz", "dateutil"} and _static.is_genuine(giver)


def _date(date: Any, base: Any) -> Found:
    return read_str(base.isoformat(date))


def _duration(duration: Any, base: Any) -> Found:
    return read_float(base.total_seconds(duration))


def _decimal(number: Any, base: Any) -> Found:
    if base.__sizeof__(number) > LONGEST:
        return Reason.LONG
    return read_str(base.__str__(number))  # as text, that it can be cast to DECIMAL without losing digits


def _fraction(number: Any, _: type) -> Found:
    numerator, denominator = (part for _, part in _static.stored(number, ("_numerator", "_denominator")))
    if type(numerator) is not int or type(denominator) is not int:
        return Reason.OPAQUE
    return read_float(numerator / denominator)


def _uuid(uuid: Any, _: type) -> Found:
    ((__, number),) = _static.stored(uuid, ("int",))
    digits = f"{int.__index__(number):032x}"
    return f'"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"'


def _path(path: Any, _: type) -> Found:
    cls = type(path)
    if _static.package(cls) != "pathlib" or not _static.is_genuine(cls):
        return Reason.OPAQUE
    return read_str(str(path))


# Containers


def _dict(mapping: Any, _: type = dict) -> Found:
    return Members(dict.items(mapping), dict.__len__(mapping))


def _items(items: Any, base: Any) -> Found:
    return Items(base.__iter__(items), base.__len__(items))


def _set(items: Any, base: Any) -> Found:
    return Items(base.__iter__(items), base.__len__(items), is_ordered=False)


def _tuple(items: Any, _: type = tuple) -> Found:
    """Return a list, or the members of a named tuple."""
    length = tuple.__len__(items)
    names = _static.class_attribute(type(items), "_fields")
    if type(names) is tuple and len(names) == length and all(type(name) is str for name in names):
        return Members(zip(names, tuple.__iter__(items), strict=True), length)
    return Items(tuple.__iter__(items), length)


def _attributes(obj: Any, _: type) -> Found:
    held = _static.attributes(obj)
    return Members(held.items(), len(held))


def _record(obj: Any, names: Iterable[Any]) -> Members:
    """Return the members of an object of a class with declared fields, as far as they are stored."""
    pairs = list(_static.stored(obj, (name for name in names if type(name) is str)))
    return Members(pairs, len(pairs))


def _attrs_names(fields: Any) -> Sequence[Any]:
    found = (list(_static.stored(each, ("name",))) for each in tuple.__iter__(fields))
    return [pair[1] for pairs in found for pair in pairs]


def _declared(obj: Any, declared: Any) -> Members | None:
    """Return the members of a dataclass, an attrs object or a pydantic model, if its class declares fields."""
    if type(fields := declared.get("__dataclass_fields__")) is dict:
        return _record(obj, fields)
    if "__attrs_attrs__" in declared:
        return _record(obj, _attrs_names(declared["__attrs_attrs__"]))
    for marker, other in _OF_PYDANTIC:
        if type(fields := declared.get(marker)) is dict and other in declared:
            # Version 1 has what a model was given beyond its fields in the same dictionary.
            return _with_extras(obj, _record(obj, _static.attributes(obj) if marker == "__fields__" else fields))
    return None


def _with_extras(obj: Any, found: Members) -> Members:
    """Add the members that a pydantic model was given beyond its fields."""
    pairs = list(found.pairs)
    for _, extras in _static.stored(obj, ("__pydantic_extra__",)):
        if type(extras) is dict:
            pairs += islice(extras.items(), LONGEST)
    return Members(pairs, len(pairs))


# Of libraries


def _array(array: Any, base: Any) -> Found:
    array = base.view(array, base)
    if array.shape == ():
        return _array_scalar(array)
    if array.size > _LONGEST_ARRAY or sum(array.shape) > _LONGEST_ARRAY or array.nbytes > LONGEST:
        return Reason.LONG
    if array.dtype.kind not in "biufU" or (array.dtype.kind == "f" and array.itemsize > 8):
        return Reason.OPAQUE
    return read(array.tolist())


def _array_scalar(array: Any) -> Found:
    scalar = array[()]
    if array.dtype.kind == "O" and id(type(scalar)) not in _EXACT_SCALARS:
        return Reason.OPAQUE
    return read(scalar)


def _numpy_scalar(scalar: Any, base: Any) -> Found:
    item = base.item(scalar)
    return read(item) if id(type(item)) in _EXACT_SCALARS or type(item) is complex else Reason.OPAQUE


def _long_double(scalar: Any, base: Any) -> Found:
    return read_float(base.__float__(scalar))


def _numpy_moment(scalar: Any, base: Any) -> Found:
    if type(scalar) is not base:
        return Reason.OPAQUE
    text = str(sys.modules["numpy"].datetime_as_string(scalar))
    return "null" if text == "NaT" else f'"{text}"'


def _numpy_duration(scalar: Any, base: Any) -> Found:
    if type(scalar) is not base:
        return Reason.OPAQUE
    seconds = float(scalar / base(1, "s"))
    return "null" if math.isnan(seconds) else read_float(seconds)


def _pandas_moment(moment: Any, base: Any) -> Found:
    return _moment(moment, base) if type(moment) is base else Reason.OPAQUE


def _missing(_: Any, __: type) -> Found:
    return "null"


def _tensor(tensor: Any, base: Any) -> Found:
    if type(tensor) is not base or tensor.dim() != 0:
        return Reason.OPAQUE
    return read(tensor.item())


def _opaque(_: Any, __: type) -> Found:
    return Reason.OPAQUE


_EXACT_SCALARS: dict[int, Callable[[Any], Found]] = {
    id(int): read_int,
    id(float): read_float,
    id(str): read_str,
    id(bool): read_bool,
    id(type(None)): read_none,
}
_EXACT: dict[int, Callable[[Any], Found]] = {
    **_EXACT_SCALARS,
    id(dict): _dict,
    id(list): lambda items: Items(items, len(items)),
    id(tuple): lambda items: Items(items, len(items)),
}

#: By package and name of the nearest class that is known.
_READERS: _static.Known[Callable[[Any, Any], Found]] = _static.Known(
    {
        ("builtins", "int"): lambda number, _: read_int(int.__index__(number)),
        ("builtins", "float"): lambda number, _: read_float(float.__pos__(number)),
        ("builtins", "str"): lambda text, _: read_str(str.__str__(text)),
        ("builtins", "complex"): _complex,
        ("builtins", "dict"): _dict,
        ("builtins", "list"): _items,
        ("builtins", "tuple"): _tuple,
        ("builtins", "set"): _set,
        ("builtins", "frozenset"): _set,
        ("collections", "deque"): _items,
        ("types", "SimpleNamespace"): _attributes,
        ("argparse", "Namespace"): _attributes,
        ("enum", "Enum"): _enumeration,
        ("datetime", "datetime"): _moment,
        ("datetime", "date"): _date,
        ("datetime", "time"): _moment,
        ("datetime", "timedelta"): _duration,
        ("decimal", "Decimal"): _decimal,
        ("fractions", "Fraction"): _fraction,
        ("uuid", "UUID"): _uuid,
        ("pathlib", "PurePath"): _path,
        ("numpy", "MaskedArray"): _opaque,
        ("numpy", "ndarray"): _array,
        ("numpy", "datetime64"): _numpy_moment,
        ("numpy", "timedelta64"): _numpy_duration,
        ("numpy", "longdouble"): _long_double,
        ("numpy", "generic"): _numpy_scalar,
        ("pandas", "Timestamp"): _pandas_moment,
        ("pandas", "Timedelta"): _duration,
        ("pandas", "NaTType"): _missing,
        ("pandas", "NAType"): _missing,
        ("torch", "Tensor"): _tensor,
    }
)


def _read_by_bases(obj: Any, cls: type) -> Found:
    if not _READERS.is_own(cls):
        for base in _static.bases(cls):
            members = _declared(obj, _static.namespace(base))
            if members is not None:
                return members
    known = _READERS.find(cls)
    return Reason.OPAQUE if known is None else known[1](obj, known[0])
