"""Tests of the choice of test images by their hashes."""

import hashlib

import pytest

from align_keras.datasets.splits import hashed_test_keys, linked_names


def random_keys(count):
    return {hashlib.sha256(str(n).encode()).hexdigest()[:32] for n in range(count)}


def test_the_fraction_of_test_images_is_close_to_the_request():
    assert 420 < len(hashed_test_keys(random_keys(10_000), 0.05)) < 580


def test_an_image_keeps_its_split_when_images_are_added():
    few, many = random_keys(500), random_keys(5_000)
    assert hashed_test_keys(few, 0.1) == hashed_test_keys(many, 0.1) & few


@pytest.mark.parametrize(
    ("count", "expected"), [(0, 0), (1, 0), (2, 1), (3, 1), (5, 1)]
)
def test_at_least_one_image_and_never_all_are_chosen(count, expected):
    assert len(hashed_test_keys(random_keys(count), 1e-9)) == expected
    assert len(hashed_test_keys(random_keys(count), 1.0)) == max(count - 1, 0)


def test_the_number_of_test_images_is_limited():
    assert len(hashed_test_keys(random_keys(3_000), 0.9, at_most=100)) == 100


def test_names_are_linked_through_chains_of_keys():
    # Each name shares a key with the next one, so the smallest name is far away.
    chain = [(f"b{n}", f"k{n + offset}") for n in range(20) for offset in (0, 1)]
    pair = [("a", "k99"), ("z", "k99")]
    groups = {f"b{n}": "b0" for n in range(20)} | {"a": "a", "z": "a"}
    assert linked_names(chain + pair) == groups
    assert linked_names(reversed(chain + pair)) == groups
    assert linked_names([]) == {}
