"""One run of a graph: what is planned, recorded and left behind, whatever computes the nodes."""

from __future__ import annotations

import logging
import re
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from functionfuse._task import MethodCall
from functionfuse.backends._provenance import Doubt, Provenance
from functionfuse.backends._stale import stale_message
from functionfuse.backends._warning import warn
from functionfuse.baseworkflow import BaseWorkflow
from functionfuse.errors import StaleResult, StaleResultWarning, StorageUnusable, UnreadableResult, add_note
from functionfuse.storage.base import Footer, Kind, Origin, Storage, new_id
from functionfuse.workflow import Node

ON_STALE = ("warn", "recompute", "error", "ignore")
_LONGEST_TRACEBACK = 20_000

_log = logging.getLogger("functionfuse.run")


@dataclass(frozen=True)
class Settings:
    """How a workflow wants to be run.

    Attributes
    ----------
    backend : str
        What runs it, as the catalog records it.
    storage : Storage or None
        Where results are kept.
    unstored : callable
        Tells of a name whether the node's result is neither stored nor restored.
    on_stale : str
        What to do with a stored result that is out of date: one of `ON_STALE`.
    """

    backend: str
    storage: Storage | None
    unstored: Callable[[str], object]
    on_stale: str


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes
    ----------
    compute : list of Node
        What has to be computed, parents first.
    restore : set of Node
        What is read, when something that is computed needs it, or because it is a leaf.
    uses : Counter
        How often each result is wanted: by what is computed, and as a leaf.
    """

    compute: list[Node]
    restore: set[Node]
    uses: Counter[Node]


class Run(ABC):
    """One run of a workflow; keeps all of its state to itself. A backend says how nodes are computed.

    Parameters
    ----------
    workflow : BaseWorkflow
        What to run.
    settings : Settings
        How.
    recompute : str or re.Pattern, optional
        The nodes whose names it matches, and all below them, are computed even if they are stored.
    """

    _many = 1_000  # nodes, after which a bucket's journal has grown by so many segments that it is to be compacted

    def __init__(
        self, workflow: BaseWorkflow, settings: Settings, recompute: str | re.Pattern[str] | None = None
    ) -> None:
        self._workflow = workflow
        self._settings = settings
        self._storage = settings.storage
        self._name = workflow.workflow_name
        self._nodes = workflow.ordered()
        self._wanted_anew = self._below(workflow.picked_nodes(recompute)) if recompute is not None else set()
        self._anew = set(self._wanted_anew)
        self._unreadable: set[Node] = set()  # whose stored results could not be unpickled
        self._stored = self._storage.stored(self._name) if self._storage else set()
        self._provenance = Provenance(workflow, self._nodes) if self._storage else None
        self._kept = {node for node in self._nodes if self._is_kept(node)}
        self._results: dict[Node, Any] = {}
        self._footers: dict[Node, Footer] = {}
        self._of_other_format: list[str] = []  # names of nodes whose blobs have no footer
        self.run_id = new_id()
        self._noted: BaseException | None = None
        self._is_recorded = True  # unless that fails
        self._only_reads = False
        self.computed = 0
        self.restored = 0

    def execute(self, progress: Callable[[list[Node]], Iterable[Node]]) -> list[Any]:
        """Run the graph and return the leaves' results.

        Parameters
        ----------
        progress : callable
            Is given the nodes that have to be computed, and gives them back one by one.

        Notes
        -----
        With ``on_stale="recompute"``, a stored result that cannot be unpickled ends the run, and another one begins
        that computes it anew: what this one computed is stored.
        """
        known = set(self._unreadable)
        try:
            return self._execute(progress)
        except UnreadableResult:
            if self._settings.on_stale != "recompute" or self._unreadable == known:
                raise
        return self._again().execute(progress)

    def _again(self) -> Run:
        again = type(self)(self._workflow, self._settings)
        again._unreadable = self._unreadable
        again._wanted_anew = self._wanted_anew
        again._anew = self._wanted_anew | self._below(self._unreadable)
        return again

    def _execute(self, progress: Callable[[list[Node]], Iterable[Node]]) -> list[Any]:
        plan = self._plan()
        status = "failed"
        try:
            self._start(plan)
            self._begin(plan)
            with self._reading(plan):
                for node in progress(plan.compute):
                    self._advance(node, plan)
                results = self._leaf_results()
            if self._storage is not None:
                self._storage.flush()
            status = "finished"
            return results
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            self._finish(status, plan)

    # Plan

    def _plan(self) -> Plan:
        plan = self._draft()
        while outdated := self._outdated(plan):
            self._refuse_or_log(outdated)
            self._anew |= self._below(outdated)
            plan = self._draft()
        return plan

    def _draft(self) -> Plan:
        """Decide from the leaves up: what is stored is restored, what is not needs its parents."""
        # What a stand-in among the leaves meant when the workflow was made: methods may have been called on it since.
        uses = Counter(self._workflow._roots)
        compute, restore = [], set()
        for node in reversed(self._nodes):
            if node not in uses:
                continue
            if self._is_usable(node):
                restore.add(node)
            else:
                compute.append(node)
                uses.update(node.parents)
        return Plan(compute[::-1], restore, uses)

    def _is_usable(self, node: Node) -> bool:
        if node not in self._kept or node.get_name() not in self._stored or node in self._anew:
            return False
        if self._settings.on_stale not in ("recompute", "error"):
            return True
        assert self._storage is not None
        assert self._provenance is not None
        if node in self._footers:
            return True
        footer = self._storage.footer(self._name, node.get_name())
        reason = self._provenance.staleness(node, footer)
        if reason is None:
            if footer is not None:
                self._footers[node] = footer
                self._provenance.know_blob(node, footer.blob_id)
            return True
        self._refuse_or_log({node: reason})
        self._anew.add(node)
        return False

    def _outdated(self, plan: Plan) -> dict[Node, str]:
        """Return what would be restored next to a parent that is not, or will not be, the one that it was made from."""
        if self._settings.on_stale not in ("recompute", "error"):
            return {}
        assert self._provenance is not None
        computed = self._kept.intersection(plan.compute)
        outdated = {}
        for node in plan.restore & self._footers.keys():
            reason = self._provenance.staleness(node, self._footers[node])
            known = self._footers[node].known
            if reason is None and known and known.scheme and not computed.isdisjoint(node.parents):
                reason = "a result that it was computed from is computed anew"
            if reason is not None:
                outdated[node] = reason
        return outdated

    def _refuse_or_log(self, stale: dict[Node, str]) -> None:
        reasons = {node.get_name(): reason for node, reason in stale.items()}
        if self._settings.on_stale == "error":
            raise StaleResult(stale_message(self._name, reasons))
        for name, reason in reasons.items():
            _log.info("node %r of workflow %r is computed anew: %s", name, self._name, reason)

    def _is_kept(self, node: Node) -> bool:
        return self._storage is not None and node.storable and not self._settings.unstored(node.get_name())

    def _below(self, roots: Iterable[Node]) -> set[Node]:
        below = set(roots)
        for node in self._nodes:
            if not below.isdisjoint(node.parents):
                below.add(node)
        return below

    # What a backend does

    @abstractmethod
    def _begin(self, plan: Plan) -> None:
        """Prepare what is computed."""

    def _reading(self, plan: Plan) -> AbstractContextManager[None]:
        """Return a context in which results are read and computed."""
        return nullcontext()

    @abstractmethod
    def _advance(self, node: Node, plan: Plan) -> None:
        """Return when one more node is computed; `node` is the next one of the plan."""

    @abstractmethod
    def _leaf_results(self) -> list[Any]:
        """Return the leaves' results, when all is computed."""

    @abstractmethod
    def _part(self, part: BaseWorkflow) -> Any:
        """Return the result of the single leaf of a part of the workflow, by a run of its own."""

    def _at_hand(self, node: Node) -> Any:
        """Return a result that is in `_results`."""
        return self._results[node]

    def _origin(self, node: Node) -> Origin | None:
        if self._provenance is None:
            return None
        self._provenance.inherit(node)
        return self._provenance.origin(self.run_id, node) if node in self._kept else None

    def _know(self, node: Node, footer: Footer | None) -> None:
        """Take note of a stored result that is used."""
        assert self._provenance is not None
        self.restored += 1
        if footer is None:
            self._of_other_format.append(node.get_name())
        else:
            self._footers[node] = footer
            self._provenance.use(node, footer)

    # After the run

    def result_of(self, node: Node) -> Any:
        """Return the result of a node after the run: at hand, or read, or as a last resort computed."""
        if node in self._results:
            return self._at_hand(node)
        if self._storage is not None and self.has_result_of(node):
            return self._storage.read_task(self._name, node.get_name())
        return self._part(_Part(self._workflow, node, [other for other in self._nodes if is_method_of(other, node)]))

    def has_result_of(self, node: Node) -> bool:
        """Tell whether the result of a node is at hand, or stored."""
        if node in self._results:
            return True
        return (
            self._storage is not None and node in self._kept and self._storage.file_exists(self._name, node.get_name())
        )

    def _finish(self, status: str, plan: Plan) -> None:
        with nothing_hidden("the end of the run could not be recorded", status != "finished"):
            self._note(Kind.RUN_FINISHED, status=status, computed=self.computed, restored=self.restored)
            if self._storage is not None:
                self._storage.flush()
        if self._storage is not None and len(plan.compute) >= self._many:
            with nothing_hidden("the journal could not be compacted"):
                self._storage.tidy()
        for node in self._kept & self._results.keys():
            del self._results[node]
        for node in self._nodes:
            node._outcome = self
        _log.info("workflow %r %s: %d computed, %d restored", self._name, status, self.computed, self.restored)
        if self._provenance is not None and plan.compute:
            self._provenance.look_again()
        if status == "finished":  # otherwise an exception is on its way, which no warning may replace
            self._report_doubt()
            self._warn_of_stale()

    def _report_doubt(self) -> None:
        """Say once a run which restored results may be fresh or not, for all that anybody knows."""
        if self._settings.on_stale == "ignore" or self._provenance is None:
            return
        names: dict[Doubt, list[str]] = {}
        for node, footer in self._footers.items():
            doubt = self._provenance.doubt(node, footer)
            if doubt is not None:
                names.setdefault(doubt, []).append(node.get_name())
        names.update({Doubt.OTHER_FORMAT: self._of_other_format} if self._of_other_format else {})
        for doubt, doubtful in names.items():
            _log.log(
                logging.INFO if doubt is Doubt.UNKNOWN_INPUT else logging.WARNING,
                "%d results of workflow %r are restored, and whether they are what their nodes would give now is not "
                "known: %s (%r). run(recompute=...) computes them anew",
                len(doubtful),
                self._name,
                doubt.value,
                doubtful[0],
            )

    def _warn_of_stale(self) -> None:
        footers, self._footers = self._footers, {}
        if self._settings.on_stale != "warn" or self._provenance is None:
            return
        # At the end, when all blobs are known, whatever the order in which they were read.
        reasons = {node.get_name(): self._provenance.staleness(node, footer) for node, footer in footers.items()}
        stale = {name: reason for name, reason in reasons.items() if reason is not None}
        for name, reason in stale.items():  # the warning names the first ones only
            _log.info("the stored result of node %r of workflow %r is stale: %s", name, self._name, reason)
        if stale:
            warn(stale_message(self._name, stale), StaleResultWarning)

    # Events

    def _start(self, plan: Plan) -> None:
        """Record that the run begins, which shows whether what it computes can be stored.

        Raises
        ------
        StorageUnusable
            If something would be computed to be stored, and the storage cannot be written.
        """
        to_keep = [node for node in plan.compute if node in self._kept]
        self._only_reads = not to_keep
        try:
            if self._storage is not None and to_keep:
                self._storage.require_writable(self._name)
            self._note(Kind.RUN_STARTED, nodes=len(plan.compute))
        except StorageUnusable as error:
            self._is_recorded = False
            raise StorageUnusable(error.errno, self._unwritable(to_keep, error)) from error

    def _unwritable(self, to_keep: list[Node], error: StorageUnusable) -> str:
        others = f" and {len(to_keep) - 1:,} more" if len(to_keep) > 1 else ""
        return (
            f"node {to_keep[0].get_name()!r}{others} of workflow {self._name!r} would be computed and stored, but "
            f"{self._storage!r} cannot be written: {error.strerror or error}. Nothing was computed: choose a storage "
            "that you may write to, or run without one"
        )

    def _note(self, event: Kind, **details: Any) -> None:
        """Record an event; a run that stores nothing does without, as who runs it may have no right to write."""
        if self._storage is None or not self._is_recorded:
            return
        said = {"backend": self._settings.backend, **details}
        try:
            self._storage.note(event, self._name, self.run_id, said, waits=not self._only_reads)
        except StorageUnusable as error:
            if not self._only_reads:
                raise
            self._is_recorded = False
            _log.debug("a run of workflow %r that only reads is not recorded: %s", self._name, str(error))

    def _note_failure(self, node: Node, error: BaseException, others: int = 0) -> None:
        """Say where an exception comes from, and record it: from a node, or one of others that went with it."""
        if error is self._noted:  # on its way from a parent that could not be read
            return
        self._noted = error
        if isinstance(error, UnreadableResult) and node.get_name() in self._stored:
            self._unreadable.add(node)
        beside = f", or one of {others} that went with it," if others else ""
        place = f"node {node.get_name()!r}{beside} of workflow {self._name!r}"
        with nothing_hidden(f"the failure of {place} could not be noted"):
            add_note(error, f"in {place}")
        _log.info("%s failed: %s", place, type(error).__name__)
        if self._storage is not None and self._is_recorded:
            with nothing_hidden(f"the failure of {place} could not be recorded"):
                lines = "".join(traceback.format_exception(type(error), error, error.__traceback__))
                details = {"error": repr(error)[:_LONGEST_TRACEBACK], "traceback": lines[-_LONGEST_TRACEBACK:]}
                self._storage.note(Kind.TASK_FAILED, self._name, self.run_id, details, node.get_name())


class _Part(BaseWorkflow):
    """A workflow up to one of its nodes; an object is as its methods leave it."""

    def __init__(self, whole: BaseWorkflow, node: Node, methods: list[Node]) -> None:
        super().__init__(node, workflow_name=whole.workflow_name)
        self._roots += methods
        self._replaced = whole._replaced


def is_method_of(node: Node, constructor: Node) -> bool:
    """Tell whether a node calls a method of the object that another one makes."""
    return isinstance(node.func, MethodCall) and node.args[0] is constructor


@contextmanager
def nothing_hidden(trouble: str, on_its_way: bool = True) -> Iterator[None]:
    """Log what goes wrong while another exception is on its way, so that it does not take that one's place."""
    try:
        yield
    except Exception:
        if not on_its_way:
            raise
        _log.warning("%s", trouble, exc_info=True)


def iter_nodes(nodes: list[Node]) -> Iterable[Node]:
    """Show no progress."""
    return nodes
