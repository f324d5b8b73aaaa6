"""What a notebook shows of a storage: its workflows, and what was saved last."""

from __future__ import annotations

import itertools
import logging
import os
from datetime import datetime
from typing import TYPE_CHECKING, Any

from catalog.format.names import CATALOG_FOLDER, decode, from_text
from catalog.index.index import Index
from catalog.index.schema import TOTAL_SIZE
from catalog.show import html
from catalog.store.base import Store

if TYPE_CHECKING:
    import duckdb

_LAST_SAVES = 5
_MOST_FILES = 10_000  # of a workflow that are counted where the catalog is not asked

_log = logging.getLogger("functionfuse.catalog")

_TOTALS = f"SELECT count(DISTINCT workflow), count(*), {TOTAL_SIZE} FROM tasks"
_WORKFLOWS = f"""
    SELECT workflow, count(*), {TOTAL_SIZE}, max(saved_at) AS last FROM tasks
    GROUP BY workflow ORDER BY last DESC, workflow LIMIT {html.MOST_ROWS}
"""
_LAST = f"SELECT workflow, task, type, size, saved_at FROM tasks ORDER BY saved_at DESC, blob_id LIMIT {_LAST_SAVES}"


def overview(title: str, store: Store, index: Index) -> str | None:
    """Return a storage as HTML.

    Parameters
    ----------
    title : str
        What is shown.
    store : Store
        The storage.
    index : Index
        Its index, which is asked if it is there already. Otherwise files are counted: to look at a storage makes
        nothing on disk. To look at a remote one requests nothing: what its index knows is shown as it is.

    Returns
    -------
    str or None
        None where that cannot be, so that a notebook shows the plain `repr`.
    """
    root = store.root
    try:
        if not store.is_local:
            return _known(title, root, index)
        if not os.path.exists(root):
            return html.page(title, root, "nothing saved yet")
        return _asked(title, root, index) if _has_index(root) else _counted(title, root)
    except Exception:  # whatever is wrong with the storage, a question will tell; the cell of a notebook goes on
        _log.debug("no overview of %s", root, exc_info=True)
        return None


def _has_index(root: str) -> bool:
    folder = os.path.join(root, CATALOG_FOLDER)
    needed = (os.path.join(folder, name) for name in ("storage.json", "catalog.duckdb"))
    return os.access(folder, os.W_OK | os.X_OK) and all(map(os.path.isfile, needed))


def _known(title: str, root: str, index: Index) -> str:
    with index.as_last_asked() as connection:
        if connection is None:
            return html.page(title, root, "the catalog has not been asked yet")
        return _summary(title, root, connection, "when the catalog was last asked: ")


def _asked(title: str, root: str, index: Index) -> str:
    with index.question() as (connection, _):
        return _summary(title, root, connection)


def _summary(title: str, root: str, connection: duckdb.DuckDBPyConnection, when: str = "") -> str:
    ((workflows, results, size),) = connection.execute(_TOTALS).fetchall()
    each = connection.execute(_WORKFLOWS).fetchall()
    last = connection.execute(_LAST).fetchall()
    line = f"{when}{html.counted(workflows, 'workflow')}, {html.counted(results, 'result')}, {html.size(size)}"
    by_workflow = html.table(
        ("workflow", "results", "size", "last save"),
        [(from_text(name), count, html.size(size), _moment(at)) for name, count, size, at in each],
        workflows - len(each),
    )
    saves = html.table(
        ("last saves", "workflow", "type", "size", "saved at"),
        [
            (from_text(task), from_text(name), _plain(type), html.size(size), _moment(at))
            for name, task, type, size, at in last
        ],
    )
    return html.page(title, root, line, by_workflow, saves)


def _counted(title: str, root: str) -> str:
    with os.scandir(root) as entries:
        folders = [(-entry.stat().st_mtime_ns, entry.name) for entry in entries if _is_workflow(entry)]
    folders.sort()
    rows = [(decode(name) or name, _count(os.path.join(root, name))) for _, name in folders[: html.MOST_ROWS]]
    line = f"{html.counted(len(folders), 'workflow')}; the catalog has not been asked yet, so files are counted"
    return html.page(title, root, line, html.table(("workflow", "files"), rows, len(folders) - len(rows)))


def _is_workflow(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.name[0] != "." and entry.is_dir()
    except OSError:  # a loop of links
        return False


def _count(folder: str) -> int | str:
    with os.scandir(folder) as entries:
        files = (1 for entry in entries if entry.name[0] != "." and entry.is_file(follow_symlinks=False))
        count = sum(itertools.islice(files, _MOST_FILES))
    return f"{count:,} or more" if count == _MOST_FILES else count


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _plain(text: Any) -> str:
    return from_text(text) if isinstance(text, str) else ""
