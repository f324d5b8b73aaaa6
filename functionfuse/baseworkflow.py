"""What every workflow backend begins with: the graph above the leaves, in an order to run it."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

from functionfuse._arguments import Reference, references_in
from functionfuse.errors import CyclicGraph, DuplicateName, InvalidArgument, InvalidLeaf, NoSuchNode
from functionfuse.workflow import Node, checked_name, undecorated

_MOST_NAMES = 10_000  # among which near ones are looked for: some tens of milliseconds


class BaseWorkflow:
    """A graph of nodes: the leaves, and all that they need.

    No state of a run is kept on the nodes, so that workflows can share them.

    Parameters
    ----------
    *leaves : Node, Item, StandIn, or a list, tuple or dict of them
        What to compute. A stand-in means the object after the methods called on it until now. What is given as a list
        or dict comes back as one, with the results in the places of the nodes.
    workflow_name : str
        The name under which results are stored.

    Attributes
    ----------
    leaves : tuple
        The leaves as they were given.
    workflow_name : str
        The name as given.

    Raises
    ------
    InvalidLeaf
        If there is no leaf, or one is not made by a decorated function or class.
    InvalidName
        If the workflow's name is empty or not a string.
    """

    def __init__(self, *leaves: Any, workflow_name: str) -> None:
        if not leaves:
            raise InvalidLeaf("a workflow needs at least one leaf: pass the nodes whose results are wanted")
        self.workflow_name = checked_name(workflow_name, "workflow")
        self.leaves = tuple(map(_checked_leaf, leaves))
        self._roots = [node for leaf in self.leaf_references() for node in leaf._nodes()]
        self._replaced: dict[Node, Callable[..., Any]] = {}
        self._known: set[Node] = set()

    def ordered(self) -> list[Node]:
        """Return the leaves and all their ancestors, parents first.

        The arguments are searched anew in each call, since a list or dict among
        them may have been changed.

        Returns
        -------
        list of Node
            In the order in which they were made, wherever that puts parents first.

        Raises
        ------
        CyclicGraph
            If a node needs its own result.
        DuplicateName
            If two nodes have the same name.
        """
        graph = self._ancestors()
        nodes = sorted(graph, key=attrgetter("seq"))
        # A node is younger than its parents, unless a list or dict was changed after the call.
        if any(parent.seq >= node.seq for node, parents in graph.items() for parent in parents):
            nodes = _in_dependency_order(graph)
        self._check_names(nodes)
        return nodes

    def leaf_references(self) -> list[Reference]:
        """Return the leaves one by one, those in lists and dicts too."""
        return [reference for leaf in self.leaves for reference in references_in(leaf)]

    def graph_traversal(self) -> Iterator[tuple[str, Node]]:
        """Yield the name and the node for every node, parents first."""
        return ((node.get_name(), node) for node in self.ordered())

    def find_nodes(self, regex: str | re.Pattern[str] | None = None) -> list[Node]:
        """Return the nodes of the graph whose names match, parents first.

        Parameters
        ----------
        regex : str or re.Pattern, optional
            A regular expression that matches the whole name; None means all nodes.

        Returns
        -------
        list of Node
            Empty if no name matches.

        Raises
        ------
        InvalidArgument
            If `regex` is not a regular expression (a `ValueError`).
        """
        if regex is None:
            return self.ordered()
        try:
            matches = re.compile(regex).fullmatch
        except (re.error, TypeError) as error:
            raise InvalidArgument(f"{regex!r} is not a regular expression for node names: {error}") from error
        return [node for name, node in self.graph_traversal() if matches(name)]

    def picked_nodes(self, regex: str | re.Pattern[str]) -> list[Node]:
        """Return the nodes whose names match, as `find_nodes` does, where a pattern without a match is a mistake.

        Parameters
        ----------
        regex : str or re.Pattern
            A regular expression that matches the whole name.

        Returns
        -------
        list of Node
            One or more.

        Raises
        ------
        NoSuchNode
            If no name matches; it names the nearest ones.
        InvalidArgument
            If `regex` is not a regular expression (a `ValueError`).
        """
        nodes = self.find_nodes(regex)
        if not nodes:
            raise NoSuchNode(_nothing_matches(regex, [name for name, _ in self.graph_traversal()], self.workflow_name))
        return nodes

    def replace_func(self, node: Reference, func: Callable[..., Any]) -> None:
        """Call `func` for a node instead of its own function, in this workflow only.

        Parameters
        ----------
        node : Node, StandIn or Item
            A node of the graph. A stand-in means its constructor, an item the node that it is of.
        func : callable
            Takes the same arguments; for a method the object first. A decorated function counts as undecorated.

        Raises
        ------
        InvalidLeaf
            If `node` is no node.
        InvalidArgument
            If `node` is not in the graph (a `ValueError`), or `func` cannot be called (a `TypeError`).
        """
        if not callable(func):
            raise InvalidArgument(f"a node can only call a function, not {func!r} of type {type(func).__name__}")
        target = _checked_reference(node, "what is replaced")._nodes()[0]
        if target not in self._known:
            self._known = set(self._ancestors())
        if target not in self._known:
            raise InvalidArgument(
                f"{target!r} is no leaf of workflow {self.workflow_name!r}, nor does a leaf need it; "
                "find_nodes() lists the nodes that can be replaced"
            )
        self._replaced[target] = undecorated(func)

    def func_of(self, node: Node) -> Callable[..., Any]:
        """Return what this workflow calls for `node`."""
        return self._replaced.get(node, node.func)

    def code_of(self, node: Node) -> Any:
        """Return the code that makes the result of `node` in this workflow, to take a fingerprint of."""
        return self._replaced.get(node, node.code)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.workflow_name!r}>"

    def _repr_html_(self) -> str | None:
        from functionfuse._html import workflow_html  # on use: only notebooks ask

        return workflow_html(self)

    def _ancestors(self) -> dict[Node, list[Node]]:
        """Return the parents of every node in the graph."""
        graph: dict[Node, list[Node]] = {}
        pending = self._roots.copy()
        while pending:
            node = pending.pop()
            if node not in graph:
                graph[node] = node.parents
                pending += graph[node]
        return graph

    def _check_names(self, nodes: list[Node]) -> None:
        by_name: dict[str, Node] = {}
        for node in nodes:
            first = by_name.setdefault(node.get_name(), node)
            if first is not node:
                raise DuplicateName(
                    f"two nodes of workflow {self.workflow_name!r} are named {node.get_name()!r}, a call of "
                    f"{_described(first)} and a call of {_described(node)}: "
                    "give one of them another name by node.set_name(...)"
                )


def _checked_leaf(leaf: Any) -> Any:
    """Return a leaf; of a list, tuple or dict a copy, which nobody changes before the run."""
    kind = type(leaf)
    if kind in (list, tuple) and leaf:
        return kind(map(_checked_leaf, leaf))
    if kind is dict and leaf:
        return {key: _checked_leaf(value) for key, value in leaf.items()}
    if kind in (list, tuple, dict):
        raise InvalidLeaf(f"a leaf is an empty {kind.__name__}: put the nodes into it whose results are wanted")
    return _checked_reference(leaf, "a leaf")


def _checked_reference(value: object, role: str) -> Reference:
    if isinstance(value, Reference):
        return value
    raise InvalidLeaf(
        f"{role} must be a node, an item of a node or a stand-in, which is what calls of functions and classes "
        f"decorated with @workflow return, not {value!r} of type {type(value).__name__}"
    )


def _in_dependency_order(graph: dict[Node, list[Node]]) -> list[Node]:
    """Return the nodes parents first, and among those that could come next always the one made first."""
    import graphlib  # on use: few graphs need it

    sorter = graphlib.TopologicalSorter(graph)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        circle = " -> ".join(repr(node.get_name()) for node in error.args[1])
        raise CyclicGraph(
            f"nodes need their own results: {circle}. "
            "A list, set or dict among their arguments was changed after the call, so that it holds a later node"
        ) from error
    nodes: list[Node] = []
    ready: list[tuple[int, Node]] = []
    while sorter.is_active():
        for node in sorter.get_ready():
            heapq.heappush(ready, (node.seq, node))
        nodes.append(heapq.heappop(ready)[1])
        sorter.done(nodes[-1])
    return nodes


def _nothing_matches(regex: str | re.Pattern[str], names: list[str], workflow_name: str) -> str:
    """Return what is said where a pattern matches no name: which ones are near, and whether it is a name itself."""
    import difflib  # on use: a typing error is rare

    text = regex if isinstance(regex, str) else regex.pattern
    message = f"no node of workflow {workflow_name!r} has a name that matches {text!r} as a whole"
    if text in names:
        return f"{message}. There is a node of that name: as a regular expression it is {re.escape(text)!r}"
    if near := difflib.get_close_matches(text, names[:_MOST_NAMES], n=3):
        return f"{message}. Near to it: {', '.join(map(repr, near))}"
    return f"{message}. There are, among others: {', '.join(map(repr, names[:3]))}"


def _described(node: Node) -> str:
    code = node.code
    return f"{getattr(code, '__module__', None)}.{getattr(code, '__qualname__', code)}"
