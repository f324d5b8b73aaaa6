"""What the blobs say: of names whose events leave a doubt, and of files that no event explains.

The journal says what happened, the blob at a name what is there. Names with
pending or competing events are settled by one look at the blob each. Folders
that changed without an event are looked through, and what was found there is
told to the journal; nothing else is looked at.
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

_SMALL_FOLDER = 2_000  # entries that can be looked through at every question, in a few ms
_RARELY = 200.0  # of the time it took: how long a larger folder in which results are being saved is left alone
_LONGEST = 600.0  # seconds: not even a clock that jumped back lets a folder alone for longer
_GRAIN = 2_000_000_000  # ns: within the coarsest clock of file systems, a folder may change and keep its time
_AT_ONCE = 10_000  # files that are taken in together: bounds the memory that a folder of older results takes

#: Looks of one question at names at which others save and remove all the time.
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
    tell : callable
        Takes saves of which only the blobs tell into journal and history. It returns whether the journal had news
        meanwhile: then a blob may have been replaced since it was looked at.
    """

    def __init__(self, history: History, view: StorageView, tell: Callable[[list[StoredBlob]], bool]) -> None:
        self._history = history
        self._store = view.store
        self._scans_folders = view.scans_folders
        self._tell = tell

    # Names

    def settle_doubtful(self, segments: set[str]) -> None:
        """Settle the names with pending events, but those at which nothing changed since they were last looked at.

        Of the last save of a killed writer nobody ever learns more: it costs every question one look, no writing. In a
        remote storage, where a look costs a request, it is not looked at again once its segment was compacted.

        Parameters
        ----------
        segments : set of str
            Those that are not compacted.
        """
        rows = self._history.rows("SELECT workflow, task, segment, looked FROM pending")
        if not self._store.is_local:
            rows = [row for row in rows if row[2] in segments]
        names = [(workflow, task) for workflow, task, _, _ in rows]
        there = self._looks_at(names)
        changed = {(w, t): there[w, t] for w, t, _, looked in rows if _id_of(there[w, t]) != looked}
        if changed:
            self._settle_some(list(changed), changed)

    def settle(self, names: Names) -> None:
        """Lookup at the blobs of `names`, and believe them."""
        each = iter(names)
        while some := list(islice(each, _AT_ONCE)):
            self._settle_some(some)

    def settle_known(self, names: Names) -> None:
        """Lookup at the blobs of `names`, and believe those that the journal has told of.

        The line of another is on its way, and will have the name looked at again if it does not follow from what is
        believed here.
        """
        looks = self._looks_at(list(names))
        known = self._history.knows(found.event_id for found in looks.values() if isinstance(found, StoredBlob))
        self._believe({n: look for n, look in looks.items() if look is None or _id_of(look) in known})

    def _settle_some(self, names: list[Name], looks: dict[Name, Lookup] | None = None) -> None:
        self._believe(self._told(self._looks_at(names) if looks is None else looks, self._looks_at))

    def _believe(self, looks: dict[Name, Lookup]) -> None:
        absent = [name for name, found in looks.items() if found is None]
        # What is damaged is left out: the journal's word stands, and reading it says what is wrong.
        present = {name: found for name, found in looks.items() if isinstance(found, StoredBlob)}
        if absent:
            self._settle_absent(absent)
        if present:
            self._settle_present(present)

    def _told(self, looks: dict[K, Lookup], look: Callable[[list[K]], dict[K, Lookup]]) -> dict[K, Lookup]:
        """Tell what was found, and look again where the journal says by then that it was replaced, or appeared."""
        for _ in range(ROUNDS):
            present = {found.event_id: key for key, found in looks.items() if isinstance(found, StoredBlob)}
            if not self._tell([found for found in looks.values() if isinstance(found, StoredBlob)]):
                break
            replaced = [present[event_id] for (event_id,) in self._history.rows(_REPLACED, list(present))]
            again = replaced + [key for key, found in looks.items() if found is None]
            if not again:
                break
            looks = looks | look(again)
        return looks

    def _looks_at(self, names: list[Name]) -> dict[Name, Lookup]:
        return dict(zip(names, self._found(names), strict=True))

    def _found(self, names: list[Name]) -> list[Lookup]:
        return look_up(self._store, find_blob, [(from_text(workflow), from_text(task)) for workflow, task in names])

    def _settle_present(self, present: dict[Name, StoredBlob]) -> None:
        ids = [found.event_id for found in present.values()]
        self._history.run("DELETE FROM pending WHERE event_id IN (SELECT unnest(?::UUID[]))", ids)
        for workflow, task in self._history.rows("SELECT DISTINCT workflow, task FROM pending WHERE event = 'remove'"):
            if (workflow, task) in present:
                self._history.run(_REMOVED, workflow, task, present[workflow, task].event_id)
        listed = "SELECT event_id::VARCHAR FROM latest WHERE event_id IN (SELECT unnest(?::UUID[]))"
        wanted = list(set(ids).difference(event_id for (event_id,) in self._history.rows(listed, ids)))
        if wanted:  # writing the same again would cost every question
            self._history.choose("SELECT unnest(?::UUID[])", wanted)
        self._looked(list(present), ids)

    def _looked(self, names: list[Name], ids: list[str]) -> None:
        """Note which blobs were there, with the events that are pending still."""
        if self._history.rows("SELECT 1 FROM pending LIMIT 1"):
            self._history.run(_LOOKED, [workflow for workflow, _ in names], [task for _, task in names], ids)

    def _settle_absent(self, names: list[Name]) -> None:
        workflows, tasks = [list(column) for column in zip(*names, strict=True)]
        pairs = "SELECT unnest(?::VARCHAR[]) AS workflow, unnest(?::VARCHAR[]) AS task"
        self._history.run(
            f"""DELETE FROM pending USING ({pairs}) names WHERE event = 'remove'
            AND pending.workflow = names.workflow AND pending.task = names.task""",
            workflows,
            tasks,
        )
        listed = f"SELECT workflow, task FROM tasks SEMI JOIN ({pairs}) USING (workflow, task)"
        gone = self._history.rows(listed, workflows, tasks)
        if gone:
            self._history.forget_latest(gone)
        self._looked(names, [_NOTHING] * len(names))

    # Folders

    def look_through_folders(self) -> None:
        """Find files that came or went without an event: copied in, of the older format, deleted by hand.

        A folder is looked through when it changed and no event explains that, or
        when it is small; one in which much is being saved, now and then.
        In a remote storage only if nothing is known of it, or if that is wanted: it takes a listing of all.
        """
        if not self._scans_folders and self._knows_something():
            return
        rows = self._history.rows("SELECT folder, mtime, settled, dirty, due, entries FROM folders")
        known = {from_text(folder): state for folder, *state in rows}
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
                self._look_through(some)
                some, listed = [], 0
        self._look_through(some)
        if known:
            self._forget(list(known))

    def _knows_something(self) -> bool:
        return bool(self._history.rows("SELECT 1 FROM history LIMIT 1"))

    def _look_through(self, folders: list[_Folder]) -> None:
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
        self.settle(gone)
        if not self._history.reads_only:  # else it is noted by the next who may
            self._note(folders)

    def _note(self, folders: list[_Folder]) -> None:
        """Note that folders were looked through; where nothing was new that writes nothing."""
        states = []
        for folder in folders:
            now = time.time()
            settled = abs(time.time_ns() - folder.mtime) > _GRAIN
            due = now + min((now - folder.began) * _RARELY, _LONGEST - 1)
            if (folder.mtime, settled, False) != folder.known or len(folder.files) > _SMALL_FOLDER:
                states.append((to_text(folder.name), folder.mtime, settled, due, len(folder.files)))
        if states:
            names, mtimes, settled_ones, dues, entries = map(list, zip(*states, strict=True))
            self._history.run("DELETE FROM folders WHERE folder IN (SELECT unnest(?::VARCHAR[]))", names)
            self._history.run(_LOOKED_THROUGH, names, mtimes, settled_ones, dues, entries)

    def _forget(self, folders: list[str]) -> None:
        """Take nothing to be left of folders."""
        listed = self._listed(folders)
        self.settle([(workflow, name) for workflow, names in listed.values() for name in names])
        texts = list(map(to_text, folders))
        self._history.run("DELETE FROM folders WHERE folder IN (SELECT unnest(?::VARCHAR[]))", texts)

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
        def look(files: list[tuple[str, str]]) -> dict[tuple[str, str], Lookup]:
            return dict(zip(files, look_up(self._store, blob_at, files), strict=True))

        # What else lies there is left alone.
        found = [each for each in self._told(look(files), look).values() if isinstance(each, StoredBlob)]
        ids = [each.event_id for each in found]
        self._history.choose("SELECT unnest(?::UUID[])", ids)
        self._history.run("DELETE FROM pending WHERE event_id IN (SELECT unnest(?::UUID[]))", ids)


