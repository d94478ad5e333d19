"""Opens models by their names."""

import functools
import os
from typing import TYPE_CHECKING

from align_keras.embedders.embedder import Embedder
from align_keras.embedders.locations import (
    check_installed,
    check_runtime,
    choose_runtime,
    is_image_runtime,
    locate_model,
)
from align_keras.utils.errors import InputError

if TYPE_CHECKING:
    from align_keras.models import ALIGN


def load_model(
    model: "str | os.PathLike | ALIGN | Embedder",
    runtime: str | os.PathLike = "auto",
) -> Embedder:
    """Opens a model to embed images and texts.

    Args:
        model: one of

            - `"align_small_en"`, the trained model that comes with the package.
            - the folder of a finished run, of a preset or of Hugging Face's ALIGN, or
              `"hf://user/model"`.
            - the folder of an export: a SavedModel, LiteRT towers (`image.tflite`,
              `text.tflite`) or ONNX towers (`image.onnx`, `text.onnx`).
            - an `ALIGN` in memory.
            - an `Embedder`, which is returned unchanged.
        runtime: what computes the embeddings.

            - `"auto"`: the first of LiteRT, SavedModel, Keras and ONNX that the folder
              has files for.
            - `"keras"`, `"saved_model"`, `"litert"`, `"onnx"`: this one. Only Keras and
              SavedModels need TensorFlow.
            - `"openvino"`: OpenVINO for the images of a Keras model, the same numbers
              (cosine above 0.99999) in about two thirds of the CPU time. Keras embeds
              the texts.
            - `"openvino_bfloat16"`: the same in rounded arithmetic (cosine above 0.99)
              in less than half of the time, where the processor has it.
            - the path of the `image.tflite` that `align-keras export litert` made of
              this Keras model, for the images. With `--quantize int8` it is the
              fastest.

    Returns:
        `Embedder`. Its image tower by OpenVINO or by a `.tflite` file has the weights
        of this moment. Open the model again after training it.

    Raises:
        InputError: if there is no model of this name, it is damaged, or the runtime
            is unknown, not installed or cannot run the model.

    References:
        Jia et al. 2021, section 4.1 (two encoders, compared by the cosine).

    Example:

    >>> import numpy as np
    >>> model = load_model("align_small_en")
    >>> model.encode_texts(["a red bicycle", "a cat"]).shape == (2, model.dimension)
    True
    """
    if isinstance(model, str | os.PathLike):
        return _open_by_name(model, runtime)
    if isinstance(model, Embedder):
        if check_runtime(runtime) not in ("auto", model.runtime):
            raise InputError(
                f"runtime must be {model.runtime} for a model that is open. Received: "
                f"runtime={runtime!r}. Open the model by its name."
            )
        return model
    from align_keras.models import ALIGN

    if not isinstance(model, ALIGN):
        raise InputError(
            "model must be a name, an ALIGN or an Embedder. Received: "
            f"{type(model).__name__}. Give the model's folder or name."
        )
    runtime = check_runtime(runtime)
    if runtime not in ("auto", "keras") and not is_image_runtime(runtime):
        raise InputError(
            "runtime must be keras, openvino, openvino_bfloat16 or a .tflite file for "
            f"a model in memory. Received: runtime={runtime!r}. Export the model, and "
            "name the export."
        )
    check_installed(runtime)
    return _keras_embedder(model, None, "keras" if runtime == "auto" else runtime)


@functools.lru_cache(maxsize=1)
def worker_model(name: str, runtime: str = "auto") -> Embedder:
    """Opens a model once for all tasks of a worker, as `load_model`.

    The task compares the fingerprint by `align_keras.utils.tasks.check_same`.
    """
    return load_model(name, runtime)


def _open_by_name(name: str | os.PathLike, runtime: str | os.PathLike) -> Embedder:
    location = locate_model(name)
    chosen = choose_runtime(location, runtime)
    embedder: Embedder
    if chosen == "litert":
        from align_keras.embedders.litert_embedder import LiteRTEmbedder

        embedder = LiteRTEmbedder(location)
    elif chosen == "onnx":
        from align_keras.embedders.onnx_embedder import ONNXEmbedder

        embedder = ONNXEmbedder(location)
    elif chosen == "saved_model":
        from align_keras.embedders.saved_model_embedder import SavedModelEmbedder

        embedder = SavedModelEmbedder(location)
    else:
        from align_keras.models import ALIGN

        # The name may also be that of an architecture without weights.
        align = ALIGN.from_preset(location.folder or location.name)
        embedder = _keras_embedder(align, location.name, chosen)
    if chosen != location.runtimes[0]:
        embedder.runtime_option = chosen
    return embedder


def _keras_embedder(align: "ALIGN", name: str | None, runtime: str) -> Embedder:
    if runtime.endswith(".tflite"):
        from align_keras.embedders.image_file_embedder import ImageFileEmbedder

        return ImageFileEmbedder(align, name, runtime)
    if is_image_runtime(runtime):
        from align_keras.embedders.openvino_embedder import OpenVINOEmbedder

        return OpenVINOEmbedder(align, name, runtime)
    from align_keras.embedders.keras_embedder import KerasEmbedder

    return KerasEmbedder(align, name)
