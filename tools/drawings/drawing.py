"""Drawing with its captions, and files of npm packages."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

from align_keras.utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Image with its captions before it is decoded.

    Attributes:
        id: unique id in its set.
        source: argument of `load`, such as a path.
        captions: texts, the best first.
        category: "" if the set has no categories.
        load: returns the PIL image, or raises `ImageError` if it can't be used.
        group: drawings of one group are in the same split.
    """

    id: str
    source: Any
    captions: tuple[str, ...]
    category: str
    load: Callable[[Any], Any]
    group: str = ""


def read_package_file(node_modules: pathlib.Path, package: str, name: str) -> Any:
    """Returns the content of a JSON file of an npm package."""
    path = node_modules / package / name
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"`node_modules` must contain {package}/{name}. Received: {node_modules} "
            f"({error}). Run npm install {package}."
        ) from None


def list_folders(node_modules: pathlib.Path, package: str, name: str) -> list[str]:
    """Returns the sorted names of the folders in a folder of an npm package."""
    folder = node_modules / package / name
    if not folder.is_dir():
        raise InputError(
            f"`node_modules` must contain {package}/{name}. Received: {node_modules}. "
            f"Run npm install {package}."
        )
    return sorted(path.name for path in folder.iterdir() if path.is_dir())
