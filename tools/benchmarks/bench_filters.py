"""Measures the effect of the filters of `align-keras corpus score` on held-out recall.

    python tools/benchmarks/bench_filters.py --out saved_models/bench_small_model

The script trains the image projection of `bench_small_model.py` on the drawings that
each filter keeps, and prints the mean recall at 10 of its held-out sources, the mean of
three seeds, with the standard deviation over the seeds. The features in `--out` are
those of `bench_small_model.py`. The filters are conditions on the columns of
`align-keras corpus score`:

- `similarity` is computed by models of the same kind that were trained on the other
  half of the images, because a model gives its own training pairs high scores.
- `duplicate_similarity` compares the image embeddings of these models.
- `balance` has the words of all captions as terms.

The second table has a random other caption for a part of the images, as a corpus from
the web does. The held-out sources are the same.
"""

import argparse
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bench_small_model
import projection_training

SETTINGS = projection_training.Settings(600, dropout=0.3)
WRONG_SHARES = (0.0, 0.3)
SEED = 0
MIN_WORD_LENGTH = 3
MAX_PAIRS_PER_TERM = 20


class Pairs:
    """Images with their captions, and the scores of each pair of both.

    Attributes:
        rows: float (images, features).
        captions: list with the captions of each image.
        similarity: list of arrays, cosine of the image and each of its captions.
        duplicate_similarity: float (images,).
        is_balanced: list of bool arrays, whether a balanced sample has the caption.
    """

    def __init__(self, features, rows, captions):
        self.rows = rows
        self.captions = captions
        # Texts are encoded faster in large batches than for each image.
        features.texts([text for texts in captions for text in texts])
        embeddings = np.empty((len(rows), features.kernel.shape[1]), "float32")
        self.similarity = [np.empty(0)] * len(rows)
        halves = np.random.default_rng(SEED).permutation(len(rows)) % 2
        for half in (0, 1):
            part = (rows, captions, halves != half)
            model = projection_training.train(features, [part], SEED, SETTINGS)
            for number in np.flatnonzero(halves == half):
                embeddings[number] = model.encode_images(rows[[number]])[0]
                texts = model.encode_texts(captions[number])
                self.similarity[number] = texts @ embeddings[number]
        self.duplicate_similarity = find_duplicates(embeddings)
        self.is_balanced = draw_balanced(captions)

    def select(self, keeps):
        """Returns the part that has the captions for which `keeps` is True."""
        captions = [
            [text for text, is_kept in zip(texts, kept, strict=True) if is_kept]
            for texts, kept in zip(self.captions, keeps, strict=True)
        ]
        return self.rows, captions, np.array([bool(texts) for texts in captions])


def find_duplicates(embeddings):
    """Returns the column `duplicate_similarity` of the images."""
    from align_keras.corpus.scores.semantic_duplicates import (
        cluster_images,
        duplicate_similarities,
    )

    return duplicate_similarities(embeddings, cluster_images(embeddings, seed=SEED))


def draw_balanced(captions):
    """Returns whether `draw < balance` for each caption of each image."""
    from align_keras.corpus.scores.term_balance import (
        TermMatcher,
        keep_probability,
        term_probabilities,
        uniform_draw,
    )

    every = [text for texts in captions for text in texts]
    words = {word for text in every for word in text.split()}
    matcher = TermMatcher(sorted(w for w in words if len(w) >= MIN_WORD_LENGTH))
    chances = term_probabilities(matcher.count(every), MAX_PAIRS_PER_TERM)
    return [
        np.array(
            [
                uniform_draw(str(number), text, SEED)
                < keep_probability(chances[list(matcher.match(text))])
                for text in texts
            ]
        )
        for number, texts in enumerate(captions)
    ]


def exchange_captions(captions, share):
    """Returns the captions, with those of other images for a part of the images."""
    rng = np.random.default_rng(SEED)
    exchanged = np.flatnonzero(rng.random(len(captions)) < share)
    captions = list(captions)
    moved = [captions[number] for number in rng.permutation(exchanged)]
    for number, texts in zip(exchanged, moved, strict=True):
        captions[number] = texts
    return captions


def conditions(pairs):
    """Yields the name of each filter and whether it keeps each caption."""
    yield "no filter", [np.ones(len(texts), bool) for texts in pairs.captions]
    every = np.concatenate(pairs.similarity)
    for share in (0.1, 0.3, 0.5):
        bound = np.quantile(every, share)
        name = f"similarity > {bound:.2f}, the lowest {share:.0%}"
        yield name, [values > bound for values in pairs.similarity]
    for bound in (0.95, 0.9):
        keeps = pairs.duplicate_similarity < bound
        yield (
            f"duplicate_similarity < {bound}",
            [
                np.full(len(texts), keep)
                for texts, keep in zip(pairs.captions, keeps, strict=True)
            ],
        )
    yield "draw < balance", pairs.is_balanced


def main():
    """Prints both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    features = bench_small_model.Features(
        bench_small_model.untrained_model(), arguments.out
    )
    held_out = bench_small_model.read_held_out(features)
    corpora = bench_small_model.read_corpora(features)
    rows = np.concatenate([rows[keep] for rows, _, keep in corpora.values()])
    captions = [
        texts
        for _, part_captions, keep in corpora.values()
        for texts, is_kept in zip(part_captions, keep, strict=True)
        if is_kept
    ]
    for share in WRONG_SHARES:
        print(f"{share:.0%} of the images have the captions of another image")
        pairs = Pairs(features, rows, exchange_captions(captions, share))
        for name, keeps in conditions(pairs):
            part = pairs.select(keeps)
            table = bench_small_model.measure(features, held_out, [part], SETTINGS)
            means = table.mean(axis=1)
            num_kept = int(sum(kept.sum() for kept in keeps))
            print(
                f"{name:38} {part[2].sum():7,} images {num_kept:7,} captions "
                f"{means.mean():6.1f} ± {means.std(ddof=1):.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
