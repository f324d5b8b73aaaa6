"""Ray as the rest of the package needs it: imported and started on use, its errors undone, its resources looked at."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from functionfuse.errors import InfeasibleResources, MissingDependency

#: Options of remote functions and actors.
Options = Mapping[str, Any]

_LOOK = 1.0  # seconds between two looks at whether something that is awaited can come at all
_PATIENCE = 5.0  # seconds for which no node can give what is asked for, before that is an error


def module() -> Any:
    """Return Ray's module; `MissingDependency` if it is not installed."""
    try:
        return import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise MissingDependency("Ray is not installed: pip install 'functionfuse[ray]'") from error


@functools.cache
def remote(function: Any) -> Any:
    """Return a function or class of a module as Ray's remote one, the same each time: Ray ships it once."""
    return module().remote(function)


def start(init_args: Mapping[str, Any]) -> None:
    """Start Ray, or connect to it, if this process has not."""
    ray = module()
    if not ray.is_initialized():
        ray.init(**init_args)


class Blamed(Exception):
    """Carries an exception from a worker together with the name of the node that it is about.

    Parameters
    ----------
    node : str
        Its name.
    error : Exception
        What was raised.
    """

    def __init__(self, node: str, error: Exception) -> None:
        super().__init__(node, error)
        self.node = node
        self.error = error

    def __str__(self) -> str:
        return f"in node {self.node!r}: {self.error}"


def original(error: BaseException) -> tuple[BaseException, str | None]:
    """Return what was raised on a worker, and the name of the node that it is about, where that is said.

    Ray's account of it, its traceback included, becomes its cause.
    """
    found: Any = error
    node = None
    while True:
        if isinstance(found, module().exceptions.RayTaskError) and isinstance(found.cause, BaseException):
            found = found.cause
        elif type(found) is Blamed:
            found, node = found.error, found.node
        else:
            break
    if found is not error:
        found.__cause__ = error
    return found, node


def fetch(ref: Any, options: Options) -> Any:
    """Return the value of a reference, which may have to wait for resources.

    Parameters
    ----------
    ref : ray.ObjectRef
        What a remote call returned.
    options : mapping
        The options that it was called with.

    Raises
    ------
    InfeasibleResources
        If no node of the cluster can give what the options ask for.
    """
    ray = module()
    watch = Watch()
    while not ray.wait([ref], timeout=_LOOK)[0]:
        try:
            watch.look(lambda: [options])
        except InfeasibleResources:
            ray.cancel(ref)
            raise
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise original(error)[0] from error


class Watch:
    """Tells whether what is awaited can come at all, a few seconds after it no longer can."""

    def __init__(self) -> None:
        self._looked = self._feasible = time.monotonic()

    def look(self, awaited: Callable[[], list[Options]]) -> None:
        """Look at the cluster, at most once a second.

        Parameters
        ----------
        awaited : callable
            Gives the options of what is not finished.

        Raises
        ------
        InfeasibleResources
            If for some seconds no node could give what one of them asks for.
        """
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        lacking = _lacking(awaited())
        if lacking is None or _is_growing():
            self._feasible = now
        elif now - self._feasible > _PATIENCE:
            raise InfeasibleResources(
                f"no node of the Ray cluster has {lacking}, which the remote arguments ask for: start a node that has "
                f"it, or ask for less. Its nodes have {_listed(_nodes())}"
            )


def _lacking(awaited: list[Options]) -> str | None:
    """Return what no node has of what is asked for; None if each can run on some node."""
    nodes = _nodes()
    for options in awaited:
        wanted = _resources(options)
        if wanted and not any(all(node.get(name, 0.0) >= much for name, much in wanted.items()) for node in nodes):
            return ", ".join(f"{name}: {much:g}" for name, much in wanted.items())
    return None


def cores() -> float:
    """Return how many cores the cluster has."""
    return sum(node.get("CPU", 0.0) for node in _nodes())


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in module().nodes() if node["Alive"]]


def _resources(options: Options) -> dict[str, float]:
    cpus = options.get("num_cpus")
    wanted = {
        "CPU": 1.0 if cpus is None else cpus,  # what Ray reserves for tasks, and looks for to place actors
        "GPU": options.get("num_gpus") or 0.0,
        "memory": options.get("memory") or 0.0,
        **(options.get("resources") or {}),
    }
    return {name: much for name, much in wanted.items() if much}


def _listed(nodes: list[dict[str, float]]) -> str:
    shown = [
        ", ".join(f"{name}: {much:g}" for name, much in sorted(node.items()) if not name.startswith("node:"))
        for node in nodes
    ]
    return "; ".join(f"{{{each}}}" for each in shown) or "nothing: none is alive"


def _is_growing() -> bool:
    """Tell whether an autoscaler is about to add a node."""
    status = import_module("ray.experimental.internal_kv")._internal_kv_get(b"__autoscaling_status")
    report = json.loads(status).get("autoscaler_report") if status else None
    return bool(report and (report.get("pending_nodes") or report.get("pending_launches")))
