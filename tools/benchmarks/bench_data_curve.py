"""Measures how recall of `align_small_en` grows with its training data.

    python tools/benchmarks/bench_data_curve.py --out saved_models/bench_small_model

The script trains only the image projection, as `bench_small_model.py` does, on random
fractions of the training images. It uses the features that `bench_small_model.py`
stored in `--out`. The number of steps of each fraction is the one with the best recall
on the sources of `bench_held_out.py`. The stamps choose nothing. Columns:

- images: number of training images, with the number of steps.
- held out: R@10 in percent, the mean of both directions and of the held-out sources.
- stamps: R@1 and R@10 from texts to images and from images to texts.

Each value is the mean of three seeds, which also draw the images. The last rows have a
straight line that is fitted to recall and the logarithm of the number of images. They
show the gain of twice as many images, and how many images the line needs for an R@10 of
60 from texts to images of the stamps.
"""

import argparse
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bench_held_out
import bench_small_model
from projection_training import Settings, train

FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
STEPS = (150, 300, 600)
DROPOUT = 0.3
# R@10 of the stamps from texts to images in percent.
AIM = 60
COLUMNS = ("t2i R@1", "t2i R@10", "i2t R@1", "i2t R@10")


def sample(parts, fraction, seed):
    """Returns a random fraction of the images of each corpus.

    A part is a tuple of features, captions and a bool array, as of `Features.images`.
    """
    rng = np.random.default_rng(seed)
    sampled = []
    for rows, captions, keep in parts:
        sampled.append((rows, captions, keep & (rng.random(len(keep)) < fraction)))
    return sampled


def measure(features, parts, held_out, stamps, fraction, steps):
    """Trains with each seed.

    Returns:
        Tuple of the number of images, recall of the held-out sources in percent, and
        the four recalls of the stamps in percent. Each is a mean over the seeds.
    """
    counts, means, of_stamps = [], [], []
    for seed in bench_small_model.SEEDS:
        chosen = sample(parts, fraction, seed)
        counts.append(sum(int(keep.sum()) for _, _, keep in chosen))
        model = train(features, chosen, seed, Settings(steps, dropout=DROPOUT))
        means.append(np.mean(bench_small_model.recalls_at_10(model, held_out)))
        of_stamps.append(bench_held_out.recalls(model, *stamps)[:4])
    return np.mean(counts), np.mean(means), np.mean(of_stamps, axis=0)


def fitted_line(counts, recalls):
    """Returns the gain per doubling of the images, and the recall of one image."""
    gain, start = np.polyfit(np.log2(counts), recalls, 1)
    return gain, start


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    model = bench_small_model.untrained_model()
    features = bench_small_model.Features(model, arguments.out)
    held_out = bench_small_model.read_held_out(features)
    parts = list(bench_small_model.read_corpora(features).values())
    rows, captions, _ = features.images(
        "stamps", lambda: bench_small_model.corpus_pairs("stamps")
    )
    print(f"{'images':>8} {'steps':>6} {'held out':>9}", *COLUMNS, sep="  ")
    table = []
    for fraction in FRACTIONS:
        results = [
            (
                steps,
                *measure(features, parts, held_out, (rows, captions), fraction, steps),
            )
            for steps in STEPS
        ]
        steps, count, mean, of_stamps = max(results, key=lambda result: result[2])
        table.append((count, mean, *of_stamps))
        cells = "  ".join(f"{value:8.1f}" for value in of_stamps)
        print(f"{count:8,.0f} {steps:6} {mean:9.1f}  {cells}", flush=True)
    counts, *columns = np.transpose(table)
    for name, recalls in zip(("held out", *COLUMNS), columns, strict=True):
        gain, start = fitted_line(counts, recalls)
        print(f"{name}: {gain:+.1f} points for twice as many images")
        if name == "t2i R@10":
            needed = 2 ** ((AIM - start) / gain)
            print(f"{name}: the line reaches {AIM} with {needed:,.0f} images")


if __name__ == "__main__":
    main()
