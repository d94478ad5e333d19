"""The two towers that an index is made with and searched by.

LiteRT towers, as `align-keras export litert` writes them, run without TensorFlow and
are opened in some milliseconds; whatever else holds a model runs through TensorFlow.
"""

import functools
import hashlib
import io
import json
import os
import pathlib
import threading
import zipfile
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from align_keras.search.known_models import is_known_model
from align_keras.utils.errors import InputError
from align_keras.utils.files import refuse_keras_file
from align_keras.utils.quiet import silent_standard_error
from align_keras.utils.shared_data import (
    SHIPPED_MODELS,
    find_shipped_model,
    shared_folder,
)
from align_keras.utils.tasks import check_same

DEFAULT_MODEL = "align_small_en"
IMAGE_TOWER, TEXT_TOWER = "image.tflite", "text.tflite"
# The side to which a model's images are brought that resizes them itself, as an export
# does: more than any preset takes.
_LARGE_SIDE = 512
# Pixels. A tower's metadata may name no larger image, which would take 200 MB.
_MAX_SIDE = 8192
# Bytes of a vocabulary or of metadata behind a tower. BERT's multilingual vocabulary
# has 1 MB, and a deflated file of 400 KB may hold 400 MB.
_MAX_MEMBER = 32 * 2**20


