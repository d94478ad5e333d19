"""Measures how often a model finds the right one of 40 captions for a photograph.

    pip download --no-deps --python-version 3.9 --only-binary=:all: scikit-image==0.18.3
    python tools/benchmarks/bench_photographs.py --wheel scikit_image-0.18.3-*.whl

The 17 photographs are in scikit-learn and in an old wheel of scikit-image. Its newer
versions download them. The captions were written before a model was measured. The
script prints the caption that each photograph ranks first, and three counts:
photographs whose caption is first and among the first three, and captions whose
photograph is first.
"""

import argparse
import pathlib
import tempfile
import zipfile

import numpy as np

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


def read_photographs(wheel, target):
    """Returns the paths of the photographs and their captions."""
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
    """Prints the first caption of each photograph and the counts of each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append")
    parser.add_argument("--wheel", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    import align_keras

    with tempfile.TemporaryDirectory() as folder:
        files, correct = read_photographs(arguments.wheel, pathlib.Path(folder))
        captions = [*correct, *OTHER_CAPTIONS]
        for name in arguments.model or ["align_small_en"]:
            model = align_keras.load_model(name)
            scores = model.encode_images(files) @ model.encode_texts(captions).T
            print_model(name, files, captions, scores)


def print_model(name, files, captions, scores):
    """Prints the first captions and the counts of a model."""
    print(name)
    order = np.argsort(-scores, axis=1, kind="stable")
    for file, numbers in zip(files, order, strict=True):
        print(f"  {pathlib.Path(file).name:24} {captions[numbers[0]]}")
    rows = np.arange(len(files))
    first = (order[:, 0] == rows).sum()
    in_three = (order[:, :3] == rows[:, None]).any(axis=1).sum()
    image_first = (scores[:, : len(files)].argmax(axis=0) == rows).sum()
    print(
        f"of {len(files)} photographs and {len(captions)} captions: caption first "
        f"{first}, among three {in_three}, photograph first {image_first}"
    )


if __name__ == "__main__":
    main()
