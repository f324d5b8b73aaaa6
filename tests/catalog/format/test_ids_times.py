"""Ids that sort as things happened, and moments as people give them."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import InvalidQuestion
from catalog.format import ids
from catalog.format.author import utc_text
from catalog.format.ids import id_at, new_id
from catalog.query.times import span, to_utc
from workshop import run_python

# RFC 9562, section 5.7: 48 bits of time, version 7, 12 bits, variant 10, 62 bits.
LAYOUT = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
LAST_TICK = int(ids.LIMIT[:13].replace("-", ""), 16) * 4096 - 1  # at the end of the year 9998


DAY = 86_400_000  # ms


def id_of(tick: int, tail: int) -> str:
    """Return the id of a tick: milliseconds, and the counter of 12 bits within one."""
    return str(uuid.UUID(int=tick >> 12 << 80 | 7 << 76 | (tick & 0xFFF) << 64 | 2 << 62 | tail))


def milliseconds(identifier: str) -> int:
    """Return the time in an id."""
    return uuid.UUID(identifier).int >> 80


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Give the ids a clock that the test sets, in ns, and forget afterwards what it said."""
    last = ids._last_tick
    now = SimpleNamespace(ns=1_700_000_000_000_000_000)
    now.time_ns = lambda: now.ns
    monkeypatch.setattr(ids, "time", now)
    monkeypatch.setattr(ids, "_last_tick", 0)
    yield now
    monkeypatch.setattr(ids, "_last_tick", last)


def test_an_id_has_the_layout_of_uuid_7() -> None:
    """Version, variant, form and time of an id are those of RFC 9562."""
    before = time.time_ns() // 1_000_000
    made = [new_id() for _ in range(1000)]
    after = time.time_ns() // 1_000_000
    assert all(LAYOUT.fullmatch(each) for each in made)
    assert {(uuid.UUID(each).version, uuid.UUID(each).variant) for each in made} == {(7, uuid.RFC_4122)}
    assert all(before <= milliseconds(each) <= after + 1 for each in made)


def test_ids_of_one_process_increase() -> None:
    """Thousands of ids made as fast as can be are different and sorted."""
    made = [new_id() for _ in range(20_000)]
    assert made == sorted(set(made))


