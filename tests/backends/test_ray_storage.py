"""The storage on a node's disk: the contract of every storage, and workflows of both backends with it."""

from __future__ import annotations

import itertools
import os
import pickle
import runpy
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import CatalogUnusable, InvalidQuestion, NoSuchTask
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.backends.builtin.rayback import RayWorkflow
from functionfuse.errors import InvalidConfiguration, StorageUnusable, TaskNotFound
from functionfuse.storage import Storage, storage_factory
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.rayfilestorage import FileStorage as RayFileStorage
from functionfuse.testing import Note, NoteSerializer, StorageContract
from raying import MARKS, one_node, ray, trace, traces

np = pytest.importorskip("numpy")

pytestmark = MARKS

REMOTE = {"resources": {"_disk": 0.001}}


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[str]:
    with one_node() as info:
        yield info["address"]


@pytest.fixture(autouse=True)
def no_leaked_files() -> None:
    """Ray opens connections as it needs them: not watched here."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the path of a new storage."""
    return tmp_path / "store"


@pytest.fixture
def storage(root: Path) -> RayFileStorage:
    """Return a new storage."""
    return RayFileStorage(root, REMOTE)


class TestRayFileStorage(StorageContract):
    """The contract of storages, its bytes read on the disk by `pathlib`."""

    root: Path

    @pytest.fixture
    def open_storage(self, root: Path, _ray: str) -> Callable[[], Storage]:
        """Open the folder anew at each call, in both ways; another process finds the cluster by its address."""
        self.root = root
        options = {"path": str(root), "remoteArgs": REMOTE, "rayInitArgs": {"address": _ray, "log_to_driver": False}}
        ways = itertools.cycle(
            [lambda: RayFileStorage(**options), lambda: storage_factory({"kind": "ray", "options": options})]
        )
        return lambda: next(ways)()

    def blobs(self, storage: Storage) -> dict[str, bytes]:
        """Every file of a workflow's folder, and temporary ones: there must be none."""
        kept = (each for each in self.root.glob("*/*") if each.is_file() and each.parent.name != ".catalog")
        found = (*kept, *(each for each in self.root.glob(".catalog/tmp/**/*") if each.is_file()))
        return {str(each): each.read_bytes() for each in found}

    def put(self, storage: Storage, key: str, data: bytes) -> None:
        """Write the file in place."""
        Path(key).write_bytes(data)

    def side_files(self, storage: Storage) -> dict[str, bytes]:
        """Every file below ``bigdata``."""
        return {str(each): each.read_bytes() for each in self.root.glob("*/bigdata/**/*") if each.is_file()}

    def lose_side_files(self, storage: Storage) -> None:
        """Delete them."""
        for each in self.side_files(storage):
            os.unlink(each)


@workflow
def step(folder: Path, label: str, *parts: Any) -> list[Any]:
    """Leave a trace, and return what was given."""
    trace(folder, label)
    return [label, *parts]


@workflow
def give(value: Any) -> Any:
    """Return the argument."""
    return value


def flow(kind: type, *leaves: Any, storage: Storage, **options: Any) -> Any:
    """Return a workflow with a storage."""
    made = kind(*leaves, workflow_name="flow", **options)
    made.set_storage(storage)
    return made


@pytest.mark.parametrize("always_read", [False, True], ids=["object", "always_read"])
def test_a_ray_workflow_saves_and_restores(storage: RayFileStorage, tmp_path: Path, always_read: bool) -> None:
    """Every result is on the disk when `run` returns, and restored where it is needed; records are as elsewhere."""
    storage.always_read = always_read
    top = step(tmp_path, "top").set_name("top")
    leaf = step(tmp_path, "leaf", top, give(3)).set_name("leaf")
    assert flow(RayWorkflow, leaf, storage=storage).run(return_results=True) == ["leaf", ["top"], 3]
    assert traces(tmp_path) == ["top", "leaf"]
    assert FileStorage(storage.catalog.path).read_task("flow", "leaf") == ["leaf", ["top"], 3]
    known = storage.catalog.task("flow", "leaf")
    assert known.parents == ("top", next(name for name in storage.list_tasks("flow") if name.startswith("give")))
    assert storage.catalog.task("flow", "top").blob_id in str(known.inputs)
    assert known.duration is not None
    query = "SELECT details->>'ray_node' FROM events WHERE task = 'leaf' AND event = 'save'"
    assert storage.catalog.sql(query).fetchall() == [(ray.get_runtime_context().get_node_id(),)]
    below = give([top, leaf[1]]).set_name("below")
    assert flow(RayWorkflow, below, storage=storage).run(return_results=True) == [["top"], ["top"]]
    assert flow(RayWorkflow, leaf, storage=storage, on_stale="error").run(return_results=True) == ["leaf", ["top"], 3]
    assert traces(tmp_path) == []


def test_a_local_workflow_uses_it(storage: RayFileStorage, tmp_path: Path) -> None:
    """LocalWorkflow saves there and restores from there, what a RayWorkflow saved too."""
    leaf = step(tmp_path, "leaf", step(tmp_path, "top"))
    assert flow(LocalWorkflow, leaf, storage=storage).run() == ["leaf", ["top"]]
    assert flow(RayWorkflow, leaf, storage=storage).run() is None
    assert flow(LocalWorkflow, leaf, storage=storage).run() == ["leaf", ["top"]]
    assert traces(tmp_path) == ["top", "leaf"]
    backends = storage.catalog.runs(order_by="started").project("backend, computed, restored").fetchall()
    assert backends == [("local", 2, 0), ("ray", 0, 1), ("local", 0, 1)]


