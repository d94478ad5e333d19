"""Wrapper of a model for mteb, whose image benchmark is MIEB."""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from align_keras.embedders.embedder import Embedder
from align_keras.embedders.loading import load_model
from align_keras.embedders.locations import (
    choose_runtime,
    keras_or_auto,
    locate_model,
)
from align_keras.presets.table import presets
from align_keras.utils.arguments import refuse_unknown
from align_keras.utils.errors import needs
from align_keras.utils.llvm_conflict import block_triton, refuse_loaded_triton

if TYPE_CHECKING:
    from align_keras.models import ALIGN

_HUB_PREFIX = "hf://"
# Organization in the names of models that are not on the Hugging Face Hub. mteb
# requires names of the form ORGANIZATION/MODEL.
_ORGANIZATION = "align-keras"
_RUNTIMES_WITHOUT_TENSORFLOW = ("litert", "onnx")
# mteb's names of frameworks. It has no name for LiteRT, a part of TensorFlow.
_FRAMEWORKS = {
    "onnx": "ONNX",
    "openvino": "OpenVINO",
    "openvino_bfloat16": "OpenVINO",
}
# Metadata of the models that come with the package, which mteb shows.
_SHIPPED_METADATA = {
    "align_small_en": {
        "license": "apache-2.0",
        "languages": ["eng-Latn"],
        "open_weights": True,
    }
}


class MTEBEncoder:
    """Model with the interface that mteb evaluates, `mteb.EncoderProtocol`.

    `align_keras.mteb_model` creates it.

    Args:
        meta: `mteb.ModelMeta` of the model.

    Attributes:
        embedder: `Embedder` that computes the embeddings.
        mteb_model_meta: `mteb.ModelMeta`, which mteb stores with the results.

    Example:

    >>> encoder = MTEBEncoder(load_model("align_small_en"), meta=None)
    >>> encoder.encode([{"text": ["a dog", "a cat"]}, {"text": ["a red bus"]}]).shape
    (3, 384)
    """

    def __init__(self, embedder: Embedder, meta: Any) -> None:
        self.embedder = embedder
        self.mteb_model_meta = meta

    def encode(self, inputs: Iterable[Mapping[str, Any]], **options: Any) -> np.ndarray:
        """Embeds the batches of a task.

        Args:
            inputs: iterable of dicts with lists of equal length: `"text"` with str,
                `"image"` with `PIL.Image.Image`, or both. If an item has both, its
                embedding is the sum of the two, as in mteb's wrappers of ALIGN and
                CLIP.
            **options: task, split and batch size, which the embeddings do not depend
                on.

        Returns:
            float32 array (n, d).
        """
        rows = [np.zeros((0, self.embedder.dimension), np.float32)]
        for batch in inputs:
            parts = []
            if "text" in batch:
                parts.append(self.embedder.encode_texts(list(batch["text"])))
            if "image" in batch:
                pixels = [_rgb_pixels(image) for image in batch["image"]]
                parts.append(self.embedder.encode_images(pixels))
            rows.append(np.sum(parts, axis=0))
        return np.concatenate(rows)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Returns the cosine of each pair of rows, a tensor (n, m) of PyTorch."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Returns the cosine of rows of the same number, a tensor (n,) of PyTorch."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


