"""Never silently stale: what is warned of, what is not, and what can be done about it."""

from __future__ import annotations

import datetime
import enum
import hashlib
import itertools
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functionfuse import workflow
from functionfuse.backends._stale import stale_message
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import StaleResult, StaleResultWarning
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


_watched: list[tuple[str, list[str]]] = []


def _note_open(event: str, args: tuple[Any, ...]) -> None:
    if event == "open" and _watched and isinstance(args[0], str):
        folder, name = os.path.split(args[0])
        if folder == _watched[-1][0]:
            _watched[-1][1].append(name)


sys.addaudithook(_note_open)


@contextmanager
def opened_below(folder: Path) -> Iterator[list[str]]:
    """Return the list of the files that are opened in a folder, as the interpreter itself reports them."""
    _watched.append((str(folder), []))
    yield _watched[-1][1]
    _watched.pop()


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
        (("a", 0.1), ("a", 0.2), "argument 'rate' was 0.1 and is 0.2"),
        (("a", 1), ("b", 1), "argument 'data' was 'a' and is 'b'"),
        (("a", 1), ("a", True), "argument 'rate' was 1 and is True"),
        (("a", {"rate": 1}), ("a", {"rate": None}), "argument 'rate' was 1 and is None"),
        (("a", 1, 2, 3), ("a", 1, 2, 4), "argument '*3' was 3 and is 4"),
        (("a", {"loss": "l1"}), ("a", {"loss": "l2"}), "argument 'loss' was 'l1' and is 'l2'"),
        (("a",), ("a", 3), "argument 'rate' was not given and is 3"),
        (("a", {"loss": "l1"}), ("a",), "argument 'loss' was 'l1' and is not given"),
        (("a", 1), ("b", 2), "argument 'data' was 'a' and is 'b', argument 'rate' was 1 and is 2"),
        (
            ("a", 1, 5, {"loss": 1}),
            ("b", 2, 6, {"cost": 1}),
            "argument '*2' was 5 and is 6, argument 'cost' was not given and is 1, argument 'data' was 'a' and is 'b', "
            "argument 'loss' was 1 and is not given, argument 'rate' was 1 and is 2",
        ),
    ],
)
def test_a_changed_argument_is_named(storage: FileStorage, before: Any, after: Any, reason: str) -> None:
    """The warning names the argument that changed, with its value then and now where these are short."""

    def node(*args: Any) -> Any:
        kwargs = args[-1] if isinstance(args[-1], dict) else {}
        return fit(*args[: len(args) - bool(kwargs)], **kwargs).set_name("node")

    old, _ = run(storage, node(*before))
    result, warned = run(storage, node(*after))
    assert result == old
    assert changed(warned) == [f"'node': {reason}"]


