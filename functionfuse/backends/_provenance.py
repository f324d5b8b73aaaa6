"""Where results come from: what is recorded with them, and whether a stored one is still what its node would give.

Three fingerprints go with a result: of the function's code, of every argument
(a parent's result by the id of its blob), and the *lineage*, one over the code
and the arguments of the node and of all its ancestors. The lineage is known
from the graph alone, so that a stored leaf can be told to be stale without
reading what it was computed from.
"""

from __future__ import annotations

import sys
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import xxhash

from functionfuse._arguments import nodes_in, role_of
from functionfuse.backends._stale import NOT_GIVEN, Input
from functionfuse.baseworkflow import BaseWorkflow
from functionfuse.fingerprint import SCHEME, comparable, of_function, of_value
from functionfuse.storage.base import Footer, Origin, Record, to_text
from functionfuse.workflow import Item, Node, StandIn

#: Bytecode differs between versions of Python, so that lineages can only be compared within one.
_PYTHON = f"py{sys.version_info.major}.{sys.version_info.minor}"

_Special = dict[type, Callable[[Any], str | None]]
_Call = tuple[Sequence[Any], list[tuple[str, Any]]]  # arguments by position, and by name


class _Code(NamedTuple):
    """What makes the result of a node; of its parameters, the first ones may be given by position only."""

    fingerprint: str | None
    name: str
    parameters: tuple[str, ...]
    only_by_position: int


