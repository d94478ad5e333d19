"""Captions and columns of user tables, in an index in a folder and in PostgreSQL."""

import contextlib
import csv
import json
import pathlib
import sqlite3

import pytest

from align_keras.search import Index, Query
from align_keras.search.index.columns import kind_of
from align_keras.utils.errors import InputError
from align_keras.utils.where import MAX_TESTS


@pytest.fixture(params=["folder", pytest.param("database", marks=pytest.mark.ci)])
def location(request, tmp_path):
    """Returns the path of a new index, or the address of an empty database."""
    if request.param == "folder":
        return tmp_path / "index"
    return request.getfixturevalue("database")


@pytest.fixture
def build(location, photos, colors):
    def build(*sources):
        return Index.build(location, sources, colors.GOLDEN)

    return build


def write_csv(path, rows):
    """Writes dicts with the same keys as a table."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def row(color, caption="a thing", **values):
    return {"image": f"photos/{color}.png", "caption": caption, **values}


def names(index, where):
    return sorted(pathlib.Path(hit.path).stem for hit in index.latest(where, 99))


# Names of columns that could collide with names in the database or with each other.
COLLIDING = (
    "score",
    "vector",
    "id",
    "path",
    "mtime_ns",
    "ctid",
    "xmin",
    "rowid",
    "rank",
    "image_id",
    "root",
    "number",
    "t0",
    "oid",
    "tableoid",
    "c0",
    "row",
    "content",
    "select",
    "Loc!",
    "loc?",
    "LOC",
    "x" * 63 + "1",
    "x" * 63 + "2",
    'a"b',
    "%s",
    "",
    "NUL\0",
    "\ud800",
    "\ud801",
    "naïve",
)


def test_names_of_columns_do_not_collide(build, tmp_path):
    reds = {name: f"red {number}" for number, name in enumerate(COLLIDING)}
    greens = {name: f"green {number}" for number, name in enumerate(COLLIDING)}
    table = write_jsonl(
        tmp_path / "t.jsonl", [row("red", **reds), row("green", **greens)]
    )
    index = build(table)
    (best, second) = index.query("red")
    assert (best.path[-7:], second.path[-9:]) == ("red.png", "green.png")
    assert best.score > 0.9
    condition_names = {value: name for name, value in best.columns.items()}
    for value in reds.values():
        where = f"\"{condition_names[value]}\" = '{value}'"
        assert [hit.id for hit in index.query("green", where=where)] == [best.id]
    assert best.columns["width"] == 24


def test_values_do_not_change(build, tmp_path):
    values = {
        "zip": ["00123", "99999"],
        "isbn": ["97831614841009783161", "1"],
        "code": ["1e5", "7"],
        "price": ["4.50", "12.00"],
        "stars": ["5", "-1"],
        "share": ["0.1", "0.30000000000000004"],
        "mixed": ["3", "n/a"],
        "blank": ["", "8"],
    }
    rows = [
        row(color, **{name: cells[number] for name, cells in values.items()})
        for number, color in enumerate(("red", "green"))
    ]
    index = build(write_csv(tmp_path / "t.csv", rows))
    red, green = index.query("red")
    stored = {name: [red.columns.get(name), green.columns[name]] for name in values}
    numbers = {"stars": [5, -1], "share": [0.1, 0.30000000000000004]}
    assert stored == {**values, **numbers, "blank": [None, 8]}
    for where, expected in (
        ("zip = '00123'", ["red"]),
        ("isbn = '97831614841009783161'", ["red"]),
        ("isbn like '97831614841009783%'", ["red"]),
        ("code = '1e5'", ["red"]),
        ("price > 4.5", ["green"]),
        ("price in (4.5, 3)", ["red"]),
        ("price like '%.50'", ["red"]),
        ("stars between -3 and 0", ["green"]),
        ("stars > share", ["red"]),
        ("stars = '5'", ["red"]),
        ("mixed = '3'", ["red"]),
        ("blank is null", ["red"]),
        ("blank > 7", ["green"]),
    ):
        assert names(index, where) == expected, where
    for where in ("zip = 123", "mixed > 2", "stars > 'abc'", "stars > zip"):
        with pytest.raises(InputError, match="`where` must compare"):
            index.latest(where)


@pytest.mark.parametrize(
    "cells, kind",
    [
        (["1", "2"], "number"),
        (["9007199254740992"], "number"),
        (["9007199254740993"], "text"),
        ([9007199254740993], "text"),
        ([1, 2.5, None, float("nan")], "number"),
        (["1.10"], "decimal"),
        ([" 1"], "decimal"),
        (["0.1000000000000000055511151231257827"], "text"),
        (["٣"], "text"),
        (["+1"], "text"),
        (["1_000"], "text"),
        (["-0"], "text"),
        (["01"], "text"),
        ([".5"], "text"),
        (["1."], "text"),
        (["inf"], "text"),
        (["9" * 100_000], "text"),
        ([True], "text"),
        (["", None, " "], None),
    ],
)
def test_kind_of_recognizes_numbers(cells, kind):
    assert kind_of(cells) == kind


def test_conditions_apply_to_every_row_of_an_image(build, tmp_path):
    rows = [
        row("red", "a cat", label="cat", box="1"),
        row("red", "a dog", label="dog", box="2"),
        row("green", "a leaf", label="leaf", box="1"),
    ]
    index = build(write_csv(tmp_path / "t.csv", rows))
    assert names(index, "label = 'dog'") == ["red"]
    assert names(index, "label = 'dog' and box = 1") == []
    assert names(index, "box = 1") == ["green", "red"]
    assert names(index, "not label = 'cat'") == ["green", "red"]
    (hit,) = index.query("red", where="label = 'dog'")
    assert hit.captions == ["a cat", "a dog"]
    values = [(values["label"], values["box"]) for values in hit.rows]
    assert values == [("cat", 1), ("dog", 2)]
    assert hit.columns["label"] == "cat"


@pytest.mark.parametrize(
    "where, expected",
    [
        ("stars > 3", ["red"]),
        ("not stars > 3", ["green"]),
        ("stars is null", ["blue"]),
        ("not stars is null", ["green", "red"]),
        ("stars > 3 or width = 40", ["blue", "red"]),
        ("stars > 3 and width = 24", ["red"]),
        ("not (stars > 3 and width = 40)", ["green", "red"]),
        ("not (stars is not null or width = 24)", ["blue"]),
        ("stars is null or tag = 'x'", ["blue", "red"]),
        ("width > stars", ["green", "red"]),
        ("width not between stars and 30", ["blue"]),
        ("stars not in (4, 9)", ["green"]),
        ("tag not like 'x%'", ["green"]),
    ],
)
def test_an_image_without_rows_has_empty_cells(
    build, photos, tmp_path, where, expected
):
    rows = [row("red", stars="4", tag="x"), row("green", stars="1", tag="y")]
    index = build(photos, write_csv(tmp_path / "t.csv", rows))
    assert names(index, where) == expected


def test_values_of_removed_rows_and_tables_are_deleted(
    location, build, photos, tmp_path
):
    first = write_csv(
        tmp_path / "a.csv",
        [row("red", "one", tag="secret"), row("green", "two", tag="7")],
    )
    second = write_csv(tmp_path / "b.csv", [row("red", "three", stars="4")])
    index = build(photos, first, second)
    assert names(index, "tag = 'secret' and stars > 3") == ["red"]
    (hit,) = index.latest("stars = 4")
    assert hit.captions == ["one", "three"] and hit.columns["tag"] == "secret"
    write_csv(first, [row("green", "two", tag="7")])
    index = build()
    assert names(index, "captions like '%one%'") == []
    # Without the cell "secret", the column contains only numbers.
    assert names(index, "tag = 7") == ["green"]
    index.remove([second])
    assert names(index, "captions is null") == ["blue", "red"]
    with pytest.raises(InputError, match="must have names of columns"):
        index.latest("stars = 4")
    with open_database(location) as execute:
        assert "secret" not in str(execute("SELECT * FROM table_rows").fetchall())


@pytest.mark.ci
def test_rows_are_read_from_a_single_database_state(build, tmp_path, monkeypatch):
    table = write_csv(tmp_path / "t.csv", [row("red", stars="5")])
    index = build(table)
    (image,) = index.store.latest("", [], 1)
    original = index.store.tables.user_columns

    def change_columns():
        columns = original()
        monkeypatch.setattr(index.store.tables, "user_columns", original)
        write_csv(table, [row("red", stars="n/a")])
        build()
        return columns

    monkeypatch.setattr(index.store.tables, "user_columns", change_columns)
    (values,) = index.store.tables.rows_of([image["id"]])[image["id"]]
    assert values["stars"] == 5
    (values,) = index.store.tables.rows_of([image["id"]])[image["id"]]
    assert values["stars"] == "n/a"


def test_a_table_may_have_any_number_of_columns(build, tmp_path):
    values = {f"column {number}": number for number in range(2_100)}
    index = build(write_csv(tmp_path / "t.csv", [row("red", **values)]))
    (hit,) = index.query("red", where="column_2099 = 2099 and column_3 = 3")
    assert hit.columns["column_1500"] == 1500


def test_tables_share_columns_of_the_same_name(build, tmp_path):
    first = write_csv(tmp_path / "a.csv", [row("red", **{"Shoe size": "4"})])
    second = write_csv(tmp_path / "b.csv", [row("green", **{"shoe_size": "n/a"})])
    index = build(first, second)
    assert index.store.tables.columns["shoe_size"] == "text"
    assert names(index, "shoe_size in ('4', 'n/a')") == ["green", "red"]


def test_long_conditions_on_columns_of_tables_run(build, photos, tmp_path):
    first = write_csv(tmp_path / "a.csv", [row("red", stars="4", tag="x")])
    second = write_csv(tmp_path / "b.csv", [row("green", stars="5")])
    index = build(photos, first, second)
    tests = ["stars = 4", "stars between 4 and 4", "tag like 'x%'", "tag in ('x', 'y')"]
    for test in tests:
        assert names(index, " or ".join([test] * MAX_TESTS)) == ["red"]


def test_like_ignores_the_case_of_non_ascii_letters(build, tmp_path):
    rows = [row("red", city="Österreich ΣΑΣ"), row("green", city="ZÜRICH")]
    index = build(write_csv(tmp_path / "t.csv", rows))
    for pattern, expected in (
        ("%öster%", ["red"]),
        ("ZÜRICH", ["green"]),
        ("zürich", ["green"]),
        ("%σας", ["red"]),
        ("%REICH%", ["red"]),
        ("%ö%i%h%", ["red"]),
    ):
        assert names(index, f"city like '{pattern}'") == expected, pattern
    assert names(index, "city < 'a'") == ["green"]


def test_characters_that_no_database_stores_are_replaced(build, tmp_path):
    table = write_jsonl(
        tmp_path / "t.jsonl",
        [row("red", tag="a\ud800b\0c"), row("green", tag=True, other=[1])],
    )
    index = build(table)
    (hit,) = index.latest("tag = 'a\ufffdb\ufffdc'")
    assert hit.columns["tag"] == "a\ufffdb\ufffdc"
    assert names(index, "tag = 'true'") == ["green"]
    assert "other" not in index.store.tables.columns


@contextlib.contextmanager
def open_database(location):
    """Yields a function that executes SQL in a transaction."""
    if isinstance(location, pathlib.Path):
        with contextlib.closing(
            sqlite3.connect(location / "images.sqlite")
        ) as database:
            with database:
                yield database.execute
        return
    import psycopg

    def execute(sql, parameters=()):
        return connection.execute(sql.replace("?", "%s"), parameters)

    search_path = "-c search_path=align_keras,public"
    with psycopg.connect(location, options=search_path) as connection:
        yield execute


def test_an_index_of_another_version_is_refused(location, build, photos):
    build(photos).store.close()
    if isinstance(location, pathlib.Path):
        header = location / "index.json"
        content = {**json.loads(header.read_text()), "version": 1}
        header.write_text(json.dumps(content))
    else:
        with open_database(location) as execute:
            (text,) = execute("SELECT value FROM meta WHERE key = 'header'").fetchone()
            content = json.dumps({**json.loads(text), "version": 1})
            execute("UPDATE meta SET value = ? WHERE key = 'header'", [content])
    with pytest.raises(
        InputError, match="version 2.*Received: version 1.*`align-keras index"
    ):
        Index.open(location)


def test_built_in_columns_have_kinds(build, photos):
    index = build(photos)
    with pytest.raises(
        InputError, match="`where` must compare year, a column of numbers"
    ):
        index.query(Query("red", where="year > 'abc'"))
    with pytest.raises(InputError, match="`where` must compare date, a column of text"):
        index.latest("date > 2020")
    assert len(index.latest("year > '1999' and date > '2020'")) == 3
