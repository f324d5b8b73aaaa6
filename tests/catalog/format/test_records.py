"""Records, footers and journal lines that make no sense: they are damaged, and nothing else suffers."""

from __future__ import annotations

import json
import logging
import pickle
import random
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import xxhash
from msgspec.structs import astuple

from catalog.errors import CatalogError, DamagedFooter
from catalog.format.events import found_line
from catalog.format.footer import Footer
from catalog.format.ids import LIMIT, new_id
from catalog.format.record import Record, decode, parsed
from functionfuse.errors import FunctionFuseError, InvalidPickle
from functionfuse.storage.base import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.fsspecstorage import FsspecStorage
from seeds import seeds

MAGIC = b"\x89FFb\r\n\x1a\n"
ID = "0197c5a0-0000-7000-8000-00000000aaaa"
END = "ffffffff-ffff-7fff-bfff-ffffffffffff"
MARK = "\U0010f8ff"
BODY = 640  # bytes, of the blob that `whole` describes
DIGEST = f"xxh3:{'0' * 32}"


def side(**other: Any) -> dict[str, Any]:
    """Return what a footer says of a side file."""
    return {"name": "part/0.parquet", "size": 7, "digest": DIGEST, **other}


def whole(**other: Any) -> dict[str, Any]:
    """Return a valid record with every member that has a rule, and others in their place."""
    return {
        "blob_id": ID,
        "workflow": "w",
        "task": "t",
        "type": "int",
        "summary": {"shape": [3]},
        "value": [1, {"a": None}],
        "packages": {"numpy": "2.0"},
        "replaces": None,
        "run_id": ID,
        "function": "module.name",
        "code_fingerprint": "3.11:0",
        "lineage": "3.11:1",
        "inputs": {"x": f"blob:{ID}", "y": None},
        "parents": ["a"],
        "duration": 0.5,
        "saved_at": "2026-01-01T00:00:00.000000Z",
        "checksum": DIGEST,
        "scheme": "bytecode-1",
        "serializers": ["pickle", "Own"],
        "side_files": [side()],
        "side_digest": DIGEST,
        "host": "h",
        "user": "u",
        "pid": 1,
        "python": "3.11",
        "stream": 100,
        "buffers": [[128, 64], [192, 448, 1000, "zstd", [400, 48], 8]],
        **other,
    }


