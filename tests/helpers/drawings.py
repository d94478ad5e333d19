"""Pictures of three kinds and the command, for the protocols that train."""

import json

import numpy as np
from PIL import Image

from align_keras.cli.main import main

# The head alone, which is quicker to trace; and both stages.
HEAD = (
    "runs=2,batch_size=12,full.steps=null,"
    "head.steps=2,head.train_size=32,head.eval_size=40"
)
BOTH = "runs=1,batch_size=12,head.steps=1,full.steps=2,full.eval_size=40," + (
    "head.train_size=32,full.train_size=32"
)


def draw(label, seed):
    """A picture of one of three kinds: reddish rings, greenish bars, or bluish."""
    random = np.random.default_rng((label, seed))
    rows, columns = np.indices((36, 44))
    kind = [np.hypot(rows - 18, columns - 22), columns, np.zeros((36, 44))][label]
    wave = np.sin(kind / random.uniform(1.0, 1.6) + random.uniform(0, 6))
    color = random.uniform(70, 110, 3) + 60 * np.eye(3)[label]
    pixels = color + 60 * wave[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype("uint8"))


def evaluate(capsys, *arguments):
    """Runs the command; returns what it prints as JSON, and its messages."""
    code = main(["evaluate", *map(str, arguments), "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out), printed.err
