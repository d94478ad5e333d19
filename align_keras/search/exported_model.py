"""The two encoders of a SavedModel, without the code that made it."""

import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from align_keras.models.composed_query import encode_query
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError
from align_keras.utils.files import MAX_PIXELS, read_regular

# Signature, its input and its output, as the export writes them.
_IMAGES = ("encode_image", "image_bytes", "image_embedding")
_TEXTS = ("encode_text", "captions", "text_embedding")
# What TensorFlow's loader comes to in damaged files, beside its own errors.
_DAMAGES = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)


class ExportedModel:
    """Embeds images and captions with an exported SavedModel.

    Needs TensorFlow and tensorflow-text, and nothing of the code that built the model;
    both are imported when the first export is opened.

    Args:
        directory: str or `pathlib.Path`, a folder that `export_saved_model` wrote,
            such as `saved_models/RUN/export`, of which the newest `align/VERSION`
            is taken; or one that holds `saved_model.pb`. Its signatures
            are `encode_image` (`image_bytes`, string (n,), to
            `image_embedding`) and `encode_text` (`captions`, string (n,), to
            `text_embedding`); one of the two may be missing.
        batch_size: int >= 1, images or captions embedded at once.

    Raises:
        InputError: when there is no such export, or it has other signatures.

    Example:

    ```python
    model = ExportedModel("saved_models/icons/export")
    cosines = model.encode_texts(["a red bicycle"]) @ model.encode_images(["a.jpg"]).T
    ```
    """

    def __init__(self, directory, batch_size=64):
        check_number("`batch_size`", batch_size, 1, 2**20, whole=True)
        self.directory = self.find(directory)
        self.batch_size = batch_size
        self._tensorflow = _tensorflow_with_text_ops()
        try:
            # The signatures hold no reference to the variables; this does.
            self._model = self._tensorflow.saved_model.load(str(self.directory))
        except (self._tensorflow.errors.OpError, *_DAMAGES) as error:
            raise InputError(
                f"The export {self.directory} cannot be loaded "
                f"({_reason(error)}); export the model again."
            ) from error
        if not any(name in self._model.signatures for name, _, _ in (_IMAGES, _TEXTS)):
            found = ", ".join(sorted(self._model.signatures)) or "none"
            raise InputError(
                f"The export {self.directory} must have the signatures encode_image "
                f"and encode_text, got: {found}; export it with align_keras."
            )

    @staticmethod
    def find(directory: str | os.PathLike) -> pathlib.Path:
        """Returns the folder of the SavedModel, or raises, without TensorFlow."""
        directory = pathlib.Path(directory)
        versions = [path.name for path in directory.glob("align/*") if path.is_dir()]
        newest = max(filter(str.isdecimal, versions), key=int, default=None)
        found = directory if newest is None else directory / "align" / newest
        if not (found / "saved_model.pb").is_file():
            raise InputError(
                f"The export folder {directory} must hold a saved_model.pb, but "
                + ("has none" if directory.is_dir() else "doesn't exist")
                + "; give the folder `export` of a finished run."
            )
        return found

    def encode_images(self, images: Sequence[str | os.PathLike | bytes]) -> np.ndarray:
        """Embeds images.

        Args:
            images: sequence of paths (str or `pathlib.Path`) or of bytes, the
                contents of JPEG, PNG, GIF, BMP or WebP files.

        Returns:
            float32 array (n, d), rows of unit length.

        Raises:
            InputError: for a file that is missing or can't be decoded; it is named.
        """
        _check_is_list("images", "paths or bytes", images)
        names, contents = [], []
        for position, image in enumerate(images):
            if isinstance(image, bytes):
                names.append(f"image {position}")
                contents.append(image)
            else:
                names.append(os.fspath(image))
                contents.append(_file_bytes(image))
            if not contents[-1]:
                raise InputError(
                    "`images` must not be empty files, received 0 bytes for "
                    f"{names[-1]}; fetch or write the image again."
                )
        return self._encode(_IMAGES, contents, names)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds a sequence of captions: float32 array (n, d), rows of unit length.

        Raises:
            InputError: for anything but a sequence of str.
        """
        _check_is_list("texts", "str", texts)
        texts = list(texts)
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(
                    "`texts` must be a list of str, received "
                    f"{type(text).__name__} at position {position}."
                )
        # A lone surrogate, as from a file name, has no UTF-8.
        encoded = [text.encode("utf-8", "replace") for text in texts]
        return self._encode(_TEXTS, encoded, texts)

    # Of one image with words that are added and taken away, as one query.
    encode_query = encode_query

    def _encode(self, signature, items, names):
        name, argument, output = signature
        if name not in self._model.signatures:
            raise InputError(
                f"The export {self.directory} must have the signature {name}, got: "
                f"{', '.join(sorted(self._model.signatures))}; use the combined export."
            )
        if not items:
            raise InputError(
                f"`{argument}` must not be empty, received 0 items; give at least one."
            )

        embeddings = []
        for start in range(0, len(items), self.batch_size):
            batch = items[start : start + self.batch_size]
            batch = self._tensorflow.constant(batch, self._tensorflow.string)
            try:
                result = self._model.signatures[name](**{argument: batch})
                valid = np.asarray(result.get("valid", True))
                embeddings.append(np.asarray(result[output], np.float32))
            except self._tensorflow.errors.InvalidArgumentError as error:
                raise InputError(
                    f"the export failed on a batch ({_reason(error)}); export the "
                    "model again."
                ) from error
            if not valid.all():
                raise InputError(
                    f"{names[start + int(np.argmin(valid))]} cannot be decoded; leave "
                    "it out, or convert it to JPEG or PNG of at most "
                    f"{MAX_PIXELS:,} pixels."
                )
        return _checked_unit_rows(np.concatenate(embeddings), names)


def _check_is_list(name, kinds, values):
    if isinstance(values, (str, bytes, os.PathLike)):
        raise InputError(
            f"`{name}` must be a list of {kinds}, received one "
            f"{type(values).__name__}; write [{name[:-1]}]."
        )


def _tensorflow_with_text_ops():
    import tensorflow

    try:
        # Registers the tokenizer's ops, without which the graph can't load.
        import tensorflow_text  # noqa: F401
    except ImportError as error:
        raise InputError(
            "An export needs tensorflow-text of TensorFlow's minor version "
            f"({_reason(error)}); run `pip install "
            f"tensorflow-text~={tensorflow.__version__.rsplit('.', 1)[0]}.0`."
        ) from error
    return tensorflow


def _file_bytes(path):
    try:
        return read_regular(path)
    except OSError as error:
        raise InputError(
            f"`images` must be readable files, received {path} ({error.strerror}); "
            "check the path."
        ) from error


def _reason(error):
    """The one telling line of TensorFlow's long messages."""
    message = re.split(r"\s*\[\[{{node", str(error).strip())[0]
    message = re.sub(r"{{function_node .*?}} ?", "", message)
    lines = message.splitlines() or [type(error).__name__]
    line = lines[-1] if lines[0].startswith("Graph execution error") else lines[0]
    return line[:200].rstrip(".")


def _checked_unit_rows(embeddings, names):
    """Refuses an export that doesn't keep its promise of unit length."""
    lengths = np.linalg.norm(embeddings.astype(float), axis=1)
    # Half precision may miss one by a few thousandths.
    wrong = np.flatnonzero(~(np.abs(lengths - 1.0) < 0.02))
    if len(wrong):
        raise InputError(
            "The export must return embeddings of unit length, received length "
            f"{lengths[wrong[0]]:.4g} for {names[wrong[0]]}; the model has diverged "
            "or isn't an export of align_keras."
        )
    return embeddings
