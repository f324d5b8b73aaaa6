"""Fingerprints of values: the builtin types, those of the standard library, and every object that pickles."""

from __future__ import annotations

import copyreg
import dataclasses
import functools
import logging
import unicodedata
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, CellType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

# Their handlers enter themselves in the tables when they are imported; nothing here calls them by name.
from functionfuse.fingerprint import _arrays, _files, _parts, _tables  # noqa: F401
from functionfuse.fingerprint._bytecode import bytecode_of
from functionfuse.fingerprint._digest import content, digest
from functionfuse.fingerprint._own import shown_module
from functionfuse.fingerprint._walk import (
    LEAVES,
    LITERALS,
    NAMED,
    Handler,
    Special,
    Unknown,
    Walk,
    family,
    node,
    short_name,
)

if TYPE_CHECKING:
    from functionfuse.fingerprint._closure import Closure

_LONGEST = 64  # characters of a literal
_LONGEST_INT = 200  # bits; no more than 62 characters, and no quadratic conversion of a huge one
_NO_SPECIAL: Special = {}


def of_value(value: Any, special: Special = _NO_SPECIAL, closure: Closure | None = None) -> str | None:
    """Return the fingerprint of a value, the same in every process and on every machine.

    Parameters
    ----------
    value : object
        Anything.
    special : Mapping of type to callable, optional
        For objects of exactly these types, at any depth, the fingerprint is
        what the callable returns; None for unknown.
    closure : Closure, optional
        With it, objects of the user's own classes count with the code of their class; without, by its name.

    Returns
    -------
    str or None
        ``repr(value)`` for a None, bool, int, float, complex, str or bytes
        whose repr is at most 64 characters; otherwise ``xxh3:<32 hex digits>``,
        or ``py3.11:<32 hex digits>`` where there is a Python function in it.
        None if some part cannot be fingerprinted: a lock, an open file, a
        generator, a recursion that is too deep.

    Notes
    -----
    - Types count, as in ``1``, ``1.0``, ``True``; ``0.0`` and ``-0.0`` differ.
      The order of a dict's keys counts, that of a set does not.
    - No part of what an object equals, and so left out: `functools.cached_property`
      results, a hash that an object keeps, fields of dataclasses and attrs that do
      not take part in comparison, which fields of a pydantic model were given by
      hand, the memory layout of arrays and tables, scikit-learn's mark of its own
      version.
    - Other objects count by what they pickle: `object.__reduce_ex__`. An
      attribute that an object fills in later is a difference.
    - Literals are readable, and so reveal the value. A str with characters
      that came to Unicode after 2002 is no literal: its repr depends on the
      Python version.
    - Concurrent calls are safe as long as nobody changes the value meanwhile.
    """
    kind = type(value)
    if kind in special:
        return special[kind](value)
    if kind in LITERALS:
        text = LITERALS[kind](value)
        if text is not None:
            return text
    walk = Walk(special, closure)
    return walk.finish(walk.token, value)


def _int_literal(value: int) -> str | None:
    return repr(value) if value.bit_length() <= _LONGEST_INT else None


def _str_literal(value: str) -> str | None:
    if len(value) > _LONGEST - 2:
        return None
    text = repr(value)
    return text if len(text) <= _LONGEST and (value.isascii() or _prints_alike(value)) else None


def _prints_alike(value: str) -> bool:
    # repr escapes what this Python's Unicode does not know yet; what Unicode 3.2 knew, all of them know.
    return all(unicodedata.ucd_3_2_0.category(letter) != "Cn" for letter in value)


def _bytes_literal(value: bytes) -> str | None:
    if len(value) > _LONGEST - 3:
        return None
    text = repr(value)
    return text if len(text) <= _LONGEST else None


def _int_token(value: int) -> str:
    return digest("int", (content(value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)),))


def _str_token(value: str) -> str:
    return digest("str", (content(value.encode("utf-8", "surrogatepass")),))


def _bytes_token(value: bytes | bytearray) -> str:
    return digest(type(value).__name__, (content(value),))


LITERALS.update(dict.fromkeys((type(None), bool, float, complex), repr))
LITERALS.update({int: _int_literal, str: _str_literal, bytes: _bytes_literal})
LEAVES.update({int: _int_token, str: _str_token, bytes: _bytes_token, bytearray: _bytes_token})


@node(list, tuple)
def _sequence(walk: Walk, value: Iterable[Any]) -> str:
    return digest(type(value).__name__, map(walk.token, value))


@node(dict)
def _dict(walk: Walk, value: dict[Any, Any]) -> str:
    return digest("dict", _pairs(walk, value.items(), ordered=True))


