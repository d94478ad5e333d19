"""Tests of the fine-tuning and the evaluation of a classifier."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.data import evaluation_batches, labeled_batches
from align_keras.models import ALIGNImageConverter, ImageClassifier, ImageEncoder
from align_keras.models.image_classifier import encoder_without_projection
from align_keras.training.classification import (
    FineTuningStage,
    classify,
    fine_tune,
    rows_of_host,
)
from align_keras.training.strategies import strategy_scope
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import needs

SMALL = {
    "width_coefficient": 0.25,
    "depth_coefficient": 0.3,
    "num_stages": 1,
    "image_size": 32,
    "lite": True,
}
SIDE = 32
# Width of the embeddings of the encoder.
FEATURES = 8


@functools.cache
def calibrated_encoder():
    """Returns an encoder with moving statistics of images.

    With initial statistics, the features of random weights would be almost zero.
    """
    keras.utils.set_random_seed(0)
    encoder = ImageEncoder(**SMALL, batch_norm_momentum=0.5, drop_connect_rate=0.0)
    for seed in range(6):
        encoder(np.stack(stripes(30, seed)[0]), training=True)
    return encoder


def small_encoder(freeze_batch_statistics=False):
    return encoder_without_projection(calibrated_encoder(), freeze_batch_statistics)


def stripes(count, seed=0):
    """Returns noisy images in random colors, and their classes.

    The images have horizontal stripes (0), vertical stripes (1) or no stripes (2).
    """
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = []
    for label in labels:
        rows, columns = np.indices((SIDE, SIDE))
        phase, width = random.uniform(0, 6), random.uniform(1, 2)
        wave = np.sin([rows, columns, np.zeros_like(rows)][label] / width + phase)
        color = random.uniform(60, 195, 3)
        noise = random.normal(0, 8, (SIDE, SIDE, 3))
        image = color + 50 * wave[..., np.newaxis] + noise
        images.append(np.clip(image, 0, 255).astype("uint8"))
    return images, labels


def batches_of(images, labels, batch_size=30, seed=0, **options):
    converter = ALIGNImageConverter(SIDE, **{"crop": "whole", "flip": False, **options})
    return lambda step: labeled_batches(
        images, labels, converter, batch_size=batch_size, seed=seed, start_step=step
    )


def evaluate(classifier, images, labels):
    return classify(classifier, evaluation_batches_of(images, 32), labels)


def evaluation_batches_of(images, batch_size):
    converter = ALIGNImageConverter(SIDE, central_crop=0.875)
    return evaluation_batches(images, converter, batch_size=batch_size)


def weights_of(encoder):
    return {variable.path: variable.numpy() for variable in encoder.variables}


def changed_names(before, after):
    return {name for name in before if (before[name] != after[name]).any()}


def stage(batches, steps, rate, learns_encoder, multiplier=1.0):
    return FineTuningStage(batches, steps, rate, learns_encoder, multiplier)


def is_statistic(name):
    return "moving_" in name


@pytest.mark.release
def test_a_stage_of_the_head_does_not_change_the_encoder():
    images, labels = stripes(30)
    encoder = small_encoder()
    classifier = ImageClassifier(encoder, 3)
    before = weights_of(encoder)
    fine_tune(classifier, [stage(batches_of(images, labels), 4, 0.1, False)])
    assert changed_names(before, weights_of(encoder)) == set()
    assert (classifier.head.kernel.numpy() != 0).any()


@pytest.mark.parametrize(
    "frozen",
    [
        pytest.param(True, marks=pytest.mark.ci),
        pytest.param(False, marks=pytest.mark.release),
    ],
)
def test_a_stage_of_the_encoder_changes_all_but_frozen_statistics(frozen):
    images, labels = stripes(30)
    encoder = small_encoder(freeze_batch_statistics=frozen)
    classifier = ImageClassifier(encoder, 3)
    batches = batches_of(images, labels)
    fine_tune(classifier, [stage(batches, 2, 0.1, False)])
    before = weights_of(encoder)
    fine_tune(classifier, [stage(batches, 2, 1.0, True)])
    changed = changed_names(before, weights_of(encoder))
    statistics = {name for name in before if is_statistic(name)}
    learned = {name for name in before if "seed" not in name} - statistics
    assert len(statistics) > 4
    assert learned <= changed
    assert statistics & changed == (set() if frozen else statistics)


def test_two_steps_of_the_head_equal_those_of_numpy():
    """Checks the gradient of softmax, the decay of the kernel, and the momentum."""
    images, labels = stripes(30)
    encoder = small_encoder()
    classifier = ImageClassifier(encoder, 3)
    rate, momentum, decay = 0.5, 0.9, 0.01
    pixels = tf.constant(np.stack(images))
    data = tf.data.Dataset.from_tensors((pixels, labels.astype("int32"))).repeat()
    fine_tune(
        classifier,
        [stage(lambda step: data, 2, rate, False)],
        momentum=momentum,
        weight_decay=decay,
    )
    features = encoder(pixels).numpy().astype("float64")
    kernel, bias = np.zeros((features.shape[1], 3)), np.zeros(3)
    velocities = [0.0, 0.0]
    for _ in range(2):
        logits = features @ kernel + bias
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        slopes = (probabilities - np.eye(3)[labels]) / len(labels)
        gradients = features.T @ slopes + decay * kernel, slopes.sum(axis=0)
        velocities = [
            momentum * velocity - rate * gradient
            for velocity, gradient in zip(velocities, gradients, strict=True)
        ]
        kernel, bias = kernel + velocities[0], bias + velocities[1]
    # float32 is compared with float64.
    np.testing.assert_allclose(classifier.head.kernel, kernel, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(classifier.head.bias, bias, rtol=1e-3, atol=1e-6)


@pytest.mark.ci
def test_the_learning_rate_of_the_encoder_is_scaled():
    images, labels = stripes(30)
    updates = {}
    pixels = tf.constant(np.stack(images))
    data = tf.data.Dataset.from_tensors((pixels, labels.astype("int32"))).repeat()
    start = np.random.default_rng(0).normal(size=(FEATURES, 3))
    for multiplier in (1.0, 0.1):
        encoder = small_encoder(freeze_batch_statistics=True)
        classifier = ImageClassifier(encoder, 3)
        classifier.build((None, SIDE, SIDE, 3))
        classifier.head.kernel.assign(start)
        before = weights_of(encoder)
        fine_tune(classifier, [stage(lambda step: data, 1, 1.0, True, multiplier)])
        after = weights_of(encoder)
        name = max(before, key=lambda name: np.abs(after[name] - before[name]).max())
        updates[multiplier] = after[name] - before[name]
        head_update = classifier.head.kernel.numpy() - start
        assert np.abs(head_update).max() > 1e-5
    np.testing.assert_allclose(updates[0.1], 0.1 * updates[1.0], rtol=1e-2, atol=1e-7)


@pytest.mark.ci
@needs("sklearn")
def test_the_head_converges_to_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    images, labels = stripes(60)
    encoder = small_encoder()
    features = encoder(np.stack(images)).numpy()
    scale = float(np.linalg.norm(features, axis=1).mean())
    classifier = ImageClassifier(encoder, 3)
    pixels = tf.constant(np.stack(images))
    data = tf.data.Dataset.from_tensors((pixels, labels.astype("int32"))).repeat()
    decay = 0.3 * scale**2
    fine_tune(
        classifier,
        [stage(lambda step: data, 300, 0.1 / scale**2, False)],
        weight_decay=decay,
    )
    # scikit-learn minimizes the sum of losses + ‖w‖² / 2C, and SGD their mean +
    # decay/2 ‖w‖².
    reference = LogisticRegression(
        C=1 / (decay * len(labels)), max_iter=10_000, tol=1e-8
    )
    reference.fit(features, labels)
    probabilities = tf.nn.softmax(classifier(pixels)).numpy()
    np.testing.assert_allclose(
        probabilities, reference.predict_proba(features), atol=0.02
    )


@pytest.mark.release
def test_fine_tuning_learns_the_classes_of_stripes():
    images, labels = stripes(90)
    test_images, test_labels = stripes(60, seed=1)
    encoder = small_encoder()
    classifier = ImageClassifier(encoder, 3)
    batches = batches_of(images, labels)
    stages = [stage(batches, 5, 0.1, False), stage(batches, 40, 0.1, True)]
    fine_tune(classifier, stages)
    result = evaluate(classifier, test_images, test_labels)
    # Chance is a third.
    assert np.mean(result.ranks == 0) > 0.9
    assert np.mean(result.ranks == 0) == np.mean(result.predictions == test_labels)


def updated_weights(
    strategy=None, encoder=None, micro_batch_size=None, **encoder_arguments
):
    """Returns the weights after two steps of all layers on 24 images."""
    images, labels = stripes(24)
    pixels = tf.constant(np.stack(images))
    data = tf.data.Dataset.from_tensors((pixels, labels.astype("int32"))).repeat()
    start = encoder or small_encoder(freeze_batch_statistics=True)
    with strategy_scope(strategy):
        copy = ImageEncoder.from_config({**start.get_config(), **encoder_arguments})
        copy.set_weights(start.get_weights())
        classifier = ImageClassifier(copy, 3, micro_batch_size=micro_batch_size)
        classifier.build((None, SIDE, SIDE, 3))
    classifier.head.kernel.assign(
        np.random.default_rng(0).normal(size=(FEATURES, 3)) / 9
    )
    fine_tune(classifier, [stage(lambda step: data, 2, 0.01, True, 0.5)])
    return {v.path: v.numpy() for v in classifier.variables if "seed" not in v.path}


def assert_same_update(actual_weights, expected_weights, tolerance, start=None):
    """Compares the weights with a tolerance relative to the update of each variable."""
    start = weights_of(start or calibrated_encoder())
    largest_update = 0.0
    for name, expected in expected_weights.items():
        update = np.abs(expected - start.get(name, 0)).max()
        largest_update = max(update, largest_update)
        # If a normalization cancels the effect of a variable, its gradient consists of
        # rounding errors.
        np.testing.assert_allclose(
            actual_weights[name],
            expected,
            rtol=0,
            atol=tolerance * update + 1e-7,
            err_msg=name,
        )
    assert largest_update > 1e-3


@pytest.mark.ci
def test_micro_batches_of_rematerialized_blocks_make_the_same_update():
    """With frozen statistics, the gradient of an image doesn't depend on the others."""
    weights = updated_weights(micro_batch_size=6, rematerialize=True)
    # The means of 24 images are summed in another order in float32, over two steps.
    assert_same_update(weights, updated_weights(), 1e-3)


