"""What a function, a class or a module of the user's own is made of."""

from __future__ import annotations

import builtins
import enum
import functools
import sys
import weakref
from collections.abc import Callable, Iterable
from types import FunctionType, MethodType, ModuleType
from typing import Any

from functionfuse.fingerprint._bytecode import Bytecode, Chain, bytecode_of
from functionfuse.fingerprint._closure import DESCRIBERS, Closure, Part, Place
from functionfuse.fingerprint._digest import PYTHON, digest
from functionfuse.fingerprint._models import definition_of
from functionfuse.fingerprint._own import imported_names, shown_module
from functionfuse.fingerprint._walk import MEMO_FROM, Unknown, Walk, is_wrapper, node, type_name

_MOST_BYTES = 64 << 20  # of a value that counts by its content; a larger one is unknown
#: Globals of every module, which tell where it stands.
_PLACE = frozenset(
    ("__name__", "__file__", "__package__", "__spec__", "__doc__", "__loader__", "__builtins__", "__path__")
)
#: Globals, captured and class values that changed while a run went on: what holds them, and what they were at first.
_state: dict[tuple[int, str], tuple[Callable[[], Any], str]] = {}


class PartWalk(Walk):
    """A walk through what one part holds: code of the user's own becomes references to other parts."""

    __slots__ = ("numbers", "part", "refers")

    closure: Closure

    def __init__(self, closure: Closure, part: Part) -> None:
        super().__init__({}, closure)
        self.refers = False
        self.part = part
        self.numbers: dict[int, int] = {}

    def reference(self, reached: Any) -> str:
        """Return the number of another part."""
        self.refers = True
        number = self.numbers.setdefault(id(reached), len(self.numbers))
        if number == len(self.part.references):
            self.part.references.append(reached)
        return f"@{number}"

    def of_function(self, func: FunctionType) -> str:
        """Return the token of a function: own ones are parts, others count by their name and what they capture."""
        if is_ours(func):
            return self.token(wrapped_by(func)) if is_wrapper(func) else "ours"
        if self.closure.owner.owns(home(func)):
            return self.reference(func)
        return library_function(self, func)

    def of_class(self, cls: type) -> str:
        """Return the token of a class: own ones are parts, others count by their name."""
        if self.closure.owner.owns(cls.__module__):
            return self.reference(cls)
        self.uses(cls.__module__)
        return digest("type", (ascii(type_name(cls)),))

    def of_module(self, module: ModuleType) -> str:
        """Return the token of a module: own ones are parts, others count by their name."""
        if self.closure.owner.owns(module.__name__):
            return self.reference(module)
        self.uses(module.__name__)
        return digest("module", (ascii(module.__name__),))

    def uses(self, module: object) -> None:
        """Take note of an installed package."""
        self.part.packages.add(str(module).partition(".")[0])

    def value(self, name: str, value: Any, place: Place | None = None) -> str:
        """Return the token of a value that code holds; one without a fingerprint is unknown, and nothing else is.

        What has changed in a run is state, and counts as what it was at first in this process.
        """
        state = None if place is None else _state.get((id(place[0]), place[1]))
        if state is not None and place is not None and state[0]() is place[0]:
            self.part.state.append(name)
            return state[1]
        if id(value) in self.closure.tokens:
            token = self.closure.tokens[id(value)][1]
        else:
            self.refers = False
            token = self._tried(value)
            if not self.refers:  # the numbers of references are those of this part
                self.closure.tokens[id(value)] = value, token
        if token is None:
            self.part.unknown.append(name)
            return "?"
        return token

    def _tried(self, value: Any) -> str | None:
        self.path.clear()
        try:
            return self.token(value) if _bytes_of(value) <= _MOST_BYTES else None
        except Exception:
            return None


def _bytes_of(value: Any) -> int:
    size = getattr(value, "nbytes", 0) if hasattr(type(value), "nbytes") else 0
    if hasattr(type(value), "memory_usage"):
        used = value.memory_usage()
        size = used.sum() if hasattr(used, "sum") else used
    return int(size) if isinstance(size, int) or hasattr(size, "__int__") else 0


