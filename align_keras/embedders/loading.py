"""Function that opens any model that embeds images and texts."""

import functools
import os
import pathlib
from typing import TYPE_CHECKING

from align_keras.embedders.embedder import Embedder
from align_keras.embedders.locations import (
    ModelLocation,
    check_installed,
    check_runtime,
    choose_runtime,
    is_image_runtime,
    locate_model,
)
from align_keras.presets.keras_hub_layout import is_keras_hub_preset
from align_keras.presets.open_clip_layout import is_open_clip
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_json

if TYPE_CHECKING:
    from align_keras.models import ALIGN

# Optional file of a model with default values for search, `text_weight` and
# `label_threshold`.
SEARCH_FILE = "search.json"


def load_model(
    model: "str | os.PathLike | ALIGN | Embedder",
    runtime: str | os.PathLike = "auto",
    dimensions: int | None = None,
) -> Embedder:
    """Opens a model to embed images and texts.

    Args:
        model: one of

            - `"align_small_en"`, the trained model that comes with the package.
            - the folder of a finished run, of a preset or of Hugging Face's ALIGN, a
              `.keras` file, or `"hf://user/model"`. A name on the Hub may end in `@`
              and a branch, tag or commit, and in the path of a folder:
              `"hf://user/model@v1/onnx"`. The models of Kaggle are
              `"kaggle://user/model/keras/variation"`.
            - the folder of an export: a SavedModel, LiteRT towers (`image.tflite`,
              `text.tflite`) or ONNX towers (`image.onnx`, `text.onnx`).
            - an open_clip model in the ONNX layout of immich, the folder or
              `"hf://immich-app/model"`: CLIP, SigLIP, SigLIP 2, MobileCLIP and
              multilingual models. It needs the extra `onnx`.
            - a KerasHub preset of `CLIPBackbone` or `SigLIPBackbone`, the folder,
              `"kaggle://keras/siglip/keras/variation"` or `"hf://keras/preset"`.
            - an `ALIGN` in memory.
            - an `Embedder`, which is returned unchanged.
        runtime: runtime that computes the embeddings.

            - `"auto"` chooses the first of LiteRT, SavedModel, Keras and ONNX that is
              installed and for which the folder has files.
            - `"keras"`, `"saved_model"`, `"litert"` and `"onnx"` choose this runtime.
              Only Keras and SavedModels need TensorFlow.
            - `"openvino"` embeds the images of a Keras model with OpenVINO. The
              embeddings are almost the same (cosine above 0.99999) and take about two
              thirds of the CPU time. Keras embeds the texts.
            - `"openvino_bfloat16"` does the same with bfloat16 arithmetic. The cosine
              to the embeddings of Keras is above 0.99. Processors that support bfloat16
              need less than half of the time.
            - the path of an `image.tflite` that `align-keras export litert` wrote for
              this Keras model. It embeds the images, and Keras embeds the texts. A file
              that was exported with `--quantize int8` is the fastest runtime.
        dimensions: number of first components of the embeddings. They are
            scaled to unit length. None returns all components. An index of fewer
            components is smaller and faster. A model that was trained with
            `MatryoshkaLoss` loses little of its recall.

    Returns:
        `Embedder`. With OpenVINO or a `.tflite` file, its image tower is a copy of the
        weights. Open the model again after training it.

    Raises:
        InputError: if the model does not exist or is damaged, if the runtime is
            unknown, is not installed or cannot run the model, or if `dimensions` is
            larger than the embeddings.

    References:
        Jia et al. 2021, section 4.1 (cosine similarity of two encoders).

    Example:

    >>> import numpy as np
    >>> model = load_model("align_small_en")
    >>> model.encode_texts(["a red bicycle", "a cat"]).shape == (2, model.dimension)
    True
    >>> load_model("align_small_en", dimensions=64).encode_texts(["a cat"]).shape
    (1, 64)
    """
    embedder = _open(model, runtime)
    if dimensions is None or dimensions == embedder.dimension:
        return embedder
    from align_keras.embedders.truncated_embedder import TruncatedEmbedder

    return TruncatedEmbedder(embedder, dimensions)


