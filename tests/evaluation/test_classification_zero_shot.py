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
TEMPLATES = ["{}", "a picture of {}", "{} in the {{rain}}"]


def encode_texts(texts):
    """Unit vectors that depend on the text alone."""
    seeds = [[ord(letter) for letter in text] for text in texts]
    rows = np.array([np.random.default_rng(seed).normal(size=8) for seed in seeds])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def noisy_pictures(count=200, noise=0.6, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(CLASSES), count)
    rows = class_embeddings(encode_texts, CLASSES, TEMPLATES)[labels]
    rows = rows + random.normal(0, noise, rows.shape)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), labels


@pytest.fixture(scope="module")
def recorded_case():
    """Questions to clip_benchmark and its answers, and a table of its prompts."""
    [(question, answer)] = recorded("zero_shot")
    table = dict(zip(question["texts"], question["embeddings"], strict=True))
    encode = lambda texts: np.stack([table[text] for text in texts])  # noqa: E731
    names = question["class_names"].tolist()
    # Its templates are filled in by str.format.
    templates = [
        own.replace("{c}", "{}").replace("{{", "{").replace("}}", "}")
        for own in question["templates"].tolist()
    ]
    return question, answer, (encode, names, templates)


def test_class_embeddings_are_those_of_clip_benchmark(recorded_case):
    _, answer, prompts = recorded_case
    np.testing.assert_allclose(
        class_embeddings(*prompts), answer["classes"], atol=1e-12
    )


def test_accuracies_are_those_of_clip_benchmark(recorded_case):
    question, answer, (encode, names, templates) = recorded_case
    images, labels = question["images"], question["labels"]
    classes = class_embeddings(encode, names, templates)
    found = zero_shot_classification(images, classes, labels)
    metrics = dict(classification_metrics("zero_shot", found, labels, len(classes)))
    top_1, top_5 = answer["accuracies"]
    assert metrics["zero_shot/top_1"] == pytest.approx(top_1, abs=1e-9)
    assert metrics["zero_shot/top_5"] == pytest.approx(top_5, abs=1e-9)
    predictions = (images @ answer["classes"].T).argmax(1)
    # As scikit-learn defines its balanced accuracy.
    of_classes = [np.mean(predictions[labels == own] == own) for own in range(7)]
    assert metrics["zero_shot/mean_per_class"] == pytest.approx(np.mean(of_classes))
    assert 0.3 < top_1 < 0.95 and top_5 < 1  # The test would see a difference.


@pytest.mark.ci
@needs("sklearn")
def test_mean_per_class_is_scikit_learns_balanced_accuracy(recorded_case):
    from sklearn.metrics import balanced_accuracy_score

    question, answer, _ = recorded_case
    found = zero_shot_classification(
        question["images"], answer["classes"], question["labels"]
    )
    metrics = dict(classification_metrics("x", found, question["labels"], 7))
    assert metrics["x/mean_per_class"] == pytest.approx(
        balanced_accuracy_score(question["labels"], found.predictions), abs=1e-12
    )


def test_the_mean_is_of_embeddings_and_then_of_unit_length():
    vectors = {"a x": [1.0, 0.0], "b x": [0.0, 3.0]}
    found = class_embeddings(
        lambda texts: np.array([vectors[text] for text in texts]),
        ["x"],
        ["a {}", "b {}"],
    )
    # Each prompt has unit length first: a long one doesn't count for more.
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5]])


@pytest.mark.parametrize("block_size", [1, 3, 50, 4096])
def test_does_not_depend_on_the_block_size(block_size):
    images, labels = noisy_pictures(60)
    classes = class_embeddings(encode_texts, CLASSES, TEMPLATES)
    found = zero_shot_classification(images, classes, labels, block_size)
    expected = zero_shot_classification(images, classes, labels)
    np.testing.assert_array_equal(found.ranks, expected.ranks)
    np.testing.assert_array_equal(found.predictions, expected.predictions)


def test_ties_count_as_wrong_and_the_prediction_says_so():
    classes = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = zero_shot_classification(np.array([[1.0, 0.0]] * 3), classes, [0, 1, 2])
    assert found.ranks.tolist() == [1, 1, 2]
    assert found.predictions.tolist() == [1, 0, 0]


@pytest.mark.parametrize("collapsed", [np.zeros((4, 2)), np.ones((4, 2))])
def test_a_collapsed_model_is_never_right(collapsed):
    found = zero_shot_classification(collapsed, np.ones((3, 2)), [0, 1, 2, 0])
    assert found.ranks.tolist() == [2] * 4
    assert (found.predictions != [0, 1, 2, 0]).all()


def test_a_single_class_is_always_right():
    found = zero_shot_classification(np.eye(2), np.ones((1, 2)), [0, 0])
    assert found.ranks.tolist() == found.predictions.tolist() == [0, 0]


def test_errors_name_the_argument():
    with pytest.raises(InputError, match="2 names and 2 templates, one of them 'no'"):
        class_embeddings(encode_texts, ["a", "b"], ["{}", "no"])
    with pytest.raises(InputError, match="`class_names` must hold a name"):
        class_embeddings(encode_texts, [], ["{}"])
    with pytest.raises(InputError, match="cancel out, received length 0.0 for 'x'"):
        class_embeddings(lambda texts: np.array([[1.0], [-1.0]]), ["x"], ["{}", "a {}"])
    with pytest.raises(InputError, match="diverged"):
        class_embeddings(lambda texts: np.full((1, 2), np.nan), ["x"], ["{}"])
    for labels in ([0, 3], [-1, 0]):
        with pytest.raises(InputError, match=r"`labels` must lie in \[0, 2\)"):
            zero_shot_classification(np.eye(2), np.eye(2), labels)
    for labels in ([0], [0.0, 1.0], [[0], [1]]):
        with pytest.raises(InputError, match="`labels` must hold one integer"):
            zero_shot_classification(np.eye(2), np.eye(2), labels)
    with pytest.raises(InputError, match="one dimension"):
        zero_shot_classification(np.eye(2), np.eye(3), [0, 1])