def mteb_model(
    model: "str | os.PathLike | ALIGN | Embedder",
    runtime: str | os.PathLike | None = None,
    **metadata: Any,
) -> MTEBEncoder:
    """Opens a model for mteb, the benchmark of embeddings (MIEB for images).

    mteb needs PyTorch. If the model needs TensorFlow, the function prevents later
    imports of triton, because TensorFlow and triton cannot share a process.

    Args:
        model: model, as in `align_keras.load_model`.
        runtime: runtime that computes the embeddings, as in `align_keras.load_model`.
            None chooses the runtime of `align_keras.evaluate`, which is Keras for a
            model with Keras weights. The metadata contain the runtime.
        **metadata: fields of `mteb.ModelMeta` that replace the defaults, such as
            `name="user/model"`, `license="apache-2.0"` or `languages=["eng-Latn"]`.

    Returns:
        `MTEBEncoder`, which `mteb.evaluate` and `mteb.mock_run` accept. The name of its
        metadata is `user/model` for `hf://user/model`, and `align-keras/FOLDER` for
        other models. The revision is the fingerprint of the model.

    Raises:
        InputError: if mteb is not installed, a field of `metadata` is unknown, or the
            model can't be opened.

    References:
        Xiao et al. 2025, "MIEB: Massive Image Embedding Benchmark".

    Example:

    `mteb.evaluate(model, mteb.get_benchmark("MIEB(lite)"))` then downloads and runs the
    tasks of a benchmark.

    ```python
    model = mteb_model("align_small_en")
    model.mteb_model_meta.name  # 'align-keras/align_small_en'
    model.mteb_model_meta.embed_dim  # 384
    ```
    """
    with needs("mteb", "`mteb_model` needs mteb"):
        from mteb.models import ModelMeta
    refuse_unknown("mteb_model", metadata, ModelMeta.model_fields)
    if runtime is None and isinstance(model, str | os.PathLike):
        runtime = keras_or_auto(model)
    runtime = runtime or "auto"
    if _needs_tensorflow(model, runtime):
        refuse_loaded_triton(str(model))
        block_triton()
    embedder = load_model(model, runtime)
    meta = ModelMeta(**(_default_metadata(embedder) | metadata))
    return MTEBEncoder(embedder, meta)


def _needs_tensorflow(model: Any, runtime: str | os.PathLike) -> bool:
    """Returns True unless LiteRT or ONNX computes the embeddings."""
    if isinstance(model, Embedder):
        return model.runtime not in _RUNTIMES_WITHOUT_TENSORFLOW
    if not isinstance(model, str | os.PathLike):
        return True
    chosen_runtime = choose_runtime(locate_model(model), runtime)
    return chosen_runtime not in _RUNTIMES_WITHOUT_TENSORFLOW


def _default_metadata(embedder: Embedder) -> dict[str, Any]:
    """Returns the fields of `mteb.ModelMeta` that are known from the model."""
    parameters = {preset.name: preset.parameters for preset in presets()}.get(
        embedder.name
    )
    memory = None
    sequence_length = getattr(embedder, "sequence_length", None)
    if embedder.align is not None:
        parameters = embedder.align.count_params()
        memory = parameters * 4 / 2**20
        sequence_length = embedder.align.text_encoder.sequence_length
    return {
        "loader": None if embedder.in_memory else _open_again,
        "loader_kwargs": {
            "model": embedder.name,
            "runtime": embedder.runtime,
        },
        "name": _public_name(embedder.name),
        "revision": embedder.fingerprint,
        "release_date": None,
        "languages": None,
        "n_parameters": parameters,
        "memory_usage_mb": memory,
        "max_tokens": sequence_length,
        "embed_dim": embedder.dimension,
        "license": None,
        "open_weights": None,
        "public_training_code": None,
        "public_training_data": None,
        "framework": [_FRAMEWORKS.get(embedder.runtime, "TensorFlow")],
        "similarity_fn_name": "cosine",
        "use_instructions": False,
        "training_datasets": None,
        "modalities": ["image", "text"],
        **_SHIPPED_METADATA.get(embedder.name, {}),
    }


def _open_again(
    name: str,
    revision: str | None = None,
    *,
    model: str,
    runtime: str = "auto",
    device: str | None = None,
) -> MTEBEncoder:
    """Opens a model for `mteb.ModelMeta.load_model`, which replaces its metadata."""
    return mteb_model(model, runtime, name=name, revision=revision)


def _public_name(name: str) -> str:
    """Returns the name of a model in the form ORGANIZATION/MODEL."""
    if name.startswith(_HUB_PREFIX):
        return name.removeprefix(_HUB_PREFIX).partition("@")[0]
    return f"{_ORGANIZATION}/{pathlib.Path(name).name}"


def _rgb_pixels(image: Any) -> np.ndarray:
    """Returns an image of Pillow on a white background as uint8 (height, width, 3)."""
    from align_keras.utils.rgb_colors import to_rgb

    rgb, _ = to_rgb(image)
    return np.asarray(rgb)
