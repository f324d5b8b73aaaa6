"""Workflows on a Ray cluster, or on all cores of one machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from functionfuse import _ray
from functionfuse._progress import shown
from functionfuse.backends._ray_run import RayRun
from functionfuse.backends._ray_settings import RaySettings
from functionfuse.backends._stored import Place, StoredWorkflow
from functionfuse.backends._warning import warn
from functionfuse.backends.plugins import Plugin
from functionfuse.errors import InvalidArgument, NoSuchNode
from functionfuse.workflow import Node


class Query:
    """The nodes of a workflow that a regular expression picked.

    Attributes
    ----------
    nodes : list of Node
        The nodes, parents first.
    """

    def __init__(self, nodes: list[Node], options: dict[Node, _ray.Options], plugins: dict[Node, Plugin]) -> None:
        self.nodes = nodes
        self._options = options
        self._plugins = plugins

    def set_remote_args(self, args: _ray.Options) -> Query:
        """Run the nodes with these options of Ray, in place of those that were set before.

        Parameters
        ----------
        args : mapping
            As ``options`` of a remote function takes them for functions, of an actor for classes, and of an actor's
            method for methods: ``{"num_cpus": 2, "resources": {"_disk": 0.1}}``. A method's resources are its class's.

        Returns
        -------
        Query
            This one.

        Raises
        ------
        InvalidArgument
            If `args` is no mapping (a `TypeError`), or holds ``num_returns``, which the workflow sets (a `ValueError`).
        """
        if not isinstance(args, Mapping):
            raise InvalidArgument(f"remote arguments are a dictionary such as {{'num_cpus': 2}}, not {args!r}")
        if "num_returns" in args:
            raise InvalidArgument("num_returns is set by the workflow: leave it out of the remote arguments")
        for node in self.nodes:
            self._options[node] = dict(args)
        return self

    def set_plugin(self, plugin: Plugin) -> Query:
        """Let a plugin prepare the nodes, in place of the one that was set before.

        Parameters
        ----------
        plugin : Plugin
            What is called in the driver and, before each node, in its worker.

        Returns
        -------
        Query
            This one.

        Raises
        ------
        InvalidArgument
            If it is no plugin (a `TypeError`).
        """
        if not isinstance(plugin, Plugin):
            raise InvalidArgument(f"set_plugin takes a Plugin, not {plugin!r}; several of them as a PluginCollection")
        for node in self.nodes:
            self._plugins[node] = plugin
        return self


class RayWorkflow(StoredWorkflow):
    """Runs a graph on Ray: functions as tasks, the objects of classes as actors.

    Parameters
    ----------
    *leaves : Node, Item, StandIn, or a list, tuple or dict of them
        What to compute.
    workflow_name : str
        The name under which results are stored.
    storage : str, path-like, mapping or Storage, optional
        Where results are kept: a folder, a URL, a configuration as `storage_factory` takes it, or a storage. Nothing is
        kept without it.
    ray_init_args : mapping
        What `ray.init` is called with if Ray is not up yet when the workflow runs.
    on_stale : {"warn", "recompute", "error", "ignore"}
        What to do with a stored result whose function, arguments or ancestors have changed since.
    progress : bool, optional
        Whether a long run shows a progress bar on standard error; by default where that is a terminal.

    Raises
    ------
    InvalidArgument
        If `on_stale` is none of these (a `ValueError`), or `ray_init_args` is no mapping (a `TypeError`).
    InvalidConfiguration
        If `storage` is no place for a storage.

    Notes
    -----
    Ray is left running: it ends with the process, or by the one who started it.
    Arrays that come from Ray's store cannot be written to: copy them first.
    """

    def __init__(
        self,
        *leaves: Any,
        workflow_name: str,
        storage: Place | None = None,
        ray_init_args: Mapping[str, Any] = {},
        on_stale: str = "warn",
        progress: bool | None = None,
    ) -> None:
        super().__init__(*leaves, workflow_name=workflow_name, storage=storage, on_stale=on_stale, progress=progress)
        if not isinstance(ray_init_args, Mapping):
            raise InvalidArgument(
                f"ray_init_args are the keyword arguments of ray.init as a dictionary, not {ray_init_args!r}"
            )
        self._ray_init_args = dict(ray_init_args)
        self._options: dict[Node, _ray.Options] = {}
        self._plugins: dict[Node, Plugin] = {}

    def query(self, regex: str | re.Pattern[str] | None = None) -> Query:
        """Pick the nodes whose whole names match, to set their remote arguments or plugins.

        Parameters
        ----------
        regex : str or re.Pattern, optional
            A regular expression; None picks all nodes.

        Returns
        -------
        Query
            The nodes that there are now. A `UserWarning` says that there is none.

        Raises
        ------
        InvalidArgument
            If it is not a regular expression (a `ValueError`).
        """
        return Query(self._picked(regex), self._options, self._plugins)

    def _picked(self, regex: str | re.Pattern[str] | None) -> list[Node]:
        if regex is None:
            return self.find_nodes()
        try:
            return self.picked_nodes(regex)
        except NoSuchNode as error:  # one script may set up workflows that have such nodes, and others
            warn(f"{error}: what is set for them is set for none", UserWarning)
            return []

    def set_plugin(self, pattern: str | re.Pattern[str], plugin: Plugin) -> None:
        """Let a plugin prepare the nodes whose whole names match, as ``query(pattern).set_plugin(plugin)`` does."""
        Query(self._picked(pattern), self._options, self._plugins).set_plugin(plugin)

    def run(
        self,
        return_results: bool = False,
        max_pending_tasks: int = 0,
        *,
        recompute: str | re.Pattern[str] | None = None,
    ) -> Any:
        """Compute what the leaves need and is not stored; return when all of it is stored.

        Parameters
        ----------
        return_results : bool
            Whether the leaves' results come to this process.
        max_pending_tasks : int
            How many nodes are given to Ray at once; 0 stands for as many as keep the cluster's cores busy.
        recompute : str or re.Pattern, optional
            Nodes whose whole names match are computed anew, and all below them.

        Returns
        -------
        object
            None, or the result of a single leaf, or the list of the leaves' results; of a leaf that is a list or dict,
            such one.

        Raises
        ------
        CyclicGraph, DuplicateName
            If the graph cannot be run; before anything runs.
        NoSuchNode
            If `recompute` matches no node's name.
        StaleResult
            If a stored result that is needed is out of date, with ``on_stale="error"``.
        InfeasibleResources
            If no node of the cluster has what a node's remote arguments ask for.
        InvalidArgument
            If `max_pending_tasks` is negative or no number (a `ValueError`).

        Notes
        -----
        An exception in a node reaches the caller as itself, with the node and the workflow in its notes and Ray's
        account of it as its cause. What else was running is cancelled; what was finished before is stored.
        """
        if not isinstance(max_pending_tasks, int) or max_pending_tasks < 0:
            raise InvalidArgument(f"max_pending_tasks={max_pending_tasks!r}: it is a number of nodes, or 0")
        _ray.start(self._ray_init_args)
        settings = RaySettings(
            **vars(self._settings("ray")),
            options=dict(self._options),
            plugins=dict(self._plugins),
            return_results=return_results,
            max_pending=max_pending_tasks,
        )
        run = RayRun(self, settings, recompute)
        results = run.execute(lambda nodes: shown(nodes, self._progress, self.workflow_name))
        return (results[0] if len(results) == 1 else results) if return_results else None
