"""The command line: what it prints for people and for programs, what it refuses, and that looking changes nothing."""

from __future__ import annotations

import csv
import io
import json
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import click
import pytest

import catalog.errors
import functionfuse.errors
from commands import MODULE, at_terminal, environment, lines, program, put_on_path, run
from functionfuse.cli import main
from functionfuse.storage.filestorage import FileStorage

OLDER = Path(__file__).parents[1] / "fixtures" / "older-format" / "study"
UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
ODD_NAMES = ["two\nlines", "a\ttab", "\x1b[31mred", 'quotes " and , commas', "ünïcode ⟨✓⟩", "lone \udc80", "[a-z]*?"]

# Each needs nothing but a storage, so that all can be pointed at what is none.
LOOKING = (
    ["ls"],
    ["ls", "--json"],
    ["show", "w", "t"],
    ["sql", "FROM tasks"],
    ["runs"],
    ["du"],
    ["export", "out.parquet"],
    ["verify"],
    ["rm", "w", "t", "--yes"],
    ["rm", "w", "--all", "--yes"],
    ["gc", "--keep-last", "0", "--yes"],
    ["pin", "w", "t"],
    ["unpin", "w", "t"],
    ["rebuild"],
    ["compact"],
)


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """Return a storage with a few results."""
    storage = FileStorage(tmp_path / "results")
    for number in range(3):
        storage.save("descent", f"rate={number}", {"loss": number / 4, "steps": [number]})
    storage.save("notes", "today", "x" * 2_000)
    return storage


@pytest.fixture
def root(storage: FileStorage) -> Path:
    """Return the folder of that storage."""
    return Path(storage.catalog.path)


