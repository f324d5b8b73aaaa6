"""A run on Ray: the driver starts a node when its parents are finished, and hands references on.

So nothing that Ray has started waits for anything else, what is in flight is
bounded, and the driver lets a result go as soon as the last node that needs it
has been started: Ray keeps it until that one has it.
"""

from __future__ import annotations

import copy
import queue
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from functionfuse import _ray
from functionfuse.backends._ray_calls import Arguments, Packer, is_constructor, need_of, needs_of
from functionfuse.backends._ray_schedule import Holdings, Need, Schedule
from functionfuse.backends._ray_worker import Call, Instance, Keys, Made, Session, Source, compute
from functionfuse.backends._run import Plan, Run, Settings, iter_nodes, nothing_hidden
from functionfuse.backends.plugins import Plugin
from functionfuse.baseworkflow import BaseWorkflow
from functionfuse.errors import blamed
from functionfuse.workflow import Node

_WAIT = 1.0  # seconds after which the driver looks around, if nothing happens
# What is given to Ray at once, unless told otherwise: as many nodes as keep every core busy, and not more, so that what
# is below a finished node comes before what is beside it, and results are used up before others are made.
_AHEAD = 4  # times the cores of the cluster
_FEW = 16  # nodes, on however small a cluster
_MANY = 1_000  # nodes, even if they want no core
_SAVES = 8  # results that are on their way to the disk's node at once
_SOFTLY = 5.0  # seconds that what is running has to end after it was cancelled, before it is ended by force
_READERS = 8  # threads that look at what is stored

_WHOLE: set[Keys] = {()}


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


