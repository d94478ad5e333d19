"""Export of both encoders to LiteRT, with the effect of quantization."""

import dataclasses
import json
import pathlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from align_keras.corpus.pair_files import folder_images
from align_keras.embedders import Embedder, load_model
from align_keras.protocols.protocol import Request
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_folder
from align_keras.utils.progress import say

KS = (1, 10)
THREADS = (1, 2)
KERAS = "Keras"
# Maximum number of images. With more images, no result changed by more than its noise.
_CALIBRATION_IMAGES = 200
_ROUNDS = 50
_WARM_UP_ROUNDS = 5
# Number of untimed runs before each timed run. Threads of the previous function may
# still be busy during these runs.
_UNTIMED_RUNS = 3


@dataclasses.dataclass(frozen=True)
class RetrievalPairs:
    """Captioned images as the protocol `retrieval` reads them.

    Attributes:
        request: `Request` of the protocol.
        images: list of paths or of file contents as bytes.
    """

    request: Request
    images: list


def export_litert(
    align: Any,
    folder: pathlib.Path,
    *,
    quantize: str = "none",
    images: str | None = None,
    data: str | None = None,
    resizable: bool = False,
    license: str | None = None,
    **columns: Any,
) -> None:
    """Writes both encoders, their examples, and a table of the effect of quantization.

    Args:
        align: `ALIGN`.
        folder: path of an empty folder.
        quantize: one of `align_keras.export.QUANTIZATIONS`.
        images: name or path of the images that calibrate `int8`.
        data: name or path of captioned images, on which recall is measured.
        resizable: True for an image encoder of any number and size of images.
        license: the terms of the weights.
        **columns: options of a table, as in `retrieval_pairs`.
    """
    # All images are read first, since the conversion takes minutes.
    calibration = [] if images is None else calibration_images(images, **columns)
    pixels = _read_all_pixels(calibration, align.image_size)
    pairs = None if data is None else retrieval_pairs(data, **columns)
    content = write_litert(
        align, folder, quantize, pixels, resizable=resizable, license=license
    )
    towers = _towers_to_compare(align, quantize, content, pixels)
    write_figures(align, folder, towers, data or images, calibration, pairs)


def write_litert(
    align: Any,
    folder: pathlib.Path,
    quantize: str = "none",
    pixels: Sequence[np.ndarray] = (),
    *,
    resizable: bool = False,
    license: str | None = None,
) -> bytes:
    """Writes `image.tflite`, `text.tflite` and the examples.

    Args:
        align: `ALIGN`.
        folder: path of the folder.
        quantize: one of `align_keras.export.QUANTIZATIONS`.
        pixels: sequence of float32 arrays (S, S, 3) that calibrate `int8`.
        resizable: True for an image encoder of any number and size of images.
        license: the terms of the weights.

    Returns:
        bytes, the content of `image.tflite`.
    """
    from align_keras.export import litert_examples
    from align_keras.export.litert import image_flatbuffer, text_flatbuffer

    image = image_flatbuffer(
        align, quantize, pixels, resizable=resizable, license=license
    )
    text = text_flatbuffer(align, quantize, license=license)
    (folder / "image.tflite").write_bytes(image)
    (folder / "text.tflite").write_bytes(text)
    examples = pathlib.Path(litert_examples.__file__).parent
    for name in ("example.py", "example.c"):
        shutil.copyfile(examples / name, folder / name)
    return image


def write_int8(align: Any, folder: pathlib.Path, images: Sequence[bytes]) -> None:
    """Writes or replaces a folder of 8-bit LiteRT files.

    Args:
        align: `ALIGN`.
        folder: path of the folder.
        images: encoded images, some of which calibrate the image encoder.
    """
    pixels = _read_all_pixels(_evenly_spaced(images), align.image_size)
    with atomic_folder(folder) as temporary:
        write_litert(align, temporary, "int8", pixels)


def _towers_to_compare(
    align: Any, quantize: str, content: bytes, pixels: Sequence[np.ndarray]
) -> dict[str, bytes]:
    """Returns the float image tower and the written image tower by name."""
    from align_keras.export.litert import image_flatbuffer

    if quantize == "none":
        return {quantize: content}
    return {"none": image_flatbuffer(align, pixels=pixels[:1]), quantize: content}