def everything_in(folder: Path) -> dict[str, bytes | None]:
    """Return what is in a folder, with the content of its files."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


# Listing


def test_lines_in_a_pipe(storage: FileStorage, root: Path) -> None:
    """In a pipe there is one line a result, exact, with tabs, without colours and without a header."""
    size, saved_at = storage.catalog.sql("SELECT size, saved_at FROM tasks WHERE workflow = 'notes'").fetchall()[0]
    moment = saved_at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    assert lines("ls", root, "notes") == [["notes", "today", str(size), moment, "str"]]
    assert [line[1] for line in lines("ls", root, "descent")] == ["rate=0", "rate=1", "rate=2"]


def test_json(root: Path) -> None:
    """--json is one array of objects with every column: nested JSON as such, numbers as numbers, times with Z."""
    rows = json.loads(run("ls", root, "descent", "--json").stdout)
    assert [row["value"] for row in rows] == [{"loss": number / 4, "steps": [number]} for number in range(3)]
    first = rows[0]
    assert first["summary"] == {"length": 2, "keys": ["loss", "steps"]}
    assert (type(first["size"]), first["serializers"], first["run_id"]) == (int, ["pickle"], None)
    assert UTC_TIME.fullmatch(first["saved_at"])
    assert list(first) == FileStorage(root).catalog.tasks().columns


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_nothing_is_an_answer_too(root: Path, form: str) -> None:
    """A listing without a row is empty in every form, and no error."""
    printed = run("ls", root, "none", form)
    assert json.loads(printed.stdout) == [] if form == "--json" else printed.stdout.startswith("workflow,task,")
    assert printed.stderr == "nothing matches\n"
    assert lines("ls", root, "none") == []


def test_odd_names(tmp_path: Path) -> None:
    """Any name comes back from JSON exactly, and from CSV; a line keeps what would break it as an escape."""
    storage = FileStorage(tmp_path / "odd")
    for name in ODD_NAMES:
        storage.save("w", name, 1)
    assert sorted(row["task"] for row in json.loads(run("ls", tmp_path / "odd", "--json").stdout)) == sorted(ODD_NAMES)
    rows = list(csv.DictReader(io.StringIO(run("ls", tmp_path / "odd", "--csv").stdout)))
    escaped_by_csv = {name.replace("\udc80", r"\udc80") for name in ODD_NAMES}
    assert {row["task"] for row in rows} == escaped_by_csv
    listed = {fields[1] for fields in lines("ls", tmp_path / "odd")}
    assert listed >= {r"two\nlines", r"a\ttab", r"\x1b[31mred", "ünïcode ⟨✓⟩", r"lone \udc80"}


def test_csv_agrees_with_json(root: Path) -> None:
    """--csv has the same columns and values, nested ones as JSON."""
    wanted = json.loads(run("ls", root, "--json").stdout)
    rows = list(csv.DictReader(io.StringIO(run("ls", root, "--csv").stdout)))
    assert [row["task"] for row in rows] == [row["task"] for row in wanted]
    assert [int(row["size"]) for row in rows] == [row["size"] for row in wanted]
    assert json.loads(rows[0]["value"]) == wanted[0]["value"]


@pytest.mark.parametrize(
    ("options", "tasks"),
    [
        pytest.param(["descent", "rate=[12]"], ["rate=1", "rate=2"], id="globs"),
        pytest.param(["d*", "--sort", "task DESC", "--limit", "2"], ["rate=2", "rate=1"], id="order and limit"),
        pytest.param(["--since", "1h", "--limit", "1", "--sort", "size DESC"], ["today"], id="since, how long ago"),
        pytest.param(["--until", "1h"], [], id="until, how long ago"),
        pytest.param(["--since", "today", "descent", "*0"], ["rate=0"], id="today"),
        pytest.param(["--until", "yesterday"], [], id="yesterday"),
        pytest.param(["--until", "2020-01-01T00:00:00Z"], [], id="ISO 8601"),
    ],
)
def test_filters(root: Path, options: list[str], tasks: list[str]) -> None:
    """Globs, dates, order and limit are those of the catalog, with words for the dates that people name."""
    if datetime.now().hour == 0 and datetime.now().minute < 2:
        pytest.skip("results of the last minute may be yesterday's")
    assert [fields[1] for fields in lines("ls", root, *options)] == tasks


def test_since_a_moment(storage: FileStorage, root: Path) -> None:
    """A time as JSON prints it can be given back."""
    moment = json.loads(run("ls", root, "notes", "--json").stdout)[0]["saved_at"]
    assert [fields[1] for fields in lines("ls", root, "--since", moment)] == ["today"]


def test_usage_of_space(storage: FileStorage, root: Path) -> None:
    """`du` counts results and bytes by workflow, the largest first."""
    sizes = dict(storage.catalog.sql("SELECT workflow, sum(size)::BIGINT FROM tasks GROUP BY ALL").fetchall())
    found = [(workflow, int(count), int(size)) for workflow, count, size, _ in lines("du", root)]
    assert found == [("notes", 1, sizes["notes"]), ("descent", 3, sizes["descent"])]
    storage.save("old", "gone", 1)
    storage.remove_task("old", "gone")
    assert [row["workflow"] for row in json.loads(run("du", root, "--json").stdout)] == ["notes", "descent"]


# SQL


def test_sql_gives_a_script_its_number(root: Path) -> None:
    """The answer of one value is that value, and nothing else is printed."""
    result = run("sql", root, "SELECT count(*) FROM tasks")
    assert (result.stdout, result.stderr) == ("4\n", "")


def test_sql_from_the_standard_input(root: Path) -> None:
    """A dash reads the query from the standard input."""
    assert run("sql", root, "-", stdin="SELECT max(task)\nFROM tasks -- the last\n").stdout == "today\n"


def test_sql_parameters(root: Path) -> None:
    """Parameters are numbers, booleans or nulls where they read so, else text; an equals sign may be in it."""
    query = "SELECT $text AS a, $number + 1 AS b, $flag AS c, $nothing AS d, $list AS e, $eq AS f"
    values = ["text=rate", "number=41", "flag=true", "nothing=null", "list=[1]", "eq=a=b"]
    options = [part for value in values for part in ("--param", value)]
    row = {"a": "rate", "b": 42, "c": True, "d": None, "e": "[1]", "f": "a=b"}
    assert json.loads(run("sql", root, query, *options, "--json").stdout) == [row]
    assert lines("sql", root, query, *options) == [["rate", "42", "true", "", "[1]", "a=b"]]


def test_sql_parameters_that_are_text(root: Path) -> None:
    """What JSON writes as a text, and what is no number in it, is text as it stands."""
    values = ['quoted="day"', "nan=NaN"]
    options = [part for value in values for part in ("--param", value)]
    assert lines("sql", root, "SELECT $quoted, $nan", *options) == [['"day"', "NaN"]]


def test_sql_is_exact(root: Path) -> None:
    """Lines and CSV have all digits of intervals and decimals, and maps whose keys are lists."""
    query = """
        SELECT INTERVAL '12345.678901 seconds' AS i, INTERVAL '-1.5 seconds' AS n, MAP {[1]: 2} AS m,
               0.1234567890123456789::DECIMAL(30, 19) AS d
    """
    expected = ["P0M0DT12345.678901S", "P0M0DT-1.5S", "[[[1], 2]]", "0.1234567890123456789"]
    assert lines("sql", root, query) == [expected]
    assert run("sql", root, query, "--csv").stdout.splitlines()[1] == 'P0M0DT12345.678901S,P0M0DT-1.5S,"{}",{}'.format(
        *expected[2:]
    )


def test_sql_types(root: Path) -> None:
    """Whatever type DuckDB answers with has a form in JSON."""
    query = """
        SELECT 'nan'::DOUBLE AS f, sum(size) AS s, 1.50::DECIMAL(4, 2) AS d, DATE '2026-11-23' AS day,
               TIMESTAMPTZ '2026-11-23 18:30:00+02' AS tz, TIMESTAMP '2026-11-23 18:30:00' AS t, MAP {'a': 1} AS m,
               INTERVAL 90 MINUTE AS i, 'x'::BLOB AS b, {'k': [1, NULL]} AS st, TIME '01:02:03' AS clock,
               uuid() IS NOT NULL AS u, '{"x": 1}' AS value, 'no json' AS summary
        FROM tasks
    """
    (row,) = json.loads(run("sql", root, query, "--json").stdout)
    assert row.pop("s") > 2_000
    assert row == {
        "f": "nan",
        "d": 1.5,
        "day": "2026-11-23",
        "tz": "2026-11-23T16:30:00.000000Z",
        "t": "2026-11-23T18:30:00.000000",
        "m": {"a": 1},
        "i": "P0M0DT5400S",
        "b": "78",
        "st": {"k": [1, None]},
        "clock": "01:02:03",
        "u": True,
        "value": {"x": 1},
        "summary": "no json",
    }


@pytest.mark.parametrize(
    ("query", "message"),
    [
        pytest.param("SELECT x FROM tasks", '"x" not found', id="unknown column"),
        pytest.param("SELEC 1", "syntax error", id="syntax"),
        pytest.param("DROP TABLE tasks", "refused", id="writing"),
        pytest.param("SELECT $a", "a", id="parameter missing"),
        pytest.param("", "empty", id="nothing"),
    ],
)
def test_sql_refused(root: Path, query: str, message: str) -> None:
    """A query that cannot be answered ends in a short message and 2, not in a traceback."""
    result = run("sql", root, query, code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) <= 6


def test_sql_is_stopped(root: Path) -> None:
    """The time limit is the caller's to set."""
    query = "SELECT count(*) FROM range(100000) a, range(100000) b, range(100000) c WHERE a.range + b.range = c.range"
    assert "time limit" in run("sql", root, query, "--time-limit", "0.2", code=2).stderr


