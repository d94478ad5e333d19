"""A real SavedModel with the signatures of an export: colors and their names."""

import io
import pathlib

import numpy as np
from PIL import Image

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def picture_bytes(color, size=8, format="PNG"):
    rgb = COLORS.get(color, color)
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), rgb, np.uint8)).save(buffer, format)
    return buffer.getvalue()


def write_tiny_export(directory, scale=1.0, signatures=("image", "text")):
    """Saves it; `scale` other than 1 breaks the promise of unit length."""
    import tensorflow as tf
    import tensorflow_text as tf_text

    class TinyModel(tf.Module):
        def __init__(self):
            super().__init__()
            self.length = tf.Variable(scale)
            # Needs an op of tensorflow-text, as a real export does.
            self.tokenizer = tf_text.WhitespaceTokenizer()

        def unit(self, values):
            # A fourth entry, so that no text is all zeros.
            values = tf.pad(values, [[0, 0], [0, 1]], constant_values=0.05)
            return tf.math.l2_normalize(values, axis=-1) * self.length

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def encode_image(self, image_bytes):
            def mean_color(content):
                image = tf.io.decode_image(content, 3, expand_animations=False)
                return tf.reduce_mean(tf.cast(image, tf.float32) / 255.0, [0, 1])

            count = tf.size(image_bytes, tf.int64)
            found = (
                tf.data.Dataset.from_tensor_slices(image_bytes)
                .enumerate()
                .map(lambda row, content: (row, mean_color(content)))
                .ignore_errors()
                .concatenate(tf.data.Dataset.from_tensors((count, tf.zeros(3))))
            )
            rows, means = found.batch(count + 1).get_single_element()
            means = tf.scatter_nd(rows[:, None], means, [count + 1, 3])[:-1]
            ones = tf.ones_like(rows, tf.int32)
            valid = tf.scatter_nd(rows[:, None], ones, [count + 1])[:-1] > 0
            return {"image_embedding": self.unit(means), "valid": valid}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def encode_text(self, captions):
            words = self.tokenizer.tokenize(tf.strings.lower(captions))
            counts = [
                tf.reduce_sum(tf.cast(words == name, tf.float32), axis=1)
                for name in COLORS
            ]
            return {"text_embedding": self.unit(tf.stack(counts, axis=1))}

    model = TinyModel()
    tf.saved_model.save(
        model,
        str(directory),
        {f"encode_{own}": getattr(model, f"encode_{own}") for own in signatures},
    )
    return pathlib.Path(directory)
