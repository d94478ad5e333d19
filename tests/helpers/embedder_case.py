"""Images, texts and a comparison for embedders of other packages' models."""

import numpy as np
from PIL import Image

# Width and height of the images.
IMAGE_SIZES = (
    (5, 5),
    (32, 32),
    (33, 47),
    (160, 160),
    (224, 225),
    (300, 200),
    (200, 301),
    (1000, 37),
    (37, 2000),
    (1600, 1203),
)
TEXTS = [
    "two dogs & a cat",
    "A Red_Bicycle, in front of an old house!",
    "  красный  велосипед &amp; кошка\n",
    "一辆红色的自行车停在老房子前面",
    "دراجة حمراء أمام منزل قديم",
    "ένα κόκκινο ποδήλατο — cafÃ©",
    "",
    "two dogs and a cat in front of an old house " * 20,
]


def write_images(folder):
    """Writes images with edges and gradients, and returns their paths."""
    generator = np.random.default_rng(0)
    paths = []
    for row, size in enumerate(IMAGE_SIZES):
        coarse = generator.integers(0, 256, (5, 4, 3), np.uint8)
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        image.paste((255, 200, 0), (0, 0, size[0] // 3, size[1] // 2))
        # JPEG needs no palette, and the largest image would be decoded at a reduced
        # size by other models.
        paths.append(folder / f"{row}.{'jpg' if row % 2 else 'png'}")
        image.save(paths[-1])
    return paths


def assert_equal_directions(actual, expected):
    """Compares embeddings after their mean is removed.

    All embeddings of a model with random weights are similar, so that the cosines of
    the embeddings themselves would not find an error.
    """
    center = expected.mean(axis=0)
    actual, expected = actual - center, expected - center
    lengths = np.linalg.norm(actual, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = np.sum(actual * expected, axis=1) / lengths
    assert cosines.min() > 0.9999, cosines
