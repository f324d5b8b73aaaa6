"""From the argument STORAGE to a storage, without making anything on disk."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

from functionfuse.errors import InvalidConfiguration, StorageUnusable

if TYPE_CHECKING:
    from functionfuse.storage import Storage

_LOOKS = 100  # folders, and files in each, that are looked at before a folder is called no storage
_SHA1_SIZE = 20


def open_storage(text: str) -> Storage:
    """Return the storage that a command is given.

    Parameters
    ----------
    text : str
        Its folder, or a TOML, JSON or YAML file with the dictionary of `storage_factory`. A relative path in that
        file is relative to the current folder, as it is for `storage_factory`.

    Returns
    -------
    Storage
        One that is there: in a folder in which nothing was ever saved, nothing is made by looking.

    Raises
    ------
    InvalidConfiguration
        If the file cannot be read, or names an unknown kind or option.
    StorageUnusable
        If there is no storage.
    """
    from functionfuse.storage import storage_factory

    path = os.path.expanduser(text)
    if not os.path.isfile(path):
        return _existing(storage_factory({"kind": "file", "options": {"path": path}}))
    config = _read_config(path)
    try:
        storage = storage_factory(config)
    except InvalidConfiguration as error:
        raise InvalidConfiguration(f"{path}: {error}") from error
    return _existing(storage) if config["kind"] == "file" else storage


def _existing(storage: Storage) -> Storage:
    root = storage.catalog.path
    if not os.path.exists(root):
        raise StorageUnusable(f"there is no storage at {root}: check the path; a first save makes the folder")
    if not _is_storage(root):
        parent = os.path.dirname(root)
        hint = f"is {parent} meant?" if _has_catalog(parent) else "give the folder that was the storage's path"
        raise StorageUnusable(f"{root} is no storage, it has neither a catalog (.catalog) nor results: {hint}")
    return storage


def _is_storage(root: str) -> bool:
    return _has_catalog(root) or _has_results(root)


def _has_catalog(root: str) -> bool:
    return os.path.isdir(os.path.join(root, ".catalog"))


def _has_results(root: str) -> bool:
    """Tell whether there are results: of the older format, or of a storage that lost its ``.catalog``."""
    from catalog.local import LocalFolder

    place = LocalFolder(root)
    workflows = (folder for folder, _ in islice(place.workflows(), _LOOKS))
    return any(_is_result(place, folder, file) for folder in workflows for file in islice(place.files(folder), _LOOKS))


def _is_result(place: Any, folder: str, file: str) -> bool:
    from catalog.folder import Unreadable

    try:
        found = place.look_at(folder, file)
    except Unreadable:
        return False
    if found is None:
        return False
    is_older = json.loads(found.line)["format"] == 0
    return not is_older or _ends_in_its_sha1(os.path.join(place.root, folder, file))


def _ends_in_its_sha1(path: str) -> bool:
    # The catalog takes whatever looks like an older result; in a foreign folder of pickles that happens by chance.
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        with memoryview(content) as view, view[:-_SHA1_SIZE] as body:
            digest = hashlib.sha1(body, usedforsecurity=False).digest()
        return digest == content[-_SHA1_SIZE:]


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
