"""Fingerprints of functions and classes, by their bytecode and that of their helpers."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterable, Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from functionfuse.fingerprint._bytecode import Bytecode
from functionfuse.fingerprint._digest import PYTHON, content, digest
from functionfuse.fingerprint._walk import LITERALS, MEMO_FROM, Special, Unknown, Walk, node, type_token

_PACKAGE = __name__.partition(".")[0]
_IMMUTABLE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE: a class written in C
_STATE = "state"  # stands for an object that can change: that it is there counts, what is in it does not


def of_function(func: Any) -> str | None:
    """Return the fingerprint of the code that a callable runs.

    Parameters
    ----------
    func : callable
        A function, a class, a `functools.partial`, a bound method, an object
        with ``__call__``, or a wrapper with ``__wrapped__``.

    Returns
    -------
    str or None
        ``py3.11:<32 hex digits>``; bytecode is another one in every minor
        version of Python. None if there is no Python code, as in builtin
        functions, or if some part cannot be fingerprinted.

    Notes
    -----
    What counts:

    - the bytecode with its constants and names, also that of nested functions;
    - defaults, by value. A default without a fingerprint makes the whole
      unknown: two different ones must not pass for the same;
    - variables of an enclosing function that hold a function, a class, or a
      plain value (None, bool, int, float, complex, str, bytes, an enum member,
      tuples and frozensets of those). A variable that the code itself rebinds is
      a counter, and an object that can change is state: their values do not count;
    - functions and classes of the same module that it refers to by name, or has
      as defaults, and those that these refer to. A class elsewhere counts by its
      name; of a partial its arguments, as far as they are code or plain values;
    - of a decorated function (one that has ``__wrapped__``) the wrapper and what
      it wraps, also if the wrapper is an object: then its class and its attributes
      but for those that methods assign to. Of a function decorated by this package
      only what it wraps;
    - of a class its methods, properties and plain attributes, except those that
      its methods assign to, its nested classes, and its bases of the same module;
    - of a partial, a bound method or a callable object also the values in it.

    What does not: names of the functions themselves, their places, comments,
    docstrings, annotations, line breaks (but for rare ones that leave a NOP).

    What cannot be seen, so that a change of it goes unnoticed: functions of other
    modules, be they imported by name or reached through a module; functions in
    global containers; global constants. These are left out because a count or a
    path among them would raise false alarms. Pass them as arguments, or bind
    them as defaults: ``def fit(x, rate=RATE)``.

    Nothing is cached: code, closures and defaults of a function can change.
    """
    walk = CodeWalk({})
    return walk.finish(walk.program, func)


class CodeWalk(Walk):
    """A walk through code: a graph of functions and classes, numbered as they are reached.

    Each is described once, and referred to by its number, never by its name or
    address. Recursion of any kind is no cycle for the walk then, and the work
    grows with the number of functions, not with the number of paths.

    Parameters
    ----------
    special : Mapping of type to callable
        As in `Walk`.
    """

    __slots__ = ("numbers", "reached")

    def __init__(self, special: Special) -> None:
        super().__init__(special)
        self.basis = frozenset({PYTHON})
        self.numbers: dict[int, int] = {}
        self.reached: list[Any] = []

    def reference(self, code: FunctionType | type) -> str:
        """Return the number of a function or class, which will be described in its turn."""
        number = self.numbers.setdefault(id(code), len(self.reached))
        if number == len(self.reached):
            self.reached.append(code)
        return f"@{number}"

    def program(self, func: Any) -> str:
        """Return the token of a callable and of all code that it reaches."""
        start = _callable(self, func)
        described = (_class(self, code) if isinstance(code, type) else _function(self, code) for code in self.reached)
        return digest("program", (start, *described))  # the list grows while it is read


@node(FunctionType, functools._lru_cache_wrapper)
def _as_value(walk: Walk, func: Any) -> str:
    if isinstance(walk, CodeWalk):
        return _callable(walk, func)
    code_walk = CodeWalk(walk.special)
    token = code_walk.program(func)
    walk.basis |= code_walk.basis
    walk.steps += MEMO_FROM  # worth remembering
    return token


@node(MethodType)
def _method_as_value(walk: Walk, func: MethodType) -> str:
    return digest("method", (walk.token(func.__func__), walk.token(func.__self__)))


# What a callable runs


def _callable(walk: CodeWalk, func: Any) -> str:
    kind = type(func)
    if kind in _CALLABLES:
        return _CALLABLES[kind](walk, func)
    if isinstance(func, type) and not func.__flags__ & _IMMUTABLE:
        return walk.reference(func)
    if _is_wrapper(func):
        return _wrapper(walk, func)
    if not isinstance(kind.__call__, FunctionType):
        raise Unknown("no Python code")
    return digest("callable", (walk.reference(kind), walk.token(func)))


def _is_wrapper(func: Any) -> bool:
    # Not by `hasattr`, which some objects answer as they like: a mock, a module that loads lazily, a remote handle.
    return "__wrapped__" in getattr(func, "__dict__", ()) or hasattr(type(func), "__wrapped__")


def _wrapper(walk: CodeWalk, func: Any) -> str:
    kind = type(func)
    wrapped = _callable(walk, func.__wrapped__)
    if not isinstance(kind.__call__, FunctionType) or kind.__module__.partition(".")[0] == _PACKAGE:
        return wrapped
    scope = _home(func) or ""
    assigned = assigned_by(member for name, member in vars(kind).items() if name != "__init__")
    own = ((name, value) for name, value in sorted(vars(func).items()) if not name.startswith("__"))
    state = (f"{name!a}\n{_part(walk, value, scope)}" for name, value in own if name not in assigned)
    return digest("wrapper", (_part(walk, kind, scope), wrapped, *state))


def _function_or_wrapped(walk: CodeWalk, func: Any) -> str:
    if _is_wrapper(func) and _scope(func).partition(".")[0] == _PACKAGE:
        return _callable(walk, func.__wrapped__)
    return walk.reference(func)


def _partial(walk: CodeWalk, func: functools.partial[Any]) -> str:
    return digest("partial", (_callable(walk, func.func), walk.token(func.args), walk.token(func.keywords)))


def _method(walk: CodeWalk, func: MethodType) -> str:
    return digest("method", (walk.reference(_owner(func)), _callable(walk, func.__func__), walk.token(func.__self__)))


def _owner(func: MethodType) -> type:
    return func.__self__ if isinstance(func.__self__, type) else type(func.__self__)


_CALLABLES: dict[type, Callable[[CodeWalk, Any], str]] = {
    FunctionType: _function_or_wrapped,
    functools.partial: _partial,
    MethodType: _method,
}


# What a function is


def _scope(func: FunctionType) -> str:
    return str(func.__globals__.get("__name__", func.__module__))


def _function(walk: CodeWalk, func: FunctionType) -> str:
    bytecode = Bytecode(func.__code__)
    helpers = dict(_helpers(walk, bytecode, func))
    wrapped = _part(walk, getattr(func, "__wrapped__", None), _scope(func))
    parts = (*_defaults(walk, func), *_cells(walk, bytecode, func), wrapped)
    return digest("function", (_code(walk, bytecode, helpers), *parts))


def _defaults(walk: CodeWalk, func: FunctionType) -> Iterator[str]:
    for values in (func.__defaults__, func.__kwdefaults__):
        yield walk.token(values)
        given = values.values() if isinstance(values, dict) else values or ()
        yield from (_part(walk, value, _scope(func)) for value in given if isinstance(value, type))


def _helpers(walk: CodeWalk, bytecode: Bytecode, func: FunctionType) -> Iterator[tuple[str, str]]:
    scope = _scope(func)
    for name in bytecode.loads:
        helper = func.__globals__.get(name)
        if helper is not None and _home(helper) == scope:
            yield name, _part(walk, helper, scope)


def _home(value: Any) -> str | None:
    """Return the module of a class or a function, be it wrapped, bound or partial; None for anything else."""
    if isinstance(value, type | FunctionType):
        return value.__module__
    if isinstance(value, functools.partial | MethodType):
        return _home(value.func if isinstance(value, functools.partial) else value.__func__)
    return _home(value.__wrapped__) if _is_wrapper(value) else None


def _code(walk: CodeWalk, bytecode: Bytecode, helpers: dict[str, str]) -> str:
    names = tuple(helpers.get(name, name) for name in bytecode.code.co_names)
    constants = (
        _code(walk, constant, helpers) if isinstance(constant, Bytecode) else walk.token(constant)
        for constant in bytecode.constants
    )
    return digest("code", (content(bytecode.instructions), ascii(bytecode.shape()), ascii(names), *constants))


def _cells(walk: CodeWalk, bytecode: Bytecode, func: FunctionType) -> Iterator[str]:
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=True):
        if name in bytecode.rebinds:
            yield _STATE
        else:
            yield _part(walk, _content_of_cell(cell), _scope(func))


def _content_of_cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return cell


def _part(walk: CodeWalk, value: Any, scope: str) -> str:
    """Return the token of what code holds: more code, or a plain value; anything else is state."""
    if isinstance(value, type):
        followed = value.__module__ == scope or id(value) in walk.numbers
        return walk.reference(value) if followed else type_token(value)
    if isinstance(value, FunctionType) or _is_wrapper(value):
        return _callable(walk, value)
    if isinstance(value, functools.partial):
        given = (value.func, *value.args, *value.keywords.values())
        return digest("partial", (ascii(tuple(value.keywords)), *(_part(walk, each, scope) for each in given)))
    if isinstance(value, MethodType):
        return digest("method", (_part(walk, _owner(value), scope), _part(walk, value.__func__, scope)))
    if type(value) is tuple:
        return digest("tuple", (_part(walk, item, scope) for item in value))
    return walk.token(value) if _is_plain(value) else _STATE


def _is_plain(value: Any) -> bool:
    if isinstance(value, frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, BuiltinFunctionType):  # not a bound one, whose object can change
        return value.__self__ is None or isinstance(value.__self__, ModuleType)
    return type(value) in LITERALS or isinstance(value, enum.Enum)


# What a class is


def _class(walk: CodeWalk, cls: type) -> str:
    bases = digest("bases", (_part(walk, base, cls.__module__) for base in cls.__bases__))
    members = {**vars(cls), **getattr(cls, "__members__", {})}  # those of an enum are no attributes in Python 3.11
    assigned = assigned_by(members.values())
    tokens = ((name, _member(walk, cls, name, members[name], assigned)) for name in sorted(members))
    told = [f"{name!a}\n{token}" for name, token in tokens if token != _STATE]
    return digest("class", (bases, *(told or [ascii(cls.__qualname__)])))  # an empty one is told by its name


def _member(walk: CodeWalk, cls: type, name: str, value: Any, assigned: set[str]) -> str:
    functions = functions_of(value)
    if functions:
        parts = (_part(walk, func, cls.__module__) for func in functions)
        return digest(type(value).__name__, parts)
    return _STATE if name.startswith("__") or name in assigned else _part(walk, value, cls.__module__)


def assigned_by(members: Iterable[Any]) -> set[str]:
    """Return the attributes that the functions among a class's members assign to."""
    functions = (func for member in members for func in functions_of(member) if isinstance(func, FunctionType))
    return set[str]().union(*(Bytecode(func.__code__).sets for func in functions))


def functions_of(member: Any) -> tuple[Any, ...]:
    """Return the functions that a member of a class consists of: of a property up to three; of an attribute none."""
    return _FUNCTIONS.get(type(member), _no_functions)(member)


def _no_functions(member: Any) -> tuple[Any, ...]:
    return ()


_FUNCTIONS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    FunctionType: lambda member: (member,),
    staticmethod: lambda member: (member.__func__,),
    classmethod: lambda member: (member.__func__,),
    property: lambda member: (member.fget, member.fset, member.fdel),
    functools.cached_property: lambda member: (member.func,),
    functools.partialmethod: lambda member: (
        member.func,
        functools.partial(member.func, *member.args, **member.keywords),
    ),
    functools.singledispatchmethod: lambda member: (member.func, *member.dispatcher.registry.values()),
}
