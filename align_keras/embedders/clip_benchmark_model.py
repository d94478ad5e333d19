"""Models of this package in CLIP_benchmark.

`python -m align_keras.embedders.clip_benchmark_model eval --model MODEL …` is the
command of CLIP_benchmark with `--model_type align_keras`.
"""

import functools
import importlib.util
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.embedders.embedder import Embedder
from align_keras.embedders.loading import load_model
from align_keras.embedders.pixels import square_pixels
from align_keras.utils.errors import InputError
from align_keras.utils.llvm_conflict import block_triton

_MODEL_TYPE = "align_keras"
# Options that precede those of the user. Mixed precision would round the scores to
# bfloat16, with which the figures differ in the third digit.
_DEFAULT_OPTIONS = ("--model_type", _MODEL_TYPE, "--pretrained", "auto", "--no_amp")


class CLIPBenchmarkModel:
    """Model with the methods that CLIP_benchmark calls.

    Args:
        embedder: `Embedder`.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def eval(self) -> "CLIPBenchmarkModel":
        """Returns the model itself, which has no training mode."""
        return self

    def encode_image(self, images: Any) -> Any:
        """Embeds images of the size `resize_to`.

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
    model of `align_keras.load_model`. The function prevents later imports of triton,
    which cannot share a process with TensorFlow.

    Raises:
        InputError: if CLIP_benchmark is not installed.

    Example:

    ```python
    from clip_benchmark.models import load_clip

    register_clip_benchmark()
    model, transform, tokenizer = load_clip(
        "align_keras", "align_small_en", "auto", cache_dir=None, device="cpu"
    )
    ```
    """
    if importlib.util.find_spec("clip_benchmark") is None:
        raise InputError(
            "`register_clip_benchmark` needs clip-benchmark, which isn't installed. "
            "Run `pip install clip-benchmark`."
        )
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
    pretrained: str = "auto",
    cache_dir: str | None = None,
    device: Any = "cpu",
) -> tuple[CLIPBenchmarkModel, Any, Any]:
    """Returns the model, the transform of an image and the tokenizer of texts."""
    embedder = load_model(model_name, pretrained)
    transform = functools.partial(_resized, resize_to=embedder.resize_to)
    return CLIPBenchmarkModel(embedder), transform, text_bytes


def _resized(image: Any, resize_to: int) -> Any:
    """Converts an image of Pillow to a uint8 tensor (resize_to, resize_to, 3)."""
    content = io.BytesIO()
    image.save(content, "png", compress_level=1)
    return _as_tensor(square_pixels(content.getvalue(), resize_to), "cpu")


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


def main() -> int:
    """Runs the command of CLIP_benchmark. Returns the exit code."""
    try:
        register_clip_benchmark()
        from clip_benchmark import cli

        command, *options = sys.argv[1:] or ["--help"]
        if command == "eval":
            options = [*_DEFAULT_OPTIONS, *options]
        sys.argv = [os.path.basename(sys.argv[0]), command, *options]
        cli.main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
