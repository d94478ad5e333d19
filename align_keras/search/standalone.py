"""Proof that an export stands alone: run as a script, without this package.

`python -I standalone.py --export DIR [--index DIR --query TEXT …] …` imports
NumPy, TensorFlow and tensorflow-text, and makes an import of align_keras fail.
It embeds given images and captions, compares them with stored embeddings,
searches, and prints what it found. `check_standalone` in the module beside it
runs it and reads the answer.
"""

import sys

if __name__ == "__main__":
    # Any import of the package from here on raises ModuleNotFoundError.
    sys.modules["align_keras"] = None  # type: ignore[assignment]

import argparse
import functools
import importlib.util
import json
import os
import pathlib

import numpy as np

_BATCH = 64


def _parser():
    parser = argparse.ArgumentParser(
        description="Embeds and searches with an export alone, without align_keras."
    )
    parser.add_argument("--export", required=True, help="folder of the SavedModel")
    parser.add_argument(
        "--images", help="folder of images, embedded in the order of their names"
    )
    parser.add_argument(
        "--image_embeddings", help=".npy that the images' embeddings should equal"
    )
    parser.add_argument("--captions", help="JSON file with a list of captions")
    parser.add_argument(
        "--text_embeddings", help=".npy that the captions' embeddings should equal"
    )
    parser.add_argument("--index", help="folder of the search index")
    parser.add_argument(
        "--query", action="append", default=[], help="text to search; repeatable"
    )
    parser.add_argument("-k", type=int, default=5, help="hits a query")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _encoders(export):
    """Returns two functions: bytes to embeddings, and texts to embeddings."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401, registers the tokenizer's ops

    model = tf.saved_model.load(export)

    def embed(name, argument, output, items):
        batches = []
        for start in range(0, len(items), _BATCH):
            batch = tf.constant(items[start : start + _BATCH], tf.string)
            result = model.signatures[name](**{argument: batch})
            if not np.all(result.get("valid", True)):
                first = start + int(np.argmin(result["valid"]))
                raise ValueError(f"{argument} {first} is no image")
            batches.append(np.asarray(result[output], np.float32))
        return np.concatenate(batches)

    return (
        functools.partial(embed, "encode_image", "image_bytes", "image_embedding"),
        functools.partial(embed, "encode_text", "captions", "text_embedding"),
    )


def _difference(embeddings, path):
    expected = np.load(path)
    if expected.shape != embeddings.shape:
        raise ValueError(
            f"{path} must have the shape of the embeddings {embeddings.shape}, got "
            f"{expected.shape}"
        )
    return float(np.abs(embeddings - expected).max())


def _top(query, embedding, rows, entries, k):
    scores = rows @ embedding
    best = np.argsort(-scores, kind="stable")[:k]
    hits = [
        {
            "rank": rank,
            "score": float(scores[row]),
            "id": entries[row]["id"],
            "captions": entries[row]["captions"],
        }
        for rank, row in enumerate(best, 1)
    ]
    return {"query": query, "hits": hits}


def _importable(name):
    return importlib.util.find_spec(name) is not None


def _work(arguments):
    encode_images, encode_texts = _encoders(arguments.export)
    result = {"max_abs_difference": None, "images": 0, "captions": 0, "top": []}
    differences = []
    if arguments.images:
        files = sorted(pathlib.Path(arguments.images).iterdir())
        embeddings = encode_images([file.read_bytes() for file in files])
        result["images"] = len(embeddings)
        if arguments.image_embeddings:
            differences.append(_difference(embeddings, arguments.image_embeddings))
    if arguments.captions:
        captions = json.loads(pathlib.Path(arguments.captions).read_text("utf-8"))
        embeddings = encode_texts(captions)
        result["captions"] = len(embeddings)
        if arguments.text_embeddings:
            differences.append(_difference(embeddings, arguments.text_embeddings))
    if differences:
        result["max_abs_difference"] = max(differences)
    if arguments.query:
        index = pathlib.Path(arguments.index)
        rows = np.load(index / "embeddings.npy", mmap_mode="r")
        lines = (index / "entries.jsonl").read_text("utf-8").split("\n")
        entries = [json.loads(line) for line in lines if line]
        for query, embedding in zip(
            arguments.query, encode_texts(arguments.query), strict=True
        ):
            result["top"].append(_top(query, embedding, rows, entries, arguments.k))
    result["align_keras_importable"] = _importable("align_keras")
    return result


def _show(result):
    print(f"largest difference: {result['max_abs_difference']}")
    for found in result["top"]:
        print(found["query"])
        for hit in found["hits"]:
            captions = " | ".join(hit["captions"])
            print(f"  {hit['rank']}. {hit['score']:.4f}  {hit['id']}  {captions}")


def main() -> int:
    """Runs the script; returns the exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.query and not arguments.index:
        parser.error("--query needs --index")
    try:
        result = _work(arguments)
    except Exception as error:  # Whatever it is, the caller wants one line of it.
        lines = str(error).strip().splitlines() or [""]
        print(f"{type(error).__name__}: {lines[0]}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(result))
    else:
        _show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
