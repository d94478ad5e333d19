"""Embeddings in float16 and int8: ranking, precision, conversion and damage."""

import numpy as np
import pytest

from align_keras.cli.main import main
from align_keras.search import Index, Query, exact_scan, vector_rows
from align_keras.search.index_files import ENCODINGS, vectors_paths
from align_keras.utils.errors import InputError
from tests.helpers.color_towers import COLORS, GOLDEN, image_bytes

COMPRESSED = ("float16", "int8")
WIDTH = 48


def unit_rows(count, spread=1.0, seed=0):
    """Returns random unit rows. With a small spread they nearly coincide."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=WIDTH) + spread * random.normal(size=(count, WIDTH))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


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
    ids = [f"{row:04d}" for row in range(len(vectors))]
    index = Index.from_embeddings(
        vectors, ids, folder=tmp_path / "index", vectors=encoding
    )
    stored = np.array(index.store.vectors()[:])
    for query in (vectors[50], unit_rows(1, seed=1)[0]):
        rows, scores = brute_force(stored, query, 20)
        hits = index.query(query, k=20)
        assert [int(hit.path) for hit in hits] == rows.tolist()
        np.testing.assert_allclose([hit.score for hit in hits], scores, atol=1e-6)
        # The rows that fulfill a condition are ranked in the same way.
        hits = index.query(query, k=5, where="name >= '2000'")
        rows, _ = brute_force(stored[2000:], query, 5)
        assert [int(hit.path) for hit in hits] == (rows + 2000).tolist()


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_stored_rows_are_near_the_embeddings(encoding):
    vectors = unit_rows(500)
    planes = vector_rows.encode(vectors, encoding)
    rows = vector_rows.open_rows(planes, encoding, WIDTH)
    largest = np.abs(vectors).max()
    error = np.abs(rows[:] - vectors).max()
    # A remainder has 254 steps in one of 127 units. float16 has 11 bits.
    assert error < largest * (2**-11 if encoding == "float16" else 0.51 / 127 / 254)
    assert rows.shape == vectors.shape
    np.testing.assert_array_equal(rows[[3, 1]], rows[:][[3, 1]])
    np.testing.assert_array_equal(rows[7], rows[:][7])
    np.testing.assert_array_equal(rows.first(5)[::2], rows[:][:5:2])


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_the_error_of_a_scan_is_within_its_bound(encoding):
    vectors = np.concatenate([unit_rows(3000), unit_rows(700, 0.01)])
    vectors[:9] *= np.float32(1e-5)  # Subnormal numbers in float16.
    vectors[9] = 0
    planes = vector_rows.encode(vectors, encoding)
    deviation = vector_rows.scan_deviation(planes, encoding)
    rows = vector_rows.open_rows(planes, encoding, WIDTH, deviation)
    subset = np.arange(0, 3700, 3)
    for query in (unit_rows(1, seed=2)[0], 1e4 * unit_rows(1, seed=3)[0]):
        norm = float(np.linalg.norm(query))
        bound = exact_scan.scan_error(WIDTH, norm) + rows.deviation * norm
        exact = exact_scan.exact_scores(rows, query, np.arange(len(rows)))
        error = np.abs(exact_scan.scan(rows, query, None) - exact).max()
        assert error <= bound
        scores = exact_scan.scan(rows, query, subset)
        np.testing.assert_allclose(scores, exact[subset], atol=bound)
        several = exact_scan.scan(rows, np.stack([query, -query], 1), subset)
        signs = np.array([1, -1])
        np.testing.assert_allclose(several, scores[:, None] * signs, atol=bound)
        if encoding == "int8":  # The bound is not far from the largest error.
            assert error > bound / 20


def test_int8_finds_what_float32_finds():
    vectors, queries = unit_rows(5000), unit_rows(20, seed=4)
    ids = [str(row) for row in range(len(vectors))]
    index = Index.from_embeddings(vectors, ids, vectors="int8")
    for query in queries:
        rows, scores = brute_force(vectors, query, 10)
        hits = index.query(query, k=10)
        assert [int(hit.path) for hit in hits] == rows.tolist()
        np.testing.assert_allclose([hit.score for hit in hits], scores, atol=2e-5)


def sizes(folder):
    return {
        path.name: path.stat().st_size
        for path in folder.iterdir()
        if path.name.startswith("vectors.")
    }


def test_an_index_is_converted_and_keeps_its_images(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for color in COLORS:
        (folder / f"{color}.png").write_bytes(image_bytes(color))
    index = Index.build(tmp_path / "index", [folder], GOLDEN)
    width = index.dimension
    expected = [(hit.id, hit.path) for hit in index.query("red")]
    assert sizes(tmp_path / "index") == {"vectors.0.f32": 3 * 4 * width}
    for number, (encoding, files) in enumerate(
        {
            "int8": {"i8": width + 4, "remainders.i8": width},
            "float16": {"f16": 2 * width},
            "float32": {"f32": 4 * width},
        }.items(),
        1,
    ):
        command = ["index", "--index", str(tmp_path / "index"), "--vectors", encoding]
        assert main([*command, "--model", str(GOLDEN)]) == 0
        # The open index continues to search.
        assert [(hit.id, hit.path) for hit in index.query("red")] == expected
        assert sizes(tmp_path / "index") == {
            f"vectors.{number}.{suffix}": 3 * size for suffix, size in files.items()
        }
        assert index.check() == 3
    assert Index.rebuild(tmp_path / "index", model=GOLDEN).store.encoding == "float32"


def test_images_are_added_to_and_removed_from_an_int8_index(tmp_path, monkeypatch):
    # The vectors file is rewritten when a quarter of its rows has no image.
    monkeypatch.setattr("align_keras.search.store.VECTOR_ROWS_PER_BLOCK", 2)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "red.png").write_bytes(image_bytes("red"))
    index = Index.build(tmp_path / "index", [folder], GOLDEN, vectors="int8")
    for number in range(5):
        name = folder / f"{number}.png"
        name.write_bytes(image_bytes((250 - 40 * number, 3, 40 * number)))
        index.add()
    assert index.query("blue")[0].path == str(folder / "4.png")
    vector = index.embedding(6)
    for number in range(3):
        (folder / f"{number}.png").unlink()
    index.add()
    assert index.store.vectors_file == "vectors.1.i8" and index.check() == 3
    np.testing.assert_array_equal(index.embedding(6), vector)
    assert {hit.path for hit in index.query("blue", duplicates=True)} == {
        str(folder / name) for name in ("red.png", "3.png", "4.png")
    }
    rebuilt = Index.rebuild(tmp_path / "index", model=GOLDEN)
    assert rebuilt.store.encoding == "int8" and len(rebuilt) == 3


def test_rows_of_an_interrupted_run_are_overwritten(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "red.png").write_bytes(image_bytes("red"))
    index = Index.build(tmp_path / "index", [folder], GOLDEN, vectors="int8")
    paths = vectors_paths(tmp_path / "index", index.store.vectors_file)
    for path in paths:
        with open(path, "ab") as file:
            file.write(b"x" * 100)
    (folder / "blue.png").write_bytes(image_bytes("blue"))
    Index.build(tmp_path / "index")
    assert Index.open(tmp_path / "index").check() == 2
    assert [path.stat().st_size // 2 for path in paths] == [
        index.dimension + 4,
        index.dimension,
    ]


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_damage_is_detected_in_each_file(tmp_path, encoding):
    vectors = unit_rows(300)
    ids = [str(row) for row in range(len(vectors))]
    index = Index.from_embeddings(vectors, ids, folder=tmp_path / "i", vectors=encoding)
    for path in vectors_paths(tmp_path / "i", index.store.vectors_file):
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
    with pytest.raises(InputError, match="`vectors` must be"):
        Index.from_embeddings(np.eye(2), ["a", "b"], vectors="int4")
    with pytest.raises(InputError, match="which stores 16 bits per number"):
        Index.build("postgresql://me@nowhere/db", [tmp_path], vectors="int8")
    large = np.array([[1e6, 0.0], [0.0, 1.0]])
    with pytest.raises(InputError, match="65,504"):
        Index.from_embeddings(large, ["a", "b"], vectors="float16")
    index = Index.from_embeddings(large, ["a", "b"], vectors="int8")
    assert index.query(Query(k=1)) and index.query(large[0], k=1)[0].path == "a"
    assert main(["index", str(tmp_path), "--vectors", "int4"]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "--vectors must be one of float32, float16, int8" in error
