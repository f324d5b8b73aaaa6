"""Storage and catalog against a dictionary and a list: whatever is done, they say the same."""

from __future__ import annotations

import fnmatch
import json
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from catalog.format import author, ids
from functionfuse.errors import TaskNotFound
from functionfuse.storage.filestorage import FileStorage
from workshop import age, delete_index, journal_of, lines, segments, told

workflows = st.sampled_from(["w", "a/b"])
tasks = st.sampled_from(["a", "b", "%", "x" * 300])
values = st.integers(0, 9) | st.sampled_from([{"accuracy": 0.5}, "text", None])
patterns = st.sampled_from(["*", "a", "[ab]", "?", "x*", "[!a]*"])

Name = tuple[str, str]
Event = tuple[str, Name, str]  # its kind, the name, and the id of the blob


class Machine(RuleBasedStateMachine):
    """Deeds of users, writers, copiers and clocks; after each, all that storage and catalog say is compared."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.storage = FileStorage(Path(self.folder) / "storage")
        self.storage.new_workflow("w")
        self.stored: dict[Name, Any] = {}
        self.ids: dict[Name, str] = {}
        self.happened: list[Event] = []
        self.unproved: set[Event] = set()
        self.offset = 0.0
        self.real = (ids.time, author.time, ids._last_tick, ids._tail)
        ids.time = self  # type: ignore[assignment]  # a clock that is set
        author.time = SimpleNamespace(time=self.time)  # type: ignore[assignment]

    def time(self) -> float:
        """Return the time of the machine's clock, in seconds."""
        return float(self.real[0].time() + self.offset)

    def time_ns(self) -> int:
        """Return the time of the machine's clock, in nanoseconds."""
        return int(self.time() * 1e9)

    def teardown(self) -> None:
        """Give the clock back and delete the storage."""
        ids.time, author.time, ids._last_tick, ids._tail = self.real
        self.storage._journal._abandon()
        shutil.rmtree(self.folder)

    def path(self, name: Name) -> Path:
        """Return where a result lies."""
        return Path(self.storage._store.root, *self.storage._find(*name))

    # Deeds

    @rule(workflow=workflows, task=tasks, value=values)
    def save(self, workflow: str, task: str, value: Any) -> None:
        """Save, or overwrite."""
        name = (workflow, task)
        made = self.storage.keep(workflow, task, value)
        assert made > self.ids.get(name, "")
        self.stored[name] = value
        self.ids[name] = made
        self.happened.append(("save", name, made))

    @rule(workflow=workflows, task=tasks)
    def remove(self, workflow: str, task: str) -> None:
        """Remove one result, if it is there."""
        name = (workflow, task)
        if name in self.stored:
            self.storage.remove_task(workflow, task)
            self.forget(name)
        else:
            with pytest.raises(TaskNotFound):
                self.storage.remove_task(workflow, task)

    @rule(workflow=workflows, pattern=patterns)
    def remove_matching(self, workflow: str, pattern: str) -> None:
        """Remove all that match."""
        self.storage.remove_task(workflow, pattern=pattern)
        for name in list(self.stored):
            if name[0] == workflow and fnmatch.fnmatchcase(name[1], pattern):
                self.forget(name)

    def forget(self, name: Name) -> None:
        """Take a removal into the model."""
        del self.stored[name]
        self.happened.append(("remove", name, self.ids.pop(name)))

    @precondition(lambda self: self.stored)
    @rule(data=st.data())
    def delete_by_hand(self, data: st.DataObject) -> None:
        """Delete a file, which is no event."""
        name = data.draw(st.sampled_from(sorted(self.stored)))
        self.path(name).unlink()
        del self.stored[name], self.ids[name]

    @rule()
    def delete_the_index(self) -> None:
        """Delete the index: what is known then is what the journal and the blobs tell."""
        delete_index(self.storage)
        known = {(line["event"], (line["workflow"], line["task"]), line["blob_id"]) for line in lines(self.storage)}
        standing = {("save", name, blob_id) for name, blob_id in self.ids.items()}
        self.happened = [event for event in self.happened if event in known | standing]
        self.unproved = self.without_proof()

    def without_proof(self) -> set[Event]:
        """Return the saves whose blobs went by hand, and nothing in the journal proves that they had come."""
        replaced = {line.get("replaces") for line in lines(self.storage)}
        last, followed = set(), set()
        for segment in told(self.storage).values():
            events = [(line["event"], (line["workflow"], line["task"]), line["blob_id"]) for line in segment]
            last.add(events[-1])
            followed.update(events[:-1])
        proved = replaced | set(self.ids.values())
        return {event for event in last - followed if event[0] == "save" and event[2] not in proved}

    @rule()
    def compact(self) -> None:
        """Compact the journal, which changes nothing that is known."""
        age(self.storage)
        self.storage.catalog.compact()
        assert not segments(self.storage)

    @rule()
    def delete_the_journal(self) -> None:
        """Delete all segments, under the feet of the writer; what nobody could prove yet, nobody will."""
        self.happened = [event for event in self.happened if event not in self.unproved]
        self.unproved = set()
        shutil.rmtree(journal_of(self.storage), ignore_errors=True)

    @precondition(lambda self: segments(self.storage))
    @rule(data=st.data())
    def copy_a_segment(self, data: st.DataObject) -> None:
        """Copy a segment, the whole of it or the end of it."""
        segment = data.draw(st.sampled_from(segments(self.storage)))
        content = segment.read_bytes().splitlines(keepends=True)
        first = data.draw(st.integers(0, len(content) - 1))
        segment.with_name(f"copy-{len(segments(self.storage))}.ndjson").write_bytes(b"".join(content[first:]))

    @rule(hours=st.sampled_from([-24.0, 24.0]), process=st.booleans())
    def another_clock(self, hours: float, process: bool) -> None:
        """Let the clock jump, and another process write from now on."""
        self.offset += hours * 3600
        self.storage._journal._abandon()
        if process:
            ids._last_tick = 0
            ids._tail = f"9000-{len(self.happened) + 1:012x}"

    # What has to be true

    @invariant()
    def all_is_known(self) -> None:
        """Compare names, values, rows and history with those of the model."""
        catalog = self.storage.catalog
        answer = catalog.tasks().project("workflow, task, blob_id, value")
        rows = {(workflow, task): (str(blob_id), value) for workflow, task, blob_id, value in answer.fetchall()}
        assert {name: blob_id for name, (blob_id, _) in rows.items()} == self.ids
        assert {name: None if value is None else json.loads(value) for name, (_, value) in rows.items()} == self.stored
        for name, value in self.stored.items():
            assert self.storage.read_task(*name) == value
        events = catalog.sql("SELECT event, workflow, task, blob_id FROM events ORDER BY event_id").fetchall()
        history = sorted((event, (workflow, task), str(blob_id)) for event, workflow, task, blob_id in events)
        self.unproved &= self.without_proof()
        assert history == sorted(event for event in self.happened if event not in self.unproved)
        assert catalog.refresh().torn == 0
        assert self.storage.list_tasks("w") == sorted(task for workflow, task in self.stored if workflow == "w")


Machine.TestCase.settings = settings(
    max_examples=9,
    stateful_step_count=12,
    phases=[
        Phase.generate
    ],  # a failure is shown as it was found: shrinking it, a dozen questions a time, takes minutes
    suppress_health_check=list(HealthCheck),
)
TestStorageAndCatalog = pytest.mark.slow(Machine.TestCase)
