"""What a quantised image tower costs and what it keeps: the table of an export."""

import dataclasses
import os
import statistics
import time

import numpy as np

from align_keras.utils.errors import InputError
from align_keras.utils.progress import progress_bar

KS = (1, 10)
THREADS = (1, 2)
_ROUNDS, _WARM_UP, _UNTIMED, _BATCH = 50, 5, 3, 32


@dataclasses.dataclass(frozen=True)
class TowerFigures:
    """One row of the table.

    Attributes:
        name: str, what computed the image embeddings.
        megabytes: float or None, the file's size.
        milliseconds: tuple of float or None, a picture's latency at each of
            `THREADS`.
        cosine: pair of float or None, the mean and the least to Keras's embeddings.
        recall: dict, `t2i/recall_at_1` and the like → float; empty where no set was
            named.
    """

    name: str
    megabytes: float | None
    milliseconds: tuple | None
    cosine: tuple | None
    recall: dict


def measure(align, files, images, request=None):
    """Measures image towers against Keras's.

    Args:
        align: `ALIGN`.
        files: dict, name → bytes of a LiteRT file of its image tower.
        images: list of paths or encoded pictures for cosines and latencies; those
            of `request` where there is one.
        request: `Request` of captioned pictures, or None for no recall.

    Returns:
        list of `TowerFigures`, Keras's first, then in the order of `files`.

    Raises:
        InputError: if no picture can be decoded.
    """
    embeddings, rows, picture = _embed(align, files, images)
    milliseconds = _latencies(files, picture)
    recall = dict.fromkeys(embeddings, {})
    if request is not None:
        recall = _recall(align, embeddings, rows, request)
    figures = [TowerFigures("Keras", None, None, None, recall["Keras"])]
    for name, content in files.items():
        cosines = np.sum(embeddings[name] * embeddings["Keras"], axis=1)
        figures.append(
            TowerFigures(
                name,
                len(content) / 1e6,
                milliseconds[name],
                (float(cosines.mean()), float(cosines.min())),
                recall[name],
            )
        )
    return figures


def read_pixels(image, size):
    """Decodes and preprocesses a picture for the image tower.

    Args:
        image: str, a path, or bytes, an encoded picture.
        size: int, the side of the tower's input.

    Returns:
        float32 array (size, size, 3), or None if it can't be read.
    """
    import tensorflow as tf

    from align_keras.images import preprocess_image_bytes

    try:
        content = tf.io.read_file(image) if isinstance(image, str) else image
        return preprocess_image_bytes(tf.convert_to_tensor(content), size).numpy()
    except tf.errors.OpError:
        return None


def _embed(align, files, images):
    """Embeddings by name, the rows of the readable pictures, and one picture."""
    from align_keras.export.litert_tower import LiteRTTower
    from align_keras.models.image_engines import image_embedder

    by_keras = image_embedder(align)
    towers = {
        name: LiteRTTower(content, os.cpu_count()) for name, content in files.items()
    }
    parts, rows, picture = {name: [] for name in ("Keras", *files)}, [], None
    with progress_bar("embedding pictures", "pictures", len(images)) as bar:
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            read = [read_pixels(image, align.image_size) for image in batch]
            rows += [start + row for row, own in enumerate(read) if own is not None]
            pixels = [own[None] for own in read if own is not None]
            if pixels:
                picture = pixels[0]
                parts["Keras"].append(by_keras(np.concatenate(pixels)))
                for name, tower in towers.items():
                    parts[name] += [tower(images=own) for own in pixels]
            bar.advance(len(batch))
    if not rows:
        raise InputError(
            f"none of the {len(images)} pictures can be decoded; check that they are "
            "JPEG, PNG, GIF, BMP or WebP files."
        )
    return {name: np.concatenate(own) for name, own in parts.items()}, rows, picture


def _latencies(files, picture):
    from align_keras.export.litert_tower import prepared_run

    found = {name: [] for name in files}
    for threads in THREADS:
        runs = {
            name: prepared_run(own, picture, threads) for name, own in files.items()
        }
        for name, own in interleaved_medians(runs, _ROUNDS).items():
            found[name].append(own)
    return {name: tuple(own) for name, own in found.items()}


def interleaved_medians(runs, rounds):
    """Times functions in turn, so that a busy moment meets all of them.

    Args:
        runs: dict, name → function without arguments.
        rounds: int ≥ 1, timed calls of each.

    Returns:
        dict, name → float, the median in milliseconds.

    Example:

    >>> medians = interleaved_medians({"sleep": lambda: time.sleep(1e-3)}, 3)
    >>> 1 <= medians["sleep"] < 100
    True
    """
    seconds = {name: [] for name in runs}
    for number in range(_WARM_UP + rounds):
        for name, run in runs.items():
            # The threads of the one before spin for a while, its own still sleep.
            for _ in range(_UNTIMED):
                run()
            start = time.perf_counter()
            run()
            if number >= _WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(own) for name, own in seconds.items()}


def _recall(align, embeddings, rows, request):
    from align_keras.protocols.retrieval import run

    texts = {}

    class Embedded:
        """What `retrieval` asks of a model, already computed."""

        def __init__(self, images):
            self._images = images

        def readable_images(self, images):
            return self._images, np.array(rows)

        def texts(self, captions):
            key = tuple(captions)
            if key not in texts:
                texts[key] = align.encode_texts(captions)
            return texts[key]

    found = {}
    for name, own in embeddings.items():
        metrics = run(Embedded(own), request).metrics
        found[name] = {
            f"{way}/recall_at_{k}": metrics[f"{way}/recall_at_{k}"]
            for way in ("t2i", "i2t")
            for k in KS
        }
    return found


def table(figures):
    """Returns the figures as lines of text, recall in %."""
    head = ["image tower", "MB", *(f"ms, {own} thr." for own in THREADS)]
    head += ["cosine", "least"]
    keys = list(figures[0].recall)
    head += [key.replace("/recall_at_", " R@") for key in keys]
    rows = [head]
    for own in figures:
        rows.append(
            [
                own.name,
                *_numbers([own.megabytes], 1, "{:.2f}"),
                *_numbers(own.milliseconds, len(THREADS), "{:.2f}"),
                *_numbers(own.cosine, 2, "{:.4f}"),
                *(f"{100 * own.recall[key]:.1f}" for key in keys),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _numbers(values, count, form):
    if values is None or values[0] is None:
        return ["–"] * count
    return [form.format(value) for value in values]
