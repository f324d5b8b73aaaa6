"""Verification beside processes that save, overwrite and remove, and repairs that are killed."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path
from typing import Any

import pytest
from workshop import root_of, running_python, say, task_names, wait_for

from catalog import Catalog
from catalog.verification import KINDS, Verification
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import Note, NoteSerializer
from tests.killing import Death
from tests.processes import Child

BUSY = """
import random, sys, threading
from functionfuse.errors import TaskNotFound
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import Note, NoteSerializer

root, me = sys.argv[1:]
storage = FileStorage(root)
storage.register_persistent_serializers(NoteSerializer)
stop = threading.Event()
chance = random.Random(me)
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set())).start()
print("up", flush=True)
while not stop.is_set():
    for name in (f"{me} {chance.randrange(8)}", f"shared {chance.randrange(3)}"):
        if chance.random() < 0.3:
            try:
                storage.remove_task("w", name)
            except TaskNotFound:
                pass
        else:
            result = [chance.random(), "x" * chance.randrange(20_000)]
            storage.save("w", name, [Note(name), *result] if chance.random() < 0.3 else result)
"""


def faults(report: Verification) -> list[str]:
    """Return what was found, but for side files that a running save may own."""
    return [f"{kind} {each}" for kind in KINDS for each in getattr(report, kind) if not each.perhaps_in_use]


def test_a_busy_storage_has_no_faults(storage: FileStorage) -> None:
    """While three processes save, overwrite and remove, also the same names, no verification finds anything."""
    storage.save("w", "quiet", 1)
    root = root_of(storage)
    with running_python(BUSY, root, "a") as a, running_python(BUSY, root, "b") as b, running_python(BUSY, root, "c") as c:
        for process in (a, b, c):
            wait_for(process, "up")
        reports = [storage.catalog.verify() for _ in range(8)]
        for process in (a, b, c):
            say(process, "stop")
            assert process.wait() == 0
    assert [faults(report) for report in reports] == [[]] * len(reports)
    assert max(report.results for report in reports) > 3
    final = storage.catalog.verify()
    assert faults(final) == []
    assert final.results == len(task_names(storage.catalog))
