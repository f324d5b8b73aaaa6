"""From the argument STORAGE to a storage, without making anything there."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from functionfuse.errors import InvalidConfiguration, StorageUnusable

if TYPE_CHECKING:
    from functionfuse.storage import Storage


def open_storage(text: str) -> Storage:
    """Return the storage that a command is given.

    Parameters
    ----------
    text : str
        Its folder; its URL, as ``s3://bucket/prefix``; or a TOML, JSON or YAML file with the dictionary of
        `storage_factory`. A relative path in that file is relative to the current folder, as it is for
        `storage_factory`.

    Returns
    -------
    Storage
        One that is there: where nothing was ever saved, nothing is made by looking.

    Raises
    ------
    InvalidConfiguration
        If the file cannot be read, or names an unknown kind or option.
    StorageUnusable
        If there is no storage.
    CatalogUnusable
        If a URL cannot be reached.
    """
    from functionfuse import storage as storages

    path = text if is_url(text) else os.path.expanduser(text)
    if not os.path.isfile(path):
        return _existing(storages.open_storage(path))
    config = _read_config(path)
    try:
        storage = storages.storage_factory(config)
    except InvalidConfiguration as error:
        raise InvalidConfiguration(f"{path}: {error}") from error
    return _existing(storage)


def is_url(text: str) -> bool:
    """Tell whether an argument is a URL, and no path."""
    return "://" in text


def _existing(storage: Storage) -> Storage:
    if storage.catalog.exists():
        return storage
    root = storage.catalog.path
    if is_url(root):
        raise StorageUnusable(f"there is no storage at {root}: neither a catalog (.catalog) nor results are below it")
    if not os.path.exists(root):
        raise StorageUnusable(f"there is no storage at {root}: check the path; a first save makes the folder")
    parent = os.path.dirname(root)
    has_catalog = os.path.isdir(os.path.join(parent, ".catalog"))
    hint = f"is {parent} meant?" if has_catalog else "give the folder that was the storage's path"
    raise StorageUnusable(f"{root} is no storage, it has neither a catalog (.catalog) nor results: {hint}")


def _read_config(path: str) -> Any:
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in _READERS:
        raise InvalidConfiguration(
            f"{path} is a file, and no configuration: a storage is a folder, "
            f"or a file that ends in {', '.join(_READERS)} and describes one"
        )
    with open(path, "rb") as file:
        content = file.read()
    try:
        return _READERS[suffix](content)
    except ValueError as error:
        raise InvalidConfiguration(f"{path} cannot be read: {error}") from error


def _toml(content: bytes) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(content.decode())


def _json(content: bytes) -> Any:
    return json.loads(content)


def _yaml(content: bytes) -> Any:
    import yaml

    try:
        return yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


_READERS = {".toml": _toml, ".json": _json, ".yaml": _yaml, ".yml": _yaml}
