"""Benchmarks in their published file formats with a handful of images."""

import csv
import gzip
import io
import json
from unittest import mock

from PIL import Image

# Images differ in their colors.
COLORS = ["red", "green", "blue", "black", "orange", "purple", "brown", "gray"]


def image_color(row):
    return COLORS[row % len(COLORS)]


def write_image(path, row):
    """Writes an image with a bar whose color and height depend on the row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (40, 40), "white")
    image.paste(image_color(row), (4, 4, 36, 12 + row % 24))
    image.save(path)
    return path


def captions_of(row, count):
    """Returns `count` different captions of the image of a row."""
    templates = ("a {} bar", "one {} box", "something {}", "{} paint", "the {} thing")
    color = image_color(row)
    return [
        templates[number % len(templates)].format(color) + f" {row} {number}"
        for number in range(count)
    ]


def karpathy_image(row, name, split, captions=5, **fields):
    """Returns the entry of an image in a file of Karpathy's splits.

    Args:
        row: Number of the image.
        name: File name.
        split: `"train"`, `"val"`, `"test"` or `"restval"`.
        captions: Number of captions.
        **fields: Further fields of the entry.
    """
    return {
        "filename": name,
        "imgid": row,
        "split": split,
        "sentids": [100 * row + number for number in range(captions)],
        "sentences": [
            {
                "tokens": text.split(),
                "raw": text,
                "imgid": row,
                "sentid": 100 * row + number,
            }
            for number, text in enumerate(captions_of(row, captions))
        ],
        **fields,
    }


def write_flickr30k(folder, test=8, train=2, dataset="flickr30k_small"):
    """Writes `dataset_flickr30k.json` and `images/`. Returns the images' entries."""
    entries = [
        karpathy_image(row, f"{1000 + row}.jpg", "test" if row < test else "train")
        for row in range(test + train)
    ]
    for row, entry in enumerate(entries):
        write_image(folder / "images" / entry["filename"], row)
    return write_json(folder / "dataset_flickr30k.json", entries, dataset)


def coco_name(row):
    return f"COCO_val2014_{row:012d}.jpg"


def write_coco(folder, test=6, dataset="coco_small"):
    """Writes `dataset_coco.json` and `val2014/`. Returns the images' entries.

    Images have five, six or seven captions. The last entry has no image file.
    """
    entries = [
        karpathy_image(
            row,
            coco_name(row),
            "test",
            captions=5 + row % 3,
            filepath="val2014",
            cocoid=row,
        )
        for row in range(test)
    ]
    entries.append(
        karpathy_image(
            90,
            "COCO_train2014_000000000090.jpg",
            "restval",
            filepath="train2014",
            cocoid=90,
        )
    )
    for row, entry in enumerate(entries[:-1]):
        write_image(folder / "val2014" / entry["filename"], row)
    return write_json(folder / "dataset_coco.json", entries, dataset)


def write_json(path, entries, dataset):
    path.write_text(json.dumps({"images": entries, "dataset": dataset}))
    return entries


CXC_COLUMNS = {
    "sts": ("caption1", "caption2"),
    "sis": ("image1", "image2"),
    "sits": ("caption", "image"),
}


def caption_name(sentid):
    return f"COCO_val2014:sentid:{sentid}"


def cxc_rows(test=6):
    """Returns ratings for the images of `write_coco`.

    Returns:
        Dict of task (`"sts"`, `"sis"` or `"sits"`) → list of (first, second, score).
    """
    sts, sis, sits = [], [], []
    for row in range(test):
        other = (row + 1) % test
        for number in range(5):
            caption = caption_name(100 * row + number)
            # A score below 3 doesn't count as a match.
            sits.append((caption, coco_name(row), 2.9 if number == 4 else 4.5))
            sits.append((caption, coco_name(other), number / 2))
            next_caption = caption_name(100 * row + (number + 1) % 5)
            sts.append((caption, next_caption, 3.0 if number else 1.0))
        sts.append((caption_name(100 * row), caption_name(100 * other + 2), 0.4 * row))
        sis.append((coco_name(row), coco_name(other), 5.0 * row / test))
    return {"sts": sts, "sis": sis, "sits": sits}


