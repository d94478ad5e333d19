"""Asks the served models over REST; needs Python, and nothing beside it.

    python client_rest.py IMAGE… --captions "a red bicycle" "a blue bird"

prints, for each image, the captions with their cosines, the best first.
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
    """Calls a signature of the model `"image"`, `"text"` or `"align"`.

    `inputs` are nested lists by name, with bytes by `encode_bytes`; so are the outputs,
    or the only one alone.
    """
    content = json.dumps({"signature_name": signature, "inputs": inputs}).encode()
    address = f"{server}/v1/models/{model}:predict"
    headers = {"Content-Type": "application/json"}
    try:
        request = urllib.request.Request(address, content, headers)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            body = answer.read()
    except urllib.error.HTTPError as error:
        body = error.read().decode(errors="replace")
        raise RuntimeError(f"{error.code}: {body}") from None
    except urllib.error.URLError as error:
        raise RuntimeError(f"no answer from {server}: {error.reason}") from None
    except (ValueError, http.client.InvalidURL):
        raise RuntimeError(
            f"server must be such as http://localhost:8501, received {server}"
        ) from None
    except http.client.HTTPException as error:
        raise RuntimeError(f"no HTTP from {server}: {error}") from None
    try:
        return json.loads(body)["outputs"]
    except (ValueError, KeyError, TypeError):
        raise RuntimeError(
            f"{server} isn't TensorFlow Serving: it answers {body[:60]!r}"
        ) from None


def encode_bytes(content):
    """Returns bytes as TensorFlow Serving's JSON carries them."""
    return {"b64": base64.b64encode(content).decode()}


def encode_images(server, files):
    """Returns embeddings, and which of the files (bytes) are images.

    The embedding of a file that is no image means nothing.
    """
    inputs = {"image_bytes": [encode_bytes(content) for content in files]}
    outputs = predict(server, "image", "encode_image", inputs)
    return outputs["image_embedding"], outputs["valid"]


def encode_texts(server, captions):
    """Returns the captions' embeddings, a list of lists of float."""
    return predict(server, "text", "encode_text", {"captions": captions})


def similarity(server, files, captions):
    """Returns each image's cosines with the captions, and which are images."""
    inputs = {
        "image_bytes": [encode_bytes(content) for content in files],
        "captions": captions,
    }
    outputs = predict(server, "align", "similarity", inputs)
    return outputs["cosine"], outputs["valid"]


def main(argv=None):
    """Prints the captions in the order in which they fit the images."""
    parser = argparse.ArgumentParser(description="Which caption fits the image?")
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
    except (OSError, RuntimeError) as failure:
        sys.exit(f"client_rest.py: {failure}")
