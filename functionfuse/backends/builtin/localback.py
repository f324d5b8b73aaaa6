"""Workflows in this process, one node after the other."""

from __future__ import annotations

import re
from typing import Any

from functionfuse._progress import shown
from functionfuse.backends._local_run import LocalRun
from functionfuse.backends._stored import StoredWorkflow


class LocalWorkflow(StoredWorkflow):
    """Runs a graph in this process.

    Parameters
    ----------
    *leaves : Node, Item, StandIn, or a list, tuple or dict of them
        What to compute.
    workflow_name : str
        The name under which results are stored.
    storage : str, path-like, mapping or Storage, optional
        Where results are kept: a folder, a URL, a configuration as `storage_factory` takes it, or a storage. Nothing is
        kept without it.
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

    Notes
    -----
    The same nodes may be run in several workflows, again, and from several threads at once.
    """

    def run(self, *, recompute: str | re.Pattern[str] | None = None) -> Any:
        """Compute what the leaves need and is not stored, and read what is.

        Parameters
        ----------
        recompute : str or re.Pattern, optional
            Nodes whose whole names match are computed anew, and all below them.

        Returns
        -------
        object
            The result of a single leaf, or the list of the leaves' results; of a leaf that is a list or dict, such one.

        Raises
        ------
        CyclicGraph, DuplicateName
            If the graph cannot be run; before anything runs.
        NoSuchNode
            If `recompute` matches no node's name.
        StaleResult
            If a stored result that is needed is out of date, with ``on_stale="error"``.

        Notes
        -----
        An exception in a node reaches the caller as itself, with the node and
        the workflow in its notes; what was finished before is stored.
        """
        run = LocalRun(self, self._settings("local"), recompute)
        results = run.execute(lambda nodes: shown(nodes, self._progress, self.workflow_name))
        return results[0] if len(results) == 1 else results
