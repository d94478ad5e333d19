"""Models of this package in CLIP_benchmark.

`python -m align_keras.embedders.clip_benchmark_model eval --model MODEL …` is the
command of CLIP_benchmark with `--model_type align_keras`.
"""

import argparse
import functools
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.embedders.embedder import Embedder
from align_keras.embedders.image_transforms import (
    ImageTransform,
    ResizeSquareAsTensorflow,
)
from align_keras.embedders.loading import load_model
from align_keras.embedders.locations import (
    choose_runtime,
    keras_or_auto,
    locate_model,
)
from align_keras.embedders.pixels import transformed_pixels
from align_keras.utils.errors import InputError
from align_keras.utils.llvm_conflict import block_triton

_MODEL_TYPE = "align_keras"
# Options that precede those of the user. Mixed precision would round the scores to
# bfloat16, with which the figures differ in the third digit.
_DEFAULT_OPTIONS = ("--model_type", _MODEL_TYPE, "--no_amp")


class CLIPBenchmarkModel:
    """Model with the methods that CLIP_benchmark calls."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def eval(self) -> "CLIPBenchmarkModel":
        """Returns the model itself, which has no training mode."""
        return self

    def encode_image(self, images: Any) -> Any:
        """Embeds images that the transform of `_load` returned.

        Args:
            images: uint8 tensor (n, resize_to, resize_to, 3).

        Returns:
            float32 tensor (n, d), rows of unit length.
        """
        pixels = list(images.cpu().numpy())
        return _as_tensor(self.embedder.encode_resized(pixels), images.device)

    def encode_text(self, texts: Any) -> Any:
        """Embeds texts.

        Args:
            texts: uint8 tensor (n, length) of `text_bytes`.

        Returns:
            float32 tensor (n, d), rows of unit length.
        """
        contents = [bytes(row).rstrip(b"\0").decode() for row in texts.cpu().numpy()]
        return _as_tensor(self.embedder.encode_texts(contents), texts.device)


def register_clip_benchmark() -> None:
    """Adds the model type `align_keras` to CLIP_benchmark.

    `clip_benchmark.models.load_clip("align_keras", model, runtime, …)` then opens a
    model of `align_keras.load_model`. The runtime None is that of
    `align_keras.evaluate`, which is Keras for a model with Keras weights. The function
    prevents later imports of triton, which cannot share a process with TensorFlow.

    Example:

    ```python
    from clip_benchmark.models import load_clip

    register_clip_benchmark()
    model, transform, tokenizer = load_clip(
        "align_keras", "align_small_en", None, cache_dir=None, device="cpu"
    )
    ```
    """
    block_triton()
    from clip_benchmark import models
    from clip_benchmark.metrics import zeroshot_classification

    # CLIP_benchmark 1.6 calls `float` with an array of one value, which recent versions
    # of NumPy refuse. A global name of the module precedes the built-in function.
    zeroshot_classification.float = lambda array: np.asarray(array).item()
    models.TYPE2FUNC[_MODEL_TYPE] = _load
    if _MODEL_TYPE not in models.MODEL_TYPES:
        models.MODEL_TYPES.append(_MODEL_TYPE)


def _load(
    model_name: str,
    pretrained: str | None = None,
    cache_dir: str | None = None,
    device: Any = "cpu",
) -> tuple[CLIPBenchmarkModel, Any, Any]:
    """Returns the model, the transform of an image and the tokenizer of texts."""
    embedder = load_model(model_name, pretrained or keras_or_auto(model_name))
    transform = embedder.image_transform
    if embedder.align is not None:
        transform = ResizeSquareAsTensorflow(embedder.resize_to)
    return (
        CLIPBenchmarkModel(embedder),
        functools.partial(_transformed, transform=transform),
        text_bytes,
    )


def _transformed(image: Any, transform: ImageTransform) -> Any:
    """Converts an image of Pillow to a uint8 tensor (resize_to, resize_to, 3)."""
    content = io.BytesIO()
    image.save(content, "png", compress_level=1)
    pixels = transformed_pixels(content.getvalue(), transform)
    return _as_tensor(pixels, "cpu")


def text_bytes(texts: str | Sequence[str]) -> Any:
    """Returns the UTF-8 bytes of texts as a uint8 tensor (n, length) with zeros."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    contents = [text.encode("utf-8", "replace") for text in texts]
    length = max([1, *(len(content) for content in contents)])
    padded = b"".join(content.ljust(length, b"\0") for content in contents)
    rows = np.frombuffer(padded, np.uint8).reshape(len(contents), length)
    return _as_tensor(rows, "cpu")


def _as_tensor(values: np.ndarray, device: Any) -> Any:
    import torch

    return torch.from_numpy(np.array(values)).to(device)


def with_runtimes(options: list[str]) -> list[str]:
    """Adds the runtime of each model, which CLIP_benchmark writes to its results."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", nargs="+", default=[])
    parser.add_argument("--pretrained", nargs="+", default=[None])
    parser.add_argument("--pretrained_model", nargs="+")
    known, _ = parser.parse_known_args(options)
    if known.pretrained_model or not known.model:
        return options
    pairs = [
        f"{model},{choose_runtime(locate_model(model), name or keras_or_auto(model))}"
        for model in known.model
        for name in known.pretrained
    ]
    return [*options, "--pretrained_model", *pairs]


def main() -> int:
    """Runs the command of CLIP_benchmark. Returns the exit code."""
    try:
        register_clip_benchmark()
        from clip_benchmark import cli

        command, *options = sys.argv[1:] or ["--help"]
        if command == "eval":
            options = [*_DEFAULT_OPTIONS, *with_runtimes(options)]
        sys.argv = [os.path.basename(sys.argv[0]), command, *options]
        cli.main()
    except (ModuleNotFoundError, InputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
