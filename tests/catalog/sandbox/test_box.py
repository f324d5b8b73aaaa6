"""The box of `catalog.sql` against hostile SQL: nothing is changed, nothing is told, nothing runs away."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import InvalidQuestion
from catalog.sandbox import client, statements
from catalog.sandbox import sandbox as box
from catalog.sandbox.limits import Limits
from functionfuse.storage.filestorage import FileStorage
from hostile import ENDLESS, HARMLESS, HUGE, REFUSED
from workshop import ROOT, index_of

LIMITS = Limits("100MB", 0.3)
PARSER = duckdb.connect(":memory:")
UNCHECKED = client._PROGRAM.replace(
    "main()",
    "from catalog.sandbox import server; "
    "server.check = lambda connection, query: connection.extract_statements(query); main()",
)
SECRET = "the content of a file that is nobody's business"


class Ground:
    """A storage, a file to be read and a folder to be written to, below one folder that is home and `cwd` as well."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.storage = FileStorage(root / "storage")
        self.storage.save("w", "a", {"accuracy": 0.9})
        self.storage.save("w", "b", 2)
        self.out = root / "out"
        self.out.mkdir()
        self.file = root / "file"
        self.file.write_text(SECRET)
        os.utime(root / "storage" / "w", (1e9, 1e9))  # of a folder that is quiet a question has nothing to write
        self.storage.list_tasks("w")
        self.before = self.look()

    def look(self) -> dict[str, str]:
        """Return every file with the digest of its bytes, every folder by its name."""
        found = sorted(self.root.rglob("*"))
        return {
            str(path): hashlib.blake2b(path.read_bytes()).hexdigest() if path.is_file() else "folder" for path in found
        }

    def fill(self, statement: str) -> str:
        """Return a statement with the paths that it names."""
        for name, path in (("index", index_of(self.storage)), ("out", self.out), ("in", self.file)):
            statement = statement.replace(f"{{{name}}}", str(path))
        return statement


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Return the ground, with everything that a program finds by itself inside of it."""
    root = tmp_path_factory.mktemp("ground")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for variable in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
            patch.setenv(variable, str(root))
        yield Ground(root)


def test_the_table_is_long() -> None:
    """There are at least 200 hostile statements, each different."""
    every = [statement for statements in REFUSED.values() for statement in statements]
    assert len(every) == len(set(every)) >= 200


@pytest.mark.slow
@pytest.mark.parametrize("wish", REFUSED)
def test_what_is_hostile_is_refused(ground: Ground, wish: str) -> None:
    """Each statement is refused, tells nothing, and leaves all files as they were, inside the storage and outside."""
    somebodys_variable = frame = ground.before
    for statement in map(ground.fill, REFUSED[wish]):
        with pytest.raises(InvalidQuestion) as refusal:
            ground.storage.catalog.sql(statement)
        assert str(refusal.value), statement
        assert SECRET not in str(refusal.value), statement
        assert ground.look() == ground.before, statement
    assert somebodys_variable is frame
    assert ground.storage.list_tasks("w") == ["a", "b"]


@pytest.mark.slow
@pytest.mark.parametrize("wish", REFUSED)
def test_the_second_wall_holds_alone(ground: Ground, wish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs in the box without having been looked at changes no file and reads none."""
    monkeypatch.setattr(client, "_PROGRAM", UNCHECKED)
    client._end()
    for statement in map(ground.fill, REFUSED[wish]):
        try:
            with box.explained(LIMITS):
                answer = str(box.run(str(index_of(ground.storage)), statement, None, LIMITS, {}))
        except InvalidQuestion as refusal:
            answer = str(refusal)
        except (TypeError, ValueError):  # no text, or a kind of statement that DuckDB's own client does not know
            continue
        assert SECRET not in answer, statement
        assert ground.look() == ground.before, statement
    client._end()


