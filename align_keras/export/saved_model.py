"""One SavedModel that takes raw file bytes and raw strings."""

import json

import tensorflow as tf

from align_keras.images import preprocess_image_bytes
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_folder

_NEEDED = ("image_encoder", "text_encoder", "image_size", "tokenizer")


def export_saved_model(model, directory):
    """Writes a model as a SavedModel with a signature for pictures and one for texts.

    To run, it needs TensorFlow and the operations of `tensorflow_text`, neither
    Keras nor this package. Its signatures:

    - `encode_image`: `image_bytes`, string (n,), JPEG, PNG, GIF, BMP or WebP files →
      `image_embedding`, float32 (n, d) of unit length.
    - `encode_text`: `captions`, string (n,), UTF-8 → `text_embedding`, float32
      (n, d) of unit length.
    - `serving_default`, the same as `encode_text`: plain strings, the query of a
      search, need no encoding in TensorFlow Serving's JSON.

    `signatures.json` beside `saved_model.pb` describes them, the preprocessing
    included. Any n is taken, 0 too. A picture that can't be decoded fails its
    whole batch.

    Args:
        model: `ALIGN` with a vocabulary.
        directory: str or `pathlib.Path`, the SavedModel's folder. An existing one is
            replaced as a whole, and only once the new one is complete.

    Raises:
        InputError: if the model isn't an `ALIGN`, has no vocabulary, or `directory`
            is a file.

    References:
        Jia et al. 2021, section 4.2 (embeddings compared by cosine).

    Example:

    >>> import os, tempfile
    >>> import tensorflow as tf
    >>> from align_keras.models.align import ALIGN
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red"]
    >>> model = ALIGN.from_preset(
    ...     "align_nano", vocabulary_size=6, vocabulary=vocabulary)
    >>> folder = os.path.join(tempfile.mkdtemp(), "export")
    >>> export_saved_model(model, folder)
    >>> encode_text = tf.saved_model.load(folder).signatures["encode_text"]
    >>> encode_text(captions=tf.constant(["red"]))["text_embedding"].shape[0]
    1
    """
    check_exportable(model, directory)
    server = _Server(model)
    with atomic_folder(directory) as folder:
        tf.saved_model.save(server, str(folder), signatures=server.signatures())
        description = json.dumps(describe_signatures(model), indent=2)
        (folder / "signatures.json").write_text(description + "\n", encoding="utf-8")


def describe_signatures(model):
    """Returns inputs, outputs and preprocessing of the export as plain JSON.

    Args:
        model: `ALIGN` with a vocabulary.

    Returns:
        dict, by signature: `inputs`, `outputs` (name → dtype and shape, with None
        for the batch) and `preprocessing`, what the graph does by itself.
    """
    embedding = {
        "dtype": "float32",
        "shape": [None, model.image_encoder.output_shape[-1]],
    }
    strings = {"dtype": "string", "shape": [None]}
    text = {
        "inputs": {"captions": strings},
        "outputs": {"text_embedding": embedding},
        "preprocessing": {
            "normalization": model.tokenizer.normalization,
            "sequence_length": model.tokenizer.sequence_length,
            "vocabulary_size": len(model.tokenizer.vocabulary),
        },
    }
    image = {
        "inputs": {"image_bytes": strings},
        "outputs": {"image_embedding": embedding},
        "preprocessing": {"image_size": model.image_size},
    }
    return {"encode_image": image, "encode_text": text, "serving_default": text}


class _Server(tf.Module):
    """What is stored: the raw variables, the tokenizer and the functions.

    The Keras model itself stays out of what TensorFlow tracks: tracked, each
    variable would be stored twice.
    """

    def __init__(self, model):
        super().__init__(name="align")
        self.stored_variables = [
            variable.value
            for encoder in (model.image_encoder, model.text_encoder)
            for variable in encoder.variables
        ]
        self.tokenizer = model.tokenizer
        self.encode_image = _image_function(model)
        self.encode_text = _text_function(model)
        # No signature: two outputs that only a look into the graph needs.
        self.tokenize = tf.function(
            model.tokenizer.__call__,
            input_signature=[tf.TensorSpec((None,), tf.string, name="captions")],
        )

    def signatures(self):
        return {
            "encode_image": self.encode_image,
            "encode_text": self.encode_text,
            "serving_default": self.encode_text,
        }


def _image_function(model):
    spec = tf.TensorSpec((None,), tf.string, name="image_bytes")
    size = model.image_size

    @tf.function(input_signature=[spec])
    def encode_image(image_bytes):
        images = tf.map_fn(
            lambda picture: preprocess_image_bytes(picture, size),
            image_bytes,
            fn_output_signature=tf.TensorSpec((size, size, 3), tf.float32),
        )
        embedding = model.image_encoder(_at_least_one(images), training=False)
        embedding = embedding[: tf.shape(image_bytes)[0]]
        return {"image_embedding": model.normalise_image(embedding)}

    return encode_image


def _at_least_one(images):
    """Adds a black picture to an empty batch.

    TensorFlow's fused convolution gives no rows of the wrong shape for no rows.
    """
    missing = tf.maximum(0, 1 - tf.shape(images)[0])
    return tf.pad(images, [[0, missing], [0, 0], [0, 0], [0, 0]])


def _text_function(model):
    spec = tf.TensorSpec((None,), tf.string, name="captions")

    @tf.function(input_signature=[spec])
    def encode_text(captions):
        embedding = model.text_encoder(model.tokenizer(captions), training=False)
        return {"text_embedding": model.normalise_text(embedding)}

    return encode_text


def check_exportable(model, directory):
    """Raises unless `export_saved_model` can write `model` to `directory`."""
    # `tokenizer` itself raises where the vocabulary is missing.
    missing = [name for name in _NEEDED if not hasattr(model, name)]
    if missing:
        raise InputError(
            f"model must be an ALIGN, received {type(model).__name__} without "
            f"{', '.join(missing)}; build one by ALIGN.from_preset."
        )
    if tf.io.gfile.exists(str(directory)) and not tf.io.gfile.isdir(str(directory)):
        raise InputError(
            f"directory must be a folder's name, received the file {str(directory)!r}; "
            "pass another name."
        )