class Model(Protocol):
    """What an index asks of a model: `open_model` opens it by its `name` again; other
    weights or preprocessing have another `fingerprint`; images are resized to
    `resize_to` pixels a side before they are cropped to `image_size`.
    """

    name: str
    fingerprint: str
    dimension: int
    image_size: int
    resize_to: int

    def encode_images(self, images: Sequence[Any]) -> np.ndarray:
        """Embeds paths, file bytes or arrays uint8 (h, w, 3): float32 (n, d)."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds a list of str: float32 (n, d)."""

    def encode_resized(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Embeds uint8 arrays (resize_to, resize_to, 3), from any thread."""


def open_model(name: str | os.PathLike = DEFAULT_MODEL) -> Model:
    """Opens a model for an index.

    Args:
        name: `"align_small_en"`, which comes with this package; a folder of LiteRT
            towers (`image.tflite`, `text.tflite`); a run's folder, an export, or
            `"hf://user/model"`, which need TensorFlow.

    Returns:
        `Model`, with `encode_images`, `encode_texts`, `fingerprint` and `dimension`.

    Raises:
        InputError: if no model is there.
    """
    name = os.fspath(name)
    folder = _folder_of(name)
    if (folder / TEXT_TOWER).is_file():
        return LiteRTModel(folder, name)
    return TensorFlowModel(name)


def open_model_of_index(name: str, index: str | os.PathLike) -> Model | None:
    """Opens the model that an index names, which its maker may have chosen to do harm.

    Args:
        name: name in the header of the index.
        index: folder of the index, or the address of its database.

    Returns:
        `Model`, or None unless the model comes with the package, is LiteRT towers
        inside the folder of the index, or is one that the user has named before.

    Raises:
        InputError: if the model isn't there any more, or is damaged.
    """
    if name in SHIPPED_MODELS:
        # Not `open_model`, which prefers a folder of this name here.
        return LiteRTModel(find_shipped_model(name), name)
    if is_known_model(name):
        return open_model(name)
    towers = _towers_inside(name, index)
    if towers is not None:
        return LiteRTModel(towers, str(towers))
    if os.path.isabs(name) and not os.path.isdir(name):
        raise InputError("which isn't there")
    return None


def _towers_inside(name, index):
    """The folder of LiteRT towers in an index's own folder, or None."""
    folder = os.path.realpath(index)
    towers = os.path.realpath(os.path.join(folder, name))
    if name.startswith("hf://") or not towers.startswith(os.path.join(folder, "")):
        return None
    files = [os.path.join(towers, tower) for tower in (IMAGE_TOWER, TEXT_TOWER)]
    if any(os.path.islink(file) or not os.path.isfile(file) for file in files):
        return None
    return pathlib.Path(towers)


@functools.lru_cache(maxsize=1)
def open_same_model(name: str, fingerprint: str) -> Model:
    """Opens a model on a worker, or raises if it isn't the one that was meant."""
    model = open_model(name)
    check_same(name, model.fingerprint, fingerprint)
    return model


def _folder_of(name):
    if os.sep in name or os.path.isdir(name):
        return pathlib.Path(name)
    return shared_folder(f"saved_models/{name}") or pathlib.Path(name)


class LiteRTModel(Model):
    """Both towers by LiteRT: any thread may embed, each has interpreters, as needed."""

    def __init__(self, folder: pathlib.Path, name: str):
        self.name = os.path.abspath(folder) if os.sep in name else name
        self._paths = {"image": folder / IMAGE_TOWER, "text": folder / TEXT_TOWER}
        about = {kind: _metadata(path) for kind, path in self._paths.items()}
        image = about["image"]["preprocessing"]
        self._text = about["text"]["preprocessing"]
        try:
            self.image_size = int(image["image_size"])
            self.resize_to = int(image["resize_to"])
            self._text_length = int(self._text["sequence_length"])
            self.dimension = int(about["text"]["outputs"][0]["shape"][-1])
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise _damaged(folder / TEXT_TOWER, error) from None
        if not 0 < self.image_size <= self.resize_to <= _MAX_SIDE:
            problem = (
                "its metadata must have 0 < image_size <= resize_to <= "
                f"{_MAX_SIDE:,}, received {self.image_size} and {self.resize_to}"
            )
            raise _damaged(self._paths["image"], problem)
        sizes = [path.stat().st_size for path in self._paths.values()]
        # The metadata hold a digest of the weights.
        told = json.dumps([about, sizes], sort_keys=True)
        self.fingerprint = hashlib.sha256(told.encode()).hexdigest()[:16]
        self._threads = threading.local()
        self._opening = threading.Lock()

    def encode_images(self, images: Sequence[Any]) -> np.ndarray:
        if not len(images):
            return np.zeros((0, self.dimension), np.float32)
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.concatenate(list(pool.map(self._encode_image, images)))

    def _encode_image(self, image):
        return self.encode_resized([resized_image(image, self.resize_to)])

    def encode_resized(self, images: Sequence[np.ndarray]) -> np.ndarray:
        start = (self.resize_to - self.image_size) // 2
        window = slice(start, start + self.image_size)
        tower = self._tower("image")
        rows = [
            tower(images=image[None, window, window].astype(np.float32))
            for image in images
        ]
        return np.concatenate(rows)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        if not len(texts):
            return np.zeros((0, self.dimension), np.float32)
        # First, since it checks the length to which texts are padded.
        tower = self._tower("text")
        rows = []
        # Bytes of an argument that aren't UTF-8 have no place in a text.
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        for encoding in self._tokenizer.encode_batch(clean):
            ids = np.array([encoding.ids], np.int32)
            mask = np.array([encoding.attention_mask], np.int32)
            rows.append(tower(token_ids=ids, padding_mask=mask))
        return np.concatenate(rows)

    def _tower(self, kind):
        """This thread's interpreter."""
        tower = getattr(self._threads, kind, None)
        if tower is None:
            from align_keras.export.litert_file import LiteRTTower

            try:
                # It tells of each interpreter.
                with self._opening, silent_standard_error():
                    tower = LiteRTTower(self._paths[kind])
            except (ValueError, RuntimeError) as error:
                raise _damaged(self._paths[kind], error) from None
            self._check_shape(kind, tower)
            setattr(self._threads, kind, tower)
        return tower

    def _check_shape(self, kind, tower):
        """Raises if the metadata of a tower disagree with its tensors."""
        name, setting, size = {
            "image": ("images", "image_size", self.image_size),
            "text": ("token_ids", "sequence_length", self._text_length),
        }[kind]
        shape = tower.inputs.get(name, ())
        if len(shape) < 2 or shape[1] != size:
            problem = (
                f"its metadata must have the {setting} of its tensor {name}, which has "
                f"the shape {shape}, received {size}"
            )
            raise _damaged(self._paths[kind], problem)

    @functools.cached_property
    def _tokenizer(self):
        from tokenizers import BertWordPieceTokenizer

        path = self._paths["text"]
        try:
            with zipfile.ZipFile(path) as archive:
                content = _member(archive, self._text["vocabulary_file"]).decode()
        except (zipfile.BadZipFile, OSError, ValueError, LookupError) as error:
            raise _damaged(path, error) from None
        # Not splitlines(), which splits at characters that are tokens too.
        tokens = content.removesuffix("\n").split("\n")
        vocabulary = {token: row for row, token in enumerate(tokens)}
        for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]"):
            if token not in vocabulary:
                raise _damaged(path, f"its vocabulary must have the token {token}")
        uncased = self._text["normalization"] == "bert_uncased"
        tokenizer = BertWordPieceTokenizer(
            vocabulary, lowercase=uncased, strip_accents=uncased
        )
        length = self._text_length
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(length=length, pad_id=vocabulary["[PAD]"])
        return tokenizer


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Reads a member of at most `_MAX_MEMBER` bytes, however small it is compressed."""
    with archive.open(name) as file:
        content = file.read(_MAX_MEMBER + 1)
    if len(content) > _MAX_MEMBER:
        raise ValueError(f"{name} must have at most {_MAX_MEMBER:,} bytes")
    return content


def _metadata(path):
    """What a tower says of itself, without its flatbuffer being read."""
    try:
        with zipfile.ZipFile(path) as archive:
            about = json.loads(_member(archive, "metadata.json"))
        about["preprocessing"], about["outputs"][0]["shape"][-1]  # noqa: B018
    except FileNotFoundError:
        raise InputError(
            f"model must be a folder with {IMAGE_TOWER} and {TEXT_TOWER}, received "
            f"{path.parent} without {path.name}; write both by `align-keras export "
            "litert`."
        ) from None
    except (zipfile.BadZipFile, OSError, ValueError, LookupError, TypeError) as error:
        raise _damaged(path, error) from None
    return about


def _damaged(path, error):
    reason = " ".join(str(error).split())[:160]
    return InputError(
        f"model must be LiteRT towers of `align-keras export litert`, received {path} "
        f"({reason}); write it anew."
    )


class TensorFlowModel(Model):
    """A run's folder, a preset, an export or `hf://…`, by way of TensorFlow."""

    def __init__(self, name: str):
        self.name = name if name.startswith("hf://") else os.path.abspath(name)
        folder = _folder_of(name)
        files = (TEXT_TOWER, "config.json", "saved_model.pb", "align")
        is_there = any((folder / file).exists() for file in files)
        refuse_keras_file(name, "model")
        if not (is_there or name.startswith("hf://")):
            raise InputError(
                f"model must be a folder of LiteRT towers, a run's folder, an export "
                f"or hf://user/model, received {name}; check it, or write towers by "
                "`align-keras export litert`."
            )
        self._lock = threading.Lock()  # TensorFlow takes all cores by itself.
        if (folder / "saved_model.pb").exists() or (folder / "align").is_dir():
            from align_keras.search.exported_model import ExportedModel

            self._model: Any = ExportedModel(name)
            self._takes_files = True
            self.image_size, self.resize_to = _sides_of_export(self._model.directory)
            self.fingerprint = _digest_of_files(self._model.directory)
            self.dimension = self.encode_texts(["a"]).shape[1]
            return
        from align_keras.models import ALIGN

        self._model = ALIGN.from_preset(name)
        self._takes_files = False
        from align_keras.images import crop_size_to_resize_size

        self.image_size = self._model.image_size
        self.resize_to = crop_size_to_resize_size(self.image_size)
        encoders = self._model.image_encoder, self._model.text_encoder
        told = "".join(encoder.fingerprint() for encoder in encoders)
        self.fingerprint = hashlib.sha256(told.encode()).hexdigest()[:16]
        self.dimension = int(self._model.image_encoder.output_shape[-1])

    def encode_images(self, images: Sequence[Any]) -> np.ndarray:
        return self.encode_resized([resized_image(i, self.resize_to) for i in images])

    def encode_resized(self, images: Sequence[np.ndarray]) -> np.ndarray:
        given: Sequence[Any] = images
        if self._takes_files:
            given = [_png(image) for image in images]
        with self._lock:
            return np.asarray(self._model.encode_images(given), np.float32)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        with self._lock:
            return np.asarray(self._model.encode_texts(list(texts)), np.float32)


