"""Results in a bucket: 500 small ones, an array of 256 MiB, and questions about 100,000.

The server is SeaweedFS on loopback, where the processor is the limit; then the same with 20 ms added to every request,
where waiting is. The floor is boto3 with 16 threads that do nothing but PUT or GET pickles: it knows no graph, no
checksum and no catalog.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import s3fs
from measuring import Times, microseconds, milliseconds, show

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import storage_factory

TESTS = Path(__file__).resolve().parent.parent / "tests" / "support"
sys.path.append(str(TESTS))

import s3_arrays  # noqa: E402 (what the tests run against is on the path only now)

from s3server import Endpoint, SeaweedServer  # noqa: E402

THREADS = 16
SMALL = 500
ONE_BY_ONE = 100  # what is so slow is done so often only
DELAY = 0.020  # seconds
WORKFLOWS, TASKS = 10, 10_000


def result(number: int) -> dict[str, Any]:
    """Return a small result, of about 500 bytes as a pickle."""
    return {"number": number, "text": f"{number:04d}" * 100, "list": [number] * 10}


result_node = workflow(result)


# The floor and the peers


@contextmanager
def client_of(endpoint: Endpoint) -> Iterator[Any]:
    """Make a boto3 client with a connection for each thread."""
    with closing(endpoint.client(max_pool_connections=THREADS)) as client:
        yield client


def put_all(client: Any, path: str, count: int, threads: int = THREADS) -> None:
    """Put small results as objects."""
    bucket, prefix = path[1:].split("/")

    def put(number: int) -> None:
        client.put_object(Bucket=bucket, Key=f"{prefix}/{number}", Body=pickle.dumps(result(number)))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(put, range(count)))


def get_all(client: Any, path: str, count: int) -> None:
    """Get and unpickle them."""
    bucket, prefix = path[1:].split("/")

    def get(number: int) -> Any:
        return pickle.loads(client.get_object(Bucket=bucket, Key=f"{prefix}/{number}")["Body"].read())

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(get, range(count))) == [result(number) for number in range(count)]


@cache
def filesystem(endpoint: Endpoint) -> Any:
    """Return s3fs's file system, which keeps no listings."""
    return s3fs.S3FileSystem(**endpoint.s3fs(), use_listings_cache=False)


def pipe_all(endpoint: Endpoint, path: str, count: int) -> None:
    """Put small results as s3fs does when it is given all of them at once."""
    filesystem(endpoint).pipe({f"{path[1:]}/{number}": pickle.dumps(result(number)) for number in range(count)})


def cat_all(endpoint: Endpoint, path: str) -> None:
    """Get them all at once."""
    found = filesystem(endpoint).cat([f"{path[1:]}/{number}" for number in range(SMALL)])
    assert len([pickle.loads(data) for data in found.values()]) == SMALL


# Small results


def small(endpoint: Endpoint, rounds: int) -> tuple[Times, Times]:
    """Save small results through a workflow and read them back in a second run; return µs a result."""
    save: Times = defaultdict(list)
    read: Times = defaultdict(list)
    with client_of(endpoint) as client:
        put_all(client, endpoint.prefix(), THREADS)  # connections are made, of all of them
        filesystem(endpoint).ls("results")
        for _ in range(rounds):
            one_round(endpoint, client, save, read)
    return save, read


def one_round(endpoint: Endpoint, client: Any, save: Times, read: Times) -> None:
    """Let each do it once, under prefixes of their own."""
    bare, piped, stored = (endpoint.prefix() for _ in range(3))
    timed(save, "floor", lambda: put_all(client, bare, SMALL))
    timed(read, "floor", lambda: get_all(client, bare, SMALL))
    timed(save, "s3fs.pipe, all at once", lambda: pipe_all(endpoint, piped, SMALL))
    timed(read, "s3fs.cat, all at once", lambda: cat_all(endpoint, piped))
    one_by_one = microseconds(lambda: put_all(client, endpoint.prefix(), ONE_BY_ONE, threads=1), ONE_BY_ONE)
    save["one PUT after another"].append(one_by_one)
    nodes = [result_node(number).set_name(f"task_{number:05d}") for number in range(SMALL)]
    local = LocalWorkflow(*nodes, workflow_name="small", progress=False)
    local.set_storage(storage_factory(endpoint.config(stored)))
    timed(save, "functionfuse", local.run)
    timed(read, "functionfuse", local.run)
    check_small(endpoint, stored)


def timed(times: Times, name: str, action: Callable[[], Any]) -> None:
    """Do something with all small results and note the µs that each took."""
    times[name].append(microseconds(action, SMALL))


