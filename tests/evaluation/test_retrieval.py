import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_keras.evaluation.retrieval import (
    RetrievalPositives,
    evaluate_retrieval,
    flatten_captions,
    normalized_caption,
    retrieval_metrics,
    shared_positives,
)
from align_keras.utils.errors import InputError


def as_lists(rows):
    return [np.asarray(own).tolist() for own in rows]


def test_captions_are_compared_casefolded_with_collapsed_space():
    assert normalized_caption("  Große\tKatze \n") == normalized_caption("GROSSE katze")
    assert normalized_caption("a b") != normalized_caption("ab")


def test_shared_positives_by_hand():
    # Pictures 0 and 2 are pixel-identical; captions 1 and 4 are the same text.
    right = shared_positives(
        ["twin", "cat", "twin", "alone"],
        ["red bird", "A bird", "a cat", "robin", "a  BIRD", "lone"],
        [0, 0, 1, 2, 1, 3],
    )
    assert as_lists(right.image_to_text) == [
        [0, 1, 3, 4],  # its own, its twin's, and the other "a bird"
        [1, 2, 4],
        [0, 1, 3, 4],
        [5],
    ]
    assert as_lists(right.text_to_image) == [
        [0, 2],
        [0, 1, 2],
        [1],
        [0, 2],
        [0, 1, 2],
        [3],
    ]


def test_a_picture_without_captions_has_no_positives():
    right = shared_positives(["a", "b"], ["x"], [1])
    assert as_lists(right.image_to_text) == [[], [0]]
    assert as_lists(right.text_to_image) == [[1]]


@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=8).flatmap(
        lambda keys: st.tuples(
            st.just(keys),
            st.lists(
                st.tuples(
                    st.sampled_from(["x", "X ", "y", "z"]),
                    st.integers(0, len(keys) - 1),
                ),
                max_size=12,
            ),
        )
    )
)
def test_shared_positives_equal_the_definition(case):
    keys, pairs = case
    captions, index = [text for text, _ in pairs], [row for _, row in pairs]
    index = np.array(index, int)
    right = shared_positives(keys, captions, index)
    carried = {
        (keys[row], caption.strip().lower())
        for caption, row in zip(captions, index, strict=True)
    }
    matrix = np.array(
        [
            [(key, caption.strip().lower()) in carried for caption in captions]
            for key in keys
        ]
    ).reshape(len(keys), len(captions))
    assert as_lists(right.image_to_text) == as_lists(map(np.flatnonzero, matrix))
    assert as_lists(right.text_to_image) == as_lists(map(np.flatnonzero, matrix.T))


def test_one_target_of_1375_rows_stays_cheap():
    rows = 1375
    right = shared_positives(range(rows), ["the same title"] * rows)
    assert len(right.text_to_image[7]) == rows
    # One array serves all rows, or the lists would grow with the square.
    assert right.text_to_image[0] is right.text_to_image[1]


def test_metrics_by_hand_with_several_captions_a_picture():
    images = np.eye(3)
    texts = np.array(
        [
            [1.0, 0.9, 0.0],  # of picture 0, found first
            [0.2, 0.3, 0.9],  # of picture 0, found last
            [0.6, 0.5, 0.4],  # of picture 1, found second
            [0.0, 0.1, 1.0],  # of picture 2, found first
        ]
    )
    metrics = dict(retrieval_metrics(images, texts, [0, 0, 1, 2], ks=(1, 2)))
    assert metrics == pytest.approx(
        {
            "i2t/recall_at_1": 2 / 3,  # any of its captions; picture 1 finds text 0
            "i2t/chance_recall_at_1": (2 / 4 + 1 / 4 + 1 / 4) / 3,
            "i2t/recall_at_2": 1.0,
            "i2t/chance_recall_at_2": (1 - 2 / 12 + 1 / 2 + 1 / 2) / 3,
            "i2t/queries": 3,
            "i2t/queries_without_positives": 0,
            "t2i/recall_at_1": 2 / 4,
            "t2i/chance_recall_at_1": 1 / 3,
            "t2i/recall_at_2": 3 / 4,
            "t2i/chance_recall_at_2": 2 / 3,
            "t2i/queries": 4,
            "t2i/queries_without_positives": 0,
        }
    )
    assert all(type(value) is float for value in metrics.values())