BIG = 1 << 63
NO_TEXT = [0, 1.5, True, [], {}, ["a"]]
NO_NAME = [*NO_TEXT, "", f"{MARK}110000", f"{MARK}ffffffff", f"{MARK}00002f", MARK, "\ud800"]
NO_ID = [
    *NO_TEXT,
    "",
    "x",
    "../../elsewhere",
    END,
    LIMIT,
    ID.upper(),
    ID.replace("7000", "4000"),
    f"{{{ID}}}",
    f"{ID}\n",
]
NO_SIZE = [-1, BIG, 10**40, 0.5, 64.0, True, "7", [], {}]
NO_PATH = [None, 7, "", "/etc/passwd", "../x", "a/../../x", "a//x", "./x", "x/", "a\0b", f"{MARK}110000"]
NO_SIDE = [None, 7, "abc", [], *(side(name=name) for name in NO_PATH), *(side(size=size) for size in (None, *NO_SIZE))]
NO_SIDE += [side(digest=digest) for digest in (7, "", "xxh3:0", "xxh3:" + "0" * 33, "0" * 32, "sha256:", "a b:00")]
NO_TIME = ["", "yesterday", "infinity", "2026-01-01 00:00:00", "2026-01-01T00:00:00.000000+00:00"]
NO_TIME += ["2026-02-30T00:00:00.000000Z", "2026-01-01T25:00:00.000000Z", "\u0662026-01-01T00:00:00.000000Z"]
NO_TIME += ["9999-01-01T00:00:00.000000Z", "1969-12-31T23:59:59.999999Z", "0000-01-01T00:00:00.000000Z"]
FRAMES = [[400, 47], [400, 49], [448, 0.0], [-400, 848], [448, None], "448", 448, None, {}]
NO_PLACE = [
    None,
    5,
    "ab",
    [],
    [128],
    [0, 64],
    [129, 63],
    [-64, 64],
    [0.5, 64],
    ["a", "b"],
    [128, -64],
    [128, 1 << 40],
    [128, BIG],
]
PACKED = [(1000, "zstd", frames, 8) for frames in FRAMES] + [
    (1000, "zstd", [448], width) for width in (0, -1, 7, "8", 2.0)
]
PACKED += [(size, "zstd", [448], 1) for size in NO_SIZE] + [(1000, codec, [448], 1) for codec in (None, 7, [])]
INVALID: dict[str, list[Any]] = {
    **{name: [None, *NO_NAME] for name in ("workflow", "task")},
    "blob_id": [None, *NO_ID],
    "run_id": NO_ID,
    "replaces": NO_ID,
    **dict.fromkeys(("type", "function", "code_fingerprint", "lineage", "scheme", "checksum", "host"), NO_TEXT),
    **dict.fromkeys(("user", "python", "side_digest"), NO_TEXT),
    "inputs": [7, "x", [], {"x": 7}, {"x": []}, True],
    "parents": [7, "x", {}, ["a", 7], [None], True],
    "serializers": [None, [], 3, "pickle", {}, ["pickle", None], [7]],
    "duration": ["x", True, [], {}, BIG],
    "saved_at": [None, *NO_TEXT, *NO_TIME],
    "pid": ["1", 0.5, True, [], BIG, -(10**40)],
    "side_files": ["abc", 5, {}, [side(), side()], [side(size=BIG - 1), side(name="b")], *([each] for each in NO_SIDE)],
    "side_list": [7, "x", [], {}, {"name": "l", "size": 1, "files": 1, "bytes": 1}, {"name": "../l"}],
    "stream": [None, *NO_SIZE, 129, 10**18],
    "buffers": [None, 5, "ab", [], {}, [[128, 512], [192, 448]], *([place] for place in NO_PLACE)]
    + [[[128, 64], [192, 448, *packed]] for packed in PACKED],
}
TEXTS = {
    "empty": b"",
    "no JSON": b"{{{{{{{{",
    "a list": b"[1,2]",
    "a number": b"1" * 60,
    "more digits than Python reads": b"9" * 6_000,
    "no ASCII": b'{"blob_id":"\xff"}',
    "deep": b"[" * 200_000 + b"]" * 200_000,
    "not so deep": json.dumps(whole())[:-1].encode() + b',"x":' + b'[{"a":' * 60 + b"1" + b"}]" * 60 + b"}",
    "with NaN": json.dumps(whole(value=float("nan"))).encode(),
    "with an infinity": json.dumps(whole(value=float("-inf"))).encode(),
    "with a number that is an infinity": json.dumps(whole())[:-1].encode() + b',"x":1e999}',
    "with a member twice": json.dumps(whole())[:-1].encode() + b',"task":"t"}',
    "with a lone surrogate": json.dumps(whole(value="\udfff")).encode(),
    "with a key that is one": json.dumps(whole(value={"\ud83d": 1})).encode(),
    "cut": json.dumps(whole()).encode()[:-1],
}


def record_of(members: dict[str, Any], plain: bool = False) -> Record:
    """Return the record of JSON members."""
    return decode(text_of(members), BODY, plain)


def text_of(members: dict[str, Any]) -> bytes:
    """Return JSON members as a footer's text."""
    return json.dumps(members).encode()


def test_a_valid_record_is_typed() -> None:
    """Every member of a valid record comes back, also those that nobody knows, and side files and buffers are typed."""
    members = whole(new={"from": "the future"}, value="\U0001f600", side_files=[side(name=f"{MARK}00dcff")])
    record = record_of(members)
    assert parsed(text_of(members)) == members
    assert record.inputs == members["inputs"]
    assert (record.blob_id, record.serializers, record.stream) == (ID, ("pickle", "Own"), 100)
    assert [astuple(each) for each in record.side_files] == [("\udcff", 7, DIGEST)]
    assert [(each.offset, each.size, each.logical_size) for each in record.places] == [(128, 64, 64), (192, 448, 1000)]
    assert (record.side_size, record.side_count, record.saved_by_packing) == (7, 1, 552)