# Replicas wait for each other at each sum, which may take long on a busy machine.
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "micro_batch_size",
    [
        pytest.param(None, marks=pytest.mark.release),
        pytest.param(4, marks=pytest.mark.ci),
    ],
)
def test_replicas_make_the_same_update(two_replicas, micro_batch_size):
    weights = updated_weights(two_replicas, micro_batch_size=micro_batch_size)
    assert_same_update(weights, updated_weights(), 1e-3)


@pytest.mark.release
def test_a_step_compiled_by_xla_makes_the_same_update():
    """TPUs compile the same graph with XLA. The step has micro-batches."""
    images, labels = stripes(24)
    data = tf.data.Dataset.from_tensors((np.stack(images), labels.astype("int32")))
    kernels = []
    for compiled in (False, True):
        encoder = small_encoder(freeze_batch_statistics=True)
        classifier = ImageClassifier(encoder, 3, micro_batch_size=8)
        classifier.compile(
            keras.optimizers.SGD(0.1),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=compiled,
        )
        history = classifier.fit(data.repeat(2), verbose=0).history
        assert history["accuracy"][0] >= 1 / 6 and history["loss"][0] > 0
        kernels.append(classifier.head.kernel.numpy())
    np.testing.assert_allclose(*kernels, rtol=1e-3, atol=1e-4)


