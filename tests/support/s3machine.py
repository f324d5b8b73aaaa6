"""A machine that uses storages in buckets: a process with a cache and a clock of its own, which is told what to do.

``python s3machine.py SECONDS`` runs one whose clock is so much ahead, and reads one JSON list a line: what to do, and
with what. It answers each with one line; what it does at random is reported in lines before that.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ABSENT = -1


class Machine:
    """The other end: tells a machine what to do.

    Parameters
    ----------
    folder : Path
        For its cache.
    ahead : float
        Seconds by which its clock is ahead.
    """

    def __init__(self, folder: Path, ahead: float = 0.0) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(folder)}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "s3machine.py"), str(ahead)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self) -> None:
        """End it, if it did not end before."""
        self.kill()
        self.last_words()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def tell(self, what: str, *arguments: Any) -> None:
        """Tell it to do something; `answer` waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([what, *arguments]) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Return what it answers; fail with its failure."""
        return self.report()[-1]

    def report(self) -> list[Any]:
        """Return all lines up to the answer, which is the last of them; fail with its failure."""
        assert self._process.stdout is not None
        lines: list[Any] = []
        for line in self._process.stdout:
            kind, value = json.loads(line)
            assert kind != "failed", value
            lines.append(value)
            if kind == "answer":
                return lines
        raise AssertionError(f"the machine ended after {lines[-3:]}")

    def ask(self, what: str, *arguments: Any) -> Any:
        """Tell it to do something, and return its answer."""
        self.tell(what, *arguments)
        return self.answer()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def last_words(self) -> list[Any]:
        """Wait for the end of a machine that was killed, and return what it said since the last answer."""
        assert self._process.stdout is not None
        lines = [json.loads(line) for line in self._process.stdout if line.endswith("\n")]
        self._process.wait()
        assert not [value for kind, value in lines if kind == "failed"], lines[-1][1]
        return [value for kind, value in lines if kind == "line"]


# In the machine


class Work:
    """What a machine can do; every public method is a thing to tell it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._storage: Any = None

    def open(self, config: dict[str, Any]) -> None:
        """Use a storage from now on, and let notes have side files."""
        from functionfuse.storage import storage_factory
        from functionfuse.testing import NoteSerializer

        self._storage = storage_factory(config)
        self._storage.register_persistent_serializers(NoteSerializer)

    def save(self, workflow: str, task: str, number: int) -> None:
        """Save the result with a number."""
        from killing import result

        self._storage.save(workflow, task, result(number))

    def read(self, workflow: str, task: str) -> int:
        """Return the number of a result, all of which is checked."""
        from functionfuse.errors import TaskNotFound
        from killing import number_of

        try:
            return number_of(self._storage.read_task(workflow, task))
        except TaskNotFound:
            return ABSENT

    def read_all(self, workflow: str, tasks: list[str]) -> dict[str, int]:
        """Return the numbers of several results."""
        return {task: self.read(workflow, task) for task in tasks}

    def remove(self, workflow: str, task: str) -> bool:
        """Remove a result, and tell whether it was there."""
        from functionfuse.errors import TaskNotFound

        try:
            self._storage.remove_task(workflow, task)
        except TaskNotFound:
            return False
        return True

    def mixed(self, seed: int, steps: int, own: str, tasks: int) -> None:
        """Save, overwrite and remove tasks of its own at random, and save into tasks that others share."""
        chance = random.Random(seed)
        there: set[str] = set()
        for number in range(seed * 1_000, seed * 1_000 + steps):
            name = f"{own} {chance.randrange(tasks)}"
            dice = chance.random()
            if dice < 0.2:
                self.save("shared", str(chance.randrange(2)), number)
            elif dice < 0.4 and name in there:
                self._say(f"start {ABSENT} {name}")
                self.remove("own", name)
                there.remove(name)
                self._say(f"done {ABSENT} {name}")
            else:
                self._say(f"start {number} {name}")
                self.save("own", name, number)
                there.add(name)
                self._say(f"done {number} {name}")

    def quarrel(self, seed: int, steps: int, tasks: int) -> None:
        """Save, overwrite and remove tasks that another machine works on too."""
        chance = random.Random(seed)
        for number in range(seed * 1_000, seed * 1_000 + steps):
            task = str(chance.randrange(tasks))
            if chance.random() < 0.3:
                self.remove("w", task)
            else:
                self.save("w", task, number)

    def save_large(self, workflow: str, task: str, seed: int, elements: int) -> None:
        """Save an array of noise."""
        import numpy as np

        self._storage.save(workflow, task, np.random.default_rng(seed).random(elements))

    def is_large(self, workflow: str, task: str, seed: int, elements: int) -> bool:
        """Tell whether that array is read."""
        import numpy as np

        return bool((self._storage.read_task(workflow, task) == np.random.default_rng(seed).random(elements)).all())

    def run(self, workflow_name: str, first: int, count: int) -> int:
        """Run a workflow of so many results; return how many of them it computed."""
        from functionfuse import workflow
        from functionfuse.backends.builtin.localback import LocalWorkflow
        from killing import result

        node_of = workflow(result)
        nodes = [node_of(number).set_name(f"{number}") for number in range(first, first + count)]
        local = LocalWorkflow(*nodes, workflow_name=workflow_name, progress=False)
        local.set_storage(self._storage)
        assert local.run() == [result(number) for number in range(first, first + count)]
        found = self._storage.catalog.sql("SELECT computed FROM runs ORDER BY started DESC LIMIT 1").fetchall()
        return int(found[0][0])

    def tasks(self, workflow: str) -> list[str]:
        """Return the names that are listed."""
        return list(self._storage.list_tasks(workflow))

    def listed(self) -> list[Any]:
        """Return what the catalog says of every result."""
        from oracle import listed

        return listed(self._storage)

    def history(self) -> list[Any]:
        """Return all saves and removals that ever were, each once."""
        sql = "SELECT event_id::VARCHAR FROM events WHERE event IN ('save', 'remove') ORDER BY 1"
        return [row[0] for row in self._storage.catalog.sql(sql).fetchall()]

    def compact(self) -> int:
        """Compact, and return how many segments that took."""
        return int(self._storage.catalog.compact().segments)

    def forget(self) -> None:
        """Delete its indexes, if it has any."""
        shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)


def shift_clock(seconds: float) -> None:
    """Let `time.time` and `time.time_ns` be ahead; signatures of requests keep the true time."""
    seconds_of, nanoseconds_of = time.time, time.time_ns
    time.time = lambda: seconds_of() + seconds
    time.time_ns = lambda: nanoseconds_of() + int(seconds * 1e9)


def main(ahead: str) -> None:
    """Do what is told until the input ends."""
    shift_clock(float(ahead))

    def send(kind: str, value: Any) -> None:
        sys.stdout.write(json.dumps([kind, value]) + "\n")
        sys.stdout.flush()

    work = Work(lambda line: send("line", line))
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        try:
            send("answer", getattr(work, what)(*arguments))
        except BaseException:
            send("failed", traceback.format_exc())


if __name__ == "__main__":
    main(*sys.argv[1:])
