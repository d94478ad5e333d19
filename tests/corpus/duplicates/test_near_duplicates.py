"""Who leaves and who stays, against the rule written out by loops."""

import numpy as np
import pytest

from align_keras.corpus.duplicates.hashes import mirrored_hashes
from align_keras.corpus.duplicates.near_duplicates import (
    DUPLICATE,
    NEAR_DUPLICATE,
    NEAR_EVALUATION,
    Dropped,
    ImageSet,
    find_duplicates,
)
from align_keras.utils.errors import InputError


def bits(*places):
    """A hash of 30 bits with some of the others flipped."""
    number = (1 << 30) - 1
    for place in places:
        number ^= 1 << place
    return [[number & ((1 << 64) - 1), number >> 64]]


def images(rows, **options):
    """Images from (key, pixels, pixel_key, hash)."""
    keys, pixels, pixel_keys, hashes = zip(*rows, strict=True)
    hashes = np.array(hashes, np.uint64).reshape(len(keys), -1, 2)
    return ImageSet(list(keys), hashes, pixels, list(pixel_keys), **options)


def shuffled(own, seed):
    order = np.random.default_rng(seed).permutation(len(own.keys))
    return ImageSet(
        [own.keys[place] for place in order],
        own.signatures[order],
        None if own.pixels is None else [own.pixels[place] for place in order],
        own.pixel_keys and [own.pixel_keys[place] for place in order],
        own.name,
    )


def test_the_most_pixels_stay_then_the_lowest_key():
    corpus = images(
        [
            ("b", 100, "1", bits()),
            ("a", 100, "2", bits(40)),
            ("c", 400, "3", bits(100)),
            ("z", 100, "4", bits(*range(30, 60))),
            ("y", 100, "5", bits(*range(30, 61))),
        ]
    )
    expected = [
        Dropped("a", NEAR_DUPLICATE, "c", ""),
        Dropped("b", NEAR_DUPLICATE, "c", ""),
        Dropped("z", NEAR_DUPLICATE, "y", ""),
    ]
    for seed in range(5):
        assert find_duplicates(shuffled(corpus, seed)) == expected


def test_chains_do_not_merge():
    # a – b – c – d, each 10 bits from the next: b and d leave.
    far = range(64, 128)
    steps = [bits(*far[: 10 * number]) for number in range(4)]
    corpus = images([(key, 1, "", own) for key, own in zip("abcd", steps, strict=True)])
    assert find_duplicates(corpus, threshold=10) == [
        Dropped("b", NEAR_DUPLICATE, "a", ""),
        Dropped("d", NEAR_DUPLICATE, "c", ""),
    ]
    assert find_duplicates(corpus, threshold=9) == []


def test_equal_pixels_follow_the_one_that_stays():
    corpus = images(
        [
            ("a", 9, "p", bits()),
            ("b", 9, "p", bits()),
            ("c", 9, "q", [[0, 0]]),  # Too plain to be near anything,
            ("d", 9, "q", [[0, 0]]),  # but equal.
            ("e", 9, "r", [[0, 0]]),
            ("f", 99, "s", bits(1)),
        ]
    )
    near = [Dropped(key, NEAR_DUPLICATE, "f", "") for key in "ab"]
    equal = Dropped("d", DUPLICATE, "c", "")
    for seed in range(3):
        assert find_duplicates(shuffled(corpus, seed)) == [*near, equal]
    alone = images([("b", 9, "p", bits()), ("a", 9, "p", bits())])
    assert find_duplicates(alone) == [Dropped("b", DUPLICATE, "a", "")]


