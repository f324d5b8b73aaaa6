"""Find the nodes in arguments, and put results in their place.

What stands in an argument for a result to come is a `Reference`: a node, an
item of a node, the stand-in of an object. References are found at any depth in
lists, tuples, sets, frozensets, dicts (keys too), namedtuples and subclasses
of list, set and dict. Everything else is handed on unopened: other subclasses
of tuple and frozenset (nothing says how to make one anew), arrays, iterators,
attributes of objects.

Lists of plain data cost little: a container is walked through only if one of
its members' types makes that worth while.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from functionfuse.workflow import Node

#: A container that may hold references.
Container = Collection[Any]


class Reference:
    """What stands in an argument for a result to come."""

    __slots__ = ()

    def _nodes(self) -> tuple[Node, ...]:
        """Return the node whose result is meant, then the nodes that must have run before it is used."""
        raise NotImplementedError

    def _value(self, result_of: Callable[[Node], Any]) -> Any:
        """Return what takes the reference's place, given the results of nodes."""
        raise NotImplementedError


def _role_of(kind: type) -> str:
    """Tell what objects of the type `kind` are in arguments: a "reference", a "container" or, empty, plain data."""
    if issubclass(kind, Reference):
        return "reference"
    if issubclass(kind, tuple):
        return "container" if kind is tuple or hasattr(kind, "_make") else ""
    return "container" if kind is frozenset or issubclass(kind, (list, set, dict)) else ""


#: `_role_of`, remembered. It goes by the type alone, since isinstance() asks a lazy proxy for its
#: ``__class__``, and so makes it load.
role_of: Callable[[type], str] = functools.lru_cache(maxsize=1024)(_role_of)


def references_in(value: Any) -> list[Reference]:
    """Return the references in `value`, at any depth, from left to right.

    A container that `value` holds twice, or that holds itself, is searched once.
    """
    if role_of(type(value)) == "reference":
        return [value]
    return [member for _, member in _links(value) if role_of(type(member)) == "reference"]


def nodes_in(value: object) -> Iterator[Node]:
    """Yield every node whose result `value` refers to, at any depth.

    Parameters
    ----------
    value : object
        An argument, or all arguments of a node as a tuple or dict.

    Yields
    ------
    Node
        In the order of the references, as often as they occur. An item gives
        its node, a stand-in the node of its constructor.
    """
    return (reference._nodes()[0] for reference in references_in(value))


def substitute(value: Any, result_of: Callable[[Node], Any]) -> Any:
    """Return `value` with results in the place of references.

    Parameters
    ----------
    value : object
        An argument, or all arguments of a node as a tuple or dict.
    result_of : callable
        Gives the result of a node.

    Returns
    -------
    object
        Containers that lead to no reference are the same objects, not copies.
        The others are new, of the same type, and share and hold each other as
        the old ones did.
    """
    if role_of(type(value)) == "reference":
        return value._value(result_of)
    if type(value) is tuple and "container" not in map(role_of, map(type, value)):
        return _substitute_flat(value, result_of)
    holders = _holders(value)
    return _rebuild(value, holders, result_of) if holders else value


def _substitute_flat(values: tuple[Any, ...], result_of: Callable[[Node], Any]) -> tuple[Any, ...]:
    """Do as `substitute` for values that are no containers, as most arguments of most nodes: in a third of the time."""
    roles = [role_of(type(value)) for value in values]
    if not any(roles):
        return values
    return tuple([value._value(result_of) if role else value for value, role in zip(values, roles, strict=True)])


def _links(value: object) -> list[tuple[Container, Any]]:
    """Return (container, member) for every member below `value` that is a reference or a container, depth first."""
    links: list[tuple[Container, Any]] = []
    if role_of(type(value)) != "container":
        return links
    seen = {id(value)}
    pending: list[tuple[Any, Iterator[Any]]] = [(value, _members(value))]
    while pending:
        container, members = pending[-1]
        for member in members:
            if role := role_of(type(member)):
                links.append((container, member))
                if role == "container" and id(member) not in seen:
                    seen.add(id(member))
                    pending.append((member, _members(member)))
                    break
        else:
            pending.pop()
    return links


def _members(container: Any) -> Iterator[Any]:
    members = [*container, *container.values()] if isinstance(container, dict) else container
    # A set of types is made at C speed: a million floats cost milliseconds.
    return iter(members if len(members) < 8 or any(map(role_of, set(map(type, members)))) else ())


def _holders(value: object) -> dict[int, Container]:
    """Return the containers of `value` that lead to a reference, by their ids."""
    holders: dict[int, Container] = {}
    around: dict[int, list[Container]] = {}  # the id of a container: those that have it as a member
    for container, member in _links(value):
        if role_of(type(member)) == "reference":
            holders[id(container)] = container
        else:
            around.setdefault(id(member), []).append(container)
    pending = list(holders)
    while pending:
        for container in around.get(pending.pop(), ()):
            if id(container) not in holders:
                holders[id(container)] = container
                pending.append(id(container))
    return holders


def _rebuild(value: Any, holders: dict[int, Container], result_of: Callable[[Node], Any]) -> Any:
    # Every circle of containers passes through one that can be changed. Those
    # are made first and empty, so that whatever holds them can be made at once.
    rebuilt: dict[int, Any] = {
        key: _empty_like(container)
        for key, container in holders.items()
        if not isinstance(container, (tuple, frozenset))
    }

    def resolve(member: Any) -> Any:
        if role_of(type(member)) == "reference":
            return member._value(result_of)
        key = id(member)
        if key in holders and key not in rebuilt:
            rebuilt[key] = getattr(member, "_make", type(member))(map(resolve, member))
        return rebuilt.get(key, member)

    for key, container in list(rebuilt.items()):
        _fill(container, holders[key], resolve)
    return resolve(value)


def _empty_like(container: Any) -> Any:
    kind = type(container)
    if kind in (list, set, dict):
        return kind()
    # Of a subclass only a copy keeps what else it knows, such as the factory of a defaultdict.
    empty = copy.copy(container)
    empty.clear()
    return empty


def _fill(container: Any, old: Any, resolve: Callable[[Any], Any]) -> None:
    if isinstance(container, dict):
        for key, value in old.items():
            container[resolve(key)] = resolve(value)
    elif isinstance(container, list):
        container.extend(map(resolve, old))
    else:
        container.update(map(resolve, old))
