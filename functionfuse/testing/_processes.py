"""Storage objects, threads and processes see the same results."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from functionfuse.storage.base import Storage
from functionfuse.testing._oracles import Oracles
from functionfuse.testing._samples import Note, NoteSerializer

_READ = "import pickle, sys; storage, names = pickle.load(sys.stdin.buffer); print(repr(storage.read_task(*names)))"


class ProcessTests(Oracles):
    """Of what goes on at once, and elsewhere."""

    def test_another_object_sees_a_save_at_once(self, open_storage: Callable[[], Storage]) -> None:
        """What one storage object saved or removed, another one lists, finds and reads without delay."""
        first, second = open_storage(), open_storage()
        for number in range(3):
            first.save("w", f"t{number}", number)
            assert second.list_tasks("w") == [f"t{index}" for index in range(number + 1)]
            assert second.read_task("w", f"t{number}") == number
        second.remove_task("w", "t1")
        assert first.list_tasks("w") == ["t0", "t2"]
        assert not first.file_exists("w", "t1")

    def test_a_storage_pickles(self, open_storage: Callable[[], Storage]) -> None:
        """A storage object that was used can be pickled with its serializers, and reads in another process."""
        storage = open_storage()
        storage.register_persistent_serializers(NoteSerializer)
        storage.always_read = True
        storage.save("w", "t", Note("from afar"))
        assert storage.list_tasks("w") == ["t"]
        copy = pickle.loads(pickle.dumps(storage))
        assert copy.always_read
        assert copy.have_serializers()
        assert copy.list_tasks("w") == ["t"]
        message = pickle.dumps((storage, ("w", "t")))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", _READ]
        answer = subprocess.run(command, input=message, capture_output=True, env=environment, check=True)
        assert answer.stdout.decode().strip() == "Note(text='from afar')"

    def test_threads_share_a_storage(self, open_storage: Callable[[], Storage]) -> None:
        """Threads that save, overwrite and read in one storage object at once lose nothing and mix nothing up."""
        storage = open_storage()

        def work(worker: int) -> None:
            for number in range(20):
                storage.save("w", f"own_{worker}_{number}", (worker, number))
                storage.save("w", "shared", (worker, number))
                assert storage.read_task("w", f"own_{worker}_{number}") == (worker, number)
                assert len(storage.read_task("w", "shared")) == 2

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert len(self.blobs(storage)) == 81
        assert len(storage.list_tasks("w", "own_*")) == 80
        assert storage.always_read is False
