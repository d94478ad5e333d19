"""Indexes that are built from precomputed embeddings, in memory and on disk."""

import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_keras import load_model
from align_keras.search import Index, ModelIdentity, Query
from align_keras.search.index import ranking
from align_keras.utils.errors import InputError


def unit_rows(rng, rows, dimension=16):
    values = rng.normal(size=(rows, dimension)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def build(embeddings, **arguments):
    return Index.from_embeddings(
        embeddings, [f"p{row}" for row in range(len(embeddings))], **arguments
    )


def ranked_rows(index, query, k):
    return [hit.id - 1 for hit in index.query(query, k)]


def brute_force(embeddings, query, k):
    scores = [
        float(np.dot(row.astype(float), query.astype(float))) for row in embeddings
    ]
    return sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k]


def test_query_equals_brute_force():
    rng = np.random.default_rng(0)
    embeddings, queries = unit_rows(rng, 101), unit_rows(rng, 11)
    index = build(embeddings)
    for query in queries:
        hits = index.query(query, 7)
        rows = [hit.id - 1 for hit in hits]
        assert rows == brute_force(embeddings, query, 7)
        assert [hit.path for hit in hits] == [f"p{row}" for row in rows]
        assert [hit.rank for hit in hits] == list(range(1, 8))
        scores = [hit.score for hit in hits]
        np.testing.assert_allclose(scores, embeddings[rows] @ query, atol=1e-6)


def test_equal_rows_are_returned_in_their_order():
    rng = np.random.default_rng(1)
    base = unit_rows(rng, 5, 131)
    order = rng.permutation(np.tile(np.arange(5), 40))
    index = build(base[order])
    for query in unit_rows(rng, 6, 131):
        best = np.argsort(-(base.astype(float) @ query.astype(float)))
        first, second = (np.flatnonzero(order == row) for row in best[:2])
        hits = index.query(query, 60)
        assert [hit.id - 1 for hit in hits] == [*first, *second[:20]]
        assert len({hit.score for hit in hits}) == 2


ROWS = st.lists(st.sampled_from([-1.0, 0.0, 0.5]), min_size=2, max_size=2)


@given(st.lists(ROWS, min_size=1, max_size=9), ROWS, st.integers(1, 12))
@settings(max_examples=10, deadline=None)
def test_any_index_ranks_like_brute_force(rows, query, k):
    embeddings = np.array(rows, np.float32)
    query = np.array(query, np.float32)
    expected = brute_force(embeddings, query, k)
    assert ranked_rows(build(embeddings), query, k) == expected


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_the_ranking_does_not_depend_on_rounding_errors(data):
    exact = np.array(data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=40)))
    errors = data.draw(
        st.lists(st.floats(-2, 2), min_size=len(exact), max_size=len(exact))
    )
    scanned = (exact + np.array(errors)).astype(np.float32)
    size = data.draw(st.integers(1, 5))
    blocks = ranking.by_rank(
        exact[:, None].astype(np.float32), np.ones(1), None, scanned, size, 2.01
    )
    positions = [block for block, _ in blocks]
    assert len(positions[0]) >= min(size, len(exact))
    expected = sorted(range(len(exact)), key=lambda row: (-exact[row], row))
    assert np.concatenate(positions).tolist() == expected


def test_near_ties_are_ranked_in_float64():
    rng = np.random.default_rng(3)
    embeddings = unit_rows(rng, 1, 384) + 2e-6 * unit_rows(rng, 300, 384)
    embeddings = embeddings.astype(np.float32)
    query = unit_rows(rng, 1, 384)[0]
    expected = brute_force(embeddings, query, 5)
    assert ranked_rows(build(embeddings), query, 5) == expected


def test_rows_with_very_different_norms_are_ranked():
    embeddings = np.array([[1e-3, 0], [1e3, 0], [1.0, 0], [-1e3, 1]], np.float32)
    assert ranked_rows(build(embeddings), np.array([1.0, 0.0]), 3) == [1, 2, 0]


IDS = ["a", "shapes/b", "c"]
CAPTIONS = ["one\u2028caption", ["two", 'qu"ote'], []]


@pytest.fixture
def images(tiny):
    return [
        tiny.image_bytes("red"),
        tiny.image_bytes("green", format="JPEG"),
        tiny.image_bytes("blue", format="WEBP"),
    ]


