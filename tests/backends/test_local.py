"""Local runs: what is computed, what is read, what is left alone, and what a result is afterwards."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import re
import sys
import threading
import weakref
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import (
    CyclicGraph,
    DuplicateName,
    InvalidLeaf,
    InvalidPickle,
    NoSuchNode,
    NotRun,
    StorageUnusable,
    UnpicklableResult,
)
from functionfuse.storage.filestorage import FileStorage

Pair = namedtuple("Pair", "left right")

CALLS: list[Any] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """Return a new storage."""
    return FileStorage(str(tmp_path / "store"))


@workflow
def step(label: str, *parts: Any, **more: Any) -> list[Any]:
    """Note the call, and return what was given."""
    CALLS.append(label)
    return [label, *parts, *more.values()]


def named(label: str, *parts: Any, **more: Any) -> Any:
    """Return a node of `step` that is called as its label."""
    return step(label, *parts, **more).set_name(label)


@workflow
def give(value: Any) -> Any:
    """Return the argument."""
    return value


@workflow
class Account:
    """An object with a state."""

    def __init__(self, start: Any = 0) -> None:
        CALLS.append("open")
        self.total = start

    def add(self, amount: Any) -> Any:
        """Add to the total and return it."""
        CALLS.append(f"add {amount}")
        self.total += amount
        return self.total


@workflow
def total_of(account: Any) -> Any:
    """Return the total of an account as it is now."""
    CALLS.append("total")
    return account.total


class Failure(Exception):
    """What failing nodes raise."""


def flow(*leaves: Any, storage: FileStorage | None = None, name: str = "flow", **options: Any) -> LocalWorkflow:
    """Return a workflow with a storage."""
    made = LocalWorkflow(*leaves, workflow_name=name, **options)
    made.set_storage(storage)
    return made


def run(*leaves: Any, storage: FileStorage | None = None, **options: Any) -> Any:
    """Run a new workflow."""
    return flow(*leaves, storage=storage, **options).run()


def calls() -> list[Any]:
    """Return what was called since this was last asked."""
    noted = CALLS.copy()
    CALLS.clear()
    return noted


class Reads:
    """Watches by an audit hook, which no code under test can go around, what is opened for reading."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.names: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.root is None or event != "open" or not isinstance(args[0], str):
            return
        folder, name = os.path.split(args[0])
        if folder.startswith(self.root) and name[0] != "." and "/.catalog" not in folder and not args[2] & os.O_CREAT:
            self.names.append(name)


_reads = Reads()


@pytest.fixture
def reads(storage: FileStorage, tmp_path: Path) -> Iterator[list[str]]:
    """Return the list of the blobs that are opened for reading, which grows."""
    _reads.root, _reads.names = str(tmp_path / "store"), []
    yield _reads.names
    _reads.root = None


# Results and leaves


@pytest.mark.parametrize("stored", [False, True])
def test_a_single_leaf_gives_its_result_and_several_a_list(storage: FileStorage, stored: bool) -> None:
    """`run` returns the result of a single leaf, or the list in the order of the leaves; restored as well."""
    a, b = named("a"), named("b")
    for _ in range(2):
        assert run(a, storage=storage if stored else None) == ["a"]
        assert run(b, a, storage=storage if stored else None) == [["b"], ["a"]]


@pytest.mark.parametrize("stored", [False, True])
def test_a_leaf_may_be_of_any_kind(storage: FileStorage, stored: bool) -> None:
    """Function nodes, methods, stand-ins, items and items of items are leaves, also twice, computed or restored."""
    table = give({"rows": [1, 2], "pair": Pair("l", "r")}).set_name("table")
    account = Account(10)
    added = account.add(5)
    leaves = (table, added, account, table["rows"], table["rows"][1], table["pair"][0], table, added)
    for _ in range(2):
        results = run(*leaves, storage=storage if stored else None)
        assert results[0] == {"rows": [1, 2], "pair": ("l", "r")}
        assert (results[1], results[2].total) == (15, 15)
        assert results[3:6] == [[1, 2], 2, "l"]
        assert results[6] is results[0]
        assert results[7] == 15


def test_one_node_that_is_a_leaf_twice_is_computed_once(storage: FileStorage) -> None:
    """A node that is a leaf twice, and an item's node, runs once; so it is read once, too."""
    a = named("a", [3])
    assert run(a, a[1], a[1][0], a, storage=storage) == [["a", [3]], [3], 3, ["a", [3]]]
    assert calls() == ["a"]
    assert run(a, a, storage=storage) == [["a", [3]], ["a", [3]]]


def test_nodes_are_resolved_at_any_depth() -> None:
    """Nodes and items in lists, tuples, sets, dicts, their keys and namedtuples become results, at any depth."""
    one, two = give(1), give({"k": [0, 2]})
    argument = {
        "list": [one, [two["k"], (one,)]],
        "tuple": (one, {"deep": [{"deeper": (two["k"][1],)}]}),
        "set": {one, 7},
        "frozenset": frozenset({one}),
        "named": Pair([one], two["k"][0]),
        one: "a node as a key",
    }
    assert run(give(argument)) == {
        "list": [1, [[0, 2], (1,)]],
        "tuple": (1, {"deep": [{"deeper": (2,)}]}),
        "set": {1, 7},
        "frozenset": frozenset({1}),
        "named": Pair([1], 0),
        1: "a node as a key",
    }
    assert type(run(give(argument)["named"])) is Pair