def test_metrics_leave_out_and_count_pictures_without_captions():
    metrics = dict(retrieval_metrics(np.eye(3), np.eye(3)[:2], [0, 1], ks=(1,)))
    assert metrics["i2t/recall_at_1"] == 1.0
    assert metrics["i2t/queries"] == 2.0
    assert metrics["i2t/queries_without_positives"] == 1.0
    assert metrics["t2i/chance_recall_at_1"] == pytest.approx(1 / 3)


def test_given_positives_replace_the_index():
    right = RetrievalPositives([[1], [0]], [[1], [0]])
    metrics = dict(retrieval_metrics(np.eye(2), np.eye(2), positives=right, ks=(1,)))
    assert metrics["i2t/recall_at_1"] == metrics["t2i/recall_at_1"] == 0.0


def test_metrics_do_not_depend_on_the_block_size():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(23, 9)).astype(np.float32)
    texts = np.repeat(images, 3, axis=0) + rng.normal(size=(69, 9))
    texts = texts.astype(np.float32)
    index = np.repeat(np.arange(23), 3)
    expected = list(retrieval_metrics(images, texts, index))
    for block_size in (1, 4, 23, 50):
        again = list(retrieval_metrics(images, texts, index, block_size=block_size))
        assert again == expected


def test_evaluate_retrieval_shares_targets_of_equal_captions_and_pictures():
    points = {"sun": 0, "Sun ": 0, "moon": 1, "star": 2, "p0": 0, "p1": 0, "p2": 1}

    def encode(items):
        return np.eye(3, dtype=np.float32)[[points[item] for item in items]]

    arguments = (encode, encode, ["p0", "p1", "p2"], ["sun", ["Sun "], ["moon"]])
    # Pictures 0 and 1 tie; without the shared caption each would miss.
    assert dict(evaluate_retrieval(*arguments, ks=(1,)))["i2t/recall_at_1"] == 1.0
    arguments = (encode, encode, ["p0", "p1", "p2"], ["sun", ["star"], ["moon"]])
    metrics = dict(evaluate_retrieval(*arguments, ks=(1,)))
    assert metrics["t2i/recall_at_1"] == pytest.approx(1 / 3)
    metrics = dict(evaluate_retrieval(*arguments, ["k", "k", "other"], ks=(1,)))
    assert metrics["i2t/recall_at_1"] == 1.0
    assert metrics["t2i/recall_at_1"] == pytest.approx(2 / 3)


def test_flatten_captions():
    texts, rows = flatten_captions([["a", "b"], "c", []])
    assert texts == ["a", "b", "c"]
    assert rows.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shared_positives(["a"], ["x", "y"]), "2 captions for 1 pictures"),
        (lambda: shared_positives(["a"], ["x"], [1]), r"in \[0, 1\).*got 1"),
        (lambda: shared_positives(["a"], ["x"], [0, 0]), "one integer a caption"),
        (lambda: list(retrieval_metrics(np.eye(2), np.eye(3))), "got None for 2"),
        (
            lambda: list(retrieval_metrics(np.eye(2), np.eye(2), [0, 2])),
            r"in \[0, 2\).*got 2",
        ),
        (
            lambda: list(evaluate_retrieval(len, len, ["i"], ["a", "b"])),
            "got 1, 2 and 1",
        ),
        (
            lambda: list(
                evaluate_retrieval(
                    lambda items: np.eye(3), np.array, ["i", "j"], ["a", "b"]
                )
            ),
            r"`encode_images` must return one row an item, got shape \(3, 3\) for 2",
        ),
        (
            lambda: list(
                evaluate_retrieval(
                    lambda items: np.full((2, 2), np.nan),
                    lambda items: np.eye(2),
                    ["i", "j"],
                    ["a", "b"],
                )
            ),
            "must be finite, got NaN or infinity in 2 rows: 0, 1",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()
