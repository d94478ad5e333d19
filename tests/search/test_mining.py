"""Tests of mined hard negatives, with a brute-force search as the oracle."""

import json

import numpy as np
import pytest

from align_keras.cli.main import main
from align_keras.corpus.mined_pairs import (
    MinedPair,
    negatives_by_image,
    read_mined_pairs,
    write_mined_pairs,
)
from align_keras.embedders import Embedder, load_model
from align_keras.search.mining import mine_negatives
from align_keras.utils.errors import InputError
from tests.helpers.small_run import draw


class RandomEmbedder(Embedder):
    """Model that projects pixels and the codes of letters at random."""

    name = "random"
    runtime = "numpy"
    in_memory = True
    dimension = 8
    image_size = resize_to = 16
    fingerprint = image_fingerprint = text_fingerprint = "0"

    def encode_images(self, images):
        raise NotImplementedError

    def encode_resized(self, images):
        rows = np.stack([image.reshape(-1) / 255.0 for image in images])
        return self._project(rows)

    def encode_texts(self, texts):
        letters = [list(text[:12].ljust(12).encode()) for text in texts]
        return self._project(np.array(letters) / 128.0)

    def _project(self, rows):
        weights = np.random.default_rng(0).normal(size=(rows.shape[1], 8))
        rows = rows @ weights
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows.astype("float32")


# "copy" has the pixels of "red_bar", and "blue_bar" shares a caption with "red_ring".
CAPTIONS = {
    "red_bar": ["a red bar", "one bar"],
    "copy": ["my picture"],
    "red_ring": ["a red ring", "a thing"],
    "blue_bar": ["a blue bar", "A Thing"],
    "blue_ring": ["a blue ring"],
    "green_cross": ["a green cross"],
}


def drawing(name):
    return draw(*("red_bar" if name == "copy" else name).split("_"))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    lines = []
    for name, captions in CAPTIONS.items():
        drawing(name).save(folder / f"{name}.png")
        line = {"id": name, "image": f"{name}.png", "caption": captions}
        lines.append(json.dumps(line))
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def wrong_ids(name):
    """Returns the images that have neither the image nor a caption of an image."""
    same = [{"red_bar", "copy"}, {"red_ring", "blue_bar"}]
    excluded = next((group for group in same if name in group), {name})
    return [other for other in CAPTIONS if other not in excluded]


def ranked(embedding, rows_by_id, ids):
    """Returns ids by the best similarity of one of their rows."""
    scores = {id: max(rows_by_id[id] @ embedding) for id in ids}
    return sorted(ids, key=lambda id: -scores[id])


@pytest.mark.parametrize("k", [2, 8])
def test_mined_negatives_equal_a_brute_force_search(table, k):
    model = RandomEmbedder()
    images = {
        name: model.encode_resized([np.asarray(drawing(name).resize((16, 16), 2))])
        for name in CAPTIONS
    }
    texts = {name: model.encode_texts(captions) for name, captions in CAPTIONS.items()}
    expected = [
        MinedPair(
            name,
            caption,
            tuple(ranked(text, images, wrong_ids(name))[:k]),
            tuple(ranked(images[name][0], texts, wrong_ids(name))[:k]),
        )
        for name, captions in CAPTIONS.items()
        for caption, text in zip(captions, texts[name], strict=True)
    ]
    assert mine_negatives(table, model, k=k) == expected


def test_mined_pairs_are_written_and_merged(tmp_path):
    pairs = [
        MinedPair("a", "one", ("b", "c"), ("d", "b")),
        MinedPair("a", "two", ("e",), ()),
        MinedPair("b", "three", (), ()),
    ]
    write_mined_pairs(tmp_path / "mined.jsonl", pairs)
    assert read_mined_pairs(tmp_path / "mined.jsonl") == pairs
    assert negatives_by_image(pairs) == {"a": ("b", "d", "e", "c"), "b": ()}
    with pytest.raises(InputError, match="must be a readable file"):
        read_mined_pairs(tmp_path / "absent.jsonl")
    for line in ("{", "[]", '{"id": 1, "caption": "", "images": [], "captions": []}'):
        (tmp_path / "other.jsonl").write_text(line)
        with pytest.raises(InputError, match="must be a file of `align-keras mine`"):
            read_mined_pairs(tmp_path / "other.jsonl")


@pytest.mark.parametrize("name", ["a\0b.png", "a\ud800b.png"])
def test_a_path_that_no_file_can_have_drops_only_its_pair(table, tmp_path, name):
    lines = table.read_text().replace('"image": "', f'"image": "{table.parent}/')
    line = json.dumps({"id": "x", "image": name, "caption": "a red bar"})
    other = tmp_path / "pairs.jsonl"
    other.write_text(lines + line + "\n")
    model = RandomEmbedder()
    assert mine_negatives(other, model, k=2) == mine_negatives(table, model, k=2)


def test_equal_images_have_no_negatives(tmp_path):
    for name in "ab":
        draw("red", "bar").save(tmp_path / f"{name}.png")
    (tmp_path / "pairs.csv").write_text("image,caption\na.png,a\nb.png,b\n")
    with pytest.raises(InputError, match="at least two different images"):
        mine_negatives(tmp_path / "pairs.csv", RandomEmbedder())


@pytest.mark.ci
def test_the_command_writes_the_negatives_of_a_table(table, tmp_path, capsys):
    output = tmp_path / "mined.jsonl"
    assert main(["mine", str(table), "--to", str(output), "-k", "2"]) == 0
    assert f"negatives of 9 captions of 6 images: {output}" in capsys.readouterr().out
    model = load_model("align_small_en")
    assert read_mined_pairs(output) == mine_negatives(table, model, k=2)
    assert main(["mine", str(tmp_path / "absent.csv"), "--to", str(output)]) == 1
    assert "does not exist" in capsys.readouterr().err
