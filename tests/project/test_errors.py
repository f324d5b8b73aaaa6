"""One family of exceptions: whatever is asked, of whatever is broken, everything that is raised is of it."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import catalog.errors
import functionfuse.errors
from catalog import Catalog
from catalog.store import retry as patience
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.backends.builtin.rayback import RayWorkflow
from functionfuse.errors import FunctionFuseError, InvalidArgument, StorageError, StorageUnusable
from functionfuse.storage import storage_factory
from functionfuse.storage.base import Storage
from functionfuse.storage.rayfilestorage import FileStorage as RayFileStorage
from functionfuse.testing import Note, NoteSerializer


def classes() -> list[type[Exception]]:
    """Return all classes of exceptions of both packages."""
    found = [
        kind
        for module in (functionfuse.errors, catalog.errors)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception) and not issubclass(kind, Warning)
    ]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_all_classes_are_of_the_family_and_pickle(kind: type[Exception]) -> None:
    """Every exception derives from the one base, comes through pickle as it was, and says the same."""
    assert issubclass(kind, FunctionFuseError)
    for error in (kind(3), kind(13, "why")) if issubclass(kind, OSError) else (kind(3),):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is kind
        assert (str(copy), copy.args, vars(copy)) == (str(error), error.args, vars(error))


def test_a_number_is_shown_where_there_is_one() -> None:
    """A bucket's errors have no number of the system, and none is shown."""
    assert str(StorageUnusable(13, "why")) == "[Errno 13] why"
    assert str(StorageUnusable(None, "why")) == str(StorageUnusable("why")) == "why"


# What is asked


@workflow
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def run(storage: Storage, number: int = 1, **options: Any) -> Any:
    """Run a workflow of one node whose result is stored, if all is well."""
    graph = LocalWorkflow(add(number, 2).set_name("t"), workflow_name="w", **options)
    graph.set_storage(storage)
    return graph.run()


def collect(storage: Storage) -> None:
    """Remove what there is."""
    storage.gc(keep_last=0, older_than="0s", dry_run=False)


#: Each public method of a storage, by its name; those that cannot fail for its sake take part all the same.
OF_STORAGES: Mapping[str, Callable[[Storage], Any]] = {
    "file_exists": lambda storage: storage.file_exists("w", "t"),
    "gc": lambda storage: storage.gc(keep_last=1),
    "have_serializers": lambda storage: storage.have_serializers(),
    "list_tasks": lambda storage: storage.list_tasks("w"),
    "new_workflow": lambda storage: storage.new_workflow("new"),
    "pin": lambda storage: storage.pin("w", "t"),
    "read_task": lambda storage: storage.read_task("w", "t"),
    "register_default_serializers": lambda storage: storage.register_default_serializers(),
    "register_persistent_serializers": lambda storage: storage.register_persistent_serializers(NoteSerializer),
    "save": lambda storage: storage.save("w", "t", 1),
    "unpin": lambda storage: storage.unpin("w", "t"),
    "verify": lambda storage: storage.verify(),
    # Of these a folder by its older name is looked for, too, and several results are touched.
    "file_exists of an odd name": lambda storage: storage.file_exists("w?", "t?"),
    "save of a note": lambda storage: storage.save("w", "note", Note("n")),
    "read of a note": lambda storage: storage.read_task("w", "note"),
    "verify with repair": lambda storage: storage.verify(repair=True),
    "gc of all": collect,
    "run": run,
    "run of what is stale": lambda storage: run(storage, 2, on_stale="recompute"),
    "remove_task": lambda storage: storage.remove_task("w", "t"),
    "remove_task by a pattern": lambda storage: storage.remove_task("w", pattern="*"),
    "remove_workflow": lambda storage: storage.remove_workflow("w"),
}
#: Each public method of a catalog.
OF_CATALOGS: Mapping[str, Callable[[Catalog], Any]] = {
    "compact": lambda asked: asked.compact(),
    "events": lambda asked: asked.events().fetchall(),
    "exists": lambda asked: asked.exists(),
    "expired": lambda asked: asked.expired(keep_last=1).fetchall(),
    "export": lambda asked: asked.export(os.path.join(tempfile.gettempdir(), "absent", "out.parquet")),
    "names": lambda asked: asked.names("w"),
    "rebuild": lambda asked: asked.rebuild(),
    "refresh": lambda asked: asked.refresh(),
    "runs": lambda asked: asked.runs().fetchall(),
    "sql": lambda asked: asked.sql("SELECT count(*) FROM tasks").fetchall(),
    "task": lambda asked: asked.task("w", "t"),
    "tasks": lambda asked: asked.tasks().fetchall(),
    "verify": lambda asked: asked.verify(),
}


