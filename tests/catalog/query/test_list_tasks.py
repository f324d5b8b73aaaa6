"""Names by glob and by date: as `fnmatch` and the calendar have it."""

from __future__ import annotations

import fnmatch
import random
import time
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from catalog.errors import InvalidQuestion
from catalog.format import author
from functionfuse.errors import InvalidName
from functionfuse.storage.filestorage import FileStorage

ALPHABET = "abAB01[]!-^\\*?.:|&~ \n\té中😀\x00/%"
SPECIAL = [
    "a",
    "A",
    "ab",
    "model_1",
    "model_2",
    "Model_1",
    "]",
    "[",
    "[a]",
    "a\\b",
    "a\nb",
    "*",
    "?",
    ".",
    "..",
    "^",
    "-",
]


def some_names() -> list[str]:
    """Return a few hundred awkward names, always the same."""
    chance = random.Random(5)
    made = {"".join(chance.choices(ALPHABET, k=chance.randint(1, 4))) for _ in range(300)}
    return sorted(made | set(SPECIAL))


NAMES_STORED = some_names()


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> FileStorage:
    """Return a storage that holds one result under each of many awkward names."""
    storage = FileStorage(tmp_path_factory.mktemp("named"))
    for name in NAMES_STORED:
        storage.save("w", name, None)
    return storage


classes = st.builds(
    "[{}{}]".format, st.sampled_from(["", "!", "^", "]", "!]"]), st.text(ALPHABET, max_size=5)
) | st.sampled_from(
    ["[]", "[!]", "[]]", "[!]]", "[", "[!", "[a-", "[a-]", "[-a]", "[z-a]", "[a-c-e]", "[[]", "[[:alpha:]]"]
)
patterns = st.lists(
    st.sampled_from(["*", "?", "**", "a", "A", "\\", "]"]) | st.sampled_from(ALPHABET) | classes, max_size=5
).map("".join) | st.sampled_from(NAMES_STORED)


@pytest.mark.slow
@given(pattern=patterns)
@settings(max_examples=300)
@example("[[:alpha:]]")
@example("[a[:alpha:]]")
@example("[!a-]*")
@example("*\n*")
@example("")
def test_a_pattern_is_read_as_fnmatch_reads_it(named: FileStorage, pattern: str) -> None:
    """Of hundreds of awkward names, those are listed that `fnmatch.fnmatchcase` picks, in sorted order."""
    expected = sorted(name for name in NAMES_STORED if fnmatch.fnmatchcase(name, pattern))
    assert named.list_tasks("w", pattern) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("model_*", ["model_1", "model_2"]),
        ("Model_?", ["Model_1"]),
        ("[mM]odel_1", ["Model_1", "model_1"]),
        ("model_[!1]", ["model_2"]),
        ("model_[0-9]", ["model_1", "model_2"]),
        ("[]]", ["]"]),
        ("a\\b", ["a\\b"]),
        ("a?b", ["a\nb", "a\\b"]),
        ("MODEL_*", []),
        ("*", sorted(SPECIAL)),
    ],
)
def test_globs_that_people_write(storage: FileStorage, pattern: str, expected: list[str]) -> None:
    """Stars, question marks, classes, negated ones and ranges pick what a person expects, case counting."""
    for name in SPECIAL:
        storage.save("w", name, None)
    assert storage.list_tasks("w", pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("?", ["\udc80"]),
        ("a?", ["a\udc80"]),
        ("*", ["\udc80", "a\udc80"]),
        ("a\udc80", ["a\udc80"]),
        ("a*", ["a\udc80"]),
    ],
)
def test_a_name_that_is_no_valid_text_is_matched(storage: FileStorage, pattern: str, expected: list[str]) -> None:
    """A lone surrogate, as a file name that is not UTF-8 has, is one character of a name like any other."""
    for name in ("\udc80", "a\udc80"):
        storage.save("w", name, None)
    assert storage.list_tasks("w", pattern) == sorted(expected)


