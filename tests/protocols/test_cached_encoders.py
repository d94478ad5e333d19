"""Tests of the cached embeddings of a small model."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from align_keras import load_model
from align_keras.protocols.cached_encoders import CachedEncoders, default_cache
from align_keras.utils.errors import InputError
from tests.helpers.small import small_align
from tests.helpers.small_run import draw


def png(color, shape):
    file = io.BytesIO()
    draw(color, shape).save(file, "png")
    return file.getvalue()


@pytest.fixture(scope="module")
def align():
    return small_align()


def opener(align, folder, opened_folders):
    """Returns a function that saves and opens the model, and records the call."""

    def open_model():
        opened_folders.append(folder)
        align.save_to_preset(folder)
        return load_model(folder)

    return open_model


@pytest.mark.ci
def test_undecodable_images_are_skipped_and_reported(
    align, tmp_path, capsys, monkeypatch
):
    (tmp_path / "red.png").write_bytes(png("red", "circle"))
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 not an image")
    opened_folders = []
    open_model = opener(align, tmp_path / "run", opened_folders)
    encoders = CachedEncoders(open_model, tmp_path / "cache")
    # The model is opened when the first item is embedded.
    assert opened_folders == []
    pixels = np.asarray(Image.open(tmp_path / "red.png"))
    images = [
        str(tmp_path / "red.png"),
        b"nothing",
        pixels,
        str(tmp_path / "cut.jpg"),
        png("blue", "bar")[:60],
        png("blue", "bar"),
    ]
    embeddings, rows = encoders.readable_images(images)
    assert rows.tolist() == [0, 2, 5]
    assert np.abs(embeddings[0] - embeddings[1]).max() < 1e-6
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "3 of 6 images can't be decoded and are left out: image 1, "
        f"{tmp_path}/cut.jpg, image 4"
    )
    with pytest.raises(InputError, match="Received: 1 images that can't be decoded"):
        encoders.readable_images([b"nothing"])
    assert encoders.readable_images([images[0]])[0].shape == (1, 16)
    texts = encoders.texts(["a cat", "a dog", "a cat"])
    np.testing.assert_array_equal(texts[0], texts[2])

    # A second process reads all embeddings from the cache.
    def fail(items):
        raise AssertionError(f"{len(items)} items are computed again")

    reopened = CachedEncoders(open_model, tmp_path / "cache")
    monkeypatch.setattr(reopened.model, "encode_images", fail)
    monkeypatch.setattr(reopened.model, "encode_texts", fail)
    capsys.readouterr()
    np.testing.assert_array_equal(reopened.readable_images(images)[0], embeddings)
    np.testing.assert_array_equal(reopened.texts(["a dog"]), texts[1:2])
    assert "3 of 6 images" in capsys.readouterr().err


@pytest.mark.ci
def test_a_changed_model_uses_another_cache(tmp_path):
    align = small_align()
    kernel = align.image_encoder.get_layer("projection").kernel

    def enlarge_images():
        align.image_encoder.image_size = 48
        align.preprocessor.image_size = (48, 48)

    embeddings = []
    for change in (
        lambda: None,
        lambda: kernel.assign(kernel[:, ::-1]),
        enlarge_images,
        lambda: align.image_encoder.set_pixel_scaling(100.0, 127.5),
    ):
        change()
        model = load_model(align)
        encoders = CachedEncoders(lambda model=model: model, tmp_path / "cache")
        image_embeddings, _ = encoders.readable_images([png("green", "ring")])
        embeddings.append(np.array(image_embeddings))
        encoders.texts(["a cat"])
        folders = list((tmp_path / "cache").iterdir())
        # Each change adds a folder of images, but no folder of texts.
        assert len(folders) == len(embeddings) + 1
    for before, after in itertools.pairwise(embeddings):
        assert np.abs(after - before).max() > 1e-4


def test_the_default_folder_is_in_the_cache_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "align_keras" / "embeddings"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "align_keras" / "embeddings"
