"""Compares an image with texts. The LiteRT files must be in the folder of this script.

    pip install ai-edge-litert numpy pillow tokenizers
    python example.py image.jpg "a red bicycle" "two cats"

The program prints the cosine similarity of the image and each text. The LiteRT files
contain everything else that the program needs: metadata.json with the settings of
preprocessing, and vocabulary.txt with the tokens. `unzip -l text.tflite` lists them.
"""

import argparse
import json
import pathlib
import warnings
import zipfile

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageChops, ImageOps
from tokenizers import BertWordPieceTokenizer


def open_tower(path, threads):
    """Opens a LiteRT file.

    Returns:
        Function that runs the only signature of the file, and its metadata, a dict.
    """
    with zipfile.ZipFile(path) as archive:
        metadata = json.loads(archive.read("metadata.json"))
    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    return interpreter.get_signature_runner(metadata["signature"]), metadata


def read_pixels(path, preprocessing):
    """Reads and preprocesses an image. Animations are represented by the first frame.

    Returns:
        float32 (1, S, S, 3), RGB values from 0 to 255.
    """
    size = preprocessing["image_size"]
    resize_to = preprocessing["resize_to"]
    # A file of a few kilobytes can expand to an image that fills the memory. Pillow
    # raises an error if an image has more pixels than this limit.
    Image.MAX_IMAGE_PIXELS = preprocessing["max_pixels"]
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    image = Image.open(path, formats=["JPEG", "PNG", "WEBP", "GIF", "BMP"])
    if image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        # Pillow inverts all CMYK values, but only Adobe programs store them inverted.
        image = ImageChops.invert(image)
    transparent_level = image.info.get("transparency")
    if (
        image.format == "PNG"
        and image.mode == "L"
        and isinstance(transparent_level, int)
    ):
        # Pillow scales all gray levels to 8 bits except the transparent gray level.
        with open(path, "rb") as file:
            max_level = 2 ** min(file.read(25)[24], 8) - 1
        scale = 255 // max_level
        image.info["transparency"] = (transparent_level & max_level) * scale
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # The upper 8 of 16 bits.
        image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image).convert("RGB")
    image = image.resize((resize_to, resize_to), Image.Resampling.BILINEAR)
    start = (resize_to - size) // 2
    image = image.crop((start, start, start + size, start + size))
    return np.asarray(image, "float32")[None]


def open_tokenizer(path, preprocessing):
    """Returns a tokenizer with the vocabulary in the LiteRT file of a text tower."""
    with zipfile.ZipFile(path) as archive:
        tokens = archive.read(preprocessing["vocabulary_file"]).decode().splitlines()
    vocabulary = {token: row for row, token in enumerate(tokens)}
    uncased = preprocessing["normalization"] == "bert_uncased"
    tokenizer = BertWordPieceTokenizer(
        vocabulary, lowercase=uncased, strip_accents=uncased
    )
    tokenizer.enable_truncation(preprocessing["sequence_length"])
    return tokenizer


def tokenize(tokenizer, text):
    """Returns the inputs of the text tower for one text, int32 (1, tokens) each."""
    # Bytes of a command-line argument that are not valid UTF-8 are replaced by "?".
    encoding = tokenizer.encode(text.encode("utf-8", "replace").decode())
    return {
        "token_ids": np.array([encoding.ids], "int32"),
        "padding_mask": np.array([encoding.attention_mask], "int32"),
    }


def main():
    """Prints the similarity of an image and each text."""
    parser = argparse.ArgumentParser(description="Compares an image with texts.")
    parser.add_argument("image")
    parser.add_argument("texts", nargs="+", metavar="text")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    folder = pathlib.Path(__file__).parent
    image_path = folder / "image.tflite"
    encode_image, image_metadata = open_tower(image_path, arguments.threads)
    text_path = folder / "text.tflite"
    encode_text, text_metadata = open_tower(text_path, arguments.threads)
    tokenizer = open_tokenizer(text_path, text_metadata["preprocessing"])

    try:
        pixels = read_pixels(arguments.image, image_metadata["preprocessing"])
    except Exception as error:  # Decoders raise many types of errors for damaged files.
        parser.error(f"Cannot read {arguments.image}: {error}")
    image_embedding = encode_image(images=pixels)["image_embedding"][0]
    for text in arguments.texts:
        inputs = tokenize(tokenizer, text)
        text_embedding = encode_text(**inputs)["text_embedding"][0]
        print(f"{image_embedding @ text_embedding:.4f} {text}")


if __name__ == "__main__":
    main()
