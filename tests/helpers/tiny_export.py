"""A tiny SavedModel with the signatures of an exported model.

The embedding of an image is its mean color. That of a text is the sum of the colors
that it names.
"""

import io
import json
import pathlib

import numpy as np
from PIL import Image

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def image_bytes(color, size=8, format="PNG"):
    """Returns a square image file. The color is a key of `COLORS` or an RGB tuple."""
    rgb = COLORS.get(color, color)
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), rgb, np.uint8)).save(buffer, format)
    return buffer.getvalue()


def write_tiny_export(directory, scale=1.0, signatures=("image", "text")):
    """Saves the model to a directory.

    Args:
        directory: Path of the SavedModel.
        scale: Length of the embeddings. Exported models promise a length of 1.
        signatures: Encoders to save, of `"image"` and `"text"`.
    """
    import tensorflow as tf

    from tests.helpers.tensorflow_text_marks import tensorflow_text

    class TinyModel(tf.Module):
        def __init__(self):
            super().__init__()
            self.length = tf.Variable(scale)
            # A real export also needs an op of tensorflow-text.
            if tensorflow_text is None:
                self.split = tf.strings.split
            else:
                self.split = tensorflow_text.WhitespaceTokenizer().tokenize

        def unit(self, values):
            # The constant fourth entry keeps a text without colors from being zero.
            values = tf.pad(values, [[0, 0], [0, 1]], constant_values=0.05)
            return tf.math.l2_normalize(values, axis=-1) * self.length

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def encode_image(self, image_bytes):
            def mean_color(content):
                image = tf.io.decode_image(content, 3, expand_animations=False)
                return tf.reduce_mean(tf.cast(image, tf.float32) / 255.0, [0, 1])

            count = tf.size(image_bytes, tf.int64)
            decoded = (
                tf.data.Dataset.from_tensor_slices(image_bytes)
                .enumerate()
                .map(lambda row, content: (row, mean_color(content)))
                .ignore_errors()
                .concatenate(tf.data.Dataset.from_tensors((count, tf.zeros(3))))
            )
            rows, means = decoded.batch(count + 1).get_single_element()
            means = tf.scatter_nd(rows[:, None], means, [count + 1, 3])[:-1]
            ones = tf.ones_like(rows, tf.int32)
            valid = tf.scatter_nd(rows[:, None], ones, [count + 1])[:-1] > 0
            return {"image_embedding": self.unit(means), "valid": valid}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def encode_text(self, captions):
            words = self.split(tf.strings.lower(captions))
            counts = [
                tf.reduce_sum(tf.cast(words == name, tf.float32), axis=1)
                for name in COLORS
            ]
            return {"text_embedding": self.unit(tf.stack(counts, axis=1))}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def tokenize(self, captions):
            return {"padding_mask": tf.ones_like(self.split(captions), tf.int32).values}

    model = TinyModel()
    tf.saved_model.save(
        model,
        str(directory),
        {f"encode_{kind}": getattr(model, f"encode_{kind}") for kind in signatures},
    )
    preprocessing = {
        "image": {"image_size": 256},
        "text": {"normalization": "bert_uncased", "sequence_length": 64},
    }
    description = {"preprocessing": {kind: preprocessing[kind] for kind in signatures}}
    path = pathlib.Path(directory, "signatures.json")
    path.write_text(json.dumps(description))
    return pathlib.Path(directory)
