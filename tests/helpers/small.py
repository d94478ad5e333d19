"""A small model that runs fast enough for tests, and batches for it."""

import numpy as np

VOCABULARY = (
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    + list("abcdefghijklmnopqrstuvwxyz")
    + [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
)


def small_encoders(
    image_size=32,
    projection_dim=16,
    num_stages=3,
    sequence_length=8,
    **image_arguments,
):
    """Returns a small image encoder and a small text encoder."""
    from align_keras.models import ImageEncoder, TextEncoder

    image_encoder = ImageEncoder(
        width_coefficient=0.25,
        depth_coefficient=0.3,
        num_stages=num_stages,
        image_size=image_size,
        projection_dim=projection_dim,
        **image_arguments,
    )
    text_encoder = TextEncoder(
        vocabulary_size=len(VOCABULARY),
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        projection_dim=projection_dim,
        sequence_length=sequence_length,
    )
    return image_encoder, text_encoder


def small_align(projection_dim=16, synchronized=False, **arguments):
    from align_keras.models import ALIGN

    encoders = small_encoders(projection_dim=projection_dim, synchronized=synchronized)
    arguments = {"vocabulary": VOCABULARY, **arguments}
    return ALIGN.from_encoders(*encoders, **arguments)


def small_batch(count=4, image_size=32, seed=0):
    """Returns a batch of random images with random captions of eight tokens."""
    random = np.random.default_rng(seed)
    return {
        "images": random.integers(0, 256, (count, image_size, image_size, 3)).astype(
            "uint8"
        ),
        "token_ids": random.integers(5, 30, (count, 8)).astype("int32"),
        "padding_mask": np.ones((count, 8), "int32"),
    }
