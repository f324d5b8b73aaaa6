"""A run in this process, one node after the other."""

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import AbstractContextManager
from typing import Any

from msgspec.structs import replace

from functionfuse._arguments import substitute
from functionfuse.backends._copying import ATOMS
from functionfuse.backends._returned import checked
from functionfuse.backends._run import Plan, Run, iter_nodes
from functionfuse.backends._sharing import HANDED_OUT, Shared, Sharing
from functionfuse.backends._warning import warn
from functionfuse.baseworkflow import BaseWorkflow
from functionfuse.errors import ChangedResultWarning
from functionfuse.storage.base import Origin
from functionfuse.workflow import Node

_log = logging.getLogger("functionfuse.run")


class LocalRun(Run):
    """One run in this process."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._sharing = Sharing(self, Counter(), Counter())
        self._user: Node | None = None  # that is called now
        self._verified: set[Node] = set()  # whose blobs were read again in this run

    def _begin(self, plan: Plan) -> None:
        self._sharing = Sharing(self, plan.uses, Counter(self._workflow._roots))
        self._sharing.look_at_arguments(plan.compute)

    def _reading(self, plan: Plan) -> AbstractContextManager[None]:
        if self._storage is None:
            return super()._reading(plan)
        return self._storage.prefetch(self._name, [node.get_name() for node in self._nodes if node in plan.restore])

    def _advance(self, node: Node, plan: Plan) -> None:
        try:
            value = self._call(node)
            self._results[node] = value if type(value) in ATOMS else self._sharing.made(node, value)
        except BaseException as error:
            self._note_failure(node, error)
            raise
        self.computed += 1
        self._release(node, plan)

    def _leaf_results(self) -> list[Any]:
        self._user = None
        results = [substitute(leaf, self._result) for leaf in self._workflow.leaves]
        self._sharing.called()
        for found in self._results.values():
            if type(found) is Shared:
                self._sharing.look(found)
        return results

    def _part(self, part: BaseWorkflow) -> Any:
        return LocalRun(part, self._settings).execute(iter_nodes)[0]

    def _call(self, node: Node) -> Any:
        self._user = node
        args = substitute(node.args, self._result)
        kwargs = substitute(node.kwargs, self._result) if node.kwargs else {}
        origin = self._origin(node)
        began = time.perf_counter()
        function = self._workflow.func_of(node)
        value = checked(function(*args, **kwargs), function)
        seconds = time.perf_counter() - began
        if self._sharing.given:
            self._sharing.called()
        return value if origin is None else self._keep(node, value, replace(origin, duration=round(seconds, 9)))

    def _keep(self, node: Node, value: Any, origin: Origin) -> Any:
        assert self._storage is not None
        assert self._provenance is not None
        name, reads = node.get_name(), self._storage.always_read
        blob_id = self._storage.keep(self._name, name, value, origin, is_new=name not in self._stored, waits=reads)
        self._provenance.know_blob(node, blob_id)
        return self._storage.read_task(self._name, name) if reads else value

    def _result(self, node: Node) -> Any:
        if node not in self._results:
            self._results[node] = self._sharing.made(node, self._restore(node))
        found = self._results[node]
        return self._sharing.take(found, self._user) if type(found) in HANDED_OUT else found

    def _at_hand(self, node: Node) -> Any:
        found = self._results[node]
        result = self._sharing.take_alone(found, None) if type(found) in HANDED_OUT else found
        self._warn_of_changes()
        return result

    # Where results are read again

    def is_kept(self, node: Node) -> bool:
        """Tell whether the result of a node is stored."""
        return node in self._kept

    def read(self, node: Node) -> Any:
        """Return the stored result of a node."""
        assert self._storage is not None
        self._storage.flush()  # what is read may be on its way
        return self._storage.read_task(self._name, node.get_name())

    def read_mapped(self, node: Node) -> Any:
        """Return the stored result of a node if it lies over its file, and is still the one of this run; or None."""
        assert self._storage is not None
        assert self._provenance is not None
        blob_id = self._provenance.blob_of(node)
        if blob_id is None:
            return None
        value = self._storage.mapped(self._name, node.get_name(), blob_id, verify=node not in self._verified)
        self._verified.add(node)
        return value

    def _restore(self, node: Node) -> Any:
        assert self._storage is not None
        try:
            restored = self._storage.restore(self._name, node.get_name())
        except Exception as error:
            self._note_failure(node, error)
            raise
        self._know(node, restored.footer)
        return restored.value

    def _release(self, node: Node, plan: Plan) -> None:
        """Free the results that nothing needs any more, unless they could not be had again."""
        for parent in node.parents:
            plan.uses[parent] -= 1
            if not plan.uses[parent] and parent in self._kept:
                found = self._results.pop(parent, None)
                if type(found) is Shared:
                    self._sharing.look(found)

    def _finish(self, status: str, plan: Plan) -> None:
        try:
            super()._finish(status, plan)
        finally:
            self._sharing.finish(plan.compute[: self.computed + 1])
            self._warn_of_changes(is_failed=status != "finished")

    def _warn_of_changes(self, is_failed: bool = False) -> None:
        message = self._sharing.message(self._name)
        if message is not None and is_failed:  # an exception is on its way, which no warning may replace
            _log.warning("%s", message)
        elif message is not None:
            warn(message, ChangedResultWarning)