def test_keyword_arguments_are_resolved() -> None:
    """A node as a keyword argument, and in a container that is one, becomes its result."""
    assert run(step("s", x=give(1), y=[give(2)])) == ["s", 1, [2]]


# Stateful objects


def test_methods_run_in_the_order_of_their_calls_on_one_object() -> None:
    """Methods are run in call order, whatever the order of the leaves, and their results may be arguments."""
    account = Account(1)
    first = account.add(10)
    second = account.add(first)
    assert run(second, first) == [22, 11]
    assert calls() == ["open", "add 10", "add 11"]


def test_a_method_drags_in_the_constructor_and_the_earlier_methods_only(storage: FileStorage) -> None:
    """What a leaf needs of an object is its constructor and the methods before; a later method is not run."""
    account = Account(1)
    account.add(10)
    second = account.add(20)
    account.add(40)
    assert run(second, storage=storage) == 31
    assert calls() == ["open", "add 10", "add 20"]


def test_an_object_as_an_argument_is_as_it_was_at_the_call(storage: FileStorage) -> None:
    """A function sees the object after the methods called before it, and none of those called later."""
    account = Account(1)
    account.add(10)
    before = total_of(account)
    account.add(20)
    after = total_of(account)
    for place in (None, storage):
        assert run(after, before, storage=place) == [31, 11]
        assert calls() == ["open", "add 10", "total", "add 20", "total"]


@pytest.mark.parametrize("stored", [False, True])
def test_an_object_as_a_leaf_is_as_it_was_when_the_workflow_was_made(storage: FileStorage, stored: bool) -> None:
    """Methods that are called on a stand-in after the workflow was made are not run, those before are."""
    account = Account(1)
    account.add(10)
    graph = flow(account, storage=storage if stored else None)
    account.add(20)
    for _ in range(2):
        assert graph.run().total == 11
        assert calls() == ["open", "add 10"]
    total = total_of(account)
    assert [getattr(result, "total", result) for result in run(total, account)] == [31, 31]


def test_objects_and_methods_are_computed_anew_and_never_stored(storage: FileStorage) -> None:
    """Constructors and methods leave nothing in the storage, and run again when they are needed again."""
    account = Account(give(1).set_name("start"))
    added = account.add(2)
    leaf = step("leaf", added).set_name("leaf")
    assert run(leaf, storage=storage) == ["leaf", 3]
    assert storage.list_tasks("flow") == ["leaf", "start"]
    calls()
    assert run(added, storage=storage) == 3
    assert calls() == ["open", "add 2"]


def test_stored_parents_of_objects_are_restored(storage: FileStorage, reads: list[str]) -> None:
    """A constructor and a method that run again take stored results from the storage; nothing is recomputed."""
    account = Account(named("start", 1)[1])
    added = account.add(named("amount", 2)[1])
    assert run(added, storage=storage) == 3
    calls(), reads.clear()
    assert run(added, storage=storage) == 3
    assert calls() == ["open", "add 2"]
    assert reads == ["start", "amount"]


def test_objects_are_left_alone_when_nothing_needs_them(storage: FileStorage) -> None:
    """A stored leaf that was computed from an object does not bring the object back."""
    account = Account(1)
    account.add(2)
    leaf = total_of(account).set_name("leaf")
    assert run(leaf, storage=storage) == 3
    calls()
    assert run(leaf, storage=storage) == 3
    assert calls() == []


# The plan


def chain(length: int) -> Any:
    """Return the last of a row of nodes n0, n1, ..., each the parent of the next."""
    last = named("n0")
    for number in range(1, length):
        last = named(f"n{number}", last[0])
    return last


def test_a_stored_leaf_is_one_blob_read(storage: FileStorage, reads: list[str]) -> None:
    """The second run of a chain reads one file, that of its leaf, and computes nothing."""
    first = run(chain(20), storage=storage)
    assert len(calls()) == 20
    reads.clear()
    assert run(chain(20), storage=storage) == first
    assert calls() == []
    assert reads == ["n19"]


def test_deleted_intermediate_results_stay_deleted(storage: FileStorage, reads: list[str]) -> None:
    """A stored leaf does not need its ancestors: what was removed of them is not computed again."""
    run(chain(5), storage=storage)
    storage.remove_task("flow", pattern="n[0-3]")
    calls(), reads.clear()
    assert run(chain(5), storage=storage) == ["n4", "n3"]
    assert (calls(), reads, sorted(storage.stored("flow"))) == ([], ["n4"], ["n4"])


