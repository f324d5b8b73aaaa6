"""Workflows on Ray beside plain Ray: tiny nodes, large results, and what a node costs the driver.

The floor is the same calls as plain remote functions, without graph, storage or
catalog; for large results, as many processes that write the same bytes.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Times, microseconds, save_bare, show

from functionfuse import workflow
from functionfuse.backends.builtin.rayback import RayWorkflow
from functionfuse.storage import storage_factory

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # for the workers, which import this module

NODES = 500
MANY = 10_000
RESULTS = 64
SIZE = 16 << 20
CORES = 2


def plus(number: int, other: int = 1) -> int:
    """Compute next to nothing."""
    return number + other


def block(number: int) -> Any:
    """Return 16 MiB that do not shrink."""
    return np.random.default_rng(number).integers(0, 256, SIZE, dtype=np.uint8)


node_of = workflow(plus)
block_node = workflow(block)


def fan_out(count: int) -> list[Any]:
    """Return the leaves that hang on one node."""
    root = node_of(0)
    return [node_of(root, other) for other in range(count - 1)]


def chain(count: int) -> list[Any]:
    """Return the leaf of a chain."""
    node = node_of(0)
    for _ in range(count - 1):
        node = node_of(node)
    return [node]


def plain_fan_out(ray: Any) -> None:
    """Call what `fan_out` calls, as plain remote functions."""
    remote = ray.remote(plus)
    root = remote.remote(0)
    ray.get([remote.remote(root, other) for other in range(NODES - 1)])


def plain_chain(ray: Any) -> None:
    """Call what `chain` calls, as plain remote functions."""
    remote = ray.remote(plus)
    number = remote.remote(0)
    for _ in range(NODES - 1):
        number = remote.remote(number)
    ray.get(number)


def flow(leaves: list[Any], folder: str = "") -> RayWorkflow:
    """Return a workflow, with a storage where a folder is given."""
    made = RayWorkflow(*leaves, workflow_name="numbers", progress=False)
    if folder:
        made.set_storage(storage_factory({"kind": "file", "options": {"path": folder}}))
    return made


def write_bare(folder: str, number: int) -> float:
    """Make a block and return the seconds that writing it takes."""
    data = block(number)
    began = time.perf_counter()
    save_bare(folder, str(number), data)
    return time.perf_counter() - began


def write_blocks(folder: str) -> None:
    """Make and write all blocks by as many processes as Ray has workers."""
    os.mkdir(folder)
    with ProcessPoolExecutor(CORES) as pool:
        list(pool.map(partial(write_bare, folder), range(RESULTS)))


def run(folder: Path, rounds: int) -> None:
    """Measure and print."""
    import ray

    ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False, object_store_memory=2 << 30)
    try:
        warm_up(ray)
        tiny(ray, folder, rounds)
        large(folder, min(rounds, 3))
        driver(ray)
    finally:
        ray.shutdown()


def warm_up(ray: Any) -> None:
    """Start Ray's workers."""
    plain_fan_out(ray)
    flow(fan_out(NODES)).run()


def tiny(ray: Any, folder: Path, rounds: int) -> None:
    """Measure nodes that do nothing, stored in files."""
    shapes = {"fan-out": (fan_out, plain_fan_out), "chain": (chain, plain_chain)}
    for shape, (graph, plain) in shapes.items():
        times: Times = defaultdict(list)
        again: Times = defaultdict(list)
        for number in range(rounds):
            times["plain Ray"].append(microseconds(partial(plain, ray), NODES))
            stored = flow(graph(NODES), str(folder / f"{shape}-{number}"))
            times["functionfuse"].append(microseconds(stored.run, NODES))
            again["first run"].append(times["functionfuse"][-1])
            again["second run"].append(microseconds(stored.run, NODES))
        show(f"Ray, {shape} of {NODES:,} nodes", times, "plain Ray")
        show(f"Ray, second run of the {shape}", again, "first run")


def large(folder: Path, rounds: int) -> None:
    """Measure large results that workers make and save."""
    times: Times = defaultdict(list)
    for number in range(rounds):
        bare = str(folder / f"bare-{number}")
        times[f"{CORES} processes"].append(microseconds(partial(write_blocks, bare), RESULTS) / 1000)
        leaves = [block_node(each) for each in range(RESULTS)]
        stored = flow(leaves, str(folder / f"large-{number}"))
        times["functionfuse"].append(microseconds(stored.run, RESULTS) / 1000)
    show(f"Ray, {RESULTS} results of {SIZE >> 20} MiB, made and saved", times, f"{CORES} processes", "ms a result")


def driver(ray: Any) -> None:
    """Measure the driver's own processor time, and how its memory grows."""
    remote = ray.remote(plus)
    began = time.process_time()
    ray.get([remote.remote(number) for number in range(MANY)])
    plain = (time.process_time() - began) / MANY * 1e6
    leaves = fan_out(MANY)
    graph = flow(leaves)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    graph.run()
    ours = (time.process_time() - began) / MANY * 1e6
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"Driver, {MANY:,} nodes (µs of processor time a node, all threads)")
    print(f"  plain Ray     {plain:7.0f}\n  functionfuse  {ours:7.0f}\n  its memory grew by {grown:.0f} MiB\n")
