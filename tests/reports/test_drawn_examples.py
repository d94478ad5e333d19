import numpy as np
import pytest

from align_keras.reports.examples import contact_sheet


def unit(values):
    values = np.asarray(values, float)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


# The functions do not read the images, so this test uses strings.
IMAGES = ["p0", "p1", "p2", "p3"]
CAPTIONS = ["sun", ["moon", "night"], "Sun ", "tree"]
IMAGE_EMBEDDINGS = unit([[1, 0.1, 0], [0, 1, 0], [0.9, 0.3, 0], [0, 0.2, 1]])
TEXT_EMBEDDINGS = unit([[1, 0, 0], [0, 1, 0], [0, 0.7, 1], [1, 0, 0], [0, 0, 1]])


def small_contact_sheet(**options):
    return contact_sheet(IMAGE_EMBEDDINGS, TEXT_EMBEDDINGS, IMAGES, CAPTIONS, **options)


def test_text_queries_match_a_manual_ranking():
    queries, _ = small_contact_sheet()
    # "Sun " and "sun" are equal after normalization, so only one of them is a query.
    assert [query.caption for query in queries] == ["sun", "moon", "night", "tree"]
    sun, _, night, _ = queries
    assert [(hit.image, hit.caption, hit.correct) for hit in sun.hits[:2]] == [
        ("p0", "sun", True),
        ("p2", "Sun ", True),
    ]
    assert sun.hits[0].score == pytest.approx(1 / np.sqrt(1.01))
    assert (sun.rank, sun.total) == (1, 4)
    # An image hit has the first caption of the image.
    assert [(hit.caption, hit.correct) for hit in night.hits[:2]] == [
        ("tree", False),
        ("moon", True),
    ]
    assert night.rank == 2


def test_image_queries_match_a_manual_ranking():
    _, queries = small_contact_sheet()
    assert [query.image for query in queries] == IMAGES
    first = queries[0]
    # Equal captions appear only once.
    assert [(hit.caption, hit.correct) for hit in first.hits][:2] == [
        ("sun", True),
        ("moon", False),
    ]
    assert (first.rank, first.total) == (1, 5)
    # The query is not a neighbor. The neighbor with the same caption is correct.
    assert [(hit.image, hit.correct) for hit in first.neighbors] == [
        ("p2", True),
        ("p1", False),
        ("p3", False),
    ]
    assert queries[1].hits[1].caption == "night" and queries[1].hits[1].correct
    assert queries[3].rank == 1


def test_images_with_equal_keys_appear_once():
    text_queries, image_queries = small_contact_sheet(
        image_keys=["twin", "b", "twin", "d"]
    )
    (sun,) = (query for query in text_queries if query.caption == "sun")
    assert [hit.image for hit in sun.hits] == ["p0", "p1", "p3"]
    assert [hit.image for hit in image_queries[0].neighbors] == ["p1", "p3"]


def test_the_sample_is_random_and_repeatable():
    rng = np.random.default_rng(0)
    embeddings = unit(rng.normal(size=(60, 8)))
    captions = [f"caption {row}" for row in range(60)]
    arguments = (embeddings, embeddings, [b""] * 60, captions)

    def query_captions():
        text_queries, image_queries = contact_sheet(*arguments)
        return (
            [query.caption for query in text_queries],
            [query.caption for query in image_queries],
        )

    assert query_captions() == query_captions()
    texts, image_captions = query_captions()
    assert len(set(texts)) == 12 and len(set(image_captions)) == 4
    # The sample is not limited to the first rows.
    assert max(int(text.split()[1]) for text in texts) > 30


def test_images_may_have_no_captions():
    text_queries, image_queries = contact_sheet(
        np.eye(2), np.eye(2)[:1], ["a", "b"], [["x"], []]
    )
    assert [query.caption for query in text_queries] == ["x"]
    assert (image_queries[1].caption, image_queries[1].rank) == ("", None)
    assert text_queries[0].hits[1].caption == ""
