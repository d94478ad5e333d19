"""Measures how often a model finds the right caption for a photograph.

    pip download --no-deps --python-version 3.9 --only-binary=:all: scikit-image==0.18.3
    python tools/benchmarks/bench_photographs.py --wheel scikit_image-0.18.3-*.whl

There are two tests:

- 166 photographs of animals, buildings, tools and other objects in Debian's package
  gcompris-qt-data, with their words. The words of all of them are the captions.
- 17 photographs in scikit-learn and in an old wheel of scikit-image, whose newer
  versions download them, with 40 captions. Some of the wrong captions are mistakes of
  an earlier model. The script prints the caption that each photograph ranks first.

It counts photographs whose caption is first and among the first three, and captions
with one of their photographs first.
"""

import argparse
import pathlib
import sys
import tempfile
import zipfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bench_held_out
import bench_marks
from harness import run_benchmark  # noqa: E402

# Resource files of GCompris whose images of words are drawings.
DRAWINGS = ("lang_", "instruments_")
# File name in the wheel of scikit-image → caption.
SKIMAGE_CAPTIONS = {
    "astronaut.png": "a smiling astronaut in an orange space suit",
    "brick.png": "a brick wall",
    "camera.png": "a man with a camera on a tripod",
    "chelsea.png": "a ginger cat",
    "clock_motion.png": "a blurred clock",
    "coffee.png": "a cup of coffee",
    "coins.png": "old coins",
    "grass.png": "grass",
    "gravel.png": "gravel",
    "hubble_deep_field.jpg": "galaxies in deep space",
    "ihc.png": "stained tissue under a microscope",
    "moon.png": "the surface of the moon",
    "motorcycle_left.png": "a motorcycle in a garage",
    "retina.jpg": "the retina of an eye",
    "rocket.jpg": "a rocket launch",
}
# File name in scikit-learn → caption.
SKLEARN_CAPTIONS = {"china.jpg": "a Chinese temple", "flower.jpg": "a dahlia"}
OTHER_CAPTIONS = (
    "a dog on a beach",
    "a birthday cake",
    "a red bicycle",
    "a bowl of fruit",
    "a sailing boat",
    "a snowy mountain",
    "a city at night",
    "a child on a swing",
    "a football match",
    "an airplane",
    "a horse in a meadow",
    "a bird on a branch",
    "a plate of pasta",
    "a laptop on a desk",
    "a bridge over a river",
    "a rose",
    "a street with cars",
    "a bedroom",
    "a map",
    "a woman with an umbrella",
    "a tractor",
    "a sunset over the sea",
    "a tiger",
)


def read_word_photographs(gcompris, target):
    """Returns the paths of the photographs of GCompris and their words."""
    pairs = zip(*bench_marks.gcompris_pairs(gcompris, target), strict=True)
    photographs = [
        (file, words[0])
        for file, words in pairs
        if not pathlib.Path(file).name.startswith(DRAWINGS)
    ]
    return [file for file, _ in photographs], [words for _, words in photographs]


def read_photographs(wheel, target):
    """Returns the paths of the 17 photographs and their captions."""
    import sklearn.datasets

    with zipfile.ZipFile(wheel) as archive:
        for name in SKIMAGE_CAPTIONS:
            (target / name).write_bytes(archive.read(f"skimage/data/{name}"))
    sklearn_folder = pathlib.Path(sklearn.datasets.__file__).parent / "images"
    files = [target / name for name in SKIMAGE_CAPTIONS]
    files += [sklearn_folder / name for name in SKLEARN_CAPTIONS]
    captions = [*SKIMAGE_CAPTIONS.values(), *SKLEARN_CAPTIONS.values()]
    return [str(file) for file in files], captions


def main():
    """Prints the results of each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append")
    parser.add_argument("--wheel", type=pathlib.Path, required=True)
    parser.add_argument(
        "--gcompris", type=pathlib.Path, default=bench_held_out.GCOMPRIS
    )
    arguments = parser.parse_args()
    import align_keras

    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder)
        word_files, words = read_word_photographs(arguments.gcompris, target)
        files, correct = read_photographs(arguments.wheel, target)
        captions = [*correct, *OTHER_CAPTIONS]
        for name in arguments.model or ["align_small_en"]:
            print(name)
            model = align_keras.load_model(name)
            distinct = sorted(set(words))
            scores = model.encode_images(word_files) @ model.encode_texts(distinct).T
            print_counts(scores, [distinct.index(word) for word in words])
            scores = model.encode_images(files) @ model.encode_texts(captions).T
            print_counts(scores, range(len(files)))
            for file, best in zip(files, scores.argmax(axis=1), strict=True):
                print(f"  {pathlib.Path(file).name:24} {captions[best]}")


def print_counts(scores, correct):
    """Prints the counts of a test.

    Args:
        scores: float (photographs, captions).
        correct: sequence of int, number of the caption of each photograph.
    """
    correct = np.asarray(correct)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :3] == correct[:, None]
    best = scores.argmax(axis=0)
    has_photograph = np.unique(correct)
    photograph_first = correct[best[has_photograph]] == has_photograph
    print(
        f"{len(scores)} photographs, {scores.shape[1]} captions: caption first for "
        f"{order[:, 0].sum()}, among three for {order.any(axis=1).sum()}, photograph "
        f"first for {photograph_first.sum()} of {len(has_photograph)} captions"
    )


if __name__ == "__main__":
    run_benchmark(main)