def test_what_may_be_left_out() -> None:
    """A record needs its names, its id, its time and its serializers; null stands for what is not there."""
    needed = {name: whole()[name] for name in ("blob_id", "workflow", "task", "saved_at", "serializers")}
    assert not record_of(needed).side_files
    assert record_of(whole(**dict.fromkeys(whole().keys() - needed))).buffers == ()
    for name in needed:
        with pytest.raises(DamagedFooter, match=name):
            record_of({key: value for key, value in needed.items() if key != name})


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_member(name: str) -> None:
    """A member of the wrong type, size or form makes its record damaged."""
    for value in INVALID[name]:
        with pytest.raises(DamagedFooter, match="the footer's record is invalid"):
            record_of(whole(**{name: value}))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_an_invalid_text(text: bytes) -> None:
    """What is no JSON object, or one that no JSON of this package is like, is damaged."""
    with pytest.raises(DamagedFooter, match="the footer's record is invalid"):
        decode(text, BODY, False)


def test_a_plain_blob_has_nothing_else() -> None:
    """Where the trailer says that the body is one pickle stream, the record says nothing else."""
    plain = whole(serializers=["pickle"], side_files=None, stream=None, buffers=None)
    assert record_of(plain, plain=True).stream is None
    for other in (whole(serializers=["pickle"]), {**plain, "serializers": ["pickle", "Own"]}):
        with pytest.raises(DamagedFooter, match="one pickle stream"):
            record_of(other, plain=True)


# At random

ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    7,
    BIG,
    10**40,
    1.5,
    float("inf"),
    float("nan"),
    "",
    "x",
    "../x",
    MARK + "110000",
    "\ud800",
]
ODD += ["a\0b", END, ID, [], [[]], {}, {"a": 1}, "2026-01-01T00:00:00.000000Z", "infinity", "1e999", [ID], "\U0001f600"]


def changed(value: Any, rng: random.Random) -> Any:
    """Return JSON with one thing in it changed: replaced, taken out, or put in twice."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        copy = value.copy()
        if rng.random() < 0.1:
            del copy[key]
        else:
            copy[key] = changed(copy[key], rng)
        return copy
    return rng.choice(ODD)


def odd_text(members: dict[str, Any], rng: random.Random) -> bytes:
    """Return a record as text, after some changes to its members, or to its bytes."""
    for _ in range(rng.randrange(1, 4)):
        members = changed(members, rng) if isinstance(members, dict) else members
    text = json.dumps(members).encode()
    if rng.random() < 0.3 and text:
        at = rng.randrange(len(text))
        text = (
            text[:at] + rng.choice([b"", rng.randbytes(2), b"[" * 300, b'"', text[at : at + 40] * 2]) + text[at + 1 :]
        )
    return text.replace(b"\n", b" ")


@pytest.mark.parametrize("seed", seeds(1, *range(2, 12)))
def test_records_at_random(seed: int) -> None:
    """Whatever a record says, it is either valid, and then as it was written, or damaged; there is no other error."""
    rng = random.Random(seed)
    valid = 0
    for _ in range(3_000):
        text = odd_text(whole(), rng)
        try:
            record = decode(text, BODY, False)
        except DamagedFooter:
            continue
        valid += 1
        line = found_line(Footer(text, BODY, b"", False, 3), BODY)
        own = {"event": "save", "format": 3, "size": BODY, "logical_size": BODY + record.saved_by_packing}
        said = {name: value for name, value in json.loads(text).items() if name not in ("event_id", "time")}
        assert json.loads(line) == {**said, **own}
        assert json.dumps(json.loads(line), ensure_ascii=False, allow_nan=False).encode()
    assert 0 < valid < 3_000


FILES = 24


def sealed(footer: bytes, body: bytes) -> bytes:
    """Return a blob whose seal is right, whatever its footer says."""
    end = footer + struct.pack("<16sIHH", xxhash.xxh3_128_digest(body), len(footer), 3, 0)
    return body + end + struct.pack("<Q8s", xxhash.xxh3_64_intdigest(end), MAGIC)


class Place:
    """A storage, and the bytes behind its back."""

    def __init__(self, kind: str, path: Path) -> None:
        self.storage: Storage
        if kind == "folder":
            self.storage = FileStorage(path)
        else:
            self.storage = FsspecStorage(f"memory://{path.name}-{new_id()}")

    def put(self, file: str, data: bytes) -> None:
        """Write a file."""
        if isinstance(self.storage, FileStorage):
            path = Path(self.storage.catalog.path, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        else:
            import fsspec

            filesystem, root = fsspec.core.url_to_fs(self.storage.catalog.path)
            filesystem.pipe_file(f"{root}/{file}", data)


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Return a storage with one result, in a folder or a bucket; nothing is logged."""
    logging.disable(logging.CRITICAL)
    place = Place(request.param, tmp_path)
    place.storage.save("w", "good", 41)
    yield place
    logging.disable(logging.NOTSET)


