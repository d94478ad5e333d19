"""Damaged files of an index raise a short error or are still readable."""

import numpy as np

from align_keras.search import Index
from tests.helpers.mutated import check_folder, counts


@counts(100, 10_000)
def test_damaged_indexes_raise_input_errors(tmp_path, count):
    folder = tmp_path / "index"
    embeddings = np.random.default_rng(0).normal(size=(5, 8))
    Index.from_embeddings(
        embeddings,
        ids=["a", "b", "c", "d", "e"],
        captions=[["a cat", "a red cat"]] * 5,
        images=[b"\x89PNG and more"] * 5,
        folder=folder,
    )

    def read():
        index = Index.open(folder)
        index.check()
        assert [hit.file for hit in index.query(embeddings[0], 3)]

    names = ["index.json", "vectors.0.f32", "images.sqlite"]
    num_read, num_refused = check_folder(folder, names, read, count)
    assert num_read and num_refused > count / 3
