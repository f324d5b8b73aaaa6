"""The page on formats is enough to write a second reader: the one that it holds agrees with the library.

The reader runs in a bare interpreter, which finds neither the library nor any other package.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.format import ids, names
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import Note, NoteSerializer
from snippets import first_below
from tests.fixtures.make_format_1 import EVENTS, FIELD, FOLDER, RESULTS
from tests.storage.test_older_format import older

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
NAMES, BLOB, JOURNAL = (first_below(PAGE, heading) for heading in ("Names", "The blob", "The journal"))

# What the reader is asked. A result that needs a package is told by its buffers.
QUESTIONS = """
import sys


def value(path):
    try:
        return ascii(read_blob(path)[1])
    except ModuleNotFoundError:
        return [hashlib.sha256(buffer).hexdigest() for buffer in parts(path)[2]]


def sides(path):
    return {str(side.relative_to(sys.argv[1])): size for side, size in side_files(path).items()}


found = results(sys.argv[1])
answers = {
    "results": [[*name, value(path), parts(path)[0], sides(path)] for name, path in found.items()],
    "history": history(sys.argv[1]),
    "packages": sorted({name.partition(".")[0] for name in sys.modules} - {"__main__"} - sys.stdlib_module_names),
}
print(json.dumps(answers))
"""

AWKWARD = [
    *("../../up", "a/b", ".hidden", ".", "..", "bigdata", "line\nbreak", "tab\t", "%41", "100% sure", "%~", "a b"),
    *("\u00fcn\u00efcode \U0001f9ea", "x" * 300, "\u00fc" * 200, "/" * 120, "%" * 100, "[a-c]*?", "caf\udce9"),
    *("\ud800 alone", "the mark \U0010f8ff", "the mark \U0010f8ff00d800 and digits", "\x7f", "CON", " "),
]


class Framed:
    """Pickles as bytes that leave the stream, and needs no package to be read."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Return the call that makes the bytes."""
        return bytes, (pickle.PickleBuffer(self.data),)


def ask(root: Path, tmp_path: Path) -> dict[str, Any]:
    """Return what the page's reader says of a storage."""
    script = tmp_path / "reader.py"
    script.write_text(NAMES + BLOB + JOURNAL + QUESTIONS, encoding="utf-8")
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-W", "error", str(script), str(root)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    answers: dict[str, Any] = json.loads(run.stdout)
    assert answers.pop("packages") == []
    return answers


