"""Workflows of plain Python functions and classes, whose results are stored and can be found again."""

from typing import TYPE_CHECKING, Any

from functionfuse._file import File
from functionfuse.workflow import task, workflow

if TYPE_CHECKING:
    from catalog import Catalog
    from functionfuse.backends.builtin.graphback import GraphWorkflow
    from functionfuse.backends.builtin.localback import LocalWorkflow
    from functionfuse.backends.builtin.rayback import RayWorkflow
    from functionfuse.storage.base import Storage
    from functionfuse.storage.filestorage import FileStorage
    from functionfuse.storage.fsspecstorage import FsspecStorage
    from functionfuse.storage.s3storage import S3FileStorage
    from functionfuse.storage.storage_factory import open_storage

__all__ = [
    "task",
    "workflow",
    "File",
    "LocalWorkflow",
    "RayWorkflow",
    "GraphWorkflow",
    "open_storage",
    "Storage",
    "FileStorage",
    "S3FileStorage",
    "FsspecStorage",
    "Catalog",
]


def __getattr__(name: str) -> Any:
    """Load what is asked for: the decorators alone are needed by nearly every module."""
    from functionfuse._exports import load

    return load(name)


def __dir__() -> list[str]:
    """List what there is, also what is not loaded yet."""
    return sorted([*__all__, *globals()])