def test_ids_of_several_threads_increase() -> None:
    """Threads that make ids at once never get the same one, and each sees its own increase."""
    made: list[list[str]] = [[] for _ in range(4)]

    def make(mine: list[str]) -> None:
        mine.extend(new_id() for _ in range(5000))

    threads = [threading.Thread(target=make, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(mine) for mine in made)
    assert len(set().union(*made)) == 20_000


def test_ids_increase_though_the_clock_jumps_back(clock: SimpleNamespace) -> None:
    """A clock that is set back by a day makes no id smaller than the one before."""
    first = new_id()
    clock.ns -= 86_400 * 10**9
    second = new_id()
    assert second > first
    assert milliseconds(second) == milliseconds(first)


def test_more_ids_than_fit_into_a_millisecond(clock: SimpleNamespace) -> None:
    """The counter within a millisecond runs over into the next one, in order."""
    made = [new_id() for _ in range(5000)]
    assert made == sorted(set(made))
    assert milliseconds(made[-1]) - milliseconds(made[0]) == 1
    assert all(LAYOUT.fullmatch(each) for each in made)


ticks = st.integers(0, LAST_TICK - 2)


@given(tick=ticks, tail=st.integers(0, (1 << 62) - 1))
def test_an_id_is_greater_than_the_one_it_replaces(tick: int, tail: int) -> None:
    """Whatever another machine's clock said, an id made after one of its ids is greater, and valid."""
    known = id_of(tick, tail)
    last = ids._last_tick
    try:
        made = [new_id(after=known), new_id(after=known)]
        following = new_id()
    finally:
        ids._last_tick = last
    assert min(made) > known
    assert made[0] != made[1]
    assert all(ids.is_id(each) and LAYOUT.fullmatch(each) for each in (*made, following))
    assert milliseconds(following) < max(time.time() * 1000, milliseconds(known)) + DAY


def test_clocks_that_differ_by_hours_keep_the_order(clock: SimpleNamespace) -> None:
    """After an id that is some hours ahead all of a process's ids are greater, as it may overwrite results again."""
    known = id_of((clock.ns // 10**6 + DAY // 2) << 12, 1)
    made = [new_id(after=known), new_id(), new_id()]
    assert [known, *made] == sorted({known, *made})


@pytest.mark.parametrize("before", [0, 1, 1000], ids=str)
def test_an_id_near_the_end_of_time_takes_nothing_along(before: int, clock: SimpleNamespace) -> None:
    """The last valid id has none behind it, and one before it is followed: later ids of the process are of now."""
    known = id_of(LAST_TICK - before, 1)
    assert ids.is_id(known)
    made = new_id(after=known)
    assert (made > known) == (before > 0)
    assert ids.is_id(made)
    assert milliseconds(new_id()) == clock.ns // 10**6


@pytest.mark.parametrize(
    "text",
    [
        *(None, 7, b"", "", "x", "../../elsewhere", ids.LIMIT, "ffffffff-ffff-7fff-bfff-ffffffffffff"),
        *("0197c5a0-0000-7000-8000-00000000aaa", "0197c5a0-0000-7000-8000-00000000aaaaa"),
        *("0197C5A0-0000-7000-8000-00000000AAAA", "{0197c5a0-0000-7000-8000-00000000aaaa}"),
        *("0197c5a0-0000-4000-8000-00000000aaaa", "0197c5a0-0000-7000-c000-00000000aaaa"),
        *("0197c5a0-0000-7000-8000-00000000aaaa\n", "\u0660197c5a0-0000-7000-8000-00000000aaa"),
    ],
    ids=repr,
)
def test_what_is_no_id(text: object) -> None:
    """Only the canonical text of a UUIDv7 before the year 9999 is an id."""
    assert not ids.is_id(text)
    assert ids.is_id("0197c5a0-0000-7000-8000-00000000aaaa")


def test_the_past_does_not_hold_back(clock: SimpleNamespace) -> None:
    """An id after an old one has the time of now."""
    old = new_id()
    clock.ns += 10**12
    assert milliseconds(new_id(after=old)) == clock.ns // 10**6


FORK = """
import os, sys
from catalog.format.ids import new_id
first = new_id()
reader, writer = os.pipe()
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        os.write(writer, ("\\n".join(new_id() for _ in range(50)) + "\\n").encode())
        os._exit(0)
    children.append(child)
mine = [new_id() for _ in range(50)]
for child in children:
    os.waitpid(child, 0)
os.close(writer)
found = mine + os.fdopen(reader).read().split()
print(len(found), len(set(found)), all(each > first for each in found), len({each[19:] for each in found}))
"""


def test_forked_children_make_ids_of_their_own() -> None:
    """Children of one process, forked within a millisecond, never make the same id: each draws bits of its own."""
    assert run_python(FORK).split() == ["200", "200", "True", "4"]


@given(milliseconds_=st.integers(0, (1 << 48) - 1), digest=st.binary(min_size=10, max_size=20))
def test_an_id_for_what_has_none(milliseconds_: int, digest: bytes) -> None:
    """The id of a time and a content is valid, says the time, and is the same for the same."""
    made = id_at(milliseconds_, digest)
    assert LAYOUT.fullmatch(made)
    assert milliseconds(made) == milliseconds_
    assert made == id_at(milliseconds_, digest)


def test_another_content_has_another_id() -> None:
    """Ten bytes that differ, in the first or in the last, give ids that differ."""
    made = {id_at(5, bytes((first, *[0] * 8, last))) for first in range(16) for last in range(16)}
    assert len(made) == 256


# Times


@pytest.fixture
def nepal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the machine stand in Kathmandu, at UTC+05:45."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Kathmandu")
        time.tzset()
        yield
    time.tzset()


NOON = datetime(2026, 3, 4, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 3, 4, 17, 45),
        datetime(2026, 3, 4, 12, tzinfo=timezone.utc),
        datetime(2026, 3, 4, 7, tzinfo=timezone(timedelta(hours=-5))),
        "2026-03-04T17:45:00",
        "2026-03-04 17:45",
        "2026-03-04T12:00:00Z",
        "2026-03-04T12:00:00+00:00",
        "2026-03-04T17:45:00+05:45",
        " 2026-03-04T12:00:00Z\n",
        "20260304T120000Z",
        "2026-03-04t17:45:00.000+0545",
        "2026-03-04 12:00:00.000000000z",
        "2026-03-04T12:00:00,0+00",
        pandas.Timestamp("2026-03-04 17:45"),
        pandas.Timestamp("2026-03-04 07:00", tz="America/New_York"),
        numpy.datetime64("2026-03-04T17:45"),
        numpy.datetime64("2026-03-04T17:45:00.000000000"),
    ],
)
def test_moments_become_utc(nepal: None, moment: Any) -> None:
    """Naive moments are local ones, aware ones are what they say; both come out as UTC."""
    assert to_utc(moment, "since") == NOON


