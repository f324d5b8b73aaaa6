"""The blob file: its format, taken apart and put together by hand, and damage of every kind."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.format import ids
from catalog.format.record import Origin
from functionfuse.errors import InvalidPickle, UnsupportedFormat
from functionfuse.storage.filestorage import FileStorage

MAGIC = b"\x89FFb\r\n\x1a\n"


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """Return a storage with nothing in it."""
    return FileStorage(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return where task "t" of workflow "w" is kept."""
    (tmp_path / "w").mkdir()
    return tmp_path / "w" / "t"


def by_hand(body: bytes, record: dict[str, Any], *, version: int = 1, flags: int = 1) -> bytes:
    """Return a blob, put together as `catalog.format.footer` describes it."""
    footer = json.dumps(record).encode()
    trailer = xxhash.xxh3_128_digest(body) + struct.pack("<IHH", len(footer), version, flags)
    seal = struct.pack("<Q", xxhash.xxh3_64_intdigest(footer + trailer))
    return body + footer + trailer + seal + MAGIC


def record(**fields: Any) -> dict[str, Any]:
    """Return the least that a footer says; its blob id comes first."""
    return {
        "blob_id": "018e0000-0000-7000-8000-000000000001",
        "workflow": "w",
        "task": "t",
        "saved_at": "2024-02-29T12:00:00.000001Z",
        "checksum": "xxh3:0",
        "serializers": ["pickle"],
        **fields,
    }


def refused(storage: FileStorage) -> type[Exception]:
    """Return how reading the task is refused; fail if it is not."""
    with pytest.raises((InvalidPickle, UnsupportedFormat)) as caught:
        storage.read_task("w", "t")
    return caught.type


# The format


def test_the_format_by_hand(storage: FileStorage, file: Path) -> None:
    """What `save` writes is a pickle, a JSON object and forty bytes, each where the description says."""
    storage.save("w", "t", {"a": [1, 2]})
    data = file.read_bytes()
    checksum, length, version, flags, seal, magic = struct.unpack("<16sIHHQ8s", data[-40:])
    assert magic == bytes.fromhex("89 46 46 62 0D 0A 1A 0A")
    assert (version, flags) == (3, 1)
    body, footer = data[: -40 - length], data[-40 - length : -40]
    assert pickle.loads(body) == {"a": [1, 2]}
    assert checksum == xxhash.xxh3_128(body).digest()
    assert seal == xxhash.xxh3_64(footer + data[-40:-16]).intdigest()
    assert footer.isascii()
    assert next(iter(json.loads(footer))) == "blob_id"
    assert json.loads(footer)["checksum"] == f"xxh3:{checksum.hex()}"


def test_a_blob_made_by_hand_is_read(storage: FileStorage, file: Path) -> None:
    """A blob that the description alone was enough to make is read, listed and catalogued."""
    file.write_bytes(by_hand(pickle.dumps(["by", "hand"]), record(type="list", value=["by", "hand"])))
    assert storage.read_task("w", "t") == ["by", "hand"]
    assert storage.list_tasks("w") == ["t"]
    columns = "blob_id::VARCHAR, format, size, saved_at::VARCHAR, value->>0"
    assert storage.catalog.sql(f"SELECT {columns} FROM tasks").fetchall() == [
        ("018e0000-0000-7000-8000-000000000001", 1, file.stat().st_size, "2024-02-29 12:00:00.000001+00", "by")
    ]


def test_buffers_by_hand(storage: FileStorage, file: Path) -> None:
    """Buffers lie where the footer says, in the order in which the stream needs them."""
    buffers: list[pickle.PickleBuffer] = []
    arrays = [np.arange(3), np.arange(5.0)]
    stream = pickle.dumps(arrays, protocol=5, buffer_callback=buffers.append)
    body, places = stream, []
    for buffer in buffers:
        body += bytes(-len(body) % 64)
        places.append([len(body), buffer.raw().nbytes])
        body += buffer.raw()
    file.write_bytes(by_hand(body, record(stream=len(stream), buffers=places), flags=0))
    first, second = storage.read_task("w", "t")
    np.testing.assert_array_equal(first, arrays[0])
    np.testing.assert_array_equal(second, arrays[1])


def test_unknown_fields_of_the_footer_do_no_harm(storage: FileStorage, file: Path) -> None:
    """A footer may say more than this version knows."""
    file.write_bytes(by_hand(pickle.dumps(1), record(**{"from the future": {"deep": [None]}})))
    assert storage.read_task("w", "t") == 1
    assert storage.list_tasks("w") == ["t"]


