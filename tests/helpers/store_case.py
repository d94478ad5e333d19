"""Tests that every store of an index must pass."""

import csv
import json
import os
import pathlib
import shutil
import sqlite3

import numpy as np
import pytest

from align_keras import load_model
from align_keras.search import Index, Query
from align_keras.search.tags import tag_images, write_tags_column
from align_keras.utils.errors import InputError
from align_keras.utils.where import MAX_TESTS
from tests.helpers.color_towers import GOLDEN, image_bytes

# Names of columns that could collide with names in the database or with each other.
COLLIDING = (
    "score",
    "vector",
    "id",
    "path",
    "ctid",
    "rowid",
    "root",
    "number",
    "row",
    "select",
    "Loc!",
    "loc?",
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
# Name of a column → its cells in the rows of the red and the green image.
VALUES = {
    "zip": ["00123", "99999"],
    "isbn": ["97831614841009783161", "1"],
    "price": ["4.50", "12.00"],
    "stars": ["5", "-1"],
    "share": ["0.1", "0.30000000000000004"],
    "mixed": ["3", "n/a"],
    "blank": ["", "8"],
    "city": ["Österreich ΣΑΣ", "ZÜRICH"],
}
# Condition → names of the images that fulfill it. The blue image has no row.
CONDITIONS = {
    "zip = '00123'": ["red"],
    "isbn like '97831614841009783%'": ["red"],
    "price > 4.5": ["green"],
    "price like '%.50'": ["red"],
    "stars between -3 and 0": ["green"],
    "stars > share": ["red"],
    "stars = '5'": ["red"],
    "mixed = '3'": ["red"],
    "blank > 7": ["green"],
    "not stars > 3": ["green"],
    "stars is null": ["blue"],
    "stars > 3 or width = 40": ["blue", "red"],
    "not (stars > 3 and width = 40)": ["green", "red"],
    "not (stars is not null or width = 24)": ["blue"],
    "width not between stars and 30": ["blue"],
    "zip not in ('00123', 'x')": ["green"],
    "zip not like '00%'": ["green"],
    "city like '%öster%'": ["red"],
    "city like 'zürich'": ["green"],
    "city like '%σας'": ["red"],
    "city < 'a'": ["green"],
    "name = 'blue.jpg' and folder like '%italy'": ["blue"],
    "year > '1999' and date > '2020'": ["blue", "green", "red"],
}


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
    """Returns a row of a table next to the folder `photos`."""
    return {"image": f"photos/{color}.png", "caption": caption, **values}


def names(index, where):
    """Returns the names of the images that fulfill a condition."""
    return sorted(pathlib.Path(hit.path).stem for hit in index.latest(where, 99))


class StoreCase:
    """Base class for the tests of a store of an index.

    Attributes:
        tolerance: largest error of a score.

    Example:

    ```python
    class TestFolder(StoreCase):
        @pytest.fixture(scope="class")
        @staticmethod
        def new_location(tmp_path_factory):
            return lambda: tmp_path_factory.mktemp("store") / "index"
    ```
    """

    tolerance = 1e-6

    @pytest.fixture(scope="class")
    @staticmethod
    def new_location():
        """Returns a function that returns the location of a new index."""
        raise NotImplementedError

    @pytest.fixture
    def location(self, new_location):
        return new_location()

    @pytest.fixture
    def build(self, location, photos):
        """Returns a function that builds or updates the index of the test."""

        def build(*sources):
            return Index.build(location, sources, GOLDEN)

        return build

    # === Images ===

    def test_hits_are_those_of_a_brute_force_search(self, build, photos):
        random = np.random.default_rng(0)
        for number in range(20):
            color = tuple(random.integers(0, 256, 3).tolist())
            (photos / f"{number:02}.png").write_bytes(image_bytes(color))
        index = build(photos)
        paths = [hit.path for hit in index.latest(k=99)]
        model = index.model
        embeddings = model.encode_images(paths)
        green = image_bytes((10, 200, 10))
        for query, selected in (
            (Query("red", minus="blue"), paths),
            (Query(image=green, plus="blue"), paths),
            (Query("blue", where="name like '%1.png'"), ["01.png", "11.png"]),
        ):
            query.k, query.duplicates = 99, True
            images = model.encode_images([green]) if query.images else None
            scores = embeddings @ query.encode(model, images)
            best = np.argsort(-scores)
            expected = [row for row in best if paths[row].endswith(tuple(selected))]
            hits = index.query(query)
            found = [hit.score for hit in hits]
            np.testing.assert_allclose(found, scores[expected], atol=self.tolerance)
            assert {hit.path for hit in hits} == {paths[row] for row in expected}
            if query.where is None:
                assert len(hits) == 23
        blue = index.query("blue", k=1)[0]
        assert index.query(Query(image=blue.id, k=1))[0].path == blue.path

    def test_near_duplicates_are_merged(self, build, photos):
        for number in range(3):
            content = image_bytes("red", (24, 25 + number))
            (photos / f"red{number}.png").write_bytes(content)
        index = build(photos)
        hits = index.query("red", k=3)
        assert len(hits) == 3 and len(hits[0].duplicates) == 3
        hits = index.query("red", k=3, duplicates=True)
        assert all("red" in hit.path and not hit.duplicates for hit in hits)

    def test_an_update_embeds_only_new_content(self, build, photos):
        index = build(photos)
        before = {hit.path: hit.id for hit in index.latest()}
        changes = build(photos).changes
        assert (changes.unchanged, changes.added, changes.changed) == (3, 0, 0)
        assert changes.unreadable["unreadable"] == 1
        (photos / "green.png").rename(photos / "Italy" / "meadow.png")
        (photos / "red.png").write_bytes(image_bytes((200, 0, 90)))
        (photos / "Italy" / "blue.jpg").unlink()
        shutil.copy(photos / "Italy" / "meadow.png", photos / "Italy" / "new.png")
        changes = build().changes
        counts = (changes.added, changes.changed, changes.renamed, changes.removed)
        assert counts == (1, 1, 1, 1)
        ids = {hit.path: hit.id for hit in index.latest()}
        assert sorted(map(os.path.basename, ids)) == [
            "meadow.png",
            "new.png",
            "red.png",
        ]
        # Renamed and changed images keep their ids.
        meadow = str(photos / "Italy" / "meadow.png")
        assert ids[meadow] == before[str(photos / "green.png")]
        assert ids[str(photos / "red.png")] == before[str(photos / "red.png")]

    def test_images_and_sources_are_removed(self, build, photos):
        index = build(photos)
        assert index.remove([photos / "red.png"]) == 1
        assert names(index, "width > 0") == ["blue", "green"]
        assert index.remove([photos]) == 2 and len(index) == 0
        assert index.query("red") == [] and not index.store.sources()

    def test_names_that_are_not_utf8_are_stored(self, build, photos):
        name = os.path.join(os.fsencode(photos), b"\xff caf\xe9.png")
        with open(name, "wb") as file:
            file.write(image_bytes((255, 255, 0)))
        hit = build(photos).query("red green", k=1)[0]
        assert os.fsencode(hit.path) == name
        assert "\\xff caf\\xe9.png" in hit.columns["name"]

    def test_left_out_files_are_listed(self, build, photos):
        index = build(photos)
        [left_out] = index.left_out()
        assert left_out.path == f"{photos}/broken.jpg" and left_out.detail
        (photos / "broken.jpg").unlink()
        index.add()
        assert index.left_out() == []

    def test_tags_are_conditions(self, build, photos):
        index = build(photos)
        write_tags_column(index, tag_images(index, ["red", "blue"], 0.6))
        assert names(index, "tags = 'red'") == ["red"]
        write_tags_column(index, tag_images(index, ["green"], 0.6))
        assert names(index, "tags = 'red'") == []

    def test_an_export_has_the_columns_and_vectors(self, build, photos, tmp_path):
        table = write_csv(tmp_path / "t.csv", [row("red", "a cat", stars="4")])
        index = build(photos, table)
        vectors_path, table_path, _ = index.export(tmp_path / "a.npy")
        with open(table_path, newline="") as file:
            rows = list(csv.DictReader(file))
        assert [values["name"] for values in rows] == [
            "green.png",
            "red.png",
            "blue.jpg",
        ]
        assert (
            json.loads(rows[1]["captions"]) == ["a cat"] and rows[1]["stars"] == "4.0"
        )
        for values, vector in zip(rows, np.load(vectors_path), strict=True):
            np.testing.assert_array_equal(index.embedding(int(values["id"])), vector)

    def test_a_missing_index_and_another_model_are_refused(
        self, build, location, photos
    ):
        with pytest.raises(InputError, match="align-keras index"):
            Index.open(location)
        build(photos)
        other = load_model(GOLDEN)
        other.fingerprint = "other"
        with pytest.raises(InputError, match="model"):
            Index.open(location, other)

    # === Rows of tables ===

    def test_conditions_select_images(self, build, photos, tmp_path):
        rows = [
            row(color, **{name: cells[number] for name, cells in VALUES.items()})
            for number, color in enumerate(("red", "green"))
        ]
        index = build(photos, write_csv(tmp_path / "t.csv", rows))
        hits = {hit.columns["name"]: hit.columns for hit in index.latest()}
        numbers = {"stars": 5, "share": 0.1}
        expected = {name: cells[0] for name, cells in VALUES.items()} | numbers
        del expected["blank"]
        assert hits["red.png"].items() >= expected.items()
        assert hits["green.png"]["blank"] == 8
        for where, colors in CONDITIONS.items():
            assert names(index, where) == colors, where
        for where in ("zip = 123", "stars > 'abc'", "stars > zip", "year > 'abc'"):
            with pytest.raises(InputError, match="`where`"):
                index.latest(where)
        with pytest.raises(InputError, match="`where`"):
            index.latest("1 = 1; drop table images")
        assert len(index) == 3

    def test_conditions_apply_to_every_row_of_an_image(self, build, tmp_path):
        rows = [
            row("red", "a cat", label="cat", box="1"),
            row("red", "a dog", label="dog", box="2"),
            row("green", "a leaf", label="leaf", box="1"),
        ]
        index = build(write_csv(tmp_path / "t.csv", rows))
        assert names(index, "label = 'dog' and box = 1") == []
        assert names(index, "not label = 'cat'") == ["green", "red"]
        (hit,) = index.query("red", where="label = 'dog'")
        assert hit.captions == ["a cat", "a dog"]
        values = [(values["label"], values["box"]) for values in hit.rows]
        assert values == [("cat", 1), ("dog", 2)]
        assert hit.columns["label"] == "cat"

    def test_names_of_columns_do_not_collide(self, build, tmp_path):
        reds = {name: f"red {number}" for number, name in enumerate(COLLIDING)}
        greens = {name: f"green {number}" for number, name in enumerate(COLLIDING)}
        rows = [row("red", **reds), row("green", **greens)]
        index = build(write_jsonl(tmp_path / "t.jsonl", rows))
        best, second = index.query("red")
        assert (best.path[-7:], second.path[-9:]) == ("red.png", "green.png")
        assert best.score > 0.9 and best.columns["width"] == 24
        condition_names = {value: name for name, value in best.columns.items()}
        for value in reds.values():
            where = f"\"{condition_names[value]}\" = '{value}'"
            assert [hit.id for hit in index.query("green", where=where)] == [best.id]

    def test_values_of_removed_rows_and_tables_are_deleted(
        self, build, photos, tmp_path
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
        with pytest.raises(InputError, match="stars"):
            index.latest("stars = 4")
        rows = index.store.database.fetch_rows("SELECT * FROM table_rows")
        assert "secret" not in str(rows)

    def test_rows_are_read_from_a_single_database_state(
        self, build, tmp_path, monkeypatch
    ):
        connect = sqlite3.connect

        def connect_with_timeout(*arguments, **options):
            return connect(*arguments, **{**options, "timeout": 0.1})

        # The end of an update waits for the readers.
        monkeypatch.setattr(sqlite3, "connect", connect_with_timeout)
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

    def test_tables_may_have_many_columns_and_conditions_many_tests(
        self, build, photos, tmp_path
    ):
        values = {f"column {number}": number for number in range(2_100)}
        first = write_csv(tmp_path / "a.csv", [row("red", **values, Tag="4")])
        second = write_csv(tmp_path / "b.csv", [row("green", tag="n/a")])
        index = build(first, second)
        assert names(index, "column_2099 = 2099 and column_3 = 3") == ["red"]
        assert index.store.tables.columns["tag"] == "text"
        assert names(index, "tag in ('4', 'n/a')") == ["green", "red"]
        test = "column_7 between 7 and 7"
        assert names(index, " or ".join([test] * MAX_TESTS)) == ["red"]

    def test_characters_that_no_database_stores_are_replaced(self, build, tmp_path):
        rows = [row("red", tag="a\ud800b\0c"), row("green", tag=True, other=[1])]
        index = build(write_jsonl(tmp_path / "t.jsonl", rows))
        (hit,) = index.latest("tag = 'a\ufffdb\ufffdc'")
        assert hit.columns["tag"] == "a\ufffdb\ufffdc"
        assert names(index, "tag = 'true'") == ["green"]
        assert "other" not in index.store.tables.columns
