"""Every backend over every kind of storage: one contract, on real Ray, a real S3 server and real files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.backends.builtin.rayback import RayWorkflow
from functionfuse.errors import NestedCall, StaleResult, TaskNotFound, UnpicklableResult
from functionfuse.storage import storage_factory
from functionfuse.storage.base import Storage
from functionfuse.testing import Note, NoteSerializer
from raying import MARKS, one_node, ray, trace, traces

np = pytest.importorskip("numpy")

pytestmark = MARKS

BACKENDS = ("local", "ray")
KINDS = ("file", "ray", "S3", "fsspec")


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with one_node(log_to_driver=False):
        yield


@pytest.fixture(autouse=True)
def no_leaked_files() -> None:
    """Ray opens connections as it needs them: not watched here."""


@workflow
def step(folder: Path, label: str, *parts: Any) -> list[Any]:
    """Leave a trace, and return what was given."""
    trace(folder, label)
    return [label, *parts]


@workflow
def give(value: Any, *after: Any) -> Any:
    """Return the argument."""
    return value


@workflow
def fail(*parents: Any) -> None:
    """Fail."""
    raise LookupError("nothing here")


@workflow
def table(rows: int) -> Any:
    """Return a table of Arrow."""
    pa = pytest.importorskip("pyarrow")
    return pa.table({"n": list(range(rows)), "text": ["x"] * rows})


@workflow
def grid(size: int) -> Any:
    """Return a lazy array of four chunks."""
    da = pytest.importorskip("dask.array")
    return da.arange(size * size, chunks=size * size // 4).reshape(size, size)


@workflow
def total(array: Any) -> int:
    """Return the sum of an array, of whatever kind."""
    return int(array.sum())


@workflow
class Account:
    """An object with a state."""

    def __init__(self, start: int) -> None:
        self.total = start

    def add(self, amount: int) -> int:
        """Add to the total and return it."""
        self.total += amount
        return self.total


@dataclass(frozen=True)
class Pair:
    """A backend and a storage.

    Attributes
    ----------
    backend : str
        ``"local"`` or ``"ray"``.
    config : dict
        What opens the storage.
    folder : Path
        Where nodes leave traces.
    """

    backend: str
    config: dict[str, Any]
    folder: Path

    def open(self) -> Storage:
        """Open the storage anew."""
        return storage_factory(self.config)

    def flow(self, *leaves: Any, storage: Storage | None = None, **options: Any) -> Any:
        """Return a workflow over the storage."""
        kind = LocalWorkflow if self.backend == "local" else RayWorkflow
        made = kind(*leaves, workflow_name="flow", **options)
        made.set_storage(storage or self.open())
        return made

    def run(self, *leaves: Any, recompute: str | None = None, **options: Any) -> Any:
        """Run a workflow and return the leaves' results."""
        made = self.flow(*leaves, **options)
        return made.run(recompute=recompute, **({} if self.backend == "local" else {"return_results": True}))

    def other(self) -> Pair:
        """Return the other backend over the same storage."""
        return Pair(next(each for each in BACKENDS if each != self.backend), self.config, self.folder)


