"""Tests of tables as sources, which are read completely or in ranges."""

import functools
import json

import pytest

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources import table_files
from align_keras.corpus.sources.source import open_source, read_part
from align_keras.corpus.sources.source_files import record_ranges
from align_keras.utils.errors import InputError
from tests.helpers.source_case import STRANGE_NAME, SourceCase
from tests.helpers.source_reading import read_source


class TestCSV(SourceCase):
    kind = "table"
    path = "a.csv"
    pairs = [('A "red" cat, asleep', "caption", "en"), ("A dog", "title", "de")]
    images = [b"cat", b"dog"]
    table = (
        "image,caption,rule,language\n"
        '"{}.png","A ""red"" cat,\nasleep",,en\n'
        "b.png,A dog,title,DE\n"
    ).format(STRANGE_NAME.replace('"', '""'))

    def write(self, folder):
        (folder / self.path).write_text(self.table)
        (folder / f"{STRANGE_NAME}.png").write_bytes(b"cat")
        (folder / "b.png").write_bytes(b"dog")


class TestJSONLines(TestCSV):
    path = "a.jsonl"
    counts_losses = True
    table = "\n".join(
        json.dumps(row)
        for row in (
            {
                "image": f"{STRANGE_NAME}.png",
                "caption": 'A "red" cat, asleep',
                "language": "en",
            },
            {"image": "b.png", "caption": "A dog", "rule": "title", "language": "DE"},
        )
    )


def test_a_large_table_is_read_in_parts(tmp_path, monkeypatch):
    ranges = functools.partial(record_ranges, size=100)
    monkeypatch.setattr(table_files, "record_ranges", ranges)
    path = tmp_path / "a.csv"
    lines = [f"{number}.jpg,caption {number}" for number in range(201)]
    path.write_text("image,caption\n,nowhere\n" + "\n".join(lines))
    parts = open_source(str(path)).parts()
    assert len(parts) == 3
    counter = DropCounter()
    pairs_of_parts = [list(read_part(part, counter)) for part in reversed(parts)]
    assert [len(pairs) for pairs in pairs_of_parts] == [1, 100, 100]
    assert pairs_of_parts[0][0].caption == "caption 200"
    # Only one of the parts counts the bad row of the table.
    assert counter.bad == {"missing": 1}


def test_a_changed_table_is_counted_as_vanished(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("image,caption\na.jpg,A cat\n")
    [part] = open_source(str(path)).parts()
    for content in ("image,caption\na.jpg,A cat\nb.jpg,A dog\n", "x\n1\n"):
        path.write_text(content)
        counter = DropCounter()
        assert list(read_part(part, counter)) == []
        assert counter.bad == {"vanished": 1}


def test_a_table_without_columns_raises_an_error_when_it_is_listed(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(InputError, match="image"):
        open_source(str(tmp_path)).parts()


def test_the_columns_rule_language_and_page_url_are_read(tmp_path):
    header = "image\tcaption\tRule\tlang\tpage_url\n"
    rows = ["taxi\ttitle\ten\thttps://a/", "Taxi\tcaption\tde\t", "taxi\todd\tfr\t"]
    table = header + "".join(f"a.png\t{row}\n" for row in [*rows, rows[2]])
    (tmp_path / "a.tsv").write_text(table)
    pairs, counter = read_source(tmp_path / "a.tsv")
    assert [pair[1:5] for pair in pairs] == [
        ("taxi", "title", "en", "https://a/"),
        ("Taxi", "caption", "de", ""),
        ("taxi", "caption", "fr", ""),  # A caption is kept once per language.
    ]
    assert counter.filtered == {"repeated pair": 1}


def test_the_captions_of_a_row_have_its_language(tmp_path):
    rows = [
        {"image": "a.png", "caption": ["Kuh", "Rind", "Kuh"], "language": "DE"},
        {"image": "a.png", "caption": "cow", "url": "https://b/a.png"},
        {"image": "a.png", "caption": "cow", "language": None, "page_url": 3},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs, counter = read_source(tmp_path / "a.jsonl")
    assert [pair[1:5] for pair in pairs] == [
        ("Kuh", "caption", "de", ""),
        ("Rind", "caption", "de", ""),
        ("cow", "caption", "", "https://b/a.png"),
        ("cow", "caption", "", ""),
    ]
    assert counter.filtered == {"repeated pair": 1}
