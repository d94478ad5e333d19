"""Compares conditions with SQLite, and tests them against SQL injection.

Conditions are a subset of the expressions of SQLite, so SQLite can read them itself.
"""

import sqlite3

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from align_keras.utils.condition_columns import NUMBER, TEXT, Column
from align_keras.utils.errors import InputError
from align_keras.utils.where import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_TESTS,
    read_condition,
)

ROWS = [
    (1, 2019, "Italy/Rome", 4.5, None, "it's"),
    (2, 2020, "italy", -1.0, "a", "100%"),
    (3, 2021, "Spain", 0.0, "B", "a_b"),
    (4, None, "", 1e9, "é", '"quoted"'),
    (5, 2022, "ITALY/Milan", None, "", "\\"),
    (6, -7, "x; DROP TABLE images", 2020.0, "a", ""),
]
KINDS = {
    "year": NUMBER,
    "folder": TEXT,
    "price": NUMBER,
    "camera": TEXT,
    "my caption": TEXT,
}


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


def ids_by_sql(connection, sql, parameters=()):
    query = f"SELECT id FROM images WHERE {sql} ORDER BY id"
    return [row[0] for row in connection.execute(query, parameters)]


def read(text, kinds=KINDS):
    columns = {}
    for name, kind in kinds.items():
        sql = '"{}"'.format(name.replace('"', '""'))
        columns[name] = Column(sql, kind, sql)
    condition = read_condition(text, columns, lambda sql, _: f"lower({sql})")
    return condition.sql, condition.parameters


def ids_by_condition(connection, text):
    return ids_by_sql(connection, *read(text))


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
def test_a_condition_selects_images(database, text, ids):
    assert ids_by_condition(database, text) == ids


# === Comparison with SQLite ===


def words(text):
    """Generates a keyword in lower, upper or title case."""
    return st.sampled_from([text, text.upper(), text.title()])


def joined(*parts):
    spaces = st.sampled_from([" ", "  ", "\n"])
    return st.tuples(spaces, *parts).map(lambda drawn: drawn[0].join(drawn[1:]))


strings = st.text("aIt'%_y/ é\";-", max_size=6).map(
    lambda text: "'" + text.replace("'", "''") + "'"
)
numbers = st.one_of(
    st.integers(-3000, 3000).map(str),
    st.floats(-3000, 3000, allow_nan=False).map(repr),
    st.sampled_from(["2020", "2020.0", "1e9", "+7", "99999999999999999999"]),
)
number_columns = st.sampled_from(["year", "PRICE"])
text_columns = st.sampled_from(["Folder", "camera", '"my caption"'])
columns = st.one_of(number_columns, text_columns)
comparisons = st.sampled_from(["=", "==", "<>", "!=", "<", "<=", ">", ">="])
maybe_not = st.sampled_from(["", "not ", "NOT "])


def generate_tests(columns, values):
    """Generates tests of columns with values of the same kind."""
    operands = st.one_of(values, columns)
    lists = st.lists(values, min_size=1, max_size=4).map(", ".join)
    between = "{} {}between {} AND {}"
    return st.one_of(
        joined(columns, comparisons, operands),
        st.builds("{} {}in ({})".format, columns, maybe_not, lists),
        st.builds(between.format, columns, maybe_not, operands, operands),
    )


tests = st.one_of(
    generate_tests(number_columns, numbers),
    generate_tests(text_columns, strings),
    joined(columns, words("is"), st.sampled_from(["null", "NOT NULL"])),
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


@settings(max_examples=50)
@given(conditions)
def test_a_condition_selects_the_same_images_as_sqlite(database, text):
    assert ids_by_condition(database, text) == ids_by_sql(database, text)


# === SQL injection ===

ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}


def check_accesses(connection, text):
    """Runs a condition and checks that SQLite reads only the table `images`."""
    accesses = []

    def authorize(action, first, second, *_):
        accesses.append((action, first, second))
        return sqlite3.SQLITE_OK

    connection.set_authorizer(authorize)
    try:
        ids_by_condition(connection, text)
    finally:
        connection.set_authorizer(None)
    functions = ("lower", "like")
    for action, first, second in accesses:
        assert action in ALLOWED, accesses
        assert action != sqlite3.SQLITE_READ or first == "images", accesses
        assert action != sqlite3.SQLITE_FUNCTION or second in functions, accesses


@settings(max_examples=50)
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
                lambda position: text[:position] + "'" + text[position:]
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
def test_any_text_reads_only_the_table_of_images(database, text):
    try:
        check_accesses(database, text)
    except InputError as error:
        assert str(error).startswith("`where` must ")
    assert len(ids_by_sql(database, "1")) == len(ROWS)


def test_names_of_columns_are_quoted():
    name = 'x" = 1 OR "y'
    connection = sqlite3.connect(":memory:")
    connection.execute('CREATE TABLE images (id, "x"" = 1 OR ""y")')
    connection.execute("INSERT INTO images VALUES (1, 2)")
    condition = '"x"" = 1 OR ""y" = 2'
    assert ids_by_sql(connection, *read(condition, {name: NUMBER})) == [1]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "condition"),
        ("yaer > 1", "year"),
        ("year = 1 year = 2", "condition"),
        ("year = 1; year = 2", "condition"),
        ("folder = 'a", "condition"),
        ("2020 < year", "column"),
        ("images.year = 1", "column"),
        ("lower(folder) = 'a'", "column"),
        ("year", "comparisons"),
        ("year in ()", "comparisons"),
        ("year = null", "is null"),
        ("year = 1e999", "year"),
        ("year = 'a'", "year"),
        ("folder > 5", "folder"),
        ("folder = year", "folder"),
        ("folder like 5", "like"),
        ("folder like 'a\\\\\\'", "backslash"),
        ("folder = 'a\0'", "characters"),
        ("year in (" + "1, " * MAX_CHARACTERS + "1)", "characters"),
        (" or ".join(["year=1"] * (MAX_TESTS + 1)), "comparisons"),
        ("(" * 60 + "year=1" + ")" * 60, "levels"),
        ("not " * 2_000 + "year=1", "levels"),
    ],
)
def test_invalid_conditions_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        read(text)


def test_conditions_at_the_limits_run(database):
    flat = " or ".join(["year=2019"] * MAX_TESTS)
    deep = "not (" * (MAX_DEPTH - 1) + flat + ")" * (MAX_DEPTH - 1)
    assert ids_by_condition(database, flat) == [1]
    assert len(ids_by_condition(database, deep)) == 4


def test_case_matters_for_columns_that_differ_only_in_case():
    kinds = {"year": NUMBER, "Year": NUMBER}
    assert read("Year = 1", kinds)[0] == '("Year" = ?)'
    with pytest.raises(InputError, match="mean (year or Year|Year or year)"):
        read("YEAR = 1", kinds)


def test_columns_can_have_the_names_of_keywords():
    names = ["case", "if", "any", "replace", "select", "date", "current_date", "true"]
    for name in names:
        assert read(f"{name} = 1", {name: NUMBER}) == (f'("{name}" = ?)', [1])
