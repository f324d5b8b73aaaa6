"""The walk through a value: tables of handlers, cycles, shared parts, unknown parts.

Every part of a value has a token. A scalar's token is its literal, a
container's is the digest of its kind and of the tokens of its parts. Handlers
enter themselves in one of the tables below, by type or, for the types of
libraries that may not be installed, by package and qualified name.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from functionfuse.fingerprint._digest import PYTHON, digest, resting_on, versions
from functionfuse.fingerprint._own import shown_module

if TYPE_CHECKING:
    from functionfuse.fingerprint._closure import Closure

Handler = Callable[["Walk", Any], str]
Special = Mapping[type, Callable[[Any], "str | None"]]

#: Exact type -> the literal of a value, or None where it is too long for one.
LITERALS: dict[type, Callable[[Any], str | None]] = {}
#: Exact type -> token of a value that has no parts.
LEAVES: dict[type, Callable[[Any], str]] = {}
#: Exact type -> token of a value that has parts.
NODES: dict[type, Handler] = {}
#: (package, qualified name) of an exact type.
NAMED: dict[tuple[str, str], Handler] = {}
#: (package, qualified name) of a class: its instances, and those of its subclasses.
FAMILIES: dict[tuple[str, str], Handler] = {}

MEMO_FROM = 16  # steps; below that, walking a shared part again costs less than remembering it
_MAX_REWALKS = 10_000

_log = logging.getLogger("functionfuse.fingerprint")


class Unknown(Exception):
    """Some part cannot be fingerprinted, so neither can the whole."""


def node(*kinds: type) -> Callable[[Handler], Handler]:
    """Enter a handler for exact types."""

    def enter(handler: Handler) -> Handler:
        NODES.update(dict.fromkeys(kinds, handler))
        return handler

    return enter


def family(package: str, *names: str) -> Callable[[Handler], Handler]:
    """Enter a handler for classes of a package and their subclasses, without importing it."""

    def enter(handler: Handler) -> Handler:
        FAMILIES.update({(package, name): handler for name in names})
        return handler

    return enter


def type_name(kind: type) -> str:
    """Return the full name of a class."""
    return f"{shown_module(kind.__module__)}.{kind.__qualname__}"


def is_wrapper(func: Any) -> bool:
    """Tell whether an object passes on calls to its ``__wrapped__``."""
    # Not by `hasattr`, which some objects answer as they like: a mock, a module that loads lazily, a remote handle.
    return "__wrapped__" in getattr(func, "__dict__", ()) or hasattr(type(func), "__wrapped__")


def short_name(kind: type) -> str:
    """Return package and name of a class; libraries move public classes between private modules."""
    return f"{_package(kind)}.{kind.__qualname__}"


def _package(kind: type) -> str:
    return str(kind.__module__).partition(".")[0]


@functools.lru_cache(maxsize=1024)  # bounded: a class that is thrown away must not live on here for ever
def _find(kind: type) -> Handler:
    exact = NAMED.get((_package(kind), kind.__qualname__))
    if exact is not None:
        return exact
    names = ((_package(base), base.__qualname__) for base in kind.__mro__)
    return next(FAMILIES[name] for name in names if name in FAMILIES)  # `object` is the last of them


class Walk:
    """One walk through one value.

    A part that contains itself is referred to by the distance to its place on
    the current path, so that neither the entry point nor an address matters.
    A token is remembered by identity only if it refers to nothing above itself:
    a shared part and an equal copy have the same token. Parts that do refer to
    something above are walked again at every place they are reached from, which
    in a tangle of cycles takes for ever; there the walk gives up as unknown.

    Parameters
    ----------
    special : Mapping of type to callable
        Exact types whose fingerprint the caller gives.
    closure : Closure, optional
        With it, objects of the user's own classes count with the code of their
        class; without, by its name.
    """

    __slots__ = ("basis", "closure", "lowest", "path", "rewalks", "seen", "special", "steps")

    def __init__(self, special: Special, closure: Closure | None = None) -> None:
        self.special = special
        self.closure = closure
        self.basis: frozenset[str] = frozenset()  # the Python versions whose bytecode was met
        self.path: dict[int, int] = {}
        # Address -> the object, which an entry keeps alive so that no other can get its address; and
        # its token, or None if that depends on the path.
        self.seen: dict[int, tuple[Any, str | None]] = {}
        self.lowest = self.steps = self.rewalks = 0

    def token(self, value: Any) -> str:
        """Return the token of any value, or raise `Unknown`."""
        kind: type = type(value)
        if kind in self.special:
            return self._given(self.special[kind](value))
        if kind in LITERALS:
            text = LITERALS[kind](value)
            if text is not None:
                return text
        if kind in LEAVES:
            return LEAVES[kind](value)
        if isinstance(value, type):
            return self.of_class(value)
        return self.visit(value, NODES.get(kind) or _find(kind))

    def visit(self, value: Any, handler: Handler) -> str:
        """Return the token that a handler gives, with cycles and shared parts taken care of."""
        key, depth = id(value), len(self.path)
        self.steps += 1
        if key in self.path:
            self.lowest = min(self.lowest, self.path[key])
            return f"^{depth - self.path[key]}"
        if key in self.seen:
            known = self.seen[key][1]
            if known is not None:
                return known
            self._count_rewalk()
        return self._enter(value, handler, key, depth)

    def _enter(self, value: Any, handler: Handler, key: int, depth: int) -> str:
        outside, before = self.lowest, self.steps
        self.lowest = self.path[key] = depth
        token = handler(self, value)
        del self.path[key]
        if self.lowest < depth:
            self.seen[key] = value, None
        elif self.steps - before >= MEMO_FROM:
            self.seen[key] = value, token
        if outside < self.lowest:
            self.lowest = outside
        return token

    def _count_rewalk(self) -> None:
        self.rewalks += 1
        if self.rewalks > _MAX_REWALKS:
            raise Unknown("too many cycles")

    def of_class(self, cls: type) -> str:
        """Return the token of a class: its name, with the code of own ones where that counts."""
        if self.closure is not None and self.closure.owner.owns(cls.__module__):
            self.basis |= {PYTHON}
            # What is unknown in the class, as a lock that all of its objects share, does not make them unknown.
            return digest("class", (ascii(cls.__qualname__), self.closure.code(self.closure.part_of(cls)).known))
        return digest("type", (ascii(type_name(cls)),))

    def of_module(self, module: ModuleType) -> str:
        """Return the token of a module: its name."""
        return digest("module", (ascii(module.__name__),))

    def _given(self, fingerprint: str | None) -> str:
        if fingerprint is None:
            raise Unknown("unknown to the caller")
        self.basis |= versions(fingerprint)
        return digest("given", (ascii(fingerprint),))

    def finish(self, start: Callable[[Any], str], value: Any) -> str | None:
        """Return the fingerprint that a walk from `value` comes to; None where a part is unknown.

        Whatever an object's own methods raise while it is taken apart makes it
        unknown: no run fails for want of a fingerprint. So does a recursion
        that is too deep.
        """
        try:
            return resting_on(start(value), self.basis)
        except Exception as error:
            _log.debug("no fingerprint for a value of type %s: %s", type(value), repr(error))
            return None
