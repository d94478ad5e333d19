"""A folder of drawn pictures with classes, and a model that has seen such."""

import numpy as np
import pytest

from tests.cli.drawings import draw


@pytest.fixture(scope="session")
def drawings(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawings")
    for split, count in (("train", 12), ("test", 5)):
        for label, name in enumerate(("rings", "bars", "plain")):
            own = root / split / name
            own.mkdir(parents=True)
            for number in range(count):
                seed = number + 100 * (split == "test")
                draw(label, seed).save(own / f"{number:02}.png")
    (root / "test" / "bars" / "05.png").write_bytes(b"junk")
    (root / "train" / "bars" / "12.png").write_bytes(b"junk")
    return root


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    import keras

    from align_keras.models import ALIGN
    from tests.small import VOCABULARY, small_encoders

    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("model")
    align = ALIGN(*small_encoders(lite=True), vocabulary=VOCABULARY)
    # Statistics of pictures, without which random features all but vanish.
    pictures = [draw(label, 500 + seed) for label in range(3) for seed in range(8)]
    pixels = np.stack([np.asarray(own.resize((32, 32))) for own in pictures])
    for layer in align.image_encoder._flatten_layers():
        if hasattr(layer, "momentum"):
            layer.momentum = 0.5
    for _ in range(6):
        align.image_encoder(pixels, training=True)
    align.save_to_preset(path)
    return path
