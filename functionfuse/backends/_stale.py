"""What is said of stale results: which arguments changed, in one text of bounded length, however many there are."""

from __future__ import annotations

import enum
import reprlib
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from functionfuse._arguments import Reference
from functionfuse.fingerprint import comparable

NOT_GIVEN = "not given"
_CAUSES = 5  # that are named, those of most results first
_NAMES = 5  # that are named of each cause
_LONGEST = 300  # characters of a cause or a name
_LONGEST_VALUE = 64  # characters of an argument's value, as of a literal fingerprint


def stale_message(workflow_name: str, stale: dict[str, str]) -> str:
    """Return what is said of stale results, however many there are.

    Parameters
    ----------
    workflow_name : str
        Their workflow.
    stale : dict
        Why each is stale, by its name.
    """
    by_cause: dict[str, list[str]] = {}
    for name, cause in stale.items():
        by_cause.setdefault(cause, []).append(name)
    causes = sorted(by_cause.items(), key=lambda item: -len(item[1]))  # stable: in the order of the graph where alike
    listed = "; ".join(f"{_names(names)}: {_shortened(cause)}" for cause, names in causes[:_CAUSES])
    others = sum(len(names) for _, names in causes[_CAUSES:])
    more = f"; {others:,} more, for other reasons" if others else ""
    return (
        f"stored results of workflow {_shortened(workflow_name)!r} are not what their nodes would give now: "
        f"{listed}{more}. "
        "Compute them anew by on_stale='recompute' or run(recompute=...), or accept them by on_stale='ignore'"
    )


def _names(names: list[str]) -> str:
    shown = ", ".join(repr(_shortened(name)) for name in names[:_NAMES])
    return f"{shown} and {len(names) - _NAMES:,} more" if len(names) > _NAMES else shown


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


@dataclass(frozen=True)
class Input:
    """An argument of a call, when its result was stored and now.

    Attributes
    ----------
    name : str
        Its parameter, or ``*`` and its position.
    before, now : str or None
        Its fingerprints, `NOT_GIVEN`, or None for unknown.
    value : object
        What it is now.
    new_parents : set of str
        The names of the call's parents that were none of the stored result's.
    """

    name: str
    before: str | None
    now: str | None
    value: Any
    new_parents: Set[str]

    def change(self) -> str | None:
        """Return what is said of it if it has changed for certain."""
        if self.before is None or self.now is None or self.before == self.now:
            return None
        if self.before.startswith("blob:") and self.now.startswith("blob:"):
            return self._other_node() or f"argument {self.name!r} has been computed anew since"
        if self.before.startswith(_RESULTS) or self.now.startswith(_RESULTS):
            return None  # a parent that is not read now, or was not stored then: the lineage tells
        return self._said(self.before, self._shown()) if comparable(self.before, self.now) else None

    def likely_change(self) -> str | None:
        """Return what is said of it if it cannot be compared, and is not of the same kind."""
        if self.before == self.now:
            return None
        if self.before is None or self.now is None:
            return self._said(self.before or "unknown", self._shown() if self.now else "unknown")
        was_result = self.before.startswith(_ONE_RESULT)
        name = self._node_name()
        if name is not None and was_result:
            return self._other_node()
        if name is not None and not self.before.startswith(_RESULTS):
            return self._said(self.before, f"the result of {name!r}")
        if was_result and not self.now.startswith(_RESULTS):
            return self._said("the result of a node", self._shown())
        return None

    def _node_name(self) -> str | None:
        is_reference = issubclass(type(self.value), Reference)
        return self.value._nodes()[0].get_name() if is_reference else None

    def _other_node(self) -> str | None:
        name = self._node_name()
        is_other = name in self.new_parents
        return f"argument {self.name!r} is the result of {name!r}, and was that of another node" if is_other else None

    def _said(self, before: str, now: str) -> str:
        return f"argument {self.name!r} was {before} and is {now}"

    def _shown(self) -> str:
        """Return the value as it is now, if it is short, or its fingerprint."""
        assert self.now is not None
        if not self.now.startswith(_DIGESTS):
            return self.now
        try:
            text = _VALUES.repr(self.value)
        except Exception:  # of an object that only looks like a builtin one
            return self.now
        return text if len(text) <= _LONGEST_VALUE and "..." not in text else self.now


_DIGESTS = ("xxh3:", "py")  # no literal begins so
_RESULTS = ("blob:", "lineage:")
_ONE_RESULT = ("blob:", "lineage:py")  # and no container that holds some
_PLAIN = frozenset({type(None), bool, float, complex, bytes, bytearray, range, slice})
#: Packages whose scalars tell their value by `repr`.
_TELLING = frozenset({"datetime", "decimal", "fractions", "numpy", "pathlib", "uuid"})


class _Values(reprlib.Repr):
    """Shows plain values, and of all others "...": their `repr` may take its time, or say nothing."""

    def repr_instance(self, x: Any, level: int) -> str:
        if isinstance(x, enum.Enum):
            return f"{type(x).__qualname__}.{x.name}"
        if type(x) in _PLAIN:
            return repr(x)
        is_scalar = type(x).__module__.partition(".")[0] in _TELLING and not hasattr(x, "__len__")
        return repr(x) if is_scalar else "..."


_VALUES = _Values()
_VALUES.maxlist = _VALUES.maxtuple = _VALUES.maxdict = _VALUES.maxset = _VALUES.maxfrozenset = 12
_VALUES.maxstring = _VALUES.maxlong = _LONGEST_VALUE