@pytest.mark.parametrize("day", [date(2026, 3, 4), "2026-03-04", datetime(2026, 3, 4)])
def test_a_date_is_its_midnight(nepal: None, day: Any) -> None:
    """A date, as an object or as a string, is the local midnight it begins with."""
    assert to_utc(day, "since") == datetime(2026, 3, 3, 18, 15, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("far", "moment"),
    [
        (datetime.min, datetime.min),
        (datetime.max, datetime.max),
        (date.max, datetime(9999, 12, 31)),
        ("9999-12-31T23:59:59.999999+00:00", datetime.max),
        (numpy.datetime64(300_000, "Y"), datetime.max),
        (numpy.datetime64(-300_000, "Y"), datetime.min),
        (numpy.datetime64("99999-01-01"), datetime.max),
        (pandas.Timestamp(numpy.datetime64("20000-01-01", "s")), datetime.max),
    ],
)
def test_moments_that_stand_for_ever(far: Any, moment: datetime) -> None:
    """What lies at the edge of Python's calendar, or beyond it, is a moment within a day of that edge."""
    assert abs(to_utc(far, "since") - moment.replace(tzinfo=timezone.utc)) < timedelta(days=1)


def test_moments_before_1970(nepal: None) -> None:
    """A moment before 1970 is as good as any other, in the zone's time of those years."""
    assert to_utc(datetime(1969, 7, 20), "since") == datetime(1969, 7, 19, 18, 30, tzinfo=timezone.utc)
    assert to_utc(numpy.datetime64("1970-01-02", "ps"), "since") == datetime(1970, 1, 1, 18, 30, tzinfo=timezone.utc)
    assert to_utc(numpy.datetime64("1969-07-20"), "since") == datetime(1969, 7, 19, 18, 30, tzinfo=timezone.utc)


@pytest.mark.parametrize("nothing", [pandas.NaT, numpy.datetime64("NaT", "D"), numpy.datetime64("NaT", "ns")])
def test_no_time_is_no_moment(nothing: Any) -> None:
    """NaT is refused by name."""
    with pytest.raises(InvalidQuestion, match="since is NaT"):
        to_utc(nothing, "since")


@pytest.mark.parametrize(
    "bad",
    [
        numpy.timedelta64(1, "s"),
        pandas.Timedelta("1s"),
        0,
        1.5,
        None,
        b"2026-01-01",
        object(),
        "tomorrow",
        "2026-3-4",
        "20xx",
    ],
)
def test_what_is_no_moment(bad: Any) -> None:
    """What is no moment is refused, with the parameter's name."""
    with pytest.raises(InvalidQuestion, match="until"):
        to_utc(bad, "until")


def test_a_span_is_in_order() -> None:
    """A span may be open or empty, but not end before it begins."""
    assert span(None, None) == (None, None)
    assert span("2026-03-04T12:00Z", None) == (NOON, None)
    assert span("2026-03-04T12:00Z", "2026-03-04T12:00Z") == (NOON, NOON)
    with pytest.raises(InvalidQuestion, match="since='2026-03-05' is after until='2026-03-04'"):
        span("2026-03-05", "2026-03-04")


@given(microseconds=st.integers(0, 4_102_444_800 * 10**6))
def test_times_of_the_journal_are_iso_8601(microseconds: int) -> None:
    """The text of a time is read back as that time, to the microsecond that a float can tell."""
    seconds = microseconds / 10**6
    read = datetime.fromisoformat(utc_text(seconds).replace("Z", "+00:00"))
    assert abs(read - datetime(1970, 1, 1, tzinfo=timezone.utc) - timedelta(microseconds=microseconds)) <= timedelta(
        microseconds=1
    )


@pytest.mark.parametrize("seconds", [0.0, 0.9999999, 1_700_000_000.9999999])
def test_times_at_the_edge_of_a_second(seconds: float) -> None:
    """Times just before the next second are texts that can be read."""
    read = datetime.fromisoformat(utc_text(seconds).replace("Z", "+00:00"))
    assert abs(read.timestamp() - seconds) <= 1e-5
