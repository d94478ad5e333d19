"""Test that padding doesn't change the embedding of a caption."""

import numpy as np
import pytest

from align_keras.models import TextEncoder


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_does_not_change_the_embedding(pooling):
    encoder = TextEncoder(
        vocabulary_size=20,
        num_layers=2,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        projection_dim=8,
        sequence_length=8,
        pooling=pooling,
    )
    random = np.random.default_rng(0)
    for weight in encoder.weights:
        if "float" in weight.dtype:
            weight.assign(random.normal(size=weight.shape))

    def embedding(token_ids, length):
        mask = np.arange(token_ids.shape[1]) < length
        inputs = {"token_ids": token_ids, "padding_mask": mask[None].astype("int32")}
        return np.asarray(encoder(inputs))

    token_ids = random.integers(0, 20, (1, 8)).astype("int32")
    expected = embedding(token_ids[:, :3], 3)
    # Products of other lengths are summed in another order in float32.
    np.testing.assert_allclose(embedding(token_ids, 3), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(embedding(token_ids, 8) - expected).max() > 0.1
