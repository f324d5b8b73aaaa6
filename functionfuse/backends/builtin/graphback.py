"""Draw a workflow as a picture instead of running it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from functionfuse._arguments import nodes_in
from functionfuse.baseworkflow import BaseWorkflow
from functionfuse.errors import MissingDependency

if TYPE_CHECKING:
    import graphviz


class GraphWorkflow(BaseWorkflow):
    """A workflow that `run` renders by Graphviz as SVG.

    Functions are drawn as boxes, constructors and methods of classes as
    ellipses. An arrow goes from each node to those that take its result, a dashed
    one to those that must only run after it.

    Parameters
    ----------
    *leaves : Node, Item or StandIn
        What is drawn, with all that it needs.
    workflow_name : str
        The name of the workflow.
    doc_path : str or path
        The SVG file; ``.svg`` is added where it is missing. For a folder (one
        that exists, or a path with a slash at its end) the file is
        ``<workflow_name>.svg`` in it. Missing folders are made.
    """

    def __init__(self, *leaves: Any, workflow_name: str, doc_path: str | os.PathLike[str]) -> None:
        super().__init__(*leaves, workflow_name=workflow_name)
        self.doc_path = doc_path

    def run(self) -> Path:
        """Render the workflow.

        Returns
        -------
        Path
            The SVG file.

        Raises
        ------
        MissingDependency
            If the package ``graphviz`` or the program ``dot`` is not installed.
        """
        svg = _render(self.to_digraph())
        path = self._svg_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(svg)
        return path

    def to_digraph(self) -> graphviz.Digraph:
        """Return the graph for Graphviz; its ``source`` is the text in the DOT language.

        Returns
        -------
        graphviz.Digraph
            Nodes are called by their place in the order of the run, and labelled with their names.

        Raises
        ------
        MissingDependency
            If the package ``graphviz`` is not installed.
        """
        digraph: graphviz.Digraph = _import_graphviz().Digraph(_printable(self.workflow_name))
        # A node's name cannot be its identifier: Graphviz takes "a:b" for the port b of a.
        ids = {node: str(place) for place, node in enumerate(self.ordered())}
        for node, id_ in ids.items():
            digraph.node(id_, _label(node.get_name()), shape="box" if node.storable else "ellipse")
            results = set(nodes_in((node.args, node.kwargs)))
            for parent in node.parents:
                digraph.edge(ids[parent], id_, style="solid" if parent in results else "dashed")
        return digraph

    def _svg_path(self) -> Path:
        path = Path(self.doc_path)
        if path.is_dir() or os.fspath(self.doc_path).endswith(("/", os.sep)):
            return path / (re.sub(r"[^\w.-]", "_", self.workflow_name) + ".svg")
        return path if path.suffix.lower() == ".svg" else path.with_name(path.name + ".svg")


def _import_graphviz() -> Any:
    try:
        import graphviz
    except ImportError as error:
        raise MissingDependency(
            "drawing a workflow needs the package graphviz: pip install functionfuse[graph]"
        ) from error
    return graphviz


def _render(digraph: graphviz.Digraph) -> bytes:
    try:
        svg: bytes = digraph.pipe(format="svg")
    except _import_graphviz().ExecutableNotFound as error:
        raise MissingDependency(
            "drawing a workflow needs Graphviz, whose program dot is not on the PATH: "
            "install your system's graphviz package (apt-get install graphviz, brew install graphviz)"
        ) from error
    return svg


def _label(name: str) -> str:
    # Graphviz reads entities of HTML and escapes with backslashes in labels.
    escaped: str = _import_graphviz().escape(_printable(name).replace("&", "&amp;"))
    return escaped


def _printable(name: str) -> str:
    # XML has no control characters, UTF-8 no lone surrogates.
    return name if name.isprintable() else ascii(name)
