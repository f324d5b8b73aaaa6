"""Small results through a workflow: 2,000 nodes, chain and fan-out, first and second run.

The floor does the same calls and saves node by node with pickle, a temporary
file and a rename; it knows no graph, no catalog and no checksum.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import diskcache
import joblib
from measuring import Times, microseconds, read_bare, save_bare, show

from catalog.journal.base import Publication
from catalog.journal.open import journal_of
from catalog.store.open import open_store
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import storage_factory

NODES = 2_000
WIDE = 10_000


def plus(number: int, other: int = 1) -> int:
    """Compute next to nothing: what is left is the cost of keeping it."""
    return number + other


node_of = workflow(plus)


def chain(count: int) -> list[Any]:
    """Return the leaf of a chain."""
    node = node_of(0)
    for _ in range(count - 1):
        node = node_of(node)
    return [node]


def fan_out(count: int) -> list[Any]:
    """Return the leaves that hang on one node."""
    root = node_of(0)
    return [node_of(root, other) for other in range(count - 1)]


SHAPES = {"chain": chain, "fan-out": fan_out}


def bare_first(folder: str, shape: str) -> None:
    """Compute and save as the floor does."""
    Path(folder).mkdir()
    number = 0
    for index in range(NODES):
        value = plus(number, index)
        save_bare(folder, str(index), value)
        number = value if shape == "chain" else 0


def bare_second(folder: str) -> list[Any]:
    """Read every file."""
    return [read_bare(folder, str(index)) for index in range(NODES)]


def with_diskcache(folder: str, shape: str) -> None:
    """Compute, and save in diskcache."""
    with diskcache.Cache(folder) as cache:
        number = 0
        for index in range(NODES):
            value = plus(number, index)
            cache.set(f"task_{index}", value)
            number = value if shape == "chain" else 0


def with_joblib(folder: str, shape: str) -> None:
    """Compute through joblib.Memory."""
    cached = joblib.Memory(folder, verbose=0).cache(plus)
    number = 0
    for index in range(NODES):
        value = cached(number, index)
        number = value if shape == "chain" else 0


def run(folder: Path, rounds: int) -> None:
    """Measure and print."""
    folder.mkdir()
    first: dict[str, Times] = {shape: defaultdict(list) for shape in SHAPES}
    second: dict[str, Times] = {shape: defaultdict(list) for shape in SHAPES}
    build: Times = defaultdict(list)
    journal: Times = defaultdict(list)
    for number in range(rounds):
        for shape in SHAPES:
            one_round(str(folder / f"{number}-{shape}"), shape, first[shape], second[shape])
        build_graphs(build)
        write = partial(write_lines, str(folder / f"{number}-journal"))
        journal["a line of 700 bytes"].append(microseconds(write, NODES))
    for shape in SHAPES:
        show(f"First run, {shape} of {NODES:,} nodes", first[shape], "floor")
    show("Second run, chain with a stored leaf", second["chain"], "first run")
    show(f"Second run, {NODES:,} stored leaves", second["fan-out"], "read and unpickle")
    show("Building the graph", build, f"chain of {NODES:,}")
    show("The journal's share of a save", journal, "a line of 700 bytes")


def one_round(folder: str, shape: str, first: Times, second: Times) -> None:
    """Run every system once, in folders of their own."""
    first["floor"].append(microseconds(lambda: bare_first(f"{folder}-bare", shape), NODES))
    leaves = SHAPES[shape](NODES)
    local = LocalWorkflow(*leaves, workflow_name="numbers", progress=False)
    local.set_storage(storage_factory({"kind": "file", "options": {"path": f"{folder}-functionfuse"}}))
    first["functionfuse"].append(microseconds(local.run, NODES))
    first["diskcache"].append(microseconds(lambda: with_diskcache(f"{folder}-diskcache", shape), NODES))
    first["joblib.Memory"].append(microseconds(lambda: with_joblib(f"{folder}-joblib", shape), NODES))
    if shape == "chain":
        second["first run"].append(first["functionfuse"][-1])
    else:
        second["read and unpickle"].append(microseconds(lambda: bare_second(f"{folder}-bare"), NODES))
    second["functionfuse"].append(microseconds(local.run, NODES))


def write_lines(folder: str) -> None:
    """Write as many lines to a journal as a run does."""
    journal = journal_of(open_store(folder))
    event = Publication("x" * 699)
    for _ in range(NODES):
        journal.append(event)


def build_graphs(build: Times) -> None:
    """Build graphs without running them."""
    build[f"chain of {NODES:,}"].append(microseconds(lambda: chain(NODES), NODES))
    build[f"fan-out of {WIDE:,}"].append(microseconds(lambda: fan_out(WIDE), WIDE))
    build[f"{WIDE:,} into one"].append(microseconds(lambda: node_of(fan_out(WIDE)), WIDE))