def test_open_returns_the_written_index(tmp_path, images):
    rng = np.random.default_rng(2)
    embeddings, query = unit_rows(rng, 3), unit_rows(rng, 1)[0]
    folder = tmp_path / "index"
    options = {"images": images, "folder": folder}
    built = Index.from_embeddings(embeddings, IDS, CAPTIONS, **options)
    opened = Index.open(folder)
    assert (len(opened), opened.dimension, opened.check()) == (3, 16, 3)
    np.testing.assert_array_equal(opened.store.vectors.rows(), embeddings)
    for row, vector in enumerate(embeddings):
        np.testing.assert_array_equal(opened.embedding(row + 1), vector)
    assert opened.query(query, 3) == built.query(query, 3)
    hits = sorted(opened.query(query, 3), key=lambda hit: hit.id)
    assert [hit.path for hit in hits] == IDS
    assert [hit.captions for hit in hits] == [
        ["one\u2028caption"],
        ["two", 'qu"ote'],
        [],
    ]
    stored = [pathlib.Path(hit.stored_image) for hit in hits]
    assert [path.name for path in stored] == ["000000.png", "000001.jpg", "000002.webp"]
    assert [path.read_bytes() for path in stored] == images
    assert [hit.file for hit in hits] == list(map(str, stored))
    columns = {"name": "shapes/b", "size": len(images[1]), "width": 8, "height": 8}
    assert hits[1].columns == columns
    assert [hit.path for hit in opened.latest("path like 'shapes/%'")] == ["shapes/b"]
    assert opened.query(query, where="name = 'c' and width < 9")[0].path == "c"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"]