@pytest.mark.ci
def test_micro_batches_update_weights_and_statistics_like_ghost_batches():
    # The encoder has smooth activations. With ReLU6, rounding may move a unit to the
    # other side of a kink, which is noticeable in 6 images.
    smooth = {**SMALL, "lite": False, "drop_connect_rate": 0.0}
    encoder = ImageEncoder(**smooth)
    expected = updated_weights(encoder=encoder, virtual_batch_size=6)
    actual = updated_weights(encoder=encoder, micro_batch_size=6)
    # Another kernel normalizes the 6 images in float32.
    assert_same_update(actual, expected, 1e-2, encoder)


def test_hosts_share_the_rows_of_a_batch():
    def make_batches(start_step):
        images, labels = np.arange(12.0).reshape(6, 2), np.arange(6)
        return tf.data.Dataset.from_tensor_slices((images, labels)).batch(4).repeat()

    global_batch = next(rows_of_host(make_batches, 0).as_numpy_iterator())
    parts = [
        next(rows_of_host(make_batches, 0, number, 2).as_numpy_iterator())
        for number in range(2)
    ]
    for values, *host_values in zip(global_batch, *parts, strict=True):
        assert len(host_values[0]) == 2
        np.testing.assert_array_equal(np.concatenate(host_values), values)


def test_micro_batches_must_divide_a_batch():
    with pytest.raises(InputError, match="micro_batch_size"):
        updated_weights(micro_batch_size=7)