def check_small(endpoint: Endpoint, path: str) -> None:
    """Check that all of them are catalogued, and read back."""
    storage = storage_factory(endpoint.config(path))
    assert storage.list_tasks("small") == [f"task_{number:05d}" for number in range(SMALL)]
    assert storage.read_task("small", "task_00007") == result(7)


# Questions about many


def many(endpoint: Endpoint, delayed: Endpoint, folder: Path, rounds: int) -> None:
    """Save 100,000 results by ten runs, index them anew in fresh processes, and ask with nothing new."""
    path = endpoint.prefix()
    storage = storage_factory(endpoint.config(path))
    began = time.perf_counter()
    for number in range(WORKFLOWS):
        nodes = [result_node(task).set_name(f"task_{task:05d}") for task in range(TASKS)]
        local = LocalWorkflow(*nodes, workflow_name=f"many_{number}", progress=False)
        local.set_storage(storage)
        local.run()
    took = time.perf_counter() - began
    print(
        f"{WORKFLOWS * TASKS:,} results saved by {WORKFLOWS} runs, {WORKFLOWS * TASKS / took:,.0f} a second", flush=True
    )
    first = [first_index(endpoint, path, folder / f"cache-{number}") for number in range(rounds)]
    print(f"  first index of all of them in a new process: {sorted(first)[rounds // 2]:.2f} s, best {min(first):.2f}\n")
    for name, place in (("loopback", endpoint), (f"{DELAY * 1000:.0f} ms added", delayed)):
        show(
            f"Questions about {WORKFLOWS * TASKS:,} with nothing new, {name}",
            questions(place, path, rounds),
            LIST,
            "ms",
        )


LIST = "one LIST request"


def questions(endpoint: Endpoint, path: str, rounds: int) -> Times:
    """Return how long a question takes, a single LIST, and s3fs's glob, in ms."""
    times: Times = defaultdict(list)
    storage = storage_factory(endpoint.config(path))
    bucket, prefix = path[1:].split("/")
    assert len(storage.list_tasks("many_3")) == TASKS
    with client_of(endpoint) as client:
        for _ in range(rounds):
            times["list_tasks, all of one workflow"].append(milliseconds(storage.list_tasks, "many_3"))
            times["list_tasks, a glob"].append(milliseconds(storage.list_tasks, "many_3", "task_000*"))
            journal = partial(client.list_objects_v2, Bucket=bucket, Prefix=f"{prefix}/.catalog/journal/")
            times[LIST].append(milliseconds(journal))
    for what, pattern in (("one workflow", "many_3/task_*"), ("all", "*/task_*")):  # once: it takes long
        took = milliseconds(filesystem(endpoint).glob, f"{path[1:]}/{pattern}")
        times[f"s3fs.glob of {what}"] = [took] * rounds
    return times


def first_index(endpoint: Endpoint, path: str, caches: Path) -> float:
    """Return the seconds that the first question takes in a process that has no index yet."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(caches)}
    command = [sys.executable, "-c", _FIRST, json.dumps(endpoint.config(path))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


_FIRST = """
import json, sys, time
from functionfuse.storage import storage_factory
import duckdb, pyarrow, s3fs
storage = storage_factory(json.loads(sys.argv[1]))
storage.file_exists("none", "none")
began = time.perf_counter()
storage.catalog.refresh()
print(time.perf_counter() - began)
assert storage.catalog.sql("SELECT count(*) FROM tasks").fetchall() == [(100_000,)]
"""


def run(folder: Path, rounds: int) -> None:
    """Measure and print."""
    folder.mkdir()
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    with ExitStack() as stack:
        server = SeaweedServer(folder)
        stack.callback(server.kill)
        server.start()
        near = server.endpoint
        far = near.at(stack.enter_context(slow_proxy(near.endpoint_url)))
        for name, endpoint in (("loopback", near), (f"{DELAY * 1000:.0f} ms added", far)):
            save, read = small(endpoint, rounds)
            show(f"Saving {SMALL} small results, {name}", save, "floor", "µs a result")
            show(f"Reading them back, {name}", read, "floor", "µs a result")
            s3_arrays.run(endpoint, name, min(rounds, 3))
        many(near, far, folder, min(rounds, 3))


@contextmanager
def slow_proxy(upstream: str) -> Iterator[str]:
    """Run the tests' proxy in a process of its own, and return its URL."""
    command = [sys.executable, str(TESTS / "s3proxy.py"), upstream, str(DELAY)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        yield program.stdout.readline().strip()
        program.stdin.close()
