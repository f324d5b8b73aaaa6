"""The canonical text of a row, its hash, and the digest of a file: computed by DuckDB as by hand."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor import hashes_of as by_hand
from catalog.audit.digest import NO_ROWS, canonical, digest, hash_sql, hashes_of, kind_of, link
from catalog.audit.parts import _schema
from catalog.audit.working_file import ARROW, COLUMNS

TYPES = {
    "text": pa.string(),
    "whole": pa.int64(),
    "small": pa.int32(),
    "real": pa.float64(),
    "moment": pa.timestamp("us"),
    "several": pa.list_(pa.string()),
    "yes": pa.bool_(),
}
SCHEMA = pa.schema(list(TYPES.items()))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ROWS = st.fixed_dictionaries(
    {
        "text": st.none() | TEXT,
        "whole": st.none() | st.integers(-(2**63), 2**63 - 1),
        "small": st.none() | st.integers(-(2**31), 2**31 - 1),
        "real": st.none() | st.floats(),
        "moment": st.none() | st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)),
        "several": st.none() | st.lists(st.none() | TEXT, max_size=4),
        "yes": st.none() | st.booleans(),
    }
)


def hashed(rows: list[dict[str, Any]]) -> list[bytes]:
    """Return the hashes of rows as the code under test computes them."""
    with duckdb.connect() as connection:
        return hashes_of(connection, pa.Table.from_pylist(rows, schema=SCHEMA))


@given(rows=st.lists(ROWS, max_size=8))
@settings(max_examples=40)
def test_duckdb_and_python_agree(rows: list[dict[str, Any]]) -> None:
    """Any values of all types, nulls among them, have the hash that a few lines of Python give them."""
    assert hashed(rows) == by_hand(pa.Table.from_pylist(rows, schema=SCHEMA))


@given(reals=st.lists(st.floats(), min_size=50, max_size=50))
@settings(max_examples=20)
def test_real_numbers_have_the_digits_of_c(reals: list[float]) -> None:
    """DuckDB writes any double with the 17 digits that Python, as C, does."""
    with duckdb.connect() as connection:
        table = pa.table({"real": pa.array(reals, pa.float64())})
        found = [text for (text,) in connection.from_arrow(table).project("printf('%.16e', real)").fetchall()]
    assert [text.lstrip("-") if "nan" in text else text for text in found] == [f"{real:.16e}" for real in reals]


def test_the_hash_is_the_one_that_was_written_down() -> None:
    """A row has the hash that it had when the format was written down, on every version of DuckDB."""
    row = {
        "text": "é😀",
        "whole": -5,
        "small": 7,
        "real": 0.1,
        "moment": datetime(2026, 11, 25, 12, 30, 0, 6),
        "several": ["a", None, ""],
        "yes": True,
    }
    text = "6:é😀2:-51:722:1.0000000000000001e-0116:17956098000000066:1:a-0:4:true"
    (found,) = hashed([row])
    assert found == hashlib.sha256(text.encode()).digest()
    assert found.hex() == "924953b6fbdf71e7385ab6ccf02287919f294e1bd59aba2f6a7b896a7e0e023f"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({"text": None}, {"text": ""}, id="null and empty"),
        pytest.param({"text": "-"}, {"text": None}, id="null and its sign"),
        pytest.param({"several": ["a", "b"]}, {"several": ["ab"]}, id="two elements and one"),
        pytest.param({"several": []}, {"several": None}, id="no elements and no list"),
        pytest.param({"several": [None]}, {"several": ["-"]}, id="null in a list"),
        pytest.param({"several": ["1:a"]}, {"several": ["", "a"]}, id="a text that looks like a field"),
        pytest.param({"real": 0.0}, {"real": -0.0}, id="zeros"),
        pytest.param({"real": 0.1 + 0.2}, {"real": 0.3}, id="the last digit"),
        pytest.param({"whole": 1, "small": None}, {"whole": None, "small": 1}, id="another column"),
    ],
)
def test_no_two_rows_have_one_text(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Values that look alike have different hashes."""
    first, second = hashed([one, other])
    assert first != second


def test_moments_without_end() -> None:
    """DuckDB's infinite times are told from null and from one another."""
    moments = pa.array([None, 2**63 - 1, 1 - 2**63], pa.int64()).cast(pa.timestamp("us"))
    table = pa.table({"moment": moments})
    with duckdb.connect() as connection:
        assert hashes_of(connection, table) == by_hand(table)


def test_a_type_without_a_text() -> None:
    """A column that no rule covers is an error, not a guess."""
    with pytest.raises(KeyError, match="decimal"):
        hash_sql([("money", "decimal128(10, 2)")])


def test_every_column_of_the_catalog_has_a_text() -> None:
    """All columns of all tables can be exported and hashed, with the types that the manifest tells."""
    for table, columns in COLUMNS.items():
        assert hash_sql((column.name, ARROW[column.type]) for column in columns)
        assert [kind_of(field.type) for field in _schema(table)] == [ARROW[column.type] for column in columns]


def test_the_text_of_the_metadata() -> None:
    """Sorted keys, no blanks, ASCII: one text for one value."""
    assert canonical({"b": [1, None, True], "a": "é"}) == b'{"a":"\\u00e9","b":[1,null,true]}'


def test_a_digest_is_over_rows_and_metadata() -> None:
    """The digest changes with a row, with the order of rows, and with the metadata."""
    one, other = bytes(32), bytes([1]) * 32
    digests = {digest(rows, content) for rows in ([one, other], [other, one], [one]) for content in ({}, {"a": 1})}
    assert len(digests) == 6


def test_a_chain_is_over_all_that_came_before() -> None:
    """A link depends on the row and on the link before it."""
    one, other = bytes(32), bytes([1]) * 32
    assert len({link(NO_ROWS, one), link(NO_ROWS, other), link(link(NO_ROWS, one), other)}) == 3
