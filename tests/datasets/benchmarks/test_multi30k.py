"""Tests of the reader of Multi30k."""

import pytest

from align_keras.datasets.benchmarks import multi30k, read_multi30k
from align_keras.utils.errors import InputError
from tests.helpers.small_benchmarks import write_multi30k


@pytest.fixture(autouse=True)
def small_test_set(monkeypatch):
    """Lets a test set of eight images count as complete."""
    monkeypatch.setattr(multi30k, "IMAGES", 8)


def read(tmp_path, **options):
    return read_multi30k(tmp_path / "multi30k", tmp_path / "images", **options)


@pytest.mark.parametrize("packed", [True, False])
def test_a_clone_of_the_repository_is_read(tmp_path, packed):
    names = write_multi30k(tmp_path / "multi30k", tmp_path / "images", packed=packed)
    data = read(tmp_path)
    assert data.images == [str(tmp_path / "images" / name) for name in names]
    assert data.image_ids == names
    assert {
        language: {len(captions) for captions in captions_by_image}
        for language, captions_by_image in data.captions.items()
    } == {"en": {5}, "de": {5}, "fr": {1}, "cs": {1}}
    assert data.captions["de"][2] == [f"Hund blue 2 {number}" for number in range(1, 6)]
    assert data.captions["cs"][3] == ["pes black 3"]


def test_a_truncated_download_is_named(tmp_path):
    write_multi30k(tmp_path / "multi30k", tmp_path / "images", packed=True)
    for path in (tmp_path / "multi30k").rglob("*.gz"):
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="complete"):
        read(tmp_path)


def test_the_data_folder_of_the_repository_is_read(tmp_path):
    write_multi30k(tmp_path / "multi30k", tmp_path / "images")
    data = read_multi30k(tmp_path / "multi30k/data", tmp_path / "images")
    assert len(data.images) == 8


def test_a_caption_may_contain_unicode_line_separators(tmp_path):
    write_multi30k(tmp_path / "multi30k", tmp_path / "images", packed=False)
    path = tmp_path / "multi30k/data/task1/raw/test_2016_flickr.fr"
    path.write_text(path.read_text().replace("chien red 0", "chien\u2028 \x85 0"))
    assert read(tmp_path).captions["fr"][0] == ["chien\u2028 \x85 0"]


def test_windows_line_ends_are_removed(tmp_path):
    write_multi30k(tmp_path / "multi30k", tmp_path / "images", packed=False)
    path = tmp_path / "multi30k/data/task1/raw/test_2016_flickr.fr"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read(tmp_path).captions["fr"][0] == ["chien red 0"]


def test_missing_images_raise_or_are_left_out(tmp_path, capsys):
    names = write_multi30k(tmp_path / "multi30k", tmp_path / "images")
    (tmp_path / "images" / names[2]).unlink()
    with pytest.raises(InputError, match="1 of 8"):
        read(tmp_path)
    data = read(tmp_path, allow_missing=True)
    assert data.image_ids == names[:2] + names[3:]
    assert data.captions["fr"][2] == ["chien black 3"]
    assert "left out" in capsys.readouterr().err


def test_the_test_set_must_have_a_thousand_images(tmp_path, monkeypatch):
    monkeypatch.undo()
    write_multi30k(tmp_path / "multi30k", tmp_path / "images")
    with pytest.raises(InputError, match="1,000"):
        read_multi30k(tmp_path / "multi30k", tmp_path / "images")
    write_multi30k(tmp_path / "complete", tmp_path / "all_images", num_images=1000)
    data = read_multi30k(tmp_path / "complete", tmp_path / "all_images")
    assert len(data.images) == 1000