def test_a_query_is_not_read_by_the_process_that_asks(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB's parser and tokenizer, and its lists of functions, are asked in the process of the box only."""

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(duckdb, "extract_statements", refuse)
    monkeypatch.setattr(duckdb, "tokenize", refuse)
    monkeypatch.setattr(statements, "check", refuse)
    sql = ground.storage.catalog.sql
    assert sql("SELECT count(*) + $1 FROM tasks", [1]).fetchall() == [(3,)]
    for query in ("SELEC 1", "SELECT result('w', 'a'", "COPY tasks TO 'result'", "FROM result('w', 'none')"):
        with pytest.raises(InvalidQuestion, match=r"yntax error|COPY is refused|nothing is stored"):
            sql(query)


STOPPING = """
import json, resource, sys, time
from catalog import Catalog
from catalog.errors import InvalidQuestion
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))  # a hole in the box does not take the machine
catalog = Catalog.open(sys.argv[1])
assert catalog.sql("SELECT count(*) FROM tasks").fetchall() == [(2,)]

def most():
    return [resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]

for statement in json.load(sys.stdin):
    before, began = most(), time.monotonic()
    try:
        said = str(catalog.sql(statement, memory_limit="100MB", time_limit=0.3).fetchall())[:100]
    except InvalidQuestion as refusal:
        said = f"refused: {refusal}"
    seconds = time.monotonic() - began
    taken = most()
    assert catalog.sql("SELECT count(*) FROM tasks").fetchall() == [(2,)]
    print(json.dumps([statement, said, seconds, taken[0] - before[0], taken[1]]), flush=True)
"""


@pytest.mark.parametrize(
    "statements", [pytest.param(HUGE, id="huge"), pytest.param(ENDLESS, id="endless", marks=pytest.mark.slow)]
)
def test_what_runs_away_is_stopped(ground: Ground, statements: list[str]) -> None:
    """A query without end, or of endless size, is stopped by its limits and says so; the next one is answered.

    The process that asks grows by no more than the answer may have; that of the query by little more than its limit.
    """
    asked = json.dumps(statements)
    command = [sys.executable, "-c", STOPPING, str(ground.storage.catalog.path)]
    run = subprocess.run(command, input=asked, capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    found = [json.loads(line) for line in run.stdout.splitlines()]
    assert [statement for statement, *_ in found] == statements
    for statement, said, seconds, grown, of_query in found:
        # An older parser finds at once that a text is no SQL.
        assert re.match(r"(?i)refused: .*(limit|size|block|syntax error)", said), (statement, said)
        assert seconds < 60, statement
        assert grown < 110e6, statement
        assert of_query < 500e6, statement
    assert ground.look() == ground.before


@pytest.mark.parametrize(("statement", "expected"), HARMLESS, ids=range(len(HARMLESS)))
def test_what_only_looks_hostile_is_answered(
    ground: Ground, statement: str, expected: list[tuple[object, ...]]
) -> None:
    """Words in strings, comments and aliases are no reason to refuse a query."""
    assert ground.storage.catalog.sql(statement).fetchall() == expected


NOISE = st.lists(
    st.sampled_from(
        [" ", "\n", "\t", "/**/", "/* ' */", "/* a /* b */ */", "-- it's\n", "\u00a0", "\u3000", '/* " */']
    ),
    max_size=3,
).map("".join)
CALLED = st.sampled_from(
    ["read_csv", "read_text", "read_parquet", "glob", "query", "sniff_csv", "duckdb_settings", "pragma_version"]
)
SPELLED = st.sampled_from(["{}", '"{}"', "system.main.{}", 'system."main"."{}"', "main.{}"])
CASED = st.sampled_from([str.lower, str.upper, str.title])
AROUND = st.sampled_from(
    [
        "SELECT * FROM {call}",
        "FROM {call}",
        "SELECT 1; FROM {call}",
        "SELECT ';', '--', '/*', $$'$$ FROM tasks, {call}",
        "WITH a AS (FROM {call}) FROM a",
        "SELECT (SELECT 1 FROM {call})",
        "EXPLAIN SELECT * FROM {call}",
        "DESCRIBE FROM {call}",
        "SELECT * FROM tasks WHERE EXISTS (FROM {call})",
        "PIVOT (FROM {call}) ON a USING count(*)",
        "SELECT * FROM tasks JOIN {call} ON true",
        "SELECT 1 UNION SELECT 2 FROM {call}",
    ]
)


@given(around=AROUND, called=CALLED, spelled=SPELLED, cased=CASED, first=NOISE, middle=NOISE)
@settings(max_examples=120, deadline=None)
def test_noise_hides_nothing(around: str, called: str, spelled: str, cased: type, first: str, middle: str) -> None:
    """However a function's name is quoted, qualified, cased and surrounded by comments, it is found and refused."""
    call = f" {first}{spelled.format(cased(called))}{middle}('x')"  # type: ignore[operator]
    with pytest.raises(InvalidQuestion, match=f"{called} is refused|syntax error"):
        statements.check(PARSER, around.format(call=call))


WRITES = st.sampled_from(
    [
        "COPY (SELECT 1) TO 'x'",
        "COPY (PIVOT tasks ON type USING count(*)) TO 'x'",
        "DELETE FROM latest",
        "CREATE TEMP TABLE x AS PIVOT tasks ON type USING count(*)",
        "CREATE TABLE x AS SELECT 1",
        "ATTACH 'x'",
        "PRAGMA version",
        "SET threads = 1",
    ]
)
BEFORE = st.sampled_from(
    ["", ";", "SELECT 1;", "PIVOT tasks ON type USING count(*);", "SELECT ';' -- ;\n;", "VALUES (1);"]
)


@given(before=BEFORE, noise=NOISE, write=WRITES, behind=st.sampled_from(["", ";", "; SELECT 1", " -- SELECT 1"]))
@settings(max_examples=60, deadline=None)
def test_no_place_among_statements_hides_one(before: str, noise: str, write: str, behind: str) -> None:
    """A statement that writes is refused wherever it stands, also beside a PIVOT, of which DuckDB makes several."""
    with pytest.raises(InvalidQuestion, match=r"is refused|syntax error"):
        statements.check(PARSER, f"{before}{noise}{write}{behind}")


def test_the_tables_are_those_of_the_catalog(ground: Ground) -> None:
    """`SHOW TABLES` lists tasks, events and runs, and nothing of what they are made of."""
    assert ground.storage.catalog.sql("SHOW TABLES").fetchall() == [("events",), ("runs",), ("tasks",)]


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"memory_limit": "much"}, "memory_limit='much'"),
        ({"memory_limit": 1000}, "memory_limit=1000"),
        ({"memory_limit": "1"}, "memory_limit='1'"),
        ({"memory_limit": "-1GB"}, "memory_limit='-1GB'"),
        ({"memory_limit": "80%"}, "memory_limit='80%'"),
        ({"time_limit": 0}, "time_limit=0"),
        ({"time_limit": -1.5}, "time_limit=-1.5"),
        ({"time_limit": "60"}, "time_limit='60'"),
        ({"time_limit": float("nan")}, "time_limit=nan"),
        ({"time_limit": float("inf")}, "time_limit=inf"),
        ({"time_limit": None}, "time_limit=None"),
        ({"time_limit": True}, "time_limit=True"),
    ],
    ids=str,
)
def test_limits_that_make_no_sense(ground: Ground, limits: dict[str, object], named: str) -> None:
    """A limit that cannot be understood is refused by its name and value."""
    with pytest.raises(InvalidQuestion, match=named):
        ground.storage.catalog.sql("SELECT 1", **limits)  # type: ignore[arg-type]