def test_evaluation_images_take_all_their_copies_and_come_first():
    corpus = images(
        [
            ("a", 1, "p", bits(50)),
            ("b", 1, "q", bits(51)),
            ("c", 1, "r", [[0, 0]]),  # Plain, with the pixels of an evaluation image,
            ("d", 1, "s", [[0, 0]]),  # with the pixels of one,
            ("e", 1, "s", [[0, 0]]),  # with its key.
            ("far", 1, "t", bits(*range(80, 93), 50)),
            ("gone", 9, "u", bits(*range(80, 90))),  # Near both `far` and coco's.
        ]
    )
    coco = images(
        [("y", None, "", bits()), ("x", None, "r", bits(1)), ("e", None, "", bits(5))],
        name="coco",
    )
    flickr = images([("x0", None, "q", bits(2))], name="flickr")
    expected = [
        Dropped(key, NEAR_EVALUATION, near_to, "coco")
        for key, near_to in (
            ("a", "e"),
            ("b", "e"),
            ("c", "x"),
            ("d", "e"),
            ("e", "e"),
            ("gone", "e"),
        )
    ]
    for seed in range(3):
        sets = [shuffled(flickr, seed), shuffled(coco, seed)][:: (-1) ** seed]
        assert find_duplicates(shuffled(corpus, seed), sets) == expected


def test_a_mirrored_image_leaves():
    hashes = np.random.default_rng(0).integers(0, 1 << 64, (1, 1, 2), np.uint64)
    both = np.concatenate([hashes, mirrored_hashes(hashes)])
    assert [own.image_key for own in find_duplicates(ImageSet(["a", "b"], both))] == [
        "b"
    ]


def brute_force(keys, pixels, near):
    """Best first; an image leaves for the best one near it that stays."""
    order = sorted(range(len(keys)), key=lambda row: (-pixels[row], keys[row]))
    stay, leave = [], []
    for row in order:
        kept = next((other for other in stay if near(row, other)), None)
        if kept is None:
            stay.append(row)
        else:
            leave.append(Dropped(keys[row], NEAR_DUPLICATE, keys[kept], ""))
    return sorted(leave)


@pytest.mark.parametrize(
    "seed",
    [0, 1, *(pytest.param(seed, marks=pytest.mark.release) for seed in range(2, 6))],
)
def test_hashes_against_the_rule_by_loops(seed):
    random = np.random.default_rng(seed)
    # Random walks through hashes: long chains of near images.
    steps = 1 << random.integers(0, 30, 300, np.uint64)
    hashes = np.bitwise_xor.accumulate(steps).reshape(-1, 1, 1) | np.uint64(1 << 40)
    hashes = np.concatenate([hashes, np.full_like(hashes, 1 << 50)], axis=-1)
    keys = [f"{number:03}" for number in random.permutation(300)]
    pixels = random.integers(1, 4, 300).tolist()
    words = [int(own[0, 0]) for own in hashes]
    turned = [int(own[0, 0]) | int(own[0, 1]) << 64 for own in mirrored_hashes(hashes)]
    whole = [int(own[0, 0]) | int(own[0, 1]) << 64 for own in hashes]

    def near(first, second):
        straight = (words[first] ^ words[second]).bit_count()
        return min(straight, (turned[first] ^ whole[second]).bit_count()) <= 4

    corpus = ImageSet(keys, hashes, pixels)
    expected = brute_force(keys, pixels, near)
    assert 50 < len(expected) < 290
    for order in range(2):
        own = shuffled(corpus, order)
        assert find_duplicates(own, threshold=4) == expected
        assert find_duplicates(own, threshold=4, block_rows=17) == expected


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(0, marks=pytest.mark.ci),
        pytest.param(1, marks=pytest.mark.release),
        pytest.param(2, marks=pytest.mark.release),
    ],
)
def test_embeddings_against_the_rule_by_loops(seed):
    pytest.importorskip("faiss")
    random = np.random.default_rng(seed)
    embeddings = np.cumsum(random.normal(size=(400, 8)), axis=0).astype(np.float32)
    keys = [f"{number:03}" for number in random.permutation(400)]
    pixels = random.integers(1, 4, 400).tolist()
    units = embeddings.astype(float)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    corpus = ImageSet(keys, embeddings, pixels)
    expected = brute_force(keys, pixels, lambda a, b: units[a] @ units[b] > 0.975)
    assert 50 < len(expected) < 390
    for order in range(2):
        own = shuffled(corpus, order)
        assert find_duplicates(own, mode="embedding") == expected
        assert find_duplicates(own, mode="embedding", block_rows=7) == expected


