"""Chooses and measures the marks strong, good and weak of a search.

    python tools/benchmarks/bench_marks.py --gcompris /usr/share/gcompris-qt/rcc \
        --captioned /usr/share/tuxpaint/stamps

The thresholds are chosen on two sources on which align_small_en was neither trained nor
selected: the images of GCompris (Debian's package gcompris-qt-data), whose file names
are the captions, and the icons of Font Awesome (the test split of the corpus `icons`).
The strong threshold is the lowest multiple of 0.1 at which the mean precision of both
sources is at least 60%, and the good threshold that at which it is at least 30%. The
table also shows `--captioned`, a folder of images with captions on which no threshold
was chosen. Columns:

- hits: the 5 best images of each caption. A hit is right if it has the caption.
- precision: right hits among the hits with the mark.
- recall: right hits with the mark among all right hits.
- no strong or good: share of the captions whose hits are all weak, for captions whose
  images are in the index, and for the same captions after their images were removed.
- first is right: share of these captions (images in the index) whose first hit is
  right, and the same share among the other captions.
"""

import argparse
import dataclasses
import pathlib
import re
import struct
import tempfile
import zlib

import numpy as np

HITS = 5
PRECISIONS = {"strong": 0.6, "good": 0.3}
# Resource file of GCompris → folder with images of words.
GCOMPRIS_FOLDERS = {
    "lang": "words_sample",
    "categorization": "resource/images",
    "explore_farm_animals": "resource",
    "explore_world_animals": "resource",
    "instruments": "resource",
}
# Images of buttons.
NO_WORDS = {"", "bg", "background", "cancel", "ok"}


@dataclasses.dataclass
class Heights:
    """Heights of the best hits of the captions of a source.

    Attributes:
        heights: float (captions, HITS).
        is_right: bool (captions, HITS), True for hits that have the caption.
        absent: float (captions,), height of the best hit without the images of the
            caption.
    """

    heights: np.ndarray
    is_right: np.ndarray
    absent: np.ndarray


def read_resources(path):
    """Yields the paths and contents of the files in a Qt resource file."""
    data = path.read_bytes()
    version, tree, contents, names = struct.unpack(">4i", data[4:20])
    # Since version 2, an entry also has the time of the last change.
    entry_size = 22 if version >= 2 else 14

    def name_of(offset):
        start = names + offset
        (length,) = struct.unpack(">H", data[start : start + 2])
        return data[start + 6 : start + 6 + 2 * length].decode("utf-16-be")

    def walk(number, folder):
        start = tree + number * entry_size
        name_offset, flags = struct.unpack(">iH", data[start : start + 6])
        path_in_file = f"{folder}/{name_of(name_offset)}" if number else ""
        if flags & 2:  # A folder.
            count, first = struct.unpack(">2i", data[start + 6 : start + 14])
            for child in range(first, first + count):
                yield from walk(child, path_in_file)
            return
        (offset,) = struct.unpack(">i", data[start + 10 : start + 14])
        begin = contents + offset + 4
        (length,) = struct.unpack(">i", data[begin - 4 : begin])
        content = data[begin : begin + length]
        if flags & 1:
            content = zlib.decompress(content[4:])
        yield path_in_file, content

    yield from walk(0, "")