def write_cxc(folder, rows, split="test", packed=True):
    """Writes the rows of `cxc_rows` as CSV files, gzipped if `packed`."""
    folder.mkdir(parents=True, exist_ok=True)
    for task, ratings in rows.items():
        name = f"{task}_{split}.csv"
        output = (
            gzip.open(folder / f"{name}.gz", "wt", newline="")
            if packed
            else open(folder / name, "w", newline="")
        )
        with output as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow((*CXC_COLUMNS[task], "agg_score", "sampling_method"))
            writer.writerows((*row, "c2i_original") for row in ratings)


MULTI30K_WORDS = {"en": "dog", "de": "Hund", "fr": "chien", "cs": "pes"}


def write_multi30k(folder, images, num_images=8, packed=True, num_files=8):
    """Writes the files of the Multi30K repository, and images.

    Args:
        folder: `pathlib.Path` of the repository.
        images: `pathlib.Path` of the images' folder.
        num_images: Number of images.
        packed: Whether text files are gzipped.
        num_files: Number of different images. Further ones are hard links to these.

    Returns:
        List of the images' file names.
    """
    names = [f"{1000 + row}.jpg" for row in range(num_images)]
    for row, name in enumerate(names):
        if row < num_files:
            write_image(images / name, row)
        elif not (images / name).exists():
            (images / name).hardlink_to(images / names[row % num_files])
    write_lines(folder / "data/task1/image_splits/test_2016_flickr.txt", names)
    for language, word in MULTI30K_WORDS.items():
        lines = [f"{word} {image_color(row)} {row}" for row in range(num_images)]
        task1 = folder / f"data/task1/raw/test_2016_flickr.{language}"
        write_lines(task1, lines, packed)
        if language in ("en", "de"):
            for number in range(1, 6):
                path = folder / f"data/task2/raw/test_2016.{number}.{language}"
                write_lines(path, [f"{line} {number}" for line in lines], packed)
    return names


def write_lines(path, lines, packed=False):
    """Writes lines to a file, or to a gzip file with the suffix .gz if `packed`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{line}\n" for line in lines).encode()
    if packed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


SIMLEX_HEADER = (
    "word1\tword2\tPOS\tSimLex999\tconc(w1)\tconc(w2)\tconcQ\tAssoc(USF)\t"
    "SimAssoc333\tSD(SimLex)"
)


def simlex_lines(pairs=40):
    """Returns rows of word pairs in the format of SimLex-999."""
    words = [
        "".join(chr(97 + (row * 7 + n) % 26) for n in range(4)) for row in range(9)
    ]
    return [
        f"{words[row % 9]}\t{words[(row * 5 + 1) % 9]}\t{'ANV'[row % 3]}\t"
        f"{row * 37 % 101 / 10}\t2.7\t2.8\t{1 + row % 4}\t7.25\t{row % 2}\t0.4"
        for row in range(pairs)
    ]


def write_simlex(path, lines=None):
    write_lines(path, [SIMLEX_HEADER, *(simlex_lines() if lines is None else lines)])
    return path


def jpeg(value):
    """Returns a JPEG of 6 x 4 pixels whose red level is 60 times the value."""
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (60 * value, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def create_unprepared_builder(name):
    """Returns a TFDS builder with splits of 100,000 examples, but without files."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir="/nowhere")
    splits = [
        tfds.core.SplitInfo(name=split, shard_lengths=[100_000], num_bytes=0)
        for split in ("train", "validation", "test")
    ]
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    return builder


def prepare(name, data_dir, splits):
    """Writes a TFDS data set from given examples, without a download.

    Args:
        name: Name of the TFDS builder.
        data_dir: Folder of TFDS.
        splits: Dict of split → list of examples.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    generators = {
        split: iter([(row, example) for row, example in enumerate(examples)])
        for split, examples in splits.items()
    }
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    with mock.patch.object(type(builder), "_split_generators", lambda *_: generators):
        tfds.disable_progress_bar()
        builder.download_and_prepare(download_config=config)


def imagenet_examples(ids):
    """Returns an ImageNet example for each class id."""
    return [
        {"image": io.BytesIO(jpeg(row)), "label": class_id, "file_name": f"{row}.jpg"}
        for row, class_id in enumerate(ids)
    ]
