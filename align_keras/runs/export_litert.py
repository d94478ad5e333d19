"""Both towers as LiteRT files, and a table of what the image tower keeps."""

import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
import statistics
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from align_keras.corpus.pair_files import folder_images
from align_keras.utils.errors import InputError
from align_keras.utils.progress import progress_bar, say

KS = (1, 10)
THREADS = (1, 2)
# More changed no figure by more than its noise: README.md, "Quantized towers".
_CALIBRATION_IMAGES = 200
_ROUNDS, _WARM_UP, _UNTIMED, _BATCH = 50, 5, 3, 32


def write_litert(
    align: Any,
    folder: pathlib.Path,
    *,
    quantize: str = "none",
    images: str | None = None,
    data: str | None = None,
    resizable: bool = False,
    license: str | None = None,
    **read: Any,
) -> None:
    """Writes both towers, examples, and a table of what the image tower keeps."""
    if quantize == "int8" and images is None:
        raise InputError(
            "quantize must not be int8 without `images` to calibrate with; name a "
            "table or folder of your pairs, or choose dynamic-int8."
        )
    from align_keras.export import litert_examples
    from align_keras.export.litert import image_flatbuffer, text_flatbuffer

    calibration = [] if images is None else calibration_images(images, **read)
    pixels = _pixels(calibration, align.image_size)
    # What is missing must not show itself after minutes.
    test = None if data is None else captioned_images(data, **read)
    options: dict[str, Any] = {"resizable": resizable, "license": license}
    image = image_flatbuffer(align, quantize, pixels, **options)
    text = text_flatbuffer(align, quantize, **options)
    (folder / "image.tflite").write_bytes(image)
    (folder / "text.tflite").write_bytes(text)
    source = pathlib.Path(litert_examples.__file__).parent
    for name in ("example.py", "example.c"):
        shutil.copyfile(source / name, folder / name)
    files = {quantize: image}
    if quantize != "none":
        files = {"none": image_flatbuffer(align, pixels=pixels[:1])} | files
    _write_figures(align, folder, files, images, calibration, data, test)


def captioned_images(
    name: str,
    split: str | None = None,
    *,
    data_root: str = "data",
    encoding: str | None = None,
    **columns: str | None,
) -> tuple[Any, list]:
    """Returns what the protocol `retrieval` is asked for, and its list of images."""
    from align_keras.protocols import caption_protocols
    from align_keras.protocols.protocol import Request

    path, of_table = pathlib.Path(name), dict[str, Any]()
    if path.exists():
        of_table["encoding"] = encoding
    if path.is_file():
        of_table |= columns
    request = Request(data=name, data_root=data_root, split=split, **of_table)
    return request, caption_protocols.read_captioned_images(request).images


