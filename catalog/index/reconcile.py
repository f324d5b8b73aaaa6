"""Reconciliation with the blobs: of names whose events are unconfirmed, and of files that no event explains.

The journal says what happened, the blob at a name what is there. Names with
pending or competing events are reconciled by reading one footer each. Folders
that changed without an event are scanned, and what was found there is
appended to the journal; nothing else is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple, TypeVar

from catalog.format.names import candidates, decode, encode, from_text, to_text
from catalog.index.history import History
from catalog.journal.view import StorageView
from catalog.store.blobs import Lookup, StoredBlob, blob_at, find_blob, look_up
from catalog.store.reading import readable_names

_SMALL_FOLDER = 2_000  # entries that can be scanned at every question, in a few ms
_RARELY = 200.0  # of the time it took: how long a larger folder in which results are being saved is not scanned
_LONGEST = 600.0  # seconds: not even a clock that jumped back lets a folder alone for longer
_GRAIN = 2_000_000_000  # ns: within the coarsest clock of file systems, a folder may change and keep its time
_AT_ONCE = 10_000  # files that are taken in together: bounds the memory that a folder of older results takes

#: Times that one question reads the footers of names at which others save and remove all the time.
ROUNDS = 5

_NOTHING = "nothing"  # the id of the blob where none is

Name = tuple[str, str]
Names = Iterable[Name]
K = TypeVar("K")


class Blobs:
    """Holds the index against the blobs.

    Parameters
    ----------
    history : History
        The index.
    view : StorageView
        The storage.
    append : callable
        Takes saves that only the blobs know into journal and history. It returns whether the journal had news
        meanwhile: then a blob may have been replaced since its footer was read.
    """

    def __init__(self, history: History, view: StorageView, append: Callable[[list[StoredBlob]], bool]) -> None:
        self._history = history
        self._store = view.store
        self._scans_folders = view.scans_folders
        self._append = append

    # Names

    def reconcile_pending(self, segments: set[str]) -> None:
        """Reconcile the names with pending events, but those at which nothing changed since their footer was last read.

        Of the last save of a killed writer nobody ever learns more: every question reads its footer, and writes
        nothing. In a remote storage, where that costs a request, it is not read again once its segment was compacted.

        Parameters
        ----------
        segments : set of str
            Those that are not compacted.
        """
        rows = [row[2:] for row in self._history.all_of("pending")]
        if not self._store.is_local:
            rows = [row for row in rows if row[2] in segments]
        names = [(workflow, task) for workflow, task, _, _ in rows]
        there = self._footers(names)
        changed = {(w, t): there[w, t] for w, t, _, looked in rows if _id_of(there[w, t]) != looked}
        if changed:
            self._reconcile_some(list(changed), changed)

    def reconcile(self, names: Names) -> None:
        """Read the footers of `names`, and believe them."""
        each = iter(names)
        while some := list(islice(each, _AT_ONCE)):
            self._reconcile_some(some)

    def reconcile_known(self, names: Names) -> None:
        """Read the footers of `names`, and believe those that the journal knows.

        The line of another is on its way, and will have the name reconciled again if it does not follow from what is
        believed here.
        """
        footers = self._footers(list(names))
        known = self._history.knows(found.event_id for found in footers.values() if isinstance(found, StoredBlob))
        self._believe({n: footer for n, footer in footers.items() if footer is None or _id_of(footer) in known})

    def _reconcile_some(self, names: list[Name], footers: dict[Name, Lookup] | None = None) -> None:
        self._believe(self._appended(self._footers(names) if footers is None else footers, self._footers))

    def _believe(self, footers: dict[Name, Lookup]) -> None:
        absent = [name for name, found in footers.items() if found is None]
        # What is damaged is left out: the journal's word stands, and reading it says what is wrong.
        present = {name: found for name, found in footers.items() if isinstance(found, StoredBlob)}
        if absent:
            self._believe_absent(absent)
        if present:
            self._believe_present(present)

    def _appended(self, footers: dict[K, Lookup], read: Callable[[list[K]], dict[K, Lookup]]) -> dict[K, Lookup]:
        """Append what was found, and read again where the journal says by then that it was replaced, or appeared."""
        for _ in range(ROUNDS):
            present = {found.event_id: key for key, found in footers.items() if isinstance(found, StoredBlob)}
            if not self._append([found for found in footers.values() if isinstance(found, StoredBlob)]):
                break
            replaced = [present[event_id] for (event_id,) in self._history.rows(_REPLACED, list(present))]
            again = replaced + [key for key, found in footers.items() if found is None]
            if not again:
                break
            footers = footers | read(again)
        return footers

    def _footers(self, names: list[Name]) -> dict[Name, Lookup]:
        return dict(zip(names, self._found(names), strict=True))

    def _found(self, names: list[Name]) -> list[Lookup]:
        return look_up(self._store, find_blob, [(from_text(workflow), from_text(task)) for workflow, task in names])

    def _believe_present(self, present: dict[Name, StoredBlob]) -> None:
        ids = [found.event_id for found in present.values()]
        self._confirm(ids)
        removed = {
            (workflow, task) for _, event, workflow, task, *_ in self._history.all_of("pending") if event == "remove"
        }
        for workflow, task in removed & present.keys():
            self._history.write("pending", _REMOVED, workflow, task, present[workflow, task].event_id)
        listed = "SELECT event_id::VARCHAR FROM latest WHERE event_id IN (SELECT unnest(?::UUID[]))"
        wanted = list(set(ids).difference(event_id for (event_id,) in self._history.rows(listed, ids)))
        if wanted:  # writing the same again would cost every question
            self._history.choose("SELECT unnest(?::UUID[])", wanted)
        self._note_seen(list(present), ids)

    def _confirm(self, ids: list[str]) -> None:
        wanted = set(ids)
        if any(str(event_id) in wanted for event_id, *_ in self._history.all_of("pending")):
            self._history.write("pending", "DELETE FROM pending WHERE event_id IN (SELECT unnest(?::UUID[]))", ids)

    def _note_seen(self, names: list[Name], ids: list[str]) -> None:
        """Note which blobs were there, with the events that are pending still."""
        if self._history.all_of("pending"):
            self._history.write("pending", _SEEN, [workflow for workflow, _ in names], [task for _, task in names], ids)

    def _believe_absent(self, names: list[Name]) -> None:
        workflows, tasks = [list(column) for column in zip(*names, strict=True)]
        pairs = "SELECT unnest(?::VARCHAR[]) AS workflow, unnest(?::VARCHAR[]) AS task"
        self._history.write(
            "pending",
            f"""DELETE FROM pending USING ({pairs}) names WHERE event = 'remove'
            AND pending.workflow = names.workflow AND pending.task = names.task""",
            workflows,
            tasks,
        )
        listed = f"SELECT workflow, task FROM tasks SEMI JOIN ({pairs}) USING (workflow, task)"
        gone = self._history.rows(listed, workflows, tasks)
        if gone:
            self._history.forget_latest(gone)
        self._note_seen(names, [_NOTHING] * len(names))

    # Folders

    def scan_folders(self) -> None:
        """Find files that came or went without an event: copied in, of the older format, deleted by hand.

        A folder is scanned when it changed and no event explains that, or
        when it is small; one in which much is being saved, now and then.
        In a remote storage only if nothing is known of it, or if that is wanted: it takes a listing of all.
        """
        if not self._scans_folders and self._knows_something():
            return
        known = {from_text(folder): state for folder, *state in self._history.all_of("folders")}
        some: list[_Folder] = []
        listed = 0
        for folder, mtime in self._store.folders():
            before, settled, dirty, due, entries = known.pop(folder, (None, False, False, 0.0, 0))
            if mtime == before and settled and not dirty:
                continue
            unexplained = mtime != before and not dirty
            if unexplained or entries <= _SMALL_FOLDER or not time.time() < due < time.time() + _LONGEST:
                began = time.time()
                files = set(readable_names(self._store, folder))
                some.append(_Folder(folder, mtime, (before, settled, dirty), began, files))
                listed += 1 + len(some[-1].files)
            if listed > _SMALL_FOLDER:  # a large one by itself, or many: that bounds the memory
                self._scan(some)
                some, listed = [], 0
        self._scan(some)
        if known:
            self._forget(list(known))

    def _knows_something(self) -> bool:
        return bool(self._history.rows("SELECT 1 FROM history LIMIT 1"))

    def _scan(self, folders: list[_Folder]) -> None:
        listed = self._listed([each.name for each in folders])
        arrived: list[tuple[str, str]] = []
        gone: list[Name] = []
        for folder in folders:
            workflow, names = listed[folder.name]
            unknown, absent = _compared(folder.files, names)
            arrived += [(folder.name, file) for file in unknown]
            gone += [(workflow, name) for name in absent]
        for at in range(0, len(arrived), _AT_ONCE):
            self._take_arrived(arrived[at : at + _AT_ONCE])
        self.reconcile(gone)
        if not self._history.reads_only:  # else it is noted by the next who may
            self._note(folders)

    def _note(self, folders: list[_Folder]) -> None:
        """Note that folders were scanned; where nothing was new that writes nothing."""
        states = []
        for folder in folders:
            now = time.time()
            settled = abs(time.time_ns() - folder.mtime) > _GRAIN
            due = now + min((now - folder.began) * _RARELY, _LONGEST - 1)
            if (folder.mtime, settled, False) != folder.known or len(folder.files) > _SMALL_FOLDER:
                states.append((to_text(folder.name), folder.mtime, settled, due, len(folder.files)))
        if states:
            names, mtimes, settled_ones, dues, entries = map(list, zip(*states, strict=True))
            self._history.write("folders", _SCANNED, names, mtimes, settled_ones, dues, entries)

    def _forget(self, folders: list[str]) -> None:
        """Take nothing to be left of folders."""
        listed = self._listed(folders)
        self.reconcile([(workflow, name) for workflow, names in listed.values() for name in names])
        texts = list(map(to_text, folders))
        self._history.write("folders", "DELETE FROM folders WHERE folder IN (SELECT unnest(?::VARCHAR[]))", texts)

    def _listed(self, folders: list[str]) -> dict[str, tuple[str, set[str]]]:
        """Return for each folder its workflow and the names that are listed in it."""
        workflows = self._workflows_in(folders)
        sql = "SELECT workflow, list(task) FROM tasks WHERE workflow IN (SELECT unnest(?::VARCHAR[])) GROUP BY workflow"
        listed = dict(self._history.rows(sql, list(workflows.values()))) if folders else {}
        return {folder: (workflow, set(listed.get(workflow, ()))) for folder, workflow in workflows.items()}

    def _workflows_in(self, folders: list[str]) -> dict[str, str]:
        decoded = {folder: decode(folder) for folder in folders}
        encoded = {}
        if None in decoded.values():  # of a name that is too long only a digest is in the folder's
            known = (text for (text,) in self._history.rows("SELECT DISTINCT workflow FROM tasks"))
            encoded = {encode(from_text(text)): text for text in known}
        return {
            folder: encoded.get(folder, to_text(folder)) if name is None else to_text(name)
            for folder, name in decoded.items()
        }

    def _take_arrived(self, files: list[tuple[str, str]]) -> None:
        def read(files: list[tuple[str, str]]) -> dict[tuple[str, str], Lookup]:
            return dict(zip(files, look_up(self._store, blob_at, files), strict=True))

        # What else lies there is left alone.
        found = [each for each in self._appended(read(files), read).values() if isinstance(each, StoredBlob)]
        ids = [each.event_id for each in found]
        self._history.choose("SELECT unnest(?::UUID[])", ids)
        self._confirm(ids)


class _Folder(NamedTuple):
    """A workflow's folder that is scanned.

    Attributes
    ----------
    name : str
        Its name in the storage.
    mtime : int
        When its entries last changed, ns since 1970.
    known : tuple
        What is noted of it: such a time, whether it was long ago by then, and whether events explain it.
    began : float
        When its files were listed, seconds since 1970.
    files : set of str
        The names of those that can be results.
    """

    name: str
    mtime: int
    known: tuple[object, ...]
    began: float
    files: set[str]


def _compared(files: set[str], names: set[str]) -> tuple[list[str], list[str]]:
    """Return the files in a folder of which no name is listed, and the listed names of which there is no file."""
    # Nearly every name is its own file name; the file of one may be called as another is, though.
    same = files & names
    if not _is_plain("".join(same)):
        same = {file for file in same if decode(file) == from_text(file)}
    unknown = [file for file in files - same if decode(file) is None or to_text(decode(file) or "") not in names]
    arrived = [file for file in unknown if not _is_hidden(file, files)]
    return arrived, [name for name in names - same if not files.intersection(candidates(from_text(name)))]


def _id_of(footer: Lookup) -> str | None:
    if isinstance(footer, StoredBlob):
        return footer.event_id
    return _NOTHING if footer is None else None


def _is_plain(text: str) -> bool:
    return "%" not in text and text.isascii()


def _is_hidden(file: str, files: set[str]) -> bool:
    """Tell whether a file that the older format kept under the raw form of a name is hidden by its newer one."""
    name = decode(file)
    return name is not None and encode(name) != file and encode(name) in files


_REPLACED = """
    SELECT DISTINCT replaces::VARCHAR FROM history WHERE replaces IN (SELECT unnest(?::UUID[]))
