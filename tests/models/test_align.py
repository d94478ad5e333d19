"""Tests of the training, the predictions, the files and the errors of ALIGN."""

import inspect
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import align_keras
from align_keras.losses import ContrastiveLoss
from align_keras.losses.pair_groups import row_hashes
from align_keras.models import (
    ALIGN,
    ALIGNBackbone,
    ALIGNImageConverter,
    ALIGNPreprocessor,
    ALIGNTokenizer,
    ImageEncoder,
    TextEncoder,
)
from align_keras.utils.errors import InputError
from align_keras.utils.shared_data import find_shipped_model
from tests.helpers.small import VOCABULARY, small_align, small_batch, small_encoders


def preprocessor_of(image_size, sequence_length=8):
    tokenizer = ALIGNTokenizer(VOCABULARY, sequence_length=sequence_length)
    return ALIGNPreprocessor(tokenizer, ALIGNImageConverter(image_size))


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return small_align(initial_temperature=0.5)


@pytest.mark.parametrize(
    "cls", [ALIGN, ALIGNBackbone, ALIGNTokenizer, ImageEncoder, TextEncoder]
)
def test_config_keys_equal_the_constructor_arguments(cls):
    model = small_align()
    instance = {
        ALIGN: model,
        ALIGNBackbone: model.backbone,
        ALIGNTokenizer: model.tokenizer,
        ImageEncoder: model.image_encoder,
        TextEncoder: model.text_encoder,
    }[cls]
    names = set(inspect.signature(cls.__init__).parameters) - {"self", "kwargs"}
    # KerasHub adds these arguments of tokenizers. `compile` isn't a part of a model.
    names -= {"compile"}
    if cls is ALIGNTokenizer:
        names |= {"config_file", "name", "trainable", "dtype"}
    assert set(instance.get_config()) == names
    assert cls.from_config(instance.get_config()).get_config() == instance.get_config()


@pytest.mark.ci
def test_fit_lowers_the_loss_and_calls_each_encoder_once():
    keras.utils.set_random_seed(0)
    image_encoder, text_encoder = small_encoders(num_stages=1)
    calls = []
    for encoder in (image_encoder, text_encoder):
        original = encoder.call

        def counted(*args, original=original, name=encoder.name, **kwargs):
            calls.append(name)
            return original(*args, **kwargs)

        encoder.call = counted
    model = ALIGN.from_encoders(image_encoder, text_encoder, initial_temperature=0.5)
    model.compile(keras.optimizers.AdamW(1e-2))
    dataset = tf.data.Dataset.from_tensors(small_batch(2)).repeat()
    calls.clear()
    history = model.fit(dataset, epochs=8, steps_per_epoch=1, verbose=0).history
    # The step is traced once, and the trace calls each encoder once.
    assert sorted(calls) == ["image_encoder", "text_encoder"]
    assert history["loss"][-1] < history["loss"][0]
    assert history["loss"][0] == pytest.approx(
        history["loss_i2t"][0] + history["loss_t2i"][0], rel=1e-5
    )
    assert history["temperature"][-1] != history["temperature"][0]


@pytest.mark.ci
def test_a_fixed_temperature_does_not_change():
    keras.utils.set_random_seed(0)
    model = small_align(initial_temperature=0.25, learn_temperature=False)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    history = model.fit(tf.data.Dataset.from_tensors(small_batch()), verbose=0).history
    assert history["temperature"] == [pytest.approx(0.25)]
    assert float(model.temperature) == pytest.approx(0.25)


def test_the_recipe_paper_is_lamb_with_the_schedule_of_the_paper(model):
    model.compile(recipe="paper")
    optimizer = model.optimizer
    assert isinstance(optimizer, align_keras.Lamb)
    assert optimizer.get_config()["weight_decay"] == 1e-5
    assert (model.loss.label_smoothing, model.loss.reduction) == (0.1, "sum")
    assert float(optimizer._learning_rate(10_000)) == pytest.approx(1e-3)
    assert float(optimizer._learning_rate(1_200_000)) == pytest.approx(0.0)


