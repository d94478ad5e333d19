"""Tests of the reader of tables in CSV, TSV and JSONL."""

import tracemalloc

import pytest

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.text_tables import read_table


@pytest.mark.parametrize("line_end", ["", '" of all', '"'])
def test_an_open_quotation_mark_drops_only_its_line(tmp_path, line_end):
    lines = [f"{row}.png,caption {row}" for row in range(13)]
    lines[2] = '2.png,"caption 2'
    lines[9] += line_end
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(["image,caption", *lines]))
    counter = DropCounter()
    columns, rows = read_table(path, "utf-8", counter)
    assert columns == ["image", "caption"]
    assert [row["image"] for row, _ in rows] == [
        f"{n}.png" for n in range(13) if n != 2
    ]
    assert counter.bad == {"malformed line": 1}
    assert rows[2][1] == "pairs.csv line 5"


def test_a_quoted_cell_may_have_several_lines(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text('image,caption\na.png,"two\nlines, ""quoted"""\nb.png,one\n')
    _, rows = read_table(path, "utf-8", DropCounter())
    assert [row["caption"] for row, _ in rows] == ['two\nlines, "quoted"', "one"]
    positions = [position for _, position in rows]
    assert positions == ["pairs.csv line 2", "pairs.csv line 4"]


def test_unicode_line_separators_do_not_end_a_row(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text(
        "image,caption\r\na.png,one\u2028two\x0b\r\nb.png,\x85\r\n", "utf-8"
    )
    columns, rows = read_table(path, "utf-8", DropCounter())
    captions = [row["caption"] for row, _ in rows]
    assert captions == ["one\u2028two\x0b", "\x85"]


def test_a_huge_cell_is_a_malformed_line_and_takes_little_memory(tmp_path):
    size = 10_000_000
    path = tmp_path / "pairs.csv"
    path.write_text(f"image,caption\na.png,{'x' * size}\nb.png,A cat\n")
    counter = DropCounter()
    tracemalloc.start()
    _, rows = read_table(path, "utf-8", counter)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [row["image"] for row, _ in rows] == ["b.png"]
    assert counter.bad == {"malformed line": 1}
    # The bytes, the text and its lines.
    assert peak < 3.5 * size
