"""Repair: the index believes the blobs, what is damaged goes to quarantine; nothing is deleted.

Each step can be the last one, as a kill makes it, and can be done again: the
note is written before anything is moved, and a removal is recorded as any other
is, by a line that is provisional until the file is gone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from catalog.format.author import now_text
from catalog.format.events import removal_line
from catalog.format.ids import new_id
from catalog.format.names import CATALOG_FOLDER, SIDE_FOLDER, side_path, to_text
from catalog.index.index import Index
from catalog.journal.base import Publication
from catalog.journal.open import journal_of
from catalog.store.base import Changed, Store
from catalog.verify import side_files as sides
from catalog.verify.report import Finding, Suspicion

# Where what is damaged goes: not below .catalog where every question lists that.
_QUARANTINE = f"{CATALOG_FOLDER}/quarantine"
_REMOTE_QUARANTINE = ".quarantine"


class Repair:
    """Mends what a verification found.

    Parameters
    ----------
    store : Store
        The storage.
    index : Index
        Its index.
    again : callable
        Returns what is still suspicious of earlier suspicions.
    """

    def __init__(self, store: Store, index: Index, again: Callable[[list[Suspicion]], list[Suspicion]]) -> None:
        self._store = store
        self._index = index
        self._again = again
        self._deeds = {
            "missing": self._record_loss,
            "unlisted": self._list,
            "damaged": self._quarantine,
            "orphans": self._quarantine_side,
        }

    def mend(self, suspicions: list[Suspicion]) -> list[tuple[str, Finding]]:
        """Return kind and finding for each suspicion, with what was done about it."""
        rebuilt, rest = self._rebuild(suspicions)
        return rebuilt + [(each.kind, replace(each.finding, done=self._mend(each))) for each in rest]

    def _rebuild(self, suspicions: list[Suspicion]) -> tuple[list[tuple[str, Finding]], list[Suspicion]]:
        """Build the index anew where it may be what is wrong; what differs from the journal too is damaged."""
        differing = [each for each in suspicions if each.kind == "differing"]
        if not differing:
            return [], suspicions
        self._index.rebuild()
        still = {each.at for each in self._again(differing)}
        mended = [each for each in differing if each.at not in still]
        rest = [replace(each, kind="damaged") if each.kind == "differing" else each for each in suspicions]
        done = [("damaged", replace(each.finding, done="the index was wrong, and is built anew")) for each in mended]
        return done, [each for each in rest if each.at not in {one.at for one in mended}]

    def _mend(self, suspicion: Suspicion) -> str:
        deed = self._deeds.get(suspicion.kind)
        if deed is None:
            return ""
        try:
            return deed(suspicion)
        except OSError as error:
            return f"left as it is: {error.strerror or error}"

    # The index

    def _list(self, suspicion: Suspicion) -> str:
        self._reconcile(suspicion.finding)
        return "taken into the catalog"

    def _record_loss(self, suspicion: Suspicion) -> str:
        if self._store.stat(suspicion.at) is not None:
            return "it is there again"
        _append(self._store, suspicion.at, _removal(suspicion, {"reason": "missing"}))
        self._reconcile(suspicion.finding)
        return "its loss is recorded as a removal"

    def _reconcile(self, finding: Finding) -> None:
        self._index.reconcile([(to_text(finding.workflow), to_text(finding.task or ""))])

    # Quarantine

    def _quarantine(self, suspicion: Suspicion) -> str:
        path, tag = suspicion.at, suspicion.tag
        entry = self._store.stat(path)
        if not tag or entry is None or entry.tag != tag:
            return "left: it changed since"
        self._store.require_movable(path)
        to = self._note(suspicion, path)
        line = _removal(suspicion, {"reason": "quarantined", "why": suspicion.finding.reason, "to": to})
        try:
            _append(self._store, path, line, lambda: self._store.move(path, to, tag))
        except Changed:
            return "left: it was saved anew"
        self._reconcile(suspicion.finding)
        if suspicion.row is not None and suspicion.row.blob_id is not None:
            self._move_side_folder(path.rpartition("/")[0], suspicion.row.blob_id, to.rpartition("/")[0])
        return f"moved to {to}"

    def _move_side_folder(self, folder: str, blob_id: str, target: str) -> None:
        if not self._is_listed(blob_id):  # a copy of the blob may need it
            self._store.move_all(side_path(folder, blob_id), f"{target}/{SIDE_FOLDER}/{blob_id}")

    def _is_listed(self, blob_id: str) -> bool:
        with self._index.question() as (connection, _):
            return bool(connection.execute("SELECT 1 FROM tasks WHERE blob_id = ? LIMIT 1", [blob_id]).fetchall())

    def _quarantine_side(self, suspicion: Suspicion) -> str:
        path = suspicion.finding.path
        self._store.require_movable(path)
        if suspicion.finding.perhaps_in_use or not sides.is_quiet(self._store, path):
            return "left: it may be in use"
        to = self._note(suspicion, path)
        self._store.move_all(path, to)
        return f"moved to {to}"

    def _note(self, suspicion: Suspicion, path: str) -> str:
        """Leave a note in the quarantine, and return where the file with that path goes."""
        moment = now_text()
        name = f"{moment[:19].replace('-', '').replace(':', '')}Z-{new_id()}"
        folder = f"{_QUARANTINE if self._store.is_local else _REMOTE_QUARANTINE}/{name}"
        about = {"path": suspicion.finding.path, "workflow": suspicion.finding.workflow}
        about |= {"task": suspicion.finding.task or "", "reason": suspicion.finding.reason, "time": moment}
        if suspicion.row is not None:
            about |= {key: value for key, value in suspicion.row._asdict().items() if value is not None}
        text = json.dumps({key: _text(value) for key, value in about.items()}, indent=2)
        self._store.put(f"{folder}/about.json", text.encode("utf-8"))
        return f"{folder}/{path}"


def _append(store: Store, key: str, line: str, act: Callable[[], None] | None = None) -> None:
    """Append an event to the journal, and do what it tells."""
    journal_of(store).append(Publication(line, key, act and partial(_done, act)))


def _done(act: Callable[[], None]) -> bool:
    act()
    return False


def _text(value: object) -> object:
    return to_text(value) if isinstance(value, str) else value


def _removal(suspicion: Suspicion, details: dict[str, str]) -> str:
    finding, row = suspicion.finding, suspicion.row
    known = (row.blob_id, row.size, row.checksum) if row else (None, None, None)
    return removal_line((finding.workflow, finding.task), *known, details=details)
