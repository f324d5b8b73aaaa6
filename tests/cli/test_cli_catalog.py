"""The commands whose work is the catalog's: history, exports and audits, verification, retention, compaction."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from commands import at_terminal, lines, run
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage


@workflow
def mean(*values: float) -> float:
    """Return the mean."""
    return sum(values) / len(values)


@workflow
def broken() -> None:
    """Fail."""
    raise ValueError("broken")


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """Return a storage in which two runs left results, one of which failed, and one result was overwritten."""
    storage = FileStorage(tmp_path / "results")
    day = mean(mean(11.2, 12.9).set_name("morning"), 15.0).set_name("day")
    for name, leaf in (("weather", day), ("broken", broken().set_name("none"))):
        local = LocalWorkflow(leaf, workflow_name=name)
        local.set_storage(storage)
        with suppress(ValueError):
            local.run()
    storage.save("notes", "today", "first")
    storage.save("notes", "today", "second")
    storage.save("notes", "[a-z]*", 1)
    return storage


@pytest.fixture
def root(storage: FileStorage) -> Path:
    """Return the folder of that storage."""
    return Path(storage.catalog.path)


def rows(*arguments: object, code: int = 0) -> list[dict[str, Any]]:
    """Run a command and return what it prints as JSON."""
    answer = json.loads(run(*arguments, "--json", code=code).stdout)
    assert isinstance(answer, list)
    return answer


# show


def test_show(root: Path) -> None:
    """One result is shown with all columns, parsed, and with every save under its name."""
    (day,) = rows("show", root, "weather", "day")
    assert (day["workflow"], day["task"], day["parents"]) == ("weather", "day", ["morning"])
    assert day["inputs"]["values[0]"].startswith("blob:") if "values[0]" in day["inputs"] else day["inputs"]
    assert day["value"] == pytest.approx(13.525)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", day["saved_at"])
    assert [event["event"] for event in day["history"]] == ["save"]
    (today,) = rows("show", root, "notes", "today")
    assert [event["event"] for event in today["history"]] == ["save", "save"]
    assert today["value"] == "second"


def test_show_in_a_pipe(root: Path) -> None:
    """In a pipe there is a line a column, and one for each thing that happened."""
    shown = lines("show", root, "notes", "today")
    assert ["value", "second"] in shown
    history = [line[1:] for line in shown if line[0] == "history"]
    assert [event[1] for event in history] == ["save", "save"]
    assert all(event[0].endswith("Z") for event in history)
    assert run("show", root, "notes", "today", "--csv").stdout.splitlines()[0].startswith("workflow,task,")


@pytest.mark.slow
def test_show_at_a_terminal(root: Path) -> None:
    """A person sees names beside values, and the history as a table."""
    seen, code = at_terminal("show", root, "weather", "day")
    assert code == 0
    assert re.search(r"parents.* morning", seen)
    assert re.search(r"time.*event.*user", seen)


def test_show_means_the_name(root: Path) -> None:
    """The name is no glob, and what is not there is found missing."""
    assert rows("show", root, "notes", "[a-z]*")[0]["value"] == 1
    said = run("show", root, "notes", "t*", code=1).stderr
    assert "'t*'" in said
    assert said.count("\n") == 1


def test_show_what_was_removed(storage: FileStorage, root: Path) -> None:
    """What is gone is not there, whatever is known of it."""
    storage.remove_task("notes", "today")
    assert "'today'" in run("show", root, "notes", "today", code=1).stderr


# runs, history


def test_runs(root: Path) -> None:
    """Runs are listed with what became of them, the latest first."""
    found = rows("runs", root)
    assert [(row["workflow"], row["status"], row["computed"]) for row in found] == [
        ("broken", "failed", 0),
        ("weather", "finished", 2),
    ]
    assert [fields[1:5] for fields in lines("runs", root, "w*", "--since", "1h")] == [["weather", "finished", "2", "0"]]
    assert [row["workflow"] for row in rows("runs", root, "--status", "failed", "--limit", "1")] == ["broken"]


def test_as_of(storage: FileStorage, root: Path) -> None:
    """--as-of lists what was there then."""
    time.sleep(0.01)
    moment = storage.catalog.sql("SELECT max(saved_at) FROM tasks").fetchall()[0][0]
    time.sleep(0.01)
    storage.remove_workflow("notes")
    storage.save("notes", "new", 1)
    text = moment.isoformat()
    assert [row["task"] for row in rows("ls", root, "notes")] == ["new"]
    assert [row["task"] for row in rows("ls", root, "notes", "--as-of", text, "--sort", "task")] == ["[a-z]*", "today"]


# export, audit


def test_export(root: Path, tmp_path: Path) -> None:
    """A table is written with its filters; what is there is not written over without being told to."""
    import pyarrow.parquet as pq

    target = tmp_path / "out.parquet"
    (exported,) = rows("export", root, target, "--workflow", "notes", "--min-size", "1")
    assert (exported["paths"], exported["rows"]) == ([str(target)], 2)
    assert pq.read_table(target).column("task").to_pylist() == ["[a-z]*", "today"]
    assert str(target) in run("export", root, target, code=2).stderr
    run("export", root, target, "--table", "runs", "--status", "failed", "--overwrite")
    assert pq.read_table(target).num_rows == 1
    assert "no folder" in run("export", root, tmp_path / "none" / "x.parquet", code=2).stderr


def test_partitions(root: Path, tmp_path: Path) -> None:
    """--partition-by makes a folder of files."""
    (exported,) = rows("export", root, tmp_path / "parts", "--table", "events", "--partition-by", "workflow")
    assert len(exported["paths"]) == 3
    assert all(Path(path).is_file() for path in exported["paths"])


def test_audit(storage: FileStorage, root: Path, tmp_path: Path) -> None:
    """Exports that continue each other pass; a changed byte or a gap between them ends in 1, and is told."""
    names = [tmp_path / f"{number}.parquet" for number in range(3)]
    run("export", root, names[0], "--table", "events")
    for before, name in pairwise(names):
        storage.save("more", name.name, 1)
        run("export", root, name, "--table", "events", "--after", before)
    assert [row["ok"] for row in rows("audit", "verify", *names)] == [True] * 3
    gap = run("audit", "verify", names[0], names[2], code=1)
    assert "false" in gap.stdout
    content = bytearray(names[0].read_bytes())
    content[10] ^= 255
    names[0].write_bytes(content)
    assert [row["ok"] for row in rows("audit", "verify", names[0], code=1)] == [False]
    assert [row["ok"] for row in rows("audit", "verify", tmp_path / "none", code=1)] == [False]


# verify


@pytest.mark.slow
def test_verify(storage: FileStorage, root: Path) -> None:
    """A sound storage ends in 0; whatever is wrong is told, each with its kind, and ends in 1, until it is mended."""
    assert rows("verify", root) == []
    assert run("verify", root).stderr.startswith("ok: 4 results, ")
    with (root / "notes" / "today").open("r+b") as file:
        file.write(b"?")
    (root / "weather" / "morning").unlink()
    found = {(row["kind"], row["task"]) for row in rows("verify", root, code=1)}
    assert found == {("damaged", "today"), ("missing", "morning")}
    assert [row["task"] for row in rows("verify", root, "weather", code=1)] == ["morning"]
    assert run("verify", root, "--repair", code=1).stderr.startswith("faults found: ")
    run("verify", root)
    assert [row["task"] for row in rows("ls", root)] == ["[a-z]*", "day"]


# gc, pin, unpin


def test_gc(storage: FileStorage, root: Path) -> None:
    """Without --delete only the plan is printed; with it a yes is needed, unless --yes is given; pins are kept."""
    plan = [fields[:2] for fields in lines("gc", root, "--keep-last", "0", "--workflow", "notes")]
    assert sorted(plan) == [["notes", "[a-z]*"], ["notes", "today"]]
    assert len(rows("ls", root, "notes")) == 2
    run("gc", root, "--keep-last", "0", "--workflow", "notes", "--delete", stdin="n\n", code=2)
    assert len(rows("ls", root, "notes")) == 2
    run("pin", root, "notes", "today")
    assert "removed 1 result, " in run("gc", root, "--keep-last", "0", "--workflow", "notes", "--yes").stderr
    assert [row["task"] for row in rows("ls", root, "notes")] == ["today"]
    run("unpin", root, "notes", "today")
    run("gc", root, "--keep-last", "0", "--workflow", "notes", "--delete", stdin="y\n")
    assert rows("ls", root, "notes") == []


def test_gc_tells_what_was_removed(root: Path) -> None:
    """As JSON the answer is what became of the plan, not the plan."""
    (row,) = rows("gc", root, "--keep-last", "1", "--workflow", "notes", "--yes")
    assert row["removed"] is True


def test_gc_by_age_and_size(root: Path) -> None:
    """Age and size are told as people tell them; what is neither old nor large stays."""
    assert rows("gc", root, "--older-than", "30d") == []
    assert rows("gc", root, "--larger-than", "1GB") == []
    assert len(rows("gc", root, "--larger-than", "1", "--older-than", "0s")) == 4


def test_gc_wants_a_rule(root: Path) -> None:
    """Nothing goes because somebody forgot to say what."""
    run("gc", root, "--yes", code=2)
    assert len(rows("ls", root)) == 4


def test_pin_what_is_not_there(root: Path) -> None:
    """Only what is stored can be pinned; to unpin what is not pinned changes nothing."""
    run("pin", root, "notes", "none", code=1)
    run("unpin", root, "notes", "none", code=0)
    assert rows("sql", root, "FROM events WHERE event IN ('pin', 'unpin')") == []


# rebuild, compact


def test_rebuild_and_compact(root: Path) -> None:
    """Both say what they did, and change no answer."""
    before = [rows("ls", root), rows("sql", root, "FROM events ORDER BY ALL")]
    assert rows("rebuild", root)[0]["events"] > 0
    assert "segments" in rows("compact", root)[0]
    assert [rows("ls", root), rows("sql", root, "FROM events ORDER BY ALL")] == before