def home(func: FunctionType) -> object:
    """Return the name of the module that a function looks its globals up in."""
    return func.__globals__.get("__name__") or func.__module__ or "__main__"


def is_ours(func: FunctionType) -> bool:
    """Tell whether a function is one of this package, as what its decorator returns is."""
    return str(home(func)).partition(".")[0] == "functionfuse"


def library_function(walk: PartWalk, func: FunctionType) -> str:
    """Return the token of a function of an installed package or of the standard library."""
    module = str(home(func))
    walk.uses(module)
    registry = getattr(func, "registry", None)
    if module == "functools" and registry is not None:  # singledispatch
        return digest(
            "singledispatch", sorted(f"{walk.token(kind)}\n{walk.token(each)}" for kind, each in registry.items())
        )
    cells = [_content(cell) for cell in func.__closure__ or ()]
    code = func.__code__
    parts = [ascii(module), ascii(getattr(code, "co_qualname", code.co_name)), *map(walk.token, cells)]
    if is_wrapper(func):
        wrapped = wrapped_by(func)
        parts.append(walk.token(wrapped))
        if module.partition(".")[0] not in sys.stdlib_module_names:
            parts.append(annotations_of(walk, wrapped))
    elif cells or code.co_name == "<lambda>":
        parts += (walk.token(func.__defaults__), walk.token(func.__kwdefaults__))
    return digest("library function", parts)


def wrapped_by(func: Any) -> Any:
    """Return what a wrapper passes calls on to."""
    return func.__wrapped__


def annotations_of(walk: Walk, func: Any) -> str:
    """Return the token of a function's annotations, which a library may read."""
    found = getattr(func, "__annotations__", None)
    return digest("annotations", (f"{name!a}\n{annotation(walk, kind)}" for name, kind in (found or {}).items()))


def annotation(walk: Walk, kind: Any) -> str:
    """Return the token of a type as it is written; of one that cannot be taken apart its text."""
    try:
        return walk.token(kind)
    except Exception:
        return ascii(repr(kind))


def _describe_function(closure: Closure, func: FunctionType) -> Part:
    part = Part(f"{shown_module(home(func))}.{func.__qualname__.replace('<locals>.', '')}")
    _function(PartWalk(closure, part), func)
    return part


def _describe_class(closure: Closure, cls: type) -> Part:
    part = Part(f"{shown_module(cls.__module__)}.{cls.__qualname__}")
    _class(PartWalk(closure, part), cls)
    return part


def _describe_module(closure: Closure, module: ModuleType) -> Part:
    part = Part(shown_module(module.__name__))
    _module(PartWalk(closure, part), module)
    return part


DESCRIBERS.update({FunctionType: _describe_function, type: _describe_class, ModuleType: _describe_module})


# Functions


def _function(walk: PartWalk, func: FunctionType) -> None:
    bytecode = bytecode_of(func.__code__)
    part = walk.part
    part.tokens.append(bytecode.digest)
    for chain in bytecode.chains:
        _chain(walk, func.__globals__, chain, bytecode)
    for each in bytecode.imports:
        _import(walk, func.__globals__, each)
    _captured(walk, bytecode, func)
    _defaults(walk, func)
    if is_wrapper(func):
        part.tokens.append(walk.token(wrapped_by(func)))


def _chain(walk: PartWalk, scope: dict[str, Any], chain: Chain, bytecode: Bytecode) -> None:
    name, *attributes = chain
    tokens = walk.part.tokens
    if name in _PLACE or name not in scope:
        tokens.append(f"name {name}" if name in _PLACE or hasattr(builtins, name) else f"undefined {name}")
        return
    value, path, holder = scope[name], f"{shown_module(scope.get('__name__'))}.{name}", scope
    while isinstance(value, ModuleType) and attributes and walk.closure.owner.owns(value.__name__):
        holder, name = vars(value), attributes.pop(0)
        if name not in holder:
            tokens.append(f"undefined {name}")
            return
        path = f"{shown_module(value.__name__)}.{name}"
        value = holder[name]
    if name in bytecode.assigns and holder is scope:
        walk.part.state.append(path)
        tokens.append("state")
    else:
        hold(walk, path, value, (holder, name))


