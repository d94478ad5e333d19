"""The choice of test pictures by hash."""

import hashlib

import pytest

from align_keras.datasets.pair_builder import hashed_test_keys, linked_names


def keys(count):
    return {hashlib.sha256(str(n).encode()).hexdigest()[:32] for n in range(count)}


def test_share_comes_close():
    assert 420 < len(hashed_test_keys(keys(10_000), 0.05)) < 580


def test_a_picture_keeps_its_split_when_others_come():
    few, many = keys(500), keys(5_000)
    assert hashed_test_keys(few, 0.1) == hashed_test_keys(many, 0.1) & few


@pytest.mark.parametrize(("count", "least"), [(0, 0), (1, 0), (2, 1), (3, 1), (5, 1)])
def test_at_least_one_but_never_all(count, least):
    assert len(hashed_test_keys(keys(count), 1e-9)) == least
    assert len(hashed_test_keys(keys(count), 1.0)) == max(count - 1, 0)


def test_limit():
    assert len(hashed_test_keys(keys(3_000), 0.9, at_most=100)) == 100


def test_names_are_linked_through_any_chain():
    # A chain whose smallest name is as far away as can be, beside another one.
    chain = [(f"b{n}", f"k{n + side}") for n in range(20) for side in (0, 1)]
    other = [("a", "k99"), ("z", "k99")]
    groups = {f"b{n}": "b0" for n in range(20)} | {"a": "a", "z": "a"}
    assert linked_names(chain + other) == groups
    assert linked_names(reversed(chain + other)) == groups
    assert linked_names([]) == {}
