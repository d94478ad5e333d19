"""Embeddings in float16: ranking, precision, conversion and damage."""

import numpy as np
import pytest

from align_keras.cli.main import main
from align_keras.search import Index
from align_keras.search.index import ranking, vectors_file
from align_keras.search.index.folder_files import ENCODINGS, item_file, vectors_path
from align_keras.search.index.folder_store import FolderStore
from align_keras.search.index.half_rows import HalfRows
from align_keras.search.index.image_store import NO_MODEL, ModelIdentity
from align_keras.search.index.schema import ITEMS_ROOT
from align_keras.utils.errors import InputError
from tests.helpers.color_towers import COLORS, GOLDEN, image_bytes

WIDTH = 48


def unit_rows(count, spread=1.0, seed=0):
    """Returns random unit rows. With a small spread they nearly coincide."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=WIDTH) + spread * random.normal(size=(count, WIDTH))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def write_index(folder, vectors, encoding):
    """Returns an index of vectors, whose ids are the numbers of the rows."""
    folder.mkdir()
    model = ModelIdentity(NO_MODEL, NO_MODEL, WIDTH)
    with FolderStore.locked(folder):
        FolderStore.initialize(folder, model, encoding)
    with FolderStore.writer(folder) as store, store.database.transaction():
        root = store.add_root(ITEMS_ROOT)
        for row in store.append(vectors):
            name = f"{row:04d}"
            image = {"root": root, "file": item_file(name), "row": row, "name": name}
            store.add_image({**image, "mtime_ns": 0, "content": b""})
    return Index.open(folder)


def brute_force(vectors, query, count):
    """Returns the best rows and scores in float64. Equal scores are in row order."""
    scores = vectors.astype(float) @ query.astype(float)
    order = np.lexsort((np.arange(len(scores)), -scores))[:count]
    return order, scores[order]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("spread", [1.0, 0.001], ids=["far", "near"])
def test_the_ranking_is_that_of_the_stored_rows(tmp_path, encoding, spread):
    """Rows that nearly coincide have the same order as in a brute-force search."""
    vectors = unit_rows(4000, spread)
    vectors[100] = vectors[50]
    index = write_index(tmp_path / "index", vectors, encoding)
    stored = np.array(index.store.vectors.rows()[:])
    for query in (vectors[50], unit_rows(1, seed=1)[0]):
        rows, scores = brute_force(stored, query, 20)
        hits = index.query(query, k=20)
        assert [int(hit.path) for hit in hits] == rows.tolist()
        np.testing.assert_allclose([hit.score for hit in hits], scores, atol=1e-6)
        # The rows that fulfill a condition are ranked in the same way.
        hits = index.query(query, k=5, where="name >= '2000'")
        rows, _ = brute_force(stored[2000:], query, 5)
        assert [int(hit.path) for hit in hits] == (rows + 2000).tolist()


@pytest.fixture
def half_rows(tmp_path):
    def write(vectors):
        path = tmp_path / "vectors"
        vectors.astype("<f2").tofile(path)
        return HalfRows(np.memmap(path, "<f2", "r", shape=vectors.shape))

    return write


def test_stored_rows_are_near_the_embeddings(half_rows):
    vectors = unit_rows(500)
    rows = half_rows(vectors)
    # float16 has 11 bits.
    assert np.abs(rows[:] - vectors).max() < np.abs(vectors).max() * 2**-11
    assert rows.shape == vectors.shape
    np.testing.assert_array_equal(rows[[3, 1]], rows[:][[3, 1]])
    np.testing.assert_array_equal(rows[7], rows[:][7])
    np.testing.assert_array_equal(rows.first(5)[::2], rows[:][:5:2])


def test_the_error_of_a_scan_is_within_its_bound(half_rows):
    vectors = np.concatenate([unit_rows(3000), unit_rows(700, 0.01)])
    vectors[:9] *= np.float32(1e-5)  # Subnormal numbers in float16.
    vectors[9] = 0
    rows = half_rows(vectors)
    subset = np.arange(0, 3700, 3)
    for query in (unit_rows(1, seed=2)[0], 1e4 * unit_rows(1, seed=3)[0]):
        norm = float(np.linalg.norm(query))
        bound = ranking.scan_error(WIDTH, norm) + rows.deviation * norm
        exact = ranking.exact_scores(rows, query, np.arange(len(rows)))
        error = np.abs(ranking.scan(rows, query, None) - exact).max()
        assert error <= bound
        scores = ranking.scan(rows, query, subset)
        np.testing.assert_allclose(scores, exact[subset], atol=bound)
        several = ranking.scan(rows, np.stack([query, -query], 1), subset)
        signs = np.array([1, -1])
        np.testing.assert_allclose(several, scores[:, None] * signs, atol=bound)


def sizes(folder):
    return {
        path.name: path.stat().st_size
        for path in folder.iterdir()
        if path.name.startswith("vectors.")
    }


def test_a_rebuild_changes_the_encoding(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for color in COLORS:
        (folder / f"{color}.png").write_bytes(image_bytes(color))
    index = Index.build(tmp_path / "index", [folder], GOLDEN)
    width = index.dimension
    expected = [(hit.id, hit.path) for hit in index.query("red")]
    assert sizes(tmp_path / "index") == {"vectors.0.f32": 3 * 4 * width}
    command = ["index", "--index", str(tmp_path / "index"), "--vectors", "float16"]
    command += ["--model", str(GOLDEN)]
    assert main(command) == 1
    assert "--vectors float16" in capsys.readouterr().err
    assert sizes(tmp_path / "index") == {"vectors.0.f32": 3 * 4 * width}
    assert main([*command, "--rebuild"]) == 0
    assert main(command) == 0
    assert sizes(tmp_path / "index") == {"vectors.0.f16": 3 * 2 * width}
    index = Index.open(tmp_path / "index", GOLDEN)
    assert [(hit.id, hit.path) for hit in index.query("red")] == expected
    assert index.check() == 3


def test_a_killed_rebuild_in_another_encoding_is_discarded(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "red.png").write_bytes(image_bytes("red"))
    Index.build(tmp_path / "index", [folder], GOLDEN)
    Index.build(tmp_path / ".index.rebuild", [folder], GOLDEN, vectors="float16")
    assert Index.rebuild(tmp_path / "index", model=GOLDEN).store.encoding == "float32"


def test_images_are_added_to_and_removed_from_a_float16_index(tmp_path, monkeypatch):
    # The vectors file is rewritten when a quarter of its rows has no image.
    monkeypatch.setattr(vectors_file, "VECTOR_ROWS_PER_BLOCK", 2)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "red.png").write_bytes(image_bytes("red"))
    index = Index.build(tmp_path / "index", [folder], GOLDEN, vectors="float16")
    for number in range(5):
        name = folder / f"{number}.png"
        name.write_bytes(image_bytes((250 - 40 * number, 3, 40 * number)))
        index.add()
    assert index.query("blue")[0].path == str(folder / "4.png")
    vector = index.embedding(6)
    for number in range(3):
        (folder / f"{number}.png").unlink()
    index.add()
    assert index.store.vectors_file == "vectors.1.f16" and index.check() == 3
    np.testing.assert_array_equal(index.embedding(6), vector)
    assert {hit.path for hit in index.query("blue", duplicates=True)} == {
        str(folder / name) for name in ("red.png", "3.png", "4.png")
    }
    rebuilt = Index.rebuild(tmp_path / "index", model=GOLDEN)
    assert rebuilt.store.encoding == "float16" and len(rebuilt) == 3


def test_rows_of_an_interrupted_run_are_overwritten(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "red.png").write_bytes(image_bytes("red"))
    index = Index.build(tmp_path / "index", [folder], GOLDEN, vectors="float16")
    path = vectors_path(tmp_path / "index", index.store.vectors_file)
    with open(path, "ab") as file:
        file.write(b"x" * 100)
    (folder / "blue.png").write_bytes(image_bytes("blue"))
    Index.build(tmp_path / "index")
    assert Index.open(tmp_path / "index").check() == 2
    assert path.stat().st_size == 2 * 2 * index.dimension


def test_damage_is_detected(tmp_path):
    vectors = unit_rows(300)
    index = write_index(tmp_path / "i", vectors, "float16")
    path = vectors_path(tmp_path / "i", index.store.vectors_file)
    content = path.read_bytes()
    position = 200 * (len(content) // 300) + 9
    damaged = bytearray(content)
    damaged[position] ^= 64
    path.write_bytes(bytes(damaged))
    with pytest.raises(InputError, match="row 200"):
        Index.open(tmp_path / "i").check()
    path.write_bytes(content[:-20])
    with pytest.raises(InputError, match="damaged"):
        Index.open(tmp_path / "i").check()
    path.unlink()
    with pytest.raises(InputError, match="damaged"):
        Index.open(tmp_path / "i").query(vectors[0])
    path.write_bytes(content)
    assert Index.open(tmp_path / "i").check() == 300


def test_wrong_encodings_are_refused(tmp_path, capsys):
    assert main(["index", str(tmp_path), "--vectors", "int4"]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "--vectors" in error and "float32, float16" in error