def test_only_what_is_missing_is_computed_and_only_its_parents_are_read(storage: FileStorage, reads: list[str]) -> None:
    """Where a leaf is missing, it is computed from its parents, which are read; their own parents are not."""
    run(chain(5), storage=storage)
    storage.remove_task("flow", "n4")
    calls(), reads.clear()
    assert run(chain(5), storage=storage) == ["n4", "n3"]
    assert (calls(), reads) == (["n4"], ["n3"])


def test_missing_results_in_a_row_are_computed_up_to_the_first_stored(storage: FileStorage, reads: list[str]) -> None:
    """Computing goes up from the leaf to the first stored results on each way, and no further."""
    run(chain(6), storage=storage)
    storage.remove_task("flow", pattern="n[1345]")
    calls(), reads.clear()
    assert run(chain(6), storage=storage) == ["n5", "n4"]
    assert (calls(), reads) == (["n3", "n4", "n5"], ["n2"])
    assert "n1" not in storage.stored("flow")


def test_a_result_that_several_need_is_read_once(storage: FileStorage, reads: list[str]) -> None:
    """A stored result is read once in a run, and only if something that is computed needs it."""
    source, unneeded = named("source"), named("unneeded")
    run(source, unneeded, storage=storage)
    old = named("old", unneeded)
    run(old, storage=storage)
    calls(), reads.clear()
    assert run(named("x", source), named("y", source, source[0]), old, storage=storage) == [
        ["x", ["source"]],
        ["y", ["source"], "source"],
        ["old", ["unneeded"]],
    ]
    assert calls() == ["x", "y"]
    assert sorted(reads) == ["old", "source"]


def test_only_ancestors_of_leaves_are_run() -> None:
    """A child or sibling of what a leaf needs is not touched."""
    root = named("root")
    leaf, sibling = named("leaf", root), named("sibling", root)
    named("child", leaf, sibling)
    assert run(leaf) == ["leaf", ["root"]]
    assert calls() == ["root", "leaf"]


def test_a_stored_none_is_a_result(storage: FileStorage) -> None:
    """None and other false results are stored and restored like all others."""

    @workflow
    def nothing(value: Any) -> Any:
        CALLS.append("nothing")
        return value

    for value in (None, 0, [], ""):
        for _ in range(2):
            assert run(nothing(value).set_name(f"n{value!r}"), storage=storage) == value
    assert calls() == ["nothing"] * 4


def test_a_damaged_result_is_no_miss(storage: FileStorage, tmp_path: Path) -> None:
    """A stored result whose bytes are damaged stops the run, named, as does a damaged parent; nothing is computed."""
    parent = named("parent")
    run(parent, storage=storage)
    path = tmp_path / "store" / "flow" / "parent"
    path.write_bytes(path.read_bytes()[:-3])
    calls()
    with pytest.raises(InvalidPickle, match="'parent' of workflow 'flow'"):
        run(parent, storage=storage)
    with pytest.raises(InvalidPickle, match="'parent' of workflow 'flow'") as caught:
        run(named("child", parent), storage=storage)
    assert caught.value.__notes__ == ["in node 'parent' of workflow 'flow'"]
    failures = storage.catalog.sql("SELECT task, details->>'error' FROM events WHERE event = 'task-failed'").fetchall()
    assert [task for task, _ in failures] == ["parent", "parent"]
    assert all("InvalidPickle" in error for _, error in failures)
    assert calls() == []


# Memory


class Big:
    """A result that tells when it is freed."""

    def __init__(self, name: str) -> None:
        self.name = name
        _alive.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return Big, (self.name,)


_alive: weakref.WeakSet[Big] = weakref.WeakSet()


def alive() -> list[str]:
    """Return the names of the big results that are in memory."""
    return sorted(big.name for big in _alive)


@workflow
def big(name: str, *parents: Any) -> Big:
    """Note what is in memory, and return a big result."""
    CALLS.append(alive())
    return Big(name)


def big_chain() -> Any:
    """Return the last of four big nodes in a row."""
    last = big("n0").set_name("n0")
    for number in range(1, 4):
        last = big(f"n{number}", last).set_name(f"n{number}")
    return last


def test_results_are_freed_after_their_last_use(storage: FileStorage) -> None:
    """With a storage, a result is gone as soon as nothing in the run needs it, and after the run nothing is held."""
    leaf = big_chain()
    result = run(leaf, storage=storage)
    assert calls() == [[], ["n0"], ["n1"], ["n2"]]
    assert alive() == ["n3"]
    del result
    assert alive() == []


def test_restored_results_are_freed_after_their_last_use(storage: FileStorage) -> None:
    """What was read is freed like what was computed."""
    run(big("a").set_name("a"), storage=storage)
    middle = big("b", big("a").set_name("a")).set_name("b")
    calls()
    run(big("c", middle).set_name("c"), storage=storage)
    assert calls() == [["a"], ["b"]]


