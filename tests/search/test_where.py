"""Conditions against SQLite itself, whose grammar holds theirs, and against attacks."""

import sqlite3

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from align_keras.search.where import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_TESTS,
    parse_where,
)
from align_keras.utils.errors import InputError

ROWS = [
    (1, 2019, "Italy/Rome", 4.5, None, "it's"),
    (2, 2020, "italy", -1.0, "a", "100%"),
    (3, 2021, "Spain", 0.0, "B", "a_b"),
    (4, None, "", 1e9, "é", '"quoted"'),
    (5, 2022, "ITALY/Milan", None, "", "\\"),
    (6, -7, "x; DROP TABLE images", 2020.0, "a", ""),
]
COLUMNS = ["year", "folder", "price", "camera", "my caption"]


@pytest.fixture(scope="module")
def database():
    connection = sqlite3.connect(":memory:")
    connection.execute(
        "CREATE TABLE images (id INTEGER, year INTEGER, folder TEXT, price REAL, "
        'camera TEXT, "my caption" TEXT)'
    )
    connection.executemany("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?)", ROWS)
    connection.execute("CREATE TABLE secrets (word TEXT)")
    connection.execute("INSERT INTO secrets VALUES ('hidden')")
    return connection


def found(connection, sql, parameters=()):
    query = f"SELECT id FROM images WHERE {sql} ORDER BY id"
    return [row[0] for row in connection.execute(query, parameters)]


def searched(connection, text):
    return found(connection, *parse_where(text, COLUMNS))


@pytest.mark.parametrize(
    "text, ids",
    [
        ("year >= 2020 and folder like '%Italy%'", [2, 5]),
        ("YEAR == 2020 OR year != 2019 AND price < 1", [2, 3]),
        ("not (year between 2019 and 2021)", [5, 6]),
        ("not not year = 2019", [1]),
        ("camera is null or camera = ''", [1, 5]),
        ("camera is not null and year not in (2020, 2021, -7)", [5]),
        ("\"my caption\" = 'it''s'", [1]),
        ("\"My Caption\" like '100\\%'", [2]),
        ("\"my caption\" like 'a\\_b'", [3]),
        ("\"my caption\" = '\\'", [5]),
        ("price > year", [6]),
        ("price in (.5, 4.50, -1e0)", [1, 2]),
        ("folder = 'x; DROP TABLE images'", [6]),
    ],
)
def test_what_a_condition_finds(database, text, ids):
    assert searched(database, text) == ids


# === Against SQLite, which reads the text itself ===


def words(text):
    """The text in any case."""
    return st.sampled_from([text, text.upper(), text.title()])


def joined(*parts):
    spaces = st.sampled_from([" ", "  ", "\n"])
    return st.tuples(spaces, *parts).map(lambda all: all[0].join(all[1:]))


strings = st.text("aIt'%_y/ é\";-", max_size=6).map(
    lambda text: "'" + text.replace("'", "''") + "'"
)
numbers = st.one_of(
    st.integers(-3000, 3000).map(str),
    st.floats(-3000, 3000, allow_nan=False).map(repr),
    st.sampled_from(["2020", "2020.0", "1e9", "+7", "99999999999999999999"]),
)
values = st.one_of(strings, numbers)
columns = st.sampled_from(["year", "Folder", "PRICE", "camera", '"my caption"'])
operands = st.one_of(values, columns)
comparisons = st.sampled_from(["=", "==", "<>", "!=", "<", "<=", ">", ">="])
maybe_not = st.sampled_from(["", "not ", "NOT "])
tests = st.one_of(
    joined(columns, comparisons, operands),
    joined(columns, words("is"), st.sampled_from(["null", "NOT NULL"])),
    st.builds(
        "{} {}in ({})".format,
        columns,
        maybe_not,
        st.lists(values, min_size=1, max_size=4).map(", ".join),
    ),
    st.builds("{} {}between {} AND {}".format, columns, maybe_not, operands, operands),
    st.builds("{} {}like {}".format, columns, maybe_not, strings),
)
conditions = st.recursive(
    tests,
    lambda inner: st.one_of(
        joined(inner, words("and"), inner),
        joined(inner, words("or"), inner),
        st.builds("({})".format, inner),
        st.builds("not {}".format, inner),
        st.builds("not ({})".format, inner),
    ),
    max_leaves=8,
)


@given(conditions)
def test_a_condition_means_what_sqlite_takes_it_for(database, text):
    assert searched(database, text) == found(database, text)


# === Against attacks ===

ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}


