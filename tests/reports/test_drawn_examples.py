import numpy as np
import pytest

from align_keras.reports.examples import contact_sheet


def unit(values):
    values = np.asarray(values, float)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


IMAGES = ["p0", "p1", "p2", "p3"]
CAPTIONS = ["sun", ["moon", "night"], "Sun ", "tree"]
IMAGE_EMBEDDINGS = unit([[1, 0.1, 0], [0, 1, 0], [0.9, 0.3, 0], [0, 0.2, 1]])
TEXT_EMBEDDINGS = unit([[1, 0, 0], [0, 1, 0], [0, 0.7, 1], [1, 0, 0], [0, 0, 1]])


def make(**options):
    return contact_sheet(IMAGE_EMBEDDINGS, TEXT_EMBEDDINGS, IMAGES, CAPTIONS, **options)


def test_text_queries_by_hand():
    queries, _ = make(k=2, image_count=0)
    # "Sun " is "sun" again, so of these one is asked.
    assert [query.caption for query in queries] == ["sun", "moon", "night", "tree"]
    sun, _, night, _ = queries
    assert [(hit.image, hit.caption, hit.correct) for hit in sun.hits] == [
        ("p0", "sun", True),
        ("p2", "Sun ", True),
    ]
    assert sun.hits[0].score == pytest.approx(1 / np.sqrt(1.01))
    assert (sun.rank, sun.total) == (1, 4)
    # The caption under a picture is its first one.
    assert [(hit.caption, hit.correct) for hit in night.hits] == [
        ("tree", False),
        ("moon", True),
    ]
    assert night.rank == 2


def test_image_queries_by_hand():
    _, queries = make(k=3, text_count=0)
    assert [query.image for query in queries] == IMAGES
    first = queries[0]
    # Equal captions are shown once.
    assert [(hit.caption, hit.correct) for hit in first.hits][:2] == [
        ("sun", True),
        ("moon", False),
    ]
    assert (first.rank, first.total) == (1, 5)
    # The picture itself isn't its neighbor; the one that shares the caption is right.
    assert [(hit.image, hit.correct) for hit in first.neighbors] == [
        ("p2", True),
        ("p1", False),
        ("p3", False),
    ]
    assert queries[1].hits[1].caption == "night" and queries[1].hits[1].correct
    assert queries[3].rank == 1


def test_pixel_identical_pictures_are_shown_once():
    queries, pictures = make(k=4, image_keys=["twin", "b", "twin", "d"])
    (sun,) = (query for query in queries if query.caption == "sun")
    assert [hit.image for hit in sun.hits] == ["p0", "p1", "p3"]
    assert [hit.image for hit in pictures[0].neighbors] == ["p1", "p3"]


def test_the_draw_depends_on_the_seed_alone():
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(60, 8)))
    captions = [f"caption {row}" for row in range(60)]
    arguments = (rows, rows, [b""] * 60, captions)

    def asked(seed):
        texts, pictures = contact_sheet(*arguments, seed=seed)
        return [query.caption for query in texts], [query.caption for query in pictures]

    assert asked(0) == asked(0) != asked(1)
    texts, pictures = asked(0)
    assert len(set(texts)) == 12 and len(set(pictures)) == 4
    # Drawn from everywhere and not from the first rows.
    assert max(int(text.split()[1]) for text in texts) > 30


def test_pictures_without_captions():
    texts, pictures = contact_sheet(np.eye(2), np.eye(2)[:1], ["a", "b"], [["x"], []])
    assert [query.caption for query in texts] == ["x"]
    assert (pictures[1].caption, pictures[1].rank) == ("", None)
    assert texts[0].hits[1].caption == ""