def name_words(name):
    """Returns the lower-case words of a file name such as `eiffelTower`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.sub(r"[\d_-]+", " ", words).strip().lower()


def gcompris_pairs(folder, target):
    """Writes the images of GCompris to a folder. Returns their paths and captions."""
    files, captions = [], []
    for resource, images in GCOMPRIS_FOLDERS.items():
        for name, content in sorted(read_resources(folder / f"{resource}.rcc")):
            path = pathlib.Path(name)
            words = name_words(path.stem)
            if images not in name or path.suffix != ".webp" or words in NO_WORDS:
                continue
            file = target / f"{resource}_{path.name}"
            file.write_bytes(content)
            files.append(str(file))
            captions.append([words])
    return files, captions


def icon_pairs():
    """Returns the images and the captions of the test split of the icons."""
    import tensorflow_datasets as tfds

    from align_keras.datasets import open_corpus

    examples = list(tfds.as_numpy(open_corpus("icons").as_dataset(split="test")))
    captions = [[text.decode() for text in row["captions"]] for row in examples]
    return [row["image"] for row in examples], captions


def captioned_pairs(folder):
    """Returns the paths and the first captions of the images of a folder.

    The other captions of Tux Paint's stamps are translations.
    """
    from align_keras.corpus.drop_counter import DropCounter
    from align_keras.corpus.pair_files import read_pairs

    records = list(read_pairs(folder, counter=DropCounter()))
    captions = [[record.captions[0].casefold()] for record in records]
    return [record.image_path for record in records], captions


def measure_heights(model, images, captions):
    """Returns the `Heights` of all captions."""
    from align_keras.search.query import relative_heights

    texts = sorted({text for row in captions for text in row})
    image_embeddings = model.encode_images(images)
    scores = model.encode_texts(texts) @ image_embeddings.T
    heights, is_right, absent = [], [], []
    for text, row in zip(texts, scores, strict=True):
        has_caption = np.array([text in image_captions for image_captions in captions])
        best = np.argsort(-row)[:HITS]
        heights.append(relative_heights(row[best], row, len(row)))
        is_right.append(has_caption[best])
        others = row[~has_caption]
        absent.append(relative_heights(others.max(keepdims=True), others, len(others)))
    return Heights(np.array(heights), np.array(is_right), np.concatenate(absent))


def choose_thresholds(sources):
    """Returns the thresholds of the marks."""
    thresholds = {}
    for mark, required in PRECISIONS.items():
        for tenths in range(5, 30):
            threshold = tenths / 10
            precisions = [
                source.is_right[source.heights >= threshold].mean()
                for source in sources
            ]
            if np.mean(precisions) >= required:
                thresholds[mark] = threshold
                break
    return thresholds


def print_source(name, source, thresholds):
    """Prints the precision and recall of the marks of a source."""
    strong, good = thresholds["strong"], thresholds["good"]
    marks = {
        "strong": source.heights >= strong,
        "good": (source.heights >= good) & (source.heights < strong),
        "weak": source.heights < good,
    }
    count, num_right = len(source.heights), source.is_right.sum()
    print(f"{name}: {count:,} captions, {num_right:,} right hits")
    for mark, has_mark in marks.items():
        hits, right = has_mark.sum(), source.is_right[has_mark].sum()
        precision, recall = right / hits, right / num_right
        print(
            f"  {mark}: {hits:,} hits, precision {precision:.0%}, recall {recall:.0%}"
        )
    all_weak = source.heights[:, 0] < good
    print(
        f"  no strong or good: {all_weak.mean():.0%}, without the images "
        f"{np.mean(source.absent < good):.0%}"
    )
    is_first_right = source.is_right[:, 0]
    print(
        f"  first is right: {is_first_right[all_weak].mean():.0%} of these captions, "
        f"{is_first_right[~all_weak].mean():.0%} of the others"
    )


def main():
    """Chooses the thresholds and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="align_small_en")
    parser.add_argument("--gcompris", type=pathlib.Path, required=True)
    parser.add_argument("--captioned", type=pathlib.Path, nargs="*", default=[])
    arguments = parser.parse_args()
    import align_keras

    model = align_keras.load_model(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        pairs = gcompris_pairs(arguments.gcompris, pathlib.Path(folder))
        gcompris = measure_heights(model, *pairs)
    sources = {
        "GCompris": gcompris,
        "Font Awesome": measure_heights(model, *icon_pairs()),
    }
    thresholds = choose_thresholds(list(sources.values()))
    print(f"thresholds: strong {thresholds['strong']:g}, good {thresholds['good']:g}")
    for captioned in arguments.captioned:
        sources[str(captioned)] = measure_heights(model, *captioned_pairs(captioned))
    for name, source in sources.items():
        print_source(name, source, thresholds)


if __name__ == "__main__":
    main()
