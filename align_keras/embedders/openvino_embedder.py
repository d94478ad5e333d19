"""Embedder with OpenVINO for images and Keras for texts."""

from collections.abc import Callable
from typing import Any

import numpy as np

from align_keras.embedders.keras_embedder import KerasEmbedder
from align_keras.models import ALIGN
from align_keras.utils.errors import InputError

# Number of images per request. Their activations fit into the cache of the processor.
_IMAGES_PER_REQUEST = 4
_PRECISIONS = {"openvino": "f32", "openvino_bfloat16": "bf16"}


class OpenVINOEmbedder(KerasEmbedder):
    """Embedder of an `ALIGN` whose image tower runs with OpenVINO.

    Args:
        name: name that opens the model again, or None for a model in memory.
        runtime: `"openvino"` or `"openvino_bfloat16"`.

    Raises:
        InputError: if OpenVINO cannot run the model.
    """

    def __init__(self, align: ALIGN, name: str | None, runtime: str) -> None:
        super().__init__(align, name, runtime, runtime, _compile_tower(align, runtime))


def _compile_tower(align: ALIGN, runtime: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that embeds images with OpenVINO."""
    # The function has the current weights of the model.
    import openvino

    from align_keras.models.inference import image_graph

    function = image_graph(align).get_concrete_function()
    shape = (_IMAGES_PER_REQUEST, align.image_size, align.image_size, 3)
    settings = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": _PRECISIONS[runtime],
    }
    try:
        graph = openvino.convert_model(function)
        graph.reshape(list(shape))
        compiled = openvino.Core().compile_model(graph, "CPU", settings)
    except Exception as error:
        raise InputError(
            f"runtime={runtime!r} cannot run this model "
            f"({str(error).strip().splitlines()[-1]}). Omit `runtime`, or use a "
            "float32 model that is not quantized."
        ) from error
    queue = openvino.AsyncInferQueue(compiled)

    def embed(pixels: np.ndarray) -> np.ndarray:
        # Requests have a fixed size, so black images fill the last request.
        padding = [(0, -len(pixels) % _IMAGES_PER_REQUEST), (0, 0), (0, 0), (0, 0)]
        padded = np.pad(pixels, padding)
        outputs: list[Any] = [None] * (len(padded) // _IMAGES_PER_REQUEST)

        def store(request: Any, number: int) -> None:
            outputs[number] = request.get_output_tensor(0).data.copy()

        queue.set_callback(store)
        for number in range(len(outputs)):
            start = number * _IMAGES_PER_REQUEST
            queue.start_async([padded[start : start + _IMAGES_PER_REQUEST]], number)
        queue.wait_all()
        return np.concatenate(outputs)[: len(pixels)]

    return embed
