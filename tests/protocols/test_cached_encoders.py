"""Tests of the cached embeddings of a small model."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from align_keras import load_model
from align_keras.protocols.cached_encoders import CachedEncoders, default_cache
from align_keras.utils.errors import InputError
from tests.helpers.protocol_case import ColorModel, ForgetfulModel
from tests.helpers.small_run import draw


def png(color, shape):
    file = io.BytesIO()
    draw(color, shape).save(file, "png")
    return file.getvalue()


class MeanColorModel(ColorModel):
    """Model that refuses images that Pillow can't decode."""

    def image_vector(self, image):
        try:
            pixels = image if isinstance(image, np.ndarray) else open_image(image)
        except OSError as error:
            raise InputError(str(error)) from error
        mean = np.asarray(pixels, np.float32).reshape(-1, 3).mean(axis=0)
        return mean / np.linalg.norm(mean)


def open_image(image):
    file = io.BytesIO(image) if isinstance(image, bytes) else image
    return Image.open(file).convert("RGB")


def test_undecodable_images_are_skipped_and_reported(tmp_path, capsys):
    (tmp_path / "red.png").write_bytes(png("red", "circle"))
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 not an image")
    opened_models = []

    def open_model():
        opened_models.append(MeanColorModel())
        return opened_models[-1]

    encoders = CachedEncoders(open_model, tmp_path / "cache")
    # The model is opened when the first item is embedded.
    assert opened_models == []
    images = [
        str(tmp_path / "red.png"),
        b"nothing",
        np.asarray(Image.open(tmp_path / "red.png")),
        str(tmp_path / "cut.jpg"),
        png("blue", "bar")[:60],
        png("blue", "bar"),
    ]
    embeddings, rows = encoders.readable_images(images)
    assert rows.tolist() == [0, 2, 5]
    np.testing.assert_array_equal(embeddings[0], embeddings[1])
    message = capsys.readouterr().err
    assert "3 of 6" in message and str(tmp_path / "cut.jpg") in message
    with pytest.raises(InputError, match="decodable"):
        encoders.readable_images([b"nothing"])
    texts = encoders.texts(["a red cat", "a blue dog", "a red cat"])
    np.testing.assert_array_equal(texts[0], texts[2])

    # A second process reads all embeddings from the cache.
    reopened = CachedEncoders(ForgetfulModel, tmp_path / "cache")
    np.testing.assert_array_equal(reopened.readable_images(images)[0], embeddings)
    np.testing.assert_array_equal(reopened.texts(["a blue dog"]), texts[1:2])
    assert "3 of 6" in capsys.readouterr().err


@pytest.mark.ci
def test_a_changed_model_uses_another_cache(tmp_path):
    from tests.helpers.small import small_align  # Importing TensorFlow takes seconds.

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
