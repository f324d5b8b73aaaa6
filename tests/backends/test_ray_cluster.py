"""Runs on clusters of real nodes: where the disk is, what is lost with a node, small object stores, other drivers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.rayback import RayWorkflow
from functionfuse.errors import InfeasibleResources, StorageUnusable
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.rayfilestorage import FileStorage as RayFileStorage
from raying import MARKS, ray, settings, trace, traces

np = pytest.importorskip("numpy")
cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = [
    *MARKS,
    # Ray leaves the log files of its client server to the garbage collector.
    pytest.mark.filterwarnings("ignore:.*ray_client_server:pytest.PytestUnraisableExceptionWarning"),
]

REMOTE = {"resources": {"_disk": 0.001}}
STORE = 100 << 20  # bytes of a node's object store
ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Two:
    """A cluster of a head, which has no disk, and a node that comes and goes."""

    def __init__(self) -> None:
        self.clients, self.dashboard = free_port(), free_port()
        head = {
            "num_cpus": 1,
            "resources": {"_head": 1},
            "object_store_memory": STORE,
            "ray_client_server_port": self.clients,
            "include_dashboard": True,
            "dashboard_port": self.dashboard,
        }
        self.cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        self.node: Any = None
        self.add()
        ray.init(address=self.cluster.address, log_to_driver=False)

    def add(self) -> None:
        """Add the node with the disk, if it is gone."""
        if self.node is None:
            options = {"num_cpus": 1, "resources": {"_disk": 1}, "object_store_memory": STORE}
            self.node = self.cluster.add_node(**options)

    def remove(self) -> None:
        """Kill the node with the disk."""
        self.cluster.remove_node(self.node, allow_graceful=False)
        self.node = None


@pytest.fixture(scope="module")
def whole() -> Iterator[Two]:
    """Run a cluster for all tests, and end it."""
    with settings():
        two = Two()
        try:
            yield two
        finally:
            ray.shutdown()
            two.cluster.shutdown()


@pytest.fixture
def cluster(whole: Two) -> Two:
    """Return the cluster with all of its nodes."""
    whole.add()
    return whole


@pytest.fixture(autouse=True)
def no_leaked_files() -> None:
    """Ray opens connections as it needs them: not watched here."""


@workflow
def where(*after: Any) -> str:
    """Return the Ray node that this runs on."""
    found: str = ray.get_runtime_context().get_node_id()
    return found


@workflow
def step(folder: Path, label: str, *parts: Any) -> list[Any]:
    """Leave a trace, and return what was given."""
    trace(folder, label)
    return [label, *parts]


@workflow
def wait_for(folder: Path, name: str, *parts: Any) -> int:
    """Leave a trace, and return when a file is there."""
    trace(folder, "waiting")
    while not (folder / name).exists():
        time.sleep(0.05)
    return len(parts)


@workflow
def block(number: int, *before: Any) -> Any:
    """Return 8 MiB."""
    return np.full(8 << 20, number % 256, dtype=np.uint8)


@workflow
def first(*blocks: Any) -> int:
    """Return the sum of the first bytes."""
    return sum(int(block[0]) for block in blocks)


def flow(*leaves: Any, storage: Storage | None = None, name: str = "flow") -> RayWorkflow:
    """Return a workflow with a storage."""
    made = RayWorkflow(*leaves, workflow_name=name)
    made.set_storage(storage)
    return made


AFAR = """
import sys
from functionfuse.storage import storage_factory
address, path = sys.argv[1:]
options = {"path": path, "remoteArgs": {"resources": {"_disk": 0.001}}, "rayInitArgs": {"address": address}}
storage = storage_factory({"kind": "ray", "options": options})
storage.save("w", "t", [1, 2])
print(storage.list_tasks("w"), storage.read_task("w", "t"), storage.catalog.tasks("w").project("task").fetchall())

from functionfuse import workflow
from functionfuse.backends.builtin.rayback import RayWorkflow

@workflow
def plus(a, b=1):
    return a + b

