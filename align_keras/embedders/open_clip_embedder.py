"""Embedder of open_clip models in ONNX, which runs without TensorFlow and PyTorch."""

import concurrent.futures
import functools
import hashlib
import pathlib
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from align_keras.embedders.embedder import Embedder
from align_keras.embedders.locations import ModelLocation
from align_keras.presets.open_clip_layout import OPEN_CLIP_FILES, OPEN_CLIP_IGNORED
from align_keras.utils.arguments import check_texts
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_json

if TYPE_CHECKING:
    from align_keras.embedders.image_transforms import ImageTransform
    from align_keras.embedders.open_clip_texts import OpenCLIPTokenizer

# Rows per call of a tower that takes any number. More rows take more memory and are not
# faster.
_BATCH_SIZE = 8
# Values that open_clip uses if the configuration does not have them.
_CONTEXT_LENGTH = 77
_INTERPOLATION = "bicubic"
_RESIZE_MODE = "shortest"
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_RESIZE_MODES = ("shortest", "longest", "squash")
# Largest image side and number of tokens, as for the towers of an export.
_MAX_SIDE = 8192
_MAX_TOKENS = 8192


class OpenCLIPEmbedder(Embedder):
    """Embedder of an open_clip model that immich's exporter wrote as ONNX.

    Images and texts are prepared as in the evaluation of open_clip. Each tower is
    opened at its first use, so that a search with words does not read the image tower.

    Args:
        location: `ModelLocation` of the folder.

    Raises:
        InputError: if a file is missing, or the configuration is not that of an
            open_clip model.
    """

    runtime = "onnx"

    def __init__(self, location: ModelLocation) -> None:
        self.name = location.name
        self._folder = location.folder
        self._paths = {
            kind: location.folder / name for kind, name in OPEN_CLIP_FILES.items()
        }
        for kind, path in self._paths.items():
            if not path.is_file():
                raise InputError(
                    f"`model` must have the file {OPEN_CLIP_FILES[kind]}. Received: "
                    f"{self._folder} without it. Download the model again."
                )
        config = read_json(self._paths["config"])
        self._text_config = config.get("text_cfg") or {}
        self._preprocessing = read_json(self._paths["preprocessing"])
        try:
            self.dimension = int(config["embed_dim"])
            self.image_size = _side_of(self._preprocessing["size"])
        except (LookupError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise self._foreign("config", reason) from None
        self.resize_to = self.image_size
        if self._preprocessing.get("resize_mode", _RESIZE_MODE) not in _RESIZE_MODES:
            mode = self._preprocessing["resize_mode"]
            raise self._foreign("preprocessing", f"resize_mode {mode!r}")
        image_digest, text_digest = self._digest_towers()
        self.image_fingerprint = image_digest
        self.text_fingerprint = text_digest
        digests = image_digest + text_digest
        self.fingerprint = hashlib.sha256(digests.encode()).hexdigest()[:16]
        self._towers: dict[str, _Tower] = {}
        self._lock = threading.Lock()

    @functools.cached_property
    def image_transform(self) -> "ImageTransform":
        from PIL import Image

        from align_keras.embedders.image_transforms import OpenCLIPTransform

        settings = self._preprocessing
        name = str(settings.get("interpolation", _INTERPOLATION)).upper()
        if name not in Image.Resampling.__members__:
            raise self._foreign("preprocessing", f"interpolation {name.lower()!r}")
        return OpenCLIPTransform(
            self.image_size,
            settings.get("resize_mode", _RESIZE_MODE),
            Image.Resampling[name],
            int(settings.get("fill_color", 0)),
        )

    def encode_resized(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return self._run("image", images)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        check_texts(texts)
        return self._run("text", texts)

    def count_tokens(self, texts: Sequence[str]) -> int:
        check_texts(texts)
        if not len(texts):
            return 0
        self._tower("text")
        _, mask = self._tokenizer.encode(texts)
        return int(mask.sum())

    def _run(self, kind: str, rows: Sequence[Any]) -> np.ndarray:
        """Embeds images or texts, and scales the embeddings to unit length."""
        embeddings = np.empty((len(rows), self.dimension), np.float32)
        if not len(rows):
            return embeddings
        tower = self._tower(kind)
        for start in range(0, len(rows), tower.batch_size):
            batch = rows[start : start + tower.batch_size]
            inputs = tower.inputs(batch)
            try:
                (output, *_) = tower.session.run(None, inputs)
            except Exception as error:  # onnxruntime raises its own classes.
                raise self._foreign(kind, error) from None
            if output.shape != (len(batch), self.dimension):
                expected = f"{len(batch)} rows of embed_dim {self.dimension}"
                reason = f"its output has the shape {output.shape}, not {expected}"
                raise self._foreign(kind, reason)
            embeddings[start : start + tower.batch_size] = output
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        return embeddings / np.maximum(lengths, 1e-12)

    def _tower(self, kind: str) -> "_Tower":
        """Returns a tower, which the first call opens."""
        # Two threads must not read a gigabyte at the same time.
        with self._lock:
            if kind not in self._towers:
                is_image = kind == "image"
                open_tower = self._open_images if is_image else self._open_texts
                self._towers[kind] = open_tower()
            return self._towers[kind]

    def _open_images(self) -> "_Tower":
        session = self._open_session("image")
        (source,) = session.get_inputs()
        side = self.image_size
        shape = tuple(size for size in source.shape[1:] if isinstance(size, int))
        is_channels_first = source.type != "tensor(uint8)"
        expected = (3, side, side) if is_channels_first else (side, side, 3)
        if shape not in (expected, (3,), ()) or len(source.shape) != 4:
            raise self._foreign("image", f"its input has the shape {source.shape}")
        settings = self._preprocessing
        mean = np.asarray(settings.get("mean", _MEAN), np.float32)
        std = np.asarray(settings.get("std", _STD), np.float32)

        def inputs(images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
            pixels = np.stack(images)
            # The graph of a recent export contains the mean and the standard deviation,
            # and its input are the pixels.
            if is_channels_first:
                normalized = (pixels / np.float32(255) - mean) / std
                pixels = normalized.transpose(0, 3, 1, 2).astype(_type_of(source))
            return {source.name: pixels}

        return _Tower(session, _batch_size(source), inputs)

    def _open_texts(self) -> "_Tower":
        session = self._open_session("text")
        sources = session.get_inputs()
        names = {source.name for source in sources}
        if len(sources) > 1 and names != {"input_ids", "attention_mask"}:
            raise self._foreign("text", f"its inputs are {', '.join(sorted(names))}")
        self._tokenizer = self._open_tokenizer(sources)

        def inputs(texts: Sequence[str]) -> dict[str, np.ndarray]:
            ids, mask = self._tokenizer.encode(texts)
            arrays = {"attention_mask": mask}
            return {
                source.name: arrays.get(source.name, ids).astype(_type_of(source))
                for source in sources
            }

        return _Tower(session, _batch_size(sources[0]), inputs)

    def _open_tokenizer(self, sources: Sequence[Any]) -> "OpenCLIPTokenizer":
        from align_keras.embedders.open_clip_texts import OpenCLIPTokenizer

        length = sources[0].shape[-1]
        if not isinstance(length, int):
            length = self._text_config.get("context_length", _CONTEXT_LENGTH)
        if not isinstance(length, int) or not 0 < length <= _MAX_TOKENS:
            raise self._foreign("text", f"its texts have {length} tokens")
        has_mask = len(sources) == 2
        return OpenCLIPTokenizer(
            self._paths["tokenizer"], self._text_config, length, has_mask
        )

    def _open_session(self, kind: str) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Warnings about the graph do not help a user.
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(
                self._paths[kind], options, providers=["CPUExecutionProvider"]
            )
        # onnxruntime raises its own classes, for example for a truncated file.
        except Exception as error:
            raise self._foreign(kind, error) from None

    def _digest_towers(self) -> tuple[str, str]:
        """Returns the digests of the files of the image tower and of the text tower."""
        config = self._paths["config"]
        towers = [
            [*_tower_files(self._paths["image"].parent)],
            [*_tower_files(self._paths["text"].parent), config],
        ]
        # A large tower has a gigabyte.
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            image_digest, text_digest = pool.map(_digest, towers)
        return image_digest, text_digest

    def _foreign(self, kind: str, reason: object) -> InputError:
        """Returns the error for a file that is not that of an open_clip model."""
        line = " ".join(str(reason).split())[:160]
        return InputError(
            "`model` must be a complete open_clip model in the ONNX layout of immich. "
            f"Received: {self._paths[kind]} ({line}). Download the model again."
        )


class _Tower(NamedTuple):
    """Tower and the function that returns its inputs.

    Attributes:
        session: `onnxruntime.InferenceSession`.
        batch_size: number of rows per call.
        inputs: function from images or texts to the inputs by name.
    """

    session: Any
    batch_size: int
    inputs: Callable[[Sequence[Any]], dict[str, np.ndarray]]


def _side_of(size: Any) -> int:
    """Returns the side of a square size, an int or two equal ints."""
    sides = list(size) if isinstance(size, list) else [size]
    if len(set(sides)) != 1 or not isinstance(sides[0], int):
        raise ValueError(f"size must be a square. Received: {size}")
    if not 0 < sides[0] <= _MAX_SIDE:
        raise ValueError(f"size must be in [1, {_MAX_SIDE}]. Received: {size}")
    return sides[0]


def _batch_size(source: Any) -> int:
    """Returns the number of rows per call of a tower with an input."""
    # An open dimension has a name instead of a number.
    return source.shape[0] if isinstance(source.shape[0], int) else _BATCH_SIZE


def _type_of(source: Any) -> str:
    """Returns the NumPy type of an input."""
    kind = source.type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(kind, kind)


def _tower_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files of a tower, among them those with external weights."""
    ignored = tuple(pattern.removeprefix("*") for pattern in OPEN_CLIP_IGNORED)
    files = (path for path in folder.iterdir() if path.is_file())
    return sorted(path for path in files if not path.name.endswith(ignored))


def _digest(paths: Iterable[pathlib.Path]) -> str:
    """Returns a digest of the names and contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0")
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