def check_all_answers(storage: Storage, good: str = "good") -> None:
    """Assert that whatever is asked is answered, and that the good result is in the answers."""
    catalog = storage.catalog
    assert good in storage.list_tasks("w")
    assert storage.read_task("w", good) == 41
    for table in ("tasks", "events", "runs"):
        rows = catalog.sql(f"SELECT * FROM {table}").fetchall()
        assert table == "runs" or any(good in row for row in rows)
    assert catalog.sql("SELECT sum(size), max(saved_at), max(value) FROM tasks").fetchall()
    assert repr(catalog)
    assert catalog._repr_html_()


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(1, *range(2, 12)))
def test_footers_at_random(seed: int, place: Place) -> None:
    """Of many files with a right seal and an odd footer the invalid ones are damaged, and all else is as it was.

    They are left out of every answer, reported by `verify`, refused by reading where it needs more than the stream, can
    be saved over and removed.
    """
    rng = random.Random(seed)
    storage = place.storage
    stream = pickle.dumps(7, 5)
    base = {**whole(), "serializers": ["pickle"]}
    for name in ("side_files", "side_digest", "stream", "buffers"):
        del base[name]
    invalid = set()
    for number in range(FILES):
        name = f"odd {number}"
        footer = odd_text(
            {**base, "task": name, "blob_id": new_id(), **rng.choice([{}, {"side_files": [side()]}])}, rng
        )
        place.put(f"w/{name}", sealed(footer, stream))
        try:
            decode(footer, len(stream), False)
        except DamagedFooter:
            invalid.add(name)
    assert invalid
    check_all_answers(storage)
    assert invalid.isdisjoint(storage.list_tasks("w"))
    report = storage.verify()
    assert invalid <= {found.task for found in report.damaged}
    for number in range(FILES):
        name = f"odd {number}"
        if name in invalid:
            with pytest.raises(InvalidPickle, match="invalid"):
                storage.read_task("w", name)
        else:
            with suppress(FunctionFuseError):
                storage.read_task("w", name)
        if number % 2:
            storage.save("w", name, 42)
            assert storage.read_task("w", name) == 42
        else:
            storage.remove_task("w", name)
    assert set(storage.list_tasks("w")) == {"good", *(f"odd {number}" for number in range(1, FILES, 2))}
    assert storage.verify().damaged == ()
    check_all_answers(storage)


LINE = {"event": "save", "format": 3, "size": 10, "logical_size": 10, **whole(serializers=["pickle"])}
ODD_LINES: dict[str, dict[str, Any]] = {
    "an empty task": {"task": ""},
    "an empty workflow": {"workflow": ""},
    "a mark beyond Unicode": {"workflow": f"{MARK}110000"},
    "a mark of what needs none": {"task": f"{MARK}00002f"},
    "a name that is a number": {"task": 7},
    "a name that is an object": {"task": {"a": 1}},
    "a name that is true": {"workflow": True},
    "an id at the end of time": {"blob_id": END},
    "an id of another version": {"blob_id": ID.replace("7000", "4000")},
    "a replaced id at the end of time": {"replaces": END},
    "no time": {"saved_at": None},
    "no time that is": {"saved_at": "yesterday"},
    "a time without an end": {"saved_at": "infinity"},
    "a time after all that Python has": {"saved_at": "12026-01-01T00:00:00Z"},
    "a time before 1970": {"saved_at": "0001-01-01T00:00:00Z"},
    "no size": {"size": None},
    "a size beyond 64 bits": {"size": BIG},
    "a negative size": {"size": -1},
    "a negative logical size": {"logical_size": -1},
}


