"""Never silently stale: what is warned of, what is not, and what can be done about it."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import StaleResult, StaleResultWarning
from functionfuse.storage._places import LocalPlace
from functionfuse.storage.filestorage import FileStorage

CALLS: list[str] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """Return a new storage."""
    return FileStorage(str(tmp_path / "store"))


def step(name: str, *args: Any, func: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    """Return a node of that name, which notes its calls; a stand-in for the code of a user, who calls it anew."""

    def plain(*args: Any, **kwargs: Any) -> Any:
        return [*args, *kwargs.values()]

    return workflow(func or plain)(*args, **kwargs).set_name(name)


@workflow
def load(path: str, limit: int = 10) -> str:
    """Pretend to load something."""
    CALLS.append("load")
    return f"{path}:{limit}"


@workflow
def fit(data: Any, rate: Any = 0.1, *more: Any, **options: Any) -> Any:
    """Pretend to fit something."""
    CALLS.append("fit")
    return [data, rate, *more, *options.values()]


@workflow
def score(model: Any) -> Any:
    """Pretend to score something."""
    CALLS.append("score")
    return ["score", model]


def run(
    storage: FileStorage, *leaves: Any, recompute: str | None = None, on_stale: str = "warn", logged: str = ""
) -> tuple[Any, list[str]]:
    """Run a new workflow and return what it returned, and its warnings."""
    graph = LocalWorkflow(*leaves, workflow_name="flow", on_stale=on_stale)
    graph.set_storage(storage)
    graph.log_nodes(logged)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = graph.run(recompute=recompute)
    assert {warning.category for warning in caught} <= {StaleResultWarning}
    return result, [str(warning.message) for warning in caught]


def calls() -> list[str]:
    """Return what was called since this was last asked."""
    noted = CALLS.copy()
    CALLS.clear()
    return noted


def pipeline(path: str = "a.csv", rate: float = 0.1) -> Any:
    """Return the last of three nodes in a row."""
    return score(fit(load(path).set_name("load"), rate).set_name("fit")).set_name("score")


def changed(warned: list[str]) -> list[str]:
    """Return the names and reasons that the only warning gives."""
    (message,) = warned
    before, _, rest = message.partition("are not what their nodes would give now: ")
    assert before == "stored results of workflow 'flow' "
    reasons, _, remedy = rest.partition(". Compute them anew by ")
    assert remedy == "on_stale='recompute' or run(recompute=...), or accept them by on_stale='ignore'"
    return reasons.split("; ")


# What is warned of


def test_nothing_changed_nothing_is_said(storage: FileStorage) -> None:
    """A second run of the same graph, made anew, restores without a word, leaf alone or every node a leaf."""
    first, _ = run(storage, pipeline())
    assert run(storage, pipeline()) == (first, [])
    leaf = pipeline()
    assert run(storage, leaf, *leaf.parents, *leaf.parents[0].parents)[1] == []
    assert calls() == ["load", "fit", "score"]


def test_changed_code_is_warned_of(storage: FileStorage) -> None:
    """A result whose function does something else now is handed back with a warning that names the node."""
    run(storage, step("node", 1, func=lambda x: x + 1))
    result, warned = run(storage, step("node", 1, func=lambda x: x + 2))
    assert result == 2
    assert changed(warned) == ["'node': its function has changed"]


def test_a_renamed_function_is_the_same(storage: FileStorage) -> None:
    """The name of the function does not count, as long as node and code are the same."""

    def before(x: int) -> int:
        return x + 1

    def after(x: int) -> int:
        return x + 1

    run(storage, step("node", 1, func=before))
    assert run(storage, step("node", 1, func=after)) == (2, [])


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (fit("a", 0.1), fit("a", 0.2), "argument 'rate' was 0.1 and is 0.2"),
        (fit("a", 1), fit("b", 1), "argument 'data' was 'a' and is 'b'"),
        (fit("a", 1), fit("a", True), "argument 'rate' was 1 and is True"),
        (fit("a", rate=1), fit("a", rate=None), "argument 'rate' was 1 and is None"),
        (fit("a", 1, 2, 3), fit("a", 1, 2, 4), "argument '*3' was 3 and is 4"),
        (fit("a", loss="l1"), fit("a", loss="l2"), "argument 'loss' was 'l1' and is 'l2'"),
        (fit("a"), fit("a", 3), "argument 'rate' was not given and is 3"),
        (fit("a", loss="l1"), fit("a"), "argument 'loss' was 'l1' and is not given"),
    ],
)
def test_a_changed_argument_is_named(storage: FileStorage, before: Any, after: Any, reason: str) -> None:
    """The warning names the argument that changed, with its value then and now where these are short."""
    old, _ = run(storage, before.set_name("node"))
    result, warned = run(storage, after.set_name("node"))
    assert result == old
    assert changed(warned) == [f"'node': {reason}"]


def test_a_large_argument_is_named_without_its_value(storage: FileStorage) -> None:
    """Of a value that is no small scalar the warning shows the fingerprints."""
    run(storage, fit(list(range(100))).set_name("node"))
    _, warned = run(storage, fit(list(range(101))).set_name("node"))
    (reason,) = changed(warned)
    assert reason.startswith("'node': argument 'data' was xxh3:")
    assert reason.count("xxh3:") == 2


def test_the_argument_beside_a_container_of_nodes_is_named(storage: FileStorage) -> None:
    """Where the parents in a list are not read, the list does not pass for what has changed."""
    for rate, expected in ((1, []), (2, ["'node': argument 'rate' was 1 and is 2"])):
        node = fit([load("a").set_name("load"), {"k": load("b").set_name("more")["k":]}], rate).set_name("node")
        _, warned = run(storage, node)
        assert (changed(warned) if warned else []) == expected


@pytest.mark.parametrize(
    "value", [lambda load: load, lambda load: load[0], lambda load: [load], lambda load: {1: load[0]}]
)
def test_a_changed_ancestor_is_found_without_reading_it(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch, value: Callable[[Any], Any]
) -> None:
    """A stored leaf is known to be stale by what its ancestors would be computed from, and is the only blob read."""
    files: list[str] = []
    opened = LocalPlace.open
    monkeypatch.setattr(LocalPlace, "open", lambda self, folder, file: files.append(file) or opened(self, folder, file))
    for path, expected in (("a", 0), ("a", 0), ("b", 1)):
        leaf = score(fit(value(load(path).set_name("load"))).set_name("fit")).set_name("score")
        files.clear()
        result, warned = run(storage, leaf)
        assert len(warned) == expected
    assert result == ["score", [value("a:10") if value(0) != value else None, 0.1]]
    assert changed(warned) == ["'score': a function or an argument that it was computed from has changed"]
    assert files == ["score"]


def test_changed_code_of_an_ancestor_is_warned_of(storage: FileStorage) -> None:
    """A stored leaf warns when the function of an ancestor has changed."""
    run(storage, score(step("top", func=lambda: 1)).set_name("leaf"))
    result, warned = run(storage, score(step("top", func=lambda: 2)).set_name("leaf"))
    assert result == ["score", 1]
    assert changed(warned) == ["'leaf': a function or an argument that it was computed from has changed"]


def test_another_parent_is_warned_of(storage: FileStorage) -> None:
    """A leaf that is connected to another node, or to another item of one, is stale."""
    top = load("top").set_name("top")
    run(storage, score(top[0]).set_name("leaf"))
    for parent in (top, top[1], load("other").set_name("other")[0], "plain"):
        _, warned = run(storage, score(parent).set_name("leaf"))
        assert len(changed(warned)) == 1, parent


class Model:
    """An object with a state."""

    def __init__(self, size: int) -> None:
        self.size = size

    def grow(self, by: int) -> int:
        """Become larger."""
        self.size += by
        return self.size


class Other(Model):
    """The same with another method."""

    def grow(self, by: int) -> int:
        """Become smaller."""
        self.size -= by
        return self.size


@pytest.mark.parametrize(
    ("cls", "size", "by", "count"), [(Model, 2, 3, 1), (Model, 1, 4, 1), (Model, 1, 3, 2), (Other, 1, 3, 1)]
)
def test_an_object_that_would_be_another_is_warned_of(
    storage: FileStorage, cls: type, size: int, by: int, count: int
) -> None:
    """Arguments of the constructor and of earlier methods, their number and the class's code count for what follows."""

    def leaves(cls: type, size: int, by: int, count: int) -> Any:
        model = workflow(cls)(size).set_name("model")
        for number in range(count):
            model.grow(by).set_name(f"grow{number}")
        return score(model.grow(0).set_name("last")).set_name("leaf"), fit(model).set_name("whole")

    run(storage, *leaves(Model, 1, 3, 1), logged="whole")
    assert run(storage, *leaves(Model, 1, 3, 1), logged="whole") == run(storage, *leaves(Model, 1, 3, 1))[:1] + ([],)
    _, warned = run(storage, *leaves(cls, size, by, count), logged="whole")
    assert changed(warned) == ["'leaf': a function or an argument that it was computed from has changed"]
