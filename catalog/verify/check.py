"""Verification: blobs and side files against the catalog, both ways.

No lock is held while files are read, and others may save and remove meanwhile.
So what looks wrong is only a suspicion, which is looked at again: catalog
first, then file. If both are just as they were, then neither changed between
the first look at the file and the second look at the catalog, and the catalog
has seen that file and says otherwise: a finding. If not, it is looked at once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import product

from catalog.errors import InvalidQuestion
from catalog.format.names import candidates, decode, encode, from_text, side_path, to_text
from catalog.index.index import Index
from catalog.store.base import Store
from catalog.store.reading import readable_names
from catalog.verify import side_files as sides
from catalog.verify.examine import Examined, examine
from catalog.verify.repair import Repair
from catalog.verify.report import Finding, Row, Suspicion, Verification, report

_ROUNDS = 5  # a name that changed as often within a verification is in use, and not damaged

Place = tuple[str, str]
Judge = Callable[[Place, "Examined | None"], "list[Suspicion]"]


class Check:
    """One verification.

    Parameters
    ----------
    store : Store
        The storage.
    index : Index
        Its index.
    """

    def __init__(self, store: Store, index: Index) -> None:
        self._index = index
        self._store = store
        self._counts = {"workflows": 0, "results": 0, "side_files": 0, "size": 0, "unhashed": 0, "torn": 0}

    def run(self, pattern: str) -> tuple[dict[str, int], list[Suspicion]]:
        """Return what was looked at, and the confirmed suspicions, of the workflows that match a glob."""
        if not isinstance(pattern, str):
            raise InvalidQuestion(f"a pattern for workflows is a string such as 'fit_*', not {pattern!r}")
        there, known = self._places()
        places = {name: at for name, at in known.items() if fnmatchcase(from_text(name), pattern)}
        self._counts["workflows"] = sum(not there.isdisjoint(folders) for folders in places.values())
        confirmed = [suspicion for name, folders in sorted(places.items()) for suspicion in self._check(name, folders)]
        return self._counts, confirmed

    def again(self, suspicions: list[Suspicion]) -> list[Suspicion]:
        """Return what is still suspicious at the places of earlier suspicions."""
        _, places = self._places()
        found: list[Suspicion] = []
        for workflow in sorted({to_text(each.finding.workflow) for each in suspicions}):
            paths = {each.at for each in suspicions if to_text(each.finding.workflow) == workflow}
            found += self._pass(workflow, places.get(workflow, []), paths)
        return found

    def _places(self) -> tuple[set[str], dict[str, list[str]]]:
        """Return the folders that there are, and those of every workflow that there is, or was."""
        with self._index.question() as (connection, refreshed):
            self._counts["torn"] = refreshed.torn
            rows = connection.execute("SELECT DISTINCT workflow FROM history WHERE workflow IS NOT NULL").fetchall()
        places = {name: list(candidates(from_text(name))) for (name,) in rows}
        known = {folder for folders in places.values() for folder in folders}
        there = {folder for folder, _ in self._store.folders()}
        for folder in there - known:
            name = decode(folder)
            places.setdefault(to_text(folder if name is None else name), []).append(folder)
        return there, places

    def _check(self, workflow: str, folders: list[str]) -> list[Suspicion]:
        suspected = set(self._pass(workflow, folders))
        confirmed: list[Suspicion] = []
        for _ in range(_ROUNDS):
            if not suspected:
                break
            again = set(self._pass(workflow, folders, {each.at for each in suspected}))
            confirmed += suspected & again
            suspected = again - suspected
        return confirmed

    def _pass(self, workflow: str, folders: list[str], only: set[str] | None = None) -> Iterator[Suspicion]:
        """Yield all that looks wrong in a workflow, or just at some places."""
        side_folders = sides.entries(self._store, folders)  # first: who saves meanwhile is seen to declare his own
        rows, lost = self._ask(workflow)
        files = {(folder, file) for folder in folders for file in readable_names(self._store, folder)}
        owners = {row.blob_id for row in rows.values()} | set(lost.values())
        look = _Look(self._store, workflow, files, side_folders, owners, set())
        at = {task: _place(folders, task, files) for task in (*rows, *lost)}
        judges: list[tuple[Place, Judge]] = [(at[task], partial(look.listed, task, row)) for task, row in rows.items()]
        judges += [(at[task], partial(look.lost, task, Row(blob_id, None, None))) for task, blob_id in lost.items()]
        judges += [(place, look.unclaimed) for place in files - set(at.values())]
        if only is not None:
            judges = [(place, judge) for place, judge in judges if _path(*place) in only]
        looks = self._store.map(lambda place: examine(self._store, *place), [place for place, _ in judges])
        for (place, judge), seen in zip(judges, looks, strict=True):
            if only is None:
                self._count(seen)
            yield from judge(place, seen)
        if only is None:
            self._counts["size"] += look.size
            self._counts["unhashed"] += look.unhashed
        yield from look.orphans()

    def _count(self, seen: Examined | None) -> None:
        if seen is not None and seen.kind != "stranger":
            self._counts["results"] += 1
            self._counts["size"] += seen.size
            self._counts["side_files"] += seen.blob.record.side_count if seen.blob else 0

    def _ask(self, workflow: str) -> tuple[dict[str, Row], dict[str, str]]:
        """Return what the catalog lists of a workflow, and ids of what should be there by its history."""
        with self._index.question() as (connection, _):
            rows = connection.execute(_LISTED, [workflow]).fetchall()
            lost = connection.execute(_LOST, [workflow]).fetchall()
        return {task: Row(*rest) for task, *rest in rows}, dict(lost)


@dataclass
class _Look:
    """One look at the files of a workflow."""

    store: Store
    workflow: str
    files: set[Place]
    side_folders: set[Place]
    owners: set[str | None]  # ids of the blobs that side folders may belong to
    unknown: set[str]  # folders with results that cannot be read, so that nobody knows what they declare
    size: int = 0  # bytes of side files that were checked
    unhashed: int = 0  # side files without a digest

    def listed(self, task: str, row: Row, at: Place, seen: Examined | None) -> list[Suspicion]:
        """Return what is wrong with a result that the catalog lists."""
        if seen is None:
            return [self._missing(task, row, at)]
        self._note(at, seen)
        kind, reason = _judge(row, seen)
        found = [self._suspicion(kind, task, at, reason, seen, row)] if kind else []
        return found + self._side_faults(task, at, seen, row)

    def lost(self, task: str, row: Row, at: Place, seen: Examined | None) -> list[Suspicion]:
        """Return what is wrong with a result that the history knows, and the catalog does not list.

        It is gone; or it is damaged, and whoever removed it was killed on the way.
        """
        if at not in self.files:
            return [self._missing(task, row, at)]
        found = self.unclaimed(at, seen)
        damaged = [replace(each, kind="damaged", row=row) for each in found if each.kind in ("damaged", "strangers")]
        return damaged or found

    def unclaimed(self, at: Place, seen: Examined | None) -> list[Suspicion]:
        """Return what is wrong with a file that the catalog does not list."""
        if seen is None:
            return []
        self._note(at, seen)
        kind, reason = seen.kind, seen.reason
        task = None if kind == "stranger" else to_text(_name(at[1]))
        if seen.blob is not None:
            self.owners.add(seen.blob.record.blob_id)
            task = seen.blob.record.task
            hidden = encode(from_text(task)) != at[1] and (at[0], encode(from_text(task))) in self.files
            kind = "strangers" if hidden else "unlisted"
            reason = "another file of this name hides it" if hidden else "the catalog does not list it"
        return [self._suspicion(kind, task, at, reason, seen), *self._side_faults(task, at, seen, None)]

    def orphans(self) -> Iterator[Suspicion]:
        """Yield the side folders that belong to no result."""
        for folder, blob_id in self.side_folders:
            if folder not in self.unknown and blob_id not in self.owners:
                path = side_path(folder, blob_id)
                yield self._side("orphans", None, path, "no result declares it", path)

    def _note(self, at: Place, seen: Examined) -> None:
        if seen.kind == "unchecked":
            self.unknown.add(at[0])

    def _missing(self, task: str, row: Row, at: Place) -> Suspicion:
        return self._suspicion("missing", task, at, "it was saved and never removed, and its file is gone", None, row)

    def _suspicion(
        self, kind: str, task: str | None, at: Place, reason: str, seen: Examined | None, row: Row | None = None
    ) -> Suspicion:
        path = _path(*at)
        finding = Finding(from_text(self.workflow), task and from_text(task), path, reason)
        return Suspicion(_PLURALS.get(kind, kind), finding, path, row, seen.tag if seen else None)

    def _side_faults(self, task: str | None, at: Place, seen: Examined, row: Row | None) -> list[Suspicion]:
        if seen.blob is None:
            return []
        found, size, unhashed = sides.examine(self.store, at[0], seen.blob.record, self.side_folders)
        self.size += size
        self.unhashed += unhashed
        owner = "" if task is None else f"; it belongs to task {from_text(task)!r}"
        tag = seen.tag  # with a damaged side file the whole result is
        return [self._side(kind, task, path, reason + owner, _path(*at), row, tag) for kind, path, reason in found]

    def _side(
        self,
        kind: str,
        task: str | None,
        path: str,
        reason: str,
        at: str,
        row: Row | None = None,
        tag: str | None = None,
    ) -> Suspicion:
        in_use = kind == "orphans" and not sides.is_quiet(self.store, path)
        if in_use:
            reason += "; it changed within the last hour, so that a running save may own it"
        finding = Finding(from_text(self.workflow), task and from_text(task), path, reason, in_use)
        return Suspicion(kind, finding, at, row, tag)


def _judge(row: Row, seen: Examined) -> tuple[str, str]:
    """Return the kind of what is wrong with a listed file, and why; empty if nothing is."""
    if seen.kind == "stranger":
        return "damaged", f"{seen.reason}: it was cut short or overwritten"
    if seen.blob is None:
        return seen.kind, seen.reason
    record = seen.blob.record
    if row.blob_id != record.blob_id:
        return "unlisted", f"the catalog lists the blob {row.blob_id}, there is {record.blob_id}"
    for what, listed, said in (("size", row.size, seen.blob.size), ("checksum", row.checksum, record.checksum)):
        if listed not in (None, said):
            return "differing", f"its {what} is {said}, the catalog says {listed}"
    return "", ""


def _place(folders: list[str], task: str, files: set[Place]) -> Place:
    """Return where a result is, or else where it would be."""
    possible = list(product(folders, candidates(from_text(task))))
    return next((place for place in possible if place in files), possible[0])


def _name(file: str) -> str:
    name = decode(file)
    return file if name is None else name


def _path(folder: str, file: str) -> str:
    return f"{folder}/{file}"


_PLURALS = {"stranger": "strangers"}

_LISTED = "SELECT task, blob_id::VARCHAR, size, checksum FROM tasks WHERE workflow = ?"

# A file that somebody deleted by hand is dropped from `tasks` by any question: only the history knows that it should
# be there. A removal within the minute before the save explains its absence as well: two processes may have done both
# at once, and each drew its time and its id before it acted.
_LOST = """
    SELECT task, blob_id::VARCHAR FROM (
        SELECT task, event, blob_id, saved_at, row_number() OVER (PARTITION BY task ORDER BY event_id DESC) AS place
        FROM history ANTI JOIN pending USING (event_id)
        WHERE workflow = $1 AND event IN ('save', 'remove')
    ) last
    WHERE place = 1 AND event = 'save'
      AND task NOT IN (SELECT task FROM tasks WHERE workflow = $1)
      AND NOT EXISTS (SELECT 1 FROM tasks renamed WHERE renamed.blob_id = last.blob_id)
      AND NOT EXISTS (
        SELECT 1 FROM history gone
        WHERE gone.workflow = $1 AND gone.task = last.task AND gone.event = 'remove'
          AND gone."time" > last.saved_at - INTERVAL 1 MINUTE
      )
"""


def verify(store: Store, index: Index, pattern: str, repair: bool) -> Verification:
    """Hold blobs, side files and catalog against one another, and mend what can be mended if that is wanted.

    Parameters
    ----------
    store : Store
        The storage.
    index : Index
        Its index.
    pattern : str
        A glob on the names of workflows.
    repair : bool
        Whether to mend.

    Returns
    -------
    Verification
        What was found, and what was done.
    """
    check = Check(store, index)
    counts, suspicions = check.run(pattern)
    if repair and suspicions:
        return report(counts, Repair(store, index, check.again).mend(suspicions), True)
    return report(counts, ((_REPORTED.get(each.kind, each.kind), each.finding) for each in suspicions), repair)


_REPORTED = {"differing": "damaged"}
