"""Where results come from: what is recorded with them, and whether a stored one is still what its node would give.

Three fingerprints go with a result: of the function's code, of every argument
(a parent's result by the id of its blob), and the *lineage*, one over the code
and the arguments of the node and of all its ancestors. The lineage is known
from the graph alone, so that a stored leaf can be told to be stale without
reading what it was computed from. Where some part has no fingerprint the lineage
is null, and ``known`` is in its place: one over the parts that have one.
"""

from __future__ import annotations

import enum
import sys
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import xxhash

from functionfuse._arguments import nodes_in, role_of
from functionfuse._file import File
from functionfuse._task import NOTHING_DECLARED
from functionfuse.backends._node_code import NodeCode
from functionfuse.backends._stale import NOT_GIVEN, Input
from functionfuse.baseworkflow import BaseWorkflow
from functionfuse.errors import InputChanged
from functionfuse.fingerprint import SCHEME, Closure, look_again, of_file, of_value
from functionfuse.storage.base import CodeParts, Footer, Origin, Record, to_text
from functionfuse.workflow import Item, Node, StandIn

#: Bytecode differs between versions of Python, so that lineages can only be compared within one.
_PYTHON = f"py{sys.version_info.major}.{sys.version_info.minor}"

_MOST_NAMED = 10  # unknown parts in a record

_Special = dict[type, Callable[[Any], str | None]]
_Call = tuple[Sequence[Any], list[tuple[str, Any]]]  # arguments by position, and by name


