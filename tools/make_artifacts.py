"""Writes a small preset and a `.keras` file for the tests of later versions.

usage: python tools/make_artifacts.py [--to tests/artifacts]

Later versions must open the models that users have. The script writes the archives
`preset.tar.xz` and `keras.tar.xz`, and the embeddings that later versions must
reproduce, `expected.json`, to `tests/artifacts/VERSION/`, where VERSION is `0.1` for
version 0.1.0. The artifacts of a released version are never written again.
"""

import argparse
import io
import json
import os
import pathlib
import sys
import tarfile
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

import keras  # noqa: E402
import numpy as np  # noqa: E402

import align_keras  # noqa: E402
from tests.helpers.small_run import COLORS, SHAPES, draw  # noqa: E402

QUERIES = ["a red ring", "something blue", "crème brûlée", ""]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", *COLORS, *SHAPES]


def make_model() -> align_keras.ALIGN:
    """Returns a compiled model whose random weights tell images and texts apart."""
    keras.utils.set_random_seed(1)
    image_encoder = align_keras.ImageEncoder(
        width_coefficient=0.25,
        depth_coefficient=0.3,
        num_stages=3,
        image_size=32,
        projection_dim=16,
    )
    text_encoder = align_keras.TextEncoder(
        vocabulary_size=len(VOCABULARY),
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        projection_dim=16,
        sequence_length=8,
    )
    model = align_keras.ALIGN.from_encoders(
        image_encoder, text_encoder, vocabulary=VOCABULARY
    )
    source = np.random.default_rng(1)
    for variable in model.variables:
        if "float" not in variable.dtype or not variable.shape:
            continue
        value = variable.numpy() * source.uniform(0.5, 1.5, variable.shape)
        if "variance" in variable.path:
            # A smaller variance keeps the signal from fading in untrained layers.
            value *= 0.1
        elif value.ndim == 1 or not value.any():
            value += source.normal(0, 0.02, variable.shape)
        if variable.path.startswith(text_encoder.name):
            # Weights of BERT start so small that all texts have similar embeddings.
            value *= 10
        variable.assign(value)
    model.compile(recipe="paper")
    model.build_optimizer()
    return model


def example_images() -> list[bytes]:
    """Returns eight drawings as PNG."""
    contents = []
    for color, shape in zip(COLORS, SHAPES * 2, strict=False):
        buffer = io.BytesIO()
        draw(color, shape).save(buffer, "PNG")
        contents.append(buffer.getvalue())
    return contents


def embed_examples(model: align_keras.ALIGN) -> dict[str, list]:
    """Returns the embeddings of the images and of the queries."""
    images = model.encode_images(example_images())
    texts = model.encode_texts(QUERIES)
    return {
        "images": np.round(np.asarray(images, float), 7).tolist(),
        "texts": np.round(np.asarray(texts, float), 7).tolist(),
    }


def pack(folder: str, target: pathlib.Path) -> None:
    """Writes a folder as an archive without owners and dates."""

    def remove_details(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return info

    with tarfile.open(target / f"{folder}.tar.xz", "w:xz", preset=9) as archive:
        archive.add(folder, filter=remove_details)


def make_artifacts(target: pathlib.Path) -> None:
    """Writes the archives and the expected embeddings to a new folder."""
    target.mkdir(parents=True)
    model = make_model()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        model.save_to_preset("preset")
        os.mkdir("keras")
        model.save("keras/align.keras")
        for name in ("preset", "keras"):
            pack(name, target)
        os.chdir(ROOT)
    text = json.dumps(embed_examples(model), indent=1) + "\n"
    (target / "expected.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--to",
        type=pathlib.Path,
        default=ROOT / "tests" / "artifacts",
        metavar="DIR",
        help="parent folder of the versions (default: tests/artifacts)",
    )
    version = ".".join(align_keras.__version__.split(".")[:2])
    target = (parser.parse_args().to / version).resolve()
    if target.exists():
        sys.exit(
            f"Artifacts of a version are written only once. Received: {target}, "
            "which exists. Choose another folder with --to."
        )
    make_artifacts(target)
    total = sum(path.stat().st_size for path in target.iterdir())
    print(f"Wrote {total:,} bytes to {target}.", file=sys.stderr)
