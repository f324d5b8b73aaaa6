"""A run in this process, one node after the other."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

from functionfuse._arguments import substitute
from functionfuse.backends._returned import checked
from functionfuse.backends._run import Plan, Run, iter_nodes
from functionfuse.baseworkflow import BaseWorkflow
from functionfuse.workflow import Node


class LocalRun(Run):
    """One run in this process."""

    def _begin(self, plan: Plan) -> None:
        pass

    def _reading(self, plan: Plan) -> AbstractContextManager[None]:
        if self._storage is None:
            return super()._reading(plan)
        return self._storage.ahead(self._name, [node.get_name() for node in self._nodes if node in plan.restore])

    def _advance(self, node: Node, plan: Plan) -> None:
        try:
            self._results[node] = self._call(node)
        except BaseException as error:
            self._note_failure(node, error)
            raise
        self.computed += 1
        self._release(node, plan)

    def _leaf_results(self) -> list[Any]:
        return [leaf._value(self._result) for leaf in self._workflow.leaves]

    def _part(self, part: BaseWorkflow) -> Any:
        return LocalRun(part, self._settings).execute(iter_nodes)[0]

    def _call(self, node: Node) -> Any:
        args = substitute(node.args, self._result)
        kwargs = substitute(node.kwargs, self._result) if node.kwargs else {}
        origin = self._origin(node)
        began = time.perf_counter()
        function = self._workflow.func_of(node)
        value = checked(function(*args, **kwargs), function)
        return self._keep(node, value, f'{origin},"duration":{time.perf_counter() - began:.9f}')

    def _keep(self, node: Node, value: Any, origin: str) -> Any:
        if node not in self._kept:
            return value
        assert self._storage is not None
        assert self._provenance is not None
        name, reads = node.get_name(), self._storage.always_read
        blob_id = self._storage.keep(self._name, name, value, origin, is_new=name not in self._stored, waits=reads)
        self._provenance.know_blob(node, blob_id)
        return self._storage.read_task(self._name, name) if reads else value

    def _result(self, node: Node) -> Any:
        if node not in self._results:
            self._results[node] = self._restore(node)
        return self._results[node]

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
                self._results.pop(parent, None)