class Loud:
    """Calls attention to itself when it is shown."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __repr__(self) -> str:
        raise AssertionError("an argument of a class of one's own was shown")


class Color(enum.Enum):
    """Something with names."""

    RED = 1


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ([1], [1, 2], "[1, 2]"),
        (1, {"a": (1.5, None), "b": b"c"}, "{'a': (1.5, None), 'b': b'c'}"),
        ("a", Path("b"), "PosixPath('b')"),
        ([1], datetime.date(2026, 12, 1), "datetime.date(2026, 12, 1)"),
        (1, {2}, "{2}"),
        (1, [Color.RED], "[Color.RED]"),
        (1, np.float32(0.5), repr(np.float32(0.5))),
        ([1], list(range(100)), "xxh3:"),
        ([1], [[[[[[[[[1]]]]]]]]], "xxh3:"),
        ("a", "b" * 100, "xxh3:"),
        (1, np.arange(3), "xxh3:"),
        (Loud(1), Loud(2), "py3"),
        (1, [Loud(2)], "py3"),
        (1, len, "xxh3:"),
    ],
)
def test_a_value_is_shown_where_it_is_short_and_plain(
    storage: FileStorage, before: Any, after: Any, shown: str
) -> None:
    """Of what it is now, the warning shows the value if it is short; of all else, and of what it was, fingerprints."""
    run(storage, fit(before).set_name("node"))
    _, warned = run(storage, fit(after).set_name("node"))
    (reason,) = changed(warned)
    was, _, now = reason.removeprefix("'node': argument 'data' was ").partition(" and is ")
    assert was == repr(before) if isinstance(before, (int, str)) else was.startswith(("xxh3:", "py3"))
    assert now.startswith(shown) if shown in ("xxh3:", "py3") else now == shown


def test_code_and_arguments_are_named_together(storage: FileStorage) -> None:
    """Where both have changed, both are named."""
    run(storage, step("node", 1, func=lambda x: x))
    _, warned = run(storage, step("node", 2, func=lambda x: -x))
    assert changed(warned) == ["'node': its function has changed, argument 'x' was 1 and is 2"]


def told(storage: FileStorage, before: Any, after: Any) -> list[str]:
    """Return why the second of two nodes is not fresh where the result of the first is stored; nothing if it is."""
    run(storage, before.set_name("node"), recompute="node")
    _, warned = run(storage, after.set_name("node"))
    return changed(warned) if warned else []


@pytest.mark.parametrize(
    "spelled",
    [
        lambda: fit("a", 1, loss=2),
        lambda: fit("a", rate=1, loss=2),
        lambda: fit(data="a", rate=1, loss=2),
        lambda: fit(loss=2, rate=1, data="a"),
    ],
    ids=["by position", "one by name", "all by name", "in another order"],
)
def test_a_call_is_the_same_however_it_is_spelled(storage: FileStorage, spelled: Callable[[], Any]) -> None:
    """What is passed by name or by position is the same call, of a node and of its ancestors."""
    assert told(storage, fit("a", 1, loss=2), spelled()) == []
    run(storage, score(fit("a", 1, loss=2).set_name("top")).set_name("below"))
    storage.remove_task("flow", "top")
    assert run(storage, score(model=spelled().set_name("top")).set_name("below"))[1] == []


def test_what_looks_like_the_same_call_and_is_not(storage: FileStorage) -> None:
    """A name that is also a keyword's stays apart from a parameter that has no name, and a default from a value."""

    @workflow
    def only(a: int, b: int = 2, /, c: int = 3, *more: int, d: int = 4, **named: int) -> Any:
        return [a, b, c, more, d, named]

    assert told(storage, only(1, 5), only(1, b=5)) != []
    assert told(storage, only(1, c=5), only(1, 5)) != []
    assert told(storage, only(1, 2, 5), only(1, 2, c=5)) == []
    assert told(storage, only(1, 2, 3, 4), only(1, 2, 3, d=4)) != []
    assert told(storage, only(1), only(1, 2)) == ["'node': argument 'b' was not given and is 2"]


def test_no_ancestors_are_blamed_where_there_are_none(storage: FileStorage) -> None:
    """What cannot be compared is named itself, if it was a node's result; what is unknown now is no alarm."""
    lock = threading.Lock()
    top = load("b").set_name("top")
    assert told(storage, score(1), score([1, lock])) == []
    storage.remove_task("flow", "node")
    assert told(storage, score(top), score(3)) == ["'node': argument 'model' was the result of a node and is 3"]
    assert told(storage, score(3), score(top)) == ["'node': argument 'model' was 3 and is the result of 'top'"]


def test_another_node_is_named(storage: FileStorage) -> None:
    """An argument that is the result of another node than it was is named with that node, read or not."""
    top, other = load("a").set_name("top"), load("b").set_name("other")
    reason = "'node': argument 'model' is the result of 'other', and was that of another node"
    assert told(storage, score(top), score(other)) == [reason]
    run(storage, score(top).set_name("node"), recompute="node")
    _, warned = run(storage, score(other).set_name("node"), other)
    assert changed(warned) == [reason]


def test_the_argument_beside_a_container_of_nodes_is_named(storage: FileStorage) -> None:
    """Where the parents in a list are not read, the list does not pass for what has changed."""
    for rate, expected in ((1, []), (2, ["'node': argument 'rate' was 1 and is 2"])):
        node = fit([load("a").set_name("load"), {"k": load("b").set_name("more")[0]}], rate).set_name("node")
        _, warned = run(storage, node)
        assert (changed(warned) if warned else []) == expected