@node(MappingProxyType)
def _mapping_proxy(walk: Walk, value: Any) -> str:
    return digest("mappingproxy", _pairs(walk, value.items(), ordered=True))


@node(type({}.keys()), type({}.values()), type({}.items()))
def _view(walk: Walk, value: Iterable[Any]) -> str:
    return digest(type(value).__name__, map(walk.token, value))


@node(ModuleType)
def _module(walk: Walk, value: ModuleType) -> str:
    return walk.of_module(value)


@node(functools._lru_cache_wrapper)
def _cached_function(walk: Walk, value: Any) -> str:
    return walk.token(value.__wrapped__)


@node(MethodType)
def _method(walk: Walk, value: MethodType) -> str:
    return digest("method", (walk.token(value.__func__), walk.token(value.__self__)))


@node(logging.Logger)
def _logger(walk: Walk, value: Any) -> str:
    return "logger"  # what is written to a log is no result


@node(CellType)
def _cell(walk: Walk, value: Any) -> str:
    return walk.token(value.cell_contents)


def _pairs(walk: Walk, items: Iterable[tuple[Any, Any]], ordered: bool = False) -> list[str]:
    pairs = [f"{walk.token(key)}\n{walk.token(value)}" for key, value in items]
    return pairs if ordered else sorted(pairs)


@family("builtins", "set", "frozenset")
def _set(walk: Walk, value: set[Any] | frozenset[Any]) -> str:
    # By family and not by reduce, which lists the members in the order of their hashes.
    listed = sorted(value, key=_name_of) if any(map(_name_of, value)) else value
    members = digest("members", sorted(map(walk.token, listed)))
    state = _state(walk, type(value), getattr(value, "__dict__", None))
    return digest("set", (walk.token(type(value)), members, state))


def _name_of(member: Any) -> str:
    # Code is numbered as it is reached, and its hash is its address.
    return str(member.__qualname__) if isinstance(member, FunctionType | type) else ""


@node(memoryview)
def _memoryview(walk: Walk, value: memoryview) -> str:
    data = value if value.c_contiguous else value.tobytes()
    return digest("memoryview", (ascii(value.format), ascii(value.shape), content(data)))


@node(BuiltinFunctionType)
def _builtin_function(walk: Walk, value: Any) -> str:
    owner = value.__self__  # of `len` its module, of `[].append` the list
    return digest("builtin", (walk.token(owner), ascii(value.__module__), ascii(value.__qualname__)))


def _range(value: range) -> tuple[Any, ...]:
    return (value[0], value[-1], value.step if value[0] != value[-1] else None) if value else ()


#: What makes up a value of a type in the standard library: equal parts, equal values.
_PARTS: dict[tuple[str, str], Callable[[Any], tuple[Any, ...]]] = {
    ("builtins", "range"): _range,
    ("builtins", "slice"): lambda value: (value.start, value.stop, value.step),
    ("decimal", "Decimal"): lambda value: (str(value),),
    ("fractions", "Fraction"): lambda value: (value.numerator, value.denominator),
    ("datetime", "datetime"): lambda value: (value.replace(tzinfo=None).isoformat(), value.fold, value.tzinfo),
    ("datetime", "date"): lambda value: (value.isoformat(),),
    ("datetime", "time"): lambda value: (value.replace(tzinfo=None).isoformat(), value.fold, value.tzinfo),
    ("datetime", "timedelta"): lambda value: (value.days, value.seconds, value.microseconds),
    ("datetime", "timezone"): lambda value: (value.utcoffset(None), value.tzname(None)),
    ("pathlib", "PurePosixPath"): lambda value: (str(value),),
    ("pathlib", "PureWindowsPath"): lambda value: (str(value),),
    ("uuid", "UUID"): lambda value: (value.hex,),
    ("re", "Pattern"): lambda value: (value.pattern, value.flags),
}


def _by_parts(parts: Callable[[Any], tuple[Any, ...]]) -> Handler:
    return lambda walk, value: digest(short_name(type(value)), map(walk.token, parts(value)))


NAMED.update({name: _by_parts(parts) for name, parts in _PARTS.items()})


@family("enum", "Enum")
def _enum_member(walk: Walk, value: Any) -> str:
    # Not by its name, which that of combined flags gets in Python 3.11 only.
    return digest("enum", (walk.token(type(value)), walk.token(value.value)))


def _path(walk: Walk, value: Any) -> str:
    return digest("pathlib.Path", (walk.token(value.as_posix()),))


# Either is the Path of its machine.
NAMED.update({("pathlib", "PosixPath"): _path, ("pathlib", "WindowsPath"): _path})