class _Folder(NamedTuple):
    """A workflow's folder that is looked through.

    Attributes
    ----------
    name : str
        Its name in the storage.
    mtime : int
        When its entries last changed, ns since 1970.
    known : tuple
        What is noted of it: such a time, whether it was long ago by then, and whether events tell of it.
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


def _id_of(look: Lookup) -> str | None:
    if isinstance(look, StoredBlob):
        return look.event_id
    return _NOTHING if look is None else None


def _is_plain(text: str) -> bool:
    return "%" not in text and text.isascii()


def _is_hidden(file: str, files: set[str]) -> bool:
    """Tell whether a file that the older format kept under the raw form of a name is hidden by its newer one."""
    name = decode(file)
    return name is not None and encode(name) != file and encode(name) in files


_REPLACED = """
    SELECT DISTINCT replaces::VARCHAR FROM history WHERE replaces IN (SELECT unnest(?::UUID[]))
"""

_LOOKED = """
    UPDATE pending SET looked = names.found FROM (
        SELECT unnest(?::VARCHAR[]) AS workflow, unnest(?::VARCHAR[]) AS task, unnest(?::VARCHAR[]) AS found
    ) names WHERE pending.workflow = names.workflow AND pending.task = names.task
"""

_LOOKED_THROUGH = """
    INSERT INTO folders (folder, mtime, settled, dirty, due, entries)
    SELECT unnest(?::VARCHAR[]), unnest(?::BIGINT[]), unnest(?::BOOLEAN[]), false,
           unnest(?::DOUBLE[]), unnest(?::BIGINT[])
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