@pytest.mark.ci
def test_replicas_classify_like_one_device(two_replicas):
    """The batches have three images and one image, which can't be divided equally."""
    images, labels = stripes(7, seed=1)
    head = np.random.default_rng(0).normal(size=(FEATURES, 3))
    results = []
    for strategy in (None, two_replicas):
        with strategy_scope(strategy):
            classifier = ImageClassifier(small_encoder(), 3)
            classifier.build((None, SIDE, SIDE, 3))
        classifier.head.kernel.assign(head)
        batches = evaluation_batches_of(images, 3)
        results.append(classify(classifier, batches, labels))
    expected, actual = results
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(actual, name), values)


def fixed_classifier(logits):
    """Returns a classifier whose logits are a row of a table.

    The first pixel of an image is the number of its row.
    """
    table = tf.constant(logits, tf.float32)
    return lambda images, training: tf.gather(
        table, tf.cast(images[:, 0, 0, 0], tf.int32)
    )


def test_ranks_count_ties_and_nan_against_the_correct_class():
    logits = [
        [3.0, 1.0, 2.0],  # The correct class is first.
        [1.0, 2.0, 3.0],  # The correct class is second.
        [2.0, 2.0, 1.0],  # A wrong class has the same score, so the rank is 1.
        [0.0, 0.0, 0.0],  # Two wrong classes have the same score.
        [np.nan] * 3,
        [np.nan, 5.0, 1.0],
    ]
    labels = np.array([0, 1, 0, 2, 1, 1])
    images = np.arange(6, dtype="uint8")[:, None, None, None]
    batches = tf.data.Dataset.from_tensor_slices((range(6), images)).batch(4)
    result = classify(fixed_classifier(logits), batches, labels)
    np.testing.assert_array_equal(result.ranks, [0, 1, 1, 2, 2, 1])
    np.testing.assert_array_equal(result.rows, range(6))
    assert result.predictions[:3].tolist() == [0, 2, 1]
    # A prediction is correct exactly if the rank is 0.
    np.testing.assert_array_equal(result.predictions == labels, result.ranks == 0)
    assert np.mean(result.ranks == 0) == pytest.approx(1 / 6)


@pytest.mark.ci
def test_a_nan_loss_ends_the_stage():
    images, labels = stripes(30)
    classifier = ImageClassifier(small_encoder(), 3)
    classifier.build((None, SIDE, SIDE, 3))
    classifier.head.bias.assign([np.nan] * 3)
    data = tf.data.Dataset.from_tensors((np.stack(images), labels.astype("int32")))
    fine_tune(classifier, [stage(lambda step: data.repeat(), 50, 0.1, False)])
    assert int(classifier.optimizer.iterations) < 5
    assert evaluate(classifier, images, labels).ranks.all()


class Killed(Exception):
    pass


def bar_that_kills(step):
    """Returns a progress bar that raises `Killed` at a step."""

    class Bar:
        steps = 0

        def advance(self, count, note=""):
            self.steps += bool(note)
            if self.steps == step:
                raise Killed

    return Bar()


@pytest.mark.release
@pytest.mark.parametrize("kill, newest", [(5, "stage-0/ckpt-4"), (9, "stage-1/ckpt-2")])
def test_a_resumed_training_ends_with_the_same_weights(tmp_path, kill, newest):
    images, labels = stripes(30)
    batches = batches_of(images, labels, batch_size=7, crop="inception", seed=4)
    stages = [stage(batches, 6, 0.1, False), stage(batches, 4, 0.05, True)]

    def train(bar, directory):
        classifier = ImageClassifier(small_encoder(), 3)
        options = {"directory": directory, "checkpoint_interval": 2}
        fine_tune(classifier, stages, bar=bar, **options)
        return classifier

    def names():
        return [str(path) for path in sorted(tmp_path.glob("*/*.index"))]

    uninterrupted = train(None, None)
    with pytest.raises(Killed):
        train(bar_that_kills(kill), tmp_path)
    assert names()[-1] == str(tmp_path / f"{newest}.index")
    resumed = train(None, tmp_path)
    for actual, expected in zip(
        resumed.variables, uninterrupted.variables, strict=True
    ):
        # The step was traced again, so float32 may be summed in another order.
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    last_checkpoints = ("stage-0/ckpt-6.index", "stage-1/ckpt-4.index")
    assert names() == [str(tmp_path / name) for name in last_checkpoints]


@pytest.mark.release
def test_the_same_seed_results_in_the_same_weights():
    images, labels = stripes(30)
    kernels = []
    for _ in range(2):
        classifier = ImageClassifier(small_encoder(), 3)
        batches = batches_of(images, labels, crop="inception", flip=True, seed=4)
        fine_tune(classifier, [stage(batches, 3, 0.1, False)])
        kernels.append(classifier.head.kernel.numpy())
    np.testing.assert_array_equal(*kernels)
