"""Runs on a real Ray of one node: the plan of LocalWorkflow, computed in other processes."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import runpy
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.backends.builtin.rayback import RayWorkflow
from functionfuse.backends.plugins import InitializerPlugin, Plugin, PluginCollection, RandomStatePlugin
from functionfuse.errors import (
    InfeasibleResources,
    InvalidPickle,
    InvalidResult,
    StaleResult,
    StaleResultWarning,
    UnpicklableResult,
)
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import Note, NoteSerializer
from raying import MARKS, one_node, ray, trace, traces
from snippets import program

np = pytest.importorskip("numpy")

pytestmark = MARKS


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with one_node():
        yield


@pytest.fixture(autouse=True)
def no_leaked_files() -> None:
    """Ray opens connections as it needs them: not watched here."""


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """Return a new storage, which workers reach."""
    return FileStorage(tmp_path / "store")


class Failure(Exception):
    """What failing nodes raise."""

    def __init__(self, code: int) -> None:
        super().__init__(f"failed with {code}")
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return Failure, (self.code,)


@workflow
def step(folder: Path, label: str, *parts: Any, **more: Any) -> list[Any]:
    """Leave a trace, and return what was given."""
    trace(folder, label)
    return [label, *parts, *more.values()]


@workflow
def give(value: Any) -> Any:
    """Return the argument."""
    return value


@workflow
def array(megabytes: int, fill: int = 0) -> Any:
    """Return an array of a size."""
    return np.full(megabytes << 20, fill, dtype=np.uint8)


@workflow
def total(*parts: Any) -> int:
    """Return the sum of the first ten bytes of arrays, and of numbers."""
    return sum(int(np.sum(part[:10])) if isinstance(part, np.ndarray) else part for part in parts)


@workflow
def fail(code: int, *parents: Any) -> None:
    """Fail."""
    raise Failure(code)


@workflow
class Account:
    """An object with a state."""

    def __init__(self, start: int = 0) -> None:
        self.total = start
        self.pid = os.getpid()

    def add(self, amount: int) -> int:
        """Add to the total and return it."""
        self.total += amount
        return self.total

    def where(self) -> int:
        """Return the process."""
        return self.pid

    def merge(self, other: Any) -> int:
        """Add another's total."""
        self.total += other.total
        return self.total


@workflow
def total_of(account: Any, *later: Any) -> int:
    """Return the total of an account as it came."""
    return account.total


def flow(*leaves: Any, storage: FileStorage | None = None, **options: Any) -> RayWorkflow:
    """Return a workflow with a storage."""
    made = RayWorkflow(*leaves, workflow_name="flow", **options)
    made.set_storage(storage)
    return made


def run(*leaves: Any, storage: FileStorage | None = None, **options: Any) -> Any:
    """Run a new workflow and return the results."""
    return flow(*leaves, storage=storage, **options).run(return_results=True)


# Results


@pytest.mark.parametrize("ask", ["query", "set_plugin"])
def test_a_query_without_a_match_is_said(ask: str) -> None:
    """Options for nodes that are not there are a warning each time, where they are set, with the nearest names."""
    graph = RayWorkflow(give(1).set_name("given"), workflow_name="w")
    more = () if ask == "query" else (InitializerPlugin(int),)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            getattr(graph, ask)("givne", *more)
    assert [warning.filename for warning in caught] == [__file__] * 2
    assert re.search("matches 'givne' as a whole.*'given'.*set for none", str(caught[0].message))


def test_results_are_those_of_a_local_run(storage: FileStorage, tmp_path: Path) -> None:
    """Nested arguments, items, keywords and several leaves give what LocalWorkflow gives."""
    pair = give((1, {"k": [2, 3]}))
    holder = [pair[1]["k"], {"whole": pair, pair[0]: (pair,)}, {4}]
    leaves = (give(holder), pair[1]["k"][0], step(tmp_path, "kw", left=pair[0], right=pair[1]))
    expected = LocalWorkflow(*leaves, workflow_name="local").run()
    assert run(*leaves) == expected
    assert run(*leaves, storage=storage) == expected
    assert run(*leaves, storage=storage) == expected
    assert leaves[0].result == expected[0]