@pytest.fixture(params=KINDS)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Return the configuration of a new storage of each kind."""
    if request.param == "S3":
        endpoint = request.getfixturevalue("s3server").endpoint
        return dict(endpoint.config(endpoint.prefix()))
    if request.param == "fsspec":
        return {"kind": "fsspec", "options": {"url": f"file://{tmp_path}/storage"}}
    options: dict[str, Any] = {"path": str(tmp_path / "storage")}
    if request.param == "ray":
        options["remoteArgs"] = {"resources": {"_disk": 0.001}}
    return {"kind": request.param, "options": options}


@pytest.fixture(params=BACKENDS)
def pair(request: pytest.FixtureRequest, config: dict[str, Any], tmp_path: Path) -> Pair:
    """Return each backend over each storage."""
    return Pair(request.param, config, tmp_path)


def test_what_is_stored_is_not_computed(pair: Pair) -> None:
    """All is durable when `run` returns; a second run, of either backend, restores the leaf alone."""
    top = step(pair.folder, "top").set_name("top")
    leaf = step(pair.folder, "leaf", [top], top[0]).set_name("leaf")
    expected = ["leaf", [["top"]], "top"]
    assert pair.run(leaf) == expected
    assert traces(pair.folder) == ["top", "leaf"]
    assert {name: pair.open().read_task("flow", name) for name in ("top", "leaf")} == {"top": ["top"], "leaf": expected}
    assert pair.run(leaf, on_stale="error") == pair.other().run(leaf, on_stale="error") == expected
    assert traces(pair.folder) == []
    runs = pair.open().catalog.runs(order_by="started").project("backend, status, computed, restored").fetchall()
    others = pair.other().backend
    assert runs == [(pair.backend, "finished", 2, 0), (pair.backend, "finished", 0, 1), (others, "finished", 0, 1)]


def test_leaves_come_back_in_their_containers(pair: Pair) -> None:
    """The nodes in a list or dict of leaves are replaced by their results, computed or restored, at any depth."""
    for _ in range(2):
        first, second = give(1).set_name("first"), give([2, 3]).set_name("second")
        leaves = {"one": first, "both": [first, (second, second[1])]}
        assert pair.run(leaves) == {"one": 1, "both": [1, ([2, 3], 3)]}
        assert pair.run([first], second) == [[1], [2, 3]]


def test_what_is_needed_is_restored(pair: Pair) -> None:
    """A new node gets the stored results that it needs, and its record names their blobs."""
    top, other = step(pair.folder, "top").set_name("top"), give({"a": 5}).set_name("other")
    pair.run(top, other)
    assert traces(pair.folder) == ["top"]
    assert pair.run(step(pair.folder, "leaf", top, other["a"]).set_name("leaf")) == ["leaf", ["top"], 5]
    assert traces(pair.folder) == ["leaf"]
    catalog = pair.open().catalog
    known = catalog.task("flow", "leaf")
    assert known.parents == ("top", "other")
    assert known.inputs is not None
    assert known.inputs["*2"] == f"blob:{catalog.task('flow', 'top').blob_id}"
    assert known.duration is not None
    with pytest.raises(StaleResult, match="'other'"):
        pair.run(give({"a": 6}).set_name("other"), on_stale="error")


def test_a_removed_result_is_computed_again(pair: Pair) -> None:
    """After a removal by pattern, and with `recompute`, what is gone or named is computed, and nothing else."""
    nodes = [step(pair.folder, f"n{number}").set_name(f"n{number}") for number in range(4)]
    pair.run(*nodes)
    traces(pair.folder)
    pair.open().remove_task("flow", pattern="n[12]")
    assert pair.run(*nodes) == [["n0"], ["n1"], ["n2"], ["n3"]]
    assert sorted(traces(pair.folder)) == ["n1", "n2"]
    pair.run(*nodes, recompute="n3")
    assert traces(pair.folder) == ["n3"]
    catalog = pair.open().catalog
    counts = "SELECT task, count(*) FROM events WHERE event = 'save' GROUP BY task ORDER BY task"
    assert catalog.sql(counts).fetchall() == [("n0", 1), ("n1", 2), ("n2", 2), ("n3", 2)]


def test_the_catalog_and_the_bytes_agree(pair: Pair) -> None:
    """Every result is listed once, by SQL, glob and date, and verification finds nothing amiss."""
    pair.run(*[give(number).set_name(f"n{number:02}") for number in range(30)])
    storage = pair.open()
    assert storage.list_tasks("flow") == [f"n{number:02}" for number in range(30)]
    assert storage.list_tasks("flow", pattern="n1*") == [f"n{number}" for number in range(10, 20)]
    assert storage.catalog.sql("SELECT sum(value::INT) FROM tasks").fetchall() == [(sum(range(30)),)]
    report = storage.verify()
    assert (report.missing, report.unlisted, report.damaged, report.orphans) == ((), (), (), ())
    storage.remove_workflow("flow")
    with pytest.raises(TaskNotFound):
        storage.read_task("flow", "n00")
    assert pair.open().list_tasks("flow") == []


def test_a_failure_keeps_what_was_finished(pair: Pair) -> None:
    """The exception arrives as itself, with its node; what was finished is stored, and the next run goes on there."""
    done = step(pair.folder, "done").set_name("done")
    with pytest.raises(LookupError, match="nothing here") as caught:
        pair.run(fail(done).set_name("broken"))
    assert any("'broken'" in note for note in getattr(caught.value, "__notes__", ["'broken'"]))
    storage = pair.open()
    assert storage.list_tasks("flow") == ["done"]
    assert storage.catalog.runs().project("status").fetchall() == [("failed",)]
    told = storage.catalog.sql("SELECT task, details->>'error' FROM events WHERE event = 'task-failed'").fetchall()
    assert told == [("broken", "LookupError('nothing here')")]
    assert pair.run(step(pair.folder, "leaf", done)) == ["leaf", ["done"]]
    assert traces(pair.folder) == ["done", "leaf"]


def test_what_cannot_be_kept_leaves_nothing(pair: Pair) -> None:
    """A result that nothing can pickle fails the run with its node's name; no part of it is left."""
    with pytest.raises(UnpicklableResult, match="'locked'"):
        pair.run(workflow(threading.Lock)().set_name("locked"))
    assert pair.open().list_tasks("flow") == []
    assert pair.open().verify().orphans == ()


