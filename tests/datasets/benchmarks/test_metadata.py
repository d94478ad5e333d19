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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a first column"),
        ("id\na.jpg\n", r"at least one other column\. Received: .*'id'"),
        ("id,city,\na.jpg,in,\n", "distinct name for each column.*'city', ''"),
        ("id,id\na.jpg,in\n", "distinct name for each column.*'id', 'id'"),
        ("id,city,city\na.jpg,in,in\n", "name for each column.*'city', 'city'"),
        ("id,city\na,in\nb,in,7\n", "line 3: 3 cells but 2 columns"),
        ("id,city\na\n", "line 2: 1 cells but 2 columns"),
        ("id,city\na,in\n\na,out\n", "line 4: 'a' again"),
        ("id,city\n ,in\n", "line 2: no id"),
        (b"id,city\na,Z\xfcrich\n", "must be encoded as utf-8.*byte 11"),
        ('id,city\n"a,in\n', "line 2: unexp"),
    ],
)
def test_malformed_tables_raise(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_metadata_table(write(tmp_path, content))


def test_files_of_another_kind_raise(tmp_path):
    message = r"must end in .csv or .tsv\. Received: .*xlsx"
    with pytest.raises(InputError, match=message):
        read_metadata_table(tmp_path / "a.xlsx")
    with pytest.raises(FileNotFoundError, match="a.csv"):
        read_metadata_table(tmp_path / "a.csv")


def test_metadata_is_joined_by_ids_in_the_order_of_the_data(tmp_path, capsys):
    path = write(tmp_path, "id,city,age\nx,in,1\ny,out,2\nz,up,3\n")
    metadata = read_metadata_table(path)
    columns = join_metadata(metadata, ["y", "x", "y"])
    assert columns == {"city": ["out", "in", "out"], "age": ["2", "1", "2"]}
    assert capsys.readouterr().err == ""
    assert join_metadata(metadata, ["w", "x", "v"])["city"] == ["", "in", ""]
    message = capsys.readouterr().err
    assert message.startswith("2 of 3 images have no row in ")
    assert message.count("\n") == 1


def test_metadata_of_other_ids_or_with_a_repeated_column_raises(tmp_path):
    metadata = read_metadata_table(write(tmp_path, "id,city\nx,in\n"))
    with pytest.raises(InputError, match="ids such as 'x', but .* such as 'X'"):
        join_metadata(metadata, ["X", "y"])
    with pytest.raises(InputError, match=r"with 'city'\. Rename the column"):
        join_metadata(metadata, ["x"], {"city"})
    with pytest.raises(InputError, match="such as none"):
        join_metadata(metadata, [])
