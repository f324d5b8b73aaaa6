"""A journal of 1,000,000 results, as ten workflows would have left it, written in seconds.

The lines are those of a real run with other names, ids and values. The blobs
are names only: hard links of empty files, which is all that the catalog looks
at where the journal leaves no doubt, and all that listing by glob looks at.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import NamedTuple

from catalog.format.ids import new_id
from catalog.journal.base import JOURNAL_FOLDER, SEGMENT_SUFFIX
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import storage_factory

WORKFLOWS = 10
TASKS = 100_000
PROCESSES = 2  # that ran each of the workflows
RESULTS = WORKFLOWS * TASKS

_APART = 43_200  # seconds between the beginnings of two workflows; the last one ends about now
_PACE = 0.0005  # seconds between two results of a process
_LINKS = 50_000  # of one file: ext4 has 65,000 at most

_SAVE = (
    '{{"event":"save","format":3,"size":{size},"blob_id":"{blob_id}","workflow":"{workflow}","task":"{task}",'
    '"run_id":"{run_id}","function":"__main__.train","code_fingerprint":"py3.11:{code}","lineage":"py3.11:{lineage}",'
    '"inputs":{{"data":"blob:{parent}","step":"{step}"}},"parents":["task_000000"],'
    '"scheme":"bytecode-1","duration":{duration:.9f},"type":"dict",'
    '"summary":{{"length":2}},"value":{{"loss":{loss!r},"step":{step}}},"packages":{{}},'
    '"saved_at":"{saved_at}","checksum":"xxh3:{checksum}","serializers":["pickle"],{machine}}}\n'
)
_RUN = (
    '{{"event":"{event}","event_id":"{event_id}","time":"{time}","workflow":"{workflow}","run_id":"{run_id}",'
    '"details":{details},{machine}}}\n'
)
_MACHINE = '"host":"node-{process}","user":"researcher","pid":{pid},"python":"3.11.7"'


class _Clock:
    """Ids and times of one process: UUIDv7 as `catalog.format.ids` makes them, a moment after one another."""

    def __init__(self, now: float, randomness: random.Random) -> None:
        self.now = now
        self._random = randomness.random
        self._tail = f"{randomness.getrandbits(14) | 0x8000:04x}-{randomness.getrandbits(48):012x}"
        self._milliseconds = self._count = self._second = 0
        self._text = ""

    def tick(self) -> str:
        """Let time pass, and return the id of what happens then."""
        self.now += _PACE * (0.5 + self._random())
        milliseconds = int(self.now * 1000)
        self._count = self._count + 1 if milliseconds == self._milliseconds else 0
        self._milliseconds = milliseconds
        return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7{self._count:03x}-{self._tail}"

    def text(self) -> str:
        """Return the time as the journal has it."""
        second = int(self.now)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{int(self.now % 1 * 1e6):06d}Z"


class Process(NamedTuple):
    """A process that ran a part of a workflow.

    Attributes
    ----------
    workflow : str
        Its name.
    number : int
        Of the process.
    began : float
        Seconds since 1970.
    """

    workflow: str
    number: int
    began: float


def write_journal(root: Path) -> None:
    """Write what the processes would have written, a segment each."""
    folder = root / JOURNAL_FOLDER
    folder.mkdir(parents=True)
    first = time.time() - WORKFLOWS * _APART
    for number in range(WORKFLOWS):
        for process in range(PROCESSES):
            names = [f"task_{task:06d}" for task in range(process, TASKS, PROCESSES)]
            _write_segment(folder, Process(f"workflow_{number}", process, first + number * _APART), names)


def append(root: Path, name: str, count: int) -> None:
    """Add results of a new process: lines, and files of these names."""
    names = [f"{name}_{index:05d}" for index in range(count)]
    _link(root / "workflow_0", names)
    _write_segment(root / JOURNAL_FOLDER, Process("workflow_0", 0, time.time()), names)


def write_files(root: Path) -> None:
    """Make the names of the blobs."""
    for number in range(WORKFLOWS):
        folder = root / f"workflow_{number}"
        folder.mkdir()
        _link(folder, [f"task_{task:06d}" for task in range(TASKS)])


def age(root: Path, seconds: float) -> None:
    """Let the segments look as if they were written so long ago: only those that are idle are compacted."""
    moment = time.time() - seconds
    for segment in (root / JOURNAL_FOLDER).glob(f"*{SEGMENT_SUFFIX}"):
        os.utime(segment, (moment, moment))


def _link(folder: Path, names: list[str]) -> None:
    for begin in range(0, len(names), _LINKS):
        first, *others = (f"{folder}/{name}" for name in names[begin : begin + _LINKS])
        Path(first).touch()
        for other in others:
            os.link(first, other)


def _write_segment(folder: Path, process: Process, names: list[str]) -> None:
    randomness = random.Random(str(process))
    clock = _Clock(process.began, randomness)
    machine = _MACHINE.format(process=process.number, pid=randomness.randrange(1000, 60_000))
    run = {"workflow": process.workflow, "run_id": clock.tick(), "machine": machine}
    fixed = {**run, "code": randomness.randbytes(16).hex(), "parent": clock.tick()}
    details = f'{{"backend":"local","nodes":{len(names)}}}'
    with open(folder / f"{new_id()}{SEGMENT_SUFFIX}", "x") as file:
        file.write(_RUN.format(event="run-started", event_id=clock.tick(), time=clock.text(), details=details, **run))
        for step, name in enumerate(names):
            file.write(_save(clock, randomness, {**fixed, "task": name, "step": step}))
        details = f'{{"backend":"local","status":"finished","computed":{len(names)},"restored":0}}'
        file.write(_RUN.format(event="run-finished", event_id=clock.tick(), time=clock.text(), details=details, **run))


def _save(clock: _Clock, randomness: random.Random, fields: dict[str, object]) -> str:
    blob_id = clock.tick()
    loss = randomness.random()
    noise = randomness.randbytes(32).hex()
    return _SAVE.format(
        blob_id=blob_id,
        saved_at=clock.text(),
        size=680 + int(loss * 60),
        loss=loss,
        duration=loss * 1e-3,
        lineage=noise[:32],
        checksum=noise[32:],
        **fields,
    )


@workflow
def train(data: object, step: int) -> dict[str, float]:
    """Return a result like those above."""
    return {"loss": step / 3, "step": step}


def check_lines(root: Path) -> None:
    """Hold the lines against those of a run: a benchmark of lines that nobody writes would be worthless."""
    node = train(train(None, 2).set_name("task_000000"), 3).set_name("task_000001")
    local = LocalWorkflow(node, workflow_name="workflow_0", progress=False)
    local.set_storage(storage_factory({"kind": "file", "options": {"path": str(root / "real")}}))
    local.run()
    real = _kinds(root / "real")
    written = _kinds(root)
    assert real == written, f"the library writes {real}, the benchmark {written}"


def _kinds(root: Path) -> dict[str, list[str]]:
    """Return the fields of each kind of event in a segment."""
    with open(min((root / JOURNAL_FOLDER).glob(f"*{SEGMENT_SUFFIX}"))) as file:
        events = [json.loads(line) for line in file]
    return {event["event"]: list(event) for event in events}