@pytest.mark.parametrize("kind", [Storage, RayFileStorage, Catalog])
def test_all_public_methods_are_asked(kind: type) -> None:
    """No public method is left out of the tables above."""
    hidden = set(Storage.__dir__(Storage.__new__(Storage))) if issubclass(kind, Storage) else set(dir(kind))
    public = {name for name in dir(kind) if name[0] != "_" and callable(getattr(kind, name)) and name in hidden}
    known = OF_CATALOGS if kind is Catalog else OF_STORAGES
    assert public - {"open"} - known.keys() == set()


def heard(storage: Storage) -> list[list[Any]]:
    """Ask all of a storage and of its catalog, and return who raised what that should not be."""
    found = []
    for of, asked, table in (("storage", storage, OF_STORAGES), ("catalog", storage.catalog, OF_CATALOGS)):
        for name, ask in table.items():
            try:
                ask(asked)  # type: ignore[operator]  # each table goes with what is asked
            except Exception as error:
                wanted: Any = StorageError if of == "storage" else FunctionFuseError
                copy = pickle.loads(pickle.dumps(error))
                if not isinstance(error, wanted) or str(copy) != str(error) or type(copy) is not type(error):
                    found.append([f"{of}.{name}", type(error).__name__, str(error)])
    return found


# Folders

PROGRAM = """
import json, os, sys
import duckdb, pyarrow.compute, pyarrow.dataset, pyarrow.parquet, zoneinfo
import catalog.catalog
from test_errors import heard, storage_factory

if os.geteuid() == 0:  # all is imported: where the package lies, another user may have no way
    os.setgroups([]), os.setgid(65533), os.setuid(65533)
os.environ["HOME"], places = sys.argv[1], sys.argv[2:]
found = {}
for place in places:
    storage = storage_factory({"kind": "file", "options": {"path": place}})
    found[os.path.basename(os.path.dirname(place))] = heard(storage)
print(json.dumps(found))
"""


def damaged_parquet(root: Path) -> None:
    """Put a file into the journal that is no Parquet."""
    (root / ".catalog" / "journal" / "01a2131c-3b39-7000-9239-6ae8989e83dd.parquet").write_bytes(b"PAR1")


def in_place_of(*names: str) -> Callable[[Path], None]:
    """Return what puts a file in place of a folder."""

    def put(root: Path) -> None:
        for name in names:
            shutil.rmtree(root / name)
            (root / name).write_text("a file")

    return put


