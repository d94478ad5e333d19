"""A run's own evaluation, on a test set with the same image twice."""

import json

import pytest

from align_keras.cli.pipeline import Run
from align_keras.config import load_config
from align_keras.data import read_retrieval_set
from align_keras.datasets import build_corpus
from tests.cli.small_run import draw
from tests.small import small_align


@pytest.fixture(scope="module")
def test_set(tmp_path_factory):
    """The same drawing twice, in two files with captions of their own."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = []
    for caption in ("a ring", "a circle"):
        draw("red", "ring").save(folder / f"{caption}.png")
        lines.append(json.dumps({"image": f"{caption}.png", "caption": caption}))
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    builder = build_corpus("pairs", pairs=path, data_dir=folder / "data")
    return read_retrieval_set(builder, *builder.info.splits)


def test_equal_images_are_one_target(test_set, tmp_path):
    assert len(test_set) == 2 and len(set(test_set.image_keys)) == 1
    run = Run(
        config=load_config(params_override="task.evaluation.ks=[1]"),
        directory=tmp_path,
        model=small_align(),
        train_builder=None,
        test_set=test_set,
        strategy=None,
        notes={},
    )
    metrics = run.evaluate()
    # The twins can't be told apart. Were each one's twin wrong, it would come first,
    # since ties are pessimistic, and no caption of the twins would find its image.
    assert metrics["t2i/recall_at_1"] == metrics["i2t/recall_at_1"] == 1.0
