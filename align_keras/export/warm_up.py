"""Requests that TensorFlow Serving answers to itself before it answers others."""

import io

import numpy as np
import tensorflow as tf
from PIL import Image

FILE = "assets.extra/tf_serving_warmup_requests"
# One, and several: TensorFlow's kernels choose other ways for them.
COUNTS = (1, 8)
_CAPTIONS = (
    "a red bicycle in front of a white house",
    "dog",
    "Crème brûlée, ½ price: 3,50 €",
    "an old photograph of three people who sit on a bench by the sea and look at "
    "the ships, while a fourth, whom nobody can see, holds the camera",
    "北京的冬天",
)
_TEMPLATES = ("a photo of a {}", "art of the {}")


def write_warm_up_requests(model, name, signatures):
    """Writes requests for each signature of a SavedModel into its assets.extra.

    The server answers them while it loads the model, so that the first request of a
    client finds kernels, memory and graphs ready. They hold real JPEG and PNG files
    and captions of several lengths and scripts.

    Args:
        model: `pathlib.Path`, a SavedModel's folder.
        name: str, the name under which it's served.
        signatures: dict, the content of its signatures.json.

    Returns:
        int, how many records were written; TensorFlow Serving takes 1000 at most.

    References:
        tensorflow/serving, g3doc/saved_model_warmup.md.
    """
    # An extra of this package.
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    length = signatures["preprocessing"].get("text", {}).get("sequence_length")
    path = model / FILE
    path.parent.mkdir(exist_ok=True)
    written = 0
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, specs in signatures["signatures"].items():
            for count in COUNTS:
                request = predict_pb2.PredictRequest()
                request.model_spec.name = name
                request.model_spec.signature_name = signature
                for key in specs["inputs"]:
                    values = tf.make_tensor_proto(_example(key, count, length))
                    request.inputs[key].CopyFrom(values)
                log = prediction_log_pb2.PredictLog(request=request)
                record = prediction_log_pb2.PredictionLog(predict_log=log)
                writer.write(record.SerializeToString())
                written += 1
    return written


def _example(key, count, length):
    """Returns `count` rows for the input `key`."""
    if key == "image_bytes":
        return np.array([_file(row) for row in range(count)], object)
    if key == "images":
        return np.stack([_pixels(row, 160, 120) for row in range(count)])
    if key in ("captions", "class_names"):
        return np.resize(np.array(_CAPTIONS, object), count)
    if key == "templates":
        return np.array(_TEMPLATES, object)
    # Any ids are as good as others. Rows of 2, 3, … tokens, the rest padding.
    mask = np.arange(length) < np.arange(2, count + 2)[:, np.newaxis]
    return mask.astype(np.int32)


def _file(row):
    """A picture as a file, of another size each; every fourth is a PNG."""
    buffer = io.BytesIO()
    picture = Image.fromarray(_pixels(row, 240 + 40 * row, 180 + 20 * row))
    picture.save(buffer, "PNG" if row % 4 == 3 else "JPEG", quality=85)
    return buffer.getvalue()


def _pixels(row, width, height):
    """Soft colours, which compress as photographs do."""
    grid = np.random.default_rng(row).integers(0, 256, (6, 8, 3), np.uint8)
    picture = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture)
