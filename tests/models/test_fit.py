"""Tests of `fit`, `evaluate` and `predict` with all accepted forms of data."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from align_keras.data.fit_input import fit_input
from align_keras.evaluation import chance_recall_at_k, recall_at_k
from align_keras.images import crop_image
from align_keras.losses import ContrastiveLoss, MatryoshkaLoss
from align_keras.models import fit_callbacks
from align_keras.models.fit_callbacks import ValidationPairs
from align_keras.utils.errors import InputError
from tests.helpers.small import small_align, small_batch

CAPTIONS = ["a b", "red", "blue", "cat"]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = small_align(initial_temperature=0.5)
    # Batch normalization of two rows causes gradients of about 100,000. Without
    # clipping, the validation loss after such a step would overflow.
    model.compile(keras.optimizers.SGD(0.01, global_clipnorm=1.0))
    return model


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (4, 60, 50, 3)).astype("uint8")


@pytest.fixture(scope="module")
def paths(pixels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{row}.png" for row in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return paths


@pytest.mark.ci
def test_fit_accepts_paths_raw_validation_data_and_a_callback(model, pixels, paths):
    steps = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: steps.append(batch)
    )
    history = model.fit(
        paths,
        CAPTIONS,
        batch_size=4,
        epochs=2,
        verbose=0,
        callbacks=callback,
        validation_data=(pixels, CAPTIONS),
        validation_batch_size=4,
    ).history
    assert len(steps) == 2
    assert len(history["val_loss"]) == 2 and len(history["loss"]) == 2
    cosines = model.similarity(pixels, CAPTIONS)
    losses = contrastive_loss_in_numpy(cosines / float(model.temperature))
    assert history["val_loss"][-1] == pytest.approx(losses, rel=1e-4)


@pytest.mark.ci
def test_an_epoch_ends_with_recall_and_chance_in_lines_of_100_columns(model, capsys):
    batch = small_batch(24)
    # Two captions are equal, so each has two correct images.
    batch["token_ids"][1] = batch["token_ids"][0]
    logged = []
    callback = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logged.append(logs)
    )
    history = model.fit(
        batch, epochs=2, validation_data=batch, batch_size=4, callbacks=callback
    ).history
    predicted = model.predict(batch, verbose=0)
    positives = [[0, 1], [0, 1], *[[row] for row in range(2, 24)]]
    recall = recall_at_k(
        predicted["text_embedding"], predicted["image_embedding"], positives, (10,)
    )
    assert history["val_recall_at_10"][-1] == recall[10]
    chance = chance_recall_at_k(positives, 24, (10,))[10]
    assert history["val_chance_recall_at_10"] == [chance] * 2
    # The progress bar has fewer metrics than the history and the callbacks.
    assert set(logged[-1]) == set(history)
    assert "gradient_norm" in history
    output = capsys.readouterr().out
    assert "gradient_norm" not in output
    assert output.count(f"recall@10: {recall[10]:.1%} (chance: {chance:.1%})") >= 1
    is_style = r"\x1b\[\d+m"
    for line in re.split(r"[\r\n]", re.sub(is_style, "", output)):
        assert len(line.replace("\b", "").rstrip()) <= 100


def test_the_recall_of_the_validation_is_that_of_the_first_pairs(monkeypatch):
    monkeypatch.setattr(fit_callbacks, "MAX_PAIRS", 12)
    pairs = ValidationPairs()
    assert pairs.recall() == {}
    rows = np.eye(16, dtype="float32")
    tokens = np.arange(16)[:, None]
    for start in (0, 8):
        batch = slice(start, start + 8)
        pairs.add(rows[batch], rows[batch], tokens[batch])
    expected = pytest.approx({"recall_at_10": 1.0, "chance_recall_at_10": 10 / 12})
    assert pairs.recall() == expected
    monkeypatch.setattr(fit_callbacks, "MAX_PAIRS", 13)
    pairs.add(rows[12:] * np.nan, rows[12:], tokens[12:])
    assert np.isnan(pairs.recall()["recall_at_10"])


def contrastive_loss_in_numpy(logits, label_smoothing=0.1):
    """Returns the sum of the cross-entropies of both directions."""
    count = len(logits)
    labels = np.eye(count) * (1 - label_smoothing) + label_smoothing / count
    total = 0.0
    for rows in (logits, logits.T):
        log_softmax = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
        total -= (labels * log_softmax).sum(axis=1).mean()
    return total


def images_of(model, x, y=None, **options):
    batches = fit_input(model, x, y, **options).batches
    return np.concatenate([batch["images"] for batch in batches.as_numpy_iterator()])


@pytest.mark.ci
def test_training_images_are_augmented_unless_augment_is_false(model, pixels):
    pairs = {"image": pixels, "caption": CAPTIONS}
    dataset = tf.data.Dataset.from_tensor_slices(pairs).batch(2)
    batches = fit_input(model, dataset, training=True).batches
    first, second = (
        np.concatenate([batch["images"] for batch in batches]) for _ in range(2)
    )
    assert (first != second).any()
    for x in (dataset, pairs):
        images = images_of(model, x, training=True, augment=False)
        expected = np.stack([crop_image(image, 32, (0.5, 0.5)) for image in pixels])
        np.testing.assert_array_equal(np.sort(images, 0), np.sort(expected, 0))
        if x is dataset:
            np.testing.assert_array_equal(images, expected)
    floats = {"image": pixels / 255, "caption": CAPTIONS}
    images = images_of(model, floats, value_range=(0, 1))
    np.testing.assert_array_equal(images, images_of(model, dataset))


def inputs_with(**changes):
    return {**small_batch(), **changes}


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (inputs_with(images=np.zeros((4, 32, 32), "uint8")), "images"),
        (inputs_with(images=np.full((4, 32, 32, 3), 0.5)), "0.5"),
        (inputs_with(token_ids=np.zeros((4, 9), int)), "token_ids"),
        (inputs_with(padding_mask=np.zeros((4, 7), int)), "padding_mask"),
        (inputs_with(token_ids=np.full((4, 8), 57)), "below 57"),
        ({"images": np.zeros((4, 32, 32, 3), "uint8")}, "Received: a dict"),
        (np.zeros((4, 32, 32, 3), "uint8"), r"Received: ndarray \(4, 32, 32, 3\)"),
        (tf.data.Dataset.from_tensors((small_batch(), [1] * 4)), "only inputs"),
    ],
)
def test_inputs_that_do_not_fit_raise_a_one_line_error(model, x, words):
    for call in (model.fit, model.evaluate, model.predict):
        with pytest.raises(InputError, match=words) as caught:
            call(x, verbose=0)
        assert "\n" not in str(caught.value)


class Batches(keras.utils.PyDataset):
    """PyDataset of one batch, which Keras doesn't inspect before a step."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.batch