def test_nothing_comes_to_the_driver_unless_asked_for(storage: FileStorage) -> None:
    """`run()` returns None; the result is in the storage, and by the node."""
    leaf = give("there")
    assert flow(leaf, storage=storage).run() is None
    assert storage.read_task("flow", leaf.get_name()) == "there"
    assert leaf.result == "there"
    alone = give("kept by Ray")
    assert flow(alone).run() is None
    assert alone.result == "kept by Ray"


def test_a_second_run_computes_nothing(storage: FileStorage, tmp_path: Path) -> None:
    """What is stored is not computed, whichever backend stored it; what is needed only for that is not even read."""
    leaf = step(tmp_path, "leaf", step(tmp_path, "top"))
    run(leaf, storage=storage)
    assert traces(tmp_path) == ["top", "leaf"]
    local = LocalWorkflow(leaf, workflow_name="flow", on_stale="error")
    local.set_storage(storage)
    assert local.run() == run(leaf, storage=storage, on_stale="error")
    assert traces(tmp_path) == []
    runs = storage.catalog.runs(order_by="started").project("backend, status, computed, restored").fetchall()
    assert runs == [("ray", "finished", 2, 0), ("local", "finished", 0, 1), ("ray", "finished", 0, 1)]


def test_what_is_stored_is_read_where_it_is_needed(storage: FileStorage, tmp_path: Path) -> None:
    """A node that is computed below stored ones gets them, and its record names their blobs."""
    top, other = step(tmp_path, "top").set_name("top"), give({"a": 5}).set_name("other")
    run(top, other, storage=storage)
    leaf = step(tmp_path, "leaf", [top], other["a"]).set_name("leaf")
    assert run(leaf, storage=storage) == ["leaf", [["top"]], 5]
    assert traces(tmp_path) == ["top", "leaf"]
    known = storage.catalog.task("flow", "leaf")
    assert known.parents == ("top", "other")
    assert storage.catalog.task("flow", "other").blob_id in str(known.inputs)
    assert run(leaf, storage=storage, on_stale="error") == ["leaf", [["top"]], 5]


def test_lineage_is_that_of_a_local_run(storage: FileStorage, tmp_path: Path) -> None:
    """Code, arguments and parents' blobs are recorded as LocalWorkflow does, with time and place of the worker."""
    leaf = step(tmp_path, "leaf", give(7).set_name("number")).set_name("leaf")
    run(leaf, storage=storage)
    known, number = storage.catalog.task("flow", "leaf"), storage.catalog.task("flow", "number")
    assert known.inputs is not None
    assert known.inputs["*2"] == f"blob:{number.blob_id}"
    assert known.run_id == number.run_id
    assert known.duration is not None
    assert 0 < known.duration < 10
    assert known.pid != os.getpid()
    query = "SELECT details->>'ray_node', details->>'pid' FROM events WHERE event = 'save' AND task = 'leaf'"
    (place,) = storage.catalog.sql(query).fetchall()
    assert place == (ray.get_runtime_context().get_node_id(), str(known.pid))


def test_coroutines_are_awaited(storage: FileStorage) -> None:
    """What is asynchronous is awaited on its worker, what cannot be awaited is refused there, and not stored."""

    @workflow
    async def double(value: int) -> int:
        return 2 * value

    @workflow
    async def generate() -> AsyncIterator[int]:
        yield 1

    assert run(double(double(1)).set_name("n"), storage=storage) == 4
    with pytest.raises(InvalidResult, match="generate' returned"):
        run(generate().set_name("m"), storage=storage)
    assert not storage.file_exists(flow(double(1)).workflow_name, "m")


