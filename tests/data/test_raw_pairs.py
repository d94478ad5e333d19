"""Tests of `image_text_batches` with all accepted forms of images and captions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from align_keras.data.raw_pairs import raw_pairs
from align_keras.images import crop_image, crop_image_bytes, preprocess_image
from align_keras.models import image_text_batches
from align_keras.utils.errors import InputError
from tests.helpers.small import small_align

CAPTIONS = ["a b", "red", "blue", "cat", "dog"]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return small_align()


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 60, 50, 3)).astype("uint8")


@pytest.fixture(scope="module")
def paths(pixels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"BM{row}.png" for row in range(5)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return paths


def batches_of(
    images,
    captions,
    model,
    batch_size=2,
    training=False,
    shuffle=None,
    seed=None,
    **options,
):
    batches = image_text_batches(
        images,
        captions,
        model.preprocessor.with_options(**options),
        training=training,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
    )
    return list(batches.as_numpy_iterator())


def forms_of(pixels, paths):
    files = [path.read_bytes() for path in paths]
    names = [str(path) for path in paths]
    from_slices = tf.data.Dataset.from_tensor_slices
    return {
        "paths": (paths, CAPTIONS),
        "names": (names, np.array(CAPTIONS)),
        "files": (files, tf.constant(CAPTIONS)),
        "array": (pixels, CAPTIONS),
        "tensor": (tf.constant(pixels), CAPTIONS),
        "arrays": (list(pixels), CAPTIONS),
        "string tensor": (tf.constant(names), CAPTIONS),
        "images alone": (from_slices(files), CAPTIONS),
        "two datasets": (from_slices(names), from_slices(CAPTIONS)),
        "tuples": (from_slices((files, CAPTIONS)), None),
        "dicts": (from_slices({"image": pixels, "caption": CAPTIONS}), None),
        "batches": (from_slices((names, CAPTIONS)).batch(3), None),
        "list of tuples": (list(zip(paths, CAPTIONS, strict=True)), None),
        "list of dicts": (
            [
                {"image": image, "caption": caption}
                for image, caption in zip(pixels, CAPTIONS, strict=True)
            ],
            None,
        ),
        "one tuple": ((names, CAPTIONS), None),
        "one dict": ({"image": names, "caption": CAPTIONS}, None),
    }


@pytest.mark.parametrize(
    "name",
    [
        "arrays",
        "batches",
        *(
            pytest.param(name, marks=pytest.mark.ci)
            for name in ("array", "two datasets", "list of tuples")
        ),
        *(
            pytest.param(name, marks=pytest.mark.release)
            for name in (
                "paths",
                "string tensor",
                "dicts",
                "names",
                "files",
                "tensor",
                "images alone",
                "tuples",
                "list of dicts",
                "one tuple",
                "one dict",
            )
        ),
    ],
)
def test_all_forms_of_pairs_result_in_the_same_batches(model, pixels, paths, name):
    expected = np.stack([preprocess_image(image, 32) for image in pixels])
    batches = batches_of(*forms_of(pixels, paths)[name], model)
    assert [len(batch["images"]) for batch in batches] == [2, 2, 1]
    assert set(batches[0]) == {"images", "token_ids", "padding_mask"}
    images = np.concatenate([batch["images"] for batch in batches])
    np.testing.assert_array_equal(images, expected)
    token_ids = np.concatenate([batch["token_ids"] for batch in batches])
    np.testing.assert_array_equal(token_ids, model.tokenizer(CAPTIONS)["token_ids"])


@pytest.mark.ci
def test_data_frames_and_their_columns_are_accepted(model, pixels, paths):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"image": paths, "caption": CAPTIONS}).iloc[1:]
    expected = [preprocess_image(image, 32) for image in pixels[1:]]
    for images, captions in ((frame, None), (frame["image"], frame["caption"])):
        (batch,) = batches_of(images, captions, model, 5)
        np.testing.assert_array_equal(batch["images"], expected)
    assert raw_pairs(frame["image"], frame["caption"]) is not None


@pytest.mark.ci
def test_hugging_face_datasets_and_their_columns_are_accepted(model, pixels, paths):
    datasets = pytest.importorskip("datasets")
    data = {"image": list(map(str, paths)), "caption": CAPTIONS}
    dataset = datasets.Dataset.from_dict(data)
    dataset = dataset.cast_column("image", datasets.Image()).select(range(1, 5))
    expected = [preprocess_image(image, 32) for image in pixels[1:]]
    for images, captions in (
        (dataset, None),
        (dataset["image"], dataset["caption"]),
        (dataset.with_format("numpy"), None),
        (dataset[:]["image"], CAPTIONS[1:]),
        (dataset.with_transform(lambda rows: rows)["image"], CAPTIONS[1:]),
    ):
        (batch,) = batches_of(images, captions, model, 4)
        np.testing.assert_array_equal(batch["images"], expected)
    assert len(raw_pairs(dataset)[0][1:3]) == 2
    with pytest.raises(InputError, match="Received: Dataset"):
        model.fit(dataset.rename_column("caption", "label"))


def test_arrays_of_different_sizes_and_floats_are_accepted(model, pixels):
    images = [image[row:] / 255 for row, image in enumerate(pixels)]
    (batch,) = batches_of(images, CAPTIONS, model, 5, value_range=(0, 1))
    expected = [preprocess_image(image[row:], 32) for row, image in enumerate(pixels)]
    np.testing.assert_array_equal(batch["images"], expected)


@pytest.mark.ci
def test_training_augments_and_shuffles_differently_in_each_epoch(model, pixels):
    batches = image_text_batches(
        pixels, CAPTIONS, model.preprocessor, training=True, batch_size=2, seed=3
    )
    first, second = (list(batches.as_numpy_iterator()) for _ in range(2))
    # The last batch is dropped, since it isn't full.
    assert [len(batch["images"]) for batch in first] == [2, 2]
    assert not np.array_equal(first[0]["images"], second[0]["images"])
    # The same seed returns the same batches.
    repeated = batches_of(pixels, CAPTIONS, model, training=True, seed=3)
    for expected_batch, batch in zip(first, repeated, strict=True):
        for name in expected_batch:
            np.testing.assert_array_equal(batch[name], expected_batch[name])
    options = {"crop": "center", "flip": False, "shuffle": False, "training": True}
    (batch,) = batches_of(pixels, CAPTIONS, model, 9, **options)
    expected = [crop_image(image, 32, (0.5, 0.5)) for image in pixels]
    np.testing.assert_array_equal(batch["images"], expected)


def test_half_of_the_images_are_mirrored_and_windows_differ(model, pixels):
    count = 400
    images = np.repeat(pixels[:1], count, axis=0)
    options = {"training": True, "shuffle": False, "seed": 0}
    (batch,) = batches_of(images, ["a"] * count, model, count, **options)
    windows = {image.tobytes() for image in batch["images"]}
    assert len(windows) > 30
    mirrored = batches_of(images, ["a"] * count, model, count, crop="center", **options)
    mirrored = mirrored[0]["images"]
    straight = np.asarray(crop_image(pixels[0], 32, (0.5, 0.5)))
    is_straight = (mirrored == straight).all((1, 2, 3))
    assert 160 < is_straight.sum() < 240
    assert (mirrored[~is_straight] == straight[:, ::-1]).all()


def test_cropping_pixels_equals_cropping_the_encoded_image(pixels):
    png = tf.io.encode_png(pixels[0])
    for position in ((0.0, 0.0), (0.3, 0.9)):
        np.testing.assert_array_equal(
            crop_image(pixels[0], 32, position, True),
            crop_image_bytes(png, 32, position, True),
        )


def test_training_draws_one_of_several_captions(model, pixels):
    captions = [["a", "b", "c"]] * 300
    images = np.repeat(pixels[:1], 300, axis=0)
    (batch,) = batches_of(images, captions, model, 300, training=True, seed=0)
    _, counts = np.unique(batch["token_ids"][:, 1], return_counts=True)
    assert len(counts) == 3 and counts.min() > 70
    (batch,) = batches_of(images, captions, model, 300)
    first = model.tokenizer(["a"])["token_ids"].numpy()
    assert (batch["token_ids"] == first).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": "a.png"}, "single str"),
        ({"images": np.zeros((5, 9, 9, 1), "uint8")}, r"\(height, width, 3\)"),
        ({"images": np.zeros((5, 9, 9, 3))}, "pixels must be uint8"),
        ({"images": [np.zeros((9, 9, 3)) + 2] * 5, "value_range": (0, 1)}, "value_ra"),
        ({"captions": CAPTIONS[:3]}, "same length"),
        ({"captions": "a cat"}, "captions must be"),
        ({"captions": CAPTIONS[:4] + [float("nan")]}, r"captions\[4\]"),
        ({"batch_size": 0}, "batch_size"),
        (
            {"images": tf.data.Dataset.range(3), "captions": None},
            "dataset of pairs",
        ),
    ],
)
def test_invalid_pairs_raise_a_one_line_error(model, pixels, change, words):
    arguments = {"images": pixels, "captions": CAPTIONS, "batch_size": 2}
    arguments |= {"preprocessor": model.preprocessor, **change}
    value_range = arguments.pop("value_range", None)
    if value_range is not None:
        preprocessor = model.preprocessor.with_options(value_range=value_range)
        arguments["preprocessor"] = preprocessor
    with pytest.raises(InputError, match=words) as caught:
        image_text_batches(**arguments, training=True)
    assert "\n" not in str(caught.value)