@pytest.mark.ci
def test_embeddings_in_clusters_do_not_depend_on_the_order():
    random = np.random.default_rng(0)
    seeds = random.normal(size=(800, 12))
    rows = seeds[random.integers(0, 800, 3000)]
    rows = (rows + 0.05 * random.normal(size=rows.shape)).astype(np.float16)
    corpus = ImageSet([f"{number:04}" for number in range(3000)], rows)
    coco = ImageSet(["x", "y"], rows[:2] * np.float16(2), name="coco")
    dropped = find_duplicates(corpus, [coco], mode="embedding")
    assert {own.reference for own in dropped} == {"", "coco"}
    assert 1500 < len(dropped) < 2500
    assert find_duplicates(shuffled(corpus, 1), [coco], mode="embedding") == dropped


@pytest.mark.parametrize(
    "mode", ["hash", pytest.param("embedding", marks=pytest.mark.ci)]
)
def test_nothing_one_and_all_equal(mode):
    shape = (1, 1, 2) if mode == "hash" else (1, 4)
    one = np.full(shape, 7, np.uint64 if mode == "hash" else np.float32)
    nothing = ImageSet([], one[:0])
    assert find_duplicates(nothing, mode=mode) == []
    coco = ImageSet(["x"], one, name="coco")
    assert find_duplicates(nothing, [coco], mode=mode) == []
    single = ImageSet(["a"], one)
    assert find_duplicates(single, mode=mode) == []
    assert find_duplicates(single, [ImageSet([], one[:0], name="e")], mode=mode) == []
    many = ImageSet([f"{n:04}" for n in range(3000)], np.repeat(one, 3000, 0))
    dropped = find_duplicates(many, mode=mode)
    assert len(dropped) == 2999 and {own.near_to for own in dropped} == {"0000"}
    assert len(find_duplicates(many, [coco], mode=mode)) == 3000


def test_inside_the_corpus_the_paper_leaves_all_but_equal_ones():
    corpus = images(
        [
            ("a", 9, "p", bits()),
            ("b", 9, "p", bits()),
            ("c", 9, "q", bits(1)),
            ("d", 9, "r", bits(*range(30, 60))),
        ]
    )
    coco = images([("x", 1, "z", bits(*range(30, 61)))], name="coco")
    equal = Dropped("b", DUPLICATE, "a", "")
    copy = Dropped("d", NEAR_EVALUATION, "x", "coco")
    for seed in range(3):
        own = shuffled(corpus, seed)
        assert find_duplicates(own, [coco], inside=False) == [equal, copy]


def test_what_has_gone_stays_gone_and_takes_nothing_along():
    corpus = images(
        [("a", 1, "p", bits()), ("b", 9, "q", bits(1)), ("c", 1, "r", bits(2))]
    )
    gone = Dropped("b", NEAR_EVALUATION, "x", "coco")
    assert find_duplicates(corpus, gone=[gone]) == [
        gone,
        Dropped("c", NEAR_DUPLICATE, "a", ""),
    ]


def test_equal_keys_are_one_image():
    corpus = images([("a", 5, "", bits()), ("a", 5, "", bits()), ("b", 1, "", bits())])
    assert find_duplicates(corpus) == [Dropped("b", NEAR_DUPLICATE, "a", "")]


def test_wrong_arguments():
    hashes = np.zeros((2, 1, 2), np.uint64)
    with pytest.raises(InputError, match="mode must be one of hash, embedding"):
        find_duplicates(ImageSet(["a", "b"], hashes), mode="phash")
    with pytest.raises(InputError, match="threshold must be"):
        find_duplicates(ImageSet(["a", "b"], hashes), threshold=33)
