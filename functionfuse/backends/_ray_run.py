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
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from msgspec.structs import replace as with_members

from functionfuse import _ray
from functionfuse._arguments import substitute
from functionfuse.backends._ray_calls import Arguments, Packer
from functionfuse.backends._ray_groups import Group, Groups
from functionfuse.backends._ray_needs import (
    WHOLE,
    Holdings,
    Need,
    Needs,
    is_constructor,
    need_of,
    object_of,
)
from functionfuse.backends._ray_schedule import Schedule
from functionfuse.backends._ray_settings import RaySettings
from functionfuse.backends._ray_worker import (
    PREVIOUS,
    Call,
    Instance,
    Made,
    Session,
    Source,
    compute,
    unknown_blob,
)
from functionfuse.backends._run import Plan, Run, iter_nodes, nothing_hidden
from functionfuse.baseworkflow import BaseWorkflow
from functionfuse.workflow import Node

_WAIT = 1.0  # seconds after which the driver looks around, if nothing happens
# What is given to Ray at once, unless told otherwise: as many nodes as keep every core busy, and not more, so that what
# is below a finished node comes before what is beside it, and results are used up before others are made.
_AHEAD = 4  # times the cores of the cluster
_FEW = 8  # nodes, on however small a cluster
_MANY = 1_000  # nodes, even if they want no core
_SAVES = 8  # results that are on their way to the disk's node at once
_SOFTLY = 5.0  # seconds that what is running has to end after it was cancelled, before it is ended by force

_Take = Callable[[Group, Future[Any]], None]
_Translate = Callable[[BaseException], BaseException]


