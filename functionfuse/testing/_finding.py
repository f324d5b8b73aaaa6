"""What is stored is found, and what is removed is not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from functionfuse.errors import TaskNotFound
from functionfuse.storage.base import Storage
from functionfuse.testing._blob import read_blob
from functionfuse.testing._oracles import Oracles
from functionfuse.testing._samples import Note, NoteSerializer, raises, samples


class FindingTests(Oracles):
    """Of listing and removing."""

    def test_listing_is_by_glob(self, open_storage: Callable[[], Storage]) -> None:
        """`list_tasks` sorts, and matches as `fnmatch` does: case-sensitive, with ``?`` and ``[...]``."""
        storage = open_storage()
        for name in ("fit_2", "fit_10", "Fit_1", "load", "fit"):
            storage.save("w", name, 0)
        assert storage.list_tasks("w") == ["Fit_1", "fit", "fit_10", "fit_2", "load"]
        assert storage.list_tasks("w", "fit*") == ["fit", "fit_10", "fit_2"]
        assert storage.list_tasks("w", "fit_?") == ["fit_2"]
        assert storage.list_tasks("w", "[!f]*") == ["Fit_1", "load"]
        assert storage.list_tasks("w", "load") == ["load"]
        assert storage.list_tasks("w", "Load") == []
        assert storage.list_tasks("no such workflow") == []

    def test_listing_is_by_date(self, open_storage: Callable[[], Storage]) -> None:
        """`since` is included and `until` is not, and both take times with a zone."""
        storage = open_storage()
        storage.save("w", "t", 0)
        text = self.only_blob(storage).record["saved_at"].removesuffix("Z")
        saved_at = datetime.fromisoformat(text).replace(tzinfo=timezone.utc)
        moment = timedelta(microseconds=1)
        assert storage.list_tasks("w", since=saved_at, until=saved_at + moment) == ["t"]
        assert storage.list_tasks("w", since=saved_at + moment) == []
        assert storage.list_tasks("w", until=saved_at) == []

    def test_the_catalog_agrees_with_the_bytes(self, open_storage: Callable[[], Storage]) -> None:
        """The catalog's names, sizes, ids, times and checksums are those of the stored blobs."""
        storage = open_storage()
        storage.register_persistent_serializers(NoteSerializer)
        for number, obj in enumerate([*samples(), [Note("one"), Note("two")]]):
            storage.save(f"w{number % 2}", f"t{number}", obj)
        storage.save("w0", "t0", "again")
        storage.remove_task("w1", "t1")
        expected = []
        for data in self.blobs(storage).values():
            record = read_blob(data).record
            size = len(data) + sum(side["size"] for side in record.get("side_files", ()))
            columns = ("workflow", "task", "blob_id", "checksum")
            expected.append((*(record[name] for name in columns), record["saved_at"].removesuffix("Z"), size))
        query = """SELECT workflow, task, blob_id::VARCHAR, checksum,
            strftime(saved_at, '%Y-%m-%dT%H:%M:%S.%f'), size FROM tasks ORDER BY workflow, task"""
        rows = open_storage().catalog.sql(query).fetchall()
        assert rows == sorted(expected)

    # Removing

    def test_remove_one(self, open_storage: Callable[[], Storage]) -> None:
        """`remove_task` takes one result away, by its exact name, and says so when it is gone already."""
        storage = open_storage()
        for name in ("t", "t*", "t1"):
            storage.save("w", name, 0)
        storage.remove_task("w", "t*")
        assert open_storage().list_tasks("w") == ["t", "t1"]
        assert len(self.blobs(storage)) == 2
        with raises(TaskNotFound):
            storage.remove_task("w", "t*")

    def test_remove_by_pattern(self, open_storage: Callable[[], Storage]) -> None:
        """A pattern removes all that match, wins over a name, and may match nothing; one of both is needed."""
        storage = open_storage()
        for name in ("fit_1", "fit_2", "Fit_3", "load"):
            storage.save("w", name, 0)
        storage.remove_task("w", task_name="load", pattern="fit_*")
        assert storage.list_tasks("w") == ["Fit_3", "load"]
        storage.remove_task("w", pattern="nothing*")
        assert len(self.blobs(storage)) == 2
        with raises(TypeError, "task_name or a pattern"):
            storage.remove_task("w")

    def test_remove_workflow(self, open_storage: Callable[[], Storage]) -> None:
        """`remove_workflow` takes one workflow away by its exact name; one that is not there is `TaskNotFound`."""
        storage = open_storage()
        for workflow in ("w*", "w1"):
            storage.save(workflow, "a", 0)
            storage.save(workflow, "b", 0)
        storage.remove_workflow("w*")
        assert storage.list_tasks("w*") == []
        assert storage.list_tasks("w1") == ["a", "b"]
        with raises(TaskNotFound, r"no workflow 'w\*'"):
            storage.remove_workflow("w*")
        storage.save("w*", "again", 1)
        assert storage.list_tasks("w*") == ["again"]

    def test_new_workflow_stores_nothing(self, open_storage: Callable[[], Storage]) -> None:
        """`new_workflow` may be called any number of times, and lists as empty."""
        storage = open_storage()
        storage.new_workflow("w")
        assert storage.list_tasks("w") == []
        storage.save("w", "t", 1)
        storage.new_workflow("w")
        assert storage.list_tasks("w") == ["t"]
