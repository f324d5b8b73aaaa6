"""Which nodes of a run can go next."""

from __future__ import annotations

import heapq

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

    def __len__(self) -> int:
        return len(self._ready)

    def peek(self) -> Node:
        """Return the node that `pop` would."""
        return self._ready[0][1]

    def pop(self) -> Node:
        """Return the first node, in the order of the plan, that waits for nothing."""
        return heapq.heappop(self._ready)[1]

    def only_child(self, node: Node) -> Node | None:
        """Return the node that waits for this one and for nothing else, if no other waits for this one."""
        children = self._children[node]
        return children[0] if len(children) == 1 and self._missing[children[0]] == 1 else None

    def take(self, node: Node) -> None:
        """Take a node out, which goes together with the one that it waits for."""
        self._missing[node] = 0

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
