"""Compares the training input with decoding alone and with a common pipeline.

    python tools/benchmarks/bench_input.py [--image_size 289] [--stored_size 1024]

1,000 photographs, cut from the two of scikit-learn, are stored as a data set of the
user's pairs. Each pipeline runs in a separate process, and the processes take turns.
The table shows medians over the rounds, and medians of each round's ratios. Pipelines:

- ours: `training_batches`, which reads, shuffles, decodes, crops, resizes, mirrors and
  tokenizes.
- corpus: `training_batches` on the output of `align-keras corpus` for the same files,
  stored at 346/289 of the input size.
- squares: the same as corpus with `images.keep_aspect` false.
- common: the image steps of coyo-align's published pipeline. It parses the example,
  decodes the whole JPEG, resizes it to 346/289 of the input size without antialiasing,
  crops it at a random position and mirrors it, in floating point. It does not shuffle
  or tokenize here.
- crop: the same as common, but with the image steps of ours.
- decode: only reads the files and decodes each JPEG.
"""

import argparse
import os
import pathlib
import statistics
import tempfile

from harness import positive, run_benchmark, serve_batches, take_turns

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

PIPELINES = ("corpus", "squares", "ours", "crop", "decode", "common")
BATCH_SIZE = 50
# Images per second that EfficientNet-B0 at 128 pixels with BERT-mini trains on with two
# CPU cores.
TRAINING_SPEED = 50