def retrieval_pairs(
    name: str,
    split: str | None = None,
    *,
    data_root: str = "data",
    encoding: str | None = None,
    **columns: str | None,
) -> RetrievalPairs:
    """Reads captioned images as the protocol `retrieval` does.

    Args:
        name: data set, or path of a table or folder.
        split: a split of a data set.
        data_root: folder of the data sets.
        encoding: encoding of a table or of captions in a folder.
        **columns: `image_column` and `caption_column` of a table.
    """
    from align_keras.protocols import caption_protocols

    path = pathlib.Path(name)
    table_options: dict[str, Any] = {}
    if path.exists():
        table_options["encoding"] = encoding
    if path.is_file():
        table_options |= columns
    request = Request(data=name, data_root=data_root, split=split, **table_options)
    images = caption_protocols.read_captioned_images(request).images
    return RetrievalPairs(request, images)


def calibration_images(name: str, **columns: Any) -> list:
    """Returns at most 200 images that calibrate a quantized encoder.

    The images are evenly spaced in the training split of a data set, in a table or in a
    folder. Images in a folder need no captions.
    """
    if pathlib.Path(name).is_dir():
        images: list = [str(path) for path in folder_images(pathlib.Path(name))]
    elif pathlib.Path(name).exists():
        images = retrieval_pairs(name, **columns).images
    else:
        images = _training_images(name, columns)
    return _evenly_spaced(images)


def _evenly_spaced(images: Sequence[Any]) -> list:
    step = max(1, len(images) // _CALIBRATION_IMAGES)
    return list(images[::step][:_CALIBRATION_IMAGES])


def _training_images(name: str, columns: dict[str, Any]) -> list:
    try:
        return retrieval_pairs(name, "train", **columns).images
    except InputError:
        images = retrieval_pairs(name, **columns).images
    say(f"{name} has no training split. Its test images are used for the calibration")
    return images


def read_pixels(image: str | bytes, size: int) -> np.ndarray | None:
    """Returns an image as float32 (size, size, 3), or None if it can't be decoded."""
    import tensorflow as tf

    from align_keras.images import preprocess_image_bytes
    from align_keras.images.read import graph_file

    try:
        content = tf.io.read_file(image) if isinstance(image, str) else image
        content = graph_file(tf.convert_to_tensor(content))
        return preprocess_image_bytes(content, size).numpy()
    except tf.errors.OpError:
        return None


def _read_all_pixels(images: Sequence[str | bytes], size: int) -> list[np.ndarray]:
    pixels = [read_pixels(image, size) for image in images]
    readable = [image for image in pixels if image is not None]
    if images and not readable:
        raise InputError(
            "images must contain at least one image that can be decoded. Received: "
            f"{len(images)} files that can't be decoded. Use JPEG or PNG files."
        )
    return readable


# === Figures ===


@dataclasses.dataclass(frozen=True)
class TowerFigures:
    """Size, latency and accuracy of one image encoder.

    Attributes:
        name: quantization, or `KERAS`.
        megabytes: size of the file, or None for Keras.
        milliseconds: latency of one image with each of `THREADS`, or None for Keras.
        cosine: mean and smallest cosine similarity to the embeddings of Keras, or None
            for Keras.
        recall: dict from names of metrics to shares.
    """

    name: str
    megabytes: float | None
    milliseconds: tuple[float, ...] | None
    cosine: tuple[float, float] | None
    recall: dict[str, float]


def write_figures(
    align: Any,
    folder: pathlib.Path,
    towers: dict[str, bytes],
    source: str | None,
    calibration: Sequence[str | bytes],
    pairs: RetrievalPairs | None = None,
) -> None:
    """Measures image encoders, prints the table and writes it as `figures.json`.

    Args:
        align: `ALIGN`.
        folder: path of the folder.
        towers: dict from names to the contents of LiteRT files.
        source: name of the images that are measured.
        calibration: images that calibrated an encoder. Without `pairs`, these images
            are measured.
        pairs: `RetrievalPairs`, on which recall is measured.
    """
    images = calibration if pairs is None else pairs.images
    if not images:
        say(
            "Nothing was measured. A table or folder of images measures the cosines, "
            "and a data set of captioned images also measures the recall."
        )
        return
    figures = measure(align, towers, images, None if pairs is None else pairs.request)
    rows = [dataclasses.asdict(row) for row in figures]
    content = {"images": source, "towers": rows}
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / "figures.json").write_text(f"{text}\n", encoding="utf-8")
    print("\n".join(table(figures)))
    if pairs is None:
        say(
            f"Cosines are measured on {source}. A data set of captioned images also "
            "measures the recall."
        )
    elif set(calibration) & set(images):
        say(
            f"{source} was also used for the calibration. Measure the encoder on other "
            "pairs."
        )