def values(answers: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """Return what the reader says of every result's value."""
    return {(workflow, task): value for workflow, task, value, *_ in answers["results"]}


def listed(storage: FileStorage) -> set[tuple[str, str]]:
    """Return the names of all results, by the library."""
    rows = storage.catalog.sql("SELECT DISTINCT workflow FROM tasks").fetchall()
    workflows = [names.from_text(workflow) for (workflow,) in rows]
    return {(workflow, task) for workflow in workflows for task in storage.list_tasks(workflow)}


def happened(storage: FileStorage) -> list[tuple[str, str, str, str | None]]:
    """Return the events that the journal has, by the library."""
    query = """SELECT event_id::VARCHAR, event, workflow, task FROM events
    WHERE format IS DISTINCT FROM 0 ORDER BY event_id"""
    return storage.catalog.sql(query).fetchall()


def told(answers: dict[str, Any]) -> list[tuple[str, str, str, str | None]]:
    """Return the same by the reader."""
    return [
        (event.get("event_id") or event["blob_id"], event["event"], event["workflow"], event.get("task"))
        for event in answers["history"]
        if event.get("format") != 0
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder of the storage."""
    return tmp_path / "storage"


@pytest.fixture
def storage(root: Path) -> FileStorage:
    """Return an empty storage."""
    return FileStorage(root)


def test_results_of_all_kinds(storage: FileStorage, root: Path, tmp_path: Path) -> None:
    """Values, large ones too, come back as they were saved, and so does all that the catalog says of them."""
    results = {
        "none": None,
        "number": 0.1,
        "text": "caf\udce9",
        "nested": {"a": [1, (2, {3})]},
        "bytes": b"\0" * 70_000,
    }
    for name, value in results.items():
        storage.save("kinds", name, value)
    frames = [random.Random(size).randbytes(size) for size in (100_000, 65_536)]  # which are not compressed
    storage.save("kinds", "framed", [Framed(frames[0]), "between", Framed(frames[1])])
    field = numpy.random.default_rng(0).random(20_000)
    storage.save("kinds", "array", {"field": field, "small": numpy.arange(3)})
    answers = ask(root, tmp_path)
    expected = {name: ascii(value) for name, value in results.items()}
    expected["framed"] = ascii([frames[0], "between", frames[1]])
    expected["array"] = [hashlib.sha256(field.tobytes()).hexdigest()]
    assert values(answers) == {("kinds", name): value for name, value in expected.items()}
    columns = ("blob_id::VARCHAR", "checksum", "type", '"user"', "pid", "strftime(saved_at, '%Y-%m-%dT%H:%M:%S.%fZ')")
    rows = storage.catalog.sql(f"SELECT task, {', '.join(columns)} FROM tasks").fetchall()
    keys = ("blob_id", "checksum", "type", "user", "pid", "saved_at")
    assert sorted(rows) == sorted((task, *map(record.get, keys)) for _, task, _, record, _ in answers["results"])


def test_a_small_result_is_a_plain_pickle(storage: FileStorage, root: Path) -> None:
    """`pickle.load` at offset 0 reads a result without buffers and without serializers, and stops before the footer."""
    storage.save("plain", "small", {"answer": [42]})
    with open(root / "plain" / "small", "rb") as file:
        assert pickle.load(file) == {"answer": [42]}


def test_side_files(storage: FileStorage, root: Path, tmp_path: Path) -> None:
    """A blob declares its side files with their places and sizes, and what stands for them in the result."""
    storage.register_persistent_serializers(NoteSerializer)
    storage.save("sided", "notes", [Note("one"), Note("the other"), 3])
    storage.save("sided", "none", 3)
    answers = ask(root, tmp_path)
    ((*_, sides),) = [row for row in answers["results"] if row[1] == "notes"]
    assert {path: (root / path).stat().st_size for path in sides} == sides
    assert {(root / path).read_text() for path in sides} == {"one", "the other"}
    (one, other, number) = ast.literal_eval(values(answers)["sided", "notes"])
    assert {one[0], other[0], number} == {"NoteSerializer", 3}
    assert {one[1], other[1]} == {Path(path).name for path in sides}


def test_awkward_names(storage: FileStorage, root: Path, tmp_path: Path) -> None:
    """Names that no file system takes, that were cut, or are no Unicode, come back exactly."""
    for name in AWKWARD:
        storage.save("awkward", name, 1)
        storage.save(name, "task", 2)
    answers = ask(root, tmp_path)
    expected = {**{("awkward", name): "1" for name in AWKWARD}, **{(name, "task"): "2" for name in AWKWARD}}
    assert values(answers) == expected
    assert listed(storage) == set(expected)
    assert told(answers) == happened(storage)


def test_a_renamed_blob(storage: FileStorage, root: Path, tmp_path: Path) -> None:
    """A blob that was renamed by hand goes by its new name."""
    storage.save("moved", "old", 1)
    (root / "moved" / "old").rename(root / "moved" / "a%2Fb")
    assert values(ask(root, tmp_path)) == {("moved", "a/b"): "1"}
    assert listed(storage) == {("moved", "a/b")}


def test_history(storage: FileStorage, root: Path, tmp_path: Path) -> None:
    """Overwriting, removing, runs and failures are told as the catalog tells them."""

    @workflow
    def invert(number: float) -> float:
        return 1 / number

    graph = LocalWorkflow(invert(2), invert(0), workflow_name="inverses")
    graph.set_storage(storage)
    with pytest.raises(ZeroDivisionError):
        graph.run()
    for value in range(3):
        storage.save("kept", "overwritten", value)
    storage.save("kept", "removed", 1)
    storage.remove_task("kept", "removed")
    storage.save("gone", "task", 1)
    storage.remove_workflow("gone")
    answers = ask(root, tmp_path)
    kinds = [event for _, event, *_ in told(answers)]
    assert kinds == ["run-started", "save", "task-failed", "run-finished", *["save"] * 4, "remove", "save", "remove"]
    assert told(answers) == happened(storage)
    assert set(values(answers)) == listed(storage)
    assert values(answers)["kept", "overwritten"] == "2"


def test_what_a_killed_writer_announced(storage: FileStorage, root: Path, tmp_path: Path) -> None:
    """The last line of a segment counts only if the blob shows that it was carried out."""
    storage.save("kept", "task", 1)
    (segment,) = (root / ".catalog" / "journal").iterdir()
    line = json.loads(segment.read_bytes())
    never = {**line, "blob_id": ids.new_id(), "replaces": line["blob_id"]}
    removal = {**line, "event": "remove", "event_id": ids.new_id(), "time": line["saved_at"]}
    removal["replaces"] = line["blob_id"]
    for event in (never, removal):
        path = segment.with_name(f"{ids.new_id()}.ndjson")
        path.write_text(json.dumps(event) + "\n" + json.dumps(line)[:100], encoding="ascii")
    answers = ask(root, tmp_path)
    assert told(answers) == happened(storage) == [(line["blob_id"], "save", "kept", "task")]
    (root / "kept" / "task").unlink()
    assert [event for _, event, *_ in told(ask(root, tmp_path))] == ["save", "remove"]
    assert [event for _, event, *_ in happened(storage)] == ["save", "remove"]


def test_damaged_lines(storage: FileStorage, root: Path, tmp_path: Path) -> None:
    """Lines that are no events are passed over."""
    storage.save("kept", "before", 1)
    (segment,) = (root / ".catalog" / "journal").iterdir()
    with open(segment, "ab") as file:
        file.write(b'{"event":"save","blob_id":"torn\n\xff\xfe\n5\n{}\n\n')
    storage.save("kept", "after", 2)
    answers = ask(root, tmp_path)
    assert [task for *_, task in told(answers)] == ["before", "after"]
    assert told(answers) == happened(storage)


def test_the_older_format(storage: FileStorage, root: Path, tmp_path: Path) -> None:
    """Files of the older format are read, under the name as it was kept, unless the same name was saved since."""
    (root / "old").mkdir(parents=True)
    for name in ("plain", "100% sure", "overwritten"):
        (root / "old" / name).write_bytes(older([name]))
    (root / "old" / "notes.txt").write_text("no result")
    storage.save("old", "overwritten", "new")
    answers = ask(root, tmp_path)
    assert values(answers) == {
        ("old", "plain"): "['plain']",
        ("old", "100% sure"): "['100% sure']",
        ("old", "overwritten"): "'new'",
    }
    assert listed(storage) == set(values(answers))


def test_the_fixtures(root: Path, tmp_path: Path) -> None:
    """The storage of format 1 that is kept as bytes is read by the page, too."""
    shutil.copytree(FOLDER, root)
    answers = ask(root, tmp_path)
    read = values(answers)
    plain = {name: value for name, value in RESULTS.items() if name != ("values", "notes")}
    assert {name: read[name] for name in plain} == {name: ascii(value) for name, value in plain.items()}
    assert read["values", "field"] == [hashlib.sha256(FIELD.tobytes()).hexdigest()]
    assert len(read) == len(RESULTS) + 2
    assert [event for _, event, workflow, _ in told(answers) if workflow == "history"] == EVENTS
    assert told(answers) == happened(FileStorage(root))


def test_a_newer_format_is_refused(storage: FileStorage, root: Path, tmp_path: Path) -> None:
    """The version stands where the page says, and a greater one ends the reader."""
    storage.save("kept", "task", 1)
    path = root / "kept" / "task"
    data = bytearray(path.read_bytes())
    assert int.from_bytes(data[-20:-18], "little") == 3
    data[-20] = 4
    path.write_bytes(data)
    with pytest.raises(AssertionError, match=r"RuntimeError: .*newer version"):
        ask(root, tmp_path)


@pytest.fixture(scope="module")
def encoding() -> dict[str, Any]:
    """Return the page's functions for names and blobs."""
    namespace: dict[str, Any] = {}
    exec(compile(NAMES + BLOB, "formats.md", "exec"), namespace)
    return namespace


ANY_NAME = st.text(st.characters() | st.sampled_from("./%~\x00\x7f\U0010f8ff0aA") | st.characters(categories=["Cs"]))


@given(name=ANY_NAME.filter(bool), repeated=st.sampled_from([1, 1, 30, 90]))
def test_names(encoding: dict[str, Any], name: str, repeated: int) -> None:
    """The page encodes and decodes any name as the library does."""
    name *= repeated
    file_name = encoding["encode"](name)
    assert file_name == names.encode(name)
    assert encoding["decode"](file_name) == names.decode(file_name)
    assert encoding["unescape"](names.to_text(name)) == name
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return
    assert encoding["decode"](name) == names.decode(name)


def test_compressed_buffers(encoding: dict[str, Any], storage: FileStorage, root: Path, tmp_path: Path) -> None:
    """Compressed buffers come back whole, and one who has no zstandard still reads all that the footer says."""
    arrays = [numpy.arange(300_000), numpy.random.default_rng(0).random(20_000), numpy.zeros(100_000, "u1")]
    storage.save("kinds", "packed", arrays)
    record, found = encoding["read_blob"](root / "kinds" / "packed")
    for one, other in zip(found, arrays, strict=True):
        numpy.testing.assert_array_equal(one, other)
    assert [len(place) for place in record["buffers"]] == [6, 2, 6]
    ((*_, told_record, _),) = ask(root, tmp_path)["results"]
    assert told_record == record
    sizes = storage.catalog.sql("SELECT format, size, logical_size FROM tasks").fetchall()
    size = (root / "kinds" / "packed").stat().st_size
    saved = sum(place[2] - place[1] for place in record["buffers"] if len(place) == 6)
    assert sizes == [(3, size, size + saved)]