@pytest.mark.ci
def test_predict_on_a_raw_dataset_equals_encode_images_and_texts(model):
    model.compile(keras.optimizers.SGD(0.1))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 50, 40, 3)).astype("uint8")
    captions = ["a b", "red", "blue", "cat"]
    dataset = tf.data.Dataset.from_tensor_slices(
        {"image": pixels, "caption": captions}
    ).batch(2)
    predicted = model.predict(dataset, verbose=0)
    images, texts = model.encode_images(list(pixels)), model.encode_texts(captions)
    # Other batch sizes cause other rounding errors in float32.
    np.testing.assert_allclose(predicted["image_embedding"], images, atol=1e-5)
    np.testing.assert_allclose(predicted["text_embedding"], texts, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(
        predicted["similarity"], (images * texts).sum(1) / 0.5, atol=1e-4
    )
    losses = model.evaluate(dataset, verbose=0, return_dict=True)
    assert set(losses) == {"loss", "loss_i2t", "loss_t2i", "temperature"}


def test_encode_images_accepts_paths_bytes_and_arrays(model, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (40, 60, 3)).astype("uint8")
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    embeddings = model.encode_images([path, str(path), path.read_bytes(), pixels])
    np.testing.assert_array_equal(embeddings, np.repeat(embeddings[:1], 4, axis=0))
    assert embeddings.dtype == np.float32
    assert model.encode_images([]).shape == (0, 16)


def test_encode_query_adds_and_removes_words(model):
    image = small_batch(1)["images"][0]
    texts = model.encode_texts(["ab", "c"])
    expected = model.encode_images([image])[0] + 2 * texts[0]
    expected -= max(expected @ texts[1], 0) * texts[1]
    query = model.encode_query(image, plus="ab", minus=["c"])
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(query, expected[None], atol=1e-6)


def test_encoding_accepts_ragged_tensors(model):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3)).astype("uint8")
    expected = model.encode_images(pixels)
    images = tf.RaggedTensor.from_tensor(pixels, ragged_rank=2)
    np.testing.assert_array_equal(model.encode_images(images), expected)


def test_other_batch_sizes_are_refused(model):
    with pytest.raises(InputError, match="batch_size"):
        model.encode_texts(["a", "b"], batch_size=0)
    with pytest.raises(InputError, match="batch_size"):
        model.encode_images(np.zeros((2, 40, 40, 3), "uint8"), batch_size=0)


def test_encode_images_accepts_floats_with_a_value_range(model):
    pixels = np.random.default_rng(2).integers(0, 256, (2, 40, 60, 3)).astype("uint8")
    expected = model.encode_images(pixels)
    floats = (pixels / 255).astype("float32")
    np.testing.assert_array_equal(
        model.encode_images(floats, value_range=(0, 1)), expected
    )
    for images in (floats, pixels.astype("int64")):
        with pytest.raises(InputError, match="uint8"):
            model.encode_images(images)
    with pytest.raises(InputError, match="value_range"):
        model.encode_images([floats[0], floats[1] * 255], value_range=(0, 1))


