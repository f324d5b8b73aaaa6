"""The first wall of the sandbox: SQL is read before it runs, so that a refusal can say what was refused.

Only the process of the sandbox reads it (`catalog.sandbox.server`): a short text can make the parser take gigabytes
and minutes, whether it is SQL or not. DuckDB's parser tells statements apart and its tokenizer finds the words, so no
quoting and no comment hides one. What a statement must begin with, and which
table functions may be called, is listed; so a later DuckDB's new ones are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from catalog.errors import InvalidQuestion
from catalog.format.columns import TABLES
from catalog.index.engine import connect
from catalog.query.conditions import Parameters

if TYPE_CHECKING:
    import duckdb

#: The name under which the index is attached in the sandbox; what lies in it besides the catalog's tables is not shown.
INDEX = "functionfuse_index"

_READING = {"EXPLAIN", "SELECT"}
# DuckDB makes several statements of one PIVOT, the first of them a CREATE TYPE, or one that it calls MULTI.
_PIVOTING = {"CREATE", "MULTI"}
_BEGINNINGS = {
    *("desc", "describe", "explain", "from", "pivot", "pivot_longer", "pivot_wider", "select", "show", "summarize"),
    *("table", "unpivot", "values", "with"),
}
_WRITING = {"copy", "delete", "insert", "merge", "truncate", "update"}
_SHOWN = {"all", "databases", "schemas", "tables", *TABLES}

# Table functions that read nothing but their arguments; all others are refused.
_TABLE_FUNCTIONS = {
    *("generate_series", "histogram", "histogram_values", "icu_calendar_names", "json_each", "json_tree"),
    *("pg_timezone_names", "range", "repeat", "repeat_row", "summary", "unnest"),
}
# Functions whose answer depends on more than their arguments, and that are harmless; others of the kind are refused.
_DEPENDENT = {
    *("current_database", "current_date", "current_localtime", "current_localtimestamp", "current_schema"),
    *("current_schemas", "error", "gen_random_uuid", "get_current_time", "get_current_timestamp", "in_search_path"),
    *("now", "random", "setseed", "today", "transaction_timestamp", "uuid", "uuidv4", "uuidv7"),
}
# Functions that DuckDB describes as harmless and are not, or that only some builds have.
_HARMFUL = {
    *("current_query", "current_setting", "getenv", "getvariable", "json_execute_serialized_sql"),
    *("json_serialize_plan", "parse_duckdb_log_message", "pg_sleep", "query", "query_table", "set_config"),
    *("sql_auto_complete", "which_secret"),
}
# Views that tell of the machine; they need no parenthesis.
_VIEW = re.compile(rf"(duckdb|pragma|sqlite)_\w+|pg_(settings|prepared_statements)|{INDEX}", re.ASCII)

_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
_COMMENT = re.compile(r"--|/\*")
# A blank beyond ASCII is one to DuckDB's parser, and to its tokenizer a part of the name beside it.
_WORD = re.compile(r"\w[\w$]*")


class _Token(NamedTuple):
    """A word in lower case and without its quotes, or the sign that another token begins with."""

    text: str
    is_word: bool


def check(connection: duckdb.DuckDBPyConnection, query: str) -> list[duckdb.Statement]:
    """Refuse what is not reading.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        Whose parser reads it.
    query : str
        One or more statements.

    Returns
    -------
    list of duckdb.Statement
        The statements, which need not be parsed again to run.

    Raises
    ------
    InvalidQuestion
        If a statement is no reading one, or names what is beyond the catalog; the message says which.
    """
    import duckdb

    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as error:
        raise InvalidQuestion(shortened(error)) from error
    if not statements:
        raise InvalidQuestion("the query is empty: write a SELECT over tasks, events or runs")
    tokens = list(_tokens(query))
    _check_beginnings(tokens)
    kinds = [statement.type.name for statement in statements]
    is_pivot = any(token in _PIVOT for token in tokens)
    for kind in kinds:
        if kind not in _READING and not (is_pivot and kind in _PIVOTING):
            raise _refusal(kind)
    _check_words(tokens)
    return statements


_PIVOT = {_Token(word, True) for word in ("pivot", "pivot_wider")}


def check_parameters(statements: list[duckdb.Statement], parameters: Parameters) -> None:
    """Refuse parameters that are missing or too many, with their names.

    Parameters
    ----------
    statements : list of duckdb.Statement
        What `check` returned; parameters belong to the last one.
    parameters : list, tuple or mapping, optional
        What is given.

    Raises
    ------
    InvalidQuestion
        If they are not those that the query has.
    """
    if any(statement.named_parameters for statement in statements[:-1]):
        raise InvalidQuestion("only the last statement of a query may have parameters")
    wanted = {str(name) for statement in statements[-1:] for name in statement.named_parameters}
    if isinstance(parameters, Mapping):
        given = {str(name) for name in parameters}
    elif isinstance(parameters, (list, tuple, type(None))):
        if not all(name.isdecimal() for name in wanted):
            raise InvalidQuestion(f"the query has named parameters, {_listed(wanted)}: give them as a dictionary")
        wanted = {str(number) for number in range(1, max(map(int, wanted), default=0) + 1)}
        given = {str(number) for number in range(1, len(parameters or ()) + 1)}
    else:
        raise InvalidQuestion(f"params is a list, a tuple or a dictionary, not {parameters!r}")
    if missing := wanted - given:
        raise InvalidQuestion(f"the query's parameter {_listed(missing)} is not given")
    if superfluous := given - wanted:
        raise InvalidQuestion(f"the query has no parameter {_listed(superfluous)}, which is given")


def _listed(names: set[str]) -> str:
    ordered = sorted(names, key=lambda name: (int(name) if name.isdecimal() else 0, name))
    return ", ".join(f"${name}" for name in ordered)


def shortened(error: Exception) -> str:
    """Return DuckDB's message with the place that it names, without its hints at what is not to be seen."""
    text = re.sub(rf'\s*Did you mean "{INDEX}[^"]*"\?', "", str(error))
    return "\n".join([line.rstrip() for line in text.splitlines() if line.strip()][:4])


