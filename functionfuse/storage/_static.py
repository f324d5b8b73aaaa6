"""What can be known of any object without running its code: its classes, their names, what it stores.

A class may say anything of itself: by properties, by ``__getattr__``, by a metaclass. Everything here reads what the
interpreter itself keeps, through the descriptors of `type` and of the builtins, and asks no method of a class that is
not known.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from types import GetSetDescriptorType, MappingProxyType, MemberDescriptorType, ModuleType
from typing import Any, Generic, TypeVar

T = TypeVar("T")

#: So many of the attributes of an object are looked at.
_MOST_ATTRIBUTES = 10_000

_MRO: Any = type.__dict__["__mro__"]
_NAMESPACE: Any = type.__dict__["__dict__"]
_MODULE: Any = type.__dict__["__module__"]
_QUALNAME: Any = type.__dict__["__qualname__"]
_DICTIONARIES = (GetSetDescriptorType, MemberDescriptorType)
_OF_MODULE: Any = vars(ModuleType)["__dict__"]

_MISSING: Any = object()


def bases(cls: type) -> tuple[type, ...]:
    """Return the classes of which an object of `cls` is, the nearest first."""
    found: tuple[type, ...] = _MRO.__get__(cls)
    return found


def namespace(cls: type) -> MappingProxyType[str, Any]:
    """Return what the body of a class defined."""
    found: MappingProxyType[str, Any] = _NAMESPACE.__get__(cls)
    return found


def module_of(cls: type) -> str:
    """Return the name of a class's module; empty if it says something that is no name."""
    name = _MODULE.__get__(cls)
    return name if type(name) is str else ""


def qualname(cls: type) -> str:
    """Return the qualified name of a class."""
    return str.__str__(_QUALNAME.__get__(cls))


def package(cls: type) -> str:
    """Return the package that a class says it is from."""
    return module_of(cls).partition(".")[0]


def version(package_name: str) -> str | None:
    """Return the version of a package that is imported, where it has one as a plain attribute."""
    found = _attributes_of_module(package_name).get("__version__")
    return found if type(found) is str else None


def is_genuine(cls: type) -> bool:
    """Return whether a class is the one that its module has under its name: nobody else's that only says so."""
    return _attributes_of_module(module_of(cls)).get(qualname(cls)) is cls


def _attributes_of_module(name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = _OF_MODULE.__get__(sys.modules.get(name))
    except TypeError:  # it is not imported, or something else stands there
        return {}
    return found


class Known(Generic[T]):
    """What is known of objects by their classes.

    Parameters
    ----------
    entries : dict
        By package and name of a class. The nearest of an object's classes counts that has an entry and is genuine.
    """

    def __init__(self, entries: dict[tuple[str, str], T]) -> None:
        self._entries = entries
        self._packages = frozenset(package_name for package_name, _ in entries)
        self._found: dict[int, tuple[type, tuple[type, T] | None]] = {}  # the class too, so that its id stays its own

    def is_own(self, cls: type) -> bool:
        """Return whether a class is one of the libraries' own."""
        return id(cls) in self._found or (package(cls) in self._packages and is_genuine(cls))

    def find(self, cls: type) -> tuple[type, T] | None:
        """Return the class that is known, and its entry."""
        if id(cls) in self._found:
            return self._found[id(cls)][1]
        found = self._search(cls)
        if self.is_own(cls):  # those live as long as the process; what others make may not
            self._found[id(cls)] = cls, found
        return found

    def _search(self, cls: type) -> tuple[type, T] | None:
        for base in bases(cls):
            entry = self._entries.get((package(base), qualname(base)))
            if entry is not None and is_genuine(base):
                return base, entry
        return None


def class_attribute(cls: type, name: str) -> Any:
    """Return what stands under a name in the nearest class that has it, as it stands there; None if none has."""
    for base in bases(cls):
        found = namespace(base).get(name, _MISSING)
        if found is not _MISSING:
            return found
    return None


def attributes(obj: Any) -> dict[str, Any]:
    """Return what the instance's dictionary holds, at most so many; empty where it has none."""
    found: Any = next((namespace(base)["__dict__"] for base in bases(type(obj)) if "__dict__" in namespace(base)), None)
    if type(found) not in _DICTIONARIES:  # also where a class has an attribute of its own of this name
        return {}
    held: Iterable[tuple[Any, Any]] = dict.items(found.__get__(obj))
    return {name: value for name, value in islice(held, _MOST_ATTRIBUTES) if type(name) is str}


def stored(obj: Any, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yield those of some attributes that the object stores, in its dictionary or in slots."""
    held = attributes(obj)
    for name in names:
        found = held[name] if name in held else _in_slot(obj, name)
        if found is not _MISSING:
            yield name, found


def _in_slot(obj: Any, name: str) -> Any:
    for base in bases(type(obj)):
        slot = namespace(base).get(name)
        if type(slot) is MemberDescriptorType:
            try:
                return slot.__get__(obj)
            except AttributeError:  # nothing was ever stored there
                return _MISSING
    return _MISSING
