"""Tests of the training doctor. Each finding is provoked by a short training."""

import inspect
import math
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.losses import ContrastiveLoss, MatryoshkaLoss, SigmoidLoss
from align_keras.models import ALIGN, TextEncoder
from align_keras.optimizers import AdamW
from align_keras.training import TrainingDoctor
from align_keras.training.checks import inputs, learning, training_pairs
from align_keras.training.doctor import read_findings
from align_keras.training.strategies import strategy_scope
from tests.helpers.small import small_encoders
from tests.helpers.small_run import COLORS, SHAPES, draw

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", *COLORS, *SHAPES]
IMAGES = np.stack(
    [np.asarray(draw(color, shape)) for color in COLORS for shape in SHAPES]
)
CAPTIONS = [f"a {color} {shape}" for color in COLORS for shape in SHAPES]
BATCH_SIZE = 20
# On a busy machine, the input of each training may be slower than its steps.
IGNORED = ("slow_input",)


def build_model(**arguments):
    """Returns a small ALIGN with the same initial weights at each call."""
    keras.utils.set_random_seed(0)
    image_encoder, _ = small_encoders(num_stages=1, batch_norm_momentum=0.9)
    text_encoder = TextEncoder(
        vocabulary_size=len(WORDS),
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        projection_dim=16,
        sequence_length=8,
        dropout=0.0,
    )
    arguments = {"vocabulary": WORDS, "initial_temperature": 0.1, **arguments}
    return ALIGN.from_encoders(image_encoder, text_encoder, **arguments)


class Trainings:
    """Trainings of one model, whose step is traced only once.

    Args:
        model: compiled `ALIGN` with its initial weights.
    """

    def __init__(self, model):
        self.model = model
        model.build_optimizer()
        variables = [*model.variables, *model.optimizer.variables]
        self.initial = [(variable, variable.numpy()) for variable in variables]

    def restart(self, learning_rate, temperature=0.1):
        """Restores the initial weights."""
        for variable, value in self.initial:
            variable.assign(value)
        self.model.temperature_layer.log_temperature.assign(math.log(temperature))
        self.set_learning_rate(learning_rate)

    def set_learning_rate(self, learning_rate):
        self.model.optimizer.learning_rate = learning_rate

    def fit(
        self, steps=110, x=None, y=None, callbacks=(), ignored=IGNORED, **arguments
    ):
        """Trains for some steps and returns the findings by name."""
        doctor = TrainingDoctor(verbose=0)
        self.model.fit(
            self.batches() if x is None else x,
            y,
            batch_size=BATCH_SIZE,
            steps_per_epoch=steps,
            verbose=0,
            callbacks=[doctor, *callbacks],
            **arguments,
        )
        return {
            finding.name: finding
            for finding in doctor.findings
            if finding.name not in ignored
        }

    def batches(self, is_mixed=False):
        """Returns endless batches. Mixed captions are those of other images."""
        inputs = self.model.preprocessor(IMAGES, y=CAPTIONS)
        pixels = tf.cast(inputs.pop("images"), "uint8")
        images = tf.data.Dataset.from_tensor_slices(pixels).shuffle(40, seed=1)
        captions = tf.data.Dataset.from_tensor_slices(inputs)
        captions = captions.shuffle(40, seed=2 if is_mixed else 1)
        # The batches have the dtypes and shapes of those of raw pairs, so that the step
        # isn't traced again.
        images = images.repeat().batch(BATCH_SIZE, drop_remainder=True)
        pairs = tf.data.Dataset.zip((images, captions.repeat().batch(BATCH_SIZE)))
        return pairs.map(lambda images, captions: {"images": images, **captions})


def trainings(loss=None, model=None, **arguments):
    model = model or build_model()
    model.compile(AdamW(1e-3), loss, **arguments)
    return Trainings(model)


@pytest.fixture(scope="module")
def contrastive():
    return trainings()