graph = RayWorkflow(plus(plus(1), b=plus(2)), workflow_name="afar")
graph.set_storage(storage)
print(graph.run(return_results=True), graph.run(return_results=True))
"""


def test_from_outside_the_cluster(cluster: Two, tmp_path: Path) -> None:
    """Over ``ray://`` a storage is saved to, read and asked, and a workflow runs.

    First of all: where nodes were lost on one machine, Ray's client server may look for its own among them in vain.
    """
    for attempt in range(4):  # the process that Ray forks for a client may die of the fork, and the client then waits
        with driver(AFAR, f"ray://127.0.0.1:{cluster.clients}", tmp_path / f"store{attempt}") as afar:
            with suppress(subprocess.TimeoutExpired):
                out, err = afar.communicate(timeout=45)
                break
            afar.kill()
    else:
        pytest.fail("Ray let no client in")
    assert out, err
    assert out.splitlines() == ["['t'] [1, 2] [('t',)]", "5 5"]


def test_nodes_run_everywhere_and_results_go_to_the_disk(cluster: Two, tmp_path: Path) -> None:
    """Remote arguments choose the nodes of the cluster; saves come from the disk's node, whoever computed."""
    storage = RayFileStorage(tmp_path / "store", REMOTE)
    on_head, on_disk = where().set_name("head"), where().set_name("disk")
    graph = flow(on_head, on_disk, storage=storage)
    graph.query("head").set_remote_args({"resources": {"_head": 0.1}})
    graph.query("disk").set_remote_args({"resources": {"_disk": 0.1}})
    found = graph.run(return_results=True)
    assert found == [ray.get_runtime_context().get_node_id(), cluster.node.node_id]
    query = "SELECT details->>'ray_node', pid::VARCHAR = details->>'pid' FROM events WHERE event = 'save' ORDER BY task"
    assert [row[0] for row in storage.catalog.sql(query).fetchall()] == [found[1], found[0]]


def test_results_larger_together_than_the_store_are_let_go(cluster: Two, tmp_path: Path) -> None:
    """A chain whose results would fill the object store three times over finishes, and nothing has to be spilled."""
    node = block(0)
    for number in range(1, 80):
        node = block(number, node)
    before = spilled()
    graph = flow(first(node), storage=FileStorage(tmp_path / "store"))
    graph.log_nodes("block.*")
    assert graph.run(return_results=True) == 79
    assert spilled() == before


def test_a_wide_graph_is_used_up_as_it_is_made(cluster: Two) -> None:
    """Blocks that are reduced one by one are not all made first, without any bound that a user sets."""
    leaves = [first(block(1)) for _ in range(60)]
    before = spilled()
    assert sum(flow(*leaves).run(return_results=True)) == 60
    assert spilled() == before


def spilled() -> str:
    """Return what Ray says of what it has spilled to the disk."""
    from ray._private.internal_api import memory_summary

    summary = memory_summary(stats_only=True)
    return "\n".join(line for line in summary.splitlines() if "pilled" in line)


def test_a_run_goes_on_without_a_node(cluster: Two, tmp_path: Path) -> None:
    """A node of the cluster is killed in the middle: what ran there runs elsewhere, what was saved is saved once."""
    storage = FileStorage(tmp_path / "store")
    early = where().set_name("early")
    late = [wait_for(tmp_path, "go", early).set_name(f"late{number}") for number in range(2)]
    graph = flow(first_of(*late), storage=storage)
    graph.query("early").set_remote_args({"resources": {"_disk": 0.1}})
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(graph.run(return_results=True)))
    thread.start()
    until(lambda: len(waiting(tmp_path)) == 2)
    cluster.remove()
    (tmp_path / "go").touch()
    thread.join(240)
    assert results == [[1, 1]]
    assert len(storage.catalog.events(task="early", event="save").fetchall()) == 1


@workflow
def first_of(*parts: Any) -> list[Any]:
    """Return the arguments."""
    return list(parts)


def waiting(folder: Path) -> list[str]:
    """Return the traces without taking them away."""
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def until(condition: Any, seconds: float = 240) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


@pytest.mark.usefixtures("impatient")
def test_a_run_says_what_is_missing(cluster: Two, tmp_path: Path) -> None:
    """When the only node that could run something is killed in the middle, the run says what no node has."""
    graph = flow(wait_for(tmp_path, "never").set_name("stuck"))
    graph.query("stuck").set_remote_args({"resources": {"_disk": 0.1}})
    errors: list[BaseException] = []

    def run() -> None:
        with suppress(Exception):
            try:
                graph.run()
            except BaseException as error:
                errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: waiting(tmp_path))
    cluster.remove()
    thread.join(240)
    assert [type(error) for error in errors] == [InfeasibleResources]
    assert "_disk: 0.1" in str(errors[0])