def folder_in_place_of(name: str) -> Callable[[Path], None]:
    """Return what puts a folder in place of a file."""

    def put(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        (root / name / "inside").mkdir(parents=True)

    return put


def written(name: str, text: str) -> Callable[[Path], None]:
    """Return what writes a file."""
    return lambda root: (root / name).write_text(text) and None


def mode(mode: str, name: str = ".") -> Callable[[Path], None]:
    """Return what changes permissions."""
    return lambda root: subprocess.run(["chmod", "-R", mode, root / name], check=True) and None


TROUBLES: Mapping[str, Callable[[Path], None]] = {
    "none": lambda root: None,
    "nothing there": lambda root: shutil.rmtree(root),
    "read only": mode("a-w"),
    "not to be searched": mode("a-x"),
    "nothing allowed": mode("a-rwx"),
    "catalog not allowed": mode("a-rwx", ".catalog"),
    "journal not allowed": mode("a-rwx", ".catalog/journal"),
    "workflow not allowed": mode("a-rwx", "w"),
    "workflow not to be listed": mode("a-r", "w"),
    "result not allowed": mode("a-rwx", "w/t"),
    "file in place of the catalog": in_place_of(".catalog"),
    "file in place of the journal": in_place_of(".catalog/journal"),
    "file in place of the workflow": in_place_of("w"),
    "folder in place of the result": folder_in_place_of("w/t"),
    "folder in place of the index": folder_in_place_of(".catalog/catalog.duckdb"),
    "folder in place of the identity": folder_in_place_of(".catalog/storage.json"),
    "newer storage": written(".catalog/storage.json", '{"uuid": "018e0000-0000-7000-8000-000000000001", "format": 9}'),
    "strange identity": written(".catalog/storage.json", "no JSON"),
    "damaged Parquet": damaged_parquet,
    "damaged result": written("w/t", "no pickle"),
}


def test_whatever_is_wrong_with_a_folder(open_place: Path) -> None:
    """By whatever is wrong in a folder, all public methods raise what is of the family, and it comes through pickle."""
    for trouble, make in TROUBLES.items():
        root = open_place / trouble / "results"
        storage = storage_factory({"kind": "file", "options": {"path": str(root)}})
        storage.register_persistent_serializers(NoteSerializer)
        run(storage)
        storage.save("w", "note", Note("n"))
        storage.list_tasks("w")
        subprocess.run(["chmod", "-R", "a+rwX", open_place / trouble], check=True)
        make(root)
    home = open_place / "home"
    home.mkdir()
    home.chmod(0o777)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parents[1] / "support"))),
    }
    environment.pop("XDG_CACHE_HOME", None)
    roots = [str(open_place / trouble / "results") for trouble in TROUBLES]
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(home), *roots], env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert [f"{trouble}: {said}" for trouble in TROUBLES for said in found.pop(trouble)] == []
    assert found == {}