@pytest.mark.parametrize("nested", ["node", "item", "stand-in", "in a dict"])
def test_a_node_is_no_result(pair: Pair, nested: str) -> None:
    """A decorated function that calls another one and returns the node fails by name, and nothing is stored."""

    def outer(value: int) -> Any:
        made = {
            "node": lambda: give(value),
            "item": lambda: give([value])[0],
            "stand-in": lambda: Account(value),
            "in a dict": lambda: {"sums": [1, (give(value),)]},
        }
        return made[nested]()

    with pytest.raises(NestedCall, match=r"outer' returned <(Node|Item|StandIn) .*__wrapped__"):
        pair.run(workflow(outer)(1).set_name("outer"))
    assert pair.open().list_tasks("flow") == []


def test_a_method_returns_no_node(pair: Pair) -> None:
    """The same holds for methods, whose results are not stored, but handed on."""

    class Maker:
        def make(self) -> Any:
            return give(1)

    made = workflow(Maker)().make()
    with pytest.raises(NestedCall, match="the method 'make' returned <Node"):
        pair.run(give(made).set_name("given"))


def test_the_plain_function_is_called_inside_another_one(pair: Pair) -> None:
    """What the message advises is a value like any other."""

    def outer(value: int) -> Any:
        return [give.__wrapped__(value)]

    assert pair.run(workflow(outer)(1).set_name("outer")) == [1]


def test_objects_keep_the_order_of_their_methods(pair: Pair) -> None:
    """Methods act in the order of the program, on an object that is made anew; what is computed from them is stored."""
    account = Account(10)
    first, second = account.add(1), account.add(5)
    leaf = step(pair.folder, "leaf", first, second).set_name("leaf")
    assert pair.run(leaf) == ["leaf", 11, 16]
    assert pair.open().list_tasks("flow") == ["leaf"]
    assert pair.run(leaf, second) == [["leaf", 11, 16], 16]
    assert traces(pair.folder) == ["leaf"]


def test_large_results_come_back(pair: Pair) -> None:
    """Arrays of many megabytes are stored whole, handed on, and read back equal."""
    data = np.random.default_rng(3).integers(0, 255, 24 << 20, dtype=np.uint8)
    big = give(data).set_name("big")
    assert pair.run(total(big)) == int(data.sum())
    assert (pair.open().read_task("flow", "big") == data).all()
    assert pair.run(total(big[:1000]), on_stale="error") == int(data[:1000].sum())


def test_serializers_work_at_any_depth(pair: Pair) -> None:
    """A third party's serializer, tables and lazy arrays are kept by their serializers and handed on to other nodes."""
    pytest.importorskip("dask.array")
    pytest.importorskip("h5py")
    pytest.importorskip("zarr")

    def opened() -> Storage:
        storage = pair.open()
        storage.register_default_serializers()
        storage.register_persistent_serializers(NoteSerializer)
        return storage

    note = give({"deep": [Note("one")]}).set_name("note")
    lazy, rows = grid(40).set_name("lazy"), table(5).set_name("rows")
    leaves = (give(note["deep"][0]), total(lazy), give(rows))
    for _ in range(2):  # the second time from what is stored
        kept_note, kept_sum, kept_rows = pair.run(*leaves, storage=opened())
        assert kept_note == Note("one")
        assert kept_sum == sum(range(1600))
        assert kept_rows.to_pydict() == {"n": [0, 1, 2, 3, 4], "text": ["x"] * 5}
        opened().remove_task("flow", pattern="[gt][io][vt]*")  # the leaves
    assert int(opened().read_task("flow", "lazy")[0].compute().sum()) == sum(range(40))
    catalog = opened().catalog
    found = {name: catalog.task("flow", name).serializers for name in ("note", "lazy", "rows")}
    assert {name: [each for each in known if each != "pickle"] for name, known in found.items()} == {
        "note": ["NoteSerializer"],
        "lazy": ["HDFSerializer"],
        "rows": ["ArrowTableSerializer"],
    }
    assert catalog.sql("SELECT sum(n) FROM result('flow', 'rows')").fetchall() == [(10,)]


def test_always_read_hands_on_what_was_read(pair: Pair) -> None:
    """With `always_read` the next node gets what the storage gives back."""
    storage = pair.open()
    storage.always_read = True
    array = give(np.ones(1 << 20)).set_name("array")
    assert pair.run(total(array), storage=storage) == 1 << 20


def test_two_runs_at_once_share_a_storage(pair: Pair) -> None:
    """Two workflows that run at the same time, from two threads, store and list all of their own."""

    def one(name: str) -> Any:
        kind = LocalWorkflow if pair.backend == "local" else RayWorkflow
        made = kind(*[give(f"{name}{number}").set_name(f"n{number}") for number in range(10)], workflow_name=name)
        made.set_storage(pair.open())
        return made.run()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(one, ["a", "b"]))
    storage = pair.open()
    assert storage.catalog.sql("SELECT workflow, count(*) FROM tasks GROUP BY ALL ORDER BY ALL").fetchall() == [
        ("a", 10),
        ("b", 10),
    ]
    assert storage.read_task("b", "n7") == "b7"


def test_ray_is_there() -> None:
    """The runs above were on the cluster that this file began."""
    assert ray.is_initialized()
