"""Tunes the text tower of a small model together with its image projection.

    python tools/benchmarks/bench_text_tower.py --out saved_models/bench_small_model

The script trains on the inputs of the projection that `bench_small_model.py` stored in
`--out`. Each row is a learning rate of the text tower, relative to that of the
projection. The columns are those of `bench_small_model.py`. Compare a row with the row
"300 steps" of `bench_methods.py`, which has the same settings and keeps the text tower.
A seed takes 10 minutes of processor time.
"""

import argparse
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bench_small_model
from bench_small_model import print_header, print_row
from projection_training import (
    INITIAL_TEMPERATURE,
    LEARNING_RATE,
    Batches,
    Projection,
    Settings,
    adam,
    join,
)

SETTINGS = Settings(300, dropout=0.3)
RATES = (0.01,)
# Share of a batch that is encoded as short captions.
SHORT_SHARE = 7 / 8


def draw_captions(captions, batch, rng):
    """Returns a caption of each image of a batch, and the group of equal captions."""
    drawn = [captions[image][rng.integers(len(captions[image]))] for image in batch]
    _, groups = np.unique(drawn, return_inverse=True)
    return drawn, groups


def split_by_length(tokens):
    """Splits the token ids of a batch into short and long captions.

    Few captions are long. Without the split, all captions would be padded to the length
    of the longest one, and a step would take twice the time. The lengths are multiples
    of 4, so TensorFlow traces the step only a few times.

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
        features: `bench_small_model.Features` of the model, which has not embedded any
            text yet.
        model: `ALIGN`, whose text tower is changed.
        parts: list of the tuples that its method `images` returns.
        seed: int, seed of the order and the captions.
        rate: float > 0, learning rate of the text tower relative to that of the
            projection.

    Returns:
        `Projection`, whose texts are embedded with the tuned tower.
    """
    import tensorflow as tf

    from align_keras.losses import ContrastiveLoss

    rows, captions = join(parts)
    rng = np.random.default_rng(seed)
    kernel = tf.Variable(features.kernel.astype("float32"))
    bias = tf.Variable(tf.zeros(features.kernel.shape[1]))
    log_temperature = tf.Variable(np.log(INITIAL_TEMPERATURE).astype("float32"))
    loss = ContrastiveLoss(share_equal_captions=True)
    tower = model.text_encoder

    projection_variables = [kernel, bias, log_temperature]
    tower_variables = [variable.value for variable in tower.trainable_variables]
    projection_optimizer = adam(LEARNING_RATE, SETTINGS.steps)
    tower_optimizer = adam(rate * LEARNING_RATE, SETTINGS.steps)

    @tf.function(reduce_retracing=True)
    def step(images, token_parts, groups):
        with tf.GradientTape() as tape:
            images = tf.nn.dropout(images, SETTINGS.dropout)
            images = tf.math.l2_normalize(images @ kernel + bias, axis=1)
            text_parts = [tower(tokens, training=True) for tokens in token_parts]
            texts = tf.math.l2_normalize(tf.concat(text_parts, axis=0), axis=1)
            total = loss(images, texts, tf.exp(log_temperature), pair_groups=groups)
        variables = projection_variables + tower_variables
        gradients = tape.gradient(total, variables)
        count = len(projection_variables)
        projection_optimizer.apply(gradients[:count], projection_variables)
        tower_optimizer.apply(gradients[count:], tower.trainable_variables)

    batches = Batches(len(rows), rng, SETTINGS, features, rows, captions)
    for _ in range(SETTINGS.steps):
        batch, _ = batches.next()
        texts, groups = draw_captions(captions, batch, rng)
        by_length, token_parts = split_by_length(model.preprocessor.tokenizer(texts))
        step(rows[batch[by_length]], token_parts, groups[by_length])
    no_text_kernel = np.zeros([features.kernel.shape[1]] * 2, "float32")
    return Projection(features, kernel.numpy(), bias.numpy(), no_text_kernel)


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    arguments = parser.parse_args()
    import keras

    features = bench_small_model.Features(
        bench_small_model.untrained_model(), arguments.out
    )
    corpora = bench_small_model.read_corpora(features)
    held_out = bench_small_model.with_authors(
        bench_small_model.read_held_out(features), corpora
    )
    print_header(held_out)
    for rate in arguments.rates:
        recalls = []
        for seed in bench_small_model.SEEDS:
            # The layers of dropout take their seeds when the model is built.
            keras.utils.set_random_seed(seed)
            model = bench_small_model.untrained_model()
            # New features have no embeddings of texts by an earlier tower.
            features = bench_small_model.Features(model, arguments.out)
            tuned = train(features, model, list(corpora.values()), seed, rate)
            recalls.append(bench_small_model.recalls_at_10(tuned, held_out))
            print("seed", seed, np.round(recalls[-1], 1), file=sys.stderr, flush=True)
        print_row(f"text tower, rate {rate:g}", recalls)


if __name__ == "__main__":
    main()