@pytest.mark.parametrize(
    "wrap",
    [lambda node: node, lambda node: node[0], lambda node: [node], lambda node: {1: (node[0],)}],
    ids=["node", "item", "in a list", "item in a tuple in a dict"],
)
def test_a_changed_ancestor_is_found_without_reading_it(
    storage: FileStorage, tmp_path: Path, wrap: Callable[[Any], Any]
) -> None:
    """A stored leaf is known to be stale by what its ancestors would be computed from, and is the only blob read."""

    def leaf(path: str) -> Any:
        return score(fit(wrap(load(path).set_name("load"))).set_name("fit")).set_name("score")

    first, _ = run(storage, leaf("a"))
    with opened_below(tmp_path / "store" / "flow") as files:
        assert run(storage, leaf("a")) == (first, [])
        result, warned = run(storage, leaf("b"))
    assert result == first
    assert changed(warned) == ["'score': a function or an argument that it was computed from has changed"]
    assert files == ["score", "score"]


def test_changed_code_of_an_ancestor_is_warned_of(storage: FileStorage) -> None:
    """A stored leaf warns when the function of an ancestor has changed."""
    run(storage, score(step("top", func=lambda: 1)).set_name("leaf"))
    result, warned = run(storage, score(step("top", func=lambda: 2)).set_name("leaf"))
    assert result == ["score", 1]
    assert changed(warned) == ["'leaf': a function or an argument that it was computed from has changed"]


def test_a_changed_keyword_of_an_ancestor_is_warned_of(storage: FileStorage) -> None:
    """The same value by another keyword is another argument."""
    run(storage, score(fit("a", loss=1).set_name("fit")).set_name("leaf"))
    _, warned = run(storage, score(fit("a", cost=1).set_name("fit")).set_name("leaf"))
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
        return fit(model).set_name("object"), score(model.grow(0).set_name("last")).set_name("method")

    run(storage, *leaves(Model, 1, 3, 1))
    assert run(storage, *leaves(Model, 1, 3, 1))[1] == []
    _, warned = run(storage, *leaves(cls, size, by, count))
    reason = "a function or an argument that it was computed from has changed"
    assert changed(warned) == [f"'object', 'method': {reason}"]


def test_an_ancestor_beside_something_unknown_is_warned_of(storage: FileStorage) -> None:
    """What has no fingerprint hides no node that is with it in a container."""

    @workflow
    def source_of(parts: dict[str, Any]) -> Any:
        return parts["source"]

    def leaf(source: str) -> Any:
        return source_of({"source": load(source).set_name("top"), "lock": threading.Lock()}).set_name("leaf")

    run(storage, leaf("a"))
    assert run(storage, leaf("a"))[1] == []
    _, warned = run(storage, leaf("b"))
    assert changed(warned) == ["'leaf': a function or an argument that it was computed from has changed"]


@pytest.mark.parametrize("turned", [False, True])
def test_a_parent_that_was_computed_anew_is_warned_of(storage: FileStorage, turned: bool) -> None:
    """A result next to a parent that is not the one it was computed from is stale, in whatever order both are read."""

    def pair() -> tuple[Any, Any]:
        top = load("a").set_name("top")
        return (score(top).set_name("leaf"), top) if turned else (top, score(top).set_name("leaf"))

    run(storage, *pair())
    run(storage, load("a").set_name("top"), recompute="top")
    _, warned = run(storage, *pair())
    assert changed(warned) == ["'leaf': argument 'model' has been computed anew since"]
    assert run(storage, *pair(), recompute="leaf")[1] == []
    assert run(storage, *pair())[1] == []


def test_a_parent_that_a_new_leaf_makes_anew_is_warned_of(storage: FileStorage) -> None:
    """Where a deleted parent is computed again, for another leaf, the old leaf beside it is stale."""
    top = load("a").set_name("top")
    old = score(top).set_name("old")
    run(storage, old)
    storage.remove_task("flow", "top")
    assert run(storage, old)[1] == []
    _, warned = run(storage, old, score(top).set_name("new"))
    assert changed(warned) == ["'old': argument 'model' has been computed anew since"]


def test_what_is_computed_from_a_stale_result_stays_stale(storage: FileStorage) -> None:
    """A result that was computed from a stale one is warned of in later runs, too, until it is computed anew."""
    run(storage, load("a").set_name("load"))
    _, warned = run(storage, pipeline("b"))
    assert changed(warned) == ["'load': argument 'path' was 'a' and is 'b'"]
    for _ in range(2):
        result, warned = run(storage, pipeline("b"))
        assert result == ["score", ["a:10", 0.1]]
        assert changed(warned) == ["'score': a function or an argument that it was computed from has changed"]
    assert run(storage, pipeline("a")) == (result, [])
    assert run(storage, pipeline("b"), on_stale="recompute") == (["score", ["b:10", 0.1]], [])
    assert run(storage, pipeline("b"))[1] == []