def test_a_result_lives_until_its_last_child_is_computed(storage: FileStorage) -> None:
    """A parent is kept for all of its children, and a leaf to the end."""
    parent, kept = big("parent").set_name("parent"), big("kept").set_name("kept")
    children = [big(f"c{number}", parent, kept).set_name(f"c{number}") for number in range(3)]
    last = big("last", *children).set_name("last")
    results = run(last, kept, storage=storage)
    assert [held for held in calls() if "c2" in held] == [["c0", "c1", "c2", "kept"]]
    assert alive() == ["kept", "last"]
    del results


def test_without_a_storage_results_stay_with_their_nodes() -> None:
    """Without a storage, results are kept for `node.result`, and go with the nodes."""
    leaf = big_chain()
    result = run(leaf)
    assert leaf.result is result
    assert leaf.parents[0].result.name == "n2"
    assert alive() == ["n0", "n1", "n2", "n3"]


def test_an_error_does_not_keep_results_alive(storage: FileStorage) -> None:
    """After a failed run nothing is held any more, once the exception is gone."""

    @workflow
    def fail(*parents: Any) -> None:
        raise Failure

    with pytest.raises(Failure):
        run(fail(big("a").set_name("a")), storage=storage)
    gc.collect()  # a traceback and its frames are a circle
    assert alive() == []


# node.result


def test_every_node_has_its_result_after_a_run(storage: FileStorage) -> None:
    """After a run function nodes, methods, stand-ins and items have their results, stored or not."""
    source = named("source", [4])
    account = Account(source[1][0])
    account.add(1)
    added = account.add(2)
    leaf = named("leaf", added)
    for place in (None, storage, storage):  # computed, stored, restored
        run(leaf, storage=place)
        assert leaf.result == ["leaf", 7]
        assert source.result == ["source", [4]]
        assert (source[1].result, source[1][0].result) == ([4], 4)
        assert added.result == 7
        assert added.parents[1].result == 5
        assert account.result.total == 7  # as the methods leave it, called in this run or not


def test_a_result_is_read_when_it_is_asked_for(storage: FileStorage, reads: list[str]) -> None:
    """The result of a node that a run did not need is read on demand, that one file alone."""
    run(chain(4), storage=storage)
    leaf = chain(4)
    run(leaf, storage=storage)
    (middle,) = leaf.parents
    calls(), reads.clear()
    assert middle.result == ["n2", "n1"]
    assert (calls(), reads) == ([], ["n2"])


def test_a_result_that_is_gone_is_computed_when_it_is_asked_for(storage: FileStorage) -> None:
    """A result that the storage has no longer is computed, and with it no more than it needs."""
    run(chain(4), storage=storage)
    storage.remove_task("flow", pattern="n[12]")
    leaf = chain(4)
    run(leaf, storage=storage)
    calls()
    assert leaf.parents[0].result == ["n2", "n1"]
    assert calls() == ["n1", "n2"]
    assert leaf.parents[0].result == ["n2", "n1"]
    assert calls() == []


def test_a_method_that_was_not_needed_is_computed_when_it_is_asked_for(storage: FileStorage) -> None:
    """The result of a method whose child was restored comes from a new object, after the methods before it."""
    account = Account(1)
    first = account.add(2)
    second = account.add(4)
    leaf = named("leaf", second)
    run(leaf, storage=storage)
    run(leaf, storage=storage)
    calls()
    assert second.result == 7
    assert first.result == 3
    assert calls() == ["open", "add 2", "add 4"]


def test_a_node_has_no_result_before_a_run() -> None:
    """A node that no run has reached raises NotRun, that names it."""
    with pytest.raises(NotRun, match="'lonely' has no result yet"):
        named("lonely").result  # noqa: B018


def test_results_after_a_failed_run(storage: FileStorage) -> None:
    """After a failed run the finished nodes have their results; the failed one and its children raise its exception."""

    @workflow
    def fail(value: Any) -> None:
        CALLS.append("fail")
        raise Failure(value)

    for place in (None, storage):
        good = named("good")
        bad = fail(good)
        never = named("never", bad)
        with pytest.raises(Failure):
            run(never, storage=place)
        assert good.result == ["good"]
        calls()
        for node in (bad, never):
            with pytest.raises(Failure, match="good"):
                node.result  # noqa: B018
    assert calls() == ["fail", "fail"]  # what was finished is read, not computed, where it is stored


def test_an_attribute_error_in_a_lazy_result_is_itself() -> None:
    """An AttributeError in a node reaches who asks for a result as itself, from a node, an item and a stand-in."""
    error = AttributeError("of the user's own code")

    @workflow
    def fail() -> Any:
        raise error

    node = fail()
    account = Account(node)
    with pytest.raises(AttributeError):
        run(account.add(1))
    for reference in (node, node[0], account):
        with pytest.raises(AttributeError) as caught:
            reference.result  # noqa: B018
        assert caught.value is error


# The same nodes again


