"""Embeddings of texts and images in the form of OpenAI's API.

References:
    https://platform.openai.com/docs/api-reference/embeddings
    https://platform.openai.com/docs/api-reference/models/list
"""

import base64
import contextlib
import dataclasses
import json
import re
from typing import Any

import numpy as np

from align_keras.embedders.embedder import Embedder
from align_keras.search.query.query import check_request_texts
from align_keras.search.readers.photos import read_query_image
from align_keras.search.serve.local_server import RequestError
from align_keras.utils.arguments import check_choice, check_number
from align_keras.utils.errors import InputError
from align_keras.utils.truncation import truncate_embeddings

# Maximum number of inputs in a request, as in OpenAI's API, and of images among them.
# Decoding an image may take a second.
MAX_INPUTS = 2_048
MAX_IMAGES = 64
_FORMATS = ("float", "base64")
_IMAGE_URL = re.compile(r"data:image/[\w.+-]+;base64,(.*)", re.DOTALL)


@dataclasses.dataclass
class EmbeddingRequest:
    """Checked body of a request.

    Attributes:
        inputs: texts and contents of image files.
        is_base64: True to encode embeddings in base64.
        dimensions: number of first components of the embeddings.
    """

    inputs: list[str | bytes]
    is_base64: bool
    dimensions: int | None


def embeddings_response(body: bytes, model: Embedder, model_name: str) -> Any:
    """Returns the response to a request as a JSON-serializable dict.

    Args:
        body: JSON of the request.
        model: `Embedder`.
        model_name: name of the model in requests and responses.

    Raises:
        InputError: if the body is invalid.
        RequestError: if the request is for another model.
    """
    request = _read_request(body, model, model_name)
    rows = _embed(request, model)
    data = [
        {"object": "embedding", "index": row, "embedding": _encode(embedding, request)}
        for row, embedding in enumerate(rows)
    ]
    texts = [value for value in request.inputs if isinstance(value, str)]
    num_tokens = model.count_tokens(texts) if texts else 0
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return {"object": "list", "data": data, "model": model_name, "usage": usage}


def models_response(model_name: str) -> Any:
    """Returns the list of models as a JSON-serializable dict."""
    # The field `created` is required, but no model has a time of creation.
    model = {"object": "model", "id": model_name, "created": 0}
    return {"object": "list", "data": [{**model, "owned_by": "align-keras"}]}


def _read_request(body: bytes, model: Embedder, model_name: str) -> EmbeddingRequest:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise InputError(
            "The body must be a JSON object. Received: other content. Send `model` and "
            "`input`."
        )
    requested_model = values.get("model", model_name)
    if requested_model != model_name:
        raise RequestError(
            404,
            f"`model` must be {model_name}, the model of the index. Received: "
            f"model={requested_model!r:.80}. Correct it, or leave it out.",
        )
    encoding = values.get("encoding_format", "float")
    check_choice("`encoding_format`", encoding, _FORMATS)
    dimensions = values.get("dimensions")
    if dimensions is not None:
        check_number("`dimensions`", dimensions, 1, model.dimension, whole=True)
    inputs = values.get("input")
    return EmbeddingRequest(_read_inputs(inputs), encoding == "base64", dimensions)


def _read_inputs(values: Any) -> list[str | bytes]:
    """Returns texts and the contents of image files."""
    values = [values] if isinstance(values, str) else values
    is_list = isinstance(values, list) and 1 <= len(values) <= MAX_INPUTS
    if not is_list or not all(_is_text(value) for value in values):
        raise InputError(
            "`input` must be a text, a data URL of an image, or a list of 1 to "
            f"{MAX_INPUTS:,} of them. Received: another value, a blank text or too "
            "many values. Correct `input`."
        )
    inputs = [_read_input(value) for value in values]
    texts = [value for value in inputs if isinstance(value, str)]
    check_request_texts("input", texts, MAX_INPUTS)
    num_images = sum(isinstance(value, bytes) for value in inputs)
    if num_images > MAX_IMAGES:
        raise InputError(
            f"`input` must have at most {MAX_IMAGES} images. Received: {num_images} "
            "images. Send several requests."
        )
    return inputs


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _read_input(value: str) -> str | bytes:
    if not value.startswith("data:image/"):
        return value
    match = _IMAGE_URL.fullmatch(value)
    if match is not None:
        with contextlib.suppress(ValueError):
            return base64.b64decode(match[1], validate=True)
    raise InputError(
        "A data URL must be data:image/TYPE;base64, and the image in base64. "
        f"Received: {value[:40]}…. Encode the image file in base64."
    )


def _embed(request: EmbeddingRequest, model: Embedder) -> np.ndarray:
    """Returns the embeddings of the inputs, float32 (n, d)."""
    rows = np.empty((len(request.inputs), model.dimension), np.float32)
    texts: dict[int, str] = {}
    for row, value in enumerate(request.inputs):
        if isinstance(value, str):
            texts[row] = value
        else:
            pixels = read_query_image(value, model.image_transform)
            rows[row] = model.encode_resized([pixels])[0]
    if texts:
        rows[list(texts)] = model.encode_texts(list(texts.values()))
    if request.dimensions is not None:
        rows = truncate_embeddings(rows, request.dimensions)
    return rows


def _encode(embedding: np.ndarray, request: EmbeddingRequest) -> Any:
    if request.is_base64:
        return base64.b64encode(embedding.astype("<f4").tobytes()).decode()
    return embedding.tolist()