@pytest.mark.parametrize(
    "through",
    [lambda node: [node], lambda node: fit(node).set_name("logged"), lambda node: workflow(Model)(node).grow(1)],
    ids=["a list", "a node that is not stored", "an object"],
)
def test_staleness_passes_through_what_is_not_stored(storage: FileStorage, through: Callable[[Any], Any]) -> None:
    """A stale result that was accepted is not forgotten in what is computed from it on the way to a stored result."""

    def source(value: int) -> Any:
        return step("source", value, func=lambda value: value)

    run(storage, source(1))
    assert run(storage, score(through(source(2))).set_name("leaf"), logged="logged", on_stale="ignore")[1] == []
    _, warned = run(storage, score(through(source(2))).set_name("leaf"), logged="logged")
    assert changed(warned) == ["'leaf': a function or an argument that it was computed from has changed"]
    assert run(storage, score(through(source(1))).set_name("leaf"), logged="logged")[1] == []


def test_one_warning_a_run_names_all(storage: FileStorage) -> None:
    """All stale results of a run are named in one warning, again in every run, and what is fresh is not named."""

    def leaves(x: int) -> list[Any]:
        return [fit("data", x).set_name("first"), score(x).set_name("second"), score("same").set_name("fresh")]

    run(storage, *leaves(1))
    for _ in range(2):
        _, warned = run(storage, *leaves(2))
        reasons = ["'first': argument 'rate' was 1 and is 2", "'second': argument 'model' was 1 and is 2"]
        assert changed(warned) == reasons


def test_the_warning_points_at_the_call_of_run(storage: FileStorage) -> None:
    """The warning stands at the line of the user's that called `run`."""
    run(storage, score(1).set_name("leaf"))
    graph = LocalWorkflow(score(2).set_name("leaf"), workflow_name="flow")
    graph.set_storage(storage)
    with pytest.warns(StaleResultWarning, match="'leaf': argument 'model' was 1 and is 2") as caught:
        graph.run()
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]


def stale_workflow(storage: FileStorage, count: int = 1) -> LocalWorkflow:
    """Return a workflow whose results are stored and stale."""
    for rate in (1, 2):
        leaves = [score(rate).set_name(f"leaf {number}") for number in range(count)]
        graph = LocalWorkflow(*leaves, workflow_name="flow", on_stale="warn")
        graph.set_storage(storage)
        if rate == 1:
            graph.run()
    return graph


@pytest.mark.parametrize("action", ["default", "module", "always"])
def test_every_run_warns(storage: FileStorage, action: Any) -> None:
    """A loop that hands a stale result back warns each time, whatever Python has shown before."""
    graph = stale_workflow(storage)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)
        for number in range(3):
            graph.run()
            assert len(caught) == number + 1


@pytest.mark.parametrize(("action", "shown"), [("ignore", 0), ("once", 1)])
def test_filters_of_the_warning_count(storage: FileStorage, action: Any, shown: int) -> None:
    """Who does not want to hear of stale results, or only once, does not, also by a filter for the module that runs."""
    graph = stale_workflow(storage)
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings(action, category=StaleResultWarning, module=__name__)
        for _ in range(3):
            graph.run()
    assert len(caught) == shown


def test_many_stale_results_are_told_of_briefly(storage: FileStorage) -> None:
    """Results that are stale for one reason are one item of the warning, which names the first ones and counts all."""
    graph = stale_workflow(storage, 2_000)
    with pytest.warns(StaleResultWarning) as caught:
        graph.run()
    names = ", ".join(f"'leaf {number}'" for number in range(5))
    assert changed([str(caught[0].message)]) == [f"{names} and 1,995 more: argument 'model' was 1 and is 2"]


