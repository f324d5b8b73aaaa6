"""The closure of a function: all code and values of the user's own that it reaches, and one digest of them.

The closure is a graph. Its parts are functions, classes and modules; each is
described once, by its own code and by references to other parts, numbered in
the order in which the part itself reaches them. No name and no address is in
a digest, so that code which is moved or renamed stays what it is.

The digest of a part covers those that it refers to. Where parts refer to each
other in a circle, they are told apart by partition refinement, as states of an
automaton are (Hopcroft): two have one digest only if no sequence of references
leads from them to a difference.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from functionfuse.fingerprint._digest import PYTHON, digest
from functionfuse.fingerprint._own import Owner, of_files

_MOST_PARTS = 40  # that are named with a result
_SHORT = 12  # hexadecimal digits of a named part


#: What holds a value, the globals of a module, a class, or a function that captures it, and the name.
Place = tuple[Any, str]


@dataclass
class Part:
    """A function, a class or a module of the user's own.

    Attributes
    ----------
    name : str
        Module and qualified name.
    tokens : list of str
        What it is, without what it refers to.
    values : dict with str keys
        Token of each global, captured or class value, by its name.
    unknown : list of str
        Names of values that have no fingerprint.
    state : list of str
        Names of values that change while code runs.
    references : list of object
        Other parts, in the order in which it refers to them.
    packages : set of str
        Installed packages that it uses.
    places : dict with str keys
        Where each of the values is looked up.
    """

    name: str
    tokens: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    state: list[str] = field(default_factory=list)
    references: list[Any] = field(default_factory=list)
    packages: set[str] = field(default_factory=set)
    places: dict[str, Place] = field(default_factory=dict)

    def local(self) -> str:
        """Return the digest of the part without what it refers to."""
        return digest("part", (*self.tokens, *self.values.values()))


#: Functions, classes and modules -> what describes one as a part. `_parts` enters itself: parts refer to parts.
DESCRIBERS: dict[type, Callable[[Closure, Any], Part]] = {}


class Code:
    """What is known of the code that a callable runs.

    Attributes
    ----------
    known : str
        Digest of all that has a fingerprint.
    unknown : tuple of str
        Names of what has none.
    state : tuple of str
        Names of what changes while code runs; it counts as it was at first in this process.
    """

    def __init__(
        self, closure: Closure, root: Part, known: str, unknown: frozenset[str], state: frozenset[str]
    ) -> None:
        self._closure = closure
        self._root = root
        self.known = f"{PYTHON}:{known.rpartition(':')[2]}"
        self.unknown = tuple(sorted(unknown))
        self.state = tuple(sorted(state))

    @property
    def own(self) -> str:
        """A short digest of the callable's own code."""
        return _shortened(digest("code", self._root.tokens))

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint; None where some part is unknown, as state is."""
        return None if self.unknown or self.state else self.known

    @cached_property
    def parts(self) -> Mapping[str, str]:
        """A short digest of each function, class and value by its name: of the nearest ones, at most 40."""
        found: dict[str, str] = {}
        for part in self._closure.reached_from(self._root):
            for name, token in part.values.items():
                if token == "?":
                    continue
                found.setdefault(name, _shortened(token))
            code = _shortened(digest("code", part.tokens))
            if part is not self._root:
                # Two of one name, as lambdas are, are one.
                found[part.name] = _shortened(found[part.name] + code) if part.name in found else code
            if len(found) >= _MOST_PARTS:
                break
        return found

    @cached_property
    def packages(self) -> Mapping[str, str]:
        """The version of each installed package that the code uses, as far as it tells it."""
        names = {name for part in self._closure.reached_from(self._root) for name in part.packages}
        versions = ((name, getattr(sys.modules.get(name), "__version__", None)) for name in sorted(names))
        return {name: version for name, version in versions if type(version) is str}


def _shortened(token: str) -> str:
    return token if len(token) <= _SHORT else token[-_SHORT:]


class Closure:
    """The parts that were reached in one look at the code of a run.

    Parameters
    ----------
    own : iterable of str
        Modules and packages that are own wherever they are.

    Notes
    -----
    What it knows holds for one moment: code and values of a process can change.
    """

    def __init__(self, own: Iterable[str] = ()) -> None:
        self.owner = Owner(own)
        self._parts: dict[int, tuple[Any, Part]] = {}  # by address; the object stays alive
        self._digests: dict[int, tuple[str, frozenset[str], frozenset[str]]] = {}  # by address of the part
        self._files: dict[str, str] = {}
        #: Tokens of values that refer to no part, by address.
        self.tokens: dict[int, tuple[Any, str | None]] = {}

    def of_files(self, module: str) -> str:
        """Return the digest of a module that a function imports, by its file."""
        if module not in self._files:
            self._files[module] = of_files(module, self.owner)
        return self._files[module]

    def part_of(self, reached: Any) -> Part:
        """Return a function, class or module as a part."""
        known = self._parts.get(id(reached))
        if known is None:
            describe = next(function for kind, function in DESCRIBERS.items() if isinstance(reached, kind))
            self._parts[id(reached)] = known = reached, describe(self, reached)
        return known[1]

    def parts(self) -> Iterator[Part]:
        """Yield all parts that were reached until now."""
        for _, part in list(self._parts.values()):
            yield part

    def code(self, root: Part) -> Code:
        """Return what is known of a part and of all that it reaches."""
        if id(root) not in self._digests:
            self._parts.setdefault(id(root), (root, root))  # it stays alive
            for component in self._components(root):
                self._conclude(component)
        return Code(self, root, *self._digests[id(root)])

    def reached_from(self, root: Part) -> Iterator[Part]:
        """Yield a part and those that it reaches, the nearest first."""
        pending, seen = [root], {id(root)}
        for part in pending:
            yield part
            for other in map(self.part_of, part.references):
                if id(other) not in seen:
                    seen.add(id(other))
                    pending.append(other)

    def _components(self, root: Part) -> Iterator[list[Part]]:
        """Yield circles of parts, those first that others refer to (Tarjan, without recursion)."""
        order: dict[int, int] = {id(root): 0}
        lowest = {id(root): 0}
        open_parts, path = [root], [(root, iter(root.references))]
        while path:
            part, references = path[-1]
            for reached in references:
                other = self.part_of(reached)
                key = id(other)
                if key in self._digests:
                    continue
                if key not in order:
                    order[key] = lowest[key] = len(order)
                    open_parts.append(other)
                    path.append((other, iter(other.references)))
                    break
                lowest[id(part)] = min(lowest[id(part)], order[key])
            else:
                path.pop()
                if path:
                    above = id(path[-1][0])
                    lowest[above] = min(lowest[above], lowest[id(part)])
                if lowest[id(part)] == order[id(part)]:
                    component: list[Part] = []
                    while not component or component[-1] is not part:
                        component.append(open_parts.pop())
                    yield component

    def _conclude(self, component: list[Part]) -> None:
        members = {id(part) for part in component}
        outer = [[self.part_of(reached) for reached in part.references] for part in component]
        below = [self._digests[id(other)] for others in outer for other in others if id(other) not in members]
        unknown = frozenset[str]().union(*(part.unknown for part in component), *(each[1] for each in below))
        state = frozenset[str]().union(*(part.state for part in component), *(each[2] for each in below))
        colors = {
            id(part): digest(
                part.local(),
                ("^" if id(other) in members else self._digests[id(other)][0] for other in others),
            )
            for part, others in zip(component, outer, strict=True)
        }
        if len(component) > 1 or any(id(other) in members for other in outer[0]):
            colors = _refined(component, outer, members, colors)
        for part in component:
            self._digests[id(part)] = colors[id(part)], unknown, state


def _refined(
    component: list[Part], outer: list[list[Part]], members: set[int], colors: dict[int, str]
) -> dict[int, str]:
    count = 0
    while len(set(colors.values())) > count:
        count = len(set(colors.values()))
        colors = {
            id(part): digest(colors[id(part)], (colors[id(other)] for other in others if id(other) in members))
            for part, others in zip(component, outer, strict=True)
        }
    whole = digest("circle", sorted(colors.values()))
    return {key: digest("part of a circle", (color, whole)) for key, color in colors.items()}