def test_an_overwrite_is_newer_whatever_the_clocks_say(
    storage: FileStorage, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a blob from the future is saved one with a greater id, and that one is in the catalog."""
    monkeypatch.setattr(ids, "_last_tick", 0)  # given back after: other tests' ids are of this year
    future = "0fffffff-0000-7000-8000-000000000001"
    file.write_bytes(by_hand(pickle.dumps("future"), record(blob_id=future, saved_at="2500-01-01T00:00:00.000000Z")))
    assert storage.catalog.sql("SELECT blob_id::VARCHAR FROM tasks").fetchall() == [(future,)]
    storage.save("w", "t", "now")
    ((saved,),) = storage.catalog.sql("SELECT blob_id::VARCHAR FROM tasks").fetchall()
    assert saved > future
    assert saved == storage.footer("w", "t").record.blob_id
    storage.remove_task("w", "t")
    assert storage.list_tasks("w") == []


@pytest.mark.parametrize("version", [4, 5, 255, 65535])
def test_a_newer_format_is_refused(storage: FileStorage, file: Path, version: int) -> None:
    """A blob of a newer format is neither read nor overwritten nor removed, and the message says what to do."""
    data = by_hand(pickle.dumps(1), record(), version=version)
    file.write_bytes(data)
    for ask in (storage.read_task, storage.remove_task, lambda *names: storage.save(*names, 2)):
        with pytest.raises(UnsupportedFormat, match=rf"'t' of workflow 'w'.*format {version}.*install a newer"):
            ask("w", "t")
    assert file.read_bytes() == data
    assert os.listdir(file.parent) == ["t"]


@pytest.mark.parametrize("length", [3_000, 4_096 - 40, 5_000, 70_000, 300_000])
def test_a_long_footer(storage: FileStorage, file: Path, length: int) -> None:
    """A footer longer than what is read at first is found all the same, by storage and catalog."""
    storage.keep("w", "t", "short", Origin(details="x" * length))
    (file.parent.parent / ".catalog").rename(file.parent.parent / ".put away")
    fresh = FileStorage(file.parent.parent)
    assert fresh.read_task("w", "t") == "short"
    assert len(fresh.restore("w", "t").footer.record.details) == length
    assert fresh.list_tasks("w") == ["t"]
    fresh.save("w", "t", "again")
    assert fresh.read_task("w", "t") == "again"


@pytest.mark.parametrize("around", [1 << 16, 1 << 20])
def test_sizes_around_the_thresholds(storage: FileStorage, file: Path, around: int) -> None:
    """Nothing is lost or mixed up where a stream begins to be spilled, and a file to be mapped."""
    for size in [around + step for step in (-700, -100, -41, -40, -2, -1, 0, 1, 100)]:
        text = random.Random(size).randbytes(size)
        for obj in (text, [text, "behind"], bytearray(text), np.frombuffer(text, np.uint8)):
            storage.save("w", "t", obj)
            found = storage.read_task("w", "t")
            assert type(found) is type(obj)
            assert bytes(found) == text if not isinstance(obj, list) else found == obj


@pytest.mark.parametrize("mebibytes", [0, 3, 12])
def test_a_stream_that_is_begun_anew(storage: FileStorage, mebibytes: int) -> None:
    """What plain pickle wrote before it met a function without a name is in the result once, and in its checksum."""
    texts = [random.Random(number).randbytes(1024).hex() for number in range(512 * mebibytes)]
    storage.save("w", "t", [texts, lambda: len(texts), "behind"])
    found, function, behind = storage.read_task("w", "t")
    assert (found, function(), behind) == (texts, len(texts), "behind")


def test_many_pieces(storage: FileStorage, file: Path) -> None:
    """More buffers than the system writes at once, and gaps between them, are all where the record says."""
    arrays = [np.full((1 << 16) + 6, number % 251, np.uint8)[number % 7 :] for number in range(1_500)]
    for packing in (None, "auto"):
        FileStorage(storage.catalog.path, compression=packing).save("w", "t", arrays)
        found = storage.read_task("w", "t")
        assert all(np.array_equal(one, other) for one, other in zip(found, arrays, strict=True))


# Damage


@pytest.mark.parametrize("obj", [{"a": [1, "text"]}, None], ids=["dict", "None"])
def test_no_flipped_bit_goes_unnoticed(storage: FileStorage, file: Path, obj: Any) -> None:
    """Whichever single bit of a blob is flipped, the version's bits too, it is damaged."""
    storage.save("w", "t", obj)
    good = file.read_bytes()
    with open(file, "r+b", buffering=0) as handle:
        for position, byte in enumerate(good):
            for bit in range(8):
                os.pwrite(handle.fileno(), bytes([byte ^ 1 << bit]), position)
                assert refused(storage) is InvalidPickle, (position, bit)
            os.pwrite(handle.fileno(), bytes([byte]), position)
    assert storage.read_task("w", "t") == obj


def test_no_cut_goes_unnoticed(storage: FileStorage, file: Path) -> None:
    """At whatever length a blob is cut, nothing included, it is damaged."""
    storage.save("w", "t", {"a": [1, "text"]})
    for length in reversed(range(file.stat().st_size)):
        os.truncate(file, length)
        assert refused(storage) is InvalidPickle, length


@given(start=st.floats(0, 1), end=st.floats(0, 1), between=st.binary(max_size=60))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_change_goes_unnoticed(storage: FileStorage, file: Path, start: float, end: float, between: bytes) -> None:
    """Bytes overwritten, left out, doubled or put in anywhere in a blob never come back as data."""
    good = by_hand(pickle.dumps({"a": list(range(100))}), record())
    bad = good[: int(start * len(good))] + between + good[int(end * len(good)) :]
    file.write_bytes(bad)
    assert bad == good or refused(storage) is InvalidPickle


@pytest.mark.parametrize("size", [0, 1, 19, 20, 21, 39, 40, 41, 64, 4096])
@pytest.mark.parametrize("content", ["zeros", "noise", "magic"])
def test_foreign_bytes_are_no_blob(storage: FileStorage, file: Path, size: int, content: str) -> None:
    """A file that is no blob at all, the magic at its end or not, is damaged."""
    data = {"zeros": bytes(size), "noise": random.Random(size).randbytes(size), "magic": bytes(size) + MAGIC}[content]
    file.write_bytes(data)
    assert refused(storage) is InvalidPickle


def test_blobs_do_not_run_together(storage: FileStorage, file: Path) -> None:
    """Two blobs one after the other in a file, or a blob with something behind it, are damaged."""
    storage.save("w", "t", "one")
    one = file.read_bytes()
    storage.save("w", "t", "two")
    two = file.read_bytes()
    for bad in (one + two, two + one, one + one, one + b"\0", one + MAGIC):
        file.write_bytes(bad)
        assert refused(storage) is InvalidPickle


def test_a_footer_does_not_fit_another_body(storage: FileStorage, file: Path) -> None:
    """The end of one blob behind the body of another, of the same size, is damaged."""
    storage.save("w", "t", "one")
    one = file.read_bytes()
    storage.save("w", "t", "two")
    two = file.read_bytes()
    length = len(pickle.dumps("one", protocol=5))
    file.write_bytes(one[:length] + two[length:])
    assert refused(storage) is InvalidPickle


def test_nothing_is_unpickled_before_it_is_checked(storage: FileStorage, file: Path, tmp_path: Path) -> None:
    """A damaged blob executes nothing of what its pickle says, neither in a read nor in an overwrite nor a removal."""
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(trap),)

    good = by_hand(pickle.dumps(Trap()), record())
    older = pickle.dumps(Trap())
    for bad in (
        good[:-1],
        good[:-50] + b"x" + good[-49:],
        older,
        older + bytes(20),
        older + hashlib.md5(older).digest(),
    ):
        file.write_bytes(bad)
        assert refused(storage) is InvalidPickle
        assert storage.list_tasks("w") in (["t"], [])
        storage.save("w", "t", 1)
        file.write_bytes(bad)
        storage.remove_task("w", "t")
    assert not trap.exists()
    file.write_bytes(good)
    storage.read_task("w", "t")
    assert trap.exists()  # it would have sprung


