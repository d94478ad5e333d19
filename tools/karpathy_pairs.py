"""Writes Karpathy's splits of COCO or Flickr30K as a table for the corpus `pairs`.

`python tools/karpathy_pairs.py data/coco/dataset_coco.json --images data/coco --splits
train restval --out coco/karpathy_train.tsv` writes what COCO's fine-tuning learns from,
113,287 pictures; `--splits val --out coco/karpathy_val.tsv` what it is validated on.
Of Flickr30K: `dataset_flickr30k.json`, `--images data/flickr30k/images`, and `train`
alone. A row is a picture's path, relative to the table where it lies below, and one
of its captions; all captions are written, runs of white space as one space. An empty
caption, or one of more than 2,000 characters, is dropped and counted when the table is
read. A table of the split `test` must have "test" in its name, by which `align-keras
train` knows that no checkpoint may be chosen by it.
"""

import argparse
import os
import pathlib
import sys

from align_keras.runs.run_folder import names_test
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write
from align_keras.utils.quiet import silence_tensorflow


def write_table(arguments):
    """Writes the table; returns the numbers of pictures and of captions."""
    from align_keras.datasets.benchmarks import read_karpathy

    out = pathlib.Path(os.path.abspath(arguments.out))
    if out.suffix.lower() != ".tsv":
        raise InputError(f"--out must end in .tsv, received {out.name}; rename it.")
    if "test" in arguments.splits and not names_test(out.name):
        raise InputError(
            "--out must have the word test in its name where --splits has test, "
            f"received {out.name}; rename it, for example to karpathy_test.tsv."
        )
    lines, pictures = ["image\tcaption"], 0
    for split in dict.fromkeys(arguments.splits):
        data = read_karpathy(
            arguments.json,
            os.path.abspath(arguments.images),
            split,
            captions_per_image=None,
            allow_missing=arguments.allow_missing,
        )
        pictures += len(data)
        for image, captions in zip(data.images, data.captions, strict=True):
            image = as_cell(_seen_from(out.parent, image))
            lines += [f"{image}\t{as_cell(caption)}" for caption in captions]
    with atomic_write(out) as file:
        file.write("\n".join(lines) + "\n")
    return pictures, len(lines) - 1


def _seen_from(folder, image):
    image = pathlib.Path(image)
    image = image.relative_to(folder) if image.is_relative_to(folder) else image
    if len(str(image).splitlines()) > 1 or "\t" in str(image):
        raise InputError(
            "a picture's path must have no tab and no line break, received "
            f"{str(image)!r}; move the pictures to another folder."
        )
    return str(image)


def as_cell(text):
    """Text as the reader of tables gives it back: it takes outer quotes away."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        return '"' + text.replace('"', '""') + '"'
    return text


def main(arguments=None):
    """Writes the table and says what it holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", help="dataset_coco.json or dataset_flickr30k.json")
    parser.add_argument(
        "--images",
        required=True,
        metavar="FOLDER",
        help="of the pictures; of COCO the one that holds train2014/ and val2014/",
    )
    parser.add_argument(
        "--splits",
        required=True,
        nargs="+",
        metavar="SPLIT",
        help="train, restval (of COCO), val or test, written one after another",
    )
    parser.add_argument("--out", required=True, metavar="TABLE.tsv")
    parser.add_argument(
        "--allow_missing", action="store_true", help="leave missing pictures out"
    )
    arguments = parser.parse_args(arguments)
    silence_tensorflow()
    try:
        pictures, captions = write_table(arguments)
    except (InputError, OSError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    print(f"wrote {captions:,} captions of {pictures:,} pictures to {arguments.out}")


if __name__ == "__main__":
    main()
