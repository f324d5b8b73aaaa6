"""Contract suites: what every storage and every serializer has to do, yours too.

A suite is a class of pytest tests. Derive from it, say how your storage is opened
and how its bytes are read without it, and pytest runs every test of the contract::

    class TestMyStorage(StorageContract):
        @pytest.fixture
        def open_storage(self, tmp_path):
            return lambda: MyStorage(tmp_path)

        def blobs(self, storage): ...

The oracles read the stored bytes by hand (`read_blob`), so that a mistake in the
library cannot hide itself. Call ``pytest.register_assert_rewrite("functionfuse.testing")``
before the import to see the values in a failed assertion. Nothing here is
needed at run time; pytest is imported when a test runs.
"""

from functionfuse.testing._blob import StoredBlob, read_blob
from functionfuse.testing._samples import ODD_NAMES, Buffer, Note, NoteSerializer
from functionfuse.testing._serializer import SerializerContract
from functionfuse.testing._storage import StorageContract

__all__ = [
    "ODD_NAMES",
    "Buffer",
    "Note",
    "NoteSerializer",
    "SerializerContract",
    "StorageContract",
    "StoredBlob",
    "read_blob",
]
