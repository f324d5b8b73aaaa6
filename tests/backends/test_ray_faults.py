"""Workers, nodes and drivers that die at any moment of a run on a cluster of three nodes, over many rounds."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.rayback import RayWorkflow
from functionfuse.errors import StorageUnusable
from functionfuse.storage.base import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.rayfilestorage import FileStorage as RayFileStorage
from raying import MARKS, ray, settings, trace
from seeds import seeds

cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = MARKS

REMOTE = {"resources": {"_disk": 0.001}}
ROOT = Path(__file__).resolve().parents[2]


class Three:
    """A cluster of a head that computes nothing, a node with the disk, and one that comes and goes."""

    def __init__(self) -> None:
        options = {"object_store_memory": 100 << 20, "include_dashboard": False}
        self.cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **options})
        self.nodes: dict[str, Any] = {}
        self.complete()
        ray.init(address=self.cluster.address, log_to_driver=False)

    def complete(self) -> None:
        """Add the nodes that are gone."""
        for name, resource in (("disk", "_disk"), ("guest", "_guest")):
            if name not in self.nodes:
                options = {"num_cpus": 2, "resources": {resource: 1}, "object_store_memory": 100 << 20}
                self.nodes[name] = self.cluster.add_node(**options)

    def remove(self, name: str) -> None:
        """Kill a node."""
        self.cluster.remove_node(self.nodes.pop(name), allow_graceful=False)


@pytest.fixture(scope="module")
def whole() -> Iterator[Three]:
    """Run a cluster for all tests, and end it."""
    with settings():
        three = Three()
        try:
            yield three
        finally:
            ray.shutdown()
            three.cluster.shutdown()


@pytest.fixture
def cluster(whole: Three) -> Three:
    """Return the cluster with all of its nodes."""
    whole.complete()
    return whole


@pytest.fixture(autouse=True)
def no_leaked_files() -> None:
    """Ray opens connections as it needs them: not watched here."""


@workflow
def slow(folder: Path, number: int, *parts: Any) -> int:
    """Leave a trace, take a while, and return a sum."""
    trace(folder, str(number))
    time.sleep(0.05)
    return number + sum(parts)


def graph(folder: Path, storage: Storage) -> RayWorkflow:
    """Return a workflow of 30 nodes, of which each needs two others."""
    nodes: list[Any] = []
    for number in range(30):
        nodes.append(slow(folder, number, *nodes[-2:]).set_name(f"n{number:02}"))
    made = RayWorkflow(*nodes, workflow_name="flow")
    made.set_storage(storage)
    return made


def expected() -> list[int]:
    """Return the results of that workflow."""
    found: list[int] = []
    for number in range(30):
        found.append(number + sum(found[-2:]))
    return found


def pids(folder: Path) -> list[int]:
    """Return the processes that computed something, in the order in which they began."""
    path = folder / "calls"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [int(line.rpartition(" ")[2]) for line in lines]


def storage_of(kind: str, root: Path) -> Storage:
    """Return a storage in a folder that all nodes reach, or on the disk of one."""
    return RayFileStorage(root, REMOTE) if kind == "ray" else FileStorage(root)


def assert_whole(storage: Storage, root: Path) -> None:
    """Check that every result is there, right and listed once, and that nothing else is."""
    names = [f"n{number:02}" for number in range(30)]
    assert [storage.read_task("flow", name) for name in names] == expected()
    assert storage.list_tasks("flow") == names
    assert FileStorage(root).list_tasks("flow") == names
    saves = Counter(name for (name,) in storage.catalog.events(event="save").project("task").fetchall())
    assert saves == dict.fromkeys(names, 1)
    report = storage.verify()
    assert (report.missing, report.unlisted, report.damaged) == ((), (), ())


def in_thread(made: RayWorkflow) -> tuple[threading.Thread, list[Any]]:
    """Begin a run, and return what tells its end and outcome: the results or an exception."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(made.run(return_results=True))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def until_begun(folder: Path, count: int) -> None:
    """Wait until so many nodes have begun."""
    deadline = time.monotonic() + 240
    while len(pids(folder)) < count:
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ["file", "ray"])
@pytest.mark.parametrize("seed", seeds(0, 1, 2, 3))
def test_workers_are_killed(cluster: Three, tmp_path: Path, kind: str, seed: int) -> None:
    """Workers are killed at any moment, three times a run: it finishes, every result is right and saved once."""
    chance = random.Random(seed)
    root = tmp_path / "store"
    storage = storage_of(kind, root)
    thread, outcome = in_thread(graph(tmp_path, storage))
    for begun in sorted(chance.sample(range(1, 28), 3)):
        until_begun(tmp_path, begun)
        time.sleep(chance.uniform(0, 0.06))
        with suppress(ProcessLookupError):
            os.kill(pids(tmp_path)[-1], signal.SIGKILL)
    thread.join(240)
    assert outcome == [expected()]
    assert_whole(storage, root)


@pytest.mark.parametrize("kind", seeds("ray", "file"))
@pytest.mark.parametrize("seed", seeds(0, 1))
def test_a_node_is_lost(cluster: Three, tmp_path: Path, kind: str, seed: int) -> None:
    """The node beside the disk's is lost at any moment: the run finishes on the others, and nothing is saved twice."""
    chance = random.Random(seed)
    root = tmp_path / "store"
    storage = storage_of(kind, root)
    thread, outcome = in_thread(graph(tmp_path, storage))
    until_begun(tmp_path, chance.randrange(1, 25))
    cluster.remove("guest")
    thread.join(240)
    assert outcome == [expected()]
    assert_whole(storage, root)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("seed", seeds(0, 1))
def test_the_disks_node_is_lost(cluster: Three, tmp_path: Path, seed: int) -> None:
    """The run fails and says what is missing; what was stored then is there when the node is, and the run goes on."""
    chance = random.Random(seed)
    root = tmp_path / "store"
    storage = storage_of("ray", root)
    thread, outcome = in_thread(graph(tmp_path, storage))
    until_begun(tmp_path, chance.randrange(5, 20))
    known = set(FileStorage(root).list_tasks("flow"))
    cluster.remove("disk")
    thread.join(240)
    assert isinstance(outcome[0], StorageUnusable)
    assert "_disk: 0.001" in str(outcome[0])
    cluster.complete()
    assert known <= set(storage.list_tasks("flow"))
    assert graph(tmp_path, storage).run(return_results=True) == expected()
    assert_whole(storage, root)


DRIVER = """
import sys
from pathlib import Path
import ray
from test_ray_faults import graph, storage_of
folder, kind, address = sys.argv[1:]
ray.init(address=address, log_to_driver=False)
print("go", flush=True)
print(graph(Path(folder), storage_of(kind, Path(folder) / "store")).run(return_results=True))
"""


@pytest.mark.parametrize("kind", seeds("ray", "file"))
@pytest.mark.parametrize("seed", seeds(0, 1))
def test_a_driver_is_killed(cluster: Three, tmp_path: Path, kind: str, seed: int) -> None:
    """Another driver is killed at any moment: what it had stored is whole and known, and this one's run goes on."""
    chance = random.Random(seed)
    root = tmp_path / "store"
    command = [sys.executable, "-c", DRIVER, str(tmp_path), kind, cluster.cluster.address]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "support"), str(ROOT / "tests" / "backends"), str(ROOT)]),
    }
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "go\n"
        until_begun(tmp_path, chance.randrange(2, 25))
        other.kill()
    storage = storage_of(kind, root)
    assert graph(tmp_path, storage).run(return_results=True) == expected()
    assert_whole(storage, root)