def measure(
    align: Any,
    towers: dict[str, bytes],
    images: Sequence[str | bytes],
    request: Request | None = None,
) -> list[TowerFigures]:
    """Measures image encoders and compares them with the Keras model.

    Args:
        align: `ALIGN`, which embeds the captions.
        towers: dict from names to the contents of LiteRT files of this model.
        images: sequence of paths or of file contents. Unreadable images are skipped.
        request: `Request` of the protocol `retrieval` for recall, or None.

    Returns:
        list of `TowerFigures`. The first is the Keras model.

    Raises:
        InputError: if no image can be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        embedders = {KERAS: load_model(align)}
        for name, content in towers.items():
            path = pathlib.Path(folder, f"{name}.tflite")
            path.write_bytes(content)
            embedders[name] = load_model(align, path)
        embeddings = {}
        recall: dict[str, dict[str, float]] = {}
        for name, embedder in embedders.items():
            measured = _measure_embedder(embedder, folder, images, request)
            embeddings[name], rows, recall[name] = measured
    pixels = _read_all_pixels([images[int(rows[0])]], align.image_size)
    milliseconds = _latencies(towers, np.stack(pixels))
    figures = [TowerFigures(KERAS, None, None, None, recall[KERAS])]
    for name, content in towers.items():
        cosines = np.sum(embeddings[name] * embeddings[KERAS], axis=1)
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


def _measure_embedder(
    embedder: Embedder,
    cache: str,
    images: Sequence[str | bytes],
    request: Request | None,
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Returns the embeddings of the readable images, their rows, and the recall."""
    from align_keras.protocols.cached_encoders import CachedEncoders
    from align_keras.protocols.caption_protocols import retrieval

    encoders = CachedEncoders(lambda: embedder, cache)
    embeddings, rows = encoders.readable_images(images)
    if request is None:
        return np.array(embeddings), rows, {}
    metrics = retrieval(encoders, request).metrics
    counts = [
        f"{direction}: {metrics[f'{direction}/queries']:,.0f} queries among "
        f"{metrics[f'{direction}/candidates']:,.0f}"
        for direction in ("t2i", "i2t")
    ]
    if embedder.runtime == "keras":
        say(f"recall of {', '.join(counts)}")
    recall = {
        f"{direction}/recall_at_{k}": metrics[f"{direction}/recall_at_{k}"]
        for direction in ("t2i", "i2t")
        for k in KS
    }
    return np.array(embeddings), rows, recall


def _latencies(
    towers: dict[str, bytes], image: np.ndarray
) -> dict[str, tuple[float, ...]]:
    from align_keras.export.litert_file import prepared_run

    medians = []
    for threads in THREADS:
        runs = {
            name: prepared_run(content, image, threads)
            for name, content in towers.items()
        }
        medians.append(interleaved_medians(runs, _ROUNDS))
    return {name: tuple(median[name] for median in medians) for name in towers}


def interleaved_medians(
    runs: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, float]:
    """Interleaves the timed functions so that background load affects all equally.

    Returns:
        dict from names to median milliseconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(_WARM_UP_ROUNDS + rounds):
        for name, run in runs.items():
            for _ in range(_UNTIMED_RUNS):
                run()
            start = time.perf_counter()
            run()
            if number >= _WARM_UP_ROUNDS:
                seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(times) for name, times in seconds.items()}


def table(figures: Sequence[TowerFigures]) -> list[str]:
    """Formats the results as lines of a text table, with recall in percent."""
    keys = list(figures[0].recall)
    head = ["image tower", "MB"]
    head += [f"ms, {threads} thr." for threads in THREADS]
    head += ["cosine", "least"]
    head += [key.replace("/recall_at_", " R@") for key in keys]
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
