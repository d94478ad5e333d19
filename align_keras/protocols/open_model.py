"""A trained model as its encode functions, whatever form it lies in."""

import dataclasses
import hashlib
import io
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from align_keras.utils.errors import InputError
from align_keras.utils.files import refuse_keras_file
from align_keras.utils.shared_data import SHIPPED_MODELS

if TYPE_CHECKING:
    from align_keras.models import ALIGN


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """What evaluation needs of a model."""

    # From lists of paths, file bytes or arrays, and of str, to unit float32 (n, d).
    encode_images: Callable
    encode_texts: Callable
    # From a list of str to [CLS] before the projection; None for an export.
    encode_words: Callable | None
    # Digests of all that the embeddings depend on.
    image_fingerprint: str
    text_fingerprint: str
    align: Any = None  # `ALIGN`, None for an export.
    path: str | None = None  # None for a model in memory.


def check_model(path: str, image_engine: str | None = None) -> None:
    """Raises unless a model can be there: before TensorFlow and the data are read."""
    folder = pathlib.Path(path)
    if is_export(folder):
        if image_engine is not None:
            raise InputError(
                f"image_engine must be left out for an export, received "
                f"{image_engine!r}; give the run folder in place of its export."
            )
        return
    if path in SHIPPED_MODELS or path.startswith("hf://"):
        return
    refuse_keras_file(path, "model")
    if not folder.is_dir():
        raise InputError(
            f"model must be a folder or hf://user/model, received {folder}; check it."
        )
    if (folder / "config.json").exists():
        return
    if (folder / "checkpoints").exists():
        raise InputError(
            f"model must be a finished run, received {folder}, which has checkpoints "
            "and no config.json; let the run end: the same train command goes on."
        )
    raise InputError(
        f"model must hold a model, received {folder}, which has neither config.json "
        "nor saved_model.pb; name the folder of a run or of a Hugging Face model."
    )


def open_model(path: str, image_engine: str | None = None) -> OpenedModel:
    """Opens a run folder, a preset folder, an export or `hf://user/model`;
    `image_engine` is the `engine` of `ALIGN.encode_images`.
    """
    check_model(path, image_engine)
    folder = pathlib.Path(path)
    if is_export(folder):
        return _open_export(folder)
    from align_keras.models import ALIGN

    return opened(ALIGN.from_preset(path), image_engine, path)


def is_export(path: str | pathlib.Path) -> bool:
    """Whether a model's path is the folder of an export."""
    folder = pathlib.Path(path)
    return (folder / "saved_model.pb").exists() or (folder / "align").is_dir()


def _open_export(folder):
    from align_keras.search import ExportedModel

    model = ExportedModel(folder)
    digest = hashlib.sha256()
    folder = model.directory
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.name != "fingerprint.pb":  # of the saving, not of the model
            digest.update(str(path.relative_to(folder)).encode() + b"\0")
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    fingerprint = digest.hexdigest()[:16]
    return OpenedModel(
        lambda images: model.encode_images([_as_file(image) for image in images]),
        model.encode_texts,
        None,
        fingerprint,
        fingerprint,
        path=str(folder),
    )


def _as_file(image):
    """An array as a PNG file's bytes, since an export takes files alone."""
    if not isinstance(image, np.ndarray):
        return image
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png", compress_level=1)
    return file.getvalue()


def opened(
    align: "ALIGN", engine: str | None = None, path: str | None = None
) -> OpenedModel:
    """Returns an `ALIGN` in memory as its encode functions."""
    # What can't run at all must not pass for an image that can't be read.
    align.encode_images([], engine=engine)
    return OpenedModel(
        lambda images: align.encode_images(images, engine=engine),
        align.encode_texts,
        align.encode_words,
        *fingerprints(align, engine),
        align,
        path,
    )


def fingerprints(align: "ALIGN", engine: str | None = None) -> tuple[str, str]:
    """Digests of all that the embeddings of images, and of texts, depend on."""
    from align_keras.images.preprocess import PREPROCESSING_VERSION
    from align_keras.models.image_engines import engine_fingerprint
    from align_keras.text.wordpiece_tokenizer import TOKENIZATION_VERSION

    of_images = engine_fingerprint(engine), str(PREPROCESSING_VERSION)
    of_texts = align.normalization, str(TOKENIZATION_VERSION), *(align.vocabulary or ())
    return (
        _fingerprint(align.image_encoder, *of_images),
        _fingerprint(align.text_encoder, *of_texts),
    )


def _fingerprint(encoder, *others):
    """Of an encoder's configuration and weights, and of what is done before it."""
    digest = hashlib.sha256(encoder.fingerprint().encode())
    for other in others:
        digest.update(hashlib.sha256(other.encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()[:16]