# === Learning ===


@pytest.mark.ci
def test_a_training_that_works_has_no_findings_until_its_learning_rate_is_raised(
    contrastive,
):
    contrastive.restart(1e-2)
    assert not contrastive.fit()
    # Larger steps destroy the trained weights.
    contrastive.set_learning_rate(0.5)
    assert list(contrastive.fit()) == ["learning_rate_too_high"]


@pytest.mark.ci
def test_captions_of_other_images_leave_the_loss_at_chance(contrastive):
    contrastive.restart(1e-3)
    findings = contrastive.fit(x=contrastive.batches(is_mixed=True))
    # The encoders learn nothing, so their embeddings may coincide too.
    assert next(iter(findings)) == "loss_at_chance"
    details = findings["loss_at_chance"].details
    assert details["pairs"] == BATCH_SIZE
    assert details["chance_loss"] == pytest.approx(2 * math.log(BATCH_SIZE))


@pytest.mark.ci
def test_a_training_of_fifty_steps_that_learned_nothing_gets_a_hint(contrastive):
    contrastive.restart(1e-7)
    assert not contrastive.fit(steps=40)
    assert list(contrastive.fit(steps=50)) == ["too_few_steps"]


@pytest.mark.release
def test_a_low_learning_rate_is_recognized_by_its_steady_decrease(contrastive):
    contrastive.restart(1e-5)
    assert list(contrastive.fit()) == ["learning_rate_too_low"]


@pytest.mark.release
def test_a_temperature_that_limits_the_loss_is_reported(contrastive):
    contrastive.restart(1e-4, temperature=1.0)
    findings = contrastive.fit()
    assert list(findings) == ["temperature_at_bound"]


@pytest.mark.release
def test_extreme_learning_rates_and_temperatures_are_reported(contrastive):
    contrastive.restart(1e-6)
    assert next(iter(contrastive.fit())) == "loss_at_chance"
    contrastive.restart(1.0)
    assert list(contrastive.fit()) == ["learning_rate_too_high"]
    contrastive.restart(1e-4, temperature=0.004)
    findings = contrastive.fit()
    assert list(findings) == ["temperature_at_bound"]
    assert "bound of CLIP" in findings["temperature_at_bound"].problem


@pytest.mark.release
def test_a_loss_without_negatives_collapses_the_embeddings():
    def distance(images, texts, temperature):
        return 1.0 - tf.matmul(images, texts, transpose_b=True)

    collapsing = trainings(distance)
    collapsing.set_learning_rate(1e-2)
    findings = collapsing.fit()
    assert list(findings) == ["embeddings_collapsed"]
    assert "loss with negatives" in findings["embeddings_collapsed"].remedy


@pytest.mark.release
def test_an_encoder_without_gradient_is_reported_unless_it_is_frozen():
    def one_sided(images, texts, temperature):
        scores = tf.matmul(images, tf.stop_gradient(texts), transpose_b=True) / 0.1
        return tf.reduce_logsumexp(scores, axis=1) - tf.linalg.diag_part(scores)

    model = build_model()
    model.image_encoder.set_training("projection")
    findings = trainings(one_sided, model).fit(12)
    assert list(findings) == ["no_gradient"]
    assert "text encoder" in findings["no_gradient"].problem
    model.text_encoder.set_training("frozen")
    # Micro-batches compute the gradients in another function.
    assert not trainings(one_sided, model, micro_batch_size=10).fit(12)


@pytest.mark.release
@pytest.mark.parametrize("mode", ["projection", "last_blocks", "lora", "full"])
def test_partial_training_has_no_findings(mode):
    model = build_model()
    model.image_encoder.set_training(mode, blocks=1, rank=2)
    model.text_encoder.set_training("frozen" if mode == "full" else mode, blocks=1)
    partial = trainings(model=model)
    partial.set_learning_rate(1e-2)
    assert not partial.fit(40)


