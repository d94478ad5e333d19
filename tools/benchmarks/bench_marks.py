"""Fits and measures the probabilities of a search, `Hit.relevance`.

    python tools/benchmarks/bench_marks.py --captioned /usr/share/tuxpaint/stamps

The probabilities are a logistic regression of the height of a score and the crowd of
its query (see `align_keras.search.query.hits.heights_and_crowd`). The regression
is fitted on the sources of `bench_held_out.py`, which are not training images of
align_small_en. Each source has the same weight. A hit is one of the 5 best images of a
caption. It is right if it has the caption.

The script prints

- the weights that are fitted on all sources, for `RELEVANCE_WEIGHTS`.
- for each range of the probability, the number of hits and the percentage of right
  hits. The weights for a source are fitted on the other sources. Those for
  `--captioned`, a folder of images with captions, and `--run`, a run of `align-keras
  quickstart`, are fitted on all sources.
- the mean probability of the first hits and the percentage of right first hits, and the
  mean probability after the images of the captions were removed.
- the deviance that the regression explains, for other factors of the crowd.
"""

import argparse
import dataclasses
import pathlib
import re
import struct
import tempfile
import zlib

import numpy as np
from harness import run_benchmark

HITS = 5
# Upper ends of the ranges of the probability.
RANGES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
STEEPNESS = (1.0, 1.5, 2.0, 2.5)
# Resource file of GCompris → folder with images of words.
GCOMPRIS_FOLDERS = {
    "lang": "words_sample",
    "categorization": "resource/images",
    "explore_farm_animals": "resource",
    "explore_world_animals": "resource",
    "instruments": "resource",
}
# Images of buttons.
NO_WORDS = {"", "bg", "background", "cancel", "ok"}


@dataclasses.dataclass
class Evidence:
    """Values of the best hits of the captions of a source.

    Attributes:
        values: float (captions, HITS, 2), the heights and the crowds.
        is_right: bool (captions, HITS), True for hits that have the caption.
        absent: float (captions, 2), values of the best hit without the images of the
            caption.
    """

    values: np.ndarray
    is_right: np.ndarray
    absent: np.ndarray


def read_resources(path):
    """Yields the paths and contents of the files in a Qt resource file."""
    data = path.read_bytes()
    version, tree, contents, names = struct.unpack(">4i", data[4:20])
    # Since version 2, an entry also has the time of the last change.
    entry_size = 22 if version >= 2 else 14

    def name_of(offset):
        start = names + offset
        (length,) = struct.unpack(">H", data[start : start + 2])
        return data[start + 6 : start + 6 + 2 * length].decode("utf-16-be")

    def walk(number, folder):
        start = tree + number * entry_size
        name_offset, flags = struct.unpack(">iH", data[start : start + 6])
        path_in_file = f"{folder}/{name_of(name_offset)}" if number else ""
        if flags & 2:  # A folder.
            count, first = struct.unpack(">2i", data[start + 6 : start + 14])
            for child in range(first, first + count):
                yield from walk(child, path_in_file)
            return
        (offset,) = struct.unpack(">i", data[start + 10 : start + 14])
        begin = contents + offset + 4
        (length,) = struct.unpack(">i", data[begin - 4 : begin])
        content = data[begin : begin + length]
        if flags & 1:
            content = zlib.decompress(content[4:])
        yield path_in_file, content

    yield from walk(0, "")


