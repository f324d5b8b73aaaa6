"""Death at any moment, SIGKILL and Ctrl-C: nothing saved is lost or torn, and the catalog is right."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from functionfuse.storage.filestorage import FileStorage
from killing import SCENARIOS, Death, Ledger, Report, opened
from oracle import left_over, listed, lying
from processes import Child
from seeds import seeds

# Forking beside DuckDB's threads is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

HERE = Path(__file__).parents[1] / "support"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder of the storage."""
    return tmp_path / "storage"


def kill(*arguments: object) -> None:
    """Let ``killing.py`` do its work in a process without DuckDB; fail if what it finds is wrong."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(HERE / "killing.py"), *map(str, arguments)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def rounds_of_death(root: Path, seed: int, rounds: int, at_a_time: int) -> Ledger:
    """Kill four writers in each round, and compare the catalog with the folder every few rounds."""
    storage = opened(root)
    for first in range(0, rounds, at_a_time):
        kill("rounds", root, seed, first, at_a_time)
        assert storage.list_tasks("own") == ledger_of(root).present()
        assert listed(storage) == lying(root)
    return ledger_of(root)


def ledger_of(root: Path) -> Ledger:
    """Return what is known of the writers' tasks."""
    return Ledger(**json.loads(root.with_suffix(".ledger").read_text()))


@pytest.mark.slow
def test_writers_killed_at_random(root: Path) -> None:
    """In 40 rounds four writers are killed at random moments, and every 10 rounds the catalog is right.

    There are more rounds where a busy machine lets them do little, or seldom be killed within a step.
    """
    for seed in itertools.count():
        ledger = rounds_of_death(root, seed, rounds=40, at_a_time=10)
        if ledger.steps > 100 and ledger.deaths_within > 20:
            break
    rows = lying(root)
    shutil.rmtree(root / ".catalog")
    assert listed(opened(root)) == rows


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(1, 2))
def test_writers_killed_and_a_catalog_deleted(root: Path, seed: int) -> None:
    """In 130 rounds no reported save is lost or torn; a catalog that was deleted meanwhile knows them all again."""
    kill("rounds", root, seed, 0, 115)
    shutil.rmtree(root / ".catalog")
    kill("rounds", root, seed, 115, 15)
    storage = opened(root)
    assert storage.list_tasks("own") == ledger_of(root).present()
    assert listed(storage) == lying(root)


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.parametrize("seed", [100, 101, 102])
def test_writers_killed_at_random_for_long(root: Path, seed: int) -> None:
    """The same for 300 rounds on one storage, with a question every 5 rounds."""
    rounds_of_death(root, seed, rounds=300, at_a_time=5)


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kill writers at every step of every scenario."""
    folder = tmp_path_factory.mktemp("deaths")
    kill("steps", folder)
    return folder


@pytest.fixture(scope="module")
def interrupts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interrupt every scenario at random moments."""
    folder = tmp_path_factory.mktemp("interrupts")
    kill("interrupts", folder)
    return folder


def check_catalog(folder: Path, scenario: str, at_least: int) -> None:
    """Compare the catalog with what lies in the folder, before and after a task is saved anew."""
    root = folder / scenario
    storage = opened(root)
    rows = lying(root)
    assert listed(storage) == rows
    workflow = min(path.name for path in root.glob("[!.]*"))
    assert storage.list_tasks(workflow) == sorted(storage.stored(workflow))
    storage.save(workflow, "t", "after")
    assert listed(storage) == lying(root)
    assert json.loads((folder / "found.json").read_text())[scenario]["tries"] >= at_least


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_death_at_every_step(deaths: Path, scenario: str) -> None:
    """Killed before or within any call that changes a file, or after all, a writer leaves old results or new ones."""
    check_catalog(deaths, scenario, at_least=4)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_interrupts_at_random(interrupts: Path, scenario: str) -> None:
    """After Ctrl-C at any moment there are old results or new ones, and the same process works on."""
    check_catalog(interrupts, scenario, at_least=15)


@pytest.mark.slow
def test_death_while_a_storage_is_made(tmp_path: Path) -> None:
    """Killed at any step of the first save of all, a writer leaves a place where the next save just works."""
    for moment in itertools.count():
        root = tmp_path / f"storage {moment}"

        def die(_: Report, moment: int = moment, root: Path = root) -> None:
            Death(moment).arm()
            FileStorage(root).save("w", "t", "first")

        child = Child(die)
        assert child.lines() == []
        storage = FileStorage(root)
        assert storage.stored("w") <= {"t"}
        storage.save("w", "u", "second")
        assert storage.read_task("w", "u") == "second"
        assert len(lying(root)) == 1 + storage.file_exists("w", "t")
        if moment % 8 == 0:
            assert listed(storage) == lying(root)
        if child.status == 0:
            break
    assert moment > 20


@pytest.mark.slow
def test_death_of_a_question(root: Path) -> None:
    """Somebody who is killed while asking, at random moments, leaves a catalog that answers right."""
    storage = opened(root)
    chance = random.Random(0)
    killed = 0
    for number in range(12):
        for each in range(5):
            storage.save(f"w{each}", f"t{number % 3}", number)

        def ask(report: Report) -> None:
            report("begin")
            opened(root).list_tasks("w1")

        if number % 3 == 2:
            (root / ".catalog" / "catalog.duckdb").unlink(missing_ok=True)
        child = Child(ask)
        os.read(child._pipe, 6)
        time.sleep(chance.random() * 0.1)
        child.kill()
        assert child.lines() == []
        killed += child.status == signal.SIGKILL
        assert listed(storage) == lying(root)
    assert killed >= 4


def test_a_killed_writer_leaves_only_a_temporary(root: Path) -> None:
    """What a killed writer leaves is out of sight of every list, and does not keep a workflow from being removed."""
    storage = opened(root)
    storage.save("w", "t", "old")

    def die(_: Report) -> None:
        os.replace = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        opened(root).save("w", "u", "never seen")

    child = Child(die)
    assert child.lines() == []
    assert child.status == signal.SIGKILL
    assert storage.list_tasks("w") == ["t"]
    assert storage.stored("w") == {"t"}
    assert not storage.file_exists("w", "u")
    assert len(left_over(root)) == 1
    storage.remove_workflow("w")
    assert [path.name for path in root.iterdir()] == [".catalog"]


def test_what_killed_writers_left_is_swept(root: Path) -> None:
    """Temporaries that nobody can be writing any more go away by themselves; those that are young stay."""
    opened(root).save("w", "t", 1)
    folder = (
        next(path.parent for path in root.glob(".catalog/tmp/**/*")) if left_over(root) else root / ".catalog/tmp/0"
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, age in (("old", 30 * 24 * 3600), ("young", 0)):
        (folder / name).write_bytes(b"torn")
        os.utime(folder / name, (time.time() - age,) * 2)
    opened(root).save("w", "u", 1)
    opened(root).save("x", "u", 1)
    assert [path.name for path in left_over(root)] == ["young"]
