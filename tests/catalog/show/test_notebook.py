"""What a notebook shows: storages, catalogs, nodes and workflows as HTML, and what help and tab completion say."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import pydoc
import socket
import typing
from collections.abc import Callable
from datetime import date, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pytest

from catalog import Catalog
from catalog.audit.export import Export
from catalog.retention.plan import Age
from catalog.show import html
from catalog.verify.report import Verification
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.baseworkflow import BaseWorkflow
from functionfuse.errors import NotRun
from functionfuse.storage import storage_factory
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.s3storage import S3FileStorage
from functionfuse.workflow import Node
from tests.storage.test_older_format import older

if TYPE_CHECKING:
    from s3proxy import Proxy
    from s3server import SeaweedServer

HOSTILE = "<script>alert('\"&amp;')</script>"
TAGS = {"div", "b", "code", "br", "span", "table", "thead", "tbody", "tr", "th", "td"}


class Page(HTMLParser):
    """Takes HTML apart, and fails on what is not closed, unknown, or more than a style."""

    def __init__(self, source: str | None) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        assert source is not None
        source.encode("utf-8")  # as the notebook's protocol sends it
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take an opening tag."""
        assert tag in TAGS
        assert {name for name, _ in attrs} <= {"style"}
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Take a closing tag."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Take text."""
        self.texts.append(data)
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        """All that can be read."""
        return " ".join(" ".join(self.texts).split())