def test_an_existing_index_is_replaced(tmp_path, images):
    folder = tmp_path / "index"
    first = Index.from_embeddings(np.eye(3), IDS, images=images, folder=folder)
    second = Index.from_embeddings(np.eye(2), ["x", "y"], folder=folder)
    assert [hit.path for hit in second.latest()] == ["y", "x"]
    assert not (folder / "images").exists()
    # An object that has opened the old index can still search it.
    assert {hit.path for hit in first.query(np.ones(3))} == set(IDS)
    with pytest.raises(TypeError):
        Index.from_embeddings(np.eye(2), ["x", object], captions=[1, 2], folder=folder)
    assert len(Index.open(folder)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"]


def test_other_folders_are_not_replaced(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"a photo")
    with pytest.raises(InputError, match="photo.jpg"):
        build(np.eye(2), folder=tmp_path)
    assert (tmp_path / "photo.jpg").read_bytes() == b"a photo"


def test_an_index_in_memory_is_deleted_with_its_object():
    index = build(np.eye(2))
    folder = pathlib.Path(index.folder)
    assert folder.exists()
    del index
    assert not folder.parent.exists()


def test_near_duplicates_are_separate_hits_by_default():
    index = build(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    query = np.array([1.0, 0.0])
    assert [hit.path for hit in index.query(query)] == ["p0", "p1", "p2"]
    best, second = index.query(query, duplicates=False)
    assert (best.path, best.duplicates, second.path) == ("p0", ["p1"], "p2")


def test_text_queries_need_the_model(colors):
    model = load_model(colors.GOLDEN)
    embeddings = model.encode_texts(["red", "green"])
    index = Index.from_embeddings(embeddings, ["a", "b"], model=model)
    assert [hit.path for hit in index.query("green")] == ["b", "a"]
    assert [hit.path for hit in index.query(Query(image=2))] == ["b", "a"]
    assert Index.open(index.folder, colors.GOLDEN).query("red")[0].path == "a"
    with pytest.raises(InputError, match="no model"):
        Index.from_embeddings(embeddings, ["a", "b"]).query("green")
    with pytest.raises(InputError, match="dimension"):
        Index.from_embeddings(np.eye(2), ["a", "b"], model=model)
    other = ModelIdentity("elsewhere", "0" * 16, 4)
    index = Index.from_embeddings(embeddings, ["a", "b"], model=other)
    with pytest.raises(InputError, match="elsewhere"):
        Index.open(index.folder, model)
    with pytest.raises(InputError, match="--model"):
        index.query("red")


def test_folders_can_be_added_to_an_index_of_embeddings(tmp_path, colors, photos):
    model = load_model(colors.GOLDEN)
    red = (photos / "red.png").read_bytes()
    folder = tmp_path / "index"
    # The stored embedding of the red image differs from that of the model.
    embeddings = model.encode_texts(["blue"])
    options = {"images": [red], "folder": folder, "model": model}
    Index.from_embeddings(embeddings, ["item"], **options)
    with pytest.raises(InputError, match="sources"):
        Index.build(folder, [], model)
    for _ in range(2):
        index = Index.build(folder, [photos], model)
        paths = {hit.path for hit in index.latest()}
        names = ("red.png", "green.png", "Italy/blue.jpg")
        assert paths == {"item", *(str(photos / name) for name in names)}
    assert index.changes.unchanged == 3
    assert index.query("red", duplicates=True)[0].path == str(photos / "red.png")
    with pytest.raises(InputError, match="rebuild"):
        Index.rebuild(folder, [photos], model)
    assert index.remove([photos]) == 3 and len(index) == 1


NAN = np.array([[1.0, 0.0], [np.nan, 0.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build(np.eye(2)[0]), "embeddings"),
        (lambda: build(np.zeros((0, 2))), "embeddings"),
        (lambda: build(NAN), "1 rows"),
        (lambda: Index.from_embeddings(np.eye(2), ["a", "b"], ["x"]), "captions"),
        (lambda: Index.from_embeddings(np.eye(2), ["a", "a"]), "ids"),
        (lambda: build(np.eye(1), images=[b"<svg>..."]), "images"),
        (lambda: build(np.eye(2)).query(np.ones(3)), "query"),
        (lambda: build(np.eye(2)).query(NAN[1]), "NaN"),
        (lambda: build(np.eye(2)).query(np.ones(2), 0), "k"),
    ],
)
def test_invalid_arguments_raise_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    "name", ["../../evil.png", "/etc/passwd", "000000.png/../x.png"]
)
def test_an_image_outside_of_the_index_is_refused(tmp_path, images, name):
    folder = tmp_path / "index"
    Index.from_embeddings(np.eye(3), IDS, images=images, folder=folder)
    with sqlite3.connect(folder / "images.sqlite") as connection:
        file = f"item:{name}:c".encode()
        connection.execute("UPDATE images SET file = ? WHERE id = 3", [file])
    connection.close()
    with pytest.raises(InputError, match="is damaged"):
        Index.open(folder).query(np.ones(3))


def test_an_image_that_is_a_link_is_not_read(tmp_path, images):
    folder = tmp_path / "index"
    index = Index.from_embeddings(np.eye(3), IDS, images=images, folder=folder)
    path = folder / "images" / "000000.png"
    secret = tmp_path / "secret"
    path.rename(secret)
    path.symlink_to(secret)
    with pytest.raises(InputError, match="links"):
        index.query(np.ones(3))


def test_errors_about_damage_name_the_command_that_builds_the_index(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "params.yaml").write_text("")
    command = f"`align-keras train --config_file {run}/params.yaml --model_dir {run} "
    embeddings = unit_rows(np.random.default_rng(0), 4)
    build(embeddings, folder=run / "index")
    path = run / "index" / "vectors.0.f32"
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(InputError, match="is damaged") as caught:
        Index.open(run / "index").check()
    assert command in str(caught.value)
    path.write_bytes(content[:-8])
    with pytest.raises(InputError, match="is damaged") as caught:
        Index.open(run / "index").check()
    assert command in str(caught.value)


def test_another_version_names_the_command_that_builds_the_index(tmp_path):
    run = tmp_path / "my run"
    build(np.eye(2), folder=run / "index")
    header = run / "index" / "index.json"
    header.write_text(header.read_text().replace('"version": 2', '"version": 1'))
    with pytest.raises(InputError, match="align-keras index FOLDER --index"):
        Index.open(run / "index")
    (run / "params.yaml").write_text("")
    with pytest.raises(InputError) as caught:
        Index.open(run / "index")
    command = f"--config_file '{run}'/params.yaml --model_dir '{run}' --mode index`"
    assert command in str(caught.value)
    # The command replaces the old index.
    shutil.rmtree(run / "index")
    build(np.eye(2), folder=run / "index")
    assert len(Index.open(run / "index")) == 2


def test_pipes_are_refused(tmp_path):
    folder = tmp_path / "index"
    build(np.eye(2), folder=folder)
    for name in ("images.sqlite", "index.json"):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises((InputError, OSError)):
            Index.open(folder)
        (folder / name).unlink()
        (folder / name).write_bytes(content)
    assert len(Index.open(folder)) == 2


@pytest.mark.ci
def test_a_search_imports_no_heavy_package():
    script = """
import sys
import align_keras.cli.search
import align_keras.evaluation
import align_keras.runs.standalone
heavy = {"tensorflow", "keras", "rich", "PIL", "jinja2"} & set(sys.modules)
if heavy:
    sys.exit(f"imported: {heavy}")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
