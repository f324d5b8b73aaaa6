"""Which nodes of a run can go next, and what has to be held for them."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from functionfuse.backends._ray_worker import Source
from functionfuse.workflow import Node


class Schedule:
    """Nodes that wait for others, and those that no longer do.

    Parameters
    ----------
    nodes : list of Node
        All of them, parents first.
    steps : int
        How often each has to be released beside waiting for its parents.
    """

    def __init__(self, nodes: list[Node], steps: int = 0) -> None:
        self._children: dict[Node, list[Node]] = {node: [] for node in nodes}
        self._missing: dict[Node, int] = {}
        self._order = {node: number for number, node in enumerate(nodes)}
        self._ready: list[tuple[int, Node]] = []
        for node in nodes:
            parents = [parent for parent in node.parents if parent in self._children]
            for parent in parents:
                self._children[parent].append(node)
            self._missing[node] = len(parents) + steps
        for node in nodes:
            if not self._missing[node]:
                self._push(node)

    def __bool__(self) -> bool:
        return bool(self._ready)

    def pop(self) -> Node:
        """Return the first node, in the order of the plan, that waits for nothing."""
        return heapq.heappop(self._ready)[1]

    def finish(self, node: Node) -> None:
        """Let the nodes go that waited for this one only."""
        for child in self._children[node]:
            self.release(child)

    def release(self, node: Node) -> None:
        """Take one of the things away that a node waits for."""
        self._missing[node] -= 1
        if not self._missing[node]:
            self._push(node)

    def _push(self, node: Node) -> None:
        heapq.heappush(self._ready, (self._order[node], node))


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