class RayRun(Run):
    """One run on Ray."""

    _settings: RaySettings

    def _begin(self, plan: Plan) -> None:
        self._ray = _ray.module()
        self._routed = self._storage.routed if self._storage is not None else None
        self._packer = Packer()
        self._session = self._packer.pack(Session(self._name, self.run_id, None if self._routed else self._storage))
        self._arrived: queue.SimpleQueue[tuple[Callable[[Node, Future[Any]], None], Node, Future[Any]]]
        self._arrived = queue.SimpleQueue()
        self._in_flight: dict[Node, Any] = {}
        self._finished: deque[Node] = deque()
        self._watch = _ray.Watch()
        self._cores = _ray.cores()
        self._wanted_cores = 0.0
        self._actors: dict[Node, Any] = {}
        self._prepared = self._draw()
        self._know_stored(plan)
        self._schedule = Schedule(plan.compute)
        self._unsaved: dict[Node, Made] = {}
        self._saving: dict[Node, Any] = {}
        self._saves = Schedule([node for node in plan.compute if self._routed and node in self._kept], steps=1)
        self._want(plan)

    def _want(self, plan: Plan) -> None:
        """Count what nodes, saves and the driver need of nodes."""
        self._holdings = Holdings()
        self._needs: dict[Node, list[Need]] = {}
        self._wanted: dict[Node, set[Keys]] = {}
        for node in plan.compute:
            needs = needs_of(node)
            self._needs[node] = list(needs)
            self._holdings.want(needs)
            for need, keys in needs.items():
                self._wanted.setdefault(need.node, set()).update(keys if not need.is_object else ())
            if self._routed and node in self._kept:
                self._want_whole(Need(node))
        self._objects_at_end = {self._object_of(node): node for node in plan.compute if not node.storable}
        for leaf in self._workflow.leaves:
            node = leaf._nodes()[0]
            if is_constructor(node):
                self._holdings.want([Need(self._objects_at_end[node], is_object=True)])
            elif node in self._needs and (self._settings.return_results or node not in self._kept):
                self._want_whole(Need(node))

    def _want_whole(self, need: Need) -> None:
        self._holdings.want([need])
        self._wanted.setdefault(need.node, set()).add(())

    def _draw(self) -> dict[Node, Callable[[], object]]:
        """Return what plugins prepare, for all nodes, stored or not: a node's seed is the same in every run."""
        memo: dict[int, Any] = {}  # one plugin of several nodes stays one
        drawn = {}
        for node in self._nodes:
            if node in self._settings.plugins:
                plugin = copy.deepcopy(self._settings.plugins[node], memo)
                plugin.local_initialize()
                drawn[node] = plugin.remote_initialize()
        return drawn

    def _know_stored(self, plan: Plan) -> None:
        """Look at the blobs of what is restored: what is computed from them inherits from them."""
        nodes = [node for node in self._nodes if node in plan.restore]
        with ThreadPoolExecutor(_READERS) as pool:  # on S3 each is a question to the server
            for node, footer in zip(nodes, pool.map(self._footer_of, nodes), strict=True):
                self._know(node, footer)

    def _footer_of(self, node: Node) -> Any:
        assert self._storage is not None
        try:
            return self._footers.get(node) or self._storage.footer(self._name, node.get_name())
        except Exception as error:
            self._note_failure(node, error)
            raise

    # One step

    def _advance(self, node: Node, plan: Plan) -> None:
        try:
            while not self._finished:
                self._submit()
                self._receive()
            self._finished.popleft()
            self.computed += 1
        except BaseException:
            self._stop()
            raise

    def _submit(self) -> None:
        self._submit_saves()
        while self._schedule and self._has_room():
            self._start(self._schedule.pop(), self._compute)

    def _has_room(self) -> bool:
        pending = len(self._in_flight) + len(self._unsaved)
        if self._settings.max_pending:
            return pending < self._settings.max_pending
        return pending < _FEW or (pending < _MANY and self._wanted_cores < _AHEAD * self._cores)

    def _submit_saves(self) -> None:
        while self._saves and len(self._saving) < _SAVES:
            self._start(self._saves.pop(), self._save)

    def _start(self, node: Node, how: Callable[[Node], None]) -> None:
        try:
            how(node)
        except BaseException as error:
            self._note_failure(node, error)
            raise

    def _receive(self) -> None:
        try:
            take, node, future = self._arrived.get(timeout=_WAIT)
        except queue.Empty:
            self._cores = _ray.cores()  # nodes may have come
            self._watch.look(lambda: [self._options_of(node) for node in self._in_flight])
        else:
            take(node, future)

    def _options_of(self, node: Node) -> _ray.Options:
        return self._settings.options.get(self._object_of(node) if not node.storable else node, {})

    def _outcome(self, node: Node, future: Future[Any]) -> Any:
        error = future.exception()
        if error is None:
            return future.result()
        error = _ray.original(error)
        name = blamed(error)
        self._note_failure(next((each for each in self._nodes if each.get_name() == name), node), error)
        raise error

    # Computing

    def _compute(self, node: Node) -> None:
        arguments = Arguments(node, partial(self._source_of, node), self._packer)
        returns = tuple(self._returns_of(node))
        origin = self._origin(node)
        call = Call(
            node.get_name(),
            arguments.args,
            arguments.kwargs,
            arguments.sources,
            origin if origin and not self._routed else None,
            self._prepared.get(node),
            returns,
        )
        function = self._packer.pack(self._workflow.func_of(node))
        options = {"name": node.get_name(), **self._settings.options.get(node, {}), "num_returns": len(returns) + 1}
        answer = self._runner(node, options).remote(self._session, function, call, *arguments.values)
        told, *references = answer if returns else [answer]
        source: Source = 0 if () in returns else {keys: number for number, keys in enumerate(returns)}
        self._holdings.put(Need(node), source, references)
        self._holdings.end(self._needs.pop(node))
        self._in_flight[node] = told
        self._wanted_cores += self._cores_for(node)
        self._expect(told, self._computed, node)

    def _cores_for(self, node: Node) -> float:
        cores = self._settings.options.get(node, {}).get("num_cpus")
        return 1.0 if cores is None and node.storable else cores or 0.0

    def _runner(self, node: Node, options: dict[str, Any]) -> Any:
        if node.storable:
            return _ray.remote(compute).options(**options)
        if is_constructor(node):
            own = {name: value for name, value in options.items() if name not in ("name", "num_returns")}
            self._actors[node] = _ray.remote(Instance).options(**own).remote()
            return self._actors[node].construct
        return self._actors[self._object_of(node)].call.options(**options)

    def _returns_of(self, node: Node) -> set[Keys]:
        keys = self._wanted.pop(node, set())
        return _WHOLE if () in keys else keys

    def _source_of(self, consumer: Node, other: Node) -> tuple[Source, list[Any]]:
        need = need_of(consumer, other)
        if need is None:
            return None, []
        held = self._holdings.get(need)
        if held is not None:
            return held
        if self._routed is None:
            return other.get_name(), []
        references = [self._routed.restore_later(self._name, other.get_name())]
        self._holdings.put(need, 0, references)
        return 0, references

    def _expect(self, reference: Any, then: Callable[[Node, Future[Any]], None], node: Node) -> None:
        reference.future().add_done_callback(lambda future: self._arrived.put((then, node, future)))

    def _computed(self, node: Node, future: Future[Any]) -> None:
        self._in_flight.pop(node)
        self._wanted_cores -= self._cores_for(node)
        made: Made = self._outcome(node, future)
        if not node.storable:
            self._look_at_object(node)
        if self._routed and node in self._kept:
            self._unsaved[node] = made
            self._saves.release(node)
            if not self._hands_on_what_is_read():
                self._schedule.finish(node)
            return
        if made.blob_id is not None:
            assert self._provenance is not None
            self._provenance.know_blob(node, made.blob_id)
        self._schedule.finish(node)
        self._finished.append(node)

    # Objects

    def _object_of(self, node: Node) -> Node:
        """Return the constructor of a constructor or method."""
        return node if is_constructor(node) else node.args[0]

    def _look_at_object(self, node: Node) -> None:
        """Take a copy of an object for those who want it as it is now, and let it go if this was its last method."""
        constructor = self._object_of(node)
        need = Need(node, is_object=True)
        if self._holdings.is_wanted(need):
            self._holdings.put(need, 0, [self._actors[constructor].itself.remote()])
        if self._objects_at_end[constructor] is node:
            del self._actors[constructor]

    # Saving where only the disk's node can

    def _hands_on_what_is_read(self) -> bool:
        return self._routed is not None and self._storage is not None and self._storage.always_read

    def _save(self, node: Node) -> None:
        assert self._routed is not None
        origin = f"{self._origin(node)},{self._unsaved.pop(node).fields}"
        need = Need(node)
        _, (reference,) = self._holdings.get(need) or (0, [None])
        self._saving[node] = told = self._routed.keep_later(self._name, node.get_name(), reference, origin)
        if self._hands_on_what_is_read():
            self._holdings.put(need, 0, [self._routed.restore_later(self._name, node.get_name(), told)])
        self._holdings.end([need])
        self._expect(told, self._saved, node)

    def _saved(self, node: Node, future: Future[Any]) -> None:
        del self._saving[node]
        assert self._provenance is not None
        self._provenance.know_blob(node, self._outcome(node, future))
        self._saves.finish(node)
        if self._hands_on_what_is_read():
            self._schedule.finish(node)
        self._finished.append(node)

    # The end

    def _leaf_results(self) -> list[Any]:
        for leaf in self._workflow.leaves:
            self._hold_leaf(leaf._nodes()[0])
        self._let_go()
        if not self._settings.return_results:
            return []
        found: dict[Node, Any] = {}

        def result_of(node: Node) -> Any:
            if node not in found:
                found[node] = self._at_hand(node) if node in self._results else self._read(node)
            return found[node]

        return [leaf._value(result_of) for leaf in self._workflow.leaves]

    def _hold_leaf(self, node: Node) -> None:
        need = Need(self._objects_at_end[node], is_object=True) if is_constructor(node) else Need(node)
        held = self._holdings.get(need)
        if held is not None:
            self._results[node] = held[1][0]

    def _at_hand(self, node: Node) -> Any:
        return _ray.fetch(self._results[node], {})

    def _read(self, node: Node) -> Any:
        assert self._storage is not None
        try:
            return self._storage.read_task(self._name, node.get_name())
        except Exception as error:
            self._note_failure(node, error)
            raise

    def _part(self, part: BaseWorkflow) -> Any:
        return RayRun(part, replace(self._settings, return_results=True)).execute(iter_nodes)[0]

    def _stop(self) -> None:
        """End what is running, softly at first; what is computed is still saved."""
        for reference in self._in_flight.values():
            self._ray.cancel(reference)
        deadline = time.monotonic() + _SOFTLY
        while (self._in_flight or self._saving) and time.monotonic() < deadline:
            self._receive_late()
        for node, reference in self._in_flight.items():
            if node.storable:
                self._ray.cancel(reference, force=True)
        for actor in self._actors.values():
            self._ray.kill(actor)
        self.computed += len(self._finished)
        self._let_go()

    def _receive_late(self) -> None:
        with nothing_hidden("what was computed when the run failed could not be saved"):
            self._submit_saves()
        with suppress(queue.Empty):
            take, node, future = self._arrived.get(timeout=_WAIT)
            if future.exception() is None:
                take(node, future)
            else:
                self._in_flight.pop(node, None)
                self._saving.pop(node, None)

    def _let_go(self) -> None:
        """Keep nothing in Ray's store but what was asked for."""
        self._holdings = Holdings()
        self._packer = Packer()
        self._actors.clear()