@pytest.mark.usefixtures("impatient")
def test_a_lost_disk_is_an_error_and_comes_back(cluster: Two, tmp_path: Path) -> None:
    """While the disk's node is gone, saves and questions say so; when it is back, all that was saved is there."""
    storage = RayFileStorage(tmp_path / "store", REMOTE)
    nodes = [step(tmp_path, f"n{number}").set_name(f"n{number}") for number in range(4)]
    flow(*nodes, storage=storage).run()
    assert len(storage.list_tasks("flow")) == 4
    traces(tmp_path)
    cluster.remove()
    with pytest.raises(StorageUnusable, match="_disk"):
        storage.save("flow", "more", 1)
    with pytest.raises(OSError, match="_disk"):
        storage.list_tasks("flow")
    cluster.add()
    assert storage.list_tasks("flow") == ["n0", "n1", "n2", "n3"]
    assert flow(*nodes, storage=storage).run(return_results=True) == [["n0"], ["n1"], ["n2"], ["n3"]]
    assert traces(tmp_path) == []


DRIVER = """
import sys
from functionfuse import workflow
from functionfuse.backends.builtin.rayback import RayWorkflow
from functionfuse.storage.rayfilestorage import FileStorage

class Thing:
    def __init__(self, number): self.number = number

@workflow
def thing(number): return Thing(number)

@workflow
def number_of(thing): return thing.number

address, path, name = sys.argv[1:]
leaves = [number_of(thing(n).set_name(f"thing{n}-{name}")).set_name(f"number{n}-{name}") for n in range(5)]
graph = RayWorkflow(*leaves, workflow_name="flow", ray_init_args={"address": address, "log_to_driver": False})
import ray
ray.init(address=address, log_to_driver=False)
graph.set_storage(FileStorage(path, {"resources": {"_disk": 0.001}}))
print(graph.run(return_results=True))
"""


def driver(code: str, *arguments: Any) -> subprocess.Popen[str]:
    """Start another driver."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_two_drivers_share_a_storage(cluster: Two, tmp_path: Path) -> None:
    """Two other drivers run at the same time on one storage, with classes of their own main; this one sees all."""
    path = tmp_path / "store"
    drivers = [driver(DRIVER, cluster.cluster.address, path, name) for name in ("a", "b")]
    for each in drivers:
        out, err = each.communicate(timeout=240)
        assert out.strip() == "[0, 1, 2, 3, 4]", err
    storage = RayFileStorage(path, REMOTE)
    assert len(storage.list_tasks("flow")) == 20
    assert storage.read_task("flow", "thing3-b").number == 3
    assert storage.catalog.runs().project("status").fetchall() == [("finished",)] * 2


READER = """
import sys
from functionfuse.storage import storage_factory
address, path = sys.argv[1:]
options = {"path": path, "remoteArgs": {"resources": {"_disk": 0.001}}, "rayInitArgs": {"address": address}}
storage = storage_factory({"kind": "ray", "options": options})
print(storage.list_tasks("w"), storage.read_task("w", "t"), storage.catalog.tasks().project("task").fetchall())
"""


def test_a_reader_needs_nothing_but_the_address(cluster: Two, tmp_path: Path) -> None:
    """In another process, `rayInitArgs` is all that it takes to read and ask."""
    RayFileStorage(tmp_path / "store", REMOTE).save("w", "t", [1, 2])
    out, err = driver(READER, cluster.cluster.address, tmp_path / "store").communicate(timeout=240)
    assert out.strip() == "['t'] [1, 2] [('t',)]", err


JOB = """
from functionfuse import workflow
from functionfuse.backends.builtin.rayback import RayWorkflow
from functionfuse.storage.rayfilestorage import FileStorage
import helper

@workflow
def thing(number):
    return helper.Thing(number)

graph = RayWorkflow(thing(5).set_name("thing"), workflow_name="job")
graph.set_storage(FileStorage({path!r}, {{"resources": {{"_disk": 0.001}}}}))
print("number", graph.run(return_results=True).number)
"""


def test_a_job_with_a_module_of_its_own(cluster: Two, tmp_path: Path) -> None:
    """A submitted job runs a workflow; classes of a module that only the job has are saved and read."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "helper.py").write_text("class Thing:\n    def __init__(self, number):\n        self.number = number\n")
    (folder / "script.py").write_text(JOB.format(path=str(tmp_path / "store")))
    client = JobSubmissionClient(f"http://127.0.0.1:{cluster.dashboard}")
    job = client.submit_job(
        entrypoint=f"{sys.executable} script.py",
        runtime_env={"working_dir": str(folder), "env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    deadline = time.monotonic() + 240
    while not client.get_job_status(job).is_terminal() and time.monotonic() < deadline:
        time.sleep(0.5)
    logs = client.get_job_logs(job)
    assert client.get_job_status(job) == JobStatus.SUCCEEDED, logs
    assert "number 5" in logs
    assert FileStorage(tmp_path / "store").list_tasks("job") == ["thing"]
