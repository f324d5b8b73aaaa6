"""Which file a name means, and which name a file: the encoded one first, then the raw one of the older format."""

from __future__ import annotations

from contextlib import suppress

from catalog.format import names
from functionfuse.errors import InvalidName
from functionfuse.storage import _blob
from functionfuse.storage._place import Place


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


def find(place: Place, workflow_name: str, task_name: str) -> tuple[str, str]:
    """Return folder and file of a result, or where it would be saved."""
    if encoded("workflow", workflow_name) == workflow_name and encoded("task", task_name) == task_name:
        return workflow_name, task_name  # as nearly always
    folders = candidates("workflow", workflow_name)
    files = candidates("task", task_name)
    if len(files) + len(folders) > 2:
        for folder in folders:
            for file in files:
                if place.exists(folder, file):
                    return folder, file
    return folders[0], files[0]


def stored(place: Place, workflow_name: str) -> dict[str, tuple[str, str]]:
    """Return folder and file of every result of a workflow, by its name."""
    return {
        _name_of(place, folder, file): (folder, file)
        for folder in reversed(candidates("workflow", workflow_name))
        for file in place.files(folder)
    }


def _name_of(place: Place, folder: str, file: str) -> str:
    if "%" not in file:
        return file
    name = names.decode(file)
    if name is None:
        name = file
        with suppress(FileNotFoundError), place.open(folder, file) as source:  # removed since
            record = _blob.peek_record(source)
            name = names.from_text(record.task) if record else file
    return name