def _open(
    model: "str | os.PathLike | ALIGN | Embedder", runtime: str | os.PathLike
) -> Embedder:
    """Opens a model that returns complete embeddings."""
    if isinstance(model, str | os.PathLike):
        return _open_by_name(model, runtime)
    if isinstance(model, Embedder):
        if check_runtime(runtime) not in ("auto", model.runtime):
            raise InputError(
                f"`runtime` must be {model.runtime}, the runtime of this Embedder. "
                f"Received: runtime={runtime!r}. Pass the name of the model to open it "
                "with another runtime."
            )
        return model
    runtime = check_runtime(runtime)
    if runtime not in ("auto", "keras") and not is_image_runtime(runtime):
        raise InputError(
            "`runtime` must be keras, openvino, openvino_bfloat16 or a .tflite file "
            f"for a model in memory. Received: runtime={runtime!r}. Export the model "
            "and pass the folder of the export."
        )
    check_installed(runtime)
    return _keras_embedder(model, None, "keras" if runtime == "auto" else runtime)


@functools.lru_cache(maxsize=1)
def worker_model(
    name: str, runtime: str = "auto", dimensions: int | None = None
) -> Embedder:
    """Returns a model that stays open for all tasks of a worker process.

    The arguments are those of `load_model`. Each task must verify the fingerprint of
    the model with `align_keras.utils.tasks.check_same`.
    """
    return load_model(name, runtime, dimensions)


def _open_by_name(name: str | os.PathLike, runtime: str | os.PathLike) -> Embedder:
    location = locate_model(name)
    chosen = choose_runtime(location, runtime)
    embedder: Embedder
    if chosen == "litert":
        from align_keras.embedders.litert_embedder import LiteRTEmbedder

        embedder = LiteRTEmbedder(location)
    elif chosen == "onnx" and is_open_clip(location.folder):
        from align_keras.embedders.open_clip_embedder import OpenCLIPEmbedder

        embedder = OpenCLIPEmbedder(location)
    elif chosen == "onnx":
        from align_keras.embedders.onnx_embedder import ONNXEmbedder

        embedder = ONNXEmbedder(location)
    elif chosen == "saved_model":
        from align_keras.embedders.saved_model_embedder import SavedModelEmbedder

        embedder = SavedModelEmbedder(location)
    elif is_keras_hub_preset(location.folder):
        embedder = _keras_hub_embedder(location, chosen)
    else:
        from align_keras.models import ALIGN

        # `from_preset` also accepts names of architectures without weights, so the
        # folder takes precedence.
        align = ALIGN.from_preset(location.preset)
        embedder = _keras_embedder(align, location.name, chosen)
    if chosen != location.runtimes[0]:
        embedder.runtime_option = chosen
    if location.folder.is_dir():
        _read_search_settings(embedder, location.folder)
    return embedder


def _keras_hub_embedder(location: ModelLocation, runtime: str) -> Embedder:
    if runtime != "keras":
        raise InputError(
            f"`runtime` must be keras for the KerasHub model {location.name}. "
            f"Received: runtime={runtime!r}. Omit `runtime`."
        )
    from align_keras.embedders.keras_hub_embedder import KerasHubEmbedder

    return KerasHubEmbedder(location)


def _read_search_settings(embedder: Embedder, folder: pathlib.Path) -> None:
    """Sets the properties of a model that its file `search.json` contains."""
    settings = read_json(folder / SEARCH_FILE)
    for name in ("text_weight", "label_threshold"):
        if name in settings:
            setattr(embedder, name, float(settings[name]))


def _keras_embedder(align: "ALIGN", name: str | None, runtime: str) -> Embedder:
    if runtime.endswith(".tflite"):
        from align_keras.embedders.image_file_embedder import ImageFileEmbedder

        return ImageFileEmbedder(align, name, runtime)
    if is_image_runtime(runtime):
        from align_keras.embedders.openvino_embedder import OpenVINOEmbedder

        return OpenVINOEmbedder(align, name, runtime)
    from align_keras.embedders.keras_embedder import KerasEmbedder

    return KerasEmbedder(align, name)