def hold(walk: PartWalk, path: str, value: Any, place: Place | None = None) -> None:
    """Enter what code holds under a name: more code, or a value."""
    if isinstance(value, FunctionType | type | ModuleType):
        walk.part.tokens.append(walk.value(path, value))
        return
    walk.part.values[path] = walk.value(path, value, place)
    if place is not None:
        walk.part.places[path] = place


def _import(walk: PartWalk, scope: dict[str, Any], imported: tuple[int, str, Chain]) -> None:
    package = scope.get("__package__")
    try:
        names = imported_names(package if type(package) is str else "", *imported)
        tokens = [walk.closure.of_files(name) for name in names]
    except Exception:
        walk.part.unknown.append(f"import {imported[1]}")
        tokens = ["?"]
    walk.part.tokens += tokens


def _captured(walk: PartWalk, bytecode: Bytecode, func: FunctionType) -> None:
    cells = dict(zip(func.__code__.co_freevars, func.__closure__ or (), strict=True))
    for name in bytecode.captured:
        if name in bytecode.rebinds:
            walk.part.tokens.append("state")
            walk.part.state.append(f"{walk.part.name}.{name}")
        else:
            hold(walk, f"{walk.part.name}.{name}", _content(cells[name]), (func, name))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return NotImplemented  # not assigned yet


def _defaults(walk: PartWalk, func: FunctionType) -> None:
    count, names = len(func.__defaults__ or ()), func.__code__.co_varnames
    positional = names[: func.__code__.co_argcount][-count:] if count else ()
    given = [*zip(positional, func.__defaults__ or (), strict=True), *sorted((func.__kwdefaults__ or {}).items())]
    for name, value in given:
        walk.part.tokens.append(ascii(name))
        hold(walk, f"{walk.part.name}.{name}", value)


# Classes


def _class(walk: PartWalk, cls: type) -> None:
    part = walk.part
    metaclass = type(cls)
    part.tokens += (walk.token(metaclass), digest("bases", map(walk.token, cls.__bases__)))
    before = len(part.tokens)
    definition_of(walk, cls)
    members = {**vars(cls), **getattr(cls, "__members__", {})}  # those of an enum are no attributes in Python 3.11
    for name in sorted(members):
        _member(walk, cls, name, members[name])
    if len(part.tokens) == before and not part.values:
        part.tokens.append(ascii(cls.__qualname__))  # an empty one is told by its name


def _member(walk: PartWalk, cls: type, name: str, value: Any) -> None:
    functions = functions_of(value)
    if name == "__hash__" and isinstance(value, FunctionType) and value.__code__.co_filename.startswith("<attrs gen"):
        walk.part.tokens.append("hash by attrs")  # it has a constant in it that is another one in every process
    elif functions:
        parts = [walk.value(f"{walk.part.name}.{name}", func) for func in functions]
        walk.part.tokens.append(digest(type(value).__name__, (ascii(name), *parts)))
    elif not _is_bookkeeping(cls, name, value):
        walk.part.tokens.append(ascii(name))
        hold(walk, f"{walk.part.name}.{name}", value, (cls, name))


def _is_bookkeeping(cls: type, name: str, value: Any) -> bool:
    if name.startswith("__") or type(value).__name__ in ("member_descriptor", "getset_descriptor", "_abc_data"):
        return True
    return isinstance(cls, enum.EnumMeta) and name.startswith("_") and name.endswith("_")


def assigned_by(members: Iterable[Any]) -> set[str]:
    """Return the attributes that the functions among a class's members assign to."""
    functions = (func for member in members for func in functions_of(member) if isinstance(func, FunctionType))
    return set[str]().union(*(bytecode_of(func.__code__).sets for func in functions))


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
    functools.singledispatchmethod: lambda member: (
        member.func,
        *(each for pair in member.dispatcher.registry.items() for each in pair),
    ),
}


