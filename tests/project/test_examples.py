"""The example that newcomers meet first runs anywhere, and does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from functionfuse.storage.filestorage import FileStorage

DEMO = Path(__file__).resolve().parents[2] / "examples" / "model_selection.py"
COUNTS = re.compile(r"(\d+) nodes computed, (\d+) restored")

pytestmark = pytest.mark.slow


def demo(folder: Path, *options: str) -> str:
    """Run the demo with `folder` as its working directory and return what it printed."""
    done = subprocess.run([sys.executable, str(DEMO), *options], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder that the demo ran in, and what it printed."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("anywhere")
    for stays_or_goes in ("mine.txt", "results/model-selection/evaluation"):
        path = folder / "demo-output" / stays_or_goes
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of an earlier demo, or somebody's own", encoding="utf-8")
    return folder, demo(folder)


def test_the_second_run_computes_nothing(finished: tuple[Path, str]) -> None:
    """The first run computes every node, the second reads the two leaves only."""
    _, printed = finished
    first, second = COUNTS.findall(printed)
    assert int(first[0]) > 20
    assert first[1] == "0"
    assert second == ("0", "2")


def test_it_leaves_a_figure_and_a_parquet_file(finished: tuple[Path, str]) -> None:
    """The figure is a PNG, and the Parquet file has a row for each stored result."""
    parquet = pytest.importorskip("pyarrow.parquet")
    folder, printed = finished
    output = folder / "demo-output"
    tasks = parquet.read_table(output / "tasks.parquet").to_pydict()
    computed = int(COUNTS.findall(printed)[0][0])
    assert (output / "figure.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert len(tasks["task"]) == computed
    assert set(tasks["workflow"]) == {"model-selection"}
    assert sorted(entry.name for entry in output.iterdir()) == ["figure.png", "mine.txt", "results", "tasks.parquet"]


def test_every_result_can_be_read_without_its_program(finished: tuple[Path, str]) -> None:
    """All that the demo stored is read back here, where the demo's functions are not defined."""
    storage = FileStorage(finished[0] / "demo-output" / "results")
    results = {name: storage.read_task("model-selection", name) for name in storage.list_tasks("model-selection")}
    assert results["choice"]["accuracy"] == max(r["accuracy"] for n, r in results.items() if n.startswith("score "))
    assert 0.9 < results["evaluation"]["accuracy"] <= 1


def test_its_answers_are_those_of_the_storage(finished: tuple[Path, str]) -> None:
    """Glob, date and SQL print what is stored."""
    folder, printed = finished
    storage = FileStorage(folder / "demo-output" / "results")
    names = storage.list_tasks("model-selection")
    best = max(storage.read_task("model-selection", name)["accuracy"] for name in names if name.startswith("score "))
    glob = re.search(r"By glob:.*\n((?:  .+\n)+)", printed)
    assert glob is not None
    assert [line.strip() for line in glob[1].splitlines()] == [n for n in names if re.search(r"svm.*gamma=0\.01$", n)]
    assert re.findall(r"since .*: (\d+) results", printed) == [str(len(names)), "0"]
    assert f"{best:.4f}" in printed


def test_it_goes_on_where_it_was_if_asked(finished: tuple[Path, str]) -> None:
    """With --keep nothing is computed again, wherever the folder is."""
    folder, _ = finished
    printed = demo(folder / "demo-output", "--keep", "--folder", str(folder / "demo-output"))
    assert COUNTS.findall(printed) == [("0", "2"), ("0", "2")]


def test_a_dask_array_is_saved_within_a_limit_of_memory() -> None:
    """The example saves more than it may have in memory and reads a slice, here a small one; `--gib` makes it large."""
    pytest.importorskip("dask.array")
    pytest.importorskip("h5py")
    program = DEMO.parent / "dask_on_disk.py"
    command = [sys.executable, str(program), "--gib", "1", "--limit-mib", "1500"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak = re.search(r"Saved 1\.00 GiB; at most (\d+) MiB were in memory", done.stdout)
    assert peak is not None, done.stdout
    assert int(peak[1]) < 500
    assert "A slice of shape (5, 5)" in done.stdout