def test_the_same_nodes_in_several_workflows(tmp_path: Path) -> None:
    """One graph runs in several workflows and storages; each keeps its own results, `result` is the last run's."""
    source = named("source")
    first, second = named("first", source), named("second", source)
    here, there = (FileStorage(str(tmp_path / name)) for name in ("here", "there"))
    run(first, storage=here, name="one")
    run(first, second, storage=here, name="two")
    run(second, storage=there, name="one")
    assert calls() == ["source", "first", "source", "first", "second", "source", "second"]
    assert (here.list_tasks("one"), here.list_tasks("two")) == (["first", "source"], ["first", "second", "source"])
    assert there.list_tasks("one") == ["second", "source"]
    there.save("one", "source", "changed")
    assert source.result == "changed"
    run(first, storage=here, name="one")
    assert source.result == ["source"]


def test_without_a_storage_a_run_computes_everything_again() -> None:
    """Two runs of one workflow are independent: no result of the first is in the second."""
    account = Account(1)
    again = flow(account.add(1), named("a"))
    assert again.run() == again.run() == [2, ["a"]]
    assert calls() == ["open", "add 1", "a"] * 2


def test_leaves_can_be_used_in_further_graphs(storage: FileStorage) -> None:
    """Nodes that were run may become arguments of new ones, and a second workflow starts from what is stored."""
    a = named("a")
    run(a, storage=storage)
    calls()
    assert run(named("b", a), storage=storage) == ["b", ["a"]]
    assert calls() == ["b"]


@pytest.mark.parametrize("stored", [False, True])
def test_several_threads_run_the_same_nodes_at_once(storage: FileStorage, stored: bool) -> None:
    """Eight threads run one graph at the same time: each run has its own objects and results."""
    everyone = threading.Barrier(8)

    @workflow
    def meet(value: Any) -> Any:
        everyone.wait(240)
        return object() if value is None else value

    token = meet(None).set_name("token")
    account = Account(meet(1).set_name("start"))
    for _ in range(20):
        account.add(1)
    leaf = give(account.add(1)).set_name("leaf")
    shared = flow(leaf, account, token, storage=storage if stored else None)
    shared.log_nodes("token")
    with ThreadPoolExecutor(8) as threads:
        results = [future.result() for future in [threads.submit(shared.run) for _ in range(8)]]
    assert [result[0] for result in results] == [22] * 8
    assert [result[1].total for result in results] == [22] * 8
    assert len({id(result[1]) for result in results}) == 8
    assert len({id(result[2]) for result in results}) == 8
    assert len(calls()) == 8 * 22


# log_nodes, always_read, set_storage, replace_func


def test_logged_nodes_are_neither_stored_nor_restored(storage: FileStorage, reads: list[str]) -> None:
    """Nodes whose whole name matches `log_nodes` leave nothing in the storage, and what is there is not read."""
    storage.save("flow", "secret", "left by somebody else")
    graph = flow(named("leaf", named("secret"), named("secret2"), named("plain")), storage=storage)
    graph.log_nodes("secret")
    graph.log_nodes(re.compile("pl.*n"))
    assert graph.run() == ["leaf", ["secret"], ["secret2"], ["plain"]]
    assert storage.list_tasks("flow") == ["leaf", "secret", "secret2"]
    assert storage.read_task("flow", "secret") == "left by somebody else"
    storage.remove_task("flow", "leaf")
    calls(), reads.clear()
    assert graph.run() == ["leaf", ["secret"], ["secret2"], ["plain"]]
    assert (calls(), reads) == (["secret", "plain", "leaf"], ["secret2"])


def test_logged_nodes_are_left_alone_when_nothing_needs_them(storage: FileStorage) -> None:
    """A stored leaf does not need its ancestors, stored or not; their results are computed when they are asked for."""
    logged = named("logged")
    graph = flow(named("leaf", logged), storage=storage)
    graph.log_nodes("logged")
    graph.run()
    graph.run()
    assert calls() == ["logged", "leaf"]
    assert logged.result == ["logged"]
    assert calls() == ["logged"]


def test_a_logged_leaf_is_computed_each_time(storage: FileStorage) -> None:
    """A leaf that is not stored is computed in every run, from its stored parents."""
    graph = flow(named("leaf", named("parent")), storage=storage)
    graph.log_nodes("leaf")
    assert graph.run() == graph.run() == ["leaf", ["parent"]]
    assert calls() == ["parent", "leaf", "leaf"]


@pytest.mark.parametrize("regex", ["(", 3])
def test_log_nodes_needs_a_regular_expression(regex: Any) -> None:
    """What is no regular expression is a ValueError that shows it."""
    with pytest.raises(ValueError, match=re.escape(repr(regex))):
        flow(named("a")).log_nodes(regex)


class ReadBack:
    """Knows whether it was read back."""

    def __init__(self, read: bool = False) -> None:
        self.read = read

    def __reduce__(self) -> tuple[Any, ...]:
        return ReadBack, (True,)


@workflow
def read_back(*parents: Any) -> ReadBack:
    """Note which parents were read back."""
    CALLS.append([parent.read for parent in parents])
    return ReadBack()


