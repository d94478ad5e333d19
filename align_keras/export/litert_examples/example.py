"""Compares an image with texts by the two LiteRT files beside this script.

    pip install ai-edge-litert numpy pillow tokenizers
    python example.py image.jpg "a red bicycle" "two cats"

prints each text behind its similarity to the image. All that the towers need to
know is read from the files themselves: metadata.json tells the preprocessing,
vocabulary.txt the tokens (`unzip -l text.tflite` lists them).
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
    """Returns the file's only signature, a function, and its metadata, a dict."""
    with zipfile.ZipFile(path) as archive:
        metadata = json.loads(archive.read("metadata.json"))
    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    return interpreter.get_signature_runner(metadata["signature"]), metadata


def read_pixels(path, preprocessing):
    """Returns an image as float32 (1, S, S, 3), gray levels from 0 to 255."""
    size, resize_to = preprocessing["image_size"], preprocessing["resize_to"]
    # Of more pixels a file of some kilobytes may fill the memory: Pillow refuses it.
    Image.MAX_IMAGE_PIXELS = preprocessing["max_pixels"]
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    # The first frame, upright, of 16 bits the upper eight, transparency on white.
    image = Image.open(path, formats=["JPEG", "PNG", "WEBP", "GIF", "BMP"])
    if image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        # Pillow inverts the ink, which only Adobe's programs store inverted.
        image = ImageChops.invert(image)
    clear = image.info.get("transparency")
    if image.format == "PNG" and image.mode == "L" and isinstance(clear, int):
        # Pillow scales the gray levels to 8 bits, but not the one that is clear.
        with open(path, "rb") as file:
            largest = 2 ** min(file.read(25)[24], 8) - 1
        image.info["transparency"] = (clear & largest) * (255 // largest)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image).convert("RGB")
    image = image.resize((resize_to, resize_to), Image.Resampling.BILINEAR)
    start = (resize_to - size) // 2
    image = image.crop((start, start, start + size, start + size))
    return np.asarray(image, "float32")[None]


def open_tokenizer(path, preprocessing):
    """Returns the tokenizer of the vocabulary inside a text tower's file."""
    with zipfile.ZipFile(path) as archive:
        tokens = archive.read(preprocessing["vocabulary_file"]).decode().splitlines()
    vocabulary = {token: row for row, token in enumerate(tokens)}
    uncased = preprocessing["normalization"] == "bert_uncased"
    tokenizer = BertWordPieceTokenizer(
        vocabulary, lowercase=uncased, strip_accents=uncased
    )
    length = preprocessing["sequence_length"]
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=vocabulary["[PAD]"])
    return tokenizer


def tokens(tokenizer, words):
    """Returns a text as the text tower's inputs, int32 (1, L) each."""
    # Bytes of an argument that aren't UTF-8 have no place in a text.
    encoding = tokenizer.encode(words.encode("utf-8", "replace").decode())
    return {
        "token_ids": np.array([encoding.ids], "int32"),
        "padding_mask": np.array([encoding.attention_mask], "int32"),
    }


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description="Compares an image with texts.")
    parser.add_argument("image")
    parser.add_argument("texts", nargs="+", metavar="text")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    folder = pathlib.Path(__file__).parent
    encode_image, about_image = open_tower(folder / "image.tflite", arguments.threads)
    encode_text, about_text = open_tower(folder / "text.tflite", arguments.threads)
    tokenizer = open_tokenizer(folder / "text.tflite", about_text["preprocessing"])

    try:
        pixels = read_pixels(arguments.image, about_image["preprocessing"])
    except Exception as error:  # Decoders raise whatever a broken file leads to.
        parser.error(f"{arguments.image} can't be read: {error}")
    image = encode_image(images=pixels)["image_embedding"][0]
    for words in arguments.texts:
        text = encode_text(**tokens(tokenizer, words))["text_embedding"][0]
        print(f"{image @ text:.4f} {words}")


if __name__ == "__main__":
    main()
