"""Workflows in this process, one node after the other."""

from __future__ import annotations

import re
from typing import Any

from functionfuse._progress import shown
from functionfuse.backends._run import ON_STALE, Run, Settings
from functionfuse.baseworkflow import BaseWorkflow
from functionfuse.storage.base import Storage


class LocalWorkflow(BaseWorkflow):
    """Runs a graph in this process.

    Parameters
    ----------
    *leaves : Node, Item or StandIn
        What to compute.
    workflow_name : str
        The name under which results are stored.
    on_stale : {"warn", "recompute", "error", "ignore"}
        What to do with a stored result whose function, arguments or ancestors have changed since.
    progress : bool, optional
        Whether a long run shows a progress bar on standard error; by default where that is a terminal.

    Raises
    ------
    ValueError
        If `on_stale` is none of these.

    Notes
    -----
    The same nodes may be run in several workflows, again, and from several threads at once.
    """

    def __init__(self, *leaves: Any, workflow_name: str, on_stale: str = "warn", progress: bool | None = None) -> None:
        super().__init__(*leaves, workflow_name=workflow_name)
        if on_stale not in ON_STALE:
            raise ValueError(f"on_stale={on_stale!r}: it is one of {', '.join(map(repr, ON_STALE))}")
        self._on_stale = on_stale
        self._progress = progress
        self._storage: Storage | None = None
        self._unstored: list[re.Pattern[str]] = []

    def set_storage(self, storage: Storage | None) -> None:
        """Keep the results of function nodes in `storage`, and read those that are there; None keeps nothing."""
        if storage is not None and not isinstance(storage, Storage):
            raise TypeError(f"set_storage takes a storage, as storage_factory({{...}}) returns it, not {storage!r}")
        self._storage = storage

    def log_nodes(self, regex: str | re.Pattern[str]) -> None:
        """Neither store nor restore the nodes whose whole names match.

        Raises
        ------
        ValueError
            If `regex` is not a regular expression.
        """
        try:
            self._unstored.append(re.compile(regex))
        except (re.error, TypeError) as error:
            raise ValueError(f"{regex!r} is not a regular expression for node names: {error}") from error

    def run(self, *, recompute: str | re.Pattern[str] | None = None) -> Any:
        """Compute what the leaves need and is not stored, and read what is.

        Parameters
        ----------
        recompute : str or re.Pattern, optional
            Nodes whose whole names match are computed anew, and all below them.

        Returns
        -------
        object
            The result of a single leaf, or the list of the leaves' results.

        Raises
        ------
        CyclicGraph, DuplicateName
            If the graph cannot be run; before anything runs.
        StaleResult
            If a stored result that is needed is out of date, with ``on_stale="error"``.

        Notes
        -----
        An exception in a node reaches the caller as itself, with the node and
        the workflow in its notes; what was finished before is stored.
        """
        unstored = tuple(self._unstored)
        settings = Settings("local", self._storage, lambda name: _any_match(unstored, name), self._on_stale)
        run = Run(self, settings, recompute)
        results = run.execute(lambda nodes: shown(nodes, self._progress, self.workflow_name))
        return results[0] if len(results) == 1 else results


def _any_match(patterns: tuple[re.Pattern[str], ...], name: str) -> bool:
    return any(pattern.fullmatch(name) for pattern in patterns)