@pytest.mark.parametrize("always", [False, True])
def test_always_read_hands_on_what_was_read_back(storage: FileStorage, always: bool) -> None:
    """With `always_read` children and callers get the result as it is read back; else the object that was saved."""
    storage.always_read = always
    parent = read_back().set_name("parent")  # its only user has it twice
    leaf = read_back(parent, parent).set_name("leaf")
    assert run(leaf, storage=storage).read is always
    assert calls() == [[], [always, always]]
    assert leaf.result.read


def test_no_storage_keeps_nothing(storage: FileStorage, tmp_path: Path) -> None:
    """After `set_storage(None)` a workflow neither writes nor reads, and the storage has no word of its runs."""
    graph = flow(named("leaf"), storage=storage)
    graph.run()
    before = sorted((tmp_path / "store").rglob("*"))
    lines = storage.catalog.sql("SELECT count(*) FROM events").fetchall()
    graph.set_storage(None)
    calls()
    assert graph.run() == ["leaf"]
    assert calls() == ["leaf"]
    assert storage.catalog.sql("SELECT count(*) FROM events").fetchall() == lines
    assert set(before) <= set((tmp_path / "store").rglob("*"))
    LocalWorkflow(named("never stored"), workflow_name="other").run()
    assert not (tmp_path / "store" / "other").exists()


def test_find_nodes_and_traversal_know_the_graph_that_is_run(storage: FileStorage) -> None:
    """`find_nodes` matches whole names, `graph_traversal` yields names and nodes parents first, as they are run."""
    graph = flow(chain(3), storage=storage)
    assert [node.get_name() for node in graph.find_nodes("n[12]")] == ["n1", "n2"]
    assert graph.find_nodes("n") == []
    names = [name for name, node in graph.graph_traversal() if node.get_name() == name]
    graph.run()
    assert names == calls() == ["n0", "n1", "n2"]


def test_a_replaced_function_runs_in_its_workflow_only(storage: FileStorage) -> None:
    """`replace_func` changes what one workflow calls, for functions, constructors and methods; others are as before."""
    source = named("source")
    account = Account(1)
    added = account.add(2)
    leaf = named("leaf", source, added)
    changed = flow(leaf, storage=storage, name="changed")
    changed.replace_func(source, lambda label: [label.upper()])
    changed.replace_func(account, lambda start: Big(str(start)))
    changed.replace_func(added, lambda this, amount: (this.name, amount))
    assert changed.run() == ["leaf", ["SOURCE"], ("1", 2)]
    assert source.result == storage.read_task("changed", "source") == ["SOURCE"]
    assert run(leaf, storage=storage, name="plain") == ["leaf", ["source"], 3]
    assert source.result == ["source"]


def test_a_replaced_function_is_called_for_lazy_results_too(storage: FileStorage) -> None:
    """A result that is computed when it is asked for is computed as its run would have done it."""
    source = named("source")
    graph = flow(named("leaf", source), storage=storage)
    graph.replace_func(source, lambda label: "replaced")
    graph.log_nodes("source")
    graph.run()
    graph.run()
    assert source.result == "replaced"


def test_any_callable_can_be_a_node_with_a_storage(storage: FileStorage) -> None:
    """A callable that cannot be hashed, a partial, a builtin and a bound method are stored and restored."""

    @dataclasses.dataclass
    class Scale:
        factor: int

        def __call__(self, value: int) -> int:
            return self.factor * value

    nodes = [
        workflow(Scale(3))(2).set_name("unhashable"),
        workflow(len)("abc").set_name("builtin"),
        workflow("a-b".split)("-").set_name("bound"),
    ]
    assert run(*nodes, storage=storage) == run(*nodes, storage=storage) == [6, 3, ["a", "b"]]


# Failing nodes


def test_a_failing_node_stops_the_run(storage: FileStorage) -> None:
    """The caller gets the very exception, with node and workflow in its notes; what was finished is stored."""
    error = Failure("original")

    @workflow
    def fail(value: Any) -> None:
        raise error

    before, after = named("before"), named("after")
    leaf = named("leaf", fail(before).set_name("bad"))
    with pytest.raises(Failure) as caught:
        run(before, leaf, after, storage=storage)
    assert caught.value is error
    assert caught.value.__notes__ == ["in node 'bad' of workflow 'flow'"]
    assert "leaf" not in calls()
    assert {"before"} <= storage.stored("flow") <= {"before", "after"}


def test_after_a_repair_a_run_goes_on_where_it_stopped(storage: FileStorage) -> None:
    """The next run computes what the failed one did not finish, and nothing else."""
    broken = [True]

    @workflow
    def sometimes(value: Any) -> Any:
        CALLS.append("sometimes")
        if broken:
            raise Failure
        return value

    leaf = named("leaf", sometimes(named("a")).set_name("b"))
    with pytest.raises(Failure):
        run(leaf, storage=storage)
    broken.clear()
    calls()
    assert run(leaf, storage=storage) == ["leaf", ["a"]]
    assert calls() == ["sometimes", "leaf"]