# Large blobs


@pytest.fixture
def large(storage: FileStorage, file: Path) -> bytes:
    """Save a result with two large arrays and return its blob."""
    random_numbers = np.random.default_rng(0)  # which are not compressed
    storage.save("w", "t", [random_numbers.random(20_001), "between", random_numbers.random(30_003)])
    return file.read_bytes()


def test_damage_in_the_buffers(storage: FileStorage, file: Path, large: bytes) -> None:
    """A bit flipped in a large buffer, in the padding before it, in the stream or in the footer is noticed."""
    length = struct.unpack_from("<I", large, len(large) - 24)[0]
    footer = json.loads(large[-40 - length : -40])
    stream, places = footer["stream"], footer["buffers"]
    assert len(places) == 2
    assert places[0][0] > stream  # there is padding
    edges = [0, stream - 1, stream, len(large) - 41 - length, len(large) - 40 - length, len(large) - 1]
    edges += [offset + at for offset, size in places for at in (-1, 0, 1, size // 2, size - 1)]
    positions = {*edges, *random.Random(0).sample(range(len(large)), 100)}
    with open(file, "r+b", buffering=0) as handle:
        for position in sorted(positions):
            os.pwrite(handle.fileno(), bytes([large[position] ^ 16]), position)
            assert refused(storage) is InvalidPickle, position
            os.pwrite(handle.fileno(), large[position : position + 1], position)
    assert storage.read_task("w", "t")[1] == "between"


def test_cuts_in_a_large_blob(storage: FileStorage, file: Path, large: bytes) -> None:
    """A large blob that was cut, at page borders too, is damaged."""
    for length in sorted({*range(0, len(large), 4096), 1 << 16, (1 << 16) + 1, len(large) - 1}, reverse=True):
        os.truncate(file, length)
        assert refused(storage) is InvalidPickle, length


def test_damage_is_found_before_a_serializer_is_missed(storage: FileStorage, file: Path) -> None:
    """What is wrong with the bytes is said first: a damaged blob never asks for a serializer."""
    data = by_hand(pickle.dumps(1), record(serializers=["pickle", "Unknown"]), flags=0)
    file.write_bytes(b"\x81" + data[1:])
    assert refused(storage) is InvalidPickle
