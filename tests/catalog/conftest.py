"""A storage of its own for every test of the catalog."""

from __future__ import annotations

from pathlib import Path

import pytest

from functionfuse.storage.filestorage import FileStorage


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """Return an empty storage."""
    return FileStorage(tmp_path / "storage")