def test_a_long_pattern_and_a_long_name(storage: FileStorage) -> None:
    """A name of 300 characters is found whole, by its beginning and by a pattern with a hundred stars."""
    name = "long" * 75
    storage.save("w", name, None)
    for pattern in (name, "long*", "l*" * 75, "*" * 100 + "g", "?" * 300):
        assert storage.list_tasks("w", pattern) == [name]
    assert storage.list_tasks("w", "?" * 299) == []


def test_a_workflow_name_is_exact(storage: FileStorage) -> None:
    """The workflow's name is no glob: neither a star nor a class in it matches another workflow."""
    storage.save("run1", "t", None)
    storage.save("run*", "star", None)
    assert storage.list_tasks("run*") == ["star"]
    assert storage.list_tasks("run[1]") == []
    assert storage.list_tasks("RUN1") == []
    assert storage.list_tasks("run1") == ["t"]


def test_an_unknown_workflow_has_no_tasks(storage: FileStorage) -> None:
    """A workflow that was never stored has an empty list of tasks."""
    storage.save("w", "t", None)
    assert storage.list_tasks("v") == []
    assert storage.list_tasks("w/t") == []


@pytest.mark.parametrize("name", ["", None, 5])
def test_a_workflow_name_is_a_string(storage: FileStorage, name: Any) -> None:
    """An empty name, and what is no string, is refused."""
    with pytest.raises(InvalidName):
        storage.list_tasks(name)


def test_a_pattern_is_a_string(storage: FileStorage) -> None:
    """A pattern that is no string is refused with its value."""
    storage.save("w", "t", None)
    with pytest.raises(InvalidQuestion, match="not 5"):
        storage.list_tasks("w", 5)  # type: ignore[arg-type]  # the point of the test


# Dates


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the machine stand in Berlin: UTC+1 in winter, UTC+2 in summer."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


def save_at(storage: FileStorage, monkeypatch: pytest.MonkeyPatch, moments: dict[str, str]) -> None:
    """Save one result at each of the moments, ISO strings with zones."""
    for name, moment in moments.items():
        seconds = datetime.fromisoformat(moment).timestamp()
        monkeypatch.setattr(author, "time", SimpleNamespace(time=lambda seconds=seconds: seconds))
        storage.save("w", name, None)


@pytest.fixture
def dated(storage: FileStorage, monkeypatch: pytest.MonkeyPatch, zone: None) -> FileStorage:
    """Return a storage with results of known moments, asked in Berlin."""
    moments = {
        "winter": "2026-01-15T12:00:00+00:00",
        "before_midnight": "2026-06-30T21:59:59.999999+00:00",  # in Berlin the last microsecond of June
        "midnight": "2026-06-30T22:00:00+00:00",
        "summer": "2026-07-15T12:00:00+00:00",
    }
    save_at(storage, monkeypatch, moments)
    return storage


ALL = ["before_midnight", "midnight", "summer", "winter"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (None, None, ALL),
        # A naive time is local, with the local summer time of its own date.
        ("2026-07-15T14:00:00", None, ["summer"]),
        ("2026-07-15T14:00:00.000001", None, []),
        ("2026-01-15T13:00:00", "2026-01-15T13:00:00.000001", ["winter"]),
        (datetime(2026, 7, 15, 14), None, ["summer"]),
        (datetime(2026, 7, 15, 14, 0, 1), None, []),
        # An aware one is what it says.
        ("2026-07-15T12:00:00Z", None, ["summer"]),
        ("2026-07-15T12:00:00+00:00", None, ["summer"]),
        ("2026-07-15T21:00:00+09:00", None, ["summer"]),
        (datetime(2026, 7, 15, 12, tzinfo=timezone.utc), None, ["summer"]),
        (datetime(2026, 7, 15, 12, 0, 1, tzinfo=timezone.utc), None, []),
        (datetime(2026, 7, 15, 7, tzinfo=timezone(timedelta(hours=-5))), None, ["summer"]),
        # A date is its local midnight; the first bound belongs to the span, the last does not.
        (date(2026, 7, 1), None, ["midnight", "summer"]),
        (None, date(2026, 7, 1), ["before_midnight", "winter"]),
        ("2026-07-01", "2026-07-02", ["midnight"]),
        ("2026-06-30", "2026-07-01", ["before_midnight"]),
        ("2026-07-01 00:00", "2026-07-01", []),
        (None, "2026-01-15T12:00:00Z", []),
        (None, "2026-01-15T12:00:00.000001Z", ["winter"]),
        (" 2026-07-15 ", None, ["summer"]),
        ("1970-01-01", "2999-12-31", ALL),
    ],
)
def test_a_span_of_time(dated: FileStorage, since: Any, until: Any, expected: list[str]) -> None:
    """Results are found by datetimes, dates and ISO strings: naive ones local, `since` included, `until` not."""
    assert dated.list_tasks("w", since=since, until=until) == expected