def test_a_missing_item_names_the_node_that_needed_it(storage: FileStorage) -> None:
    """An item that is not there is the container's own exception, and its note tells for which node it was taken."""
    source = give({"a": [1]})
    with pytest.raises(KeyError) as caught:
        run(named("user", source["b"]), storage=storage)
    assert caught.value.__notes__ == ["in node 'user' of workflow 'flow'"]
    with pytest.raises(IndexError) as caught_too:
        run(named("user", [source["a"][7]]))
    assert caught_too.value.__notes__ == ["in node 'user' of workflow 'flow'"]


def test_a_failing_constructor_and_method_are_named(storage: FileStorage) -> None:
    """An exception in a constructor or a method is named like one in a function."""
    account = Account(give("text"))
    with pytest.raises(TypeError) as caught:
        run(account.add(1).set_name("adding"), storage=storage)
    assert caught.value.__notes__ == ["in node 'adding' of workflow 'flow'"]
    opened = Account(1, 2).set_name("opening")
    with pytest.raises(TypeError) as caught_too:
        run(opened, storage=storage)
    assert caught_too.value.__notes__ == ["in node 'opening' of workflow 'flow'"]


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """An exception that takes no notes."""

    code: int


class Unprintable(Exception):
    """An exception that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


@pytest.mark.parametrize(("kind", "args"), [(Frozen, (3,)), (Unprintable, ()), (SystemExit, (4,))])
def test_an_odd_exception_reaches_the_caller_as_itself(
    storage: FileStorage, caplog: pytest.LogCaptureFixture, kind: Any, args: tuple[Any, ...]
) -> None:
    """An exception that takes no notes, cannot be printed or is no Exception is not hidden by another one."""
    caplog.set_level(logging.CRITICAL, "functionfuse.run")  # a log record would keep the exception alive
    error = kind(*args)

    @workflow
    def fail() -> None:
        raise error

    with pytest.raises(kind) as caught:
        run(fail(), storage=storage)
    assert caught.value is error


class Full(FileStorage):
    """A storage whose journal takes the start of a run, and then no more."""

    def note(self, event: str, *args: Any, **options: Any) -> None:
        """Record the start of a run only."""
        if event != "run-started":
            raise StorageUnusable(f"no space for {event}")


def test_a_journal_that_cannot_be_written_does_not_hide_the_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the failure itself cannot be recorded, the log tells, and the caller still gets the node's exception."""

    @workflow
    def fail() -> None:
        raise Failure

    with pytest.raises(Failure):
        run(fail(), storage=Full(str(tmp_path)))
    assert "fail_0000' of workflow 'flow' could not be recorded" in caplog.text
    assert "the end of the run could not be recorded" in caplog.text


def test_an_end_that_cannot_be_recorded_is_an_error(tmp_path: Path) -> None:
    """A run whose end cannot be recorded does not pass for a good one; its results are stored."""
    storage = Full(str(tmp_path))
    with pytest.raises(StorageUnusable, match="no space for run-finished"):
        run(named("a"), storage=storage)
    assert storage.read_task("flow", "a") == ["a"]


def test_an_unpicklable_result_names_its_node(storage: FileStorage) -> None:
    """A result that cannot become bytes is an UnpicklableResult that names node and workflow; the old one stays."""
    storage.save("flow", "bad", "old")

    @workflow
    def lock(*parents: Any) -> Any:
        return threading.Lock()

    graph = flow(lock(named("good")).set_name("bad"), storage=storage)
    with pytest.raises(UnpicklableResult, match="'bad' of workflow 'flow'"):
        graph.run(recompute="bad")
    assert storage.read_task("flow", "bad") == "old"
    assert storage.list_tasks("flow") == ["bad", "good"]


# recompute


def diamond() -> Any:
    """Return the leaf of a graph: top, left and right below it, bottom below both."""
    top = named("top")
    return named("bottom", named("left", top), named("right", top))


@pytest.mark.parametrize(
    ("regex", "expected"),
    [
        ("left", ["left", "bottom"]),
        ("top", ["top", "left", "right", "bottom"]),
        (re.compile("b.*"), ["bottom"]),
        (".*t", ["left", "right", "bottom"]),
    ],
)
def test_recompute_computes_the_matching_nodes_and_all_below(
    storage: FileStorage, regex: Any, expected: list[str]
) -> None:
    """`recompute` takes whole names: what matches and all below is computed anew, all else is restored."""
    run(diamond(), storage=storage)
    ids = dict(storage.catalog.sql("SELECT task, blob_id FROM tasks").fetchall())
    calls()
    result = flow(diamond(), storage=storage).run(recompute=regex)
    assert result == ["bottom", ["left", ["top"]], ["right", ["top"]]]
    assert calls() == expected
    now = dict(storage.catalog.sql("SELECT task, blob_id FROM tasks").fetchall())
    assert sorted(name for name in now if now[name] != ids[name]) == sorted(expected)
    assert run(diamond(), storage=storage) == result
    assert calls() == []