def test_results_are_of_the_scripts_own_classes(tmp_path: Path) -> None:
    """What workers save of a script's classes is of those on other workers, which read it, and in the script again."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import dataclasses, enum
            import ray
            from functionfuse import workflow
            from functionfuse.backends.builtin.rayback import RayWorkflow
            from functionfuse.storage.filestorage import FileStorage

            class Mode(enum.Enum):
                FAST = 1

            @dataclasses.dataclass
            class Point:
                x: int

            @workflow
            def make():
                return [Mode.FAST, Point(1)]

            @workflow
            def check(made):
                return [made[0] is Mode.FAST, made[1] == Point(1)]

            if __name__ == "__main__":
                ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
                for _ in range(2):
                    made = make().set_name("made")
                    graph = RayWorkflow(check(made).set_name("checked"), workflow_name="w")
                    graph.set_storage(FileStorage("store"))
                    assert graph.run(recompute="checked", return_results=True) == [True, True]
                    assert made.result[0] is Mode.FAST and made.result[1] == Point(1)
            """
        )
    )
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_staleness_is_that_of_a_local_run(storage: FileStorage) -> None:
    """A stored result of other arguments is warned of, refused or computed anew, as told."""
    run(give(1).set_name("n"), storage=storage)
    changed = give(2).set_name("n")
    with pytest.warns(StaleResultWarning, match="'n'") as caught:
        flow(changed, storage=storage).run()
    assert caught[0].filename == __file__
    with pytest.raises(StaleResult, match="'n'"):
        run(changed, storage=storage, on_stale="error")
    assert run(changed, storage=storage, on_stale="recompute") == 2


def test_recompute_and_log_nodes(storage: FileStorage, tmp_path: Path) -> None:
    """`recompute` and `log_nodes` do as in a local run."""
    top = step(tmp_path, "top").set_name("top")
    leaf = step(tmp_path, "leaf", step(tmp_path, "middle", top).set_name("middle")).set_name("leaf")
    graph = flow(leaf, storage=storage)
    graph.log_nodes("mid.*")
    graph.run()
    assert sorted(storage.stored("flow")) == ["leaf", "top"]
    traces(tmp_path)
    graph.run(recompute="leaf")
    assert traces(tmp_path) == ["middle", "leaf"]


def test_always_read_hands_on_what_was_read(storage: FileStorage) -> None:
    """With `always_read` the next node gets the result as it is read back."""
    storage.always_read = True
    assert run(workflow(type)(array(1)), storage=storage).__name__ in ("ndarray", "memmap")
    assert run(total(array(1, 1)), storage=storage) == 10


def test_serializers_work_on_workers(storage: FileStorage) -> None:
    """A registered serializer writes and reads on the workers."""
    storage.register_persistent_serializers(NoteSerializer)
    note = give([Note("one")]).set_name("note")
    assert run(give(note), storage=storage) == [Note("one")]
    assert storage.catalog.task("flow", "note").serializers == ("pickle", "NoteSerializer")


def test_large_arguments_are_put_once(storage: FileStorage) -> None:
    """A large plain argument of many nodes comes to each, and is put into Ray's store once."""
    data = np.ones(4 << 20, dtype=np.uint8)
    before = stored_bytes()
    assert run(total(*[total(data) for _ in range(20)]).set_name("sum")) == 20 * 10
    assert stored_bytes() - before < 3 * data.nbytes


def test_large_arguments_with_nodes_in_them(storage: FileStorage) -> None:
    """However large a container is, and however many nodes are in it, their results take their places."""
    data = "x" * 200_000
    assert run(give({"number": give(7), "data": data}), storage=storage) == {"number": 7, "data": data}
    assert run(give([[give(7)], data]).set_name("list")) == [[7], data]


def stored_bytes() -> int:
    """Return how many bytes are in Ray's object store."""
    free = ray.available_resources().get("object_store_memory", 0)
    return int(ray.cluster_resources()["object_store_memory"] - free)


# Order and resources


def test_a_deep_graph_needs_one_core(storage: FileStorage) -> None:
    """A chain deeper than there are cores finishes when each node takes all of them."""
    node = give(0)
    largest = workflow(max)
    for number in range(1, 30):
        node = largest(number, node)
    graph = flow(node, storage=storage)
    graph.query().set_remote_args({"num_cpus": 2})
    assert graph.run(return_results=True) == 29


@workflow
def count(folder: Path) -> int:
    """Return how many of these run at once."""
    mark = folder / f"{os.getpid()}-{time.monotonic_ns()}"
    mark.touch()
    time.sleep(0.05)
    running = len(list(folder.iterdir()))
    mark.unlink()
    return running