@pytest.mark.parametrize("memory", ["0.5 gb", "100 MiB", "200MB"])
def test_limits_are_written_in_several_ways(ground: Ground, memory: str) -> None:
    """Units in any case, decimal or binary, are understood."""
    assert ground.storage.catalog.sql("SELECT count(*) FROM tasks", memory_limit=memory).fetchall() == [(2,)]


def test_too_little_memory_for_anything(ground: Ground) -> None:
    """With less memory than the smallest query takes, the limit is what is said."""
    with pytest.raises(InvalidQuestion, match="memory limit, 1KB"):
        ground.storage.catalog.sql("SELECT count(*) FROM tasks", memory_limit="1KB")


@pytest.mark.parametrize(
    ("query", "params", "said"),
    [
        ("SELECT ?", None, r"parameter \$1 is not given"),
        ("SELECT ?, ?", [1], r"parameter \$2 is not given"),
        ("SELECT $2", [1], r"parameter \$2 is not given"),
        ("SELECT ?", [1, 2], r"no parameter \$2"),
        ("SELECT 1", [1], r"no parameter \$1"),
        ("SELECT 1", {"a": 1}, r"no parameter \$a"),
        ("SELECT $a, $b", {"a": 1}, r"parameter \$b is not given"),
        ("SELECT $a", {"a": 1, "age": 2}, r"no parameter \$age"),
        ("SELECT $a", [1], r"named parameters, \$a: give them as a dictionary"),
        ("SELECT $a", None, r"named parameters, \$a"),
        ("SELECT ?; SELECT 1", [1], "only the last statement"),
        ("SELECT ?", "x", "not 'x'"),
    ],
)
def test_parameters_that_do_not_fit(ground: Ground, query: str, params: object, said: str) -> None:
    """A parameter that is missing or too many is named."""
    with pytest.raises(InvalidQuestion, match=said):
        ground.storage.catalog.sql(query, params)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("DROP TABLE latest", "DROP is refused"),
        ("SELECT * FROM read_csv('x')", "read_csv is refused"),
        ("FROM '{in}.csv'", "a file is refused"),
        ("SHOW memory_limit", "SHOW memory_limit is refused"),
        ("EXPLAIN ANALYZE DELETE FROM latest", "EXPLAIN of DELETE is refused"),
        ("COPY (PIVOT tasks ON type USING count(*)) TO 'x'", "COPY is refused"),
        ("FROM functionfuse_index.latest", "functionfuse_index is refused"),
        ("SELECT a FROM tasks WHERE\n  taks = 1 +", r"syntax error at (or near|end)"),
        ("SELECT task\nFORM tasks WHERE 1", r"LINE 2: FORM tasks"),
        ("SELECT\n  taks FROM tasks", '"taks"'),
    ],
)
def test_a_refusal_says_what_and_where(ground: Ground, query: str, said: str) -> None:
    """A refusal names what is refused, a mistake its place, in at most four lines."""
    with pytest.raises(InvalidQuestion, match=said) as refusal:
        ground.storage.catalog.sql(ground.fill(query))
    assert len(str(refusal.value).splitlines()) <= 4