class Loader:
    """Iterable of batches that can be iterated several times, like torch's loader."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def ragged(pixels):
    return tf.RaggedTensor.from_tensor(tf.constant(pixels), ragged_rank=2)


def batches_of_raw_pairs(pixels):
    return [(pixels[:2], CAPTIONS[:2]), (list(pixels[2:]), CAPTIONS[2:])]


RAW_FORMS = {
    "PyDataset": lambda pixels: Batches(
        {"image": pixels, "caption": CAPTIONS, "id": [0, 1, 2, 3]}
    ),
    "dataset of tuples of a dict": lambda pixels: tf.data.Dataset.from_tensors(
        ({"image": pixels, "caption": CAPTIONS},)
    ),
    "generator": lambda pixels: (pair for pair in batches_of_raw_pairs(pixels)),
    "loader": lambda pixels: Loader(batches_of_raw_pairs(pixels)),
    "ragged batches": lambda pixels: tf.data.Dataset.from_tensors(
        (ragged(pixels), tf.constant(CAPTIONS))
    ),
}


@pytest.mark.parametrize("form", RAW_FORMS)
def test_all_forms_of_raw_pairs_result_in_the_same_inputs(model, pixels, form):
    expected = fit_input(model, (pixels, CAPTIONS)).batches
    batches = fit_input(model, RAW_FORMS[form](pixels)).batches
    rows = [batch[0] if isinstance(batch, tuple) else batch for batch in batches]
    for name, values in expected.get_single_element().items():
        actual = np.concatenate([batch[name] for batch in rows])
        # A map over images and a map over rows may round differently.
        np.testing.assert_allclose(actual, values, atol=1e-3, err_msg=name)


MODEL_INPUT_FORMS = {
    "dict": lambda batch: batch,
    "dataset": tf.data.Dataset.from_tensors,
    "dataset of tuples": lambda batch: tf.data.Dataset.from_tensors((batch,)),
    "PyDataset": Batches,
    "generator": lambda batch: iter([batch, batch]),
    "loader": lambda batch: Loader([batch, batch]),
}


@pytest.mark.parametrize("form", MODEL_INPUT_FORMS)
def test_other_entries_of_model_inputs_are_ignored(model, form):
    batch = small_batch()
    x = MODEL_INPUT_FORMS[form]({**batch, "id": np.arange(4)})
    batches = fit_input(model, x).batches
    first = batches if isinstance(batches, dict) else next(iter(batches))
    first = first[0] if isinstance(first, tuple) else first
    assert set(first) == set(batch)
    for name, values in batch.items():
        np.testing.assert_array_equal(first[name], values)


@pytest.mark.ci
def test_evaluate_and_fit_accept_all_forms(model, pixels):
    expected = model.evaluate(small_batch(), verbose=0)
    for form, make in MODEL_INPUT_FORMS.items():
        # A generator ends after one epoch.
        if form == "generator":
            continue
        x = make({**small_batch(), "id": np.arange(4)})
        losses = model.evaluate(x, verbose=0)
        np.testing.assert_allclose(losses, expected, rtol=1e-4, err_msg=form)
    expected = model.evaluate(Loader([(pixels, CAPTIONS)]), verbose=0)
    np.testing.assert_allclose(
        model.evaluate(pixels, CAPTIONS, verbose=0), expected, rtol=1e-4
    )
    x = Batches((pixels, CAPTIONS))
    history = model.fit(x, epochs=2, validation_data=x, verbose=0).history
    assert len(history["loss"]) == len(history["val_loss"]) == 2


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda: tf.data.Dataset.from_tensors(small_batch()).take(0),
            marks=pytest.mark.ci,
        ),
        lambda: Loader([]),
    ],
    ids=["dataset", "loader"],
)
def test_data_without_a_batch_are_refused(model, make):
    for call in (model.fit, model.evaluate):
        with pytest.raises(InputError, match="without a batch"):
            call(make(), verbose=0)


def floats(scale, shift=0.0):
    images = small_batch()["images"] * scale + shift
    return inputs_with(images=images.astype("float32"))


@pytest.mark.ci
def test_float_images_in_0_to_1_are_refused_in_all_forms(model):
    forms = ("dict", "dataset", "generator", "filtered")
    makes = {
        **MODEL_INPUT_FORMS,
        "filtered": lambda x: tf.data.Dataset.from_tensors(x).filter(lambda x: True),
    }
    for form in forms:
        for batch in (floats(1 / 255), floats(2 / 255, -1.0)):
            with pytest.raises(InputError, match="gray levels .*Multiply"):
                model.evaluate(makes[form](batch), verbose=0)
        # Dark integers, dark floats and a black batch are accepted.
        dark = inputs_with(images=small_batch()["images"] // 128)
        for batch in (dark, floats(2 / 255), floats(0.0)):
            model.evaluate(makes[form](batch), verbose=0)


@pytest.mark.ci
def test_errors_of_python_batches_are_one_line(model, tmp_path):
    missing = str(tmp_path / "missing.png")
    for batch, words in (
        (([missing], ["a"]), str(missing)),
        ((np.zeros((2, 9, 9, 3), "float32"), ["a", "b"]), "value_range"),
        ((np.zeros((2, 9, 9, 3), "uint8"), [0, 1]), r"captions\[0\]"),
        ((np.zeros((2, 3, 9, 9), "uint8"), ["a", "b"]), "channels .*last axis"),
    ):
        for x in (Batches(batch), iter([batch]), Loader([batch])):
            with pytest.raises(InputError, match=words) as caught:
                model.evaluate(x, verbose=0)
            assert "\n" not in str(caught.value)
    loader = Loader([(np.zeros((2, 9, 9, 3), "uint8"), ["a", "b"]), ([missing], ["a"])])
    with pytest.raises(InputError, match=str(missing)):
        model.evaluate(loader, verbose=0)


def test_each_step_checks_python_batches(model):
    for batch, words in (
        ((inputs_with(token_ids=np.zeros((4, 9), int)),), "token_ids"),
        ((small_batch(), np.ones(4)), "only inputs"),
    ):
        for call in (model.fit, model.evaluate):
            with pytest.raises(InputError, match=words) as caught:
                call(Batches(batch), verbose=0)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sample_weight": np.ones(4)}, "sample_weight"),
        ({"class_weight": {0: 1.0}}, "class_weight"),
        ({"validation_data": (np.zeros((4, 9)), ["a"] * 4)}, r"images\[0\].*\(9,\)"),
        ({"y": CAPTIONS[:2]}, "4 images and 2 captions"),
    ],
)
def test_unsupported_arguments_are_refused(model, pixels, arguments, words):
    with pytest.raises(InputError, match=words):
        model.fit(**{"x": pixels, "y": CAPTIONS, "verbose": 0, **arguments})
    with pytest.raises(InputError, match="mean return_dict"):
        model.evaluate(pixels, CAPTIONS, return_dct=True)


def test_weights_are_refused_for_single_batches(model):
    for weights in ({"sample_weight": np.ones(4)}, {"class_weight": {0: 1.0}}):
        with pytest.raises(InputError, match=next(iter(weights))):
            model.train_on_batch(small_batch(), **weights)
    with pytest.raises(InputError, match="sample_weight"):
        model.test_on_batch(small_batch(), sample_weight=np.ones(4))


@pytest.mark.parametrize(
    "make",
    [
        lambda batch: batch,
        lambda batch: tf.data.Dataset.from_tensor_slices(batch).batch(1),
        lambda batch: Batches({name: values[:1] for name, values in batch.items()}),
    ],
    ids=["dict", "dataset", "PyDataset"],
)
def test_batches_of_one_pair_have_no_loss_and_are_refused(model, make):
    with pytest.raises(InputError, match="2 pairs"):
        model.fit(make(small_batch()), batch_size=1, verbose=0)


@pytest.mark.parametrize(
    ("loss", "pairs"),
    [
        (ContrastiveLoss(), 1),
        (ContrastiveLoss(negatives_fraction=0.25), 4),
        (MatryoshkaLoss(ContrastiveLoss(), [2]), 1),
    ],
)
def test_a_single_batch_without_compared_pairs_is_refused(model, loss, pairs):
    model.compile(loss=loss)
    batch = {name: values[:pairs] for name, values in small_batch().items()}
    with pytest.raises(InputError, match="2 pairs"):
        model.train_on_batch(batch)


def test_validation_split_is_refused_for_datasets(model, pixels):
    pairs = tf.data.Dataset.from_tensor_slices((pixels, CAPTIONS)).batch(2)
    with pytest.raises(InputError, match="validation_split"):
        model.fit(pairs, validation_split=0.5)


def test_a_validation_split_without_pairs_is_refused(model, paths):
    with pytest.raises(InputError, match="validation_split"):
        model.fit(paths, CAPTIONS, validation_split=0.9)


@pytest.mark.ci
def test_an_error_names_the_unreadable_image(model, pixels, paths, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xffjunk")
    missing = tmp_path / "missing.png"
    dataset = tf.data.Dataset.from_tensor_slices(([str(missing)], ["a"])).batch(1)
    for x, y, words in (
        (
            [*paths[:3], broken],
            CAPTIONS,
            str(broken),
        ),
        ([*paths[:3], missing], CAPTIONS, str(missing)),
        (dataset, None, f"can't be read .*{missing}; No such file"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            model.evaluate(x, y, verbose=0)
        assert "\n" not in str(caught.value)


@pytest.mark.release
def test_predict_and_validation_split_accept_raw_pairs(model, pixels, paths):
    predicted = model.predict((paths, CAPTIONS), batch_size=3, verbose=0)
    images, texts = model.encode_images(pixels), model.encode_texts(CAPTIONS)
    np.testing.assert_allclose(predicted["image_embedding"], images, atol=1e-5)
    np.testing.assert_allclose(predicted["text_embedding"], texts, atol=1e-5)
    history = model.fit(
        {"image": paths, "caption": CAPTIONS}, validation_split=0.5, verbose=0
    ).history
    assert np.isfinite(history["val_loss"]).all()
    # With `steps_per_epoch`, the pairs are repeated without end.
    steps = {"epochs": 2, "steps_per_epoch": 3, "batch_size": 4, "verbose": 0}
    model.fit(paths, CAPTIONS, **steps)
    inputs = small_batch()
    history = model.fit(inputs, validation_split=0.5, batch_size=2, verbose=0).history
    assert np.isfinite(history["val_loss"]).all()


@pytest.mark.release
def test_fit_on_two_replicas_accepts_raw_pairs(paths, two_replicas):
    with two_replicas.scope():
        model = small_align()
        model.compile(keras.optimizers.SGD(0.01))
    # The last batch would have one pair, which can't be divided, so it is dropped.
    pairs = list(zip(paths[:3], CAPTIONS[:3], strict=True))
    history = model.fit(pairs, batch_size=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
