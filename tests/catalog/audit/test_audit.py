"""`verify_exports`: whatever was changed, dropped or left out is found and named, by the files alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from auditor import forge, manifest_of
from catalog.audit.audit import Audit, verify_exports
from catalog.errors import InvalidQuestion
from functionfuse.storage.filestorage import FileStorage
from workshop import save_event, write_segment

Made = tuple[FileStorage, list[Path]]
RUN = "01890000-0000-7000-8000-00000000000"
FOREIGN = "01890000-0000-7000-8000-0000000000f"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return a storage, and three exports of its events, each after the one before; two processes wrote them."""
    folder = tmp_path_factory.mktemp("made")
    storage = FileStorage(folder / "storage")
    paths: list[Path] = []
    for number in range(3):
        for task in "abcd":
            storage.save("w", f"{task}{number}", number)
        storage.remove_task("w", f"a{number}")
        if number == 1:  # the second event is the last of its segment, and never came true
            write_segment(storage, [save_event("w", f"foreign{last}", f"{FOREIGN}{last}") for last in (1, 2)])
        storage.note("run-started", "w", f"{RUN}{number}", {"backend": "local"})
        paths.append(folder / f"{number}.parquet")
        storage.catalog.export(paths[-1], "events", after=paths[-2] if number else None)
    return storage, paths


@pytest.fixture
def storage(made: Made) -> FileStorage:
    """Return the storage."""
    return made[0]


@pytest.fixture
def chain(made: Made, tmp_path: Path) -> list[Path]:
    """Return copies of the three exports."""
    return [Path(shutil.copy(path, tmp_path)) for path in made[1]]


def kinds(audit: Audit) -> set[tuple[str, str]]:
    """Return the names of files with the kinds of what was found in them."""
    return {(os.path.basename(finding.path), finding.kind) for finding in audit.findings}


def test_a_chain_in_any_order(chain: list[Path]) -> None:
    """A chain of exports is sound, in whatever order its files are named, and each file says which one it follows."""
    for paths in (chain, chain[::-1], [chain[1], chain[0], chain[2]]):
        audit = verify_exports(*paths)
        assert audit.ok, audit.findings
        assert [file.follows for file in audit.files] == [None, str(chain[0]), str(chain[1])]
        assert [file.rows for file in audit.files] == [6, 7, 6]
        assert all(file.digest_ok and file.table == "events" for file in audit.files)


@pytest.mark.parametrize("table", ["tasks", "runs"])
def test_tables_without_a_chain(chain: list[Path], storage: FileStorage, tmp_path: Path, table: str) -> None:
    """Exports of tasks and runs are verified by their digests; several of them do not follow one another."""
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        storage.catalog.export(path, table)
    audit = verify_exports(*paths)
    assert audit.ok, audit.findings
    forge(paths[0], rows=lambda rows: rows.slice(1))
    assert kinds(verify_exports(*paths)) == {("one", "digest"), ("one", "rows")}


def without(row: int) -> Callable[[pa.Table], pa.Table]:
    """Return a forger of rows who drops one."""
    return lambda rows: pa.concat_tables([rows.slice(0, row), rows.slice(row + 1)])


def exchanged(rows: pa.Table) -> pa.Table:
    """Return rows of which the first two changed places."""
    return rows.take([1, 0, *range(2, rows.num_rows)])


def repeated(rows: pa.Table) -> pa.Table:
    """Return rows of which the first stands there twice."""
    return rows.take([0, *range(rows.num_rows)])


def changed(column: str, value: Any) -> Callable[[pa.Table], pa.Table]:
    """Return a forger of rows who writes another value into one column of the second."""

    def change(rows: pa.Table) -> pa.Table:
        values = rows.column(column).to_pylist()
        values[1] = value
        number = rows.schema.get_field_index(column)
        return rows.set_column(number, rows.schema.field(number), pa.array(values, rows.schema.field(number).type))

    return change


