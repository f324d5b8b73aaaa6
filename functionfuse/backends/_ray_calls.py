"""From nodes to what workers are given: arguments with slots, functions packed once, large values put once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from functionfuse._arguments import references_in, substitute
from functionfuse._ray import module
from functionfuse.backends._ray_worker import LARGE, PREVIOUS, Slot, Source, is_large
from functionfuse.workflow import Node

_ATOMS = (int, float, complex, bool, type(None), type)

#: Gives where a result comes from, and the references that it stands for.
SourceOf = Callable[[Node], "tuple[Source, list[Any]]"]


class Packer:
    """What tasks are given, packed once a run."""

    def __init__(self) -> None:
        # By id: what is packed need not be hashable. It is kept with its package, so that the id stays its own.
        self._packed: dict[int, tuple[Any, Any]] = {}
        self._put: dict[int, tuple[Any, Any]] = {}

    def pack(self, obj: Any) -> Any:
        """Return an object's pickle, or a reference to it where that is large."""
        if id(obj) not in self._packed:
            data = module().cloudpickle.dumps(obj)
            self._packed[id(obj)] = (obj, module().put(data) if len(data) > LARGE else data)
        return self._packed[id(obj)][1]

    def put(self, value: Any) -> Any:
        """Return a reference to an argument that is large; None for a small one."""
        if isinstance(value, _ATOMS) or (isinstance(value, (str, bytes)) and len(value) < LARGE):
            return None
        if id(value) not in self._put:
            self._put[id(value)] = (value, module().put(value) if is_large(value) else None)
        return self._put[id(value)][1]


class Arguments:
    """The arguments of one node, ready for a worker.

    Parameters
    ----------
    node : Node
        The node.
    source_of : callable
        Gives where the results of others come from.
    packer : Packer
        Puts large values.
    values : list of ray.ObjectRef
        The task's further arguments, to which those of the node are added.

    Attributes
    ----------
    args, kwargs : tuple, dict
        With slots in the place of references.
    sources : list of Source
        Where the slots' values come from.
    """

    def __init__(self, node: Node, source_of: SourceOf, packer: Packer, values: list[Any]) -> None:
        self.sources: list[Source] = []
        self._values = values
        self._source_of = source_of
        self._packer = packer
        self._places: dict[Node, int] = {}
        self.args: tuple[Any, ...] = tuple([self._lightened(value) for value in substitute(node.args, self._slot)])
        kwargs = substitute(node.kwargs, self._slot) if node.kwargs else {}
        self.kwargs: dict[str, Any] = {name: self._lightened(value) for name, value in kwargs.items()}

    def _slot(self, node: Node) -> Any:
        if node not in self._places:
            source, references = self._source_of(node)
            self._places[node] = self._add(source, references)
        return Slot(self._places[node])

    def _lightened(self, value: Any) -> Any:
        """Return a slot for a large argument; what holds slots itself goes with the call, where they are seen."""
        if references_in(value) or (reference := self._packer.put(value)) is None:
            return value
        return Slot(self._add(0, [reference]))

    def _add(self, source: Source, references: list[Any]) -> int:
        """Take further arguments of the task, which a source counts from 0."""
        first = len(self._values)
        self._values += references
        if isinstance(source, dict):
            source = {keys: first + number for keys, number in source.items()}
        elif isinstance(source, int) and source != PREVIOUS:
            source += first
        self.sources.append(source)
        return len(self.sources) - 1