@pytest.mark.release
@pytest.mark.parametrize(
    "loss",
    [
        SigmoidLoss(),
        MatryoshkaLoss(ContrastiveLoss(), [8, 16]),
        MatryoshkaLoss(SigmoidLoss(), [8, 16], [0.5, 1.0]),
    ],
    ids=["sigmoid", "widths", "sigmoid_widths"],
)
def test_other_losses_are_compared_with_their_random_guess(loss):
    training = trainings(loss)
    training.restart(1e-2)
    assert not training.fit()
    training.restart(1e-3)
    findings = training.fit(x=training.batches(is_mixed=True))
    assert next(iter(findings)) == "loss_at_chance"
    chance = learning.chance_loss(loss, BATCH_SIZE)
    assert findings["loss_at_chance"].details["chance_loss"] == chance
    training.restart(1e-4, temperature=1.0)
    assert list(training.fit()) == ["temperature_at_bound"]


# Replicas wait for each other at each sum, which may take long on a busy machine.
@pytest.mark.release
@pytest.mark.timeout(900)
def test_findings_on_two_replicas_are_those_of_the_whole_batch(two_replicas):
    with strategy_scope(two_replicas):
        training = trainings()
        training.restart(1e-3)
        findings = training.fit(x=training.batches(is_mixed=True))
        assert next(iter(findings)) == "loss_at_chance"
        # The pairs of both replicas are negatives of each other.
        assert findings["loss_at_chance"].details["pairs"] == BATCH_SIZE


# === Inputs ===


