"""Drawn images of three classes, and the `evaluate` command for fine-tuning."""

import json

import numpy as np
from PIL import Image

from align_keras.cli.main import main

# Overrides that train only the head, which is faster to trace than the whole model.
HEAD = (
    "runs=2,batch_size=12,full.steps=null,"
    "head.steps=2,head.train_size=32,head.eval_size=40"
)  # Overrides that train the head and then the whole model.
BOTH = "runs=1,batch_size=12,head.steps=1,full.steps=2,full.eval_size=40," + (
    "head.train_size=32,full.train_size=32"
)


def draw(label, seed):
    """Draws an image of 44 x 36 pixels.

    Args:
        label: 0 for reddish rings, 1 for greenish bars, 2 for a plain bluish image.
        seed: Seed of the colors and of the pattern.
    """
    random = np.random.default_rng((label, seed))
    rows, columns = np.indices((36, 44))
    distance = [np.hypot(rows - 18, columns - 22), columns, np.zeros((36, 44))][label]
    wave = np.sin(distance / random.uniform(1.0, 1.6) + random.uniform(0, 6))
    color = random.uniform(70, 110, 3) + 60 * np.eye(3)[label]
    pixels = color + 60 * wave[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype("uint8"))


def evaluate(capsys, *arguments):
    """Runs `align-keras evaluate` with `--json`.

    Returns:
        Tuple of the parsed result and the text on stderr.
    """
    code = main(["evaluate", *map(str, arguments), "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out), printed.err