def test_a_wide_graph_keeps_to_its_bound(tmp_path: Path) -> None:
    """`max_pending_tasks` bounds how many nodes Ray has at once."""
    graph = flow(*[count(tmp_path) for _ in range(20)])
    assert max(graph.run(return_results=True, max_pending_tasks=1)) == 1
    assert max(graph.run(return_results=True)) == 2
    with pytest.raises(ValueError, match="max_pending_tasks=-1"):
        graph.run(max_pending_tasks=-1)


@workflow
def fail_at(number: int, limit: int) -> int:
    """Fail from a number on."""
    if number >= limit:
        raise Failure(number)
    return number


def test_small_nodes_go_together(storage: FileStorage) -> None:
    """Of many quick nodes several are one task; each has its own result, record and failure."""
    nodes = [fail_at(number, 300).set_name(f"n{number}") for number in range(310)]
    assert run(total(*nodes[:300]), storage=storage) == sum(range(300))
    query = "SELECT count(DISTINCT blob_id), count(duration), max(value::INT) FROM tasks WHERE task LIKE 'n%'"
    assert storage.catalog.sql(query).fetchall() == [(300, 300, 299)]
    other = [fail_at(number, 150).set_name(f"n{number}") for number in range(200)]
    graph = RayWorkflow(total(*other), workflow_name="other")
    graph.set_storage(storage)
    with pytest.raises(Failure) as caught:
        graph.run()
    assert f"in node 'n{caught.value.code}' of workflow 'other'" in caught.value.__notes__
    assert len(storage.list_tasks("other")) >= 100


def test_a_chain_of_small_nodes_goes_together(storage: FileStorage) -> None:
    """Of a chain of quick nodes several are one task, and records are those of a local run all the same."""
    node = fail_at(0, 10**6).set_name("c0")
    for number in range(1, 100):
        node = fail_at(node, 10**6).set_name(f"c{number}")
    side = give(node.parents[0]).set_name("side")
    assert run(node, side, storage=storage) == [0, 0]
    ids = dict(storage.catalog.sql("SELECT task, blob_id::VARCHAR FROM tasks").fetchall())
    assert len(ids) == 101
    query = "SELECT task, inputs->>'number', parents FROM tasks WHERE task LIKE 'c%' AND task != 'c0'"
    for task, parent, parents in storage.catalog.sql(query).fetchall():
        before = f"c{int(task[1:]) - 1}"
        assert (parent, parents) == (f"blob:{ids[before]}", [before])
    assert flow(node, side, storage=storage, on_stale="error").run() is None
    failing = fail_at(node, 0).set_name("end")
    with pytest.raises(Failure) as caught:
        flow(failing).run()
    assert "in node 'end' of workflow 'flow'" in caught.value.__notes__


@workflow
def die_at(number: int, where: int) -> int:
    """Kill the worker for one argument, and return the others at once."""
    if number == where:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_death_among_small_nodes_names_its_node(storage: FileStorage) -> None:
    """What is stored tells which of several nodes in one task killed the worker; without a storage any may have."""
    nodes = [die_at(number, 150).set_name(f"n{number}") for number in range(200)]
    for name in ("n150", r"n\d+', or one of \d+ that went with it,"):
        graph = RayWorkflow(total(*nodes), workflow_name="deadly")
        if name == "n150":
            graph.set_storage(storage)
        with pytest.raises(ray.exceptions.WorkerCrashedError) as caught:
            graph.run()
        assert re.search(f"in node '{name}", "".join(caught.value.__notes__))
    assert [task for (task,) in storage.catalog.events(event="task-failed").project("task").fetchall()] == ["n150"]


# Objects


def test_methods_run_in_order_on_one_actor() -> None:
    """An object is made once, in one other process; its methods run in the order of their calls."""
    account = Account(give(1))
    nodes = [account.add(amount) for amount in (2, give(3), 4)]
    other = Account()
    results = run(*nodes, account.where(), other.where(), other.add(nodes[1]))
    assert results[:3] == [3, 6, 10]
    assert results[3] != results[4]
    assert os.getpid() not in results[3:5]
    assert results[5] == 6


def test_an_object_as_an_argument_is_as_it_was_then(storage: FileStorage) -> None:
    """A function gets the object after the methods called until then; so does another object's method, and a leaf."""
    account = Account(1)
    account.add(1)
    early = total_of(account)
    account.add(10)
    late = total_of(account, give(0))
    other = Account(100)
    merged = other.merge(account)
    assert run(early, late, merged, account.add(0), storage=storage) == [2, 12, 112, 12]
    assert run(other, storage=storage).total == 112


