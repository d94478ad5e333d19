"""The image tower as a function of pixels, by TensorFlow or an inference engine."""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from align_keras.utils.errors import InputError

ENGINES = (None, "openvino", "openvino_bfloat16")
# Images a request: their activations fit the processor's cache.
_IMAGES_A_REQUEST = 4


def image_embedder(model: Any, engine: str | os.PathLike | None = None) -> Callable:
    """Returns the function that embeds images as pixels.

    It is made once and kept until the encoder's structure or, for an engine,
    its weights change; ask for it again after training.

    Args:
        model: `ALIGN`.
        engine: None for TensorFlow; `"openvino"` for the same numbers (cosine above
            0.99999) in about two thirds of the CPU time; `"openvino_bfloat16"` for
            rounded arithmetic (cosine above 0.99) in less than half, where the
            processor has it; or the path of `image.tflite` that `align-keras export
            litert` made of this model: with `--quantize int8` the fastest.

    Returns:
        Function from float array (n, S, S, 3), gray levels in [0, 255] and
        S = `model.image_size`, to float32 array (n, d), rows of unit length.

    Raises:
        InputError: if there is no such engine, it isn't installed, or it can't
            run the model; or the file isn't this model's.

    Example:

    >>> from align_keras.models import ALIGN
    >>> model = ALIGN.from_preset("align_nano", vocabulary_size=100)
    >>> image_embedder(model)(np.zeros((1, 64, 64, 3), "float32")).shape[0]
    1
    """
    from align_keras.models.on_replicas import on_replicas

    engine = checked_engine(engine)
    # Not as an attribute: Keras would track it.
    cache = vars(model).setdefault("_image_embedders", {})
    key = _state(model.image_encoder, engine)
    if engine not in cache or cache[engine][0] != key:
        if engine is None:
            made = on_replicas(model.distribute_strategy, _tensorflow(model))
        elif engine in ENGINES:
            made = _openvino(_tensorflow(model), engine)
        else:
            made = _litert(model.image_encoder, engine)
        cache[engine] = key, made
    embed = cache[engine][1]
    width = model.image_encoder.output_shape[-1]

    def embed_any_number(pixels):
        if not len(pixels):
            return np.zeros((0, width), "float32")
        return np.asarray(embed(np.asarray(pixels, "float32")), "float32")

    return embed_any_number


def checked_engine(
    engine: str | os.PathLike | None, name: str = "engine"
) -> str | None:
    """Returns an engine as None or str; raises InputError for one that isn't there."""
    if engine in ENGINES:
        return engine
    if isinstance(engine, str | os.PathLike) and os.fspath(engine).endswith(".tflite"):
        if os.path.isfile(engine):
            return os.fspath(engine)
        raise InputError(
            f"{name} must be a file that is there, received {os.fspath(engine)!r}; "
            "check the path, or write it by `align-keras export litert`."
        )
    raise InputError(
        f"{name} must be one of {', '.join(map(str, ENGINES))} or the path of a "
        f".tflite file, received {engine!r}; choose one."
    )


def _state(encoder, engine):
    """Tells what a function depends on; TensorFlow reads the weights at each call."""
    if engine is None:
        config = json.dumps(encoder.get_config(), sort_keys=True, default=str)
        return config, [id(variable) for variable in encoder.variables]
    return encoder.fingerprint(), engine_fingerprint(engine)


def engine_fingerprint(engine: str | None) -> str:
    """Returns what tells an engine's embeddings from others'."""
    if engine in ENGINES:
        return str(engine)
    with open(engine, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tensorflow(model):
    """Makes the encoder one graph, which reads the variables at each call."""
    import tensorflow as tf

    encoder, normalize = model.image_encoder, model.normalize_image
    size = model.image_size
    spec = tf.TensorSpec((None, size, size, 3), tf.float32, name="images")

    @tf.function(input_signature=[spec], autograph=False)
    def embed(pixels):
        return normalize(encoder(pixels, training=False))

    return embed


def _openvino(embed, engine):
    """Converts the graph with its present weights; OpenVINO runs it."""
    try:
        import openvino
    except ImportError:
        raise InputError(
            f"engine={engine!r} needs OpenVINO, which isn't installed; run "
            "`pip install openvino`, or leave engine out."
        ) from None
    function = embed.get_concrete_function()
    size = function.inputs[0].shape[1]
    precision = "bf16" if engine == "openvino_bfloat16" else "f32"
    try:
        graph = openvino.convert_model(function)
        graph.reshape([_IMAGES_A_REQUEST, size, size, 3])
        compiled = openvino.Core().compile_model(
            graph,
            "CPU",
            {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision},
        )
    except Exception as error:
        raise InputError(
            f"engine={engine!r} can't run this model, received "
            f"{str(error).strip().splitlines()[-1]}; leave engine out, or use a "
            "float32 model that isn't quantized."
        ) from error
    queue = openvino.AsyncInferQueue(compiled)

    def run(pixels):
        # Requests have a fixed size; the last one is filled with black.
        padded = np.pad(pixels, [(0, -len(pixels) % _IMAGES_A_REQUEST)] + [(0, 0)] * 3)
        outputs = [None] * (len(padded) // _IMAGES_A_REQUEST)

        def store(request, number):
            outputs[number] = request.get_output_tensor(0).data.copy()

        queue.set_callback(store)
        for number in range(len(outputs)):
            start = number * _IMAGES_A_REQUEST
            queue.start_async([padded[start : start + _IMAGES_A_REQUEST]], number)
        queue.wait_all()
        return np.concatenate(outputs)[: len(pixels)]

    return run


def _litert(encoder, path):
    """Opens an exported file, which embeds one image at a time on each processor."""
    from align_keras.export.litert_file import LiteRTTower, read_tower_metadata

    content = pathlib.Path(path).read_bytes()
    try:
        made_of = read_tower_metadata(content).get("encoder_fingerprint")
    except (zipfile.BadZipFile, KeyError, ValueError):
        made_of = None
    if made_of != encoder.fingerprint():
        raise InputError(
            f"engine must be an image tower's file of just this model, received {path} "
            "of another or of other weights; write it anew by `align-keras export "
            "litert`."
        )
    # An image's activations fit a processor's cache, and it waits for no other.
    towers = [LiteRTTower(content) for _ in range(os.cpu_count())]

    def embed_some(tower, pixels):
        return [tower(images=image[None]) for image in pixels]

    def run(pixels):
        with concurrent.futures.ThreadPoolExecutor(len(towers)) as pool:
            parts = pool.map(embed_some, towers, np.array_split(pixels, len(towers)))
            return np.concatenate([row for part in parts for row in part])

    return run
