import pytest

from align_keras.datasets.benchmarks.metadata import join_metadata, read_metadata_table
from align_keras.utils.errors import InputError

ROWS = {"a.jpg": {"place": "in", "age": "7"}, "b c.jpg": {"place": "", "age": "8"}}


def write(folder, content, name="metadata.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id,place,age\na.jpg,in,7\nb c.jpg,,8\n"),
        ("a.CSV", "\ufeffid;place;age\r\na.jpg;in;7\r\n\r\nb c.jpg;;8"),
        ("a.tsv", 'id\tplace\tage\na.jpg\t in \t7\n"b c.jpg"\t\t8\n'),
        # pandas leaves the index without a name.
        ("a.csv", ',"place","age"\n"a.jpg","in",7\n"b c.jpg","",8\n'),
    ],
)
def test_tables_as_programs_write_them(tmp_path, name, content):
    found = read_metadata_table(write(tmp_path, content, name))
    assert (found.rows, found.names) == (ROWS, ("place", "age"))


def test_cells_may_hold_the_separator(tmp_path):
    path = write(tmp_path, 'id,place\n"a,1.jpg","Paris, France"\n')
    assert read_metadata_table(path).rows == {"a,1.jpg": {"place": "Paris, France"}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "at least one more, received .* with no columns"),
        ("id\na.jpg\n", "at least one more, received .*'id'"),
        ("id,place\n", "received .* with the header alone"),
        ("id,place,\na.jpg,in,\n", "name each column.*'place', ''"),
        ("id,place,place\na.jpg,in,in\n", "name each column.*'place', 'place'"),
        ("id,place\na,in\nb,in,7\n", "line 3 has 3 cells under 2 columns .'b'"),
        ("id,place\na\n", "line 2 has 1 cells under 2 columns"),
        ("id,place\na,in\n\na,out\n", "line 4 has an id that stands above .'a'"),
        ("id,place\n ,in\n", "line 2 has no id"),
        (b"id,place\na,Z\xfcrich\n", "not UTF-8: .* at byte 12"),
        ('id,place\n"a,in\n', "readable table.*.line 2: unexp"),
    ],
)
def test_malformed_tables(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as caught:
        read_metadata_table(write(tmp_path, content))
    assert str(caught.value).startswith("--metadata must ")


def test_files_that_are_no_table(tmp_path):
    with pytest.raises(InputError, match="must end in .csv or .tsv, received .*xlsx"):
        read_metadata_table(tmp_path / "a.xlsx")
    with pytest.raises(InputError, match="a.csv .No such file"):
        read_metadata_table(tmp_path / "a.csv")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(InputError, match="b.csv .Is a directory"):
        read_metadata_table(tmp_path / "b.csv")


def test_joined_by_ids_in_the_order_of_the_data(tmp_path, capsys):
    path = write(tmp_path, "id,place,age\nx,in,1\ny,out,2\nz,up,3\n")
    metadata = read_metadata_table(path)
    found = join_metadata(metadata, ["y", "x", "y"])
    assert found == {"place": ["out", "in", "out"], "age": ["2", "1", "2"]}
    assert capsys.readouterr().err == ""
    assert join_metadata(metadata, ["w", "x", "v"])["place"] == ["", "in", ""]
    told = capsys.readouterr().err
    assert told.startswith("2 of 3 images have no row in ") and told.count("\n") == 1


def test_what_cannot_be_joined(tmp_path):
    metadata = read_metadata_table(write(tmp_path, "id,place\nx,in\n"))
    with pytest.raises(InputError, match="ids such as 'x' where .* such as 'X'"):
        join_metadata(metadata, ["X", "y"])
    with pytest.raises(InputError, match="with 'place'; rename it"):
        join_metadata(metadata, ["x"], {"place"})
    with pytest.raises(InputError, match="such as none"):
        join_metadata(metadata, [])
