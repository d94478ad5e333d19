"""Writes small artifacts of this version for the tests of later versions.

usage: python tools/make_artifacts.py [--to tests/artifacts]

Later versions must open the files that users have. The script writes an archive of each
kind to `tests/artifacts/VERSION/`, where VERSION is `0.1` for version 0.1.0:

- `pairs`: drawn images with captions,
- `run`: a run that stopped at step 120 of 140,
- `preset`, `keras` and `hugging_face`: models,
- `export`: SavedModels,
- `index`: a search index,
- `cache`: an embedding cache,
- `corpus`: TFDS shards.

`expected.json` holds the results that later versions must reproduce. The artifacts of a
released version are never written again.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import pathlib
import shutil
import sys
import tarfile
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow_datasets as tfds  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

import align_keras  # noqa: E402
from align_keras.cli.main import main  # noqa: E402
from align_keras.datasets.build import quiet  # noqa: E402
from align_keras.models.conversion.hugging_face import to_hugging_face  # noqa: E402
from align_keras.protocols.embedding_cache import EmbeddingCache  # noqa: E402
from align_keras.search import Index  # noqa: E402
from tests.helpers.small_run import COLORS, write_pairs  # noqa: E402

QUERIES = ["a red ring", "something blue", "crème brûlée", ""]
# The step at which the run stops, and the number of steps of a whole run.
STOPPED, STEPS = 120, 140


def make_pairs():
    """Writes `pairs/`. Returns the bytes of the images and their captions."""
    table = write_pairs(pathlib.Path("pairs"))
    lines = table.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    contents = [pathlib.Path("pairs", row["image"]).read_bytes() for row in rows]
    return contents, [row["caption"] for row in rows]


def run_overrides():
    """Returns the value of `--params_override` for the run."""
    data = {"corpus": "pairs", "pairs": "pairs/pairs.jsonl", "tfds_data_dir": "data"}
    sections = ("train_data", "validation_data")
    return ",".join(
        [
            f"task.{section}.{key}={value}"
            for section in sections
            for key, value in data.items()
        ]
        + [
            "task.validation_data.tfds_split=train",
            "task.train_data.global_batch_size=8",
            "task.model.image_encoder.image_size=32",
            "task.model.image_encoder.width_coefficient=0.1",
            "task.model.image_encoder.depth_coefficient=0.1",
            "task.model.image_encoder.batch_norm_momentum=0.8",
            "task.model.text_encoder.variant=bert_tiny",
            "task.model.text_encoder.num_layers=1",
            "task.model.text_encoder.hidden_dim=16",
            "task.model.text_encoder.intermediate_dim=32",
            "task.model.text_encoder.vocabulary_size=100",
            "task.model.text_encoder.sequence_length=8",
            "task.model.projection_dim=16",
            f"trainer.train_steps={STEPS}",
            "trainer.steps_per_loop=20",
            f"trainer.checkpoint_interval={STOPPED}",
            f"trainer.validation_interval={STEPS}",
            "trainer.optimizer_config.warmup.linear.warmup_steps=2",
        ]
    )


def make_run():
    """Trains a run in `finished/`, and writes `run/` as if it had stopped earlier.

    `run/` has the files that exist after a kill at step `STOPPED`.

    Returns:
        List of dict, the metrics that the whole run logged after that step.
    """
    arguments = ["train", "--experiment=quickstart_stamps", "--model_dir=finished"]
    if main([*arguments, f"--params_override={run_overrides()}"]):
        sys.exit("The training run failed. See the messages above.")
    shutil.copytree("finished", "run")
    run = pathlib.Path("run")
    for name in ("config.json", "model.weights.h5", "tensorboard"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (run / "checkpoints").glob("ckpt-*"):
        if not path.name.startswith(f"ckpt-{STOPPED}."):
            path.unlink()
    names = ("model_checkpoint_path", "all_model_checkpoint_paths")
    state = "".join(f'{name}: "ckpt-{STOPPED}"\n' for name in names)
    (run / "checkpoints" / "checkpoint").write_text(state)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    earlier_lines = [line for line in lines if json.loads(line)["step"] <= STOPPED]
    (run / "metrics.jsonl").write_text("".join(earlier_lines))
    return [metrics for metrics in map(json.loads, lines) if metrics["step"] > STOPPED]


def make_hugging_face(vocabulary):
    """Writes a random model in the format of Hugging Face to `hugging_face/`.

    Each stage must be wider than the one before, which transformers requires.
    """
    keras.utils.set_random_seed(1)
    image_encoder = align_keras.ImageEncoder(
        width_coefficient=0.5, depth_coefficient=0.1, image_size=32
    )
    text_encoder = align_keras.TextEncoder(
        vocabulary_size=len(vocabulary),
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        projection_dim=image_encoder.output_shape[-1],
        sequence_length=8,
    )
    model = align_keras.ALIGN.from_encoders(
        image_encoder, text_encoder, vocabulary=vocabulary
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
        # A few different values compress well. Adding 0.5 avoids a variance of zero.
        step = 2.0 ** np.floor(np.log2(np.abs(value).max() / 30))
        variable.assign(np.round(value / step + 0.5) * step)
    to_hugging_face(model, "hugging_face")


def make_corpus():
    """Builds `corpus/` from large images in a folder."""
    os.mkdir("source")
    source = np.random.default_rng(0)
    # The images differ enough that none is dropped as a near duplicate.
    for number in range(12):
        image = Image.new("RGB", (230, 210), "white")
        pen = ImageDraw.Draw(image)
        for _ in range(12):
            x, y = source.integers(0, 230, 2)
            width, height = source.integers(20, 120, 2)
            color = COLORS[source.integers(len(COLORS))]
            pen.ellipse((x - width, y - height, x + width, y + height), fill=color)
        image.save(f"source/{number:02}.png")
        text = f"the ellipses of image {number}\n"
        pathlib.Path(f"source/{number:02}.txt").write_text(text)
    command = ["corpus", "build", "--source=folder:source", "--out=built"]
    command += ["--workers=1"]
    small = "vocabulary.size=200,shards.test_fraction=0.3"
    if main([*command, f"--params_override={small}"]):
        sys.exit("The corpus build failed. See the messages above.")
    os.mkdir("corpus")
    shutil.copy("built/vocabulary.txt", "corpus")
    shutil.copytree("built/web_pairs", "corpus/web_pairs")


def read_corpus():
    """Reads `corpus/` with TFDS. Returns a dict of split → sorted rows."""
    builder = tfds.builder_from_directory("corpus/web_pairs/1.0.0")
    skip = {"image": tfds.decode.SkipDecoding()}
    rows_by_split = {}
    for split in sorted(builder.info.splits):
        rows = tfds.as_numpy(builder.as_dataset(split, decoders=skip))
        rows_by_split[split] = sorted(
            [
                bytes(row["id"]).decode(),
                [bytes(caption).decode() for caption in row["captions"]],
                [int(row["width"]), int(row["height"])],
                hashlib.sha256(row["image"]).hexdigest(),
            ]
            for row in rows
        )
    return rows_by_split


def embed_examples(model, contents):
    """Returns the embeddings of the first eight images and of the queries."""
    images = model.encode_images(contents[:8])
    return {
        "images": np.round(np.asarray(images, float), 7).tolist(),
        "texts": np.round(np.asarray(model.encode_texts(QUERIES), float), 7).tolist(),
    }


def make_all():
    """Writes every kind to the working directory. Returns the expected results."""
    contents, captions = make_pairs()
    expected = {"queries": QUERIES, "overrides": run_overrides()}
    expected["resumed"] = make_run()
    model = align_keras.ALIGN.from_preset("finished")
    model.save_to_preset("preset")
    model.compile(recipe="paper")
    model.build_optimizer()
    os.mkdir("keras")
    model.save("keras/align.keras")
    model.export_saved_model("export")
    expected["model"] = embed_examples(model, contents)
    out = io.StringIO()
    retrieval = ["retrieval", "--data=pairs/pairs.jsonl", "--json"]
    with contextlib.redirect_stdout(out):
        main(["evaluate", *retrieval, "--model=preset", "--cache=ignored"])
    expected["evaluated"] = json.loads(out.getvalue())

    embeddings = model.encode_images(contents)
    index = Index.from_embeddings(
        embeddings, captions, captions, images=contents, folder="index"
    )
    hits = [index.query(query, 5) for query in model.encode_texts(QUERIES)]
    expected["hits"] = [[hit.path for hit in query_hits] for query_hits in hits]
    expected["scores"] = [[hit.score for hit in query_hits] for query_hits in hits]
    EmbeddingCache("cache", model.encode_images)(contents[:8])

    make_corpus()
    expected["corpus"] = read_corpus()
    make_hugging_face(list(model.vocabulary))
    published = align_keras.ALIGN.from_preset("hugging_face")
    expected["hugging_face"] = embed_examples(published, contents)
    return expected


KINDS = "pairs run preset keras export index cache corpus hugging_face".split()


def pack(kind, target):
    """Writes the folder `kind` as an archive without locks, owners and dates."""

    def remove_details(info):
        if info.name.endswith(".lock") or info.name.endswith("/lock"):
            return None
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return info

    with tarfile.open(target / f"{kind}.tar.xz", "w:xz", preset=9) as archive:
        archive.add(kind, filter=remove_details)


def version():
    """Returns the package's minor version, such as `0.1`."""
    return ".".join(align_keras.__version__.split(".")[:2])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--to",
        type=pathlib.Path,
        default=ROOT / "tests" / "artifacts",
        metavar="DIR",
        help="parent folder of the versions (default: tests/artifacts)",
    )
    target = (parser.parse_args().to / version()).resolve()
    if target.exists():
        sys.exit(
            f"Artifacts of a version are written only once. Received: {target}, "
            "which exists. Choose another folder with --to."
        )
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with quiet():
            expected = make_all()
        target.mkdir(parents=True)
        for kind in KINDS:
            pack(kind, target)
        text = json.dumps(expected, indent=1, ensure_ascii=False) + "\n"
        (target / "expected.json").write_text(text, encoding="utf-8")
        os.chdir(ROOT)
    total = sum(path.stat().st_size for path in target.iterdir())
    print(f"Wrote {total:,} bytes to {target}.", file=sys.stderr)
