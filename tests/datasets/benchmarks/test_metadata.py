"""Tests of tables of image metadata."""

import pytest

from align_keras.datasets.benchmarks.metadata import join_metadata, read_metadata_table
from align_keras.utils.errors import InputError

ROWS = {"a.jpg": {"city": "in", "age": "7"}, "b c.jpg": {"city": "", "age": "8"}}


def write(folder, content, name="metadata.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id,city,age\na.jpg,in,7\nb c.jpg,,8\n"),
        ("a.CSV", "\ufeffid;city;age\r\na.jpg;in;7\r\n\r\nb c.jpg;;8"),
        ("a.tsv", 'id\tcity\tage\na.jpg\t in \t7\n"b c.jpg"\t\t8\n'),
        # pandas writes the index without a name.
        ("a.csv", ',"city","age"\n"a.jpg","in",7\n"b c.jpg","",8\n'),
    ],
)
def test_tables_of_common_programs_are_read(tmp_path, name, content):
    metadata = read_metadata_table(write(tmp_path, content, name))
    assert (metadata.rows, metadata.names) == (ROWS, ("city", "age"))


def test_cells_may_contain_the_separator(tmp_path):
    path = write(tmp_path, 'id,city\n"a,1.jpg","Paris, France"\n')
    assert read_metadata_table(path).rows == {"a,1.jpg": {"city": "Paris, France"}}


@pytest.mark.parametrize("content", ["id,city\na\n", "id,city\na,in\n\na,out\n"])
def test_incomplete_and_repeated_rows_raise(tmp_path, content):
    with pytest.raises(InputError, match="--metadata"):
        read_metadata_table(write(tmp_path, content))


def test_metadata_is_joined_by_ids_in_the_order_of_the_data(tmp_path, capsys):
    path = write(tmp_path, "id,city,age\nx,in,1\ny,out,2\nz,up,3\n")
    metadata = read_metadata_table(path)
    columns = join_metadata(metadata, ["y", "x", "y"])
    assert columns == {"city": ["out", "in", "out"], "age": ["2", "1", "2"]}
    assert capsys.readouterr().err == ""
    assert join_metadata(metadata, ["w", "x", "v"])["city"] == ["", "in", ""]
    message = capsys.readouterr().err
    assert message.startswith("2 of 3 images")
    assert message.count("\n") == 1


def test_metadata_of_other_ids_raises(tmp_path):
    metadata = read_metadata_table(write(tmp_path, "id,city\nx,in\n"))
    with pytest.raises(InputError, match="'X'"):
        join_metadata(metadata, ["X", "y"])