class Doubt(enum.Enum):
    """Why nobody can tell whether a stored result is what its node would give now."""

    NO_LINEAGE = "they were saved by hand"
    OTHER_FORMAT = "they are in the format of IBM Function Fuse"
    OTHER_SCHEME = "they were made by another version of functionfuse"
    OTHER_PYTHON = "they were made by another version of Python"
    UNKNOWN_INPUT = "something that they are made from has no fingerprint"


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
        self._codes: dict[tuple[int, int], NodeCode] = {}
        self._closures: dict[tuple[str, ...], Closure] = {}
        self._closure = self._closure_of(())
        self._files: dict[File, str | None] = {}  # as they were when the run was planned
        self._have_files: set[Node] = set()
        self._lineages: dict[Node, str] = {}
        # Of stale results that are used all the same, and of what is computed from them: not what the graph says.
        self._inherited: dict[Node, str] = {}
        self._blob_ids: dict[Node, str] = {}
        self._agreeing: set[Node] = set()
        self._by_lineage = self._special(self._lineages.__getitem__)
        self._by_blob = self._special(self._result)
        self._code = {node: self._code_of(node) for node in nodes}.__getitem__
        for node in nodes:
            self._met_file = False
            self._lineages[node] = self._lineage(node, self._lineages, self._by_lineage)
            if self._met_file:
                self._have_files.add(node)

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
            lineage = _lineage_of(footer.known) if footer.known else None
            if lineage and _may_differ(lineage, self._lineages[node]):
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

        Raises
        ------
        InputChanged
            If a `File` among its arguments is not what it was when the run was planned.
        """
        if node in self._have_files:
            self._check_files()
        code = self._code(node)
        lineage = self._inherited.get(node) or self._lineages[node]
        inputs = {to_text(name): value for name, value in self._inputs(node)}
        return Origin(
            run_id=run_id,
            function=code.name,
            code_fingerprint=code.fingerprint,
            lineage=None if "?" in lineage else lineage,
            inputs=inputs,
            parents=tuple([to_text(parent.get_name()) for parent in node.parents]),
            scheme=SCHEME,
            code=code.recorded if "?" not in lineage else self._with_unknown(code, lineage, inputs),
        )

    def _with_unknown(self, code: NodeCode, lineage: str, inputs: dict[str, str | None]) -> CodeParts:
        names = [*code.unknown, *code.state, *(name for name, value in inputs.items() if value is None)]
        known = code.recorded or CodeParts()
        return CodeParts(
            known=lineage, unknown=tuple(map(to_text, names[:_MOST_NAMED])), parts=known.parts, packages=known.packages
        )

    def look_again(self) -> None:
        """Take note of what changed among globals, captured and class values while the run went on: they are state."""
        for closure in self._closures.values():
            look_again(closure)

    def staleness(self, node: Node, footer: Footer | None) -> str | None:
        """Return why a stored result is not what its node would give now; None if nothing speaks against it.

        What is unknown on either side does not count: results of the older
        format, saved by hand, or by another version of Python.
        """
        if footer is None:
            return None
        if self._agrees(node, footer) and not self._others_changed(node, footer):
            return None
        record = footer.known
        return self._difference(node, record) if record and record.scheme == SCHEME else None

    def doubt(self, node: Node, footer: Footer) -> Doubt | None:
        """Return why nobody can tell whether a stored result is what its node would give; None if somebody can."""
        origin = footer.origin  # alone: decoding the whole record takes longer than reading a small result
        before = _lineage_of(origin)
        if before is None:
            return Doubt.NO_LINEAGE
        if origin.scheme != SCHEME:
            return Doubt.OTHER_SCHEME
        if not before.startswith((f"{_PYTHON}:", f"{_PYTHON}?")):
            return Doubt.OTHER_PYTHON
        return Doubt.UNKNOWN_INPUT if "?" in before or "?" in self._lineages[node] else None

    def _agrees(self, node: Node, footer: Footer) -> bool:
        """Tell whether code and lineage are those of the node."""
        if node in self._agreeing:
            return True
        code, origin = self._code(node), footer.origin
        said = (origin.function, origin.code_fingerprint, origin.lineage)
        if origin.lineage is None or said != (code.name, code.fingerprint, self._lineages[node]):
            return False
        self._agreeing.add(node)
        return True

    def _difference(self, node: Node, record: Record) -> str | None:
        """Return all that is known to differ, in one line."""
        code, lineage, before = self._code(node), self._lineages[node], _lineage_of(record)
        told = code.changes(record)
        inputs = self._compared(node, record)
        told += [said for each in inputs if (said := each.change())]
        if not told and before and _may_differ(before, lineage):
            # As something is known to differ, what nobody could be sure of is the likely reason.
            told += [said for each in inputs if (said := each.likely_change())]
            if not told and node.parents:
                told.append("a function or an argument that it was computed from has changed")
            elif not told:
                told.append("its arguments were passed in another way")
        return ", ".join(told) or None

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

    def _closure_of(self, own: tuple[str, ...]) -> Closure:
        if own not in self._closures:
            self._closures[own] = Closure(own)
        return self._closures[own]

    def _code_of(self, node: Node) -> NodeCode:
        """Return what makes the result of `node`."""
        code = self._workflow.code_of(node)
        declared = node.declared if code is node.code else NOTHING_DECLARED
        key = id(code), id(declared)
        known = self._codes.get(key)
        if known is None:
            self._codes[key] = known = NodeCode(code, declared, self._closure_of(declared.own))
        return known

    def _lineage(self, node: Node, known: Mapping[Node, str], special: _Special) -> str:
        args, kwargs = self._call(node)
        code = self._code(node)
        parts = [_doubtful(code.unknown, code.known) if code.fingerprint is None else code.fingerprint]
        parts += [known[value] if type(value) is Node else self._part(value, known, special) for value in args]
        for name, value in kwargs:
            parts += (name, known[value] if type(value) is Node else self._part(value, known, special))
        if node.after:
            parts += ("after", *(known[earlier] for earlier in node.after))
        # No fingerprint has a line break, and none but those with unknown parts a "?": the text can be read in one way.
        text = "\n".join(parts)
        marks = ""
        if "?" in text:
            found = [_mark_and_rest(part) for part in parts]
            text = "\n".join([rest for _, rest in found])
            unknown = [mark for mark, _ in found]
            marks = f"?{xxhash.xxh3_64_hexdigest(ascii(unknown).encode()) if any(unknown) else ''}"
        return f"{_PYTHON}{marks}:{xxhash.xxh3_128_hexdigest(text.encode())}"

    def _part(self, value: Any, known: Mapping[Node, str], special: _Special) -> str:
        """Return an argument's part of a lineage; of one that has no fingerprint, that of the nodes in it."""
        found = of_value(value, special, self._closure)
        if found is None:
            nodes = list(nodes_in(value))
            marks = [_mark_and_rest(known[node])[0] for node in nodes]
            return _doubtful(("none", *marks), "".join(_bare(known[node]) for node in nodes))
        if role_of(type(value)):
            doubtful = [node for node in nodes_in(value) if "?" in known[node]]
            if doubtful:
                return _doubtful([_mark_and_rest(known[node])[0] for node in doubtful], found)
        return found.replace("?", "\\x3f")  # in a literal: this one means that something is unknown

    def _call(self, node: Node) -> _Call:
        """Return the arguments of a node, by position as far as that can be: ``f(1, b=2)`` is ``f(1, 2)``."""
        code = self._code(node)
        if code.ignored:
            return (), sorted((name, value) for name, value in self._named(node) if name not in code.ignored)
        if not node.kwargs:
            return node.args, []
        args, kwargs = list(node.args), dict(node.kwargs)
        for name in code.names[len(args) :] if len(args) >= code.only_by_position else ():
            if name not in kwargs:
                break
            args.append(kwargs.pop(name))
        return args, sorted(kwargs.items())

    def _inputs(self, node: Node) -> Iterator[tuple[str, str | None]]:
        ignored = self._code(node).ignored
        for name, value in self._named(node):
            if name in ignored:
                continue
            yield name, self._result(value) if type(value) is Node else self._input(value)

    def _named(self, node: Node) -> Iterator[tuple[str, Any]]:
        """Yield name and value of every argument."""
        names = self._code(node).names
        for position, value in enumerate(node.args):
            yield names[position] if position < len(names) else f"*{position}", value
        yield from node.kwargs.items()

    def _input(self, value: Any) -> str | None:
        fingerprint = of_value(value, self._by_blob, self._closure)
        if fingerprint is None or role_of(type(value)) != "container":
            return fingerprint
        known = all(node in self._blob_ids for node in nodes_in(value))
        return fingerprint if known else f"lineage:{fingerprint}"

    def _result(self, node: Node) -> str:
        blob_id = self._blob_ids.get(node)
        return f"blob:{blob_id}" if blob_id else f"lineage:{_bare(self._lineages[node])}"

    def _special(self, of_node: Callable[[Node], str]) -> _Special:
        def bare_of_node(node: Node) -> str:
            return _bare(of_node(node))

        def of_item(item: Item) -> str | None:
            keys = [of_value(key) for key in item.keys]
            return None if None in keys else f"{bare_of_node(item.node)}{''.join(f'[{key}]' for key in keys)}"

        def of_object(stand_in: StandIn) -> str:
            return bare_of_node(
                stand_in._nodes()[0]
            )  # the methods that were called until then are in the node's `after`

        return {Node: bare_of_node, Item: of_item, StandIn: of_object, File: self._file}

    def _file(self, file: File) -> str | None:
        self._met_file = True
        if file not in self._files:
            self._files[file] = of_file(file)
        return self._files[file]

    def _check_files(self) -> None:
        for file, planned in self._files.items():
            if planned is not None and of_file(file) != planned:
                raise InputChanged(
                    f"the file {str(file)!r} is not what it was when the run was planned, and nothing is computed "
                    "from it. Run again when nothing writes to it"
                )


