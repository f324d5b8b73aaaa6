"""How a workflow wants to be run on Ray."""

from __future__ import annotations

from dataclasses import dataclass, field

from functionfuse import _ray
from functionfuse.backends._run import Settings
from functionfuse.backends.plugins import Plugin
from functionfuse.workflow import Node


@dataclass(frozen=True)
class RaySettings(Settings):
    """How a workflow wants to be run on Ray.

    Attributes
    ----------
    options : dict
        The options of remote functions and actors, by node.
    plugins : dict
        The plugins, by node.
    return_results : bool
        Whether the leaves' results come to the driver.
    max_pending : int
        How many nodes are given to Ray at once; 0 leaves it to this package.
    """

    options: dict[Node, _ray.Options] = field(default_factory=dict)
    plugins: dict[Node, Plugin] = field(default_factory=dict)
    return_results: bool = False
    max_pending: int = 0
