"""What a run makes of code and inputs: files, what an author declares, state, what is unknown, other versions."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from functionfuse import File, workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import InputChanged, InvalidArgument, StaleResult
from functionfuse.storage.filestorage import FileStorage


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """Return an empty storage."""
    return FileStorage(str(tmp_path / "store"))


def run(storage: FileStorage, *leaves: Any, on_stale: str = "error") -> list[Any]:
    """Run a workflow and return its results."""
    flow = LocalWorkflow(*leaves, workflow_name="flow", on_stale=on_stale)  # type: ignore[arg-type]  # a mode's name
    flow.set_storage(storage)
    result = flow.run()
    return list(result) if len(leaves) > 1 else [result]


def record(storage: FileStorage, name: str = "n") -> Any:
    """Return what a blob says of itself."""
    footer = storage.footer("flow", name)
    assert footer is not None
    return footer.record


def made(source: str, **scope: Any) -> Callable[..., Any]:
    """Return the function `f` of a module, decorated."""
    module = {"__name__": "lab", "workflow": workflow, **scope}
    exec(source, module)
    function = module["f"]
    return function if hasattr(function, "__wrapped__") else workflow(function)


def refusal(storage: FileStorage, node: Any) -> str:
    """Return why the result of a node is stale."""
    with pytest.raises(StaleResult) as caught:
        run(storage, node)
    return str(caught.value)


# What has changed, by name


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def g(x): return x + @@\ndef f(x): return g(x)", "lab.g has changed"),
        ("def h(x): return x + @@\ndef g(x): return h(x)\ndef f(x): return g(x)", "lab.h has changed"),
        ("class C:\n    def m(s, x): return x + @@\ndef f(x): return C().m(x)", "lab.C.m has changed"),
        ("K = @@\ndef f(x): return x + K", "lab.K was 1 and is 2"),
        ("K = [@@]\ndef f(x): return x + K[0]", "lab.K has changed"),
        ("class C:\n    k = @@\ndef f(x): return C.k", "lab.C.k was 1 and is 2"),
        ("def g(x, k=@@): return x + k\ndef f(x): return g(x)", "lab.g.k was 1 and is 2"),
        ("def f(x): return x + @@", "its function has changed"),
        ("def g(x): return x\ndef f(x): return g(x) + @@", "its function has changed"),
    ],
)
def test_what_has_changed_is_named(storage: FileStorage, source: str, said: str) -> None:
    """A helper, a global and a class attribute are named, values with what they were and are."""
    before, after = (made(source.replace("@@", text))(1).set_name("n") for text in ("1", "2"))
    run(storage, before)
    assert f"'n': {said}." in refusal(storage, after)


def test_the_package_that_is_used_is_recorded(storage: FileStorage) -> None:
    """Installed packages are recorded with their version, and make nothing stale."""
    import numpy as np

    run(storage, made("import numpy\ndef f(x): return float(numpy.sqrt(x))")(4).set_name("n"))
    assert record(storage).code.packages == {"numpy": np.__version__}


# State and what is unknown


def test_state_is_no_alarm_and_no_proof(storage: FileStorage, caplog: pytest.LogCaptureFixture) -> None:
    """A global that changes while a run goes on is listed; what else is known still tells what is stale."""
    source = "SEEN = []\ndef f(x):\n    SEEN.append(x)\n    return x + @@"
    function = made(source.replace("@@", "1"))
    run(storage, function(1).set_name("n"))
    with caplog.at_level(logging.INFO, "functionfuse.run"):
        assert run(storage, function(1).set_name("n")) == [2]
    assert "no fingerprint" in caplog.text
    run(storage, function(1).set_name("other"))
    assert record(storage, "other").lineage is None
    assert record(storage, "other").code.unknown == ("lab.SEEN",)
    assert "argument 'x' was 1 and is 2" in refusal(storage, function(2).set_name("n"))
    assert "its function has changed" in refusal(storage, made(source.replace("@@", "2"))(1).set_name("n"))
    # An ancestor's argument is told, too.
    after = workflow(lambda x: x)
    run(storage, after([function(1).set_name("top")]).set_name("leaf"))
    assert run(storage, after([function(1).set_name("top")]).set_name("leaf")) == [[2]]
    assert "that it was computed from" in refusal(storage, after([function(3).set_name("top")]).set_name("leaf"))


def test_what_has_no_fingerprint_is_listed(storage: FileStorage) -> None:
    """A lock among the globals and one as an argument leave no lineage, and are named."""
    source = "def f(x, lock):\n    with LOCK: return x"
    for _ in range(2):
        node = made(source, LOCK=threading.Lock())(1, threading.Lock()).set_name("n")
        assert run(storage, node) == [1]
    assert (record(storage).lineage, record(storage).code_fingerprint) == (None, None)
    assert record(storage).code.unknown == ("lab.LOCK", "lock")
    changed = made(source.replace("return x", "return -x"), LOCK=threading.Lock())(1, threading.Lock())
    assert "its function has changed" in refusal(storage, changed.set_name("n"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("functionfuse.backends._provenance.SCHEME", "older"),
        ("functionfuse.backends._provenance._PYTHON", "py3.9"),
    ],
)
def test_what_another_version_made_is_unknown(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str, value: str
) -> None:
    """After an upgrade nothing is stale and nothing is computed: one notice a run says that nobody knows."""
    with monkeypatch.context() as older:
        older.setattr(path, value)
        if not path.endswith("SCHEME"):
            older.setattr("functionfuse.fingerprint._closure.PYTHON", value)
        run(storage, *(made("def f(x): return x")(number).set_name(f"n{number}") for number in range(3)))
    changed = [made("def f(x): return -x")(number).set_name(f"n{number}") for number in range(3)]
    for mode in ("error", "recompute", "warn"):
        caplog.clear()
        assert run(storage, *changed, on_stale=mode) == [0, 1, 2]
        notices = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
        assert len(notices) == 1
        assert notices[0].startswith("3 results")


# Files


@workflow
def read(path: str) -> str:
    """Return what a file holds."""
    with open(path) as file:
        return file.read()


def test_a_file_counts_by_its_content(storage: FileStorage, tmp_path: Path) -> None:
    """Another content is stale; another name or another time is not."""
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    one.write_text("a")
    other.write_text("a")
    assert run(storage, read(File(one)).set_name("n")) == ["a"]
    os.utime(one, (1, 1))
    assert run(storage, read(File(one)).set_name("n")) == ["a"]
    assert run(storage, read(File(other)).set_name("n")) == ["a"]
    one.write_text("b")
    assert "argument 'path'" in refusal(storage, read(File(one)).set_name("n"))
    assert "argument 'paths'" not in str(run(storage, read(File(one)).set_name("n"), on_stale="recompute"))


def test_a_file_that_changes_in_the_run_is_an_error(storage: FileStorage, tmp_path: Path) -> None:
    """What was planned for one content is not computed from another."""
    data = tmp_path / "in.csv"
    data.write_text("a")

    @workflow
    def overwrite(text: str) -> str:
        data.write_text(text)
        return text

    @workflow
    def after(first: str, path: str) -> str:
        return Path(path).read_text()

    with pytest.raises(InputChanged, match=r"in\.csv"):
        run(storage, after(overwrite("bb"), File(data)).set_name("n"))


def test_a_file_that_is_not_there_is_unknown(storage: FileStorage, tmp_path: Path) -> None:
    """A file that the run itself makes has no content when the run is planned."""
    node = workflow(lambda path: str(path))(File(tmp_path / "missing")).set_name("n")
    run(storage, node)
    assert record(storage).inputs == {"path": None}


# What an author declares


def test_another_version_is_stale(storage: FileStorage) -> None:
    """What `version` says counts beside the code."""
    source = "@workflow(version=@@)\ndef f(x): return x"
    run(storage, made(source.replace("@@", "1"))(1).set_name("n"))
    run(storage, made(source.replace("@@", "1"))(1).set_name("n"))
    assert "version was 1 and is 2" in refusal(storage, made(source.replace("@@", "2"))(1).set_name("n"))


def test_ignored_arguments_do_not_count(storage: FileStorage) -> None:
    """An argument in `ignore` may change, and others may not."""

    @workflow(ignore=["n_jobs"])
    def fit(x: int, n_jobs: int = 1) -> int:
        return x

    run(storage, fit(1, n_jobs=2).set_name("n"))
    for node in (fit(1, 8), fit(1), fit(x=1, n_jobs=3)):
        assert run(storage, node.set_name("n")) == [1]
    assert record(storage).inputs == {"x": "1"}
    assert "argument 'x' was 1 and is 2" in refusal(storage, fit(2, 8).set_name("n"))


def test_what_it_depends_on_counts(storage: FileStorage, tmp_path: Path) -> None:
    """Functions, values and files in `depends` count."""
    data = tmp_path / "table.csv"

    def node(number: int, text: str) -> Any:
        data.write_text(text)
        source = f"def g(x): return x + {number}\n@workflow(depends=[g, DATA])\ndef f(x): return x"
        return made(source, DATA=File(data))(1).set_name("n")

    run(storage, node(1, "a"))
    run(storage, node(1, "a"))
    assert "g has changed" in refusal(storage, node(2, "a"))
    assert "table.csv" in refusal(storage, node(1, "b"))


def test_own_packages_are_looked_into(storage: FileStorage) -> None:
    """A module in `own` counts by its code though it is installed."""
    for declared, is_stale in (("", False), ("(own=['json'])", True)):
        source = f"@workflow{declared}\ndef f(x): return g(x)"
        nodes = []
        for number in (1, 2):
            helper: dict[str, Any] = {"__name__": "json.helper"}
            exec(f"def g(x): return x + {number}", helper)
            nodes.append(made(source, g=helper["g"])(1).set_name(f"n{is_stale}"))
        run(storage, nodes[0])
        if is_stale:
            assert "json.helper.g has changed" in refusal(storage, nodes[1])
        else:
            assert run(storage, nodes[1]) == [2]


def test_a_string_is_no_list() -> None:
    """`ignore="n_jobs"` would ignore six letters."""
    with pytest.raises(InvalidArgument, match="n_jobs"):
        workflow(ignore="n_jobs")