@family("builtins", "object")
def _object(walk: Walk, value: Any) -> str:
    """Take an object apart as pickle does: how it is built, from what, and what it is filled with."""
    kind = type(value)
    reduced = _reduce(value)
    if isinstance(reduced, str):
        return digest("global", (walk.token(kind), ascii(shown_module(_module_of(value))), ascii(reduced)))
    build, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    return digest(
        "object",
        (
            _builder(walk, build),
            walk.token(arguments),
            _state(walk, kind, state),
            digest("items", map(walk.token, items or ())),
            digest("pairs", _pairs(walk, pairs or (), ordered=True)),
        ),
    )


def _reduce(value: Any) -> Any:
    if type(value).__module__ == "itertools":  # it changes as it is used; Python 3.12 warns, and 3.14 cannot pickle it
        raise Unknown("an iterator")
    registered = copyreg.dispatch_table.get(type(value))
    return registered(value) if registered else value.__reduce_ex__(4)


def _module_of(value: Any) -> str:
    module = getattr(value, "__module__", None)
    return module if isinstance(module, str) else ""


def _builder(walk: Walk, build: Any) -> str:
    # By name: with its code in it, another version of Python or of a library would make other values of the same ones.
    is_own = walk.closure is not None and walk.closure.owner.owns(_module_of(build))
    if isinstance(build, type) or is_own or not hasattr(build, "__qualname__"):
        return walk.token(build)
    owner = getattr(build, "__self__", None)
    owner = None if isinstance(owner, ModuleType) else owner
    return digest("builder", (walk.token(owner), ascii(_module_of(build)), ascii(build.__qualname__)))


def _state(walk: Walk, kind: type, state: Any) -> str:
    if type(state) is tuple and len(state) == 2:  # of a class with __slots__: its __dict__ or None, its slots
        return digest("state", (_state(walk, kind, state[0]), _state(walk, kind, state[1])))
    if type(state) is list and getattr(getattr(kind, "__getstate__", None), "__module__", None) == "dataclasses":
        state = dict(zip((field.name for field in dataclasses.fields(kind)), state, strict=True))  # frozen, with slots
    if type(state) is not dict:
        return walk.token(state)
    derived = _derived(kind)
    if "__wrapped__" in state:  # as functools.update_wrapper leaves it: its name is that of what it wraps
        derived |= _WRAPPED | assigned_outside_of_init(kind)
    kept = [(name, part) for name, part in state.items() if name not in derived]
    return digest("attributes", _pairs(walk, kept)) if kept else "None"  # Python 3.10 has {} where later ones have None


#: What functools.update_wrapper copies.
_WRAPPED = frozenset(("__module__", "__name__", "__qualname__", "__doc__", "__annotations__", "__type_params__"))


@functools.lru_cache(maxsize=1024)
def _derived(kind: type) -> frozenset[str]:
    """Return the attributes that are no part of what an object of this class equals."""
    cached: set[str] = set()
    for base in kind.__mro__:
        for name, attribute in vars(base).items():
            if isinstance(attribute, functools.cached_property):
                cached.add(name)
            elif name == "__hash__" and isinstance(attribute, FunctionType):
                cached |= bytecode_of(attribute.__code__).sets
    fields = getattr(kind, "__dataclass_fields__", {}).values()
    cached |= {field.name for field in fields if not field.compare}
    cached |= {field.name for field in getattr(kind, "__attrs_attrs__", ()) if not field.eq}
    return frozenset(cached | {"_sklearn_version", "_attrs_cached_hash"})


def assigned_outside_of_init(kind: type) -> frozenset[str]:
    """Return the attributes that the methods of an own class assign to, but for its constructor."""
    functions = [each for name, each in vars(kind).items() if name != "__init__" and isinstance(each, FunctionType)]
    return frozenset[str]().union(*(bytecode_of(each.__code__).sets for each in functions))


# Objects of libraries that keep more than they are


@family("numpy", "vectorize")
def _vectorized(walk: Walk, value: Any) -> str:
    # What it calls and how; not what it remembers of calls.
    settings = (value.otypes, value.excluded, value.signature, bool(value.cache))
    return digest("numpy.vectorize", map(walk.token, (value.pyfunc, settings)))


@family("pydantic", "BaseModel")
def _model(walk: Walk, value: Any) -> str:
    # Equal by its fields, whether they were given or are defaults.
    kind: type = type(value)
    derived = _derived(kind)
    fields = [(name, part) for name, part in value.__dict__.items() if name not in derived]
    extra = (value.__pydantic_extra__, value.__pydantic_private__)
    return digest("pydantic", (walk.token(type(value)), *_pairs(walk, fields), *map(walk.token, extra)))