"""

_SEEN = """
    UPDATE pending SET looked = names.found FROM (
        SELECT unnest(?::VARCHAR[]) AS workflow, unnest(?::VARCHAR[]) AS task, unnest(?::VARCHAR[]) AS found
    ) names WHERE pending.workflow = names.workflow AND pending.task = names.task
"""

_SCANNED = """
    MERGE INTO folders USING (
        SELECT unnest(?::VARCHAR[]) AS folder, unnest(?::BIGINT[]) AS mtime, unnest(?::BOOLEAN[]) AS settled,
               unnest(?::DOUBLE[]) AS due, unnest(?::BIGINT[]) AS entries
    ) seen ON folders.folder = seen.folder
    WHEN MATCHED THEN UPDATE SET mtime = seen.mtime, settled = seen.settled, dirty = false, due = seen.due,
                                 entries = seen.entries
    WHEN NOT MATCHED THEN INSERT VALUES (seen.folder, seen.mtime, seen.settled, false, seen.due, seen.entries)
"""

# Where a blob stands, a removal came true before it unless it meant that blob, or one that was overwritten instead.
_REMOVED = """
    DELETE FROM pending WHERE event_id IN (
        SELECT removal.event_id FROM history removal
        WHERE removal.workflow = $1 AND removal.task = $2 AND removal.event = 'remove' AND NOT EXISTS (
            SELECT 1 FROM history save
            WHERE save.workflow = removal.workflow AND save.task = removal.task AND save.event = 'save' AND (
                save.replaces = removal.replaces OR (save.event_id = $3 AND (
                    save.blob_id = removal.replaces OR (removal.replaces IS NULL AND save.format = 0)
                ))
            )
        )
    )
"""
