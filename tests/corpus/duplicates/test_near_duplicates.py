"""Compares the dropped images with an implementation of the rule in plain loops."""

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


def hash_with_flipped_bits(*positions):
    """Returns a hash with the lowest 30 bits set, after flipping some positions."""
    number = (1 << 30) - 1
    for position in positions:
        number ^= 1 << position
    return [[number & ((1 << 64) - 1), number >> 64]]


def image_set(rows, **options):
    """Returns an `ImageSet` of rows (key, pixels, pixel_key, hash)."""
    keys, pixels, pixel_keys, hashes = zip(*rows, strict=True)
    hashes = np.array(hashes, np.uint64).reshape(len(keys), -1, 2)
    return ImageSet(list(keys), hashes, pixels, list(pixel_keys), **options)


def shuffled(images, seed):
    order = np.random.default_rng(seed).permutation(len(images.keys))
    return ImageSet(
        [images.keys[row] for row in order],
        images.signatures[order],
        None if images.pixels is None else [images.pixels[row] for row in order],
        images.pixel_keys and [images.pixel_keys[row] for row in order],
        images.name,
    )


def test_the_image_with_the_most_pixels_then_the_lowest_key_is_kept():
    corpus = image_set(
        [
            ("b", 100, "1", hash_with_flipped_bits()),
            ("a", 100, "2", hash_with_flipped_bits(40)),
            ("c", 400, "3", hash_with_flipped_bits(100)),
            ("z", 100, "4", hash_with_flipped_bits(*range(30, 60))),
            ("y", 100, "5", hash_with_flipped_bits(*range(30, 61))),
        ]
    )
    expected = [
        Dropped("a", NEAR_DUPLICATE, "c", ""),
        Dropped("b", NEAR_DUPLICATE, "c", ""),
        Dropped("z", NEAR_DUPLICATE, "y", ""),
    ]
    for seed in range(5):
        assert find_duplicates(shuffled(corpus, seed)) == expected


def test_chains_of_near_images_are_not_merged():
    # Each of the images a, b, c and d differs from the next one in 10 bits. The images
    # a and c are not near each other, so only b and d are dropped.
    far = range(64, 128)
    steps = [hash_with_flipped_bits(*far[: 10 * number]) for number in range(4)]
    corpus = image_set(
        [(key, 1, "", step) for key, step in zip("abcd", steps, strict=True)]
    )
    assert find_duplicates(corpus, threshold=10) == [
        Dropped("b", NEAR_DUPLICATE, "a", ""),
        Dropped("d", NEAR_DUPLICATE, "c", ""),
    ]
    assert find_duplicates(corpus, threshold=9) == []


def test_images_with_equal_pixels_have_the_same_result():
    corpus = image_set(
        [
            ("a", 9, "p", hash_with_flipped_bits()),
            ("b", 9, "p", hash_with_flipped_bits()),
            # Plain images are not near any image, but c and d have equal pixels.
            ("c", 9, "q", [[0, 0]]),
            ("d", 9, "q", [[0, 0]]),
            ("e", 9, "r", [[0, 0]]),
            ("f", 99, "s", hash_with_flipped_bits(1)),
        ]
    )
    near = [Dropped(key, NEAR_DUPLICATE, "f", "") for key in "ab"]
    equal = Dropped("d", DUPLICATE, "c", "")
    for seed in range(3):
        assert find_duplicates(shuffled(corpus, seed)) == [*near, equal]
    alone = image_set(
        [
            ("b", 9, "p", hash_with_flipped_bits()),
            ("a", 9, "p", hash_with_flipped_bits()),
        ]
    )
    assert find_duplicates(alone) == [Dropped("b", DUPLICATE, "a", "")]


def test_all_copies_of_evaluation_images_are_dropped_first():
    corpus = image_set(
        [
            ("a", 1, "p", hash_with_flipped_bits(50)),
            ("b", 1, "q", hash_with_flipped_bits(51)),
            # Plain images: c has the pixels and e the key of an evaluation image, and
            # d has the pixels of e.
            ("c", 1, "r", [[0, 0]]),
            ("d", 1, "s", [[0, 0]]),
            ("e", 1, "s", [[0, 0]]),
            # The second image is near the first and near an image of coco.
            ("far", 1, "t", hash_with_flipped_bits(*range(80, 93), 50)),
            ("gone", 9, "u", hash_with_flipped_bits(*range(80, 90))),
        ]
    )
    coco = image_set(
        [
            ("y", None, "", hash_with_flipped_bits()),
            ("x", None, "r", hash_with_flipped_bits(1)),
            ("e", None, "", hash_with_flipped_bits(5)),
        ],
        name="coco",
    )
    flickr = image_set([("x0", None, "q", hash_with_flipped_bits(2))], name="flickr")
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


def test_a_mirrored_copy_is_dropped():
    hashes = np.random.default_rng(0).integers(0, 1 << 64, (1, 1, 2), np.uint64)
    both = np.concatenate([hashes, mirrored_hashes(hashes)])
    [dropped] = find_duplicates(ImageSet(["a", "b"], both))
    assert dropped.image_key == "b"


def brute_force(keys, pixels, near):
    """Returns the images that are near a better image that is not dropped."""
    order = sorted(range(len(keys)), key=lambda row: (-pixels[row], keys[row]))
    kept_rows, dropped = [], []
    for row in order:
        near_row = next((better for better in kept_rows if near(row, better)), None)
        if near_row is None:
            kept_rows.append(row)
        else:
            dropped.append(Dropped(keys[row], NEAR_DUPLICATE, keys[near_row], ""))
    return sorted(dropped)


