"""Faults between a storage in a bucket and its server: nothing that was reported is lost, torn or listed twice."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from commands import MODULE, environment

pytest.importorskip("s3fs", reason="storages in buckets are tested where s3fs is installed")

from s3faults import (
    Fault,
    Lose,
    Maker,
    Refuse,
    Request,
    Rule,
    Stall,
    StallAnswer,
    cut_answer,
    cut_request,
    lose,
    refuse,
    sometimes,
)
from s3machine import ABSENT, Machine
from s3oracle import Ledger, check_agreement
from seeds import seeds

if TYPE_CHECKING:
    from s3proxy import Proxy
    from s3server import Endpoint, SeaweedServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # some wait for what is found within a minute

APART = 240.0  # seconds between the machines' clocks
FOUND = 240.0  # seconds until what a killed writer published must be found: a minute, on a busy machine more
HARMS: dict[str, list[Maker]] = {
    "503": [refuse],
    "request cut": [cut_request],
    "answer cut": [cut_answer],
    "success lost": [lose],
    "anything": [refuse, cut_request, cut_answer, lose],
}


@pytest.fixture
def endpoint(s3server: SeaweedServer) -> Endpoint:
    """Return where the server is."""
    return s3server.endpoint


@pytest.fixture
def path(endpoint: Endpoint) -> str:
    """Return a fresh prefix."""
    return endpoint.prefix()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Machine]]:
    """Start two machines whose clocks are minutes apart."""
    folders = [tmp_path_factory.mktemp(name) / "cache" for name in ("here", "there")]
    with Machine(folders[0], -APART / 2) as here, Machine(folders[1], APART / 2) as there:
        yield here, there


@pytest.fixture
def machines(both: tuple[Machine, Machine], endpoint: Endpoint, path: str) -> tuple[Machine, Machine]:
    """Let the two machines use the fresh prefix."""
    for machine in both:
        machine.ask("open", endpoint.config(path))
    return both


# Harm on the way


@pytest.mark.parametrize("seed", seeds(0, 1))
@pytest.mark.parametrize("harm", HARMS)
def test_harm_on_any_request(
    machines: tuple[Machine, Machine], endpoint: Endpoint, path: str, proxy: Proxy, harm: str, seed: int
) -> None:
    """A machine saves, overwrites, removes, reads and asks through harm: all is as it says, and as others see it."""
    here, there = machines
    here.ask("open", endpoint.at(proxy.url).config(path))
    ledger = Ledger()
    with proxy.harming(sometimes(0.2, seed, *HARMS[harm])):
        here.tell("mixed", seed + 1, 40, "here", 6)
        ledger.take(here.report()[:-1])
        ledger.settle(here)
        assert here.ask("tasks", "own") == ledger.present()
    assert sum(request.fault is not None for request in proxy.requests) > 15
    ledger.settle(there)
    check_agreement(endpoint, path, machines)


@pytest.mark.parametrize("seed", seeds(0, 1))
def test_a_run_through_harm(
    machines: tuple[Machine, Machine], endpoint: Endpoint, path: str, proxy: Proxy, seed: int
) -> None:
    """A run that ends has kept every result: the other machine computes none, and lists all."""
    here, there = machines
    here.ask("open", endpoint.at(proxy.url).config(path))
    with proxy.harming(sometimes(0.1, seed, *HARMS["anything"])):
        assert here.ask("run", "w", 0, 100) == 100
    assert len(there.ask("tasks", "w")) == 100
    assert there.ask("run", "w", 0, 120) == 20
    check_agreement(endpoint, path, machines)


@pytest.mark.parametrize("seed", seeds(0, 1))
def test_a_large_result_through_harm(
    machines: tuple[Machine, Machine], endpoint: Endpoint, path: str, proxy: Proxy, seed: int
) -> None:
    """An array that goes in parts, cut anywhere, refused or answered into the void, is kept and read whole."""
    here, there = machines
    here.ask("open", endpoint.at(proxy.url).config(path))
    with proxy.harming(sometimes(0.25, seed, *HARMS["anything"])):
        here.ask("save_large", "w", "array", seed, 6_000_000)
        assert here.ask("is_large", "w", "array", seed, 6_000_000)
        here.ask("save_large", "w", "array", seed + 100, 6_000_000)
    assert proxy.counts()["PART"] > 2
    assert there.ask("is_large", "w", "array", seed + 100, 6_000_000)
    check_agreement(endpoint, path, machines)


def stall(request: Request, chance: random.Random) -> Fault:
    """Stall for a second before or after the server does it."""
    return chance.choice([Stall(1.0), StallAnswer(1.0)])


@pytest.mark.parametrize("seed", [0])
def test_stalls(machines: tuple[Machine, Machine], endpoint: Endpoint, path: str, proxy: Proxy, seed: int) -> None:
    """Requests that hang are waited for; nothing is lost or doubled."""
    here, there = machines
    here.ask("open", endpoint.at(proxy.url).config(path))
    ledger = Ledger()
    with proxy.harming(sometimes(0.15, seed, stall)):
        here.tell("mixed", seed + 10, 8, "here", 3)
        ledger.take(here.report()[:-1])
        assert here.ask("run", "w", 0, 20) == 20
    assert any(request.fault for request in proxy.requests)
    ledger.settle(there)
    check_agreement(endpoint, path, machines)


# Deaths


@pytest.mark.parametrize("seed", seeds(0, 1))
def test_one_of_four_writers_is_killed(
    machines: tuple[Machine, Machine], endpoint: Endpoint, path: str, tmp_path: Path, seed: int
) -> None:
    """Of four writers one is killed in each of 8 rounds: what they reported is there, and all of it is catalogued."""
    chance = random.Random(seed)
    ledger = Ledger()
    writers = [Machine(tmp_path / f"{number}", chance.uniform(-APART, APART)) for number in range(4)]
    try:
        for writer in writers:
            writer.ask("open", endpoint.config(path))
        for number in range(8):
            for at, writer in enumerate(writers):
                writer.tell("mixed", 100 * seed + 10 * number + at, 15, str(at), 4)
            time.sleep(chance.uniform(0.02, 0.7))
            victim = chance.randrange(4)
            writers[victim].kill()
            for at, writer in enumerate(writers):
                ledger.take(writer.last_words() if at == victim else writer.report()[:-1])
            ledger.settle(machines[number % 2])
            writers[victim].end()
            writers[victim] = Machine(tmp_path / f"{number}-{victim}", chance.uniform(-APART, APART))
            writers[victim].ask("open", endpoint.config(path))
    finally:
        for writer in writers:
            writer.end()
    assert ledger.deaths_within > 2, "they were never killed within a step"
    rows = check_agreement(endpoint, path, machines, FOUND)
    assert [row[1] for row in rows if row[0] == "own"] == ledger.present()


def dying(victim: Machine | subprocess.Popen[str], nth: int, answered: bool) -> Rule:
    """Return a rule that kills a process with its n-th change to the bucket, just before or just after it is made."""
    left = itertools.count(nth, -1)

    def rule(request: Request) -> Fault | None:
        if request.kind in ("GET", "HEAD", "LIST") or next(left) != 0:
            return None
        os.kill(victim.pid, signal.SIGKILL)
        return Lose() if answered else Refuse()

    return rule


DEEDS: dict[str, tuple[Any, ...]] = {
    "save": ("save", "w", "new", 3),
    "overwrite": ("save", "w", "old", 5),
    "overwrite with side files": ("save", "w", "old", 4),
    "remove": ("remove", "w", "old"),
}


@pytest.mark.parametrize("answered", seeds(True, False))
def test_death_at_every_change(
    machines: tuple[Machine, Machine], endpoint: Endpoint, proxy: Proxy, path: str, tmp_path: Path, answered: bool
) -> None:
    """Killed after, or before, any change that it makes to the bucket, a writer leaves old results or new ones.

    What it published is found by both machines within a minute.
    """
    here, _ = machines
    deaths = 0
    for deed, (what, _, task, *number) in DEEDS.items():
        for nth in range(20):
            workflow = f"{deed} {nth}"
            here.ask("save", workflow, "old", 9)
            with Machine(tmp_path / workflow.replace(" ", "-"), APART) as victim:
                victim.ask("open", endpoint.at(proxy.url).config(path))
                with proxy.harming(dying(victim, nth, answered)):
                    victim.tell(what, workflow, task, *number)
                    try:
                        victim.answer()
                    except AssertionError:
                        victim.last_words()
                        deaths += 1
                    else:
                        break
            after = number[0] if number else ABSENT
            before = 9 if task == "old" else ABSENT
            assert here.ask("read", workflow, task) in (before, after)
    assert deaths >= 8
    check_agreement(endpoint, path, machines, FOUND)


@pytest.mark.parametrize("seed", seeds(0, 1))
def test_the_server_is_killed(
    machines: tuple[Machine, Machine], s3server: SeaweedServer, path: str, tmp_path: Path, seed: int
) -> None:
    """While four machines write, the server dies three times and comes back: they wait, and nothing is lost."""
    chance = random.Random(seed)
    writers = [*machines, *(Machine(tmp_path / str(number)) for number in range(2))]
    ledger = Ledger()
    try:
        for at, writer in enumerate(writers):
            writer.ask("open", s3server.endpoint.config(path))
            writer.ask("save", "own", f"{at} 0", 1)
            writer.tell("mixed", 10 * seed + at, 40, str(at), 5)
        for _ in range(3):
            time.sleep(chance.uniform(0.1, 1.0))
            s3server.kill()
            time.sleep(chance.uniform(0.0, 2.0))
            s3server.start()
        for writer in writers:
            ledger.take(writer.report()[:-1])
        ledger.settle(machines[0])
        rows = check_agreement(s3server.endpoint, path, writers)
    finally:
        for writer in writers[2:]:
            writer.end()
    assert set(ledger.present()) <= {row[1] for row in rows if row[0] == "own"}


# Several machines


@pytest.mark.parametrize("seed", seeds(0, 1))
def test_two_machines_in_turn(machines: tuple[Machine, Machine], endpoint: Endpoint, path: str, seed: int) -> None:
    """Saves, overwrites and removals of the same tasks in turn: the other machine's next question sees each."""
    chance = random.Random(seed)
    model: dict[str, int] = {}
    for number in range(60):
        writer, reader = chance.sample(machines, 2)
        task = str(chance.randrange(4))
        if chance.random() < 0.3:
            assert writer.ask("remove", "w", task) == (task in model)
            model.pop(task, None)
        else:
            writer.ask("save", "w", task, number)
            model[task] = number
        assert reader.ask("tasks", "w") == sorted(model)
        assert reader.ask("read", "w", task) == model.get(task, ABSENT)
    check_agreement(endpoint, path, machines)


