"""Export of a static web page that searches images in the browser."""

import base64
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from align_keras.images import crop_size_to_resize_size
from align_keras.text import unicode_classes
from align_keras.text.vocabulary import SPECIAL_TOKENS, is_uncased, save_vocabulary
from align_keras.utils.errors import InputError
from align_keras.utils.files import MAX_PIXELS, read_json

# Version of the npm package of LiteRT for browsers.
LITERT_JS_VERSION = "2.5.3"
# npm packages of the runtime and the files of each that the page loads. They are not
# part of align-keras. `npm install` in the folder of the page downloads them.
_RUNTIME = {
    "@litertjs/core": (
        "package.json",
        "README.md",
        "dist/index.js",
        # Browsers without relaxed SIMD load the compat files, and all others load the
        # first two.
        "wasm/litert_wasm_internal.js",
        "wasm/litert_wasm_internal.wasm",
        "wasm/litert_wasm_compat_internal.js",
        "wasm/litert_wasm_compat_internal.wasm",
    ),
    "@litertjs/wasm-utils": ("package.json", "README.md", "dist/index.js"),
}
_SOURCE = pathlib.Path(__file__).parent / "web"


@dataclasses.dataclass(frozen=True)
class PageImage:
    """Image in the index of a page.

    Attributes:
        id: name of the image.
        captions: captions of the image. The list may be empty.
        thumbnail: content of a small PNG, JPEG, GIF, BMP or WebP file.
        suffix: suffix of the name of that file, such as `".png"`.
    """

    id: str
    captions: list[str]
    thumbnail: bytes
    suffix: str


def write_web_page(
    folder: str | os.PathLike,
    *,
    tokenizer: Any,
    image_size: int,
    image_tower: bytes,
    text_tower: bytes,
    images: Sequence[PageImage],
    embeddings: np.ndarray,
    relevance_weights: Mapping[str, float],
    title: str,
    runtime: str | os.PathLike | None,
) -> None:
    """Writes a web page that searches images by text or by image.

    Any static web server can serve the page. All computation happens in the browser.

    Args:
        folder: path of an empty folder.
        tokenizer: `WordPieceTokenizer` of the model.
        image_size: side of the input image of the model in pixels.
        image_tower: content of the LiteRT file of the image encoder.
        text_tower: content of the LiteRT file of the text encoder.
        images: `PageImage` of each image.
        embeddings: float array (images, d) with rows of unit length.
        relevance_weights: `RELEVANCE_WEIGHTS` of `align_keras.search.query.hits`.
        title: heading of the page.
        runtime: `node_modules` folder that `check_litert_js` accepts and that is copied
            to the page. None requires the user to run `npm install`.
    """
    folder = pathlib.Path(folder)
    dimension = embeddings.shape[1]
    _write_images(folder, images, embeddings)
    _write_model(
        folder,
        tokenizer,
        image_size,
        image_tower,
        text_tower,
        dimension,
        relevance_weights,
    )
    _write_page(folder, title, len(images))
    if runtime is not None:
        _copy_runtime(pathlib.Path(runtime), folder / "node_modules")


def check_litert_js(runtime: str | os.PathLike) -> None:
    """Raises unless a folder is a `node_modules` folder with the runtime packages."""
    requirements = " ".join(f"{name}@{LITERT_JS_VERSION}" for name in _RUNTIME)
    for package in _RUNTIME:
        description = read_json(pathlib.Path(runtime, package, "package.json"))
        version = description.get("version")
        if version != LITERT_JS_VERSION:
            raise InputError(
                f"`litert_js` must be a node_modules folder with {package} "
                f"{LITERT_JS_VERSION}. Received: litert_js={runtime} with the version "
                f"{version}. Run `npm install {requirements}`."
            )


