"""A workflow whose results are kept: what all backends that compute have in common."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from functionfuse.backends._run import ON_STALE, Settings
from functionfuse.baseworkflow import BaseWorkflow
from functionfuse.errors import InvalidArgument
from functionfuse.storage import Storage, open_storage

#: Where a storage is, as `open_storage` takes it.
Place = str | os.PathLike[str] | Mapping[str, Any] | Storage


class StoredWorkflow(BaseWorkflow):
    """A graph whose results a storage keeps; a backend runs it.

    Parameters
    ----------
    *leaves : Node, Item, StandIn, or a list, tuple or dict of them
        What to compute.
    workflow_name : str
        The name under which results are stored.
    storage : str, path-like, mapping or Storage, optional
        Where results are kept, as `open_storage` takes it; nowhere without it, until `set_storage`.
    on_stale : {"warn", "recompute", "error", "ignore"}
        What to do with a stored result whose function, arguments or ancestors have changed since.
    progress : bool, optional
        Whether a long run shows a progress bar on standard error; by default where that is a terminal.

    Raises
    ------
    InvalidArgument
        If `on_stale` is none of these (a `ValueError`).
    InvalidConfiguration
        If `storage` is no place for a storage.
    """

    def __init__(
        self,
        *leaves: Any,
        workflow_name: str,
        storage: Place | None = None,
        on_stale: str = "warn",
        progress: bool | None = None,
    ) -> None:
        super().__init__(*leaves, workflow_name=workflow_name)
        if on_stale not in ON_STALE:
            raise InvalidArgument(f"on_stale={on_stale!r}: it is one of {', '.join(map(repr, ON_STALE))}")
        self._on_stale = on_stale
        self._progress = progress
        self._storage = None if storage is None else open_storage(storage)
        self._unstored: list[re.Pattern[str]] = []

    def set_storage(self, storage: Storage | None) -> None:
        """Keep the results of function nodes in `storage`, and read those that are there; None keeps nothing."""
        if storage is not None and not isinstance(storage, Storage):
            raise InvalidArgument(
                f"set_storage takes a storage, as storage_factory({{...}}) returns it, not {storage!r}"
            )
        self._storage = storage

    def log_nodes(self, regex: str | re.Pattern[str]) -> None:
        """Neither store nor restore the nodes whose whole names match.

        Raises
        ------
        InvalidArgument
            If `regex` is not a regular expression (a `ValueError`).
        """
        try:
            self._unstored.append(re.compile(regex))
        except (re.error, TypeError) as error:
            raise InvalidArgument(f"{regex!r} is not a regular expression for node names: {error}") from error

    def _settings(self, backend: str) -> Settings:
        unstored = tuple(self._unstored)
        return Settings(backend, self._storage, lambda name: _any_match(unstored, name), self._on_stale)


def _any_match(patterns: tuple[re.Pattern[str], ...], name: str) -> bool:
    return any(pattern.fullmatch(name) for pattern in patterns)
