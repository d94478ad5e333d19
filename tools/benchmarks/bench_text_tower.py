"""Tunes the text tower of a small model together with its image projection.

    python tools/benchmarks/bench_text_tower.py --out saved_models/bench_small_model

The script trains on the inputs of the projection that `bench_small_model.py` stored in
`--out`. Each row is a learning rate of the text tower, relative to that of the
projection. The columns are those of `bench_small_model.py`. Compare a row with the row
"300 steps" of `bench_methods.py`, which has the same settings and keeps the text tower.
A seed takes 10 minutes of processor time.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bench_small_model
from bench_small_model import print_header, print_row
from projection_training import (
    BATCH_SIZE,
    INITIAL_TEMPERATURE,
    LEARNING_RATE,
    WARMUP_STEPS,
    join,
)

STEPS = 300
DROPOUT = 0.3
RATES = (0.01,)
# Share of a batch that is encoded as short captions.
SHORT_SHARE = 7 / 8


@dataclasses.dataclass(frozen=True)
class TunedModel:
    """Projection of the images, and the tuned text tower.

    Attributes:
        model: `ALIGN` with the text tower.
        kernel: float array (features, d).
        bias: float array (d,).
    """

    model: Any
    kernel: np.ndarray
    bias: np.ndarray

    def encode_images(self, rows: np.ndarray) -> np.ndarray:
        """Returns the embeddings of images, (n, d) of unit length."""
        embeddings = rows @ self.kernel + self.bias
        return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the embeddings of texts, (n, d) of unit length."""
        return self.model.encode_texts(texts)


def draw_captions(captions, batch, rng):
    """Returns a caption of each image of a batch, and the group of equal captions."""
    drawn = [captions[image][rng.integers(len(captions[image]))] for image in batch]
    _, groups = np.unique(drawn, return_inverse=True)
    return drawn, groups


def split_by_length(tokens):
    """Splits the token ids of a batch into short and long captions, without padding.

    Few captions are long. Without the split, each caption would be as long as the
    longest one, and a step would take twice the time. The lengths are multiples of 4,
    so TensorFlow traces the step only a few times.

    Returns:
        Tuple of int array (n,), the order of the captions from short to long, and a
        list of two dicts of token ids in this order.
    """
    tokens = {name: np.asarray(ids) for name, ids in tokens.items()}
    lengths = tokens["padding_mask"].sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    parts = []
    for part in np.split(order, [int(SHORT_SHARE * len(order))]):
        longest = -(-lengths[part].max() // 4) * 4
        parts.append({name: ids[part, :longest] for name, ids in tokens.items()})
    return order, parts


def train(features, model, parts, seed, rate):
    """Trains the projection and the text tower.

    Args:
        features: `bench_small_model.Features`.
        model: `ALIGN`, whose text tower is changed.
        parts: list of the tuples that its method `images` returns.
        seed: int, seed of the order and the captions.
        rate: float > 0, learning rate of the text tower relative to that of the
            projection.

    Returns:
        `TunedModel`.
    """
    import keras
    import tensorflow as tf

    from align_keras.losses import ContrastiveLoss

    rows, captions = join(parts)
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    kernel = tf.Variable(features.kernel.astype("float32"))
    bias = tf.Variable(tf.zeros(features.kernel.shape[1]))
    log_temperature = tf.Variable(np.log(INITIAL_TEMPERATURE).astype("float32"))
    loss = ContrastiveLoss(share_equal_captions=True)
    tower = model.text_encoder

    def optimizer(learning_rate):
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0,
            STEPS - WARMUP_STEPS,
            warmup_target=learning_rate,
            warmup_steps=WARMUP_STEPS,
        )
        return keras.optimizers.Adam(schedule)

    projection_variables = [kernel, bias, log_temperature]
    tower_variables = [variable.value for variable in tower.trainable_variables]
    projection_optimizer = optimizer(LEARNING_RATE)
    tower_optimizer = optimizer(rate * LEARNING_RATE)

    @tf.function(reduce_retracing=True)
    def step(images, token_parts, groups):
        with tf.GradientTape() as tape:
            images = tf.nn.dropout(images, DROPOUT)
            images = tf.math.l2_normalize(images @ kernel + bias, axis=1)
            texts = [tower(tokens, training=True) for tokens in token_parts]
            texts = tf.math.l2_normalize(tf.concat(texts, axis=0), axis=1)
            total = loss(images, texts, tf.exp(log_temperature), pair_groups=groups)
        variables = projection_variables + tower_variables
        gradients = tape.gradient(total, variables)
        count = len(projection_variables)
        projection_optimizer.apply(gradients[:count], projection_variables)
        tower_optimizer.apply(gradients[count:], tower.trainable_variables)

    order = np.zeros(0, int)
    for _ in range(STEPS):
        if len(order) < BATCH_SIZE:
            order = np.concatenate([order, rng.permutation(len(rows))])
        batch, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
        texts, groups = draw_captions(captions, batch, rng)
        by_length, token_parts = split_by_length(model.preprocessor.tokenizer(texts))
        step(rows[batch[by_length]], token_parts, groups[by_length])
    return TunedModel(model, kernel.numpy(), bias.numpy())


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    arguments = parser.parse_args()
    model = bench_small_model.untrained_model(
        params_override="task.model.text_encoder.locked=false"
    )
    features = bench_small_model.Features(model, arguments.out)
    corpora = bench_small_model.read_corpora(features)
    held_out = bench_small_model.with_authors(
        bench_small_model.read_held_out(features), corpora
    )
    initial = model.text_encoder.get_weights()
    print_header(held_out)
    for rate in arguments.rates:
        recalls = []
        for seed in bench_small_model.SEEDS:
            model.text_encoder.set_weights(initial)
            tuned = train(features, model, list(corpora.values()), seed, rate)
            recalls.append(bench_small_model.recalls_at_10(tuned, held_out))
            print("seed", seed, np.round(recalls[-1], 1), file=sys.stderr, flush=True)
        print_row(f"text tower, rate {rate:g}", recalls)


if __name__ == "__main__":
    main()