# Removing


def test_removal_asks(storage: FileStorage, root: Path) -> None:
    """What is to go is listed with its bytes; only a yes removes it."""
    result = run("rm", root, "descent", "rate=1", stdin="n\n", code=2)
    assert result.stdout.startswith("descent\trate=1\t")
    assert "Remove 1 result, " in result.stderr
    assert "nothing was removed" in result.stderr
    assert storage.file_exists("descent", "rate=1")
    assert "removed 1 result, " in run("rm", root, "descent", "rate=1", stdin="y\n").stderr
    assert storage.list_tasks("descent") == ["rate=0", "rate=2"]


@pytest.mark.slow
def test_removal_without_an_answer(storage: FileStorage, root: Path) -> None:
    """A script that cannot be asked has to say --yes."""
    done = program("rm", root, "descent", "rate=1")  # its input is at its end
    assert (done.returncode, "--yes" in done.stderr) == (2, True)
    assert storage.file_exists("descent", "rate=1")
    run("rm", root, "descent", "rate=1", "--yes")
    assert not storage.file_exists("descent", "rate=1")


def test_removal_by_glob(storage: FileStorage, root: Path) -> None:
    """--pattern removes all that match, and matching nothing is no error."""
    rows = json.loads(run("rm", root, "descent", "--pattern", "rate=[01]", "--yes", "--json").stdout)
    assert [row["task"] for row in rows] == ["rate=0", "rate=1"]
    assert storage.list_tasks("descent") == ["rate=2"]
    assert run("rm", root, "descent", "--pattern", "x*").stderr == "removed 0 results, 0 bytes\n"


