"""Export of an index to Parquet, NPY and CSV files."""

import csv
import json

import faiss
import numpy as np
import pytest

from align_keras.cli.main import main
from align_keras.search import Index
from align_keras.search.index.vector_export import METADATA_KEY
from align_keras.utils.errors import InputError
from tests.helpers.color_towers import COLORS, GOLDEN, image_bytes
from tests.helpers.oracle_process import needs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder with images, a table and their index."""
    folder = tmp_path_factory.mktemp("export")
    photos = folder / "photos"
    photos.mkdir()
    for color in COLORS:
        (photos / f"{color}.png").write_bytes(image_bytes(color))
    (folder / "pairs.csv").write_text(
        "image,caption,stars,embedding\n"
        'photos/red.png,"a ""red"" one",4,000\n'
        "photos/red.png,again,5,x\n"
        "photos/blue.png,blue,,y\n"
    )
    Index.build(folder / "index", [photos, folder / "pairs.csv"], GOLDEN)
    return folder


def test_npy_and_csv_files_have_the_vectors_and_the_columns(folder, tmp_path, capsys):
    index = Index.open(folder / "index")
    command = ["index", "--index", str(folder / "index")]
    assert main([*command, "--export", str(tmp_path / "a.npy")]) == 0
    assert f"{tmp_path}/a.csv: {len(index)} images" in capsys.readouterr().out
    vectors = np.load(tmp_path / "a.npy")
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(vectors) == len(index)
    for row, vector in zip(rows, vectors, strict=True):
        assert (index.embedding(int(row["id"])) == vector).all()
    red = next(row for row in rows if row["name"] == "red.png")
    assert json.loads(red["captions"]) == ['a "red" one', "again"]
    assert (red["stars"], red["embedding"]) == ("4.0", "000")
    metadata = json.loads((tmp_path / "a.json").read_text())
    model = index.store.header["model"]
    assert metadata["model"]["fingerprint"] == model["fingerprint"]
    # The file is an index of faiss without further steps.
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    [query] = index.model.encode_texts(["red"])
    _, [best] = flat.search(query[None], 1)
    assert rows[best[0]]["name"] == "red.png"


@pytest.mark.ci
@needs("pyarrow")
def test_a_parquet_file_has_the_fingerprint_and_typed_columns(folder, tmp_path):
    import pyarrow.parquet

    index = Index.open(folder / "index")
    [path] = index.export(tmp_path / "a.parquet")
    table = pyarrow.parquet.read_table(path)
    metadata = json.loads(table.schema.metadata[METADATA_KEY.encode()])
    assert metadata["model"] == index.store.header["model"]
    assert metadata["rows"] == table.num_rows == len(index)
    # A user's column has the name `embedding`.
    width = index.dimension
    assert str(table.schema.field("embedding_").type) == (
        f"fixed_size_list<element: float>[{width}]"
    )
    for row in table.to_pylist():
        assert (index.embedding(row["id"]) == row["embedding_"]).all()
    rows = {row["name"]: row for row in table.to_pylist()}
    assert rows["red.png"]["stars"] == 4.0 and rows["blue.png"]["stars"] is None
    assert rows["red.png"]["embedding"] == "000"
    assert rows["red.png"]["captions"] == ['a "red" one', "again"]
    assert rows["green.png"]["captions"] == []


@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_an_export_does_not_replace_other_data(folder, tmp_path, name):
    index = Index.open(folder / "index")
    (tmp_path / name).write_text("[]\n")
    with pytest.raises(InputError, match=name):
        index.export(tmp_path / "a.npy")
    assert (tmp_path / name).read_text() == "[]\n"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    # An earlier export is replaced.
    (tmp_path / name).unlink()
    index.export(tmp_path / "a.npy")
    (tmp_path / "a.csv").write_text("")
    index.export(tmp_path / "a.npy")
    assert (tmp_path / "a.csv").stat().st_size


def test_wrong_names_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="suffix"):
        Index.open(folder / "index").export(tmp_path / "a.txt")
    # A damaged row is reported, and no file is written.
    vectors = Index.open(folder / "index").store.vectors_file
    path = folder / "index" / vectors
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(InputError, match="damaged"):
        Index.open(folder / "index").export(tmp_path / "a.npy")
    path.write_bytes(content)
    assert not list(tmp_path.iterdir())
