"""The image tower as a function of pixels, by TensorFlow or an inference engine."""

import hashlib
import json

import numpy as np
import tensorflow as tf

from align_keras.utils.errors import InputError

ENGINES = (None, "openvino", "openvino_bfloat16")
# Pictures a request: their activations fit the processor's cache.
_PICTURES = 4


def image_embedder(model, engine=None):
    """Returns the function that embeds pictures as pixels.

    It is made once and kept until the encoder's structure or, for an engine,
    its weights change; ask for it again after training.

    Args:
        model: `ALIGN`.
        engine: None for TensorFlow; `"openvino"` for the same numbers (cosine
            above 0.99999, entries within 1e-5) in about two thirds of the CPU
            time; `"openvino_bfloat16"` for rounded arithmetic (cosine above
            0.99) in less than half, where the processor has it.

    Returns:
        Function from float array (n, S, S, 3), grey levels in [0, 255] and
        S = `model.image_size`, to float32 array (n, d), rows of unit length.

    Raises:
        InputError: if there is no such engine, it isn't installed, or it can't
            run the model.

    Example:

    >>> from align_keras.models import ALIGN
    >>> model = ALIGN.from_preset("align_nano", vocabulary_size=100)
    >>> image_embedder(model)(np.zeros((1, 64, 64, 3), "float32")).shape[0]
    1
    """
    if engine not in ENGINES:
        raise InputError(
            f"engine must be one of {', '.join(map(str, ENGINES))}, received "
            f"{engine!r}; choose one."
        )
    # Not as an attribute: Keras would track it.
    cache = vars(model).setdefault("_image_embedders", {})
    key = _fingerprint(model.image_encoder, with_weights=engine is not None)
    if engine not in cache or cache[engine][0] != key:
        embed = _tensorflow(model)
        if engine is not None:
            embed = _openvino(embed, engine)
        cache[engine] = key, embed
    embed = cache[engine][1]
    width = model.image_encoder.output_shape[-1]

    def embed_any_number(pixels):
        if not len(pixels):
            return np.zeros((0, width), "float32")
        return np.asarray(embed(np.asarray(pixels, "float32")), "float32")

    return embed_any_number


def _fingerprint(encoder, with_weights):
    """What a made function depends on: structure, variables, maybe their values."""
    config = json.dumps(encoder.get_config(), sort_keys=True, default=str)
    digest = hashlib.sha1(config.encode())
    for variable in encoder.variables:
        digest.update(str(id(variable)).encode())
        if with_weights:
            digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return digest.digest()


def _tensorflow(model):
    """The tower as one graph; it reads the variables at each call."""
    encoder, normalise, size = (
        model.image_encoder,
        model.normalise_image,
        model.image_size,
    )
    spec = tf.TensorSpec((None, size, size, 3), tf.float32, name="images")

    @tf.function(input_signature=[spec], autograph=False)
    def embed(pixels):
        return normalise(encoder(pixels, training=False))

    return embed


def _openvino(embed, engine):
    """The graph, converted with its present weights and run by OpenVINO."""
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
        graph.reshape([_PICTURES, size, size, 3])
        compiled = openvino.Core().compile_model(
            graph,
            "CPU",
            {
                "PERFORMANCE_HINT": "THROUGHPUT",
                "INFERENCE_PRECISION_HINT": precision,
            },
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
        padded = np.pad(pixels, [(0, -len(pixels) % _PICTURES)] + [(0, 0)] * 3)
        outputs = [None] * (len(padded) // _PICTURES)

        def store(request, number):
            outputs[number] = request.get_output_tensor(0).data.copy()

        queue.set_callback(store)
        for number in range(len(outputs)):
            start = number * _PICTURES
            queue.start_async([padded[start : start + _PICTURES]], number)
        queue.wait_all()
        return np.concatenate(outputs)[: len(pixels)]

    return run