def test_removal_of_a_workflow(storage: FileStorage, root: Path) -> None:
    """--all removes the workflow and nothing else; a second time there is none."""
    run("rm", root, "descent", "--all", "--yes")
    assert [fields[:2] for fields in lines("ls", root)] == [["notes", "today"]]
    assert not (root / "descent").exists()
    assert "no workflow 'descent'" in run("rm", root, "descent", "--all", "--yes", code=1).stderr


@pytest.mark.parametrize("which", [["rate=1"], ["--pattern", "*"], ["--all"]])
def test_dry_run(root: Path, which: list[str]) -> None:
    """--dry-run lists the same and changes nothing."""
    run("ls", root)
    before = everything_in(root)
    result = run("rm", root, "descent", *which, "--dry-run", "--yes")
    assert "descent\trate=1\t" in result.stdout
    assert result.stderr.startswith("would remove ")
    assert everything_in(root) == before


def test_names_are_no_globs(storage: FileStorage, root: Path) -> None:
    """Where one result is named, a glob's characters mean themselves."""
    for name in ("[a-z]*?", "b", "*"):
        storage.save("[w]*", name, 1)
        storage.save("w", name, 1)
    run("rm", root, "[w]*", "[a-z]*?", "--yes")
    assert storage.list_tasks("[w]*") == ["*", "b"]
    assert json.loads(run("rm", root, "[w]*", "*", "--dry-run", "--json").stdout)[0]["task"] == "*"
    run("rm", root, "[w]*", "--pattern", "*", "--yes")
    assert storage.list_tasks("w") == ["*", "[a-z]*?", "b"]


def test_an_empty_pattern_matches_nothing(root: Path) -> None:
    """A variable of the shell that is not set removes nothing."""
    assert "removed 0 results" in run("rm", root, "descent", "--pattern", "", "--yes").stderr
    assert len(lines("ls", root, "descent")) == 3


@pytest.mark.slow
def test_what_is_saved_during_the_question_stays(storage: FileStorage, root: Path) -> None:
    """Only what was listed is removed, if it still is what was listed."""
    for number in range(3):
        storage.save("w", f"t{number}", number)
    commands = (["rm", root, "w", "t2"], ["gc", root, "--workflow", "w", "--keep-last", "2", "--delete"])
    for number, command in enumerate(commands):
        with subprocess.Popen(
            [*MODULE, *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline().startswith("w\t")
            storage.save("w", "t2", "anew")
            storage.save("w", f"later{number}", 1)
            process.stdin.write("y\n")
            process.stdin.flush()
            assert process.wait(timeout=240) == 0
    assert storage.list_tasks("w") == ["later0", "later1", "t2"]
    assert storage.read_task("w", "t2") == "anew"


def test_removal_of_the_damaged(storage: FileStorage, root: Path) -> None:
    """A result that is so damaged that the catalog does not know it can be removed."""
    storage.catalog.refresh()
    (root / "notes" / "torn").write_bytes(b"?")
    assert lines("rm", root, "notes", "torn", "--yes") == [["notes", "torn", ""]]
    assert not (root / "notes" / "torn").exists()


@pytest.mark.parametrize("which", [[], ["a", "--all"], ["a", "--pattern", "*"], ["--all", "--pattern", "*"]])
def test_removal_says_what(root: Path, which: list[str]) -> None:
    """Exactly one of task, glob and all has to be named."""
    assert "name one of TASK, --pattern GLOB and --all" in run("rm", root, "w", *which, "--yes", code=2).stderr


def test_removal_of_what_is_not_there(root: Path) -> None:
    """A single missing result is found missing: 1."""
    assert run("rm", root, "descent", "none", "--yes", code=1).stderr.count("\n") == 1


# Storages


def config_text(suffix: str, path: str) -> str:
    """Return a configuration in the language of the suffix."""
    if suffix == ".toml":
        return f'kind = "file"\n[options]\npath = "{path}"\n'
    if suffix == ".json":
        return json.dumps({"kind": "file", "options": {"path": path}})
    return f"kind: file\noptions:\n  path: {path}\n"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".toml", ".json", ".yaml", ".yml"])