def test_serializers_work_on_the_disks_node(storage: RayFileStorage, root: Path) -> None:
    """What a driver registers takes part in saves and reads on the disk's node."""
    storage.register_persistent_serializers(NoteSerializer)
    note = give([Note("one")]).set_name("note")
    assert flow(RayWorkflow, give(note[0]), storage=storage).run(return_results=True) == Note("one")
    assert [each.read_text() for each in root.glob("flow/bigdata/**/*") if each.is_file()].count("one") == 2
    assert storage.read_task("flow", "note") == [Note("one")]


def test_arrays_travel_uncopied_and_large(storage: RayFileStorage) -> None:
    """An array of many megabytes is saved and comes back."""
    data = np.arange(4 << 20, dtype=np.int64)
    storage.save("w", "data", data)
    assert (storage.read_task("w", "data") == data).all()


def test_the_catalog_is_asked_there(storage: RayFileStorage) -> None:
    """Every question has its answer: relations, tasks, names, SQL, exports, verification; errors are themselves."""
    for number in range(3):
        storage.save("w", f"t{number}", number)
    catalog = storage.catalog
    assert catalog.tasks("w", limit=2).project("task").fetchall() == [("t0",), ("t1",)]
    assert catalog.events(event="save").fetchall()
    assert catalog.sql("SELECT sum(value::INT) FROM tasks WHERE task > $least", {"least": "t0"}).fetchall() == [(3,)]
    assert catalog.task("w", "t1").value == 1
    assert catalog.names("w", "t[12]") == ["t1", "t2"]
    assert catalog.verify().damaged == ()
    exported = Path(catalog.path).parent / "tasks.parquet"
    assert catalog.export(exported).rows == 3
    assert exported.exists()
    assert catalog.expired(keep_last=1).fetchall()
    assert catalog.rebuild() is not None
    with pytest.raises(NoSuchTask):
        catalog.task("w", "none")
    with pytest.raises(InvalidQuestion):
        catalog.sql("DELETE FROM tasks")
    assert "3" in (storage._repr_html_() or "")


def test_keeping_house(storage: RayFileStorage) -> None:
    """`gc`, `pin`, `unpin`, `verify` and removal work from afar."""
    for number in range(3):
        storage.save("w", f"t{number}", number)
    storage.pin("w", "t0")
    assert [row[1] for row in storage.gc(keep_last=1).fetchall()] == ["t1"]
    storage.gc(keep_last=1, dry_run=False)
    assert storage.list_tasks("w") == ["t0", "t2"]
    storage.unpin("w", "t0")
    storage.remove_task("w", pattern="t*")
    assert storage.list_tasks("w") == []
    with pytest.raises(TaskNotFound, match="'none' of workflow 'w'"):
        storage.pin("w", "none")


def desk() -> Any:
    """Return the actor that answers questions: the only one that is named."""
    (found,) = [each for each in ray.util.list_named_actors(all_namespaces=True) if each["name"].startswith("catalog-")]
    return ray.get_actor(found["name"], namespace=found["namespace"])


def test_one_desk_for_all_that_comes_back(storage: RayFileStorage) -> None:
    """Other storage objects ask the same actor; killed, it is begun again by Ray, or by the next question."""
    for actor in ray.util.list_named_actors(all_namespaces=True):
        ray.kill(ray.get_actor(actor["name"], namespace=actor["namespace"]))
    storage.save("w", "t", 1)
    assert storage.list_tasks("w") == ["t"]
    first = desk()
    assert pickle.loads(pickle.dumps(storage)).list_tasks("w") == ["t"]
    pid = ray.get(first.__ray_call__.remote(lambda self: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    assert storage.list_tasks("w") == ["t"]
    ray.kill(desk(), no_restart=True)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            assert storage.list_tasks("w") == ["t"]
            break
        except ray.exceptions.ActorDiedError:
            time.sleep(0.2)
    assert desk() is not None


@pytest.mark.usefixtures("impatient")
def test_a_disk_that_is_nowhere_is_an_error(root: Path) -> None:
    """Remote arguments that lead to no node are an error in seconds, for saves and for questions."""
    lost = RayFileStorage(root, {"resources": {"_other_disk": 1}})
    with pytest.raises(StorageUnusable, match="_other_disk: 1"):
        lost.save("w", "t", 1)
    with pytest.raises(StorageUnusable, match="_other_disk: 1"):
        lost.list_tasks("w")
    with pytest.raises(CatalogUnusable, match="_other_disk: 1"):
        lost.catalog.names("w")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "", "remoteArgs": {}}, "folder"),
        ({"path": "x", "remoteArgs": 3}, "remote function"),
        ({"path": "x", "remoteArgs": {}, "rayInitArgs": 3}, "ray.init"),
        ({"path": "x"}, "'remoteArgs'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    """A configuration that cannot work is refused when the storage is made."""
    with pytest.raises(InvalidConfiguration, match=message):
        storage_factory({"kind": "ray", "options": options})


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo workflow computes everything at first and nothing then; the results are on the disk."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    examples = Path(__file__).resolve().parents[2] / "examples"
    monkeypatch.syspath_prepend(examples)
    main = runpy.run_path(str(examples / "model_selection_ray.py"))["main"]
    main(tmp_path, {}, "_disk")
    assert "accuracy 0.9" in capsys.readouterr().out
    storage = FileStorage(tmp_path / "results")
    computed = len(storage.list_tasks("model-selection"))
    runs = storage.catalog.runs(order_by="started").project("backend, status, computed, restored").fetchall()
    assert runs == [("ray", "finished", computed, 0), ("ray", "finished", 0, 2)]
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
