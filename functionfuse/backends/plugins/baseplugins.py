"""Prepare the worker that runs a node: settings, random seeds, or what a subclass of `Plugin` does."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from functionfuse.errors import InvalidArgument


class Plugin:
    """Base of plugins: does nothing.

    For each node that has the plugin a backend calls `local_initialize` and
    `remote_initialize` in the driver, then what that returned in the worker,
    before the node. The plugin and what it returns must pickle.
    """

    def local_initialize(self) -> None:
        """Prepare the next node, in the driver."""

    def remote_initialize(self) -> Callable[[], object]:
        """Return what the worker calls, without arguments, before it runs the node."""
        return _do_nothing


class InitializerPlugin(Plugin):
    """Calls a function in the worker before each node.

    Parameters
    ----------
    func : callable
        Takes no arguments; what it returns is ignored.
    """

    def __init__(self, func: Callable[[], object]) -> None:
        self.func = _as_named(func)

    def remote_initialize(self) -> Callable[[], object]:
        """Return the function."""
        return self.func


class RandomStatePlugin(Plugin):
    """Seeds the worker's random numbers before each node, with another seed for each.

    The driver draws the seeds by a generator of the plugin's own: a plugin with
    the same bounds and `seed` gives the same seeds in the same order. One that
    goes through a second run goes on where it was; a backend whose every run
    shall begin alike uses a copy.

    Parameters
    ----------
    min, max : int
        The smallest and the largest seed that `seed_func` may get.
    seed : int
        The seed of the generator that draws the seeds.
    seed_func : callable
        Takes a seed and sets the worker's random state, as `random.seed` and `numpy.random.seed` do.

    Raises
    ------
    InvalidArgument
        If `min` is greater than `max` (a `ValueError`).
    """

    def __init__(self, min: int, max: int, seed: int, seed_func: Callable[[int], object]) -> None:
        if min > max:
            raise InvalidArgument(
                f"there is no seed between min={min!r} and max={max!r}: min must not be greater than max"
            )
        self.min = min
        self.max = max
        self.seed = seed
        self.seed_func = _as_named(seed_func)
        self._random = random.Random(seed)
        self._drawn: int | None = None

    def local_initialize(self) -> None:
        """Draw the next node's seed."""
        self._drawn = self._random.randint(self.min, self.max)

    def remote_initialize(self) -> Callable[[], object]:
        """Return a call of `seed_func` with the seed drawn last."""
        if self._drawn is None:
            raise RuntimeError("no seed has been drawn: local_initialize() comes before remote_initialize()")
        return functools.partial(self.seed_func, self._drawn)


class PluginCollection(Plugin):
    """Several plugins as one, applied in their order.

    Parameters
    ----------
    plugins : iterable of Plugin
        The plugins.
    """

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self.plugins = list(plugins)

    def local_initialize(self) -> None:
        """Prepare every plugin for the next node."""
        for plugin in self.plugins:
            plugin.local_initialize()

    def remote_initialize(self) -> Callable[[], object]:
        """Return a call of what every plugin returns."""
        return functools.partial(_call_each, [plugin.remote_initialize() for plugin in self.plugins])


# Functions of the module, since what runs in the worker must pickle.


class _Named:
    """Calls what a module has under a name, in the process that it comes to."""

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    def __call__(self, *arguments: Any) -> Any:
        return getattr(import_module(self.module), self.name)(*arguments)


def _as_named(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return `func`, by its name where it is a module's method of a hidden object, as `random.seed` is.

    Pickle and copy would take a copy of the object along, and the worker's own random numbers would go unseeded.
    """
    owner = getattr(func, "__self__", None)
    name = getattr(func, "__name__", "")
    for module in (getattr(func, "__module__", None), type(owner).__module__):
        found = sys.modules.get(module or "")
        if owner is not None and found is not None and owner is not found and getattr(found, name, None) == func:
            return _Named(found.__name__, name)
    return func


def _do_nothing() -> None:
    pass


def _call_each(functions: list[Callable[[], object]]) -> None:
    for function in functions:
        function()