@pytest.mark.parametrize("seed", seeds(0, 1, 2))
def test_two_machines_at_once(machines: tuple[Machine, Machine], endpoint: Endpoint, path: str, seed: int) -> None:
    """Two machines save, overwrite and remove the same tasks at the same time: whoever wins, both catalogs know it."""
    for number, machine in enumerate(machines):
        machine.tell("quarrel", 2 * seed + number, 40, 3)
    for machine in machines:
        machine.answer()
    check_agreement(endpoint, path, machines)


# Compaction


def compacting(config: Path, caches: Path) -> subprocess.Popen[str]:
    """Start the command that compacts."""
    command = [*MODULE, "compact", str(config)]
    return subprocess.Popen(command, env=environment(XDG_CACHE_HOME=str(caches)), text=True, stderr=subprocess.PIPE)


def written(config: dict[str, Any], file: Path) -> Path:
    """Write a configuration file."""
    file.write_text(json.dumps(config), encoding="utf-8")
    return file


@pytest.mark.parametrize("seed", seeds(0, 1))
def test_two_compactors_at_once(
    machines: tuple[Machine, Machine], endpoint: Endpoint, path: str, tmp_path: Path, seed: int
) -> None:
    """While two processes compact and one saves, a reader without an index misses nothing and counts nothing twice."""
    here, there = machines
    config = written(endpoint.config(path), tmp_path / "storage.json")
    for number in range(30):
        here.ask("save", "w", f"{number:02}", number)
    for turn in range(2):
        seen: set[str] = set()
        here.tell("mixed", 10 * seed + turn, 25, "here", 4)
        compactors = [compacting(config, tmp_path / f"{turn}-{number}") for number in range(2)]
        while any(compactor.poll() is None for compactor in compactors):
            there.ask("forget")
            names, history = there.ask("tasks", "w"), there.ask("history")
            assert names == [f"{number:02}" for number in range(30)]
            assert len(history) == len(set(history))
            assert seen <= set(history)
            seen = set(history)
        assert [compactor.communicate()[1] for compactor in compactors] == ["", ""]
        assert [compactor.returncode for compactor in compactors] == [0, 0]
        here.answer()
        check_agreement(endpoint, path, machines)
    segments = [key for key in endpoint.objects(path) if key.endswith(".ndjson")]
    assert len(segments) < 30, "nothing was compacted"


@pytest.mark.parametrize("answered", seeds(True, False))
def test_a_compaction_killed_at_every_change(
    machines: tuple[Machine, Machine], endpoint: Endpoint, path: str, proxy: Proxy, tmp_path: Path, answered: bool
) -> None:
    """Killed after, or before, any change that it makes, a compaction loses no event and doubles none."""
    here, there = machines
    config = written(endpoint.at(proxy.url).config(path), tmp_path / "storage.json")
    deaths = 0
    for nth in range(30):
        for number in range(2):
            here.ask("save", "w", f"{number}", number + nth)
        history = here.ask("history")
        compactor = compacting(config, tmp_path / str(nth))
        with proxy.harming(dying(compactor, nth, answered)):
            _, trouble = compactor.communicate()
        for machine in machines:
            machine.ask("forget")
            assert machine.ask("history") == history
        check_agreement(endpoint, path, machines)
        if compactor.returncode == 0:
            break
        assert compactor.returncode == -signal.SIGKILL, trouble
        deaths += 1
    assert deaths >= 4
    there.ask("compact")
    assert there.ask("history") == history
    check_agreement(endpoint, path, machines)
