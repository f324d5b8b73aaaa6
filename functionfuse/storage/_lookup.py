"""Which file a name means, and which name a file: the encoded one first, then the raw one of the older format."""

from __future__ import annotations

from contextlib import suppress

from catalog.format import names
from catalog.store.base import Store
from functionfuse.errors import InvalidName
from functionfuse.storage import _blob


def checked(what: str, name: str) -> str:
    """Return a name, if it can be one."""
    if not isinstance(name, str) or not name:
        raise InvalidName(f"a {what} name has to be a string that is not empty, not {name!r}")
    return name


def encoded(what: str, name: str) -> str:
    """Return the file name under which a name is saved."""
    return names.encode(checked(what, name))


def candidates(what: str, name: str) -> tuple[str, ...]:
    """Return the file names under which a name may be kept."""
    return names.candidates(checked(what, name))


def find(store: Store, workflow_name: str, task_name: str) -> tuple[str, str]:
    """Return folder and file of a result, or where it would be saved."""
    if encoded("workflow", workflow_name) == workflow_name and encoded("task", task_name) == task_name:
        return workflow_name, task_name  # as nearly always
    folders = candidates("workflow", workflow_name)
    files = candidates("task", task_name)
    if len(files) + len(folders) > 2:
        for folder in folders:
            for file in files:
                if store.stat(f"{folder}/{file}") is not None:
                    return folder, file
    return folders[0], files[0]


def stored(store: Store, workflow_name: str) -> dict[str, tuple[str, str]]:
    """Return folder and file of every result of a workflow, by its name."""
    return {
        _name_of(store, folder, file): (folder, file)
        for folder in reversed(candidates("workflow", workflow_name))
        for file in store.names(folder)
    }


def _name_of(store: Store, folder: str, file: str) -> str:
    if "%" not in file:
        return file
    name = names.decode(file)
    if name is None:
        name = file
        with suppress(FileNotFoundError), store.open(f"{folder}/{file}") as source:  # removed since
            record = _blob.peek_record(source)
            name = names.from_text(record.task) if record else file
    return name
