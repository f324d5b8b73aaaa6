"""The suite for storages."""

from __future__ import annotations

from functionfuse.testing._finding import FindingTests
from functionfuse.testing._keeping import KeepingTests
from functionfuse.testing._processes import ProcessTests
from functionfuse.testing._side_files import SideFileTests


class StorageContract(KeepingTests, FindingTests, SideFileTests, ProcessTests):
    """What every storage has to do.

    A subclass gives the fixture ``open_storage``: a function that returns a storage
    object, each time a new one, all of one place, which is empty at first. It also
    overrides the oracles, which reach the stored bytes without the code under test:
    `blobs`, `put`, `side_files` and `lose_side_files`.
    """