def test_recompute_goes_through_objects(storage: FileStorage) -> None:
    """What was computed from an object is computed anew when its constructor or an earlier method matches."""
    account = Account(1)
    account.add(2).set_name("deposit")
    leaf = named("leaf", account.add(4))
    run(leaf, storage=storage)
    for regex in ("Account_.*", "deposit"):
        calls()
        flow(leaf, storage=storage).run(recompute=regex)
        assert calls() == ["open", "add 2", "add 4", "leaf"]


def test_recompute_leaves_alone_what_no_leaf_needs(storage: FileStorage) -> None:
    """A node that matches but stands below no leaf is not in the run."""
    top = named("top")
    leaf = named("leaf", top)
    named("child", leaf)
    run(leaf, storage=storage)
    calls()
    flow(leaf, storage=storage).run(recompute="child|leaf")
    assert calls() == ["leaf"]


@pytest.mark.parametrize(
    ("regex", "said"),
    [
        ("lef", r"'lef' as a whole\. Near to it: 'left'"),
        (re.compile("lef"), "Near to it: 'left'"),
        ("fit (v2)", r"There is a node of that name: as a regular expression it is 'fit\\\\ \\\\\(v2\\\\\)'"),
        ("zzzzzzzz", "There are, among others: 'top', 'left', 'right'"),
    ],
)
def test_recompute_refuses_a_pattern_without_a_match(storage: FileStorage, regex: Any, said: str) -> None:
    """A pattern that matches no node is an error that names the nearest ones, and nothing runs."""
    leaves = (diamond(), named("fit (v2)"))
    with pytest.raises(NoSuchNode, match=said):
        flow(*leaves, storage=storage).run(recompute=regex)
    assert calls() == []


def test_recompute_needs_a_regular_expression(storage: FileStorage) -> None:
    """A `recompute` that is no regular expression is a ValueError, and nothing runs."""
    with pytest.raises(ValueError, match=r"'\(' is not a regular expression"):
        flow(diamond(), storage=storage).run(recompute="(")
    assert calls() == []


# What cannot be run


def test_two_nodes_of_one_name_are_refused_before_anything_runs(storage: FileStorage, tmp_path: Path) -> None:
    """Two nodes of one name are an error that names both; nothing is computed or written."""
    graph = flow(named("leaf", named("same"), give(1).set_name("same")), storage=storage)
    with pytest.raises(DuplicateName, match=r"'same'.*step.*give"):
        graph.run()
    assert calls() == []
    assert not (tmp_path / "store").exists()


def test_a_cycle_is_refused_before_anything_runs(storage: FileStorage, tmp_path: Path) -> None:
    """A node that needs its own result, by a list changed after the call, is an error that shows the circle."""
    later: list[Any] = []
    first = named("first", later)
    second = named("second", first)
    later.append(second)
    with pytest.raises(CyclicGraph, match=r"'first'.*'second'|'second'.*'first'"):
        run(second, storage=storage)
    assert calls() == []
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("leaves", [(), (3,), (step,), ({named("a")},)], ids=["none", "int", "decorated", "set"])
def test_no_leaf_or_a_foreign_one_is_refused(leaves: tuple[Any, ...]) -> None:
    """A workflow of nothing, or of what no decorated function returned, cannot be made."""
    with pytest.raises(InvalidLeaf):
        LocalWorkflow(*leaves, workflow_name="flow")


# Size


def test_a_long_chain_is_no_recursion(storage: FileStorage) -> None:
    """A chain of 10,000 nodes runs, is stored and restored, and the result in its middle is there."""
    node = give(0).set_name("n0")
    nodes = [node]
    for number in range(1, 10_000):
        node = workflow(max)(number, node).set_name(f"n{number}")
        nodes.append(node)
    graph = flow(node, storage=storage)
    graph.log_nodes("n(?!9999|5000).*")
    assert graph.run() == graph.run() == 9_999
    assert (nodes[5_000].result, nodes[0].result) == (5_000, 0)
    assert sorted(storage.stored("flow")) == ["n5000", "n9999"]


def test_a_wide_graph_is_run() -> None:
    """One node with 10,000 children, which are all arguments of one node, is run."""
    source = give(1)
    assert run(workflow(sum)([give(source) for _ in range(10_000)])) == 10_000


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"k": inner}], ids=["lists", "dicts"])
def test_a_deep_nest_is_no_recursion(storage: FileStorage, wrap: Any) -> None:
    """A node 10,000 containers deep in an argument is found and resolved, with a storage too."""
    nest: Any = give(3).set_name("bottom")
    for _ in range(10_000):
        nest = wrap(nest)

    @workflow
    def dig(found: Any) -> int:
        while not isinstance(found, int):
            (found,) = found.values() if isinstance(found, dict) else found
        return found

    leaf = dig(nest).set_name("leaf")
    assert run(leaf, storage=storage) == 3
    assert run(leaf, storage=storage) == 3


def test_an_item_of_an_item_and_so_on() -> None:
    """A thousand keys after one node give the item at the end of them."""
    nest: Any = "end"
    for _ in range(1_000):
        nest = [nest]
    item = give(nest)
    for _ in range(1_000):
        item = item[0]
    assert run(item) == "end"
