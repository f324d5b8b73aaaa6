"""What the command line says is in its own words: options, plurals, and no parameters of Python."""

from __future__ import annotations

import csv
import inspect
import io
import re
from pathlib import Path

import pytest

from catalog import Catalog
from catalog.store.open import open_store
from commands import run
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.storage_factory import _config_of

#: Those of Python that cannot be other words.
PARAMETERS = {
    name
    for method in (Catalog.tasks, Catalog.events, Catalog.runs, Catalog.sql, Catalog.export, Catalog.expired)
    for name in inspect.signature(method).parameters
    if "_" in name
}

#: What cannot be done as it is given, and a part of what is said.
WRONG = {
    "no condition": (["gc", "{root}"], "--keep-last"),
    "an age that is none": (["gc", "{root}", "--older-than", "soon"], "--older-than"),
    "a size that is none": (["gc", "{root}", "--larger-than", "much"], "--larger-than"),
    "no date": (["ls", "{root}", "--since", "garbage"], "--since 'garbage'"),
    "no date at the end": (["ls", "{root}", "--until", "garbage"], "--until 'garbage'"),
    "no date of an earlier state": (["ls", "{root}", "--as-of", "garbage"], "--as-of 'garbage'"),
    "dates in the wrong order": (["ls", "{root}", "--since", "2026-02-01", "--until", "2026-01-01"], "--until"),
    "a text that looks like a parameter": (["ls", "{root}", "--since", "since=1"], "--since 'since=1'"),
    "an unknown column": (["ls", "{root}", "--sort", "nothing"], "nothing"),
    "too much memory": (["sql", "{root}", "SELECT 1", "--memory-limit", "much"], "--memory-limit 'much'"),
    "no time": (["sql", "{root}", "SELECT 1", "--time-limit", "0"], "--time-limit"),
    "a parameter that is missing": (["sql", "{root}", "SELECT $n"], "$n is not given"),
    "a parameter too many": (["sql", "{root}", "SELECT 1", "--param", "n=1"], "no parameter $n"),
    "what is no query": (["sql", "{root}", "COPY tasks TO 'x'"], "COPY is refused"),
    "an export that is there": (["export", "{root}", "{there}"], "--overwrite"),
    "an export that is no Parquet": (["export", "{root}", "{out}.csv"], "{out}.parquet"),
    "a compressed one": (["export", "{root}", "{out}.json.gz"], "{out}.parquet"),
    "an export of tasks that continues": (["export", "{root}", "{out}", "--after", "{there}"], "--after"),
    "an export that is not there": (["export", "{root}", "{out}", "--table", "events", "--after", "{out}x"], "--after"),
    "a filter of another table": (["export", "{root}", "{out}", "--status", "failed"], "status"),
    "no storage": (["ls", "{out}"], "there is no storage"),
}


@pytest.mark.parametrize("what", WRONG)
def test_errors_name_options(tmp_path: Path, what: str) -> None:
    """No message has a parameter of Python, with its underscore or equals sign; it names the option that was typed."""
    names = {"root": str(tmp_path / "results"), "there": str(tmp_path / "there.parquet"), "out": str(tmp_path / "out")}
    FileStorage(names["root"]).save("w", "a", 1)
    Path(names["there"]).write_bytes(b"")
    words, said = WRONG[what]
    result = run(*(word.format(**names) for word in words), code=2)
    assert said.format(**names) in result.stderr
    typed = re.sub(r"'[^']*'", "", result.stderr.replace(str(tmp_path), ""))
    assert not re.search(r"\w=", typed), result.stderr
    assert not PARAMETERS.intersection(re.findall(r"\w+", typed)), result.stderr


def test_what_is_written_is_parquet(tmp_path: Path) -> None:
    """Other suffixes than those of other formats are names like any; a folder of parts has a name without one."""
    root = tmp_path / "results"
    FileStorage(root).save("w", "a", 1)
    for name in ("out", "out.parquet", "out.pq", "2026.11"):
        run("export", root, tmp_path / name)
        assert (tmp_path / name).read_bytes()[:4] == b"PAR1"
    run("export", root, tmp_path / "days.txt", "--partition-by", "workflow")
    assert (tmp_path / "days.txt").is_dir()


def test_an_audit_of_what_is_not_there(tmp_path: Path) -> None:
    """A file that is missing is no damaged one; nor is a folder without files, or one of several."""
    result = run("audit", "verify", tmp_path / "missing.parquet", code=1)
    assert "missing: there is no such file" in result.stdout
    assert "damaged" not in result.output


def test_what_was_renamed_is_not_missing(tmp_path: Path) -> None:
    """A workflow's folder or a result's file that somebody renames is found under its new name, what is gone is not."""
    storage = FileStorage(tmp_path / "results")
    for task in ("a", "b", "c"):
        storage.save("w", task, task)
    (tmp_path / "results" / "w").rename(tmp_path / "results" / "renamed")
    (tmp_path / "results" / "renamed" / "b").rename(tmp_path / "results" / "renamed" / "other")
    assert storage.list_tasks("renamed") == ["a", "c", "other"]
    assert storage.list_tasks("w") == []
    report = storage.verify()
    assert report.ok, report
    assert str(report).startswith("ok: 3 results in ")
    (tmp_path / "results" / "renamed" / "c").unlink()
    assert [finding.task for finding in storage.verify().missing] == ["c"]


def test_one_is_one(tmp_path: Path) -> None:
    """A report counts one result in one workflow."""
    storage = FileStorage(tmp_path / "results")
    storage.save("w", "a", 1)
    assert re.match(r"ok: 1 result in 1 workflow, 0 side files, \d+ bytes read", str(storage.verify()))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+1+1", "'+1+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-", "'-"),
        ("-3", "-3"),
        ("+4.5e-3", "+4.5e-3"),
        ("a=b", "a=b"),
        ("", ""),
        ("\x1b[2J", "\x1b[2J"),
        ("'quoted", "'quoted"),
    ],
    ids=ascii,
)
def test_texts_of_csv_are_no_formulas(tmp_path: Path, text: str, written: str) -> None:
    """What a spreadsheet would compute is marked, in cells and names of columns; numbers and all else stay."""
    FileStorage(tmp_path / "results").save("w", "a", 1)
    result = run("sql", tmp_path / "results", 'SELECT $text AS "=x"', "--param", f"text={text}", "--csv")
    assert list(csv.reader(io.StringIO(result.stdout, newline=""))) == [["'=x"], [written]]


def test_schemes_in_capitals() -> None:
    """The scheme of a URL is the same in capitals; what is behind it is not touched."""
    stores = [open_store(url) for url in ("S3://Bucket/Prefix", "s3a://Bucket/Prefix/", "s3://Bucket/Prefix")]
    assert all(store is stores[0] for store in stores)
    assert _config_of("S3://bucket", {})["kind"] == "S3"
    assert open_store("MEMORY://x").root == "memory://x"