def write_photographs(folder, count):
    """Writes photographs of 720 × 540 pixels, about 136 KB each as stored JPEGs."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    sources = [Image.fromarray(image) for image in load_sample_images().images]
    random = np.random.default_rng(0)
    for number in range(count):
        source = sources[number % 2]
        width = source.width * random.uniform(0.6, 0.88)
        height = width * 3 / 4
        x = random.uniform(0, source.width - width)
        y = random.uniform(0, source.height - height)
        box = (x, y, x + width, y + height)
        image = source.resize((720, 540), Image.Resampling.LANCZOS, box)
        image.save(folder / f"{number}.png", compress_level=1)
    lines = [f"{number}.png\tphotograph {number}" for number in range(count)]
    table = folder / "pairs.tsv"
    table.write_text("\n".join(["image\tcaption", *lines]))
    return table


def build(folder, count, stored_size):
    """Builds a data set of user pairs with the photographs.

    Args:
        folder: Folder of all files.
        count: Number of photographs.
        stored_size: Maximum pixels of the shorter side of the stored images.

    Returns:
        TFDS builder.
    """
    from align_keras.datasets.image_layout import ImageLayout
    from align_keras.datasets.user_pairs import UserPairs, user_pairs_config

    class Photographs(UserPairs, skip_registration=True):
        name = "photographs"
        LAYOUT = ImageLayout(size=stored_size, square=False, encoding="jpeg")

    (folder / "images").mkdir(exist_ok=True)
    table = folder / "images" / "pairs.tsv"
    if not table.exists():
        write_photographs(table.parent, count)
    builder = Photographs(
        config=user_pairs_config(table), data_dir=folder / str(stored_size)
    )
    builder.download_and_prepare()
    return builder


def build_corpus(folder, builder, image_size, name):
    """Builds a corpus of the stored files with `align-keras corpus`."""
    import tensorflow_datasets as tfds

    from align_keras.config import load_corpus_config
    from align_keras.images import crop_size_to_resize_size
    from align_keras.runs import corpus_build

    out = folder / f"{name}_{image_size}"
    shards = out / "web_pairs/1.0.0"
    if not shards.exists():
        jpegs = folder / "jpegs"
        jpegs.mkdir(exist_ok=True)
        lines = ["image\tcaption"]
        decoders = {"image": tfds.decode.SkipDecoding()}
        for number, row in enumerate(builder.as_dataset("all", decoders=decoders)):
            (jpegs / f"{number}.jpg").write_bytes(row["image"].numpy())
            lines.append(f"{number}.jpg\tphotograph number {number}")
        (jpegs / "pairs.tsv").write_text("\n".join(lines))
        # Only equal pixels count as duplicates, because cutouts of the same photograph
        # are near duplicates of each other.
        override = {
            "sources": [f"table:{jpegs / 'pairs.tsv'}"],
            "duplicates.mode": "pixels",
            "images.shorter_side": crop_size_to_resize_size(image_size),
            "images.keep_aspect": name == "corpus",
            "filter.drop_personal_data": False,
        }
        config = load_corpus_config(params_override=override)
        corpus_build.build_corpus(out, config, "shard")
    return tfds.builder_from_directory(shards)


def make_pipeline(name, builder, image_size):
    """Returns an endless dataset of batches."""
    import tensorflow as tf

    from align_keras.data import training_batches
    from align_keras.images import crop_image_bytes, crop_size_to_resize_size
    from align_keras.models import (
        ALIGNImageConverter,
        ALIGNPreprocessor,
        ALIGNTokenizer,
    )
    from align_keras.text import learn_vocabulary

    if name in ("ours", "corpus", "squares"):
        captions = [f"photograph {number}" for number in range(100)]
        preprocessor = ALIGNPreprocessor(
            ALIGNTokenizer(learn_vocabulary(captions, 100)),
            ALIGNImageConverter(image_size),
        )
        return training_batches(builder, "all", preprocessor, batch_size=BATCH_SIZE)
    side = crop_size_to_resize_size(image_size)
    spec = {"image": tf.io.FixedLenFeature((), tf.string)}

    def decode(record):
        example = tf.io.parse_single_example(record, spec)
        if name == "crop":
            drawn = tf.random.uniform((3,))
            return crop_image_bytes(
                example["image"], image_size, drawn[:2], drawn[2] < 0.5
            )
        image = tf.io.decode_jpeg(example["image"], channels=3)
        if name == "decode":
            return image[0, 0]
        image = tf.image.resize(image, (side, side))
        image = tf.image.random_crop(image, (image_size, image_size, 3))
        return tf.image.random_flip_left_right(image)

    files = [i.filename for i in builder.info.splits["all"].file_instructions]
    return (
        tf.data.TFRecordDataset(files, num_parallel_reads=tf.data.AUTOTUNE)
        .repeat()
        .map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(BATCH_SIZE, drop_remainder=True)
        .prefetch(2)
    )


def work(arguments):
    """Prints the wall and CPU seconds of a pass of a pipeline for each input line."""
    builder = build(arguments.folder, arguments.count, arguments.stored_size)
    if arguments.worker in ("corpus", "squares"):
        builder = build_corpus(
            arguments.folder, builder, arguments.image_size, arguments.worker
        )
    dataset = make_pipeline(arguments.worker, builder, arguments.image_size)
    serve_batches(dataset, arguments.count // BATCH_SIZE)


def measure(arguments):
    """Returns a dict of pipeline → list of (wall, CPU) seconds of each round."""
    names = ("folder", "count", "image_size", "stored_size")
    options = [f"--{name}={getattr(arguments, name)}" for name in names]
    commands = {name: [__file__, "--worker", name, *options] for name in PIPELINES}
    return take_turns(commands, arguments.rounds)


def report(times, count):
    """Prints a Markdown table."""
    print("| pipeline | images/s | CPU ms per image | × common, wall | × common, CPU |")
    print("|---|---|---|---|---|")
    for name, rounds in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
        pairs = list(zip(times["common"], rounds, strict=True))
        ratios = [
            statistics.median(common[column] / row[column] for common, row in pairs)
            for column in (0, 1)
        ]
        print(
            f"| {name} | {count / wall:.0f} | {1000 * cpu / count:.2f} | "
            f"{ratios[0]:.2f} | {ratios[1]:.2f} |"
        )
    print(f"| training speed of B0 at 128 pixels | {TRAINING_SPEED} | | | |")


def main():
    """Measures all pipelines, and prints their table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image_size", type=positive, default=289)
    parser.add_argument("--stored_size", type=positive, default=1024)
    parser.add_argument("--count", type=positive, default=1000)
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--worker", choices=PIPELINES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.folder = arguments.folder or pathlib.Path(folder)
        builder = build(arguments.folder, arguments.count, arguments.stored_size)
        size = sum(split.num_bytes for split in builder.info.splits.values())
        print(
            f"{arguments.count} images of {size / arguments.count / 1000:.0f} KB in "
            f"{builder.info.splits['all'].num_shards} files, to {arguments.image_size} "
            f"pixels, {os.cpu_count()} CPU cores"
        )
        report(measure(arguments), arguments.count)


if __name__ == "__main__":
    run_benchmark(main)
