"""Which nodes go to Ray as one task: small ones together, since a task of Ray's own costs more than they do."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Container
from functools import partial
from typing import Any

from functionfuse.backends._ray_needs import Holdings, Need, takes_plainly
from functionfuse.backends._ray_schedule import Schedule
from functionfuse.backends._ray_worker import SMALL
from functionfuse.workflow import Node

#: Nodes that are one task.
Group = tuple[Node, ...]

_TOGETHER = 16  # nodes at most
_PACE = 5  # calls of a function, of which the median tells how long the next one will take


class Groups:
    """Takes what can go next from a schedule.

    Parameters
    ----------
    schedule : Schedule
        What can go.
    holdings : Holdings
        Who needs what.
    func_of : callable
        Gives the function of a node.
    special : container of Node
        Those with options of their own, which go alone.

    Attributes
    ----------
    followed : dict of (Node, Node)
        The nodes that hand their results on within a task, and to whom.
    """

    def __init__(
        self, schedule: Schedule, holdings: Holdings, func_of: Callable[[Node], Any], special: Container[Node]
    ) -> None:
        self._schedule = schedule
        self._holdings = holdings
        self._func_of = func_of
        self._special = special
        self._paces: defaultdict[int, deque[float]] = defaultdict(partial(deque, maxlen=_PACE))  # by function's id
        self.followed: dict[Node, Node] = {}

    def note(self, node: Node, seconds: float) -> None:
        """Take note of how long a node took."""
        self._paces[id(self._func_of(node))].append(seconds)

    def next(self, room: int, cores: float) -> Group:
        """Return the nodes that go next.

        Parameters
        ----------
        room : int
            The most nodes.
        cores : float
            Those of the cluster, for each of which some are left.
        """
        nodes = [self._schedule.pop()]
        if self._is_small(nodes[0]):
            most = min(room, _TOGETHER)
            share = min(most, len(self._schedule) / (2 * cores or 1))
            self._follow(nodes, most)
            while len(nodes) < share and self._schedule and self._is_small(self._schedule.peek()):
                nodes.append(self._schedule.pop())
                self._follow(nodes, most)
        return tuple(nodes)

    def _follow(self, nodes: list[Node], most: int) -> None:
        """Let the only one that needs the last node go with it, and so on."""
        while len(nodes) < most:
            child = self._schedule.only_child(nodes[-1])
            if child is None or not self._is_small(child) or not takes_plainly(child, nodes[-1]):
                return
            if not self._holdings.is_wanted_once(Need(nodes[-1])):
                return
            self._schedule.take(child)
            self.followed[nodes[-1]] = child
            nodes.append(child)

    def _is_small(self, node: Node) -> bool:
        """Tell whether a function took next to no time when it was last called in this run."""
        if not node.storable or node in self._special:
            return False
        last = self._paces.get(id(self._func_of(node)))
        return last is not None and sorted(last)[len(last) // 2] < SMALL
