"""Tests of the reader of pairs in tables and folders."""

import json
import time

import pytest

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.pair_files import read_pairs
from align_keras.utils.errors import InputError


def read(path, **options):
    counter = DropCounter()
    return list(read_pairs(path, counter=counter, **options)), counter


def write_table(folder, content, name="pairs.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(content.encode(encoding))
    return path


def message_of(path, **options):
    with pytest.raises(InputError) as error_info:
        read(path, **options)
    assert "\n" not in str(error_info.value)
    return str(error_info.value)


def test_csv_rows_of_an_image_are_merged(tmp_path):
    path = write_table(
        tmp_path,
        "id,Filename,Caption,other\n"
        '7,a.png,"A cat, ""Tom""",x\n'
        "8,sub/b.png,A dog,x\n"
        "9,./a.png,A tabby cat,x\n"
        '10,c.png,"two\nlines",x\n'
        "\n"
        "11,/abs/d.png,A bird,x\n",
    )
    records, counter = read(path)
    assert [
        (record.id, record.image_path, record.captions, record.position)
        for record in records
    ] == [
        ("7", tmp_path / "a.png", ['A cat, "Tom"', "A tabby cat"], "pairs.csv line 2"),
        ("8", tmp_path / "sub/b.png", ["A dog"], "pairs.csv line 3"),
        ("10", tmp_path / "c.png", ["two lines"], "pairs.csv line 5"),
        ("11", type(tmp_path)("/abs/d.png"), ["A bird"], "pairs.csv line 8"),
    ]
    assert not counter.bad and not counter.filtered


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pairs.tsv", 'image\tcaption\na.png\t"A cat\nb.png\t"A ""big"" dog"\n'),
        ("pairs.csv", 'image;caption\na.png;"""A cat"\nb.png;"A ""big"" dog"\n'),
        (
            "pairs.jsonl",
            '{"image": "a.png", "caption": "\\"A cat"}\n\n'
            '{"image": "b.png", "caption": "A \\"big\\" dog", "x": 1}\n',
        ),
    ],
)
def test_quotation_marks_are_read_in_each_format(tmp_path, name, content):
    records, counter = read(write_table(tmp_path, content, name))
    assert [record.captions for record in records] == [['"A cat'], ['A "big" dog']]
    assert [record.id for record in records] == ["a.png", "b.png"]
    assert not counter.bad


def test_jsonl_can_have_lists_of_captions(tmp_path):
    row = {"image": "a.png", "caption": ["A cat", "", "A tabby", 3]}
    records, counter = read(write_table(tmp_path, json.dumps(row), "pairs.jsonl"))
    assert records[0].captions == ["A cat", "A tabby"]
    assert counter.bad == {"empty caption": 2}


def test_byte_order_marks_and_windows_line_breaks_are_removed(tmp_path):
    content = "image,caption\r\na.png,Käse\r\n"
    for encoding in ("utf-8-sig", "utf-16"):
        path = write_table(tmp_path, content, encoding=encoding)
        option = "utf-16" if encoding == "utf-16" else "utf-8"
        records, _ = read(path, encoding=option)
        assert [(record.id, record.captions) for record in records] == [
            ("a.png", ["Käse"])
        ]


def test_a_wrong_encoding_names_line_byte_and_option(tmp_path):
    path = write_table(tmp_path, "image,caption\na.png,Käse\n", encoding="cp1252")
    message = message_of(path)
    assert "line 2" in message and "`encoding`" in message
    records, _ = read(path, encoding="cp1252")
    assert records[0].captions == ["Käse"]
    assert "klingon" in message_of(path, encoding="klingon")


def test_a_missing_column_lists_the_columns_and_the_option(tmp_path):
    path = write_table(tmp_path, "foto,caption\na.png,A cat\n")
    message = message_of(path)
    assert "'foto', 'caption'" in message and "`image_column`" in message
    assert read(path, image_column="foto")[0][0].captions == ["A cat"]
    message = message_of(write_table(tmp_path, "image,words\na.png,A cat\n"))
    assert "`caption_column`" in message


def test_a_missing_column_names_no_option_if_there_is_none(tmp_path):
    path = write_table(tmp_path, "image,words\na.png,A cat\n")
    assert "caption_column" not in message_of(path, origin_of=dict)