@pytest.mark.ci
def test_a_keras_file_and_a_preset_folder_restore_the_embeddings(model, tmp_path):
    loss = ContrastiveLoss(reduction="mean")
    model.compile(keras.optimizers.AdamW(1e-3), loss, run_eagerly=True)
    model.fit(tf.data.Dataset.from_tensors(small_batch()), verbose=0)
    pixels = list(small_batch(seed=3)["images"])
    expected = model.encode_images(pixels), model.encode_texts(["a red cat"])
    model.save(tmp_path / "align.keras")
    model.save_to_preset(tmp_path / "run")
    loaded = keras.models.load_model(tmp_path / "align.keras")
    assert loaded.loss.get_config() == model.loss.get_config()
    assert loaded.loss.reduction == "mean"
    assert int(loaded.optimizer.iterations) == 1
    for copy in (loaded, ALIGN.from_preset(tmp_path / "run")):
        np.testing.assert_array_equal(copy.encode_images(pixels), expected[0])
        np.testing.assert_array_equal(copy.encode_texts(["a red cat"]), expected[1])


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param("mixed_bfloat16", marks=pytest.mark.ci),
        pytest.param("mixed_float16", marks=pytest.mark.release),
    ],
)
def test_mixed_precision_trains_and_returns_float32_embeddings(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = small_align()
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(keras.optimizers.SGD(0.1))
    scaled = policy == "mixed_float16"
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == scaled
    before = model.image_encoder.get_layer("projection").kernel.numpy()
    # Loss scaling skips the first steps until the gradients are finite.
    batches = tf.data.Dataset.from_tensors(small_batch()).repeat(12)
    history = model.fit(batches, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert (model.image_encoder.get_layer("projection").kernel.numpy() != before).any()
    assert model.predict_on_batch(small_batch())["image_embedding"].dtype == np.float32


def test_caption_groups_are_equal_for_equal_rows_only():
    token_ids = np.array([[2, 5, 3, 0], [2, 6, 3, 0], [2, 5, 3, 0], [2, 3, 5, 0]])
    groups = row_hashes(tf.constant(token_ids, tf.int32)).numpy()
    assert groups[0] == groups[2]
    assert len(set(groups)) == 3


def test_summary_is_readable(model):
    lines = []
    # KerasHub 0.23 also passes `line_break`.
    model.summary(print_fn=lambda line, **_: lines.append(line))
    text = "\n".join(lines)
    for name in ("image_encoder", "text_encoder", "temperature"):
        assert name in text
    assert len(text.splitlines()) < 60


def test_a_clone_is_a_plain_model_with_equal_outputs():
    model = small_align()
    clone = keras.models.clone_model(model)
    assert isinstance(clone, keras.Model) and not isinstance(clone, ALIGN)
    clone.set_weights(model.get_weights())
    expected = model(small_batch())
    actual = clone(small_batch())
    assert set(actual) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.encode_texts("one"), "list of str"),
        (lambda m: m.encode_images("one.png"), "list of paths"),
        (lambda m: m.encode_images(["missing.png"]), "missing.png was not"),
        (lambda m: m.encode_images([b"junk"]), r"images\[0\]"),
        (lambda m: m.encode_images([np.zeros((4, 4), "uint8")]), "height, width, 3"),
        (lambda m: m.compile(loss="mse"), "loss must be"),
        (
            lambda m: m.compile(label_smoothing=0.2),
            "label_smoothing",
        ),
        (lambda m: ALIGN.from_preset("align_nan"), "mean align_nano"),
        (
            lambda m: ALIGN.from_encoders(*small_encoders()).encode_texts(["a"]),
            "vocabulary",
        ),
        (lambda m: small_encoders(image_size=16), "from 32"),
        (
            lambda m: ALIGN.from_encoders(
                small_encoders()[0], small_encoders(projection_dim=8)[1]
            ),
            "widths 16 and 8",
        ),
        (
            lambda m: ALIGN.from_encoders(
                *small_encoders(), vocabulary=[*VOCABULARY[:-1], "a"]
            ),
            "each token once",
        ),
        (
            lambda m: ALIGN.from_encoders(
                *small_encoders(), vocabulary=VOCABULARY + ["more"]
            ),
            "at most 57 tokens",
        ),
        (
            lambda m: ALIGN(m.backbone, preprocessor_of(image_size=64)),
            "image_size",
        ),
        (
            lambda m: ALIGN(m.backbone, preprocessor_of(32, sequence_length=12)),
            "sequence_length",
        ),
        (lambda m: ALIGN(m.backbone).encode_texts(["a"]), "preprocessor=None"),
        (lambda m: ALIGNTokenizer().tokenize(["a"]), "vocabulary=None"),
    ],
)
def test_wrong_inputs_raise_a_one_line_error(model, call, words):
    with pytest.raises(InputError, match=words) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_a_raw_dataset_must_be_batched(model):
    dataset = tf.data.Dataset.from_tensor_slices({"image": ["x"], "caption": ["y"]})
    with pytest.raises(InputError, match="batched"):
        model.predict(dataset)


def test_a_raw_dataset_of_floats_is_refused(model):
    pair = {"image": np.full((2, 40, 40, 3), 0.5, "float32"), "caption": ["a", "b"]}
    with pytest.raises(InputError, match="uint8"):
        model.predict(tf.data.Dataset.from_tensors(pair))
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        assert tf.distribute.has_strategy()


