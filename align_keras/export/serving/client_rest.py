"""Client for the served models over REST. It needs only the standard library.

    python client_rest.py IMAGE… --captions "a red bicycle" "a blue bird"

For each image, the program prints the captions in descending order of their cosine
similarity to the image.
"""

import argparse
import base64
import http.client
import json
import pathlib
import sys
import urllib.error
import urllib.request


def predict(server, model, signature, inputs, timeout=30):
    """Calls a signature of a model.

    Args:
        server: str, address such as `"http://localhost:8501"`.
        model: str, `"image"`, `"text"` or `"align"`.
        signature: str, one of the signatures in signatures.json.
        inputs: dict from names to nested lists. Use `encode_bytes` for bytes.
        timeout: float, seconds until the request fails if there is no response.

    Returns:
        dict from names of outputs to nested lists. If the signature has only one
        output, its list is returned without the dict.

    Raises:
        RuntimeError: if the server refuses the request. It has the message of the
            server.
    """
    content = json.dumps({"signature_name": signature, "inputs": inputs}).encode()
    address = f"{server}/v1/models/{model}:predict"
    headers = {"Content-Type": "application/json"}
    try:
        request = urllib.request.Request(address, content, headers)
        with urllib.request.urlopen(request, timeout=timeout) as response:
            body = response.read()
    except urllib.error.HTTPError as error:
        body = error.read().decode(errors="replace")
        raise RuntimeError(f"{error.code}: {body}") from None
    return json.loads(body)["outputs"]


def encode_bytes(content):
    """Returns bytes in the JSON format of TensorFlow Serving."""
    return {"b64": base64.b64encode(content).decode()}


def encode_images(server, files):
    """Returns the embeddings of images and a mask of valid files.

    Args:
        server: str, address such as `"http://localhost:8501"`.
        files: list of bytes, contents of image files.

    Returns:
        list of embeddings, and a list of bool that is False for a file that is not an
        image. Ignore the embedding of such a file.
    """
    inputs = {"image_bytes": [encode_bytes(content) for content in files]}
    outputs = predict(server, "image", "encode_image", inputs)
    return outputs["image_embedding"], outputs["valid"]


def encode_texts(server, captions):
    """Returns the embeddings of a list of captions as lists of float."""
    return predict(server, "text", "encode_text", {"captions": captions})


def similarity(server, files, captions):
    """Returns the cosine similarities of images and captions.

    Args:
        server: str, address such as `"http://localhost:8501"`.
        files: list of bytes, contents of image files.
        captions: list of str.

    Returns:
        a list with the cosines of all captions for each file, and a list of bool that
        is False for a file that is not an image.
    """
    inputs = {
        "image_bytes": [encode_bytes(content) for content in files],
        "captions": captions,
    }
    outputs = predict(server, "align", "similarity", inputs)
    return outputs["cosine"], outputs["valid"]


def main(argv=None):
    """Prints the captions in descending order of similarity to each image."""
    parser = argparse.ArgumentParser(
        description="Sorts captions by their cosine similarity to each image."
    )
    parser.add_argument("images", nargs="+", type=pathlib.Path)
    parser.add_argument("--captions", nargs="+", required=True)
    parser.add_argument("--server", default="http://localhost:8501")
    arguments = parser.parse_args(argv)
    files = [path.read_bytes() for path in arguments.images]
    cosines, valid = similarity(arguments.server, files, arguments.captions)
    for path, row, is_image in zip(arguments.images, cosines, valid, strict=True):
        print(path if is_image else f"{path}: not an image")
        if is_image:
            for cosine, caption in sorted(
                zip(row, arguments.captions, strict=True), reverse=True
            ):
                print(f"  {cosine:7.4f}  {caption}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, RuntimeError, ValueError, http.client.HTTPException) as failure:
        sys.exit(f"client_rest.py: {failure}")
