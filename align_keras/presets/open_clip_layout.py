"""Files of open_clip models in the ONNX layout of immich."""

import pathlib

OPEN_CLIP_FILES = {
    "image": "visual/model.onnx",
    "text": "textual/model.onnx",
    "config": "config.json",
    "preprocessing": "visual/preprocess_cfg.json",
    "tokenizer": "textual/tokenizer.json",
}
# Files of these folders are weights and settings. A star also matches slashes.
OPEN_CLIP_PATTERNS = ("visual/*", "textual/*")
# Files of other runtimes.
OPEN_CLIP_IGNORED = ("*.armnn", "*.rknn")


def is_open_clip(folder: pathlib.Path) -> bool:
    """Returns True for a folder with a tower of an open_clip model."""
    return any((folder / OPEN_CLIP_FILES[kind]).exists() for kind in ("image", "text"))
