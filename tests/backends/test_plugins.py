"""Plugins: what happens in the driver, and what the worker calls before a node."""

import operator
import pickle
import random
from typing import Any

import pytest

from functionfuse.backends.plugins import InitializerPlugin, Plugin, PluginCollection, RandomStatePlugin

CALLS: list[Any] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def initialize() -> None:
    """Note the call."""
    CALLS.append("initialized")


class Noting(Plugin):
    """Notes when it is called in the driver."""

    def local_initialize(self) -> None:
        """Note the call."""
        CALLS.append("local")


def run(plugin: Plugin, nodes: int = 1) -> list[Any]:
    """Do as a backend for some nodes, with a pickle between driver and worker; return what was called."""
    for _ in range(nodes):
        plugin.local_initialize()
        pickle.loads(pickle.dumps(plugin.remote_initialize()))()
    return CALLS.copy()


def seeds(low: int, high: int, seed: int, nodes: int) -> list[Any]:
    """Return the seeds that a new RandomStatePlugin gives to some nodes."""
    CALLS.clear()
    return run(RandomStatePlugin(min=low, max=high, seed=seed, seed_func=note), nodes)


def note(seed: int) -> None:
    """Note a seed."""
    CALLS.append(seed)


def test_the_base_does_nothing() -> None:
    """A plugin that overrides nothing can be run, and calls nothing."""
    assert run(Plugin()) == []


def test_a_plugin_may_act_in_the_driver_only() -> None:
    """A subclass that overrides `local_initialize` alone gives the worker something harmless to call."""
    assert run(Noting(), nodes=2) == ["local", "local"]


def test_the_initializer_runs_in_the_worker_only() -> None:
    """InitializerPlugin calls its function once a node, and not before the worker calls it."""
    plugin = InitializerPlugin(initialize)
    plugin.local_initialize()
    plugin.remote_initialize()
    assert CALLS == []
    assert run(plugin, nodes=2) == ["initialized", "initialized"]


def test_seeds_lie_between_the_bounds_and_both_are_reached() -> None:
    """Every seed is between min and max, bounds included, also where they are far apart or the same."""
    assert set(seeds(3, 5, seed=1, nodes=60)) == {3, 4, 5}
    assert seeds(7, 7, seed=1, nodes=2) == [7, 7]
    wide = seeds(-(2**63), 2**64 - 1, seed=-(2**63), nodes=20)
    assert len(set(wide)) == 20
    assert all(-(2**63) <= seed < 2**64 for seed in wide)


def test_seeds_are_the_same_in_every_run() -> None:
    """One seed gives one row of seeds, another seed another row."""
    assert seeds(0, 10**9, seed=4, nodes=5) == seeds(0, 10**9, seed=4, nodes=5)
    assert seeds(0, 10**9, seed=4, nodes=5) != seeds(0, 10**9, seed=5, nodes=5)


def test_seeds_do_not_touch_the_random_numbers_of_the_driver() -> None:
    """Drawing seeds leaves Python's own random numbers alone, and is not changed by them."""
    expected = seeds(0, 10**9, seed=4, nodes=3)
    random.seed(1)
    state = random.getstate()
    assert seeds(0, 10**9, seed=4, nodes=3) == expected
    assert random.getstate() == state


def test_a_seed_belongs_to_the_node_it_was_drawn_for() -> None:
    """What the worker calls keeps its seed when the driver has gone on to draw the next one."""
    plugin = RandomStatePlugin(0, 10**9, 1, note)
    calls = []
    for _ in range(2):
        plugin.local_initialize()
        calls.append(plugin.remote_initialize())
    first, second = calls
    second()
    first()
    assert [CALLS[1], CALLS[0]] == seeds(0, 10**9, seed=1, nodes=2)


def test_a_copy_goes_on_as_the_original() -> None:
    """A pickled RandomStatePlugin draws the seeds that the original draws next."""
    plugin = RandomStatePlugin(0, 10**9, 1, note)
    run(plugin, nodes=2)
    copy = pickle.loads(pickle.dumps(plugin))
    CALLS.clear()
    ahead = run(plugin, nodes=3)
    CALLS.clear()
    assert run(copy, nodes=3) == ahead


def test_bounds_the_wrong_way_round_are_refused() -> None:
    """A min above max is a ValueError when the plugin is made, not in the run."""
    with pytest.raises(ValueError, match="min=2 and max=1"):
        RandomStatePlugin(min=2, max=1, seed=0, seed_func=note)


def test_a_seed_must_be_drawn_first() -> None:
    """Asking for the worker's part before any seed was drawn is an error that says so."""
    with pytest.raises(RuntimeError, match="local_initialize"):
        RandomStatePlugin(0, 1, 0, note).remote_initialize()


@pytest.mark.parametrize("name", ["random", "numpy.random"])
def test_a_modules_own_seed_function_seeds_the_module(name: str) -> None:
    """`random.seed` and `numpy.random.seed`, methods of hidden objects, seed the process that they come to."""
    module = pytest.importorskip(name)
    plugin = RandomStatePlugin(5, 5, 0, module.seed)
    drawn = []
    for number in range(2):
        module.seed(number)
        run(plugin)
        drawn.append(module.random())
    assert drawn[0] == drawn[1]


def test_a_collection_applies_its_plugins_in_order() -> None:
    """A collection, also one inside another, initialises all plugins, in their order, in driver and worker."""
    inner = PluginCollection([InitializerPlugin(initialize), RandomStatePlugin(7, 7, 0, note)])
    assert run(PluginCollection(iter([Noting(), inner, Noting()]))) == ["local", "local", "initialized", 7]


@pytest.mark.parametrize(
    "plugin",
    [Plugin(), InitializerPlugin(initialize), RandomStatePlugin(0, 1, 0, note), PluginCollection([Noting(), Plugin()])],
    ids=operator.attrgetter("__class__.__name__"),
)
def test_every_plugin_pickles(plugin: Plugin) -> None:
    """A plugin comes back from a pickle and calls what the original calls."""
    copy = pickle.loads(pickle.dumps(plugin))
    called = run(plugin, nodes=2)
    CALLS.clear()
    assert run(copy, nodes=2) == called