# Elsewhere


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try what may pass once more, and no longer."""
    for name in ("FIRST_PATIENCE", "PATIENCE"):
        monkeypatch.setattr(patience, name, 0.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("trouble", ["no server", "no bucket", "wrong secret", "no credentials", "reader", "none"])
def test_whatever_is_wrong_with_a_bucket(s3server: Any, trouble: str) -> None:
    """By whatever is wrong with a bucket, all public methods raise what is of the family."""
    path = s3server.endpoint.prefix()
    run(storage_factory(s3server.endpoint.config(path)))
    endpoint = s3server.reader if trouble == "reader" else s3server.endpoint
    config = endpoint.config("/no-such-bucket/x" if trouble == "no bucket" else path)
    options = config["options"]["s3fs"]
    if trouble == "no server":
        options["endpoint_url"] = "http://127.0.0.1:9"
    if trouble == "wrong secret":
        options["secret"] = "wrong"
    if trouble == "no credentials":
        del options["key"], options["secret"]
    assert heard(storage_factory(config)) == []


@pytest.mark.parametrize("url", ["local://{}/file/below", "local://{}/new", "memory://errors"])
def test_whatever_is_wrong_under_a_url(tmp_path: Path, url: str) -> None:
    """The same under a URL that fsspec reaches: below a file, and where all is well."""
    (tmp_path / "file").touch()
    assert heard(storage_factory({"kind": "fsspec", "options": {"url": url.format(tmp_path)}})) == []


# Arguments

NODE = add(1, 2)


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda: workflow(3), id="what cannot be called is decorated"),
        pytest.param(lambda: NODE[NODE], id="a node as a key"),
        pytest.param(lambda: LocalWorkflow(NODE, workflow_name="w", on_stale="no"), id="on_stale"),
        pytest.param(lambda: LocalWorkflow(NODE, workflow_name="w").set_storage("results"), id="set_storage"),
        pytest.param(lambda: LocalWorkflow(NODE, workflow_name="w").log_nodes("("), id="log_nodes"),
        pytest.param(lambda: LocalWorkflow(NODE, workflow_name="w").find_nodes("("), id="find_nodes"),
        pytest.param(lambda: LocalWorkflow(NODE, workflow_name="w").run(recompute="("), id="recompute"),
        pytest.param(lambda: LocalWorkflow(NODE, workflow_name="w").replace_func(NODE, 3), id="replace_func"),
        pytest.param(lambda: LocalWorkflow(NODE, workflow_name="w").replace_func(add(1, 1), add), id="no node of it"),
        pytest.param(lambda: RayWorkflow(NODE, workflow_name="w", ray_init_args=3), id="ray_init_args"),
        pytest.param(lambda: RayWorkflow(NODE, workflow_name="w").query().set_remote_args(3), id="remote arguments"),
        pytest.param(lambda: RayWorkflow(NODE, workflow_name="w").query().set_plugin(3), id="a plugin"),
        pytest.param(lambda: RayWorkflow(NODE, workflow_name="w").run(max_pending_tasks=-1), id="max_pending_tasks"),
        pytest.param(lambda: memory().remove_task("w"), id="neither task nor pattern"),
        pytest.param(lambda: memory().remove_task("w", pattern=3), id="a pattern"),
        pytest.param(lambda: memory().register_persistent_serializers(int), id="a serializer"),
    ],
)
def test_a_wrong_argument_is_of_the_family(ask: Callable[[], Any]) -> None:
    """What a function does not take is an InvalidArgument, and so the ValueError or TypeError that callers expect."""
    with pytest.raises(InvalidArgument) as caught:
        ask()
    assert isinstance(caught.value, FunctionFuseError)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda: LocalWorkflow(workflow_name="w"), id="no leaf"),
        pytest.param(lambda: LocalWorkflow(3, workflow_name="w"), id="a leaf that is none"),
        pytest.param(lambda: LocalWorkflow(NODE, workflow_name=""), id="a name"),
        pytest.param(lambda: LocalWorkflow(NODE, add(1, 2).set_name("add_0000"), workflow_name="w").run(), id="twice"),
        pytest.param(lambda: NODE.set_name(3), id="set_name"),
        pytest.param(lambda: add(3, 4).result, id="not run"),
        pytest.param(lambda: LocalWorkflow(NODE, workflow_name="w").run(recompute="no"), id="no such node"),
        pytest.param(lambda: storage_factory({"kind": "no"}), id="a kind"),
        pytest.param(lambda: memory().save("", "t", 1), id="a workflow's name"),
        pytest.param(lambda: memory().list_tasks("w", since="no"), id="a date"),
        pytest.param(lambda: memory().gc(older_than="no"), id="an age"),
        pytest.param(lambda: memory().gc(), id="no condition"),
        pytest.param(lambda: Catalog("absent", index="no"), id="an index"),  # type: ignore[arg-type]
        pytest.param(lambda: Catalog("absent").names("w"), id="no storage"),
        pytest.param(lambda: memory().catalog.sql("no"), id="SQL"),
        pytest.param(lambda: memory().catalog.task("w", "no"), id="a task"),
    ],
)
def test_other_mistakes_are_of_the_family(ask: Callable[[], Any]) -> None:
    """Mistakes of other kinds have classes of their own, of the same family."""
    with pytest.raises(FunctionFuseError):
        ask()


def memory() -> Storage:
    """Return a storage in memory."""
    storage = storage_factory({"kind": "fsspec", "options": {"url": "memory://mistakes"}})
    storage.save("w", "t", 1)
    return storage
