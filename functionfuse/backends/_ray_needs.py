"""What the nodes of a run need of each other, and the references that are held for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from functionfuse._arguments import nodes_in, references_in, role_of
from functionfuse._task import MethodCall
from functionfuse.backends._ray_worker import Keys, Source
from functionfuse.backends._run import is_method_of
from functionfuse.workflow import Item, Node

WHOLE: Keys = ()


class Need(NamedTuple):
    """What a node needs of another.

    Attributes
    ----------
    node : Node
        The other.
    is_object : bool
        Whether it is not the result, but the object of a class as it is when that node is finished.
    """

    node: Node
    is_object: bool = False


class Holdings:
    """The references that the driver holds, each until nobody needs it any more."""

    def __init__(self) -> None:
        self._counts: Counter[Need] = Counter()
        self._held: dict[Need, tuple[Source, list[Any]]] = {}

    def want(self, needs: Iterable[Need]) -> None:
        """Count one more use of each."""
        self._counts.update(list(needs))

    def is_wanted_once(self, need: Need) -> bool:
        """Tell whether one node needs it, and nobody else."""
        return self._counts[need] == 1

    def is_wanted(self, need: Need) -> bool:
        """Tell whether somebody needs it."""
        return self._counts[need] > 0

    def put(self, need: Need, source: Source, references: list[Any]) -> None:
        """Hold references, which a source tells how to use, if somebody needs them."""
        if self._counts[need] > 0:
            self._held[need] = source, references

    def get(self, need: Need) -> tuple[Source, list[Any]] | None:
        """Return what is held, or None."""
        return self._held.get(need)

    def end(self, needs: Iterable[Need]) -> None:
        """Count one use less of each, and let go what has none."""
        for need in needs:
            self._counts[need] -= 1
            if self._counts[need] <= 0:
                self._held.pop(need, None)


class Needs:
    """Who needs what of the nodes that are computed.

    Parameters
    ----------
    nodes : list of Node
        What is computed.
    whole : collection of Node
        Those of which somebody else needs the whole result: the driver, as often as they occur.
    leaf_objects : collection of Node
        Constructors whose objects are leaves.
    """

    def __init__(self, nodes: list[Node], whole: Collection[Node], leaf_objects: Collection[Node]) -> None:
        self.holdings = Holdings()
        self._needs: dict[Node, list[Need]] = {}
        self._wanted: dict[Node, set[Keys]] = {}
        self._last = {object_of(node): node for node in nodes if not node.storable}
        for node in nodes:
            found = needs_of(node)
            self._needs[node] = list(found)
            self.holdings.want(found)
            for need, keys in found.items():
                if not need.is_object:
                    self._wanted.setdefault(need.node, set()).update(keys)
        self.holdings.want([Need(node) for node in whole])
        self.holdings.want([Need(self._last[node], is_object=True) for node in leaf_objects])
        for node in whole:
            self._wanted.setdefault(node, set()).add(WHOLE)

    def of(self, node: Node) -> list[Need]:
        """Return what a node needs of others."""
        return self._needs[node]

    def wanted(self, node: Node) -> tuple[Keys, ...]:
        """Return what others need of a node's result: the whole, or items by their keys."""
        keys = self._wanted.get(node, set())
        return (WHOLE,) if WHOLE in keys else tuple(keys)

    def last_of(self, constructor: Node) -> Node:
        """Return the last node that is computed on an object: a method, or the constructor itself."""
        return self._last[constructor]


def is_constructor(node: Node) -> bool:
    """Tell whether a node makes an object."""
    return not node.storable and not isinstance(node.func, MethodCall)


def moment(consumer: Node, constructor: Node) -> Node:
    """Return the node after which a consumer wants the object that a constructor makes: a method, or itself."""
    methods = [node for node in consumer.after if is_method_of(node, constructor)]
    return max(methods, key=lambda node: node.seq, default=constructor)


def needs_of(node: Node) -> dict[Need, set[Keys]]:
    """Return what a node needs of others, and which items of it: ``()`` is the whole."""
    found: dict[Need, set[Keys]] = {}
    for reference in references_in((node.args, node.kwargs) if node.kwargs else node.args):
        other = reference._nodes()[0]
        need = need_of(node, other)
        if need is not None:
            found.setdefault(need, set()).add(_hashable(reference.keys) if isinstance(reference, Item) else ())
    return found


def need_of(consumer: Node, other: Node) -> Need | None:
    """Return what a node needs of one in its arguments; None for its own object."""
    if not is_constructor(other):
        return Need(other)
    if is_method_of(consumer, other):
        return None
    return Need(moment(consumer, other), is_object=True)


def takes_plainly(node: Node, other: Node) -> bool:
    """Tell whether a node has another's result, or items of it, as arguments, and not inside of lists and the like."""
    arguments = (*node.args, *node.kwargs.values())
    inside = [value for value in arguments if role_of(type(value)) == "container"]
    return Need(other) in needs_of(node) and all(found is not other for found in nodes_in(inside))


def _hashable(keys: Keys) -> Keys:
    try:
        hash(keys)
    except TypeError:  # such as a list of columns: the whole goes
        return ()
    return keys


def object_of(node: Node) -> Node:
    """Return the constructor of a constructor or method."""
    constructor: Node = node if is_constructor(node) else node.args[0]
    return constructor
