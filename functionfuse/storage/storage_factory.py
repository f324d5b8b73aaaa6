"""From a configuration to a storage."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from functionfuse.errors import InvalidConfiguration
from functionfuse.storage.base import Storage

_KINDS = {
    "file": ("functionfuse.storage.filestorage", "FileStorage"),
    "S3": ("functionfuse.storage.s3storage", "S3FileStorage"),
    "fsspec": ("functionfuse.storage.fsspecstorage", "FsspecStorage"),
    "ray": ("functionfuse.storage.rayfilestorage", "FileStorage"),
}


def storage_factory(config: Mapping[str, Any]) -> Storage:
    """Return the storage that a configuration describes.

    Parameters
    ----------
    config : mapping
        ``{"kind": K, "options": {...}}``. Kind ``"file"`` takes the options of `FileStorage`: ``path``, a folder, and
        ``index``, ``mmap``, ``verify``, ``compression``, ``fsync``. Kind ``"ray"`` takes those of
        `rayfilestorage.FileStorage`: ``path``, ``remoteArgs``, ``rayInitArgs``. Kind ``"S3"`` takes those of
        `S3FileStorage`: ``path``, a bucket and prefix, ``s3fs``, ``verify``, ``compression``. Kind ``"fsspec"`` takes
        those of `FsspecStorage`: ``url``, ``storage_options``, ``verify``, ``compression``.

    Returns
    -------
    Storage
        Nothing is made on disk before the first result is saved.

    Raises
    ------
    InvalidConfiguration
        If the kind or an option is unknown or missing; the message tells what is known.
    """
    form = "a storage is described by {'kind': ..., 'options': {...}}"
    if not isinstance(config, Mapping) or "kind" not in config:
        raise InvalidConfiguration(f"{form}, not by {config!r}")
    unknown = [key for key in config if key not in ("kind", "options")]
    if unknown:
        raise InvalidConfiguration(f"unknown key {unknown[0]!r}: {form}")
    options = config.get("options", {})
    storage_class = _class_of(config["kind"])
    _check_options(config["kind"], storage_class, options)
    storage: Storage = storage_class(**options)
    return storage


def open_storage(place: str | os.PathLike[str] | Mapping[str, Any] | Storage, **options: Any) -> Storage:
    """Return the storage at a place.

    Parameters
    ----------
    place : str, path-like, mapping or Storage
        A folder; a URL, such as ``s3://bucket/prefix``, or another one that fsspec knows; a configuration as
        `storage_factory` takes it; or a storage, which is returned as it is.
    **options
        Of a path or URL: what `FileStorage`, `S3FileStorage` or `FsspecStorage` takes beside it.

    Returns
    -------
    Storage
        Nothing is made on disk before the first result is saved.

    Raises
    ------
    InvalidConfiguration
        If there is no such kind or option, or it is no place at all.

    Examples
    --------
    >>> open_storage("results")
    FileStorage('results')
    """
    if isinstance(place, (Storage, Mapping)) and options:
        raise InvalidConfiguration(f"options such as {next(iter(options))!r} go with a path or URL, not with {place!r}")
    if isinstance(place, Storage):
        return place
    return storage_factory(place if isinstance(place, Mapping) else _config_of(place, options))


def _config_of(place: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the storage in a folder or under a URL."""
    if not isinstance(place, str) or "://" not in place:
        return {"kind": "file", "options": {"path": place, **options}}
    if place.lower().startswith(("s3://", "s3a://")):
        return {"kind": "S3", "options": {"path": place, **options}}
    return {"kind": "fsspec", "options": {"url": place, **options}}


def _class_of(kind: Any) -> Any:
    try:
        module, name = _KINDS[kind]
    except (KeyError, TypeError):
        raise InvalidConfiguration(f"unknown storage kind {kind!r}; known: {', '.join(map(repr, _KINDS))}") from None
    return getattr(import_module(module), name)


def _check_options(kind: str, storage_class: type, options: Any) -> None:
    known = inspect.signature(storage_class).parameters
    listed = ", ".join(map(repr, known))
    if not isinstance(options, Mapping):
        raise InvalidConfiguration(f"the options of storage kind {kind!r} are a dictionary ({listed}), not {options!r}")
    unknown = [option for option in options if option not in known]
    if unknown:
        raise InvalidConfiguration(f"unknown option {unknown[0]!r} of storage kind {kind!r}; known: {listed}")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in options:
            raise InvalidConfiguration(f"storage kind {kind!r} needs the option {name!r}")