def test_duplicates_by_hash_equal_the_result_of_loops():
    random = np.random.default_rng(0)
    # Random walks through the hashes give long chains of near images.
    steps = 1 << random.integers(0, 30, 300, np.uint64)
    hashes = np.bitwise_xor.accumulate(steps).reshape(-1, 1, 1) | np.uint64(1 << 40)
    hashes = np.concatenate([hashes, np.full_like(hashes, 1 << 50)], axis=-1)
    keys = [f"{number:03}" for number in random.permutation(300)]
    pixels = random.integers(1, 4, 300).tolist()
    first_words = [int(image[0, 0]) for image in hashes]
    numbers = [int(image[0, 0]) | int(image[0, 1]) << 64 for image in hashes]
    mirrored_numbers = [
        int(image[0, 0]) | int(image[0, 1]) << 64 for image in mirrored_hashes(hashes)
    ]

    def near(first, second):
        # All hashes have the same second word.
        distance = (first_words[first] ^ first_words[second]).bit_count()
        mirrored = (mirrored_numbers[first] ^ numbers[second]).bit_count()
        return min(distance, mirrored) <= 4

    corpus = ImageSet(keys, hashes, pixels)
    expected = brute_force(keys, pixels, near)
    assert 50 < len(expected) < 290
    for order in range(2):
        images = shuffled(corpus, order)
        assert find_duplicates(images, threshold=4) == expected


@pytest.mark.ci
def test_duplicates_by_embedding_equal_the_result_of_loops():
    pytest.importorskip("faiss")
    random = np.random.default_rng(0)
    embeddings = np.cumsum(random.normal(size=(400, 8)), axis=0).astype(np.float32)
    keys = [f"{number:03}" for number in random.permutation(400)]
    pixels = random.integers(1, 4, 400).tolist()
    units = embeddings.astype(float)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    corpus = ImageSet(keys, embeddings, pixels)
    expected = brute_force(keys, pixels, lambda a, b: units[a] @ units[b] > 0.975)
    assert 50 < len(expected) < 390
    for order in range(2):
        images = shuffled(corpus, order)
        assert find_duplicates(images, mode="embedding") == expected


@pytest.mark.ci
def test_duplicates_in_clusters_do_not_depend_on_the_order():
    random = np.random.default_rng(0)
    seeds = random.normal(size=(800, 12))
    rows = seeds[random.integers(0, 800, 3000)]
    rows = (rows + 0.05 * random.normal(size=rows.shape)).astype(np.float16)
    corpus = ImageSet([f"{number:04}" for number in range(3000)], rows)
    coco = ImageSet(["x", "y"], rows[:2] * np.float16(2), name="coco")
    dropped = find_duplicates(corpus, [coco], mode="embedding")
    assert {image.reference for image in dropped} == {"", "coco"}
    assert 1500 < len(dropped) < 2500
    assert find_duplicates(shuffled(corpus, 1), [coco], mode="embedding") == dropped


@pytest.mark.parametrize(
    "mode", ["hash", pytest.param("embedding", marks=pytest.mark.ci)]
)
def test_empty_sets_single_images_and_equal_images(mode):
    shape = (1, 1, 2) if mode == "hash" else (1, 4)
    signature = np.full(shape, 7, np.uint64 if mode == "hash" else np.float32)
    empty = ImageSet([], signature[:0])
    assert find_duplicates(empty, mode=mode) == []
    coco = ImageSet(["x"], signature, name="coco")
    assert find_duplicates(empty, [coco], mode=mode) == []
    single = ImageSet(["a"], signature)
    assert find_duplicates(single, mode=mode) == []
    empty_reference = ImageSet([], signature[:0], name="e")
    assert find_duplicates(single, [empty_reference], mode=mode) == []
    equal = ImageSet([f"{n:04}" for n in range(300)], np.repeat(signature, 300, 0))
    dropped = find_duplicates(equal, mode=mode)
    assert len(dropped) == 299 and {image.near_to for image in dropped} == {"0000"}
    assert len(find_duplicates(equal, [coco], mode=mode)) == 300


def test_near_duplicates_are_kept_without_the_third_step():
    corpus = image_set(
        [
            ("a", 9, "p", hash_with_flipped_bits()),
            ("b", 9, "p", hash_with_flipped_bits()),
            ("c", 9, "q", hash_with_flipped_bits(1)),
            ("d", 9, "r", hash_with_flipped_bits(*range(30, 60))),
        ]
    )
    coco = image_set(
        [("x", 1, "z", hash_with_flipped_bits(*range(30, 61)))], name="coco"
    )
    equal = Dropped("b", DUPLICATE, "a", "")
    copy = Dropped("d", NEAR_EVALUATION, "x", "coco")
    for seed in range(3):
        images = shuffled(corpus, seed)
        assert find_duplicates(images, [coco], inside_corpus=False) == [equal, copy]


def test_previously_dropped_images_stay_dropped_and_drop_no_images():
    corpus = image_set(
        [
            ("a", 1, "p", hash_with_flipped_bits()),
            ("b", 9, "q", hash_with_flipped_bits(1)),
            ("c", 1, "r", hash_with_flipped_bits(2)),
        ]
    )
    dropped = Dropped("b", NEAR_EVALUATION, "x", "coco")
    assert find_duplicates(corpus, dropped_before=[dropped]) == [
        dropped,
        Dropped("c", NEAR_DUPLICATE, "a", ""),
    ]


def test_equal_keys_count_as_one_image():
    corpus = image_set(
        [
            ("a", 5, "", hash_with_flipped_bits()),
            ("a", 5, "", hash_with_flipped_bits()),
            ("b", 1, "", hash_with_flipped_bits()),
        ]
    )
    assert find_duplicates(corpus) == [Dropped("b", NEAR_DUPLICATE, "a", "")]