def name_words(name):
    """Returns the lower-case words of a file name such as `eiffelTower`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.sub(r"[\d_-]+", " ", words).strip().lower()


def gcompris_pairs(folder, target):
    """Writes the images of GCompris to a folder. Returns their paths and captions."""
    files, captions = [], []
    for resource, images in GCOMPRIS_FOLDERS.items():
        for name, content in sorted(read_resources(folder / f"{resource}.rcc")):
            path = pathlib.Path(name)
            words = name_words(path.stem)
            if images not in name or path.suffix != ".webp" or words in NO_WORDS:
                continue
            file = target / f"{resource}_{path.name}"
            file.write_bytes(content)
            files.append(str(file))
            captions.append([words])
    return files, captions


def icon_pairs():
    """Returns the images and the captions of the test split of the icons."""
    import tensorflow_datasets as tfds

    from align_keras.datasets import open_corpus

    examples = list(tfds.as_numpy(open_corpus("icons").as_dataset(split="test")))
    captions = [[text.decode() for text in row["captions"]] for row in examples]
    return [row["image"] for row in examples], captions


def captioned_pairs(folder):
    """Returns the paths and the first captions of the images of a folder.

    The other captions of Tux Paint's stamps are translations.
    """
    from align_keras.corpus.drop_counter import DropCounter
    from align_keras.corpus.pair_files import read_pairs

    records = list(read_pairs(folder, counter=DropCounter()))
    captions = [[record.captions[0].casefold()] for record in records]
    return [record.image_path for record in records], captions


def embed(model, images, captions):
    """Returns the scores of the captions, and which images have which caption."""
    texts = sorted({text for row in captions for text in row})
    scores = model.encode_texts(texts) @ model.encode_images(images).T
    has_caption = [[text in row for row in captions] for text in texts]
    return scores, np.array(has_caption)


def run_scores(folder):
    """Returns `embed` of the index of a run."""
    from align_keras.embedders import load_model
    from align_keras.search import Index

    index = Index.open(folder / "index")
    hits = index.latest(k=len(index))
    texts = sorted({text for hit in hits for text in hit.captions})
    images = np.stack([index.embedding(hit.id) for hit in hits])
    scores = load_model(folder).encode_texts(texts) @ images.T
    has_caption = [[text in hit.captions for hit in hits] for text in texts]
    return scores, np.array(has_caption)


def measure(scores, has_caption):
    """Returns the `Evidence` of all captions."""
    from align_keras.search.query.hits import heights_and_crowd

    def values_of(best_scores, row):
        heights, crowd = heights_and_crowd(best_scores, row, len(row))
        return np.stack([heights, np.full_like(heights, crowd)], axis=-1)

    values, is_right, absent = [], [], []
    for row, is_correct in zip(scores, has_caption, strict=True):
        best = np.argsort(-row, kind="stable")[:HITS]
        values.append(values_of(row[best], row))
        is_right.append(is_correct[best])
        others = row[~is_correct]
        absent.append(values_of(others.max(keepdims=True), others)[0])
    return Evidence(np.array(values), np.array(is_right), np.array(absent))


def fit(sources):
    """Returns the weights of the height and the crowd, and the bias."""
    rows = np.concatenate([source.values.reshape(-1, 2) for source in sources])
    rows = np.column_stack([rows, np.ones(len(rows))])
    is_right = np.concatenate([source.is_right.ravel() for source in sources])
    importance = np.concatenate(
        [np.full(source.is_right.size, 1 / source.is_right.size) for source in sources]
    )
    weights = np.zeros(3)
    for _ in range(30):  # Newton's method.
        chances = probabilities(rows[:, :2], weights)
        gradient = rows.T @ (importance * (is_right - chances))
        curvature = (rows.T * (importance * chances * (1 - chances))) @ rows
        weights += np.linalg.solve(curvature, gradient)
    return weights


def probabilities(values, weights):
    """Returns the probabilities of heights and crowds."""
    return 1 / (1 + np.exp(-(values @ weights[:2] + weights[2])))


def explained_deviance(source, weights):
    """Returns the share of the deviance of a constant that the regression explains."""
    is_right = source.is_right.ravel()
    chances = probabilities(source.values.reshape(-1, 2), weights)
    deviance = -np.log(np.where(is_right, chances, 1 - chances)).mean()
    mean = is_right.mean()
    return 1 + deviance / (mean * np.log(mean) + (1 - mean) * np.log(1 - mean))


def fit_without(sources, name):
    """Returns the weights that are fitted on all sources except one."""
    return fit([source for other, source in sources.items() if other != name])


def print_source(name, source, weights):
    """Prints the row of a source."""
    chances = probabilities(source.values, weights)
    cells = []
    start = 0.0
    for stop in RANGES:
        is_inside = (chances >= start) & (chances < stop)
        hits, right = is_inside.sum(), source.is_right[is_inside].sum()
        cells.append(f"{hits:,}:{right / hits:.0%}" if hits else "0:-")
        start = stop
    print(f"{name:12} " + " ".join(f"{cell:>10}" for cell in cells))
    absent = probabilities(source.absent, weights).mean()
    print(
        f"  first hits: mean {chances[:, 0].mean():.0%}, right "
        f"{source.is_right[:, 0].mean():.0%}, mean without the images {absent:.0%}"
    )


def print_steepness(scores):
    """Prints the mean explained deviance of the sources for factors of the crowd."""
    from align_keras.search.query.hits import RELEVANCE_WEIGHTS

    default = RELEVANCE_WEIGHTS["steepness"]
    for steepness in STEEPNESS:
        RELEVANCE_WEIGHTS["steepness"] = steepness
        sources = {name: measure(*pair) for name, pair in scores.items()}
        deviances = [
            explained_deviance(source, fit_without(sources, name))
            for name, source in sources.items()
        ]
        print(f"steepness {steepness:g}: explained deviance {np.mean(deviances):.3f}")
    RELEVANCE_WEIGHTS["steepness"] = default


def main():
    """Fits the weights and prints the table."""
    import bench_held_out

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="align_small_en")
    for option, default in (
        ("--gcompris", bench_held_out.GCOMPRIS),
        ("--word-cards", bench_held_out.WORD_CARDS),
        ("--backgrounds", bench_held_out.BACKGROUNDS),
    ):
        parser.add_argument(option, type=pathlib.Path, default=default)
    parser.add_argument("--captioned", type=pathlib.Path, nargs="*", default=[])
    parser.add_argument("--run", type=pathlib.Path, nargs="*", default=[])
    arguments = parser.parse_args()
    import align_keras

    model = align_keras.load_model(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder)
        pairs = bench_held_out.read_sources(
            arguments.gcompris, arguments.word_cards, target
        )
        pairs["photographs"] = bench_held_out.photograph_pairs(
            arguments.gcompris, arguments.backgrounds, target
        )
        scores = {name: embed(model, *pair) for name, pair in pairs.items()}
    sources = {name: measure(*pair) for name, pair in scores.items()}
    weights = fit(list(sources.values()))
    height, crowd, bias = weights
    print(f"weights: height {height:.2f}, crowd {crowd:.2f}, bias {bias:.2f}")
    print_steepness(scores)
    print(f"{'below':12} " + " ".join(f"{stop:>10.0%}" for stop in RANGES))
    for name, source in sources.items():
        print_source(name, source, fit_without(sources, name))
    for folder in arguments.captioned:
        evidence = measure(*embed(model, *captioned_pairs(folder)))
        print_source(folder.name, evidence, weights)
    for folder in arguments.run:
        print_source(folder.name, measure(*run_scores(folder)), weights)


if __name__ == "__main__":
    run_benchmark(main)