def guarded(connection, text):
    """Runs a condition; nothing but the rows of `images` may be asked for."""
    asked = []

    def authorize(action, first, second, *_):
        asked.append((action, first, second))
        return sqlite3.SQLITE_OK

    connection.set_authorizer(authorize)
    try:
        searched(connection, text)
    finally:
        connection.set_authorizer(None)
    for action, first, second in asked:
        assert action in ALLOWED, asked
        assert action != sqlite3.SQLITE_READ or first == "images", asked
        assert action != sqlite3.SQLITE_FUNCTION or second in ("lower", "like"), asked


@given(
    st.one_of(
        st.text(max_size=40),
        st.lists(
            st.sampled_from(
                [
                    "year",
                    "folder",
                    '"my caption"',
                    "id",
                    "secrets",
                    "word",
                    "*",
                    "'",
                    '"',
                    ";",
                    "--",
                    "/*",
                    "*/",
                    "(",
                    ")",
                    ",",
                    "\\",
                    "||",
                    "\0",
                    "select",
                    "union",
                    "drop",
                    "or",
                    "and",
                    "not",
                    "in",
                    "like",
                    "between",
                    "is",
                    "null",
                    "=",
                    "1",
                    "'a'",
                    "?",
                    ":x",
                    "x'00'",
                ]
            ),
            max_size=12,
        ).map(" ".join),
        conditions.flatmap(
            lambda text: st.integers(0, len(text)).map(
                lambda place: text[:place] + "'" + text[place:]
            )
        ),
    )
)
@example("year = 1; DROP TABLE images")
@example("year = 1 OR 1 = 1")
@example("year in (select word from secrets)")
@example("year = 1) UNION SELECT word FROM secrets --")
@example("folder = 'a' || load_extension('x')")
@example('"year" = 1 OR "x"" = """ = 1')
@example("folder like 'a' escape '/'")
@example("folder = '\ud800'")
def test_whatever_is_given_reads_the_images_alone(database, text):
    try:
        guarded(database, text)
    except InputError as error:
        assert str(error).startswith("where must ")
    assert len(found(database, "1")) == len(ROWS)


def test_a_column_of_any_name_is_quoted():
    name = 'x" = 1 OR "y'
    connection = sqlite3.connect(":memory:")
    connection.execute('CREATE TABLE images (id, "x"" = 1 OR ""y")')
    connection.execute("INSERT INTO images VALUES (1, 2)")
    asked = '"x"" = 1 OR ""y" = 2'
    assert found(connection, *parse_where(asked, [name])) == [1]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "where must have a condition at character 1. Received: the end. Write"),
        (None, "a condition"),
        (
            "yaer > 1",
            "at character 1. Received: yaer.*mean year.*camera, folder",
        ),
        ('year = "2020"', 'Received: "2020".*Write a string in single quotes'),
        ("year > ", "a number or a 'string' at character 8. Received: the end"),
        ("year = null", "`is null` finds empty cells"),
        ("2020 < year", "must have a column at character 1"),
        ("year = 1 year = 2", "`and`, `or` or the end at character 10"),
        ("year 5", "a comparison"),
        ("year not = 5", "must have `in`, `between` or `like` at character 10"),
        ("(year = 5", r"must have `\)`"),
        ("year = 5)", r"Received: \)"),
        ("folder = 'a", "Close the quote '"),
        ("year = 5abc", "at character 8"),
        ("year = 1e999", "a finite number"),
        ("year in ()", "a number or a 'string'"),
        ("year is 5", "must have `null`"),
        ("folder like 5", "must have a 'pattern'"),
        ("folder like 'a\\\\\\'", "doesn't end in one backslash"),
        ("folder = 'a\0'", "without NUL"),
        ("year in (" + "1, " * MAX_CHARACTERS + "1)", "at most 10,000 characters"),
        (" or ".join(["year=1"] * (MAX_TESTS + 1)), f"at most {MAX_TESTS} tests"),
        ("(" * 60 + "year=1" + ")" * 60, f"nest at most {MAX_DEPTH}"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_where(text, COLUMNS)


def test_what_is_just_within_the_limits_runs(database):
    flat = " or ".join(["year=2019"] * MAX_TESTS)
    deep = "not (" * (MAX_DEPTH - 1) + flat + ")" * (MAX_DEPTH - 1)
    assert searched(database, flat) == [1]
    assert len(searched(database, deep)) == 4


def test_columns_that_differ_in_case_alone_need_theirs():
    assert parse_where("Year = 1", ["year", "Year"])[0] == '"Year" = ?'
    with pytest.raises(InputError, match="Did you mean (year or Year|Year or year)"):
        parse_where("YEAR = 1", ["year", "Year"])