def test_a_requested_column_takes_precedence(tmp_path):
    path = write_table(tmp_path, "image,thumb,caption,title\na.png,t.png,A,B\n")
    records, _ = read(path, image_column="thumb", caption_column="title")
    assert records[0].id == "t.png" and records[0].captions == ["B"]


def test_bad_captions_are_counted_with_their_line(tmp_path):
    path = write_table(
        tmp_path,
        f"image,caption\na.png,\nb.png, \x00\t \nc.png,{'x' * 10_000}\n"
        f"d.png,{'y' * 2_000}\na.png,fine\n",
    )
    records, counter = read(path)
    assert [record.id for record in records] == ["d.png", "a.png"]
    assert counter.bad == {"empty caption": 2, "long caption": 1}
    assert counter.examples["empty caption"] == "pairs.csv line 2"
    assert counter.examples["long caption"] == "pairs.csv line 4: 10,000 characters"


def test_captions_are_cleaned(tmp_path):
    path = write_table(tmp_path, "image,caption\na.png,\tA\x07  red\x00cat \n")
    records, _ = read(path)
    assert records[0].captions == ["A red cat"]


def test_images_with_the_same_id_have_their_paths_as_ids(tmp_path):
    path = write_table(tmp_path, "id,image,caption\n1,a.png,A\n1,b.png,B\n1,a.png,C\n")
    records, counter = read(path)
    assert [(record.id, record.captions) for record in records] == [
        ("1", ["A", "C"]),
        ("b.png", ["B"]),
    ]
    assert not counter.bad


def test_repeated_rows_are_filtered(tmp_path):
    records, counter = read(write_table(tmp_path, "image,caption\na.png,A\na.png,A\n"))
    assert records[0].captions == ["A"]
    assert counter.filtered == {"repeated pair": 1} and not counter.bad


@pytest.mark.parametrize(
    ("name", "content", "bad"),
    [
        ("pairs.csv", "image,caption\na.png,A\nb.png\nc.png,C,more\n", 2),
        ("pairs.tsv", "image\tcaption\na.png\tA\nb.png\n", 1),
        (
            "pairs.jsonl",
            '{"image": "a.png", "caption": "A"}\n{"image": \n[1, 2]\nNaN\n',
            3,
        ),
    ],
)
def test_malformed_lines_are_counted(tmp_path, name, content, bad):
    records, counter = read(write_table(tmp_path, content, name))
    assert [record.id for record in records] == ["a.png"]
    assert counter.bad == {"malformed line": bad}
    line = 2 if name == "pairs.jsonl" else 3
    assert counter.examples["malformed line"].startswith(f"{name} line {line}: ")


def test_rows_without_an_image_path_are_counted_as_missing(tmp_path):
    content = '{"image": 3, "caption": "A"}\n{"image": "a.png", "caption": "A"}\n'
    records, counter = read(write_table(tmp_path, content, "pairs.jsonl"))
    assert len(records) == 1 and counter.bad == {"missing": 1}
    records, counter = read(write_table(tmp_path, "image,caption\n ,A\na.png,A\n"))
    assert len(records) == 1 and counter.bad == {"missing": 1}


def test_ids_can_be_encoded_in_utf8(tmp_path):
    content = '{"image": "\\ud800.png", "caption": "A"}\n'
    records, _ = read(write_table(tmp_path, content, "pairs.jsonl"))
    records[0].id.encode("utf-8")


def test_a_table_with_a_header_only_has_no_pairs(tmp_path):
    assert read(write_table(tmp_path, "image,caption\n"))[0] == []


def test_missing_paths_and_unknown_suffixes_raise_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        read(tmp_path / "nowhere.csv")
    assert ".jsonl" in message_of(write_table(tmp_path, "x", "pairs.xlsx"))