class Provenance:
    """The fingerprints of a graph's nodes, in one run.

    Parameters
    ----------
    workflow : BaseWorkflow
        Whose functions count.
    nodes : list of Node
        The graph, parents first.
    """

    def __init__(self, workflow: BaseWorkflow, nodes: list[Node]) -> None:
        self._workflow = workflow
        # By id: what can be called need not be hashable, and the workflow keeps it alive.
        self._codes: dict[int, _Code] = {}
        self._lineages: dict[Node, str] = {}
        self._as_spelled: dict[Node, str] = {}  # how lineages were made before: ``f(1, b=2)`` was another call
        # Of stale results that are used all the same, and of what is computed from them: not what the graph says.
        self._inherited: dict[Node, str] = {}
        self._blob_ids: dict[Node, str] = {}
        self._agreeing: set[Node] = set()
        self._by_lineage = self._special(self._lineages.__getitem__)
        self._by_blob = self._special(self._result)
        self._code = {node: self._code_of(node) for node in nodes}.__getitem__
        for node in nodes:
            self._lineages[node] = self._lineage(node, self._lineages, self._by_lineage)

    def know_blob(self, node: Node, blob_id: str) -> None:
        """Take note of the blob that a node's result is in."""
        self._blob_ids[node] = blob_id

    def blob_of(self, node: Node) -> str | None:
        """Return the id of the blob that a node's result is in, where that is known."""
        return self._blob_ids.get(node)

    def use(self, node: Node, footer: Footer) -> None:
        """Take note of a stored result that is used, stale or not: its lineage goes on to what is computed from it."""
        self.know_blob(node, footer.blob_id)
        if not self._agrees(node, footer):
            lineage = footer.origin.lineage
            if lineage and comparable(lineage, self._lineages[node]) and not self._is_lineage_of(node, lineage):
                self._inherited[node] = lineage

    def inherit(self, node: Node) -> None:
        """Take note that a node is computed from its parents' results as they are."""
        if self._inherited and not self._inherited.keys().isdisjoint(node.parents):
            known = ChainMap(self._inherited, self._lineages)
            self._inherited[node] = self._lineage(node, known, self._special(known.__getitem__))

    def origin(self, run_id: str, node: Node) -> Origin:
        """Return what a record says of where a result comes from.

        Parameters
        ----------
        run_id : str
            The run.
        node : Node
            Its node, before it is computed, since its function may change its arguments; its stored parents' blobs
            have to be known.
        """
        code = self._code(node)
        return Origin(
            run_id=run_id,
            function=code.name,
            code_fingerprint=code.fingerprint,
            lineage=self._inherited.get(node) or self._lineages[node],
            inputs={to_text(name): value for name, value in self._inputs(node)},
            parents=tuple([to_text(parent.get_name()) for parent in node.parents]),
            scheme=SCHEME,
        )

    def staleness(self, node: Node, footer: Footer | None) -> str | None:
        """Return why a stored result is not what its node would give now; None if nothing speaks against it.

        What is unknown on either side does not count: results of the older
        format, saved by hand, or by another version of Python.
        """
        if footer is None:
            return None
        if self._agrees(node, footer) and not self._others_changed(node, footer):
            return None
        return self._difference(node, footer.known) if footer.known and footer.known.lineage else None

    def _agrees(self, node: Node, footer: Footer) -> bool:
        """Tell whether code and lineage are those of the node."""
        if node in self._agreeing:
            return True
        code, origin = self._code(node), footer.origin
        said = (origin.function, origin.code_fingerprint, origin.lineage)
        if said != (code.name, code.fingerprint, self._lineages[node]):
            return False
        self._agreeing.add(node)
        return True

    def _difference(self, node: Node, record: Record) -> str | None:
        """Return all that is known to differ, in one line."""
        code = self._code(node).fingerprint
        changes = []
        if comparable(code, record.code_fingerprint) and code != record.code_fingerprint:
            changes.append("its function has changed")
        inputs = self._compared(node, record)
        changes += [said for each in inputs if (said := each.change())]
        before = record.lineage or ""
        if not changes and comparable(self._lineages[node], before or None) and not self._is_lineage_of(node, before):
            # As something is known to differ, what nobody could be sure of is the likely reason.
            changes += [said for each in inputs if (said := each.likely_change())]
            if not changes and node.parents:
                changes.append("a function or an argument that it was computed from has changed")
            elif not changes:
                changes.append("its arguments were passed in another way")
        return ", ".join(changes) or None

    def _compared(self, node: Node, record: Record) -> list[Input]:
        now, values = dict(self._inputs(node)), dict(self._named(node))
        before = now if record.inputs is None else record.inputs
        others = {parent.get_name() for parent in node.parents}.difference(record.parents or ())
        names = sorted({**before, **now})
        return [
            Input(name, before.get(name, NOT_GIVEN), now.get(name, NOT_GIVEN), values.get(name), others)
            for name in names
        ]

    def _others_changed(self, node: Node, footer: Footer) -> bool:
        """Tell whether a parent that was computed or read in this run is not the one that was used."""
        used = [value for value in (footer.origin.inputs or {}).values() if value is not None]
        now = (self._blob_ids.get(parent) for parent in node.parents)
        return any(blob_id is not None and not any(blob_id in value for value in used) for blob_id in now)

    # Fingerprints

    def _code_of(self, node: Node) -> _Code:
        """Return what makes the result of `node`."""
        code = self._workflow.code_of(node)
        known = self._codes.get(id(code))
        if known is None:
            known = _Code(of_function(code), to_text(_full_name(code)), *_parameters(code))
            self._codes[id(code)] = known
        return known

    def _is_lineage_of(self, node: Node, lineage: str) -> bool:
        """Tell whether a recorded lineage is that of the node, by this version's rule or by the one before."""
        if lineage == self._lineages[node]:
            return True
        if not self._as_spelled:
            special = self._special(self._as_spelled.__getitem__)
            for each in self._lineages:  # parents first
                call = each.args, sorted(each.kwargs.items())
                self._as_spelled[each] = self._lineage(each, self._as_spelled, special, call)
        return lineage == self._as_spelled[node]

    def _lineage(self, node: Node, known: Mapping[Node, str], special: _Special, call: _Call | None = None) -> str:
        args, kwargs = call or self._call(node)
        parts: list[str | None] = [self._code(node).fingerprint]
        parts += [known[value] if type(value) is Node else _part(value, known, special) for value in args]
        for name, value in kwargs:
            parts += (name, known[value] if type(value) is Node else _part(value, known, special))
        if node.after:
            parts += ("after", *(known[earlier] for earlier in node.after))
        # No fingerprint has a line break or a "?", and none looks like a name: the text can be read in one way only.
        text = "\n".join([part or "?" for part in parts])
        return f"{_PYTHON}:{xxhash.xxh3_128_hexdigest(text.encode())}"

    def _call(self, node: Node) -> _Call:
        """Return the arguments of a node, by position as far as that can be: ``f(1, b=2)`` is ``f(1, 2)``."""
        if not node.kwargs:
            return node.args, []
        _, _, names, only_by_position = self._code(node)
        args, kwargs = list(node.args), dict(node.kwargs)
        for name in names[len(args) :] if len(args) >= only_by_position else ():
            if name not in kwargs:
                break
            args.append(kwargs.pop(name))
        return args, sorted(kwargs.items())

    def _inputs(self, node: Node) -> Iterator[tuple[str, str | None]]:
        for name, value in self._named(node):
            yield name, self._result(value) if type(value) is Node else self._input(value)

    def _named(self, node: Node) -> Iterator[tuple[str, Any]]:
        """Yield name and value of every argument."""
        names = self._code(node).parameters
        for position, value in enumerate(node.args):
            yield names[position] if position < len(names) else f"*{position}", value
        yield from node.kwargs.items()

    def _input(self, value: Any) -> str | None:
        fingerprint = of_value(value, self._by_blob)
        if fingerprint is None or role_of(type(value)) != "container":
            return fingerprint
        known = all(node in self._blob_ids for node in nodes_in(value))
        return fingerprint if known else f"lineage:{fingerprint}"

    def _result(self, node: Node) -> str:
        blob_id = self._blob_ids.get(node)
        return f"blob:{blob_id}" if blob_id else f"lineage:{self._lineages[node]}"

    def _special(self, of_node: Callable[[Node], str]) -> _Special:
        def of_item(item: Item) -> str | None:
            keys = [of_value(key) for key in item.keys]
            return None if None in keys else f"{of_node(item.node)}{''.join(f'[{key}]' for key in keys)}"

        def of_object(stand_in: StandIn) -> str:
            return of_node(stand_in._nodes()[0])  # the methods that were called until then are in the node's `after`

        return {Node: of_node, Item: of_item, StandIn: of_object}


def _part(value: Any, known: Mapping[Node, str], special: _Special) -> str:
    """Return an argument's part of a lineage; of one that has no fingerprint, that of the nodes in it."""
    return of_value(value, special) or "?" + "".join(map(known.__getitem__, nodes_in(value)))


def _full_name(code: Any) -> str:
    return f"{getattr(code, '__module__', None)}.{getattr(code, '__qualname__', type(code).__qualname__)}"


def parameters(code: Any) -> tuple[str, ...]:
    """Return the names of the positional parameters, as far as they have names."""
    return _parameters(code)[0]


def _parameters(code: Any) -> tuple[tuple[str, ...], int]:
    """Return the names of the positional parameters, and how many of them are given by position only."""
    skipped = 0
    if isinstance(code, type):
        code = getattr(code, "__init__", None)
        skipped = 1
    plain = getattr(code, "__code__", None)
    if plain is None:
        return (), 0
    return tuple(plain.co_varnames[skipped : plain.co_argcount]), max(0, plain.co_posonlyargcount - skipped)