# Modules


def _module(walk: PartWalk, module: ModuleType) -> None:
    for name, value in sorted(vars(module).items()):
        if not name.startswith("__"):
            walk.part.tokens.append(ascii(name))
            hold(walk, f"{walk.part.name}.{name}", value, (vars(module), name))


# What can be called


def root_of(closure: Closure, func: Any) -> Part:
    """Return a callable as the part that a closure begins with.

    Raises
    ------
    Unknown
        If there is no Python code, or something that it is made of has no fingerprint.
    """
    return _whole(closure, func, _called)


def _whole(closure: Closure, value: Any, token: Callable[[PartWalk, Any], str]) -> Part:
    name = getattr(value, "__qualname__", type(value).__qualname__)
    part = Part(f"{shown_module(getattr(value, '__module__', None))}.{name}")
    walk = PartWalk(closure, part)
    part.tokens.append(token(walk, value))
    # What only passes on calls is what it calls.
    return closure.part_of(part.references[0]) if part.tokens == ["@0"] else part


_IMMUTABLE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE: a class written in C


def _called(walk: PartWalk, func: Any) -> str:
    if isinstance(func, FunctionType):
        if is_wrapper(func) and not walk.closure.owner.owns(home(func)):
            return _called(walk, wrapped_by(func)) if is_ours(func) else walk.token(func)
        return walk.reference(func)
    if isinstance(func, type) and not func.__flags__ & _IMMUTABLE:
        return walk.reference(func)
    if isinstance(func, functools.partial):
        return digest("partial", (_called(walk, func.func), walk.token(func.args), walk.token(func.keywords)))
    if isinstance(func, MethodType):
        return digest("method", (_called(walk, func.__func__), walk.token(func.__self__)))
    if is_wrapper(func) and not isinstance(type(func).__call__, FunctionType):
        return _called(walk, wrapped_by(func))
    if not isinstance(type(func).__call__, FunctionType):
        raise Unknown("no Python code")
    return digest("callable", (walk.token(func),))


def of_code(closure: Closure, value: Any) -> str:
    """Return the fingerprint of a function as a value.

    Raises
    ------
    Unknown
        If something in it has no fingerprint.
    """
    code = closure.code(_whole(closure, value, PartWalk.token))
    if code.unknown:
        raise Unknown(", ".join(code.unknown))
    return code.known


@node(FunctionType)
def _as_value(walk: Walk, func: FunctionType) -> str:
    if isinstance(walk, PartWalk):
        return walk.of_function(func)
    walk.basis |= {PYTHON}
    walk.steps += MEMO_FROM  # worth remembering
    return of_code(walk.closure or Closure(), func)


def look_again(closure: Closure) -> None:
    """Take note of values that are no longer what they were when a closure was looked at: they are state."""
    now = Closure(closure.owner.named)
    for part in closure.parts():
        for path, place in part.places.items():
            token = part.values[path]
            if token != "?" and not _is_same(now, part, path, place):
                _state[id(place[0]), place[1]] = _reference(place[0]), token
    closure.tokens.clear()  # and what was replaced meanwhile goes


def _reference(holder: Any) -> Callable[[], Any]:
    # Not more than the module keeps alive itself: what a function captures is not to live on here.
    return (lambda: holder) if isinstance(holder, dict) else weakref.ref(holder)


def _held(place: Place) -> Any:
    holder, name = place
    if isinstance(holder, dict):
        return holder.get(name, NotImplemented)
    if isinstance(holder, type):
        return vars(holder).get(name, NotImplemented)
    return _content(dict(zip(holder.__code__.co_freevars, holder.__closure__, strict=True))[name])


def _is_same(now: Closure, part: Part, path: str, place: Place) -> bool:
    walk = PartWalk(now, Part(part.name, references=list(part.references)))
    walk.numbers = {id(each): number for number, each in enumerate(part.references)}
    return walk.value(path, _held(place), place) == part.values[path]
