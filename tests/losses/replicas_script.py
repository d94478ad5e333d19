"""Prints how an SGD step on 2 replicas differs from one on 1, and how far it goes:
a line with one-hot targets, a line with targets that equal captions share.

Run by test_contrastive_loss.py: logical devices must be made before
TensorFlow is used, so it needs a process of its own.
"""

import keras
import numpy as np
import tensorflow as tf

from align_keras.models import ALIGN, ImageEncoder, TextEncoder
from align_keras.training.strategies import make_strategy, split_cpu, strategy_scope


def updated_weights(strategy, batch, start, share):
    with strategy_scope(strategy):
        image_encoder = ImageEncoder(
            width_coefficient=0.25,
            depth_coefficient=0.3,
            image_size=64,
            projection_dim=16,
            drop_connect_rate=0.0,
            synchronized=True,
        )
        text_encoder = TextEncoder(
            vocabulary_size=30,
            num_layers=1,
            hidden_dim=16,
            num_heads=2,
            intermediate_dim=32,
            projection_dim=16,
            dropout=0.0,
            sequence_length=6,
        )
        model = ALIGN(image_encoder, text_encoder, initial_temperature=1.0)
        if start is not None:
            model.set_weights(start)
        start = model.get_weights()
        model.compile(keras.optimizers.SGD(0.1), share_equal_captions=share)
    dataset = tf.data.Dataset.from_tensors(batch)
    model.fit(dataset, epochs=1, verbose=0)
    return start, model.get_weights()


def main():
    split_cpu(2)
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    token_ids = random.integers(5, 30, (16, 6)).astype("int32")
    token_ids[12] = token_ids[1]  # equal captions on different replicas
    batch = {
        "images": random.integers(0, 256, (16, 64, 64, 3)).astype("uint8"),
        "token_ids": token_ids,
        "padding_mask": np.ones((16, 6), "int32"),
    }
    strategy = make_strategy("mirrored", 2)
    for share in (False, True):
        start, single = updated_weights(None, batch, None, share)
        _, double = updated_weights(strategy, batch, start, share)
        pairs = list(zip(single, double, strict=True))
        difference = max(np.abs(a - b).max() for a, b in pairs)
        moved = max(np.abs(a - b).max() for a, b in zip(single, start, strict=True))
        print(difference, moved)


if __name__ == "__main__":
    main()
