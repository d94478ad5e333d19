"""Tests of evaluation sets and of damaged shards in a corpus build."""

import os

import pytest

from align_keras.config import load_corpus_config
from align_keras.corpus.shard_folder import has_all_shards
from align_keras.runs.corpus_build import build_corpus
from align_keras.utils.errors import InputError
from tests.helpers import small_corpus

pytestmark = pytest.mark.ci

pytest.importorskip("cv2")
pytest.importorskip("pyarrow")


@pytest.fixture
def source(tmp_path):
    """Folder with two images and captions."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(2):
        small_corpus.draw(number).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(small_corpus.caption(number))
    return folder


def build(source, stage, against=()):
    override = {
        "sources": [f"folder:{source}"],
        "duplicates.against": list(against),
        "filter.detect_language": "never",
        "vocabulary.size": 300,
    }
    config = load_corpus_config(params_override=override)
    return build_corpus(source.parent / "out", config, stage, workers=1)


def test_a_folder_of_images_only_is_an_evaluation_set(source, tmp_path, capsys):
    folder = tmp_path / "evaluation"
    folder.mkdir()
    small_corpus.draw(1).save(folder / "image.png")
    against = [f"folder:{folder}"]
    corpus = build(source, "dedup", against)
    [dropped] = corpus.stages["dedup"].facts["dropped"]
    assert dropped[1] == "near an evaluation image"
    assert "unreadable" not in capsys.readouterr().err
    (folder / "broken.png").write_bytes(b"no image")
    build(source, "dedup", against)
    assert "1 unreadable" in capsys.readouterr().err


def test_an_evaluation_set_without_readable_images_is_refused(source, tmp_path):
    pytest.importorskip("selectolax")
    page = tmp_path / "evaluation.html"
    page.write_text('<img src="https://example.org/a.jpg"><img src="none.png">')
    with pytest.raises(InputError, match="duplicates.against"):
        build(source, "dedup", [f"html:{page}"])


@pytest.mark.parametrize("has_hard_links", [True, False])
def test_damaged_shards_are_written_again(source, has_hard_links):
    corpus = build(source, "shard")
    [shard] = corpus.shards.glob("*.tfrecord-*")
    content = shard.read_bytes()
    if has_hard_links:
        os.truncate(shard, 10)
    else:
        shard.unlink()
    assert not has_all_shards(corpus.shards)
    build(source, "shard")
    assert shard.read_bytes() == content