def calibration_images(name: str, **read: Any) -> list:
    """Returns at most 200 images, spread over a set, its training split if any.

    The images of a folder need no captions.
    """
    try:
        if pathlib.Path(name).is_dir():
            images = [str(path) for path in folder_images(pathlib.Path(name))]
        elif pathlib.Path(name).exists():
            _, images = captioned_images(name, **read)
        else:
            images = _training_images(name, read)
    except InputError as error:
        # They are read as those of `data` are.
        text = re.sub(r"^data\b", "images", str(error))
        raise InputError(text) from None
    step = max(1, len(images) // _CALIBRATION_IMAGES)
    return images[::step][:_CALIBRATION_IMAGES]


def _training_images(name, read):
    try:
        return captioned_images(name, "train", **read)[1]
    except InputError:
        _, images = captioned_images(name, **read)
    say(f"{name} has no training split; its test images calibrate")
    return images


def _pixels(images, size):
    read = [read_pixels(image, size) for image in images]
    pixels = [image for image in read if image is not None]
    if images and not pixels:
        raise InputError(
            f"images must hold images, received {len(images)} that can't be decoded; "
            "check that they are JPEG, PNG, GIF, BMP or WebP files."
        )
    return pixels


def _write_figures(align, folder, files, images, calibration, data, test):
    """Prints the table and writes it as figures.json."""
    request, shown = test or (None, calibration)
    if not shown:
        say("no figures: name images, or data for recall too")
        return
    figures = measure(align, files, shown, request)
    of = data or images
    told = {"images": of, "towers": [dataclasses.asdict(row) for row in figures]}
    text = json.dumps(told, indent=2, ensure_ascii=False)
    (folder / "figures.json").write_text(f"{text}\n", encoding="utf-8")
    print("\n".join(table(figures)))
    if request is None:
        say(f"cosines are of {of}; recall needs test pairs, named by data")
    elif set(calibration) & set(shown):
        say(f"{of} calibrated the tower too; judge it by other pairs")


@dataclasses.dataclass(frozen=True)
class TowerFigures:
    """One row of the table; what Keras itself has no figure of is None."""

    name: str
    megabytes: float | None
    # An image's latency at each of `THREADS`.
    milliseconds: tuple[float, ...] | None
    # The mean and the least to Keras's embeddings.
    cosine: tuple[float, float] | None
    recall: dict[str, float]


def measure(
    align: Any, files: dict[str, bytes], images: Sequence, request: Any = None
) -> list[TowerFigures]:
    """Measures image towers, name → LiteRT file, against Keras's, which comes first."""
    embeddings, rows, image = _embed(align, files, images)
    milliseconds = _latencies(files, image)
    recall: dict[str, dict[str, float]] = dict.fromkeys(embeddings, {})
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


def read_pixels(image: str | bytes, size: int) -> np.ndarray | None:
    """Returns a tower's float32 (size, size, 3), or None if it can't be read."""
    import tensorflow as tf

    from align_keras.images import preprocess_image_bytes

    try:
        content = tf.io.read_file(image) if isinstance(image, str) else image
        return preprocess_image_bytes(tf.convert_to_tensor(content), size).numpy()
    except tf.errors.OpError:
        return None


def _embed(align, files, images):
    """Embeddings by name, the rows of the readable images, and one image."""
    from align_keras.export.litert_file import LiteRTTower
    from align_keras.models.image_engines import image_embedder

    by_keras = image_embedder(align)
    towers = {
        name: LiteRTTower(content, os.cpu_count()) for name, content in files.items()
    }
    parts, rows, shown = {name: [] for name in ("Keras", *files)}, [], None
    with progress_bar("embedding images", "images", len(images)) as bar:
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            read = [read_pixels(image, align.image_size) for image in batch]
            rows += [start + row for row, image in enumerate(read) if image is not None]
            pixels = [image[None] for image in read if image is not None]
            if pixels:
                shown = pixels[0]
                parts["Keras"].append(by_keras(np.concatenate(pixels)))
                for name, tower in towers.items():
                    parts[name] += [tower(images=image) for image in pixels]
            bar.advance(len(batch))
    if not rows:
        raise InputError(
            f"none of the {len(images)} images can be decoded; check that they are "
            "JPEG, PNG, GIF, BMP or WebP files."
        )
    return {name: np.concatenate(part) for name, part in parts.items()}, rows, shown


def _latencies(files, image):
    from align_keras.export.litert_file import prepared_run

    found = []
    for threads in THREADS:
        runs = {
            name: prepared_run(content, image, threads)
            for name, content in files.items()
        }
        found.append(interleaved_medians(runs, _ROUNDS))
    return {name: tuple(medians[name] for medians in found) for name in files}


def interleaved_medians(
    runs: dict[str, Callable[[], object]], rounds: int
) -> dict[str, float]:
    """Times functions in turn, so that a busy moment meets all: name → milliseconds."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(_WARM_UP + rounds):
        for name, run in runs.items():
            # The threads of the one before spin for a while, this one's still sleep.
            for _ in range(_UNTIMED):
                run()
            start = time.perf_counter()
            run()
            if number >= _WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(times) for name, times in seconds.items()}


def _recall(align, embeddings, rows, request):
    from align_keras.protocols.caption_protocols import retrieval

    @functools.cache
    def texts(captions):
        return align.encode_texts(list(captions))

    found = {}
    for name, images in embeddings.items():
        # What `retrieval` asks of a model, already computed.
        encoders = types.SimpleNamespace(
            readable_images=lambda _, images=images: (images, np.array(rows)),
            texts=lambda captions: texts(tuple(captions)),
        )
        metrics = retrieval(encoders, request).metrics
        keys = (f"{way}/recall_at_{k}" for way in ("t2i", "i2t") for k in KS)
        found[name] = {key: metrics[key] for key in keys}
    counts = (
        f"{way}: {metrics[f'{way}/queries']:,.0f} queries among "
        f"{metrics[f'{way}/candidates']:,.0f}"
        for way in ("t2i", "i2t")
    )
    say(f"recall of {'; '.join(counts)}")
    return found


def table(figures: Sequence[TowerFigures]) -> list[str]:
    """Returns the figures as lines of text, recall in %."""
    keys = list(figures[0].recall)
    head = ["image tower", "MB", *(f"ms, {threads} thr." for threads in THREADS)]
    head += ["cosine", "least", *(key.replace("/recall_at_", " R@") for key in keys)]
    rows = [head]
    for row in figures:
        cells = ["–"] * (3 + len(THREADS))
        if row.megabytes and row.milliseconds and row.cosine:
            cells = [f"{value:.2f}" for value in (row.megabytes, *row.milliseconds)]
            cells += [f"{cosine:.4f}" for cosine in row.cosine]
        recall = (f"{100 * row.recall[key]:.1f}" for key in keys)
        rows.append([row.name, *cells, *recall])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