def resized_image(image: Any, resize_to: int) -> np.ndarray:
    """Reads a path, file bytes or an array: uint8 (resize_to, resize_to, 3)."""
    from align_keras.search.image_files import ImageError, decode_square, read_file

    content = _png(image) if isinstance(image, np.ndarray) else image
    try:
        if not isinstance(content, bytes):
            content, _ = read_file(os.fsencode(content))
        return decode_square(content, resize_to).pixels
    except ImageError as error:
        name = "the image" if isinstance(image, bytes | np.ndarray) else image
        raise InputError(
            f"image must be one that can be read, received {name} ({error.detail}); "
            "check the path, or convert it to JPEG or PNG."
        ) from None


def _sides_of_export(folder: pathlib.Path) -> tuple[int, int]:
    """Returns the input side of a SavedModel and the side to resize images to.

    The SavedModel does not resize an image of this side again, so that its embedding is
    that of the whole file. An export without `signatures.json` does not name its side.
    """
    from align_keras.images import crop_size_to_resize_size

    try:
        text = (folder / "signatures.json").read_text(encoding="utf-8")
        image_size = int(json.loads(text)["preprocessing"]["image"]["image_size"])
    except (OSError, ValueError, LookupError, TypeError):
        return _LARGE_SIDE, _LARGE_SIDE
    if not 0 < image_size <= _MAX_SIDE // 2:
        return _LARGE_SIDE, _LARGE_SIDE
    return image_size, crop_size_to_resize_size(image_size)


def _png(pixels):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()


def _digest_of_files(folder):
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.name != "fingerprint.pb":  # Of the saving, not of the model.
            digest.update(str(path.relative_to(folder)).encode() + b"\0")
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
