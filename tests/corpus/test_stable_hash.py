"""Hashes of many strings at once, against the same in Python's integers."""

import hashlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
from filter_reference import hash_text
from filter_reference import mix as mix_one

from align_keras.corpus.stable_hash import hash_pairs, hash_spans, hash_strings, mix


@hypothesis.given(st.lists(st.text(max_size=40), max_size=8))
def test_as_one_at_a_time(texts):
    assert hash_strings(texts).tolist() == [hash_text(own) for own in texts]


def test_known_values():
    # What is stored between stages must mean the same in the next release.
    assert hash_strings(["cat", "a bicycle on a wall"]).tolist() == (
        [0x649B90C556484855, 0xF764F1B647C769C1]
    )


def test_where_a_string_stands_makes_no_difference():
    data = np.frombuffer(b"xxcatxcatxx" + bytes(8), np.uint8)
    first, second = hash_spans(data, np.array([2, 6]), np.array([5, 9]))
    assert first == second == hash_strings(["cat"])[0]


def test_mixing_is_a_bijection_that_spreads_every_bit():
    values = np.arange(100_000, dtype=np.uint64)
    mixed = mix(values.copy())
    assert len(np.unique(mixed)) == len(values)
    assert mixed[12345] == mix_one(12345)
    for bit in range(64):
        flipped = mix(values ^ np.uint64(1 << bit)) ^ mixed
        share = np.unpackbits(flipped.view(np.uint8)).mean()
        assert 0.48 < share < 0.52


def test_like_strings_collide_no_more_than_random_numbers_do():
    # In 32 bits, of 200,000 random numbers 4.7 pairs are expected to be equal.
    texts = [f"{kind} number {own}" for kind in ("a", "b") for own in range(100_000)]
    hashes = hash_strings(texts)
    assert len(np.unique(hashes)) == len(texts)
    for half in (hashes >> np.uint64(32), hashes & np.uint64(2**32 - 1)):
        assert len(texts) - len(np.unique(half)) < 20


def test_spread_over_ranges_is_even():
    # Partitions are ranges of the hashes.
    words = [
        hashlib.md5(bytes([own % 256, own // 256])).hexdigest()[: own % 12 + 1]
        for own in range(60_000)
    ]
    hashes = hash_strings(sorted(set(words)))
    sizes = np.bincount((hashes >> np.uint64(60)).astype(int), minlength=16)
    assert sizes.min() > 0.93 * len(hashes) / 16


def test_pairs_are_ordered():
    one, two = hash_strings(["one"]), hash_strings(["two"])
    assert hash_pairs(one, two) != hash_pairs(two, one)
    assert hash_pairs(one, one) != hash_pairs(two, two)
    assert one == hash_strings(["one"])  # The arguments stay.