@pytest.mark.parametrize(
    "query",
    [
        "SELECT task FROM tasks",
        "FROM tasks",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "WITH RECURSIVE a(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM a WHERE n < 3) FROM a",
        "DESCRIBE tasks",
        "DESC events",
        "DESCRIBE SELECT 1",
        "SUMMARIZE tasks",
        "SUMMARIZE SELECT size FROM tasks",
        "SHOW TABLES",
        "SHOW ALL TABLES",
        "SHOW runs",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT count(*) FROM tasks",
        "EXPLAIN (FORMAT json) FROM tasks",
        "PIVOT tasks ON type USING count(*) GROUP BY workflow",
        "FROM (PIVOT tasks ON type USING count(*) GROUP BY workflow)",
        "WITH p AS (PIVOT tasks ON type USING count(*)) FROM p",
        "SELECT 1; PIVOT tasks ON type USING count(*)",
        "FROM tasks PIVOT (count(*) FOR type IN ('dict', 'int'))",
        "UNPIVOT (SELECT 1 AS a, 2 AS b) ON a, b",
        "VALUES (1), (2)",
        "TABLE tasks",
        "(SELECT 1)",
        "SELECT unnest(range(3))",
        "SELECT range(3), generate_series(1, 2), repeat('a', 3)",
        "FROM range(3)",
        "FROM generate_series(1, 3)",
        "FROM repeat('a', 3)",
        "FROM range(TIMESTAMP '2026-11-01', TIMESTAMP '2026-11-03', INTERVAL 1 DAY)",
        "FROM generate_series(TIMESTAMPTZ '2026-11-01', TIMESTAMPTZ '2026-11-03', INTERVAL 1 DAY)",
        "SELECT r.range, task FROM range(2) r JOIN tasks ON r.range < size",
        "SELECT count(*) FROM pg_timezone_names()",
        "SELECT * FROM tasks, json_each(tasks.summary)",
        "SELECT now() AT TIME ZONE 'UTC', uuid(), random(), current_date",
        "SELECT table_name FROM information_schema.tables",
        "SELECT list_transform([1, 2], lambda x: x + 1)",
        "SELECT task, row_number() OVER (ORDER BY size) FROM tasks QUALIFY row_number() OVER () < 9",
    ],
)
def test_what_reads_is_answered(ground: Ground, query: str) -> None:
    """Every kind of reading statement is answered."""
    assert ground.storage.catalog.sql(query).fetchall() != []
    assert ground.look() == ground.before


PARTS = (
    *("century", "day", "dayname", "dayofmonth", "dayofweek", "dayofyear", "decade", "epoch", "era", "hour", "isodow"),
    *("isoyear", "julian", "last_day", "microsecond", "millennium", "millisecond", "minute", "month", "monthname"),
    *("quarter", "second", "timezone_hour", "week", "weekday", "weekofyear", "year", "yearweek"),
)
OF_TIMES = (
    *(f"{part}({{0}})" for part in PARTS),
    *("strftime({0}, '%Y')", "date_trunc('day', {0})", "datetrunc('day', {0})", "date_part('year', {0})"),
    *("datepart('year', {0})", "extract(year FROM {0})", "date_diff('day', {0}, {0})", "datediff('day', {0}, {0})"),
    *("date_sub('day', {0}, {0})", "datesub('day', {0}, {0})", "age({0}, {0})", "time_bucket(INTERVAL 1 DAY, {0})"),
    *("timezone('Asia/Tokyo', {0})", "{0} AT TIME ZONE 'Asia/Tokyo'", "{0} + INTERVAL 1 DAY", "{0} - {0}"),
    *("range({0}, {0} + INTERVAL 1 DAY, INTERVAL 1 HOUR)", "generate_series({0}, {0}, INTERVAL 1 HOUR)"),
)


def test_functions_of_times_are_answered(ground: Ground) -> None:
    """What takes times with a zone and times without one is refused for neither, whatever DuckDB says of the former."""
    calls = [call.format(kind) for call in OF_TIMES for kind in ("saved_at::TIMESTAMP", "saved_at::TIMESTAMPTZ")]
    answer = ground.storage.catalog.sql(f"SELECT {', '.join(calls)} FROM tasks LIMIT 1")
    assert len(answer.columns) == len(calls)
    assert None not in answer.to_arrow_table().to_pylist()[0].values()
