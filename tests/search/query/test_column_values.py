"""The conditions of values select the images whose cells contain the values."""

import pytest

from align_keras.search.image_index import Index
from align_keras.search.query.column_values import MAX_VALUES, count_values
from tests.helpers.color_towers import GOLDEN, image_bytes

TAGS = ["cat; dog", "cat", "Cat%; it's", "wildcat; dog_1", "dog", ""]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    lines = ["image,caption,tags,kind,number"]
    for number, tags in enumerate(TAGS):
        name = f"{number}.png"
        (root / name).write_bytes(image_bytes((number * 40, 0, 0)))
        lines.append(f"{name},a color,{tags},clip art,{number}")
    # Two rows of one image.
    lines.append("1.png,a color,cat,clip art,1")
    table = root / "table.csv"
    table.write_text("\n".join(lines))
    return Index.build(root / "index", [table], str(GOLDEN))


def test_cells_are_split_into_values(index):
    values = count_values(index.store.tables)
    assert set(values) == {"folder", "caption", "tags", "kind"}
    counts = {entry["value"]: entry["count"] for entry in values["tags"]}
    assert counts == {
        "cat": 2,
        "Cat%": 1,
        "dog": 2,
        "dog_1": 1,
        "it's": 1,
        "wildcat": 1,
    }


def test_a_condition_selects_the_images_of_its_value(index):
    for column, entries in count_values(index.store.tables).items():
        for entry in entries:
            hits = index.latest(entry["where"], 10)
            assert len(hits) == entry["count"]
            for hit in hits:
                assert entry["value"] in hit.columns[column].split("; ")


def test_backslashes_of_a_value_are_not_escapes(tmp_path):
    cells = ["C:\\_a; x", "C:\\_a", "C:\\ba; x", "C:Za; x", "x\\; y"]
    lines = ["image,caption,tags"]
    for number, cell in enumerate(cells):
        (tmp_path / f"{number}.png").write_bytes(image_bytes((number * 40, 0, 0)))
        lines.append(f"{number}.png,a color,{cell}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines))
    index = Index.build(tmp_path / "index", [table], str(GOLDEN))
    values = count_values(index.store.tables)["tags"]
    assert {entry["value"]: entry["count"] for entry in values} == {
        "C:\\_a": 2,
        "C:\\ba": 1,
        "C:Za": 1,
        "x": 3,
        "x\\": 1,
        "y": 1,
    }
    for entry in values:
        assert len(index.latest(entry["where"], 10)) == entry["count"]


def test_values_are_counted_again_after_a_change(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "0.png").write_bytes(image_bytes((0, 0, 0)))
    (images / "1.png").write_bytes(image_bytes((90, 0, 0)))
    folder = tmp_path / "index"
    index = Index.build(folder, [images], str(GOLDEN))
    values = index.searcher.column_values()
    (entry,) = values["folder"]
    assert entry["count"] == 2
    assert index.searcher.column_values() is values
    (images / "2.png").write_bytes(image_bytes((180, 0, 0)))
    # Another process usually updates the index of a server.
    Index.open(folder).add([images])
    (entry,) = index.searcher.column_values()["folder"]
    assert entry["count"] == 3


def test_columns_with_many_values_are_left_out(tmp_path):
    lines = ["image,caption,tags,few"]
    for number in range(2 * MAX_VALUES + 2):
        name = f"{number % 2}.png"
        lines.append(f"{name},a color,tag {number // 2},few {number // 4}")
    for number in range(2):
        content = image_bytes((number * 200, 0, 0))
        (tmp_path / f"{number}.png").write_bytes(content)
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines))
    index = Index.build(tmp_path / "index", [table], str(GOLDEN))
    values = count_values(index.store.tables)
    assert "tags" not in values and len(values["few"]) == MAX_VALUES // 2 + 1