# A lineage with unknown parts is ``py3.11?<mark>:<digest>``. The mark tells what has no fingerprint at all; it is empty
# where all that is unknown is state, which counts as it was at first. The digest is that of all the rest.


def _doubtful(unknown: Iterable[str], known: str) -> str:
    names = tuple(filter(None, unknown))
    return f"?{names or ''!a}|{known}"


def _mark_and_rest(part: str) -> tuple[str, str]:
    """Return what a part of a lineage says of what is unknown in it, and the part without that."""
    if "?" not in part:
        return "", part
    if part.startswith("?"):
        mark, _, rest = part[1:].partition("|")
        return mark.replace("''", ""), rest
    python, _, rest = part.partition("?")
    mark, _, found = rest.partition(":")
    return mark, f"{python}:{found}"


def _bare(lineage: str) -> str:
    return _mark_and_rest(lineage)[1]


def _may_differ(before: str, now: str) -> bool:
    """Tell whether two lineages are known to differ: they have to be unknown in the same parts."""
    kinds = [lineage.partition(":")[0].removesuffix("?") for lineage in (before, now)]
    return kinds[0] == kinds[1] and before.rpartition(":")[2] != now.rpartition(":")[2]


def _lineage_of(record: Record | Origin) -> str | None:
    return record.lineage or (record.code.known if record.code else None)
