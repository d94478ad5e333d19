import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_keras.search import SearchIndex
from align_keras.utils.errors import InputError


def unit_rows(rng, rows, dimension=16):
    values = rng.normal(size=(rows, dimension)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def build(embeddings, **arguments):
    return SearchIndex.build(
        embeddings, [f"p{row}" for row in range(len(embeddings))], **arguments
    )


def brute_force(embeddings, query, k):
    scores = [
        float(np.dot(row.astype(float), query.astype(float))) for row in embeddings
    ]
    return sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k]


def test_query_equals_brute_force():
    rng = np.random.default_rng(0)
    embeddings, queries = unit_rows(rng, 101), unit_rows(rng, 11)
    expected = build(embeddings).query(queries, 7)
    for row, query in enumerate(queries):
        assert expected[0][row].tolist() == brute_force(embeddings, query, 7)
    np.testing.assert_allclose(
        expected[1],
        np.take_along_axis(queries @ embeddings.T, expected[0], axis=1),
        atol=1e-6,
    )
    assert expected[0].dtype == np.int64 and expected[1].dtype == np.float32


def test_equal_rows_come_in_their_order_wherever_they_stand():
    rng = np.random.default_rng(1)
    base = unit_rows(rng, 5, 131)
    order = rng.permutation(np.tile(np.arange(5), 40))
    queries = unit_rows(rng, 6, 131)
    found, scores = build(base[order]).query(queries, 60)
    for row, query in enumerate(queries):
        best = np.argsort(-(base.astype(float) @ query.astype(float)))
        first, second = (np.flatnonzero(order == one) for one in best[:2])
        assert found[row].tolist() == [*first, *second[:20]]
        assert len(set(scores[row].tolist())) == 2


@given(st.data())
def test_any_index_ranks_like_brute_force(data):
    row = st.lists(st.sampled_from([-1.0, 0.0, 0.5]), min_size=2, max_size=2)
    embeddings = np.array(data.draw(st.lists(row, min_size=1, max_size=9)), np.float32)
    queries = np.array(data.draw(st.lists(row, min_size=1, max_size=3)), np.float32)
    k = data.draw(st.integers(1, 12))
    found, _ = build(embeddings).query(queries, k)
    assert found.shape == (len(queries), min(k, len(embeddings)))
    for own, query in zip(found, queries, strict=True):
        assert own.tolist() == brute_force(embeddings, query, k)


def test_near_ties_are_ranked_by_more_than_float32_products():
    rng = np.random.default_rng(3)
    embeddings = unit_rows(rng, 1, 384) + 2e-6 * unit_rows(rng, 300, 384)
    query = unit_rows(rng, 1, 384)
    found, _ = build(embeddings.astype(np.float32)).query(query, 5)
    assert found[0].tolist() == brute_force(embeddings, query[0], 5)


def test_rows_of_very_different_length():
    embeddings = np.array([[1e-3, 0], [1e3, 0], [1.0, 0], [-1e3, 1]], np.float32)
    found, scores = build(embeddings).query(np.array([[1.0, 0.0]]), 3)
    assert found.tolist() == [[1, 2, 0]]


