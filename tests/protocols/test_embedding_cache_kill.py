"""Killed processes leave a complete cache of embeddings."""

import random

import numpy as np

from align_keras.protocols.embedding_cache import EmbeddingCache
from tests.helpers.kills import COUNT, kill_after, start


def embed(text):
    """Returns the embedding of a text such as "text 5"."""
    return np.full(64, float(text.split()[1]), np.float32)


CACHE = """
import sys
import numpy as np
from align_keras.protocols.embedding_cache import EmbeddingCache
texts = [f"text {number}" for number in range(1_000_000)]
encode = lambda texts: np.array([[float(t.split()[1])] * 64 for t in texts], np.float32)
print("ready", flush=True)
EmbeddingCache(sys.argv[1], encode, chunk=7)(texts)
"""


@COUNT
def test_a_killed_process_loses_no_cached_embeddings(tmp_path, count):
    source, num_cached = random.Random(0), 0
    for _ in range(count):
        kill_after(start(CACHE, tmp_path), source.uniform(0, 0.2))
        encoded_texts = []

        def encode(texts, encoded_texts=encoded_texts):
            encoded_texts.extend(texts)
            return np.array([embed(text) for text in texts])

        texts = [f"text {number}" for number in range(num_cached + 10)]
        embeddings = EmbeddingCache(tmp_path, encode)(texts)
        np.testing.assert_array_equal(embeddings, [embed(text) for text in texts])
        # Texts that were cached before the kill are not encoded again.
        assert len(encoded_texts) <= 10
        num_cached = (tmp_path / "digests").stat().st_size // 20
    assert num_cached > 50 or count < 10