def test_a_span_and_a_pattern(dated: FileStorage) -> None:
    """A span and a pattern both have to fit."""
    assert dated.list_tasks("w", "*midnight", since="2026-07-01") == ["midnight"]


@pytest.mark.parametrize("bad", ["yesterday", "", "2026-13-01", "2026-02-30", "12:00", "2026-07-15T25:00", "\udc80"])
def test_a_date_that_cannot_be_read(dated: FileStorage, bad: str) -> None:
    """A string that is no date is refused with parameter, value and an example of what is wanted."""
    with pytest.raises(InvalidQuestion, match=r"since=.*ISO 8601.*2026-11-23"):
        dated.list_tasks("w", since=bad)
    with pytest.raises(InvalidQuestion, match="until="):
        dated.list_tasks("w", until=bad)


@pytest.mark.parametrize("bad", [5, 1.5, b"2026-01-01", ["2026-01-01"], timedelta(days=1)])
def test_a_moment_of_another_type(dated: FileStorage, bad: Any) -> None:
    """A number, bytes or a duration is no moment."""
    with pytest.raises(InvalidQuestion, match="since is a datetime, a date or an ISO 8601 string"):
        dated.list_tasks("w", since=bad)


@pytest.mark.parametrize("edge", [datetime.min, datetime.max, date.min, date.max, "0001-01-01", "9999-12-31T23:59:59"])
def test_the_ends_of_the_calendar(dated: FileStorage, edge: Any) -> None:
    """The first and last moments that Python knows are bounds like others, or refused as what they are."""
    first = str(edge).startswith("0001")
    assert dated.list_tasks("w", since=edge) == (ALL if first else [])
    assert dated.list_tasks("w", until=edge) == ([] if first else ALL)


def test_a_span_that_ends_before_it_begins(dated: FileStorage) -> None:
    """`since` after `until` is refused, and the message says to exchange them."""
    with pytest.raises(InvalidQuestion, match="exchange"):
        dated.list_tasks("w", since="2026-07-02", until="2026-07-01")
    with pytest.raises(InvalidQuestion, match="exchange"):  # in UTC the first is an hour later
        dated.list_tasks("w", since="2026-07-01T10:00:00Z", until="2026-07-01T11:00:00")


def test_what_is_kept_is_utc(dated: FileStorage) -> None:
    """`saved_at` is aware, and its zone UTC, whatever the machine's zone is."""
    ((saved,),) = dated.catalog.tasks(task="summer").project("saved_at").fetchall()
    assert saved == datetime(2026, 7, 15, 12, tzinfo=timezone.utc)
    assert saved.utcoffset() == timedelta(0)


def test_a_result_just_saved_is_of_today(storage: FileStorage, tmp_path: Path) -> None:
    """What is saved now lies between the moments before and after it, as naive local times give them."""
    before = datetime.now()
    storage.save("w", "t", None)
    after = datetime.now() + timedelta(microseconds=1)
    assert storage.list_tasks("w", since=before, until=after) == ["t"]
    assert storage.list_tasks("w", since=after) == []
    assert storage.list_tasks("w", until=before) == []