def _write_images(
    folder: pathlib.Path, images: Sequence[PageImage], embeddings: np.ndarray
) -> None:
    image_folder = folder / "images"
    (image_folder / "thumbnails").mkdir(parents=True)
    entries = []
    for row, image in enumerate(images):
        name = f"thumbnails/{row:06d}{image.suffix}"
        (image_folder / name).write_bytes(image.thumbnail)
        entries.append({"id": image.id, "captions": image.captions, "thumbnail": name})
    vectors = np.ascontiguousarray(embeddings, "<f4")
    (image_folder / "embeddings.bin").write_bytes(vectors.tobytes())
    _write_json(image_folder / "images.json", entries)


def _write_model(
    folder: pathlib.Path,
    tokenizer: Any,
    image_size: int,
    image_tower: bytes,
    text_tower: bytes,
    dimension: int,
    relevance_weights: Mapping[str, float],
) -> None:
    model = folder / "model"
    model.mkdir()
    (model / "image.tflite").write_bytes(image_tower)
    (model / "text.tflite").write_bytes(text_tower)
    save_vocabulary(tokenizer.vocabulary, model / "vocabulary.txt")
    files = [*model.iterdir(), *folder.glob("images/*.*")]
    _write_json(
        model / "model.json",
        {
            "image_size": image_size,
            "resize_size": crop_size_to_resize_size(image_size),
            "max_pixels": MAX_PIXELS,
            "dimension": dimension,
            "tokenizer": tokenizer_options(tokenizer),
            "relevance": relevance_weights,
            # The page needs the sizes in bytes for the progress of the download.
            "files": {
                file.relative_to(folder).as_posix(): file.stat().st_size
                for file in sorted(files)
            },
        },
    )


def tokenizer_options(tokenizer: Any) -> dict[str, Any]:
    """Returns the options of the tokenizer in web/tokenizer.js.

    Character classes are lists of ranges of hexadecimal code points.
    """
    classes = {
        "spaces": unicode_classes.SPACES,
        # tokenizer.js marks special tokens by U+E000, the first private character.
        "removed": unicode_classes.REMOVED.replace("E000-F8FF", "E001-F8FF"),
        "marks": unicode_classes.MARKS,
        "isolated": unicode_classes.PUNCTUATION + unicode_classes.IDEOGRAPHS,
    }
    return {
        "sequence_length": tokenizer.sequence_length,
        "uncased": is_uncased(tokenizer.normalization),
        "special_tokens": list(SPECIAL_TOKENS),
        "classes": {name: " ".join(text.split()) for name, text in classes.items()},
    }


def _write_page(folder: pathlib.Path, title: str, count: int) -> None:
    (folder / "page").mkdir()
    for file in sorted([*_SOURCE.glob("*.js"), *_SOURCE.glob("*.css")]):
        shutil.copyfile(file, folder / "page" / file.name)
    shutil.copyfile(_SOURCE / "README.txt", folder / "README.txt")
    _write_json(
        folder / "package.json",
        {
            "private": True,
            "type": "module",
            "dependencies": dict.fromkeys(_RUNTIME, LITERT_JS_VERSION),
        },
    )
    modules = {name: f"./node_modules/{name}/dist/index.js" for name in _RUNTIME}
    imports = json.dumps({"imports": modules})
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_SOURCE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("index.html.j2").render(
        title=title,
        count=count,
        imports=jinja2.filters.Markup(imports),
        # The security policy of the page allows only the inline script with this hash.
        imports_hash=base64.b64encode(
            hashlib.sha256(imports.encode()).digest()
        ).decode(),
    )
    (folder / "index.html").write_text(page + "\n", encoding="utf-8")


def _copy_runtime(runtime: pathlib.Path, target: pathlib.Path) -> None:
    """Copies the files of the runtime that the page loads."""
    # The other files of the packages are twice as large as the copied files.
    for package, names in _RUNTIME.items():
        for name in names:
            file = target / package / name
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(runtime / package / name, file)


def _write_json(path: pathlib.Path, value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