def test_exports_and_files_without_an_align_are_refused(tmp_path):
    damaged, export = tmp_path / "damaged.keras", tmp_path / "export"
    damaged.write_bytes(b"junk")
    (export / "align" / "1").mkdir(parents=True)
    dense = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    dense.save(tmp_path / "dense.keras")
    (tmp_path / "image.tflite").write_bytes(b"")
    for preset, options, words in (
        (tmp_path / "none.keras", {}, "of a .keras file"),
        (tmp_path / "image.tflite", {}, "of a .keras file"),
        (damaged, {}, "can't be opened"),
        (damaged, {"dtype": "float16"}, "dtype.* .keras file"),
        (damaged, {"load_weights": False}, "load_weights.* .keras file"),
        (damaged, {"training": "lora", "rank": 2}, "training, rank.* .keras file"),
        (
            tmp_path / "dense.keras",
            {},
            "dense.keras.* a Sequential",
        ),
        (export, {}, r"Received: the export.*load_model\("),
        (export / "align", {}, "config.json"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            ALIGN.from_preset(preset, **options)
        assert "\n" not in str(caught.value)


def test_the_folder_of_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="Finish the run"):
        ALIGN.from_preset(tmp_path)


def test_folders_with_damaged_or_other_weights_are_refused(tmp_path):
    small_align().save_to_preset(tmp_path)
    weights, config = tmp_path / "model.weights.h5", tmp_path / "config.json"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"model\.weights\.h5 is damaged"):
        ALIGN.from_preset(tmp_path)
    small_align(projection_dim=24).save_to_preset(tmp_path / "wider")
    weights.write_bytes((tmp_path / "wider" / "model.weights.h5").read_bytes())
    with pytest.raises(InputError, match="doesn't fit.*projection") as caught:
        ALIGN.from_preset(tmp_path)
    assert "\n" not in str(caught.value)
    saved = config.read_text()
    for encoder, name in (
        ("image_encoder", "num_classes"),
        ("image_encoder", "projection_dim"),
        ("text_encoder", "projection_dim"),
        ("text_encoder", "max_sequence_length"),
    ):
        damaged = json.loads(saved)
        damaged["config"][encoder]["config"][name] = 10**10
        config.write_text(json.dumps(damaged))
        with pytest.raises(InputError, match="at most .* parameters"):
            ALIGN.from_preset(tmp_path)
    config.write_text('{"class_name": "Dense"}')
    with pytest.raises(InputError, match="Dense"):
        ALIGN.from_preset(tmp_path)


def test_a_folder_with_a_changed_vocabulary_is_refused(tmp_path):
    align = small_align()
    align.save_to_preset(tmp_path)
    path = tmp_path / "assets" / "tokenizer" / "vocabulary.txt"
    content = path.read_text()
    tokens = content.splitlines()
    path.write_text("\n".join([*tokens[:5], *tokens[:4:-1]]))
    with pytest.raises(InputError, match=r"vocabulary\.txt is damaged"):
        ALIGN.from_preset(tmp_path)
    path.write_text(content)
    assert ALIGN.from_preset(tmp_path).vocabulary == align.vocabulary
    tokenizer = tmp_path / "tokenizer.json"
    config = tokenizer.read_text()
    tokenizer.write_text(config.replace("bert_uncased", "bert_cased"))
    with pytest.raises(InputError, match=r"tokenizer\.json is damaged"):
        ALIGN.from_preset(tmp_path)
    tokenizer.write_text(config)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"vocabulary\.txt"):
        ALIGN.from_preset(tmp_path)


@pytest.mark.parametrize(
    "position", [0.4, 0.6, pytest.param(0.9, marks=pytest.mark.ci)]
)
def test_a_flipped_bit_in_the_weights_is_detected(tmp_path, position):
    small_align().save_to_preset(tmp_path)
    weights = tmp_path / "model.weights.h5"
    content = weights.read_bytes()
    damaged = bytearray(content)
    damaged[int(position * len(content))] ^= 4
    weights.write_bytes(damaged)
    with pytest.raises(InputError, match=f"{weights} .*SHA-256"):
        ALIGN.from_preset(tmp_path)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["image.tflite", "rest.safetensors"])
def test_a_flipped_bit_in_the_shipped_weights_is_detected(tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(find_shipped_model("align_small_en"), folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 4
    (folder / name).write_bytes(content)
    words = f"{name} is damaged.*download"
    with pytest.raises(InputError, match=words):
        ALIGN.from_preset(folder)


def test_a_flipped_bit_in_a_keras_file_is_detected(tmp_path):
    path = tmp_path / "model.keras"
    small_align().save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(InputError, match="can't be opened"):
        ALIGN.from_preset(path)