@pytest.mark.ci
def test_findings_in_the_inputs_of_a_batch(contrastive):
    captions = [f"ein {'x' * number}" for number in range(1, 41)]
    assert "unknown_tokens" in contrastive.fit(1, IMAGES, captions)
    # Pixels in [0, 1] are nearly black.
    assert list(contrastive.fit(1, IMAGES // 255, CAPTIONS)) == ["images_alike"]


@pytest.mark.release
def test_a_wrong_value_range_makes_the_images_alike(contrastive):
    scaled = IMAGES.astype("float32") / 255
    findings = contrastive.fit(1, scaled, CAPTIONS, value_range=(0.0, 255.0))
    assert list(findings) == ["images_alike"]
    assert not contrastive.fit(1, scaled, CAPTIONS, value_range=(0.0, 1.0))


@pytest.mark.release
def test_validation_images_in_the_training_pairs_are_reported(contrastive):
    images, captions = np.concatenate([IMAGES] * 2), CAPTIONS * 2
    findings = contrastive.fit(1, images, captions, validation_split=0.5)
    assert list(findings) == ["shared_images"]
    assert findings["shared_images"].details["shared_images"] == 40
    assert not contrastive.fit(1, IMAGES, CAPTIONS, validation_split=0.5)


@pytest.mark.ci
def test_an_input_that_is_slower_than_the_step(contrastive):
    ended_steps = threading.Semaphore(1)

    def slow_batches():
        for batch in contrastive.batches().take(10):
            # A batch that was prefetched while the step is traced wouldn't be slow.
            ended_steps.acquire()
            time.sleep(0.2)
            yield batch

    class StepEnd(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            ended_steps.release()

    signature = contrastive.batches().element_spec
    slow = tf.data.Dataset.from_generator(slow_batches, output_signature=signature)
    findings = contrastive.fit(10, slow, callbacks=[StepEnd()], ignored=())
    assert list(findings) == ["slow_input"]


@pytest.mark.release
def test_the_doctor_prints_findings_such_as_too_few_pairs(
    contrastive, capsys, monkeypatch
):
    # The small model would need less than one pair for this finding.
    monkeypatch.setattr(training_pairs, "MAX_WEIGHTS_PER_PAIR", 100)
    model = contrastive.model
    pairs = (IMAGES[:20], CAPTIONS[:20])
    model.fit(*pairs, batch_size=BATCH_SIZE, callbacks=TrainingDoctor(), verbose=0)
    err = capsys.readouterr().err
    weights = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert err.count("training problem: The training changes") == 1
    assert f"{weights:,} weights" in err and "only 20 pairs" in err
    doctor = TrainingDoctor(verbose=0)
    model.fit(*pairs, batch_size=BATCH_SIZE, callbacks=doctor, verbose=0)
    assert [finding.name for finding in doctor.findings] == ["few_pairs"]
    assert "training problem" not in capsys.readouterr().err


@pytest.mark.release
def test_few_pairs_for_the_weights_of_a_preset(capsys):
    model = ALIGN.from_preset("align_nano", vocabulary=WORDS, image_size=32)
    model.compile(AdamW(1e-3))
    model.fit(IMAGES[:8], CAPTIONS[:8], batch_size=4, callbacks=TrainingDoctor())
    assert "only 8 pairs" in capsys.readouterr().err
    # LoRA trains few weights.
    model.enable_lora(1)
    model.compile(AdamW(1e-3))
    model.fit(IMAGES[:20], CAPTIONS[:20], batch_size=20, callbacks=TrainingDoctor())
    assert "training problem" not in capsys.readouterr().err


# === Checks of values ===


def example_findings():
    """Returns the findings of values that each check reports."""
    chance = 2 * math.log(64)
    slow = np.linspace(8.30, 8.05, 60)
    lost = np.concatenate([np.linspace(8.5, 6.1, 30), np.full(10, 6.1)])
    lost = np.concatenate([lost, np.full(20, 8.3)])
    corner = np.ones((32, 8))
    corner[:, 1:] = np.random.default_rng(0).normal(size=(32, 7)) * 0.0169
    dark = np.random.default_rng(0).uniform(0.25, 0.95, (32, 8, 8, 3))
    both = ("image", "text")
    tokens = np.array([[2, 1, 1, 1, 1, 1, 5, 3, 0]] * 4)
    return [
        learning.check_loss_at_chance(8.29, chance, 64, 600, 1e-3),
        learning.check_too_few_steps(8.29, chance, 64, 50),
        learning.check_rate_too_low(slow, chance, 600, 1e-6),
        learning.check_rate_too_high(lost, 8.6, chance, 600, 0.1),
        learning.check_rate_too_high([chance] * 60, 8.9, chance, 600, 0.1),
        learning.check_collapse(corner, corner, True, 600),
        learning.check_collapse(corner, corner, False, 600),
        learning.check_gradients({"image": 1.0, "text": 0.0}, 1.0, both, 600),
        learning.check_gradients({"image": 0.0, "text": 0.0}, 0.0, both, 600),
        learning.check_temperature(0.004, 0.1, 600),
        learning.check_temperature(1.0, 1.0, 600),
        learning.check_temperature(1.0, 0.1, 600),
        inputs.check_images(dark, 1),
        inputs.check_unknown_tokens(tokens, 1, (0, 2, 3, 4), 1),
        inputs.check_wait(6.4, 10.0, 100),
        training_pairs.check_shared_images(32, 160),
        training_pairs.check_pair_count(300, 29_739_289),
    ]


def test_each_check_has_a_finding():
    modules = (inputs, learning, training_pairs)
    names = {
        name
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if name.startswith("check_")
    }
    assert len({finding.name for finding in example_findings()}) == len(names)


def test_values_of_a_training_that_works_cause_no_finding():
    chance = 2 * math.log(64)
    random = np.random.default_rng(0)
    # The loss starts above that of a random guess, falls fast and then slowly.
    good = 1.5 + 8 * np.exp(-np.arange(60) / 15) + random.normal(size=60) * 0.1
    assert not learning.check_rate_too_low(good, chance, 600, 1e-3)
    assert not learning.check_rate_too_high(good, 9.5, chance, 600, 1e-3)
    # Pretrained weights, whose first batch is easier than the others.
    tuned = 2.5 + random.normal(size=60) * 0.1
    assert not learning.check_rate_too_high(tuned, 1.8, chance, 600, 1e-3)
    assert not learning.check_loss_at_chance(5.0, chance, 64, 600, 1e-3)
    # The temperatures of the paper, its ablations and SigLIP.
    for temperature in (1 / 32, 1 / 64, 1 / 128, 0.0085, 0.1):
        assert not learning.check_temperature(temperature, 1.0, 600)
    norms = {"image": 0.01, "text": 3.0}
    assert not learning.check_gradients(norms, 3.0, ("image", "text"), 600)
    frozen = {"image": 0.0, "text": 3.0}
    assert not learning.check_gradients(frozen, 3.0, ("text",), 600)
    rows = random.normal(size=(32, 8))
    assert not learning.check_collapse(rows, rows, True, 600)
    assert not inputs.check_images(IMAGES, 1)
    assert not inputs.check_wait(0.9, 1.0, 100)
    assert not inputs.check_wait(4.0, 10.0, 100)


@pytest.mark.parametrize(
    "loss",
    [
        ContrastiveLoss(),
        ContrastiveLoss(reduction="mean", negatives_fraction=0.5),
        # The logit of the probability 1 / 8.
        SigmoidLoss(bias=-math.log(7)),
        MatryoshkaLoss(ContrastiveLoss(), [2, 4], [0.5, 1.0]),
    ],
)
def test_the_loss_of_equal_logits_is_that_of_a_random_guess(loss):
    # At a high temperature, the logits are those of a random guess.
    rows = tf.linalg.l2_normalize(tf.ones((8, 4)), axis=1)
    assert learning.chance_loss(loss, 8) == pytest.approx(
        float(loss(rows, rows, 1e6)), rel=1e-5
    )


def test_spoiled_pretrained_weights_are_recognized_by_their_first_loss():
    chance = 2 * math.log(64)
    spoiled = np.linspace(8.0, 7.5, 60)
    finding = learning.check_rate_too_high(spoiled, 2.0, chance, 600, 1e-2)
    assert "2.00 to 7.5" in finding.problem


def test_mean_cosines_equal_a_direct_calculation():
    random = np.random.default_rng(0)
    rows = random.normal(size=(6, 4))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[~np.eye(6, dtype=bool)]
    assert learning.mean_cosine(rows) == pytest.approx(cosines.mean())


def test_findings_are_stored_and_read(tmp_path, capsys):
    doctor = TrainingDoctor(path=tmp_path / "findings.json")
    finding = training_pairs.check_shared_images(3, 10)
    doctor.add(finding)
    doctor.add(finding)
    assert capsys.readouterr().err.count("training problem: 3 of the 10") == 1
    assert read_findings(tmp_path / "findings.json") == [finding]
    assert read_findings(tmp_path / "absent.json") is None


def test_images_in_both_parts_are_counted(tmp_path):
    paths = [str(tmp_path / f"{name}.png") for name in "abc"]
    assert training_pairs.count_shared_images(paths, [*paths[1:], "d.png"]) == (2, 3)
    encoded = [b"one", b"two"]
    assert training_pairs.count_shared_images(encoded, encoded[:1]) == (1, 1)
    assert training_pairs.count_shared_images(IMAGES[:5], IMAGES[4:6]) == (1, 2)
    assert training_pairs.count_shared_images(iter(paths), paths) is None


def test_copies_of_image_files_are_counted(tmp_path):
    contents = {"a": b"one", "b": b"two", "copy": b"one", "other": b"six"}
    paths = {name: tmp_path / f"{name}.png" for name in contents}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    train = [paths["a"], paths["a"], paths["b"], tmp_path]
    validation = [paths["copy"], paths["b"], paths["other"], tmp_path / "absent.png"]
    assert training_pairs.count_shared_images(train, validation) == (2, 4)
