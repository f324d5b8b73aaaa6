"""Whether a class is what another process defined: its own methods and constants, compared one by one.

What can change while a program runs does not count: objects that can be changed,
and what methods assign to. Nor does what fingerprints do not see: docstrings,
annotations, places of lines.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Mapping
from types import FunctionType, MethodType
from typing import Any

from functionfuse.fingerprint._bytecode import bytecode_of
from functionfuse.fingerprint._parts import assigned_by, functions_of

_ATOMS = (bool, int, float, complex, str, bytes, frozenset, enum.Enum, type(None))
_DEFINITE = (*_ATOMS, tuple, type, FunctionType, functools.partial, MethodType)  # all others can change
_ABSENT = object()


def has_members(cls: type, members: Mapping[str, Any]) -> bool:
    """Tell whether a class itself defines these members, and no others.

    Parameters
    ----------
    cls : type
        The class.
    members : Mapping of str to object
        As a pickle holds them: what is known to be built anew may be missing.
    """
    own = {name: value for name, value in vars(cls).items() if not _is_of_base(cls, name, value)}
    names = (own.keys() | members.keys()) - getattr(cls, "__members__", {}).keys()  # those of an enum
    changed = assigned_by(own.values())
    compare = _Comparison()
    return all(
        compare.members(own.get(name, _ABSENT), members.get(name, _ABSENT), _counts(name, changed)) for name in names
    )


def have_equal_values(cls: Any, members: Mapping[str, Any]) -> bool:
    """Tell whether an enum has these members, in this order."""
    own = {member.name: member.value for member in cls}
    compare = _Comparison()
    return list(own) == list(members) and all(compare.values(own[name], members[name]) for name in own)


def _is_of_base(cls: type, name: str, value: Any) -> bool:
    return any(vars(base).get(name, _ABSENT) is value for base in cls.__bases__)


def _counts(name: str, changed: set[str]) -> bool:
    """Tell whether an attribute is part of a definition, if it is no function."""
    return name == "__slots__" or not ((name.startswith("_") and name.endswith("_")) or name in changed)


class _Comparison:
    """Compares pairs; those that are being compared already, as recursion has them, count as equal."""

    def __init__(self) -> None:
        self._begun: set[tuple[int, int]] = set()

    def members(self, own: Any, other: Any, counts: bool) -> bool:
        """Tell whether two attributes of classes are equal, as far as they are code or constants."""
        ours, theirs = functions_of(own), functions_of(other)
        if ours or theirs:
            return type(own) is type(other) and self.all(ours, theirs)
        if not counts:
            return True
        if own is _ABSENT or other is _ABSENT:  # an object that can change may have come later
            return not isinstance(other if own is _ABSENT else own, _DEFINITE)
        return self.values(own, other)

    def all(self, ours: Any, theirs: Any) -> bool:
        """Tell whether two sequences are equal, item by item."""
        return len(ours) == len(theirs) and all(map(self.values, ours, theirs))

    def values(self, own: Any, other: Any) -> bool:
        """Tell whether two values are equal, as far as they are code or constants."""
        pair = (id(own), id(other))
        if own is other or pair in self._begun:
            return True
        if type(own) is not type(other) or isinstance(own, type):
            return not isinstance(own, _DEFINITE) and not isinstance(other, _DEFINITE)
        self._begun.add(pair)
        return self._same(own, other)

    def _same(self, own: Any, other: Any) -> bool:
        if isinstance(own, FunctionType):
            return self._functions(own, other)
        if isinstance(own, functools.partial):
            return self.all((own.func, own.args, *own.keywords), (other.func, other.args, *other.keywords))
        if isinstance(own, MethodType):
            return self.values(own.__func__, other.__func__)
        if isinstance(own, tuple):
            return self.all(own, other)
        if isinstance(own, _ATOMS):
            return bool(own == other) or repr(own) == repr(other)  # a NaN
        if "__wrapped__" in getattr(own, "__dict__", ()):
            return self.values(own.__wrapped__, getattr(other, "__wrapped__", None))
        return True  # an object that can change

    def _functions(self, own: FunctionType, other: FunctionType) -> bool:
        return (
            _runs(own) == _runs(other)
            and self.values(own.__defaults__, other.__defaults__)
            and self._named(own.__kwdefaults__ or {}, other.__kwdefaults__ or {})
            and self.all(_captured(own), _captured(other))
        )

    def _named(self, own: dict[str, Any], other: dict[str, Any]) -> bool:
        return own.keys() == other.keys() and all(self.values(own[name], other[name]) for name in own)


def _runs(function: FunctionType) -> tuple[str, tuple[tuple[str, ...], ...]]:
    bytecode = bytecode_of(function.__code__)
    return bytecode.digest, bytecode.chains


def _captured(function: FunctionType) -> list[Any]:
    return [_content(cell) for cell in function.__closure__ or ()]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return _ABSENT