def line(number: int = 1, **other: Any) -> bytes:
    """Return a journal line."""
    return json.dumps({**LINE, "blob_id": f"0197c5a0-0000-7000-8000-{number:012x}", **other}).encode() + b"\n"


def test_odd_lines_are_counted_and_left_out(place: Place) -> None:
    """A line whose ids, names, times or sizes no event has makes no row; it is counted, `verify` counts it, too."""
    odd = b"".join(line(number, **{"task": "odd", **other}) for number, other in enumerate(ODD_LINES.values()))
    finished = {"event": "run-finished", "event_id": new_id(), "time": LINE["saved_at"], "workflow": "w", "run_id": ID}
    odd += json.dumps({**finished, "details": {"status": "finished", "computed": "many"}}).encode() + b"\n"
    place.put(f".catalog/journal/{new_id()}.ndjson", odd)
    assert place.storage.catalog.refresh().torn == len(ODD_LINES) + 1
    assert place.storage.catalog.sql("SELECT task FROM events").fetchall() == [("good",)]
    check_all_answers(place.storage)
    report = place.storage.verify()
    assert (report.torn, report.ok) == (len(ODD_LINES) + 1, True)
    assert f"no events: {report.torn}" in str(report)


def test_sizes_whose_sum_is_too_large(place: Place) -> None:
    """Lines of results of nearly 2^63 bytes each are valid, and totals of several show as much as a BIGINT holds."""
    large = b"".join(line(number, task=f"large {number}", workflow="x", size=BIG - 1) for number in range(3))
    place.put(f".catalog/journal/{new_id()}.ndjson", large)
    place.put(f".catalog/journal/{new_id()}.ndjson", line(7, task="behind"))
    assert place.storage.catalog.refresh().torn == 0
    check_all_answers(place.storage)


def test_names_that_look_like_other_json_are_names(place: Place) -> None:
    """Names of digits, of brackets, and such as ``true`` are texts in a line, and so they are names."""
    names = ["7", "-1.5e3", "{}", "[1]", "true", "false", "null", '"', "\U0010f8ff", "\ud800", "a\0b"]
    for name in names:
        place.storage.save("w", name, 1)
    assert set(names) < set(place.storage.list_tasks("w"))
    assert place.storage.catalog.refresh().torn == 0
    place.storage.catalog.rebuild()
    assert set(names) < set(place.storage.list_tasks("w"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(1, *range(2, 12)))
def test_lines_at_random(seed: int, place: Place) -> None:
    """Hundreds of odd lines stop no question, no compaction and no rebuilding, and every listed task can be shown."""
    rng = random.Random(seed)
    storage = place.storage
    lines = []
    for number in range(200):
        kind = rng.choice(["save", "save", "save", "remove", "pin", "run-started", "run-finished", "unheard of"])
        own = {} if kind == "save" else {"event_id": new_id(), "time": LINE["saved_at"], "details": {"computed": 1}}
        odd = odd_text({**LINE, "event": kind, "task": f"odd {number % 12}", "blob_id": new_id(), **own}, rng)
        lines.append(odd + b"\n")
    place.put(f".catalog/journal/{new_id()}.ndjson", b"".join(lines))
    check_all_answers(storage)
    assert 0 < storage.catalog.refresh().torn < 200
    for name in storage.list_tasks("w"):
        with suppress(CatalogError):  # it is gone, as no file has that name
            assert storage.catalog.task("w", name).task == name
    storage.verify(repair=True)
    storage.catalog.compact()
    storage.catalog.rebuild()
    storage.gc(keep_last=1, dry_run=False)
    storage.save("w", "good", 41)
    check_all_answers(storage)
