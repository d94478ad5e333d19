"""Zero-shot classification with prompt templates."""

import numpy as np
import pytest

from align_keras.evaluation import (
    class_embeddings,
    classification_metrics,
    zero_shot_classification,
)
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import needs
from tests.helpers.recorded_oracles import recorded

CLASSES = ["cat", "dog", "red fox", "owl", "newt", "eel", "bee"]
TEMPLATES = ["{}", "an image of {}", "{} in the {{rain}}"]


def encode_texts(texts):
    """Returns random unit vectors that depend only on the text."""
    seeds = [[ord(letter) for letter in text] for text in texts]
    rows = np.array([np.random.default_rng(seed).normal(size=8) for seed in seeds])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def noisy_images(count=200, noise=0.6, seed=0):
    """Returns image embeddings near the embeddings of their classes, and the labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(CLASSES), count)
    rows = class_embeddings(encode_texts, CLASSES, TEMPLATES)[labels]
    rows = rows + random.normal(0, noise, rows.shape)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), labels


@pytest.fixture(scope="module")
def recorded_case():
    """Recorded inputs and results of clip_benchmark, and its prompts."""
    [(question, answer)] = recorded("zero_shot")
    table = dict(zip(question["texts"], question["embeddings"], strict=True))
    encode = lambda texts: np.stack([table[text] for text in texts])  # noqa: E731
    names = question["class_names"].tolist()
    # clip_benchmark uses str.format with the field {c}.
    templates = [
        template.replace("{c}", "{}").replace("{{", "{").replace("}}", "}")
        for template in question["templates"].tolist()
    ]
    return question, answer, (encode, names, templates)


def test_class_embeddings_equal_those_of_clip_benchmark(recorded_case):
    _, answer, prompts = recorded_case
    np.testing.assert_allclose(
        class_embeddings(*prompts), answer["classes"], atol=1e-12
    )


def test_accuracies_equal_those_of_clip_benchmark(recorded_case):
    question, answer, (encode, names, templates) = recorded_case
    images, labels = question["images"], question["labels"]
    classes = class_embeddings(encode, names, templates)
    classification = zero_shot_classification(images, classes, labels)
    metrics = dict(
        classification_metrics("zero_shot", classification, labels, len(classes))
    )
    top_1, top_5 = answer["accuracies"]
    assert metrics["zero_shot/top_1"] == pytest.approx(top_1, abs=1e-9)
    assert metrics["zero_shot/top_5"] == pytest.approx(top_5, abs=1e-9)
    predictions = (images @ answer["classes"].T).argmax(1)
    class_accuracies = [
        np.mean(predictions[labels == label] == label) for label in range(7)
    ]
    assert metrics["zero_shot/mean_per_class"] == pytest.approx(
        np.mean(class_accuracies)
    )
    # Accuracies of 0 or 1 would not distinguish metrics.
    assert 0.3 < top_1 < 0.95 and top_5 < 1


@pytest.mark.ci
@needs("sklearn")
def test_mean_per_class_equals_the_balanced_accuracy_of_scikit_learn(recorded_case):
    from sklearn.metrics import balanced_accuracy_score

    question, answer, _ = recorded_case
    labels = question["labels"]
    classification = zero_shot_classification(
        question["images"], answer["classes"], labels
    )
    metrics = dict(classification_metrics("x", classification, labels, 7))
    assert metrics["x/mean_per_class"] == pytest.approx(
        balanced_accuracy_score(labels, classification.predictions), abs=1e-12
    )


def test_prompts_are_normalized_before_and_after_the_mean():
    vectors = {"a x": [1.0, 0.0], "b x": [0.0, 3.0]}
    embeddings = class_embeddings(
        lambda texts: np.array([vectors[text] for text in texts]),
        ["x"],
        ["a {}", "b {}"],
    )
    np.testing.assert_allclose(embeddings, [[0.5**0.5, 0.5**0.5]])


@pytest.mark.parametrize("block_size", [1, 3, 50, 4096])
def test_the_classification_does_not_depend_on_the_block_size(block_size):
    images, labels = noisy_images(60)
    classes = class_embeddings(encode_texts, CLASSES, TEMPLATES)
    classification = zero_shot_classification(images, classes, labels, block_size)
    expected = zero_shot_classification(images, classes, labels)
    np.testing.assert_array_equal(classification.ranks, expected.ranks)
    np.testing.assert_array_equal(classification.predictions, expected.predictions)


def test_a_wrong_class_is_predicted_in_a_tie():
    classes = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    images = np.array([[1.0, 0.0]] * 3)
    classification = zero_shot_classification(images, classes, [0, 1, 2])
    assert classification.ranks.tolist() == [1, 1, 2]
    assert classification.predictions.tolist() == [1, 0, 0]


@pytest.mark.parametrize("embeddings", [np.zeros((4, 2)), np.ones((4, 2))])
def test_a_collapsed_model_never_predicts_the_correct_class(embeddings):
    labels = [0, 1, 2, 0]
    classification = zero_shot_classification(embeddings, np.ones((3, 2)), labels)
    assert classification.ranks.tolist() == [2] * 4
    assert (classification.predictions != labels).all()


def test_a_single_class_is_always_correct():
    classification = zero_shot_classification(np.eye(2), np.ones((1, 2)), [0, 0])
    assert classification.ranks.tolist() == [0, 0]
    assert classification.predictions.tolist() == [0, 0]


def test_invalid_arguments_are_refused():
    with pytest.raises(InputError, match="templates"):
        class_embeddings(encode_texts, ["a", "b"], ["{}", "no"])
    for labels in ([0, 3], [-1, 0], [[1, 0], [0, 1]]):
        with pytest.raises(InputError, match="labels"):
            zero_shot_classification(np.eye(2), np.eye(2), labels)
