"""What a notebook shows of nodes and workflows."""

from __future__ import annotations

import inspect
import logging
import reprlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from catalog.show import html

if TYPE_CHECKING:
    from functionfuse.baseworkflow import BaseWorkflow
    from functionfuse.workflow import Node

_log = logging.getLogger("functionfuse.workflow")


class _Short(reprlib.Repr):
    """Writes arguments in a few words; of arrays, tables and containers of other libraries only how large they are."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60

    def repr_instance(self, x: Any, level: int) -> str:
        if not hasattr(type(x), "__len__"):
            return super().repr_instance(x, level)
        shape = getattr(x, "shape", None)
        return f"<{type(x).__qualname__} of {len(x) if shape is None else shape}>"


def node_html(node: Node) -> str | None:
    """Return a node as HTML; None where that cannot be, so that its plain `repr` is shown."""
    try:
        rows = [("function", _function(node)), *_arguments(node)]
        rows.append(("parents", _names(node.parents) or "none"))
        return html.page("Node", node.get_name(), _state(node), html.facts(rows))
    except Exception:  # an argument of any class may do anything when it is looked at
        _log.debug("no picture of %r", node, exc_info=True)
        return None


def workflow_html(workflow: BaseWorkflow) -> str | None:
    """Return a workflow as HTML; None where that cannot be, as with a graph that cannot be run."""
    try:
        nodes = workflow.ordered()
        rows = [
            (node.get_name(), _function(node), _names(node.parents), _state(node)) for node in nodes[: html.MOST_ROWS]
        ]
        shown = html.table(("node", "function", "parents", "result"), rows, len(nodes) - len(rows))
        line = f"{html.counted(len(nodes), 'node')}, {html.counted(len(workflow.leaves), 'leaf', 'leaves')}"
        return html.page(type(workflow).__name__, workflow.workflow_name, line, shown)
    except Exception:
        _log.debug("no picture of %r", workflow, exc_info=True)
        return None


def _function(node: Node) -> str:
    code = node.code
    module = getattr(code, "__module__", None)
    name = getattr(code, "__qualname__", None) or type(code).__qualname__
    return name if module in (None, "__main__", "builtins") else f"{module}.{name}"


def _arguments(node: Node) -> Iterator[tuple[str, str]]:
    for name, value in _named(node).items():
        yield name, _Short().repr(value)


def _named(node: Node) -> dict[str, Any]:
    """Return the arguments by the parameters that they are for, or by number where these are not known."""
    try:
        return dict(inspect.signature(node.code).bind(*node.args, **node.kwargs).arguments)
    except (TypeError, ValueError):  # of a builtin; of a call that will fail
        return {**{str(number): value for number, value in enumerate(node.args)}, **node.kwargs}


def _names(nodes: list[Node]) -> str:
    names = ", ".join(node.get_name() for node in nodes[: html.MOST_ROWS])
    return f"{names}, ... ({len(nodes):,} in all)" if len(nodes) > html.MOST_ROWS else names


def _state(node: Node) -> str:
    if node._outcome is None:
        return "not run yet"
    return "has a result" if node._outcome.has_result_of(node) else "no result"