def test_save_and_load(tmp_path, tiny):
    rng = np.random.default_rng(2)
    embeddings = unit_rows(rng, 3)
    thumbnails = [
        tiny["picture_bytes"]("red"),
        tiny["picture_bytes"]("green", format="JPEG"),
        tiny["picture_bytes"]("blue", format="WEBP"),
    ]
    built = SearchIndex.build(
        embeddings,
        ["a", "b", "c"],
        ["one\u2028caption", ["two", 'qu"ote'], []],
        paths=["x/a.png", pathlib.Path("x/b.png"), "x/c.png"],
        thumbnails=thumbnails,
    )
    built.save(tmp_path / "index")
    loaded = SearchIndex.load(tmp_path / "index")
    assert isinstance(loaded.embeddings, np.memmap)
    np.testing.assert_array_equal(loaded.embeddings, embeddings)
    assert (len(loaded), loaded.dimension) == (3, 16)
    assert loaded.entries == [
        {
            "id": "a",
            "captions": ["one\u2028caption"],
            "path": "x/a.png",
            "thumbnail": "thumbnails/000000.png",
        },
        {
            "id": "b",
            "captions": ["two", 'qu"ote'],
            "path": "x/b.png",
            "thumbnail": "thumbnails/000001.jpg",
        },
        {
            "id": "c",
            "captions": [],
            "path": "x/c.png",
            "thumbnail": "thumbnails/000002.webp",
        },
    ]
    assert [loaded.thumbnail(row) for row in range(3)] == thumbnails
    queries = unit_rows(rng, 2)
    for ours, theirs in zip(
        built.query(queries, 2), loaded.query(queries, 2), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    # Saved over the very folder that it is mapped from.
    loaded.save(tmp_path / "index")
    again = SearchIndex.load(tmp_path / "index")
    assert again.entries == loaded.entries
    assert again.thumbnail(2) == thumbnails[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"]


def test_a_failed_save_leaves_the_old_index(tmp_path):
    build(np.eye(2)).save(tmp_path / "index")
    broken = build(np.eye(3))
    broken.entries[2]["id"] = object()  # no JSON for it
    with pytest.raises(TypeError):
        broken.save(tmp_path / "index")
    assert len(SearchIndex.load(tmp_path / "index")) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"]


def test_captions_and_thumbnails_are_optional(tmp_path):
    build(np.eye(2)).save(tmp_path / "index")
    loaded = SearchIndex.load(tmp_path / "index")
    assert loaded.entries == [
        {"id": "p0", "captions": []},
        {"id": "p1", "captions": []},
    ]
    assert loaded.thumbnail(0) is None


NAN = np.array([[1.0, 0.0], [np.nan, 0.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SearchIndex.build(np.eye(2)[0], ["a"]), r"matrix .*shape \(2,\)"),
        (lambda: SearchIndex.build(np.zeros((0, 2)), []), r"shape \(0, 2\)"),
        (lambda: SearchIndex.build(NAN, ["a", "b"]), "1 rows, the first of them 1"),
        (lambda: SearchIndex.build(np.eye(2), ["a"]), "`ids` .*received 1 for 2"),
        (
            lambda: SearchIndex.build(np.eye(2), ["a", "b"], ["x"]),
            "`captions` .*received 1 for 2",
        ),
        (lambda: SearchIndex.build(np.eye(2), ["a", "a"]), "'a' in rows 0 and 1"),
        (
            lambda: SearchIndex.build(np.eye(1), ["a"], thumbnails=[b"<svg>..."]),
            "BMP or WebP .*b'<svg' in row 0",
        ),
        (
            lambda: build(np.eye(2)).query(np.eye(3), 1),
            r"shape \(queries, 2\).*\(3, 3\)",
        ),
        (lambda: build(np.eye(2)).query(np.eye(2)[0], 1), r"received \(2,\)"),
        (lambda: build(np.eye(2)).query(NAN, 1), "finite"),
        (lambda: build(np.eye(2)).query(np.eye(2), 0), "`k` must be .*received 0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_what_is_no_index_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere must hold an index.json .*has none"):
        SearchIndex.load(tmp_path / "nowhere")
    for content in ("not json", "[]", '{"format": "other"}'):
        (tmp_path / "index.json").write_text(content)
        with pytest.raises(InputError, match="must hold an index.json"):
            SearchIndex.load(tmp_path)


def test_a_damaged_index_is_refused(tmp_path):
    folder = tmp_path / "index"

    def fresh():
        build(np.eye(4)).save(folder)
        return json.loads((folder / "index.json").read_text())

    header = fresh()
    (folder / "index.json").write_text(json.dumps({**header, "version": 99}))
    with pytest.raises(InputError, match="version 1, received 99; build it again"):
        SearchIndex.load(folder)
    fresh()
    (folder / "embeddings.npy").unlink()
    with pytest.raises(InputError, match="damaged .*embeddings.npy.*build it again"):
        SearchIndex.load(folder)
    fresh()
    content = (folder / "embeddings.npy").read_bytes()
    (folder / "embeddings.npy").write_bytes(content[:-8])
    with pytest.raises(InputError, match="damaged"):
        SearchIndex.load(folder)
    fresh()
    with open(folder / "entries.jsonl", "a") as file:
        file.write('{"id": "e"')
    with pytest.raises(InputError, match="damaged"):
        SearchIndex.load(folder)
    fresh()
    lines = (folder / "entries.jsonl").read_text().splitlines(keepends=True)
    (folder / "entries.jsonl").write_text("".join(lines[:3]))
    with pytest.raises(InputError, match="4 rows of dimension 4, .* and 3 entries"):
        SearchIndex.load(folder)


@pytest.mark.parametrize(
    "name", ["../../evil.png", "/etc/passwd", "thumbnails/../x.png", "thumbnails/a", 7]
)
def test_a_thumbnail_outside_of_the_index_is_refused(tmp_path, tiny, name):
    thumbnails = [tiny["picture_bytes"]("red")] * 2
    build(np.eye(2), thumbnails=thumbnails).save(tmp_path / "index")
    path = tmp_path / "index" / "entries.jsonl"
    entries = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    entries[1]["thumbnail"] = name
    path.write_text("".join(json.dumps(own) + "\n" for own in entries), "utf-8")
    with pytest.raises(InputError, match="is damaged .row 1 has the thumbnail"):
        SearchIndex.load(tmp_path / "index")


@pytest.mark.parametrize(
    "entry, problem",
    [
        ({}, "no id"),
        ([], "no id"),
        ({"id": 3, "captions": []}, "no id"),
        ({"id": "a"}, "no list of captions"),
        ({"id": "a", "captions": "a cat"}, "no list of captions"),
        ({"id": "a", "captions": [None]}, "no list of captions"),
        ({"id": "a", "captions": [], "path": 1}, "a path that is no text"),
    ],
)
def test_an_entry_that_save_did_not_write_is_refused(tmp_path, entry, problem):
    build(np.eye(1)).save(tmp_path / "index")
    (tmp_path / "index" / "entries.jsonl").write_text(json.dumps(entry) + "\n")
    with pytest.raises(InputError, match=f"is damaged .row 0 has {problem}.*build it"):
        SearchIndex.load(tmp_path / "index")


def test_other_matrices_and_pipes_are_refused(tmp_path):
    build(np.eye(2)).save(tmp_path / "index")
    path = tmp_path / "index" / "embeddings.npy"
    for other in (np.eye(2), np.eye(2, dtype="c8"), np.ones(2, "f4"), np.array([[{}]])):
        np.save(path, other)
        with pytest.raises(InputError, match="is damaged .*embeddings.npy"):
            SearchIndex.load(tmp_path / "index")
    np.savez(path.with_suffix(".npz"), a=np.eye(2))
    path.with_suffix(".npz").replace(path)
    with pytest.raises(InputError, match="embeddings.npy"):
        SearchIndex.load(tmp_path / "index")
    for name in ("embeddings.npy", "entries.jsonl", "index.json"):
        (tmp_path / "index" / name).unlink()
        os.mkfifo(tmp_path / "index" / name)
        with pytest.raises(InputError, match="regular file|must hold an index"):
            SearchIndex.load(tmp_path / "index")


@pytest.mark.parametrize("name", ["embeddings.npy", "entries.jsonl"])
def test_every_flipped_bit_is_detected(tmp_path, name):
    build(unit_rows(np.random.default_rng(0), 4), captions=["ab"] * 4).save(
        tmp_path / "index"
    )
    content = (tmp_path / "index" / name).read_bytes()
    for position in range(8 * len(content) - 200, 8 * len(content), 7):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        (tmp_path / "index" / name).write_bytes(damaged)
        with pytest.raises(InputError, match="build it again"):
            SearchIndex.load(tmp_path / "index")
    (tmp_path / "index" / name).write_bytes(content)
    assert len(SearchIndex.load(tmp_path / "index")) == 4


def test_rows_of_nan_are_no_hits(tmp_path):
    build(np.eye(3)).save(tmp_path / "index")
    rows = np.eye(3, dtype="f4")
    rows[1, 1] = np.nan
    np.save(tmp_path / "index" / "embeddings.npy", rows)
    header = json.loads((tmp_path / "index" / "index.json").read_text())
    # An index of an earlier release has no checksums.
    del header["crc32"]
    (tmp_path / "index" / "index.json").write_text(json.dumps(header))
    index = SearchIndex.load(tmp_path / "index")
    with pytest.raises(
        InputError, match="finite, received NaN or infinity in 1 row: 1"
    ):
        index.query(np.eye(3)[:1], 2)


def test_a_thumbnail_that_is_a_link_is_not_read(tmp_path, tiny):
    thumbnails = [tiny["picture_bytes"]("red")] * 2
    build(np.eye(2), thumbnails=thumbnails).save(tmp_path / "index")
    index = SearchIndex.load(tmp_path / "index")
    path = tmp_path / "index" / index.entries[0]["thumbnail"]
    secret = tmp_path / "secret"
    path.rename(secret)
    path.symlink_to(secret)
    with pytest.raises(InputError, match="received a link"):
        index.thumbnail(0)


@pytest.mark.ci
def test_tensorflow_is_imported_with_the_first_export(tiny_export):
    script = """
import sys
import align_keras.cli.search
import align_keras.evaluation
import align_keras.search.standalone
heavy = {"tensorflow", "keras", "rich", "PIL", "jinja2"} & set(sys.modules)
if heavy:
    sys.exit(f"imported: {heavy}")
model = align_keras.load_model(sys.argv[1])
print(model.encode_texts(["red"]).shape)
"""
    process = subprocess.run(
        [sys.executable, "-c", script, tiny_export], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.split("\n")[0] == "(1, 4)"
