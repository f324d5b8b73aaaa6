"""Whoever may only read a storage runs workflows whose results are all stored, and is told what cannot be computed."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import StorageUnusable
from functionfuse.storage import storage_factory
from functionfuse.storage.base import Storage
from oracle import files

CALLS: list[float] = []


@workflow
def load(x: float) -> list[float]:
    """Return something, and note that it was called."""
    CALLS.append(x)
    return [x, 2.0]


@workflow
def total(values: list[float]) -> float:
    """Return a sum, and note that it was called."""
    CALLS.append(-1.0)
    return sum(values)


def flow(storage: Storage, x: float = 1.0, name: str = "", on_stale: str = "warn") -> LocalWorkflow:
    """Return a workflow of two nodes, whose names begin so."""
    graph = LocalWorkflow(
        total(load(x).set_name(f"{name}load")).set_name(f"{name}total"), workflow_name="w", on_stale=on_stale
    )
    graph.set_storage(storage)
    return graph


# A folder

PROGRAM = """
import json, logging, os, sys
import catalog.catalog, duckdb, pyarrow
from test_read_only import CALLS, StorageUnusable, flow, storage_factory

root, home = sys.argv[1:]
if os.geteuid() == 0:  # all is imported: where the package lies, another user may have no way
    os.setgroups([]), os.setgid(65533), os.setuid(65533)
os.environ["HOME"] = home
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
storage = storage_factory({"kind": "file", "options": {"path": root}})
said = {"restored": [flow(storage, on_stale=how).run() for how in ("warn", "error", "recompute", "ignore")]}
graph = flow(storage)
graph.run()
said["asked"] = graph.leaves[0].parents[0].result
said["listed"] = storage.list_tasks("w")
try:
    flow(storage, 5.0, "new ").run()
except StorageUnusable as error:
    said["refused"] = str(error)
said["calls"] = CALLS
print(json.dumps(said))
"""


def as_another_user(root: Path, home: Path) -> tuple[dict[str, Any], str]:
    """Run the program as a user without rights (as oneself, where one is none), and return what it said and logged."""
    home.mkdir()
    home.chmod(0o777)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parents[1] / "support"))),
    }
    environment.pop("XDG_CACHE_HOME", None)
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root), str(home)], env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    said: dict[str, Any] = json.loads(answer.stdout)
    return said, answer.stderr


def test_a_colleague_who_may_only_read(open_place: Path) -> None:
    """What is stored is handed back, with a line in the log; what has to be stored is refused before it is made."""
    root = open_place / "results"
    flow(storage_factory({"kind": "file", "options": {"path": str(root)}})).run()
    subprocess.run(["chmod", "-R", "a-w,a+rX", root], check=True)
    before = files(root)
    said, log = as_another_user(root, open_place / "home")
    assert said["restored"] == [3.0] * 4
    assert said["asked"] == [1.0, 2.0]
    assert said["listed"] == ["load", "total"]
    assert said["refused"].startswith(
        "[Errno 13] node 'new load' and 1 more of workflow 'w' would be computed and stored, but FileStorage("
    )
    assert said["refused"].endswith("Nothing was computed: choose a storage that you may write to, or run without one")
    assert said["calls"] == []
    assert log.count("DEBUG functionfuse.run a run of workflow 'w' that only reads is not recorded: ") == 5
    assert "WARNING functionfuse.run" not in log
    assert files(root) == before


def test_a_colleague_who_may_write_beside_the_workflow(open_place: Path) -> None:
    """Where the journal can be written and the workflow's folder cannot, the run is recorded, and a save is refused."""
    root = open_place / "results"
    storage = storage_factory({"kind": "file", "options": {"path": str(root)}})
    flow(storage).run()
    subprocess.run(["chmod", "-R", "a+rwX", root], check=True)
    subprocess.run(["chmod", "a-w", root / "w"], check=True)
    said, _ = as_another_user(root, open_place / "home")
    assert said["restored"] == [3.0] * 4
    assert f"{root}/w may not be written to. Nothing was computed" in said["refused"]
    assert said["calls"] == []
    assert [row[0] for row in storage.catalog.sql("SELECT status FROM runs ORDER BY started").fetchall()] == [
        *["finished"] * 6,
    ]


# A bucket


@pytest.mark.parametrize("who", ["reader", "anonymous"])
def test_a_bucket_that_may_only_be_read(s3server: Any, who: str, caplog: pytest.LogCaptureFixture) -> None:
    """What is stored is handed back; what has to be stored is refused before it is made; nothing is left behind."""
    path = s3server.endpoint.prefix("public" if who == "anonymous" else "results")
    owner = storage_factory(s3server.endpoint.config(path))
    flow(owner).run()
    CALLS.clear()
    storage = storage_factory(getattr(s3server, who).config(path))
    with caplog.at_level(logging.DEBUG, "functionfuse.storage"):
        assert [flow(storage, on_stale=how).run() for how in ("warn", "error", "recompute", "ignore")] == [3.0] * 4
    assert caplog.text.count("an event is not recorded: ") == 8  # a run's start and end
    with pytest.raises(StorageUnusable, match=r"node 'new load' and 1 more .*refused.* Nothing was computed"):
        flow(storage, 5.0, "new ").run()
    assert CALLS == []
    storage.flush()
    assert owner.list_tasks("w") == ["load", "total"]
    assert owner.catalog.sql("SELECT count(*) FROM runs").fetchall() == [(1,)]


def test_a_run_that_stores_nothing_needs_no_right_to_write(open_place: Path) -> None:
    """What is computed and not stored, below what is read, is computed, and an error in it reaches the caller alone."""
    root = open_place / "results"
    storage = storage_factory({"kind": "file", "options": {"path": str(root)}})
    flow(storage).run()
    journal = root / ".catalog" / "journal"
    shutil.rmtree(journal)
    journal.touch()  # so that nobody, whatever the rights, can record anything
    other = storage_factory({"kind": "file", "options": {"path": str(root)}})
    CALLS.clear()

    @workflow
    def share(whole: float, parts: float) -> float:
        return whole / parts

    for parts in (2, 0):
        graph = LocalWorkflow(share(flow(other).leaves[0], parts).set_name("share"), workflow_name="w")
        graph.set_storage(other)
        graph.log_nodes("share")
        if parts:
            assert graph.run() == 1.5
        else:
            with pytest.raises(ZeroDivisionError):
                graph.run()
    assert CALLS == []