def tree(root: Path) -> dict[str, int]:
    """Return all that is on disk below a folder, with its size."""
    return {str(path.relative_to(root)): path.lstat().st_size for path in root.rglob("*")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder of the storage."""
    return tmp_path / "storage"


@pytest.fixture
def storage(root: Path) -> FileStorage:
    """Return an empty storage."""
    return FileStorage(root)


@workflow
def load(path: str, rows: int = 3, *, options: object = None) -> list[int]:
    """Return numbers."""
    return list(range(rows))


@workflow
def mean(numbers: list[int], weights: object = None) -> float:
    """Return their mean."""
    return sum(numbers) / len(numbers)


# Storages and catalogs


def test_a_storage(storage: FileStorage, root: Path) -> None:
    """A storage shows where it is, its workflows with counts and sizes, and what was saved last."""
    for number in range(3):
        storage.save("first", f"task {number}", number)
    storage.save("second", "large", bytes(2_000_000))
    storage.list_tasks("first")
    storage.save("second", "last", "after the question")
    page = Page(storage._repr_html_())
    assert f"FileStorage {root}" in page.text
    assert "2 workflows, 5 results, 2.0 MB" in page.text
    assert [row[:3] for row in page.rows if row[0] == "second"] == [["second", "2", "2.0 MB"]]
    assert [row[:2] for row in page.rows if row[0] == "first"] == [["first", "3"]]
    assert [row[:3] for row in page.rows if row[0] == "last"] == [["last", "second", "str"]]
    assert Page(Catalog.open(root)._repr_html_()).text == page.text.replace("FileStorage", "Catalog", 1)


def test_looking_creates_nothing(storage: FileStorage, root: Path) -> None:
    """Neither a storage without an index, nor a folder that is no storage, nor one that is not there is changed."""
    assert "nothing saved yet" in Page(storage._repr_html_()).text
    assert "nothing saved yet" in Page(Catalog.open(root)._repr_html_()).text
    assert not root.exists()
    (root / "old").mkdir(parents=True)
    (root / "old" / "task").write_bytes(older(1))
    before = tree(root)
    assert ["old", "1"] in Page(storage._repr_html_()).rows
    assert tree(root) == before
    storage.save("new", "a", 1)
    storage.save("new", "b", 1)
    before = tree(root)
    page = Page(storage._repr_html_())
    assert ["new", "2"] in page.rows
    assert "not been asked yet" in page.text
    assert tree(root) == before


def test_many_workflows(storage: FileStorage) -> None:
    """Ten workflows are shown, the last ones first, and how many there are besides."""
    for number in range(13):
        storage.save(f"workflow {number:02d}", "task", number)
        os.utime(Path(storage.catalog.path, f"workflow {number:02d}"), (number, number))
    shown = [[f"workflow {number:02d}"] for number in range(12, 2, -1)]
    counted = Page(storage._repr_html_())
    storage.catalog.refresh()
    asked = Page(storage._repr_html_())
    for page in (counted, asked):
        assert [row[:1] for row in page.rows[1:11]] == shown
        assert "and 3 more" in page.text


@pytest.mark.parametrize("asked", [False, True])
def test_hostile_names(storage: FileStorage, asked: bool) -> None:
    """Names are shown as text, whatever they contain, and long ones are cut."""
    for name in (HOSTILE, "line\nbreak", "caf\udce9", "right\u202eleft", "x" * 300, "\ud800"):
        storage.save(name, name, 1)
    if asked:
        storage.catalog.refresh()
    names = {row[0] for row in Page(storage._repr_html_()).rows}
    assert {HOSTILE, "line\\nbreak", "caf\\udce9", "right\\u202eleft", "x" * 47 + "\u2026", "\\ud800"} <= names


@pytest.mark.parametrize("damage", ["newer", "file"])
def test_a_catalog_that_cannot_be_asked(storage: FileStorage, root: Path, damage: str) -> None:
    """The plain `repr` is shown, and no exception."""
    storage.save("workflow", "task", 1)
    storage.catalog.refresh()
    identity = root / ".catalog" / "storage.json"
    identity.write_text('{"uuid": "x", "format": 99}')
    if damage == "file":
        root.rename(root.with_name("moved"))
        root.write_text("a file")
    assert storage._repr_html_() is None
    assert storage.catalog._repr_html_() is None
    assert repr(storage) == f"FileStorage({str(root)!r})"


# Remote storages


@pytest.mark.parametrize("asked", [False, True])
def test_a_remote_storage(proxy: Proxy, s3server: SeaweedServer, asked: bool) -> None:
    """To show a storage in a bucket requests nothing: what the catalog found when it was last asked is shown."""
    storage = storage_factory(s3server.endpoint.at(proxy.url).config(s3server.endpoint.prefix()))
    assert isinstance(storage, S3FileStorage)
    storage.save("weather", "day", 12.9)
    if asked:
        storage.catalog.refresh()
        storage.save("weather", "night", 3.1)
    before = len(proxy.requests)
    page, catalog = Page(storage._repr_html_()), Page(storage.catalog._repr_html_())
    assert len(proxy.requests) == before
    assert catalog.text == page.text.replace("S3FileStorage", "Catalog", 1)
    assert f"S3FileStorage {storage.catalog.path}" in page.text
    if asked:
        assert "when the catalog was last asked: 1 workflow, 1 result" in page.text
        assert ["weather", "1"] in [row[:2] for row in page.rows]
    else:
        assert "the catalog has not been asked yet" in page.text
        assert page.rows == []


def test_a_remote_storage_that_cannot_be_reached() -> None:
    """It is shown all the same: nobody is asked."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        options = {"path": "bucket/prefix", "s3fs": {"endpoint_url": address, "key": "k", "secret": "s"}}
        page = Page(storage_factory({"kind": "S3", "options": options})._repr_html_())
        assert "s3://bucket/prefix" in page.text
        with pytest.raises(BlockingIOError):
            server.accept()


# Nodes and workflows


def test_a_node(storage: FileStorage) -> None:
    """A node shows its name, function, arguments by name, parents, and whether there is a result."""
    parent = load("data.csv", rows=5, options={"sep": ";"}).set_name("numbers")
    node = mean(parent, weights=bytearray(3))
    page = Page(node._repr_html_())
    assert "not run yet" in page.text
    assert page.rows == [
        ["function", f"{__name__}.mean"],
        ["numbers", "<Node 'numbers'>"],
        ["weights", "<bytearray of 3>"],
        ["parents", "numbers"],
    ]
    assert ["options", "{'sep': ';'}"] in Page(parent._repr_html_()).rows
    graph = LocalWorkflow(node, workflow_name="kept")
    graph.set_storage(storage)
    graph.run()
    assert "has a result" in Page(node._repr_html_()).text
    storage.remove_task("kept", node.get_name())
    assert "no result" in Page(node._repr_html_()).text


def test_a_node_that_failed() -> None:
    """After a run that failed, what was not computed has no result, and looking computes nothing."""
    calls: list[int] = []

    @workflow
    def fail() -> None:
        calls.append(1)
        raise ZeroDivisionError

    node = fail()
    graph = LocalWorkflow(node, workflow_name="failing")
    with pytest.raises(ZeroDivisionError):
        graph.run()
    assert "no result" in Page(node._repr_html_()).text
    assert ["fail" in row[0] and row[3] for row in Page(graph._repr_html_()).rows] == [False, "no result"]
    assert calls == [1]


def test_a_stand_in_is_its_constructor() -> None:
    """A stand-in shows its constructor's node; asking for pictures that a class can draw makes no nodes."""

    @workflow
    class Drawn:
        def draw(self) -> None:
            """Do nothing."""

        def _repr_html_(self) -> str:
            return "the object's own"

        def _repr_png_(self) -> bytes:
            return b""

    stand_in = Drawn()
    assert f"Node {stand_in.get_name()}" in Page(stand_in._repr_html_()).text
    for name in ("_repr_png_", "_repr_mimebundle_", "_ipython_display_", "_ipython_canary_method_should_not_exist_"):
        assert not hasattr(stand_in, name)
    assert stand_in.children == []
    with pytest.raises(NotRun):
        _ = stand_in.draw().result


def test_a_workflow() -> None:
    """A workflow shows its name, how many nodes it has, and the first of them, parents first."""
    numbers = load("data.csv").set_name("numbers")
    graph = LocalWorkflow(*[mean(numbers).set_name(f"mean {n}") for n in range(14)], workflow_name="means")
    page = Page(graph._repr_html_())
    assert "LocalWorkflow means" in page.text
    assert "15 nodes, 14 leaves" in page.text
    assert page.rows[1] == ["numbers", f"{__name__}.load", "", "not run yet"]
    assert page.rows[2] == ["mean 0", f"{__name__}.mean", "numbers", "not run yet"]
    assert "and 5 more" in page.text
    assert len(page.rows) == 11
    assert repr(graph) == "<LocalWorkflow 'means'>"


def test_hostile_nodes() -> None:
    """Names and arguments of nodes and workflows are shown as text."""
    node = load(HOSTILE, rows=b"<b>").set_name(f"{HOSTILE} \ud800")
    page = Page(node._repr_html_())
    assert f"{HOSTILE} \\ud800" in page.text
    assert ["path", repr(HOSTILE)] in page.rows
    assert HOSTILE in Page(LocalWorkflow(node, workflow_name=HOSTILE)._repr_html_()).text


class Shy:
    """Cannot be shown."""

    def __len__(self) -> int:
        """Refuse."""
        raise RuntimeError("none of your business")


def test_what_cannot_be_shown() -> None:
    """A node whose argument raises, and a graph that cannot be run, are shown by their plain `repr`."""
    assert load(Shy())._repr_html_() is None
    twins = [load(1).set_name("twin"), load(2).set_name("twin")]
    assert LocalWorkflow(*twins, workflow_name="twins")._repr_html_() is None
    assert ["0", "1"] in Page(workflow(max)(1, 2)._repr_html_()).rows


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1.0 kB"),
        (99_600, "100 kB"),
        (999_600, "1.0 MB"),
        (10**19, "10000 PB"),
    ],
)
def test_sizes(count: int, shown: str) -> None:
    """Bytes are shown in the unit that a person reads."""
    assert html.size(count) == shown