def test_a_folder_has_a_text_file_per_image(tmp_path):
    for name in ("b.PNG", "a.jpg", "sub/c.webp", "lonely.gif", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_text("A cat\n\n  A tabby \n")
    (tmp_path / "b.txt").write_text("\ufeffKäse", "utf-8")
    (tmp_path / "sub/c.txt").write_text("\n")
    (tmp_path / "README.txt").write_text("Read me.")
    records, counter = read(tmp_path)
    assert [(record.id, record.image_path, record.captions) for record in records] == [
        ("a.jpg", tmp_path / "a.jpg", ["A cat", "A tabby"]),
        ("b.PNG", tmp_path / "b.PNG", ["Käse"]),
    ]
    assert counter.bad == {"no caption file": 1, "empty caption": 1}
    assert counter.filtered == {"caption file without an image": 1}
    assert counter.examples["empty caption"] == "sub/c.txt"
    assert counter.examples["no caption file"] == "lonely.gif"


def test_a_text_file_with_a_wrong_encoding_is_dropped(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").touch()
    (tmp_path / "a.txt").write_text("Käse", "cp1252")
    (tmp_path / "b.txt").write_text("cheese")
    records, counter = read(tmp_path)
    assert [record.id for record in records] == ["b.png"]
    assert counter.bad == {"wrong encoding": 1}
    assert "`encoding`" in counter.examples["wrong encoding"]
    assert len(read(tmp_path, encoding="cp1252")[0]) == 2


def test_a_folder_takes_no_columns(tmp_path):
    assert "image_column" in message_of(tmp_path, image_column="image")


def test_unicode_separators_do_not_divide_captions_of_tsv_and_text_files(tmp_path):
    text = "one\u2028two,\x85three,\x0bfour\x0c"
    caption = "one two, three, four"
    table = write_table(tmp_path, f"image\tcaption\na.png\t{text}\r\n", "a.tsv")
    records, counter = read(table)
    assert [record.captions for record in records] == [[caption]]
    (tmp_path / "a.png").touch()
    (tmp_path / "a.txt").write_bytes(f"{text}\r\rsecond\n".encode())
    records, folder_counter = read(tmp_path)
    assert [record.captions for record in records] == [[caption, "second"]]
    assert not counter.bad and not folder_counter.bad


def test_many_malformed_lines_are_read_in_linear_time(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("image,caption\n" + 'a.png,"b"c\n' * 40_000 + "b.png,A cat\n")
    counter, start = DropCounter(), time.thread_time()
    [record] = read_pairs(path, counter=counter)
    assert record.captions == ["A cat"] and counter.bad == {"malformed line": 40_000}
    # Seconds. Linear time takes 0.1, and quadratic time takes minutes.
    assert time.thread_time() - start < 10


SOURCES = ["alt", "synthetic"]


def test_each_source_may_have_a_column(tmp_path):
    path = write_table(
        tmp_path,
        "image,alt,synthetic,note\n"
        "a.png,A cat,A black cat,x\n"
        "b.png,A dog,,x\n"
        "a.png,A black cat,My cat,x\n"
        "c.png,,,x\n",
    )
    records, counter = read(path, caption_sources=SOURCES)
    cat, dog = records
    assert list(zip(cat.captions, cat.origins, strict=True)) == [
        ("A cat", "alt"),
        ("A black cat", "synthetic"),
        ("A black cat", "alt"),
        ("My cat", "synthetic"),
    ]
    assert (dog.captions, dog.origins) == (["A dog"], ["alt"])
    # An empty cell is bad only if all sources of the row are empty.
    assert sum(counter.bad.values()) == 1


def test_a_column_may_name_the_source_of_each_caption(tmp_path):
    lines = [
        {"image": "a.png", "caption": ["A cat", "My cat"], "source": "alt"},
        {"image": "a.png", "caption": "A black cat", "source": "synthetic"},
        {"image": "a.png", "caption": "cat.png", "source": "file name"},
        {"image": "b.png", "caption": "A dog", "source": None},
    ]
    content = "\n".join(map(json.dumps, lines))
    path = write_table(tmp_path, content, "pairs.jsonl")
    (record,), counter = read(path, caption_sources=SOURCES)
    assert record.captions == ["A cat", "My cat", "A black cat"]
    assert record.origins == ["alt", "alt", "synthetic"]
    assert counter.filtered == {"other caption source": 2}
    records, _ = read(path)
    assert [len(record.captions) for record in records] == [4, 1]


def test_tables_without_the_caption_sources_are_refused(tmp_path):
    path = write_table(tmp_path, "image,alt\na.png,A cat\n")
    message = message_of(path, caption_sources=SOURCES)
    assert "synthetic" in message