def test_many_reasons_are_told_of_briefly() -> None:
    """Ten thousand results with a reason and a long name each make a short text, the commonest reason first."""
    stale = {f"{number} {'x' * 5_000}": f"reason {number} {'y' * 5_000}" for number in range(10_000)}
    message = stale_message("w" * 5_000, {**stale, "a": "the same", "b": "the same"})
    assert len(message) < 5_000
    assert message.partition("give now: ")[2].startswith("'a', 'b': the same; '0 xxx")
    assert "; 9,996 more, for other reasons. Compute them anew" in message


def test_the_warning_can_be_an_error(storage: FileStorage) -> None:
    """Where warnings are errors, the run raises StaleResultWarning, after all results are stored."""
    run(storage, score(1).set_name("stale"))
    graph = LocalWorkflow(score(2).set_name("stale"), load("a").set_name("new"), workflow_name="flow")
    graph.set_storage(storage)
    with pytest.raises(StaleResultWarning):  # as the settings of pytest have it
        graph.run()
    assert "new" in storage.stored("flow")


def test_a_warning_takes_no_failures_place(storage: FileStorage) -> None:
    """In a run that fails the caller gets the node's exception, though a stale result was used."""
    run(storage, score(1).set_name("stale"))

    def fail(value: Any) -> None:
        raise RuntimeError("of the node")

    graph = LocalWorkflow(step("fails", score(2).set_name("stale"), func=fail), workflow_name="flow")
    graph.set_storage(storage)
    with pytest.raises(RuntimeError, match="of the node"):  # and no warning, which would be an error here
        graph.run()


def test_only_what_is_handed_on_is_warned_of(storage: FileStorage) -> None:
    """A stale result that the run neither needs nor computes anew is not spoken of."""
    run(storage, pipeline("a"))
    storage.remove_task("flow", "score")
    storage.remove_task("flow", "fit")
    assert changed(run(storage, pipeline("b"))[1]) == ["'load': argument 'path' was 'a' and is 'b'"]
    assert run(storage, pipeline("c"), recompute="load") == (["score", ["c:10", 0.1]], [])


# What is not warned of


class NoFingerprint:
    """A value that cannot be taken apart, but pickled: different each time."""

    def __init__(self) -> None:
        self.key = os.urandom(8)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if sys._getframe(1).f_globals["__name__"].startswith("functionfuse.fingerprint"):
            raise TypeError("no fingerprint of this")
        return NoFingerprint, ()


@pytest.mark.parametrize(
    "make",
    [threading.Lock, lambda: (x for x in [1]), NoFingerprint, lambda: [threading.Lock()]],
    ids=["lock", "generator", "object", "in a list"],
)
def test_an_unknown_argument_is_recorded_as_unknown_and_not_warned_of(
    storage: FileStorage, make: Callable[[], Any]
) -> None:
    """An argument without a fingerprint is null in `inputs`, and another one of its kind raises no alarm."""

    def count(unknown: Any, known: Any) -> Any:
        return known

    for known, expected in ((1, []), (1, []), (2, ["'node': argument 'known' was 1 and is 2"])):
        _, warned = run(storage, score(step("node", make(), known, func=count)).set_name("leaf"))
        assert len(warned) == len(expected)
        _, warned = run(storage, step("node", make(), known, func=count))
        assert (changed(warned) if warned else []) == expected
    footer = storage.footer("flow", "node")
    assert footer is not None
    assert footer.record.inputs == {"unknown": None, "known": "1"}