@pytest.mark.parametrize(
    ("rows", "also"),
    [
        pytest.param(without(2), {"rows", "lines", "chain"}, id="a row is dropped"),
        pytest.param(changed("user", "somebody else"), {"chain"}, id="a row is changed"),
        pytest.param(changed("size", None), {"chain"}, id="a value is deleted"),
        pytest.param(exchanged, {"order"}, id="two rows are exchanged"),
        pytest.param(repeated, {"rows", "lines", "order", "overlap", "chain"}, id="a row is repeated"),
    ],
)
def test_rows_that_were_changed(chain: list[Path], rows: Callable[[pa.Table], pa.Table], also: set[str]) -> None:
    """A change of rows is found by the digest, and by what the rows of a segment have to be."""
    forge(chain[1], rows=rows)
    assert kinds(verify_exports(*chain)) == {("1.parquet", kind) for kind in {"digest", *also}}


def test_rows_that_were_changed_by_somebody_who_knows(chain: list[Path]) -> None:
    """A forger who computes the digest again breaks the chain of the segment, and the next export's tie to it."""
    forge(chain[1], rows=changed("user", "somebody else"), resealed=True)
    assert kinds(verify_exports(*chain)) == {("1.parquet", "chain"), ("2.parquet", "previous")}


def set_to(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a forger of metadata who sets one member."""
    return lambda manifest: manifest.__setitem__(name, value)


@pytest.mark.parametrize(
    "manifest",
    [
        pytest.param(set_to("filter", {"workflow": "w"}), id="filter"),
        pytest.param(set_to("rows", 8), id="rows"),
        pytest.param(set_to("storage", "01890000-0000-7000-8000-000000000009"), id="storage"),
        pytest.param(set_to("schema_version", 9), id="version"),
        pytest.param(set_to("previous", "0" * 64), id="previous"),
        pytest.param(set_to("segments", {}), id="segments"),
        pytest.param(set_to("digest", "0" * 64), id="digest"),
        pytest.param(set_to("table", "tasks"), id="table"),
    ],
)
def test_metadata_that_were_changed(chain: list[Path], manifest: Callable[[dict[str, Any]], None]) -> None:
    """A change of what a file says of itself is found by the digest."""
    forge(chain[1], manifest=manifest)
    assert ("1.parquet", "digest") in kinds(verify_exports(*chain))


@pytest.mark.parametrize("name", ["exported_at", "library", "path"])
def test_metadata_that_the_digest_leaves_out(chain: list[Path], name: str) -> None:
    """Time of export, path and library version are no part of the content."""
    forge(chain[1], manifest=set_to(name, "another"))
    assert verify_exports(*chain).ok


def moved(**change: int) -> Callable[[dict[str, Any]], None]:
    """Return a forger of metadata who moves the lines of the first segment."""

    def move(manifest: dict[str, Any]) -> None:
        lines = min(manifest["segments"].items())[1]
        for name, by in change.items():
            lines[name] += by

    return move


def test_a_file_of_the_chain_is_left_out(chain: list[Path]) -> None:
    """An export that is missing in the middle, or at the beginning, is named by its digest."""
    for index in (0, 1):
        digest = manifest_of(chain[index])["digest"]
        audit = verify_exports(*chain[:index], *chain[index + 1 :])
        assert kinds(audit) == {(f"{index + 1}.parquet", "previous")}
        assert digest in audit.findings[0].message


def test_lines_are_left_out_between_exports(chain: list[Path]) -> None:
    """An export that begins behind the end of the one that it names leaves a gap, which is named."""
    digest = manifest_of(chain[0])["digest"]
    forge(chain[2], manifest=set_to("previous", digest), resealed=True)
    audit = verify_exports(chain[0], chain[2])
    assert kinds(audit) == {("2.parquet", "gap")}
    end = next(iter(manifest_of(chain[0])["segments"].values()))["end"]
    assert any(
        f"lines {end + 1} to" in finding.message and str(chain[0]) in finding.message for finding in audit.findings
    )


def test_lines_are_in_two_exports(chain: list[Path]) -> None:
    """An export that begins before the end of the one that it names is an overlap."""
    forge(chain[2], manifest=moved(begin=-1), resealed=True)
    assert kinds(verify_exports(*chain)) == {("2.parquet", "overlap"), ("2.parquet", "lines")}


def test_a_first_export_begins_with_the_first_line(chain: list[Path]) -> None:
    """An export that continues nothing and begins behind the first line has a gap."""
    forge(chain[1], manifest=set_to("previous", None), resealed=True)
    assert ("1.parquet", "gap") in kinds(verify_exports(chain[1]))


def test_two_exports_continue_one(chain: list[Path], storage: FileStorage, tmp_path: Path) -> None:
    """Two exports after the same one overlap, and both are named."""
    storage.catalog.export(tmp_path / "twin.parquet", "events", after=chain[1])
    audit = verify_exports(*chain, tmp_path / "twin.parquet")
    assert kinds(audit) == {("twin.parquet", "overlap")}
    assert all(str(chain[2]) in finding.message for finding in audit.findings)


def test_a_file_is_given_twice(chain: list[Path], tmp_path: Path) -> None:
    """A copy of an export among the files is an overlap; the same path, named twice, is not."""
    assert verify_exports(*chain, chain[0]).ok
    shutil.copy(chain[0], tmp_path / "copy.parquet")
    assert kinds(verify_exports(*chain, tmp_path / "copy.parquet")) == {("copy.parquet", "overlap")}


def test_a_file_of_another_storage(chain: list[Path], tmp_path: Path) -> None:
    """An export of another storage is named, with both storages."""
    other = FileStorage(tmp_path / "other")
    other.save("w", "t", 1)
    other.note("run-started", "w", f"{RUN}1", {})
    other.catalog.export(tmp_path / "other.parquet", "events")
    audit = verify_exports(*chain, tmp_path / "other.parquet")
    assert kinds(audit) == {("other.parquet", "storage")}
    for path in (chain[0], tmp_path / "other.parquet"):
        assert manifest_of(path)["storage"] in audit.findings[0].message


def test_a_filter_that_changes_within_a_chain(chain: list[Path]) -> None:
    """Exports of different filters do not follow one another."""
    forge(chain[2], manifest=set_to("filter", {"event": "save"}), resealed=True)
    assert ("2.parquet", "previous") in kinds(verify_exports(*chain))


def test_columns_that_were_changed(chain: list[Path]) -> None:
    """A column that was renamed, dropped or added is named."""
    forge(chain[0], rows=lambda rows: rows.rename_columns(["host" if n == "user" else n for n in rows.column_names]))
    forge(chain[1], rows=lambda rows: rows.drop_columns(["user"]))
    forge(chain[2], rows=lambda rows: rows.append_column("more", pa.nulls(rows.num_rows, pa.string())))
    audit = verify_exports(*chain)
    found = {os.path.basename(finding.path): finding.message for finding in audit.findings if finding.kind == "columns"}
    assert sorted(found) == ["0.parquet", "1.parquet", "2.parquet"]
    assert "user string" in found["1.parquet"]
    assert "more string" in found["2.parquet"]


@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, -9, -1])
def test_a_file_that_was_cut_off(chain: list[Path], kept: float) -> None:
    """A truncated file is named as damaged, and nothing is raised."""
    data = chain[1].read_bytes()
    chain[1].write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    audit = verify_exports(*chain)
    assert ("1.parquet", "unreadable") in kinds(audit)
    assert [file.digest_ok for file in audit.files] == [True, False, True]


def test_a_byte_that_was_changed(chain: list[Path]) -> None:
    """Whichever byte of the data is flipped, the file is found to be wrong."""
    data = chain[1].read_bytes()
    for at in range(4, 2_000, 61):
        chain[1].write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        audit = verify_exports(chain[0], chain[1])
        unchanged = [file for file in audit.files if file.digest_ok and file.path == str(chain[1])]
        assert not audit.ok or unchanged


@pytest.mark.parametrize("text", [b"{", b"[]", b"{}", b'{"format": 1}', b'{"format": "x"}', b"\xff"])
def test_a_manifest_that_is_none(chain: list[Path], text: bytes) -> None:
    """Metadata that are damaged are found, and nothing is raised."""
    import pyarrow.parquet as pq

    table = pq.read_table(chain[0])
    pq.write_table(table.replace_schema_metadata({b"functionfuse": text}), chain[0])
    assert ("0.parquet", "unreadable") in kinds(verify_exports(*chain))


@pytest.mark.parametrize(
    "manifest",
    [
        pytest.param(set_to("filter", None), id="filter"),
        pytest.param(set_to("previous", ["a"]), id="previous"),
        pytest.param(set_to("storage", {}), id="storage"),
        pytest.param(set_to("digest", ["a"]), id="digest"),
        pytest.param(lambda manifest: next(iter(manifest["segments"].values())).update(hash_before=None), id="null"),
        pytest.param(lambda manifest: next(iter(manifest["segments"].values())).update(hash_before="zz"), id="hash"),
    ],
)
def test_members_of_other_types(chain: list[Path], manifest: Callable[[dict[str, Any]], None]) -> None:
    """A description whose members have other types is unreadable, and nothing is raised."""
    forge(chain[1], manifest=manifest)
    assert ("1.parquet", "unreadable") in kinds(verify_exports(*chain))


def test_a_row_without_its_place(chain: list[Path]) -> None:
    """A position that is gone is found like any other change."""
    import pyarrow as pa

    def without_place(rows: pa.Table) -> pa.Table:
        at = rows.column_names.index("position")
        places = rows.column("position").to_pylist()
        return rows.set_column(at, rows.schema.field(at), pa.array([None, *places[1:]], rows.schema.field(at).type))

    forge(chain[1], rows=without_place)
    assert {("1.parquet", "digest"), ("1.parquet", "lines")} <= kinds(verify_exports(*chain))


def test_files_that_are_no_exports(tmp_path: Path) -> None:
    """Another Parquet file, another file, nothing at all, and a newer format: each is said as it is."""
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("text")
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"functionfuse": '{"format": 3}'}), tmp_path / "new")
    (tmp_path / "empty").mkdir()
    names = ["other.parquet", "text.parquet", "new", "absent", "empty"]
    audit = verify_exports(*(tmp_path / name for name in names))
    messages = {os.path.basename(finding.path): finding.message for finding in audit.findings}
    assert sorted(messages) == sorted(names)
    assert "no export of a catalog" in messages["other.parquet"]
    assert "no Parquet file" in messages["text.parquet"]
    assert "format 3, this version knows up to 2" in messages["new"]
    assert "absent" in messages["absent"]
    assert "holds no Parquet file" in messages["empty"]
    assert not audit.ok


def test_no_file_at_all() -> None:
    """An audit of nothing is refused: it would be sound."""
    with pytest.raises(InvalidQuestion, match="at least one"):
        verify_exports()


# Exports in parts


def test_parts_are_one_export(chain: list[Path], storage: FileStorage, tmp_path: Path) -> None:
    """The files of an export in parts are verified together; one that is missing or changed is named."""
    storage.save("another", "t", 1)
    storage.save("w", "last", 1)
    storage.note("run-started", "w", f"{RUN}9", {})
    folder = tmp_path / "parts"
    made = storage.catalog.export(folder, "events", after=chain[-1], partition_by="workflow")
    audit = verify_exports(*chain, folder)
    assert audit.ok, audit.findings
    assert [file.follows for file in audit.files] == [None, str(chain[0]), str(chain[1]), str(chain[2]), str(chain[2])]
    assert verify_exports(*chain, *made.paths).ok
    partly = verify_exports(*chain, made.paths[0])
    assert {kind for _, kind in kinds(partly)} == {"parts"}
    assert "1 of the 2 files" in partly.findings[0].message
    twice = storage.catalog.export(tmp_path / "tasks", "tasks", partition_by="workflow")
    assert verify_exports(tmp_path / "tasks").ok
    Path(twice.paths[1]).write_bytes(Path(twice.paths[0]).read_bytes())
    assert {kind for _, kind in kinds(verify_exports(tmp_path / "tasks"))} == {"parts"}
    forge(Path(made.paths[1]), rows=lambda rows: rows.slice(1))
    assert {kind for _, kind in kinds(verify_exports(*chain, folder))} == {"digest", "rows", "lines", "chain"}
