"""Writes small artifacts of this version, which tests of later versions open.

usage: python tools/make_artifacts.py [--to tests/artifacts]

Each kind is an archive in `tests/artifacts/VERSION/` (VERSION is `0.1` of `0.1.0`):
`pairs` (drawn images with captions), `run` (a run that was stopped at step 120 of 140),
`preset`, `keras`, `export` (SavedModels), `index`, `cache` (of embeddings), `corpus`
(shards of TFDS) and `hugging_face`; `expected.json` holds the answers. A version that
has been released is never written again: later code must open what users have.
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

ROOT = pathlib.Path(__file__).parents[1]
COLORS = ("red", "green", "blue", "black", "orange", "purple", "brown", "gray")
SHAPES = ("circle", "square", "bar", "cross", "ring")
QUERIES = ["a red ring", "something blue", "crème brûlée", ""]
STOPPED, STEPS = 120, 140


def draw(color, shape):
    """Draws one of the 40 images."""
    image = Image.new("RGB", (48, 48), "white")
    pen = ImageDraw.Draw(image)
    box = (8, 8, 40, 40)
    if shape == "circle":
        pen.ellipse(box, fill=color)
    elif shape == "square":
        pen.rectangle(box, fill=color)
    elif shape == "bar":
        pen.rectangle((8, 20, 40, 28), fill=color)
    elif shape == "ring":
        pen.ellipse(box, outline=color, width=6)
    else:
        pen.line((8, 8, 40, 40), fill=color, width=6)
        pen.line((40, 8, 8, 40), fill=color, width=6)
    return image


def make_pairs():
    """Writes `pairs/`; returns the images' bytes and their captions."""
    os.mkdir("pairs")
    lines, contents, captions = [], [], []
    for color in COLORS:
        for shape in SHAPES:
            name, caption = f"{color}_{shape}.png", f"a {color} {shape}"
            draw(color, shape).save(f"pairs/{name}")
            contents.append(pathlib.Path("pairs", name).read_bytes())
            captions.append(caption)
            lines.append(json.dumps({"image": name, "caption": caption}))
    pathlib.Path("pairs/pairs.jsonl").write_text("\n".join(lines) + "\n")
    return contents, captions


def run_overrides():
    """Returns the overrides of the run, a str."""
    data = {"corpus": "pairs", "pairs": "pairs/pairs.jsonl", "tfds_data_dir": "data"}
    sections = ("train_data", "validation_data")
    return ",".join(
        [f"task.{own}.{key}={value}" for own in sections for key, value in data.items()]
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
    """Trains in `finished/`, and keeps in `run/` what a kill at a step leaves.

    Returns:
        list of dict, what the whole run logged after that step.
    """
    arguments = ["train", "--experiment=quickstart_stamps", "--model_dir=finished"]
    if main([*arguments, f"--params_override={run_overrides()}"]):
        sys.exit("the run failed")
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
    kept = [line for line in lines if json.loads(line)["step"] <= STOPPED]
    (run / "metrics.jsonl").write_text("".join(kept))
    return [own for own in map(json.loads, lines) if own["step"] > STOPPED]


def make_hugging_face(vocabulary):
    """Writes `hugging_face/`: no stage may be as narrow as the one before it."""
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
    model = align_keras.ALIGN(image_encoder, text_encoder, vocabulary=vocabulary)
    source = np.random.default_rng(1)
    for variable in model.variables:
        if "float" not in variable.dtype or not variable.shape:
            continue
        value = variable.numpy() * source.uniform(0.5, 1.5, variable.shape)
        if "variance" in variable.path:
            value *= 0.1  # Or the signal fades away in untrained layers.
        elif value.ndim == 1 or not value.any():
            value += source.normal(0, 0.02, variable.shape)
        # Few different values, which compress well, and no variance of zero.
        step = 2.0 ** np.floor(np.log2(np.abs(value).max() / 30))
        variable.assign(np.round(value / step + 0.5) * step)
    to_hugging_face(model, "hugging_face")


def make_corpus():
    """Builds `corpus/` out of large images in a folder."""
    os.mkdir("source")
    source = np.random.default_rng(0)
    for number in range(12):  # None is near another, or it would leave.
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
        sys.exit("the corpus failed")
    os.mkdir("corpus")
    shutil.copy("built/vocabulary.txt", "corpus")
    shutil.copytree("built/web_pairs", "corpus/web_pairs")


def read_corpus():
    """Returns what TFDS reads of `corpus/`: split → sorted rows."""
    builder = tfds.builder_from_directory("corpus/web_pairs/1.0.0")
    skip = {"image": tfds.decode.SkipDecoding()}
    found = {}
    for split in sorted(builder.info.splits):
        rows = tfds.as_numpy(builder.as_dataset(split, decoders=skip))
        found[split] = sorted(
            [
                bytes(row["id"]).decode(),
                [bytes(own).decode() for own in row["captions"]],
                [int(row["width"]), int(row["height"])],
                hashlib.sha256(row["image"]).hexdigest(),
            ]
            for row in rows
        )
    return found


def answers(model, contents):
    """Returns the embeddings of the first eight images and of the queries."""
    images = model.encode_images(contents[:8])
    return {
        "images": np.round(np.asarray(images, float), 7).tolist(),
        "texts": np.round(np.asarray(model.encode_texts(QUERIES), float), 7).tolist(),
    }


def make_all():
    """Makes every kind in the working directory; returns the answers."""
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
    expected["model"] = answers(model, contents)
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
    expected["hits"] = [[hit.path for hit in of_query] for of_query in hits]
    expected["scores"] = [[hit.score for hit in of_query] for of_query in hits]
    EmbeddingCache("cache", model.encode_images)(contents[:8])

    make_corpus()
    expected["corpus"] = read_corpus()
    make_hugging_face(list(model.vocabulary))
    published = align_keras.ALIGN.from_preset("hugging_face")
    expected["hugging_face"] = answers(published, contents)
    return expected


KINDS = "pairs run preset keras export index cache corpus hugging_face".split()


def pack(kind, target):
    """Writes the folder `kind` as an archive, without locks, owners and dates."""

    def plain(info):
        if info.name.endswith(".lock") or info.name.endswith("/lock"):
            return None
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return info

    with tarfile.open(target / f"{kind}.tar.xz", "w:xz", preset=9) as archive:
        archive.add(kind, filter=plain)


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
        help="the folder of the versions' folders (default: tests/artifacts)",
    )
    target = (parser.parse_args().to / version()).resolve()
    if target.exists():
        sys.exit(f"{target} exists; artifacts of a version are written once.")
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
    print(f"wrote {target}: {total:,} bytes", file=sys.stderr)