# Help, tab completion, types


def test_tab_completion(storage: FileStorage) -> None:
    """A storage and its catalog offer what is for their users: no private names, nothing that only backends call."""
    offered = dir(storage)
    assert [name for name in offered + dir(storage.catalog) if name.startswith("_")] == []
    assert {"save", "read_task", "list_tasks", "remove_task", "remove_workflow", "catalog", "always_read"} <= {*offered}
    assert {"keep", "restore", "footer", "stored", "note"}.isdisjoint(offered)
    assert {"tasks", "names", "sql", "export", "refresh", "path"} <= {*dir(storage.catalog)}
    assert [name for name in offered if not hasattr(storage, name)] == []


def test_help(storage: FileStorage) -> None:
    """`help(storage)` begins with what it is and an example, and has every public method with its first sentence."""
    text = pydoc.plain(pydoc.render_doc(storage))
    assert "Keeps each result as a file" in text
    assert '>>> storage.save("weather", "mean", 12.9)' in text
    for name in dir(storage):
        member = inspect.getattr_static(type(storage), name, None)
        assert member is None or inspect.getdoc(member).splitlines()[0] in text


def test_examples_in_docstrings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples in docstrings are true; the catalog's is about what the storages' have saved."""
    monkeypatch.chdir(tmp_path)
    for name in ("workflow", "storage.base", "storage.filestorage"):
        assert doctest.testmod(importlib.import_module(f"functionfuse.{name}")).failed == 0
    assert doctest.testmod(importlib.import_module("catalog.catalog")).failed == 0


def public_functions(cls: type) -> list[Callable[..., Any]]:
    """Return a class's public methods and the getters of its properties, inherited ones too."""
    members = [inspect.getattr_static(cls, name) for name in dir(cls) if name[0] != "_"] + [cls.__init__]
    functions = [member.fget if isinstance(member, property) else member for member in members]
    return [getattr(function, "__func__", function) for function in functions if callable(function)]


@pytest.mark.parametrize("cls", [FileStorage, Catalog, Node, BaseWorkflow, LocalWorkflow])
def test_types(cls: type) -> None:
    """Every parameter and result of a public method has a type, which can be resolved."""
    known = {"Catalog": Catalog, "duckdb": duckdb, "date": date, "datetime": datetime}
    known |= {"Age": Age, "Export": Export, "Verification": Verification, "numpy": np}
    untyped = []
    for function in public_functions(cls):
        hints = typing.get_type_hints(function, localns=known)
        expected = {*list(inspect.signature(function).parameters)[not isinstance(function, staticmethod) :], "return"}
        untyped += [(function.__qualname__, name) for name in sorted(expected - hints.keys())]
    assert untyped == []