class RayRun(Run):
    """One run on Ray."""

    _settings: RaySettings
    _many = 64  # each node that does not go with others may leave a segment

    def _begin(self, plan: Plan) -> None:
        self._ray = _ray.module()
        self._routed = self._storage.routed if self._storage is not None else None
        self._packer = Packer()
        self._session = self._packer.pack(Session(self._name, self.run_id, None if self._routed else self._storage))
        self._arrived: queue.SimpleQueue[tuple[_Take, Group, Future[Any]]] = queue.SimpleQueue()
        self._in_flight: dict[Group, Any] = {}
        self._pending = 0
        self._finished: deque[Node] = deque()
        self._watch, self._disk_watch = _ray.Watch(), _ray.Watch()
        self._cores = _ray.cores()
        self._wanted_cores = 0.0
        self._actors: dict[Node, Any] = {}
        self._prepared = self._draw()
        self._know_stored(plan)
        self._schedule = Schedule(plan.compute)
        self._unsaved: dict[Node, Made] = {}
        self._saving: dict[Node, Any] = {}
        self._saves = Schedule([node for node in plan.compute if self._routed and node in self._kept], steps=1)
        self._needs = self._needs_of(plan)
        self._holdings = self._needs.holdings
        self._groups = Groups(self._schedule, self._holdings, self._workflow.func_of, self._settings.options)

    def _needs_of(self, plan: Plan) -> Needs:
        computed = set(plan.compute)
        leaves = [leaf._nodes()[0] for leaf in self._workflow.leaf_references()]
        here = [node for node in leaves if node.storable or not is_constructor(node)]
        if not self._settings.return_results:
            here = [node for node in here if node not in self._kept]
        to_save = [node for node in plan.compute if self._routed and node in self._kept]
        objects = [node for node in leaves if is_constructor(node)]
        return Needs(plan.compute, [node for node in here if node in computed] + to_save, objects)

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
        if nodes:
            assert self._storage is not None
            footers = self._storage.footers(self._name, [node.get_name() for node in nodes])
            for node, footer in zip(nodes, footers, strict=True):
                self._know(node, footer)

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
        while self._schedule and (room := self._room()) > 0:
            self._compute(self._groups.next(room, self._cores))

    def _room(self) -> int:
        """Return how many more nodes Ray may have."""
        pending = self._pending + len(self._unsaved)
        if self._settings.max_pending:
            return self._settings.max_pending - pending
        return _MANY - pending if pending < _FEW or self._wanted_cores < _AHEAD * self._cores else 0

    def _submit_saves(self) -> None:
        while self._saves and len(self._saving) < _SAVES:
            self._save(self._saves.pop())

    def _receive(self) -> None:
        try:
            take, group, future = self._arrived.get(timeout=_WAIT)
        except queue.Empty:
            self._cores = _ray.cores()  # nodes may have come
            self._watch.look(lambda: [self._options_of(group[0]) for group in self._in_flight])
            if self._routed is not None:
                self._routed.look(self._disk_watch)
        else:
            take(group, future)

    def _options_of(self, node: Node) -> _ray.Options:
        return self._settings.options.get(node if node.storable else object_of(node), {})

    def _outcome(self, group: Group, future: Future[Any], unsent: _Translate | None = None) -> Any:
        raised = future.exception()
        if raised is None:
            return future.result()
        error, name = _ray.original(raised)
        if name is None and unsent is not None:
            error = unsent(error)
        named = next((node for node in self._nodes if node.get_name() == name), None)
        suspects = (named,) if named else self._suspects(group)
        self._note_failure(suspects[0], error, len(suspects) - 1)
        raise error

    def _suspects(self, group: Group) -> Group:
        """Return the nodes at which a worker may have died: of a row, the first that this run has not stored."""
        if len(group) > 1 and self._storage is not None and not self._routed:
            with nothing_hidden("where a worker died could not be looked up"):
                footers = self._storage.footers(self._name, [node.get_name() for node in group])
                saved = [bool(footer and footer.known and footer.known.run_id == self.run_id) for footer in footers]
                return tuple(node for node, is_saved in zip(group, saved, strict=True) if not is_saved)[:1] or group
        return group

    # Computing

    def _compute(self, group: Group) -> None:
        """Give nodes to Ray as one task."""
        values: list[Any] = []
        functions: dict[int, int] = {}
        calls = [self._call(node, values, functions) for node in group]
        count = sum(len(call.returns) for call in calls)
        name = group[0].get_name() if len(group) == 1 else f"{group[0].get_name()} and {len(group) - 1} more"
        options = {"name": name, **self._settings.options.get(group[0], {}), "num_returns": count + 1}
        try:
            answer = self._runner(group[0], options).remote(self._session, calls, *values)
        except Exception as error:
            self._note_failure(next(filter(None, map(_unsendable, group, calls)), group[0]), error)
            raise
        told, *references = answer if count else [answer]
        self._hold(group, calls, references)
        self._in_flight[group] = told
        self._pending += len(group)
        self._wanted_cores += self._cores_for(group[0])
        self._expect(told, self._computed, group)

    def _call(self, node: Node, values: list[Any], functions: dict[int, int]) -> Call:
        """Return what a worker needs for a node, and add what the call numbers to `values`."""
        function = self._workflow.func_of(node)
        if id(function) not in functions:
            functions[id(function)] = len(values)
            values.append(self._packer.pack(function))
        arguments = Arguments(node, partial(self._source_of, node), self._packer, values)
        origin = self._origin(node)
        is_followed = node in self._groups.followed
        if is_followed and self._provenance is not None and node in self._kept:
            self._provenance.know_blob(node, unknown_blob(self.run_id))
        return Call(
            node.get_name(),
            functions[id(function)],
            arguments.args,
            arguments.kwargs,
            arguments.sources,
            None if self._routed else origin,
            self._prepared.get(node),
            () if is_followed else self._needs.wanted(node),
            is_followed,
        )

    def _hold(self, group: Group, calls: list[Call], references: list[Any]) -> None:
        """Keep the references to what was asked for, and let go what the nodes had."""
        for node, call in zip(group, calls, strict=True):
            own, references = references[: len(call.returns)], references[len(call.returns) :]
            source: Source = 0 if WHOLE in call.returns else {keys: at for at, keys in enumerate(call.returns)}
            self._holdings.put(Need(node), source, own)
            self._holdings.end(self._needs.of(node))

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
        return self._actors[object_of(node)].call.options(**options)

    def _source_of(self, consumer: Node, other: Node) -> tuple[Source, list[Any]]:
        need = need_of(consumer, other)
        if need is None:
            return None, []
        if self._groups.followed.get(other) is consumer:
            return PREVIOUS, []
        held = self._holdings.get(need)
        if held is not None:
            return held
        if self._routed is None:
            return other.get_name(), []
        references = [self._routed.restore_later(self._name, other.get_name())]
        self._holdings.put(need, 0, references)
        return 0, references

    def _expect(self, reference: Any, take: _Take, group: Group) -> None:
        reference.future().add_done_callback(lambda future: self._arrived.put((take, group, future)))

    def _computed(self, group: Group, future: Future[Any]) -> None:
        self._forget(group)
        for node, made in zip(group, self._outcome(group, future), strict=True):
            self._groups.note(node, made.seconds)
            self._made(node, made)

    def _forget(self, group: Group) -> None:
        del self._in_flight[group]
        self._pending -= len(group)
        self._wanted_cores -= self._cores_for(group[0])

    def _made(self, node: Node, made: Made) -> None:
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

    def _look_at_object(self, node: Node) -> None:
        """Take a copy of an object for those who want it as it is now, and let it go if this was its last method."""
        constructor = object_of(node)
        need = Need(node, is_object=True)
        if self._holdings.is_wanted(need):
            self._holdings.put(need, 0, [self._actors[constructor].itself.remote()])
        if self._needs.last_of(constructor) is node:
            del self._actors[constructor]

    # Saving where only the disk's node can

    def _hands_on_what_is_read(self) -> bool:
        return self._routed is not None and self._storage is not None and self._storage.always_read

    def _save(self, node: Node) -> None:
        assert self._routed is not None
        made = self._unsaved.pop(node)
        origin = self._origin(node)
        assert origin is not None
        origin = with_members(origin, duration=made.duration, details=made.details)
        need = Need(node)
        _, (reference,) = self._holdings.get(need) or (0, [None])
        self._saving[node] = told = self._routed.keep_later(self._name, node.get_name(), reference, origin)
        if self._hands_on_what_is_read():
            self._holdings.put(need, 0, [self._routed.restore_later(self._name, node.get_name(), told)])
        self._holdings.end([need])
        self._expect(told, self._saved, (node,))

    def _saved(self, group: Group, future: Future[Any]) -> None:
        (node,) = group
        del self._saving[node]
        assert self._provenance is not None
        assert self._routed is not None
        unsent = partial(self._routed.unsent, self._name, node.get_name())
        self._provenance.know_blob(node, self._outcome(group, future, unsent))
        self._saves.finish(node)
        if self._hands_on_what_is_read():
            self._schedule.finish(node)
        self._finished.append(node)

    # The end

    def _leaf_results(self) -> list[Any]:
        for leaf in self._workflow.leaf_references():
            self._hold_leaf(leaf._nodes()[0])
        self._let_go()
        if not self._settings.return_results:
            return []
        found: dict[Node, Any] = {}

        def result_of(node: Node) -> Any:
            if node not in found:
                found[node] = self._at_hand(node) if node in self._results else self._read(node)
            return found[node]

        return [substitute(leaf, result_of) for leaf in self._workflow.leaves]

    def _hold_leaf(self, node: Node) -> None:
        need = Need(self._needs.last_of(node), is_object=True) if is_constructor(node) else Need(node)
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
        for group, reference in self._in_flight.items():
            if group[0].storable:
                self._ray.cancel(reference, force=True)
        for actor in self._actors.values():
            self._ray.kill(actor)
        self.computed += len(self._finished)
        self._let_go()

    def _receive_late(self) -> None:
        with nothing_hidden("what was computed when the run failed could not be saved"):
            self._submit_saves()
        with suppress(queue.Empty):
            take, group, future = self._arrived.get(timeout=_WAIT)
            if future.exception() is None:
                take(group, future)
            elif group in self._in_flight:
                self._forget(group)
            else:
                self._saving.pop(group[0])

    def _let_go(self) -> None:
        """Keep nothing in Ray's store but what was asked for."""
        self._holdings = Holdings()
        self._packer = Packer()
        self._actors.clear()


def _unsendable(node: Node, call: Call) -> Node | None:
    """Return the node if its arguments cannot be pickled."""
    try:
        _ray.module().cloudpickle.dumps(call)
    except Exception:
        return node
    return None
