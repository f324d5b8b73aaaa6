"""Drawing a workflow."""

import shutil
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.graphback import GraphWorkflow
from functionfuse.errors import MissingDependency

pytest.importorskip("graphviz")
needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="the program dot is not installed")

SVG = "{http://www.w3.org/2000/svg}"


@workflow
def make(*args: Any) -> Any:
    """Never runs."""
    raise AssertionError("drawing must not run a node")


@workflow
class State:
    """An object."""

    def set(self, value: Any) -> None:
        """Never runs."""
        raise AssertionError("drawing must not run a node")


def drawing(*leaves: Any, path: Path, name: str = "flow") -> Any:
    """Draw the leaves and return the root of the SVG."""
    return ElementTree.parse(GraphWorkflow(*leaves, workflow_name=name, doc_path=path).run()).getroot()


def texts(svg: Any) -> list[str]:
    """Return the labels in the drawing."""
    return sorted(element.text for element in svg.iter(SVG + "text"))


def groups(svg: Any, kind: str) -> list[Any]:
    """Return the groups of the drawing that are nodes or edges."""
    return [group for group in svg.iter(SVG + "g") if group.get("class") == kind]


@needs_dot
def test_every_node_and_edge_is_drawn_and_nothing_runs(tmp_path: Path) -> None:
    """The SVG has a labelled shape for each node and an arrow for each parent of each node."""
    a = make().set_name("a")
    b = make(a, [a]).set_name("b")
    svg = drawing(make(a[0], {"k": b}).set_name("c"), path=tmp_path / "flow.svg")
    assert texts(svg) == ["a", "b", "c"]
    edges = sorted(edge.find(SVG + "title").text for edge in groups(svg, "edge"))
    assert edges == ["0->1", "0->2", "1->2"]


@needs_dot
def test_classes_are_drawn_apart_and_order_is_dashed(tmp_path: Path) -> None:
    """Functions are boxes, constructors and methods ellipses; an arrow that only means order is dashed."""
    state = State().set_name("state")
    state.set(1).set_name("first")
    last = state.set(make().set_name("value")).set_name("second")
    svg = drawing(last, path=tmp_path / "flow.svg")
    shapes = {
        node.find(SVG + "text").text: "ellipse" if node.find(SVG + "ellipse") is not None else "box"
        for node in groups(svg, "node")
    }
    dashed = [edge for edge in groups(svg, "edge") if edge.find(SVG + "path").get("stroke-dasharray")]
    assert shapes == {"state": "ellipse", "first": "ellipse", "second": "ellipse", "value": "box"}
    assert [edge.find(SVG + "title").text for edge in dashed] == ["1->3"]


@needs_dot
def test_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    """Names with the special characters of DOT and XML appear unchanged; unprintable ones are escaped."""
    plain = ["a:b:c", 'quote " and \\n backslash', "<b>&amp;</b>", "<b>", "höhe λ", "%3|{x}"]
    odd = ["nul\x00", "lone \ud800", "two\nlines"]
    nodes = [make().set_name(name) for name in plain + odd]
    svg = drawing(make(*nodes).set_name("leaf"), path=tmp_path / "flow.svg", name="flow:1 \ud800")
    assert {text.replace("\xa0", " ") for text in texts(svg)} == {*plain, *map(ascii, odd), "leaf"}


@needs_dot
@pytest.mark.parametrize(
    ("doc_path", "expected"),
    [
        ("flow.svg", "flow.svg"),
        ("flow.SVG", "flow.SVG"),
        ("flow", "flow.svg"),
        ("v1.2", "v1.2.svg"),
        ("new/deep/flow", "new/deep/flow.svg"),
        ("there", "there/my_flow.svg"),
        ("new/", "new/my_flow.svg"),
    ],
)
def test_the_drawing_is_where_it_was_asked_for(tmp_path: Path, doc_path: str, expected: str) -> None:
    """`doc_path` is the file, with .svg added where it is missing, or a folder; `run` returns the file's path."""
    (tmp_path / "there").mkdir()
    path = GraphWorkflow(make(), workflow_name="my/flow", doc_path=f"{tmp_path}/{doc_path}").run()
    assert path == tmp_path / expected
    assert ElementTree.parse(path).getroot().tag == SVG + "svg"
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


def test_the_dot_source_needs_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`to_digraph` gives the DOT source also where the program dot is missing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    digraph = GraphWorkflow(make(make()), workflow_name="w", doc_path=tmp_path).to_digraph()
    assert "0 -> 1" in digraph.source


def test_a_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the program dot `run` raises MissingDependency, which says what to install, and writes nothing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match=r"program dot is not on the PATH.*install"):
        GraphWorkflow(make(), workflow_name="w", doc_path=tmp_path / "new" / "flow").run()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package graphviz `run` raises MissingDependency, which names the extra to install."""
    monkeypatch.setitem(sys.modules, "graphviz", None)
    with pytest.raises(MissingDependency, match=r"pip install functionfuse\[graph\]"):
        GraphWorkflow(make(), workflow_name="w", doc_path=tmp_path / "flow").run()
