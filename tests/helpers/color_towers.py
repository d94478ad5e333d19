"""Real LiteRT encoders of a few kilobytes that embed colors and color names.

The image encoder returns the mean color of an image. The text encoder adds up the
colors that a text names. `python tests/helpers/color_towers.py` writes the files in
tests/golden/color_towers.
"""

import io
import json
import pathlib

import numpy as np
from PIL import Image

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "color_towers"
COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLORS]
SIZE, RESIZE_TO, LENGTH = 16, 20, 8


def image_bytes(color, size=(24, 24), format="PNG", **save):
    """Returns an image file of a single color.

    Args:
        color: Key of `COLORS` or an RGB tuple.
        size: (width, height) in pixels.
        format: Pillow's name of the file format.
        **save: Options of `PIL.Image.Image.save`.
    """
    file = io.BytesIO()
    Image.new("RGB", size, COLORS.get(color, color)).save(file, format, **save)
    return file.getvalue()


def write_color_towers(folder, scale=1.0):
    """Writes `image.tflite` and `text.tflite`.

    Args:
        folder: `pathlib.Path`.
        scale: Factor of red in the text embeddings. Another value also gives another
            fingerprint.
    """
    import tensorflow as tf

    from align_keras.export.litert_file import append_files

    def unit(values):
        # The constant fourth entry keeps a text without colors from being all zeros.
        values = tf.pad(values, [[0, 0], [0, 1]], constant_values=0.05)
        return tf.math.l2_normalize(values, axis=-1)

    rows = np.zeros((len(VOCABULARY), 3), np.float32)
    rows[-3:] = np.diag([scale, 1.0, 1.0])
    pixels = tf.TensorSpec((1, SIZE, SIZE, 3), tf.float32, name="images")
    ids = tf.TensorSpec((1, LENGTH), tf.int32, name="token_ids")
    mask = tf.TensorSpec((1, LENGTH), tf.int32, name="padding_mask")

    @tf.function(input_signature=[pixels], autograph=False)
    def encode_images(images):
        return {"image_embedding": unit(tf.reduce_mean(images / 255.0, [1, 2]))}

    @tf.function(input_signature=[ids, mask], autograph=False)
    def encode_tokens(token_ids, padding_mask):
        words = tf.gather(tf.constant(rows), token_ids)
        words *= tf.cast(padding_mask, tf.float32)[..., None]
        return {"text_embedding": unit(tf.reduce_sum(words, 1))}

    folder.mkdir(parents=True, exist_ok=True)
    image = {"image_size": SIZE, "resize_to": RESIZE_TO}
    text = {
        "normalization": "bert_uncased",
        "sequence_length": LENGTH,
        "vocabulary_file": "vocabulary.txt",
    }
    vocabulary = {"vocabulary.txt": "".join(f"{token}\n" for token in VOCABULARY)}
    for kind, function, preprocessing, files in (
        ("image", encode_images, image, {}),
        ("text", encode_tokens, text, vocabulary),
    ):
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [function.get_concrete_function()], tf.Module()
        )
        metadata = {
            "outputs": [{"shape": [1, 4]}],
            "preprocessing": preprocessing,
            "encoder_fingerprint": f"{kind} {scale}",
        }
        files = {"metadata.json": json.dumps(metadata), **files}
        content = append_files(converter.convert(), files)
        (folder / f"{kind}.tflite").write_bytes(content)


if __name__ == "__main__":
    write_color_towers(GOLDEN)
