"""What storages in S3 cost: the table of requests in the documentation, counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import storage_factory
from functionfuse.storage.base import Storage

pytest.importorskip("s3fs", reason="S3 is tested where s3fs is installed")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "s3.md"
COLUMNS = ("PUT", "GET", "LIST", "DELETE", "POST")
NODES = 40


@workflow
def number(n: int) -> int:
    """Return a small result."""
    return n


def run(storage: Storage) -> None:
    """Run a workflow of small nodes that do not depend on one another."""
    graph = LocalWorkflow(*[number(n).set_name(f"n{n}") for n in range(NODES)], workflow_name="run")
    graph.set_storage(storage)
    graph.run()


def table() -> dict[str, dict[str, str]]:
    """Return the table of the page: what each column says of each action."""
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)`[^|]*\|((?:[^|]+\|){5})$", text, re.MULTILINE)
    return {
        name: dict(zip(COLUMNS, (cell.strip() for cell in cells[:-1].split("|")), strict=True)) for name, cells in rows
    }


ACTIONS: dict[str, Callable[[Storage], object]] = {
    "save": lambda storage: storage.save("w", "new", 1),
    "save over": lambda storage: storage.save("w", "small", 2),
    "save 64 MiB": lambda storage: storage.save("w", "new", np.random.default_rng(1).random(8 << 20)),
    "read_task": lambda storage: storage.read_task("w", "small"),
    "read_task 64 MiB": lambda storage: storage.read_task("w", "large"),
    "file_exists": lambda storage: storage.file_exists("w", "small"),
    "remove_task": lambda storage: storage.remove_task("w", "small"),
    "list_tasks": lambda storage: storage.list_tasks("w"),
    "run": run,
    "run again": run,
}


@pytest.mark.slow
@pytest.mark.parametrize("action", ACTIONS)
def test_the_table_of_requests(s3server: Any, proxy: Any, action: str) -> None:
    """Each action takes just the requests that the table has for it."""
    endpoint = s3server.endpoint.at(proxy.url)
    storage = storage_factory(endpoint.config(endpoint.prefix()))
    storage.save("w", "small", 1)
    storage.save("w", "large", np.random.default_rng(0).random(8 << 20))
    storage.list_tasks("w")
    if action == "run again":
        run(storage)
    with proxy.watching() as requests:
        ACTIONS[action](storage)
    kinds = {"PART": "PUT", "HEAD": "GET", "START": "POST", "COMPLETE": "POST"}
    counts = Counter(kinds.get(each.kind, each.kind) for each in requests)
    assert counts.keys() <= set(COLUMNS)
    for column, told in table()[action].items():
        least, most = limits(told)
        assert least <= counts[column] <= most, (column, told, requests)


def limits(told: str) -> tuple[int, int]:
    """Return the numbers that a cell allows."""
    numbers = [sum(NODES if term == "n" else int(term) for term in part.split(" + ")) for part in told.split(" to ")]
    return numbers[0], numbers[-1]
