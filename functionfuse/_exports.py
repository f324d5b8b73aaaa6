"""What `functionfuse` exports beside the decorators, and where it is: it is loaded when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "Catalog": "catalog",
    "FileStorage": "functionfuse.storage.filestorage",
    "FsspecStorage": "functionfuse.storage.fsspecstorage",
    "GraphWorkflow": "functionfuse.backends.builtin.graphback",
    "LocalWorkflow": "functionfuse.backends.builtin.localback",
    "RayWorkflow": "functionfuse.backends.builtin.rayback",
    "S3FileStorage": "functionfuse.storage.s3storage",
    "Storage": "functionfuse.storage.base",
    "open_storage": "functionfuse.storage.storage_factory",
}


def load(name: str) -> Any:
    """Return an exported name, from the module that has it.

    Parameters
    ----------
    name : str
        One of `functionfuse.__all__`.

    Returns
    -------
    object
        What is called so.

    Raises
    ------
    AttributeError
        If nothing is.
    """
    if name not in _MODULES:
        raise AttributeError(f"module 'functionfuse' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