def test_a_result_of_another_python_is_not_warned_of(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytecode of another Python version cannot be compared: it raises no alarm, a changed argument does."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("functionfuse.fingerprint._closure.PYTHON", "py3.99")
        elsewhere.setattr("functionfuse.backends._provenance._PYTHON", "py3.99")
        run(storage, score(step("node", 1, func=lambda x: x + 1)).set_name("leaf"))
    node = step("node", 1, func=lambda x: x + 2)
    assert run(storage, score(node).set_name("leaf"), node) == ([["score", 2], 2], [])
    _, warned = run(storage, step("node", 3, func=lambda x: x + 2))
    assert changed(warned) == ["'node': argument 'x' was 1 and is 3"]


def test_unknown_code_is_recorded_as_unknown_and_not_warned_of(storage: FileStorage) -> None:
    """A function without Python code has no fingerprint; its arguments count all the same."""
    run(storage, step("node", "abc", func=len))
    assert run(storage, step("node", "abc", func=len)) == (3, [])
    footer = storage.footer("flow", "node")
    assert footer is not None
    assert footer.record.code_fingerprint is None
    assert changed(run(storage, step("node", "abcd", func=len))[1]) == ["'node': argument '*0' was 'abc' and is 'abcd'"]


def test_a_result_saved_by_hand_is_not_warned_of(storage: FileStorage) -> None:
    """What a person put under a node's name is taken as it is, as a leaf and as a parent."""
    storage.save("flow", "load", "by hand")
    assert run(storage, load("a").set_name("load")) == ("by hand", [])
    result, warned = run(storage, pipeline("a"))
    assert (result, warned) == (["score", ["by hand", 0.1]], [])
    for mode in ("warn", "recompute", "error"):
        assert run(storage, load("b").set_name("load"), on_stale=mode) == ("by hand", [])
    assert changed(run(storage, pipeline("b"))[1]) == [
        "'score': a function or an argument that it was computed from has changed"
    ]


def test_a_result_of_the_older_format_is_not_warned_of(storage: FileStorage, tmp_path: Path) -> None:
    """A pickle followed by its SHA-1, as IBM Function Fuse stores results, is restored without a word."""
    data = pickle.dumps("older")
    (tmp_path / "store" / "flow").mkdir(parents=True)
    (tmp_path / "store" / "flow" / "load").write_bytes(data + hashlib.sha1(data).digest())
    for mode in ("warn", "recompute", "error", "ignore"):
        leaf = pipeline("a")
        expected = [["score", ["older", 0.1]], "older"]
        assert run(storage, leaf, leaf.parents[0].parents[0], on_stale=mode) == (expected, [])
        assert calls() == (["fit", "score"] if mode == "warn" else [])


def test_a_closure_over_something_that_changes_is_no_false_alarm(storage: FileStorage) -> None:
    """A function that appends to a list, counts in a variable or fills a cache outside is the same function after."""
    seen: list[int] = []
    cache: dict[int, int] = {}
    count = 0
    numbers = itertools.count()

    def work(value: int) -> int:
        nonlocal count
        count += 1
        seen.append(value)
        cache[value] = next(numbers)
        return value

    for _ in range(3):
        assert run(storage, step("node", 1, func=work)) == (1, [])
        assert run(storage, step("another", 2, func=work), recompute=".*") == (2, [])
    assert (count, len(seen)) == (4, 4)


def test_arguments_are_recorded_as_they_were_given(storage: FileStorage) -> None:
    """A function that changes its arguments does not change what is recorded of them."""

    def spoil(values: list[int], options: dict[str, int], factor: int) -> int:
        values.append(0)
        options.clear()
        return factor

    run(storage, step("node", [1], {"a": 1}, 2, func=spoil))
    assert run(storage, step("node", [1], {"a": 1}, 2, func=spoil)) == (2, [])
    _, warned = run(storage, step("node", [1], {"a": 1}, 3, func=spoil))
    assert changed(warned) == ["'node': argument 'factor' was 2 and is 3"]


# What can be done about it


def test_recompute_computes_what_is_affected_and_nothing_else(storage: FileStorage) -> None:
    """With "recompute" the stale results and what is computed from them are made anew, all else is restored."""

    def leaves(path: str, rate: float) -> tuple[Any, ...]:
        data, other = load(path).set_name("data"), load("other").set_name("other")
        models = [fit(data, rate).set_name("m1"), fit(data, 9).set_name("m2"), fit(other, 9).set_name("m3")]
        return tuple(score(model).set_name(f"s{number}") for number, model in enumerate(models, 1))

    def recomputed(*leaves: Any) -> set[str]:
        before = dict(storage.catalog.sql("SELECT task, blob_id FROM tasks").fetchall())
        _, warned = run(storage, *leaves, on_stale="recompute")
        assert warned == []
        after = dict(storage.catalog.sql("SELECT task, blob_id FROM tasks").fetchall())
        return {name for name in after if after[name] != before[name]}

    run(storage, *leaves("a", 1.0))
    assert recomputed(*leaves("a", 1.0)) == set()
    assert recomputed(*leaves("a", 2.0)) == {"m1", "s1"}
    assert recomputed(*leaves("b", 2.0)) == {"data", "m1", "m2", "s1", "s2"}
    assert recomputed(leaves("c", 2.0)[2]) == set()
    assert run(storage, *leaves("b", 2.0))[1] == []


def test_recompute_does_not_need_what_was_deleted(storage: FileStorage) -> None:
    """With "recompute", too, a fresh leaf does without its ancestors; deleted ones stay deleted."""
    run(storage, pipeline())
    storage.remove_task("flow", pattern="[lf]*")
    calls()
    for mode in ("recompute", "error"):
        assert run(storage, pipeline(), on_stale=mode) == (["score", ["a.csv:10", 0.1]], [])
    assert (calls(), sorted(storage.stored("flow"))) == ([], ["score"])


@pytest.mark.parametrize("turned", [False, True])
def test_recompute_sees_a_parent_that_was_computed_anew(storage: FileStorage, turned: bool) -> None:
    """What "warn" would warn of, "recompute" makes anew and "error" refuses: also where a parent is another one now."""
    top = load("a").set_name("top")
    middle = fit(top).set_name("middle")
    leaf = score(middle).set_name("leaf")
    leaves = (leaf, middle, top) if turned else (top, middle, leaf)
    run(storage, *leaves)
    run(storage, top, recompute="top")
    with pytest.raises(StaleResult, match="'middle': argument 'data' has been computed anew since"):
        run(storage, *leaves, on_stale="error")
    calls()
    assert run(storage, *leaves, on_stale="recompute")[1] == []
    assert calls() == ["fit", "score"]
    assert run(storage, *leaves, on_stale="error")[1] == []


def test_recompute_sees_a_parent_that_is_computed_in_the_same_run(storage: FileStorage) -> None:
    """Where a deleted parent is needed again, "recompute" makes its other children anew and "error" refuses."""
    top = load("a").set_name("top")
    old, new = score(top).set_name("old"), fit(top).set_name("new")
    run(storage, old)
    storage.remove_task("flow", "top")
    with pytest.raises(StaleResult, match="'old': a result that it was computed from is computed anew"):
        run(storage, old, new, on_stale="error")
    calls()
    assert run(storage, old, new, on_stale="recompute")[1] == []
    assert calls() == ["load", "score", "fit"]


def test_error_refuses_before_anything_runs(storage: FileStorage) -> None:
    """With "error" a stale result stops the run before it begins, with names and reasons as in the warning."""
    run(storage, pipeline("a"))
    events = storage.catalog.sql("SELECT count(*) FROM events").fetchall()
    calls()
    new = load("new").set_name("new")
    with pytest.raises(StaleResult, match=r"'score': a function or an argument .* on_stale='recompute'"):
        run(storage, new, pipeline("b"), on_stale="error")
    assert calls() == []
    assert storage.catalog.sql("SELECT count(*) FROM events").fetchall() == events
    assert run(storage, pipeline("b"), on_stale="error", recompute="load")[0] == ["score", ["b:10", 0.1]]
    assert run(storage, pipeline("b"), on_stale="error")[1] == []


def test_ignore_says_nothing(storage: FileStorage) -> None:
    """With "ignore" stored results are handed back as they are."""
    run(storage, pipeline("a"))
    assert run(storage, pipeline("b"), on_stale="ignore") == (["score", ["a:10", 0.1]], [])


@pytest.mark.parametrize("mode", ["recomputed", None, True])
def test_an_unknown_mode_is_refused(mode: Any) -> None:
    """An `on_stale` that does not exist is a ValueError that shows it and those that do."""
    with pytest.raises(ValueError, match=rf"on_stale={mode!r}: it is one of 'warn', 'recompute', 'error', 'ignore'"):
        LocalWorkflow(load("a"), workflow_name="flow", on_stale=mode)


def test_a_replaced_function_counts(storage: FileStorage) -> None:
    """The function that `replace_func` puts in is the one whose code is compared."""

    def graph(func: Callable[..., Any] | None) -> Any:
        node = load("a").set_name("load")
        made = LocalWorkflow(score(node).set_name("leaf"), node, workflow_name="flow")
        made.set_storage(storage)
        if func:
            made.replace_func(node, func)
        return made

    def other(path: str) -> str:
        return "other"

    graph(other).run()
    assert graph(other).run() == [["score", "other"], "other"]
    with pytest.warns(StaleResultWarning, match="'load': its function has changed") as caught:
        graph(None).run()
    assert "'leaf': a function or an argument that it was computed from has changed" in str(caught[0].message)


# In another process

SCRIPT = """
import dataclasses, enum, functools, sys
import numpy as np
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Config:
    names: set
    by_name: dict

@workflow
def use(*args, **kwargs):
    return sorted({"a", "b", "c"})

@workflow
class Holder:
    def __init__(self, *args):
        self.args = args
    def get(self, names):
        return len(names)

def helper(x):
    return x in {"red", "green", "blue"}

words = ["alpha", "beta", "gamma", "delta"]
nodes = [
    use(set(words), frozenset(words), {word: {word} for word in words}),
    use({frozenset(words): (1, {*words})}, names={"x": set(words)}),
    use(np.arange(6).reshape(2, 3), np.array(words), np.float32(1), np.array([set(words)], dtype=object)),
    use(helper, len, lambda x: x in {"a", "b"}, functools.partial(helper, "red"), Colour.RED, Colour),
    use(Config(set(words), {word: 1 for word in words}), {1, "one", 2.0, None}),
    use([Holder(set(words)).get(set(words)), {"k": {*words}}]),
]
if sys.argv[2] == "estimators":
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    forest = RandomForestClassifier(2, class_weight={word: 1.0 for word in words}, random_state=0)
    nodes.append(use(LogisticRegression(C=0.5), make_pipeline(StandardScaler(), forest), RandomForestClassifier))
    nodes.append(use(LogisticRegression().fit(np.arange(8).reshape(4, 2), [0, 0, 1, 1])))
nodes = [node.set_name(f"n{number}") for number, node in enumerate(nodes)]
leaf = use({word: node for word, node in zip(words, nodes)}, *nodes).set_name("leaf")
flow = LocalWorkflow(leaf, *nodes, workflow_name="flow")
flow.set_storage(storage := FileStorage(sys.argv[1]))
flow.run()
print(len(nodes), *storage.catalog.sql("SELECT computed, restored FROM runs ORDER BY started DESC").fetchall()[0])
unknown = "SELECT task FROM tasks WHERE code_fingerprint IS NULL OR inputs::VARCHAR LIKE '%null%'"
print(storage.catalog.sql(unknown).fetchall())
"""


def python(script: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in another process, where warnings are errors."""
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.run(
        [sys.executable, "-W", "error::functionfuse.errors.StaleResultWarning", str(script), *args],
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("more", ["", pytest.param("estimators", marks=pytest.mark.slow)])
def test_another_process_raises_no_false_alarm(tmp_path: Path, more: str) -> None:
    """Sets, dicts, arrays, functions, dataclasses and estimators have one fingerprint under every hash seed."""
    if more:
        pytest.importorskip("sklearn")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    outputs = []
    for seed in ("1", "2"):
        done = python(script, str(tmp_path / "store"), more, PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout.split())
    count = 8 if more else 6  # of nodes, beside which there are the leaf, a constructor and a method
    assert outputs == [[f"{count}", f"{count + 3}", "0", "[]"], [f"{count}", "0", f"{count + 1}", "[]"]]


def test_an_edited_script_is_told(tmp_path: Path) -> None:
    """A script that is edited and run again warns on standard error; edits that change nothing do not."""
    source = textwrap.dedent("""
        import sys
        from functionfuse import workflow
        from functionfuse.backends.builtin.localback import LocalWorkflow
        from functionfuse.storage.filestorage import FileStorage

        def rate():
            return 1

        @workflow
        def fit(data):
            return data * rate()

        flow = LocalWorkflow(fit(2), workflow_name="flow")
        flow.set_storage(FileStorage(sys.argv[1]))
        print(flow.run())
    """)
    script = tmp_path / "script.py"
    harmless = source.replace("def fit(data):", "def fit(data):\n    'Now with a docstring.'\n    # and a comment")
    for text, warned in ((source, False), (harmless, False), (source.replace("return 1", "return 3"), True)):
        script.write_text(text)
        done = subprocess.run(
            [sys.executable, str(script), str(tmp_path / "store")],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "2\n"
        assert ("StaleResultWarning" in done.stderr) is warned
    assert "'fit_0000': script.rate has changed" in done.stderr
    assert "script.py:" in done.stderr