@workflow
def grow(rows: list[Any], *_: Any) -> list[Any]:
    """Change an argument, and return it."""
    rows.append(len(rows))
    return rows


@workflow
def last_of(rows: list[Any], *_: Any) -> Any:
    """Return the last row."""
    return rows[-1]


@workflow
class Book:
    """An object that hands out a part of itself."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> list[str]:
        """Add a line, and return all."""
        self.lines.append(line)
        return self.lines


@workflow
def torn(book: Any) -> int:
    """Clear a book."""
    count = len(book.lines)
    book.lines.clear()
    return count


@pytest.mark.parametrize("size", [2, 50_000])
@pytest.mark.parametrize("is_stored", [False, True])
def test_nobody_sees_what_another_node_changed(storage: FileStorage, is_stored: bool, size: int) -> None:
    """Nodes that change their arguments in place, many of them in one task, change them for nobody else; as locally."""
    rows = give(list(range(size)))
    for _ in range(2):
        users = [(grow if number % 2 else last_of)(rows, number) for number in range(60)]
        below = [last_of(grow(user)) for user in users if user.code.__name__ == "grow"]
        book = Book()
        written, removed, more = book.write("a"), torn(book), book.write("b")
        cleared = grow(written)
        leaves = (*users[::2], *below, rows[-1], written, removed, more, cleared)
        expected = [*[size - 1] * 30, *[size + 1] * 30, size - 1, ["a"], 1, ["a", "b"], ["a", 1]]
        graph = flow(*leaves, storage=storage if is_stored else None)
        assert graph.run(return_results=True) == expected
        if size == 2:
            local = LocalWorkflow(*leaves, workflow_name="local")
            assert local.run() == expected


def test_actors_take_options_and_end(storage: FileStorage) -> None:
    """A class's remote arguments are its actor's; no actor is left when the run is over."""
    account = Account()
    graph = flow(account.add(1), storage=storage)
    graph.query("Account_.*").set_remote_args({"num_cpus": 0, "resources": {"_disk": 1}})
    assert graph.run(return_results=True) == 1
    deadline = time.monotonic() + 240
    while ray.available_resources().get("_disk") != 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["_disk"] == 1


# Plugins


@workflow
def draw(*after: Any) -> float:
    """Return a random number."""
    return random.random()


@workflow
def variable(name: str) -> str | None:
    """Return what a variable of the environment is."""
    return os.environ.get(name)


def test_plugins_prepare_their_nodes() -> None:
    """A plugin runs in the worker before its nodes; a collection of them in order; the last one set counts."""
    graph = flow(variable("PREPARED").set_name("a"), variable("OTHER").set_name("b"))
    graph.set_plugin(".*", InitializerPlugin(lambda: os.environ.update(PREPARED="wrong")))
    graph.query("a").set_plugin(
        PluginCollection([Plugin(), InitializerPlugin(lambda: os.environ.update(PREPARED="yes"))])
    )
    assert graph.run(return_results=True) == ["yes", None]
    with pytest.raises(TypeError, match="PluginCollection"):
        graph.set_plugin(".*", [Plugin()])  # type: ignore[arg-type]


def test_seeds_are_the_same_in_every_run(storage: FileStorage) -> None:
    """Each node has its seed, in every run, whatever is stored; one plugin on two queries goes on drawing."""
    nodes = [draw().set_name(f"n{number}") for number in range(4)]
    graph = flow(*nodes, storage=storage)
    plugin = RandomStatePlugin(0, 2**32, 7, random.seed)
    graph.set_plugin("n[01]", plugin)
    graph.set_plugin("n[23]", plugin)
    first = graph.run(return_results=True)
    assert len(set(first)) == 4
    storage.remove_task("flow", "n2")
    assert graph.run(return_results=True) == first
    assert flow(*nodes).run() is None
    again = flow(*nodes)
    again.set_plugin(".*", RandomStatePlugin(0, 2**32, 7, random.seed))
    assert again.run(return_results=True) == first


# Failures


def test_an_exception_arrives_as_itself(storage: FileStorage) -> None:
    """A node's exception has its type and attributes, notes with node and workflow, and Ray's account as cause."""
    graph = flow(give(fail(3).set_name("bad")), give("good").set_name("good"), storage=storage)
    with pytest.raises(Failure) as caught:
        graph.run()
    assert type(caught.value) is Failure
    assert caught.value.code == 3
    assert "in node 'bad' of workflow 'flow'" in caught.value.__notes__
    assert isinstance(caught.value.__cause__, ray.exceptions.RayTaskError)
    assert "raise Failure(code)" in str(caught.value.__cause__)
    ((task, details),) = storage.catalog.events(event="task-failed").project("task, details").fetchall()
    assert task == "bad"
    assert "raise Failure(code)" in json.loads(details)["traceback"]
    assert storage.catalog.runs().project("status").fetchall() == [("failed",)]


@workflow
def slow(folder: Path, seconds: float) -> None:
    """Sleep, leaving traces before and after."""
    trace(folder, "begun")
    time.sleep(seconds)
    trace(folder, "ended")


@workflow
def fail_after(folder: Path, label: str, *parents: Any) -> None:
    """Fail when another node has begun."""
    for _ in range(500):
        if (folder / "calls").exists() and label in (folder / "calls").read_text():
            raise Failure(1)
        time.sleep(0.02)


def test_a_failure_cancels_what_runs(storage: FileStorage, tmp_path: Path) -> None:
    """When a node fails the others are cancelled soon, and nothing runs on; what was finished is stored."""
    good = give("good").set_name("good")
    graph = flow(slow(tmp_path, 250), fail_after(tmp_path, "begun", good).set_name("bad"), storage=storage)
    began = time.monotonic()
    with pytest.raises(Failure):
        graph.run()
    assert time.monotonic() - began < 120
    assert traces(tmp_path) == ["begun"]
    assert storage.list_tasks("flow") == ["good"]
    events = storage.catalog.events(event="task-failed").project("task").fetchall()
    assert events == [("bad",)]


def test_an_interrupt_ends_the_run(storage: FileStorage, tmp_path: Path) -> None:
    """Ctrl-C cancels what runs; the run is recorded as interrupted."""
    graph = flow(slow(tmp_path, 30), storage=storage)

    def interrupt() -> None:
        while not (tmp_path / "calls").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
        while not is_over.wait(15):  # one that strikes while Ray lets go of an object is lost: who waits presses again
            os.kill(os.getpid(), signal.SIGINT)

    is_over = threading.Event()
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        graph.run()
    is_over.set()
    thread.join()
    assert traces(tmp_path) == ["begun"]
    assert storage.catalog.runs().project("status").fetchall() == [("interrupted",)]


@workflow
def die_once(folder: Path, value: Any) -> Any:
    """Kill the worker at the first attempt."""
    trace(folder, "attempt")
    if len((folder / "calls").read_text().splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def test_a_killed_worker_is_begun_again(storage: FileStorage, tmp_path: Path) -> None:
    """Ray begins the node of a worker that was killed anew, and its result is saved once."""
    assert run(give(die_once(tmp_path, "alive").set_name("d")), storage=storage) == "alive"
    assert traces(tmp_path) == ["attempt", "attempt"]
    assert len(storage.catalog.events(task="d", event="save").fetchall()) == 1


def test_what_was_saved_before_a_worker_died_is_not_computed_again(storage: FileStorage, tmp_path: Path) -> None:
    """A worker killed after its save: the second attempt reads what the first one saved."""

    class Deadly(FileStorage):
        def keep(self, *arguments: Any, **options: Any) -> str:
            blob_id = super().keep(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)
            return blob_id

    deadly = Deadly(tmp_path / "store")
    assert run(step(tmp_path, "once").set_name("d"), storage=deadly) == ["once"]
    assert traces(tmp_path) == ["once"]
    assert len(storage.catalog.events(task="d", event="save").fetchall()) == 1


def test_a_dead_actor_is_an_error(tmp_path: Path) -> None:
    """An object whose process dies is lost with its state: an error that names the node."""

    @workflow
    class Mortal:
        def die(self) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ray.exceptions.ActorDiedError) as caught:
        flow(Mortal().die().set_name("last")).run()
    assert "in node 'last' of workflow 'flow'" in caught.value.__notes__


def test_a_constructor_fails_as_itself() -> None:
    """The exception of a constructor arrives as itself, not as the death of an actor."""

    @workflow
    class Faulty:
        def __init__(self) -> None:
            raise Failure(9)

        def method(self) -> None:
            pass

    with pytest.raises(Failure) as caught:
        flow(Faulty().method()).run()
    assert caught.value.code == 9


@pytest.mark.usefixtures("impatient")
def test_resources_that_nobody_has_are_reported() -> None:
    """A node that no node of the cluster can run is an error in seconds, which says what is lacking."""
    graph = flow(give(1).set_name("greedy"))
    graph.query("greedy").set_remote_args({"resources": {"quantum": 1}})
    began = time.monotonic()
    with pytest.raises(InfeasibleResources, match="quantum: 1"):
        graph.run()
    assert time.monotonic() - began < 120
    actor = flow(Account().add(1))
    actor.query("Account_....").set_remote_args({"num_cpus": 64})
    with pytest.raises(InfeasibleResources, match="CPU: 64"):
        actor.run()


def test_damaged_results_are_blamed_on_their_node(storage: FileStorage, tmp_path: Path) -> None:
    """A stored result that a worker cannot read names its own node, not the one that needed it."""
    stored = give("data").set_name("stored")
    run(stored, storage=storage)
    path = tmp_path / "store" / "flow" / "stored"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(InvalidPickle) as caught:
        flow(give(stored).set_name("below"), storage=storage).run()
    assert "in node 'stored' of workflow 'flow'" in caught.value.__notes__
    assert "in node 'below' of workflow 'flow'" not in caught.value.__notes__


def test_a_missing_item_fails_where_it_is_wanted() -> None:
    """A key that the result does not have is an error of the node that wants the item."""
    source = give({"a": 1}).set_name("source")
    assert run(give(source["a"])) == 1
    with pytest.raises(KeyError) as caught:
        run(give(source["b"]).set_name("below"), give(source["a"]))
    assert "in node 'below' of workflow 'flow'" in caught.value.__notes__


def test_what_cannot_be_kept_names_its_node(storage: FileStorage) -> None:
    """A result that cannot become bytes is refused as in a local run."""
    with pytest.raises(UnpicklableResult, match="'lock' of workflow 'flow'"):
        flow(workflow(threading.Lock)().set_name("lock"), storage=storage).run()


def test_an_exit_is_an_error() -> None:
    """A node that wants to end its process fails, and is not begun again."""
    with pytest.raises(RuntimeError, match=r"sys.exit\(4\)"):
        flow(workflow(exit)(4)).run()


def test_remote_arguments_are_checked() -> None:
    """What is no dictionary, or what the workflow sets itself, is refused at once."""
    query = flow(give(1)).query()
    with pytest.raises(TypeError, match="num_cpus"):
        query.set_remote_args([1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_returns"):
        query.set_remote_args({"num_returns": 2})
    with pytest.raises(TypeError, match="ray_init_args"):
        RayWorkflow(give(1), workflow_name="flow", ray_init_args=3)  # type: ignore[arg-type]


def test_a_workflow_pickles_nothing_of_the_driver(storage: FileStorage) -> None:
    """Two threads run workflows of one storage at once; a workflow runs inside a Ray task, too."""
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(run(give(n).set_name(f"n{n}"), storage=storage)))  # type: ignore[misc]
        for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1]
    packed = pickle.dumps(storage)

    @ray.remote
    def inside() -> Any:
        return run(give(give("inside").set_name("in")).set_name("out"), storage=pickle.loads(packed))

    assert ray.get(inside.remote()) == "inside"


def test_the_page_on_ray_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ``python`` blocks of the page run as a script, here on the Ray that is up already."""
    page = Path(__file__).resolve().parents[2] / "docs" / "ray.md"
    script = tmp_path / "page.py"
    script.write_text(program(page.read_text(encoding="utf-8")), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))
    assert len(FileStorage(tmp_path / "results").list_tasks("simulations", "simulate_*")) == 20