def _refusal(what: str) -> InvalidQuestion:
    return InvalidQuestion(f"{what} is refused: a query of the catalog only reads (SELECT, FROM, WITH, ...)")


def _tokens(query: str) -> Iterator[_Token]:
    """Yield words and signs without comments, which one version has as tokens and another as the ends of tokens."""
    import duckdb

    raw = query.encode()
    found = duckdb.tokenize(query)
    ends = [*(start for start, _ in found[1:]), len(raw)]
    for (start, kind), end in zip(found, ends, strict=True):
        text = raw[start:end].decode(errors="replace").strip()
        if kind.name in ("identifier", "keyword"):
            for word in _words(text):
                yield _Token(word.lower(), True)
        elif kind.name != "comment" and text:
            yield _Token(text[0], False)


def _words(text: str) -> list[str]:
    quoted = _QUOTED.match(text)
    return [quoted[1]] if quoted else _WORD.findall(_COMMENT.split(text)[0])


def _check_beginnings(tokens: list[_Token]) -> None:
    """Let every statement begin as a reading one does: of a PIVOT the parser does not tell what is done with it."""
    for statement in _split(tokens):
        first = _first(statement)
        if first not in _BEGINNINGS:
            raise _refusal(first.upper())
        if first == "explain" and (explained := _first(_explained(statement))) not in _BEGINNINGS:
            raise _refusal(f"EXPLAIN of {explained.upper()}")


def _split(tokens: list[_Token]) -> Iterator[list[_Token]]:
    statement: list[_Token] = []
    for token in [*tokens, _Token(";", False)]:
        if token.text != ";":
            statement.append(token)
        elif statement:
            yield statement
            statement = []


def _first(statement: list[_Token]) -> str:
    return next((token.text for token in statement if token.text != "("), "nothing")


def _explained(statement: list[_Token]) -> list[_Token]:
    """Return what stands behind EXPLAIN, ANALYZE and options in parentheses."""
    texts = [token.text for token in statement]
    start = texts.index("explain") + 1
    start += texts[start : start + 1] == ["analyze"]
    if texts[start : start + 1] == ["("] and not _BEGINNINGS.intersection(texts[start + 1 : start + 2]):
        start = texts.index(")", start) + 1
    return statement[start:]


def _check_words(tokens: list[_Token]) -> None:
    nothing = _Token("", False)
    for before, token, behind in zip([nothing, *tokens], tokens, [*tokens[1:], nothing], strict=False):
        if not token.is_word:
            continue
        word = token.text
        is_called = behind.text == "("
        if _VIEW.fullmatch(word) or (is_called and word in refused_functions()):
            raise InvalidQuestion(f"{word} is refused: a query sees the catalog, no files, settings or secrets")
        if word in _WRITING and before.text in ("(", ")") and not is_called:
            raise _refusal(word.upper())
        if word == "show" and before.text in ("", ";", "(") and behind.is_word and behind.text not in _SHOWN:
            raise InvalidQuestion(f"SHOW {behind.text} is refused: a query sees the catalog, no settings")


@cache
def refused_functions() -> frozenset[str]:
    """Return the functions that are refused.

    From DuckDB 2.0.1 on, `year`, `strftime`, `range` and many more depend on the session's time zone where they are
    given a TIMESTAMPTZ, and on nothing but their arguments otherwise: a name is refused only if all that bears it
    depends on more, or anything has a side effect.
    """
    with connect() as connection:
        listed = connection.execute(
            """SELECT lower(function_name) AS name, function_type LIKE 'table%' AS is_table FROM duckdb_functions()
            GROUP BY name, is_table HAVING is_table OR bool_or(has_side_effects) OR bool_or(stability = 'VOLATILE')
            OR bool_and(stability <> 'CONSISTENT')"""
        ).fetchall()
    return frozenset(
        {name for name, is_table in listed if name not in (_TABLE_FUNCTIONS if is_table else _DEPENDENT)} | _HARMFUL
    )