def test_configuration_files(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """A storage may be a file with the dictionary of `storage_factory`, whose paths mean what they mean there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in (str(root), "~/results", "results"):
        (tmp_path / f"storage{suffix}").write_text(config_text(suffix, path), encoding="utf-8")
        for name in (tmp_path / f"storage{suffix}", f"storage{suffix}", f"~/storage{suffix}"):
            assert lines("sql", name, "SELECT count(*) FROM tasks") == [["4"]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("a.toml", 'kind = "file"\npath = "x"', "unknown key 'path'.*'kind'.*'options'", id="outside"),
        pytest.param("a.json", '{"kind": "file", "options": {"path": "x", "pth": 1}}', "'pth'.*known: 'path'", id="in"),
        pytest.param("a.yaml", "kind: tape", "unknown storage kind 'tape'; known: 'file'", id="kind"),
        pytest.param("a.yml", "- 1", r"described by.*not by \[1\]", id="no dictionary"),
        pytest.param("a.toml", "kind = = 1", "cannot be read: .*line 1", id="TOML syntax"),
        pytest.param("a.json", "{", "cannot be read: .*line 1", id="JSON syntax"),
        pytest.param("a.yaml", "a: [", "cannot be read: .*line 1", id="YAML syntax"),
        pytest.param("a.yaml", "!!python/object/apply:os.getcwd []", "cannot be read: .*could not", id="YAML code"),
        pytest.param("a.ini", "", "no configuration: .*.toml, .json, .yaml, .yml", id="another language"),
        pytest.param("a.json", '{"kind": "file", "options": {"path": "none"}}', "there is no storage at", id="nothing"),
    ],
)
def test_configuration_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, message: str
) -> None:
    """A configuration that is wrong ends in 2, with the file, what is wrong in it and what there is instead."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text, encoding="utf-8")
    said = run("ls", tmp_path / name, code=2).stderr
    assert re.search(message, said, re.DOTALL)
    assert said.count("\n") <= 8
    assert [path.name for path in tmp_path.iterdir()] == [name]


def no_folder(folder: Path) -> Path:
    """Return a path at which nothing is."""
    return folder / "none"


def empty_folder(folder: Path) -> Path:
    """Return an empty folder."""
    (folder / "empty").mkdir()
    return folder / "empty"


def foreign_folder(folder: Path) -> Path:
    """Return somebody's folder: code, text, and pickles whose ends look like a result of the older format."""
    foreign = folder / "foreign"
    (foreign / "src" / "deep").mkdir(parents=True)
    (foreign / "src" / "main.py").write_text("print()")
    (foreign / "README").write_text("hello")
    (foreign / "src" / "empty").touch()
    (foreign / "src" / "values.pkl").write_bytes(pickle.dumps("x" * 50 + "." + "y" * 17, protocol=3))
    (foreign / "src" / "likely").write_bytes(b"\x80\x03." + bytes(20))
    (foreign / ".hidden").mkdir()
    return foreign


def workflow_folder(folder: Path) -> Path:
    """Return a workflow's folder, instead of its storage's."""
    FileStorage(folder / "storage").save("w", "t", 1)
    return folder / "storage" / "w"


@pytest.mark.parametrize("make", [no_folder, empty_folder, foreign_folder, workflow_folder])
def test_what_is_no_storage_stays_as_it_is(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """No command makes anything where there is no storage: it names the folder and the remedy, and ends in 2."""
    folder = make(tmp_path)
    before = everything_in(tmp_path)
    for name, *arguments in LOOKING:
        said = run(name, folder, *arguments, code=2).stderr
        assert re.search(rf"{re.escape(str(folder))}( is no storage|: check the path)", said)
        assert (f"is {folder.parent} meant?" in said) == (make is workflow_folder)
        assert everything_in(tmp_path) == before


def test_a_storage_without_its_catalog(root: Path) -> None:
    """A storage that lost its ``.catalog`` is one all the same, and so is a folder of the older format."""
    shutil.rmtree(root / ".catalog")
    assert len(lines("ls", root)) == 4
    older = root.parent / "older"
    shutil.copytree(OLDER.parent, older)
    assert {fields[1] for fields in lines("ls", older, "study")} >= {"load", "fit_1", "fit_2", "report"}


def test_a_storage_that_cannot_be_read(root: Path) -> None:
    """A storage of a newer version is refused with the catalog's message."""
    (root / ".catalog" / "storage.json").write_text('{"uuid": "x", "format": 99}')
    assert "install a newer functionfuse" in run("ls", root, code=2).stderr


# Errors and exit codes


def errors_of(module: Any) -> Iterator[type[Exception]]:
    """Yield the exceptions that a module defines."""
    for each in vars(module).values():
        if isinstance(each, type) and issubclass(each, Exception) and not issubclass(each, Warning):
            yield each


ERRORS = [*errors_of(functionfuse.errors), *errors_of(catalog.errors)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_has_its_exit_code(error: type[Exception]) -> None:
    """What is not there or damaged ends in 1, every other error of ours in 2, and none in a traceback."""

    @click.command()
    def fails() -> None:
        raise error(7) if error is catalog.errors.LongerFooter else error("the message")

    main.add_command(fails, "fails")
    try:
        absent = issubclass(error, (FileNotFoundError, functionfuse.errors.DamagedResult))
        said = run("fails", code=1 if absent else 2).stderr
    finally:
        del main.commands["fails"]
    assert re.fullmatch("Error: (the message|the footer has 7 bytes)\n", said)


def test_errors_of_the_system_read_well(root: Path) -> None:
    """An error of the file system names the file, without its number."""
    assert run("sql", root / "notes" / "today" / "x", "FROM tasks", code=2).stderr.startswith("Error: ")
    (root / "a.toml").mkdir()
    assert "no storage" in run("ls", root / "a.toml", code=2).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls"],
        ["nonsense"],
        ["ls", "results", "--limit", "-1"],
        ["ls", "results", "--since", "sometime"],
        ["ls", "results", "--since", "99999999w"],
        ["ls", "results", "--since", "2026-02-02", "--until", "2026-01-01"],
        ["ls", "results", "--sort", "nonsense"],
        ["sql", "results", "SELECT $a", "--param", "a"],
        ["gc", "results", "--older-than", "soon"],
        ["gc", "results", "--older-than", "99999999999999d"],
        ["gc", "results", "--larger-than", "big"],
        ["completion", "tcsh"],
    ],
    ids=" ".join,
)
def test_usage(root: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    """What cannot be understood ends in 2, with few lines."""
    monkeypatch.chdir(root.parent)
    result = run(*arguments, code=2)
    assert result.stdout == ""
    assert 1 <= result.stderr.count("\n") <= 6


# As a program


@pytest.mark.slow
def test_program(root: Path) -> None:
    """``python -m functionfuse`` is the command."""
    listed = program("ls", root, "notes")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert listed.stdout.startswith("notes\ttoday\t")
    refused = program("ls", root / "none")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert re.fullmatch(r"functionfuse, version \d+\.\d+\.\d+\n", program("--version").stdout)


@pytest.mark.slow
def test_a_pipe_closed_early_is_silent(tmp_path: Path) -> None:
    """When the reader has seen enough, the command ends without a word, as after SIGPIPE."""
    storage = FileStorage(tmp_path / "many")
    for number in range(300):
        storage.save("w", f"{number:0200}", number)
    for form in ([], ["--json"]):
        arguments = ["sql", str(tmp_path / "many"), "SELECT t.* FROM tasks t, range(20)", *form]
        process = subprocess.Popen(
            [*MODULE, *arguments], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        with process.stderr:
            assert process.stderr.read() == b""
        assert process.wait() == 141


def test_any_encoding(tmp_path: Path) -> None:
    """Names that a terminal's encoding has not are printed as escapes."""
    FileStorage(tmp_path / "odd").save("w", "ünïcode ✓", 1)
    printed = program("ls", tmp_path / "odd", encoding="latin-1")
    assert (printed.returncode, printed.stdout.split("\t")[1]) == (0, r"ünïcode \u2713")


def test_help_loads_nothing_heavy() -> None:
    """Help and completion of options are quick: no database, no arrays, no tables are loaded for them."""
    code = """
import sys
from functionfuse.cli import main
try:
    main(["ls", "--help"])
except SystemExit:
    print(sorted({"duckdb", "pyarrow", "rich", "fsspec", "yaml", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


# At a terminal


@pytest.mark.slow
def test_table(root: Path) -> None:
    """A person sees a table with a header, sizes and times for people, bold letters, and the sum of `du`."""
    seen, code = at_terminal("ls", root)
    assert code == 0
    assert "\t" not in seen
    assert "\x1b[1m" in seen
    assert re.search(r"workflow.*task.*size.*saved_at.*type", seen)
    assert re.search(r"notes +today +\d\.\d kB +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +str", seen)
    assert re.search(r"4 results, \d\.\d kB", at_terminal("du", root)[0])


@pytest.mark.slow
def test_wide_rows_become_records(root: Path) -> None:
    """Rows that a terminal is too narrow for are printed a column a line, without what is not known."""
    seen, _ = at_terminal("ls", root, "descent", "rate=1", "--long", columns=60)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", seen)
    assert re.search(r'^value +\{"loss": 0\.25, "steps": \[1\]\}', plain, re.MULTILINE)
    assert re.search(r"^task +rate=1", plain, re.MULTILINE)
    assert "run_id" not in plain


@pytest.mark.slow
def test_names_cannot_steer_a_terminal(tmp_path: Path) -> None:
    """A name with control characters or markup is shown, not obeyed."""
    for name in (*ODD_NAMES, "[bold]x[/bold]"):
        FileStorage(tmp_path / "odd").save("w", name, name)
    seen, code = at_terminal("ls", tmp_path / "odd", "--long", columns=400)
    assert code == 0
    assert "\x1b[31m" not in seen
    assert r"\x1b[31mred" in seen
    assert "[bold]x[/bold]" in seen


@pytest.mark.slow
@pytest.mark.parametrize("form", [None, "--csv", "--json"])
def test_nothing_that_a_terminal_obeys_reaches_it(tmp_path: Path, form: str | None) -> None:
    """Controls, also those of the writing direction, are shown as escapes in every form; in a pipe CSV keeps them."""
    names = ["\x1b[2J", "\x9b31m", "\u202etxt.exe", "\u2066a", "\u061cb", "\x7f", "a\rb", "a\nb"]
    storage = FileStorage(tmp_path / "odd")
    for name in names:
        storage.save("w", name, 1)
    words = [word for word in ("sql", str(tmp_path / "odd"), 'SELECT task, 1 AS "\x1b[2J" FROM tasks', form) if word]
    seen, code = at_terminal(*words, columns=400)
    assert code == 0
    assert not re.search("\x1b\\[2J|[\x7f\x9b\u202e\u2066\u061c]|a\rb", seen)
    if form == "--csv":
        rows = list(csv.reader(io.StringIO(run(*words).stdout, newline="")))
        assert rows[0] == ["task", "\x1b[2J"]
        assert sorted(row[0] for row in rows[1:]) == sorted(names)


@pytest.mark.slow
def test_own_sql_is_shown_as_it_is(root: Path) -> None:
    """The answer to one's own query stays exact at a terminal, too; a table has at most 1,000 rows, and says so."""
    times = "TIMESTAMPTZ '2026-01-02 03:04:05Z' AS t, TIMESTAMP '2026-01-02 03:04:05' AS without_zone"
    query = f"SELECT i, 123456 AS size, {times} FROM range(1_500) r(i)"
    seen, _ = at_terminal("sql", root, query)
    assert re.search(r"^ *999 +123456 +2026-01-02T03:04:05.000000Z +2026-01-02T03:04:05.000000 ", seen, re.MULTILINE)
    assert not re.search(r"^ *1000 ", seen, re.MULTILINE)
    assert "500 more rows" in seen


# Help and completion


def commands(group: click.Group = main) -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its words."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", each) for inner, each in commands(command))
        else:
            yield name, command


@pytest.mark.parametrize(("words", "command"), list(commands()))
def test_help_ends_with_examples(words: str, command: click.Command) -> None:
    """Each command's help says in a line what it does, and ends with examples that it understands."""
    text = run(*words.split(), "--help").stdout
    _, _, below = text.partition("Examples:\n")
    examples = [line.strip() for line in below.splitlines() if line.strip()]
    assert examples
    assert len(command.get_short_help_str(60)) < 60
    assert not command.get_short_help_str(60).endswith("...")
    for example in examples:
        called = example.removeprefix('eval "$(').partition(')" ')[0] if "$(" in example else example
        name, *arguments = shlex.split(re.split(r" [|<] |   ", called)[0])
        assert [name, *arguments][: len(words.split()) + 1] == ["functionfuse", *words.split()]
        command.make_context(words, arguments[len(words.split()) :]).close()


def test_help_says_the_exit_codes() -> None:
    """The codes are written where one looks for them, and no command is without a line."""
    text = run("--help").stdout
    assert re.search(r"^ +0 .*\n +1 .*\n +2 ", text, re.MULTILINE)
    assert "..." not in text.partition("Commands:")[2]


def complete(path: str, *words: str) -> list[str]:
    """Return what a real bash completes the last word to."""
    code = """
        eval "$(functionfuse completion bash)"
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _functionfuse_completion functionfuse
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", code, "bash", "functionfuse", *words],
        env=environment(PATH=path),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_in_bash(root: Path, tmp_path: Path) -> None:
    """The script works in a real shell: it completes commands, options, and names of workflows and tasks."""
    path = put_on_path(tmp_path / "bin")
    assert complete(path, "ex") == ["export"]
    assert complete(path, "ls", "--si") == ["--since"]
    assert complete(path, "ls", str(root), "d") == ["descent"]
    assert complete(path, "show", str(root), "descent", "") == ["rate=0", "rate=1", "rate=2"]
    assert complete(path, "show", str(tmp_path / "bin"), "") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_of_other_shells(shell: str) -> None:
    """The other shells that click knows have their script, too."""
    assert "_FUNCTIONFUSE_COMPLETE" in run("completion", shell).stdout


def test_durations_and_sizes() -> None:
    """A duration is told in seconds to weeks, a size in units of 1000 or 1024."""
    from functionfuse._cli_options import duration, size

    assert [duration(text) for text in ("45s", "90m", "12h", "1.5d", "2w")] == [
        timedelta(seconds=45),
        timedelta(minutes=90),
        timedelta(hours=12),
        timedelta(hours=36),
        timedelta(days=14),
    ]
    assert [size(text) for text in ("1500", "20kB", "1.5GB", "4GiB", "0", "7 b")] == [
        1_500,
        20_000,
        1_500_000_000,
        4 * 2**30,
        0,
        7,
    ]


def test_what_people_read() -> None:
    """Sizes have units of 1000 and at least two digits; durations and counts read as one says them."""
    from functionfuse._cli_text import counted, human_seconds, human_size

    sizes = {0: "0 bytes", 1: "1 byte", 999: "999 bytes", 1_000: "1.0 kB", 99_949: "99.9 kB", 99_960: "100 kB"}
    sizes |= {999_499: "999 kB", 999_500: "1.0 MB", 1_234_000_000: "1.2 GB", 5 * 10**15: "5.0 PB", 10**19: "10000 PB"}
    assert {size: human_size(size) for size in sizes} == sizes
    durations = {0.00321: "3.21 ms", 3.21: "3.2 s", 125: "2 min 05 s", 7_500: "2 h 05 min"}
    assert {seconds: human_seconds(seconds) for seconds in durations} == durations
    assert [counted(number, "result") for number in (0, 1, 1_204)] == ["0 results", "1 result", "1,204 results"]


def test_moments_are_utc() -> None:
    """How long ago is told from now, in whatever zone."""
    from functionfuse._cli_options import when

    moment = when("36h")
    assert isinstance(moment, datetime)
    assert abs(datetime.now(timezone.utc) - timedelta(hours=36) - moment) < timedelta(minutes=1)
