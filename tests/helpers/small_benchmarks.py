"""Benchmarks in their true formats with a handful of pictures."""

import csv
import gzip
import io
import json
from unittest import mock

from PIL import Image

# Colors tell the pictures apart.
COLORS = ["red", "green", "blue", "black", "orange", "purple", "brown", "gray"]


def picture_color(row):
    return COLORS[row % len(COLORS)]


def write_picture(path, row):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (40, 40), "white")
    image.paste(picture_color(row), (4, 4, 36, 12 + row % 24))
    image.save(path)
    return path


def captions_of(row, count):
    kinds = ("a {} bar", "one {} box", "something {}", "{} paint", "the {} thing")
    color = picture_color(row)
    return [
        kinds[number % len(kinds)].format(color) + f" {row} {number}"
        for number in range(count)
    ]


def karpathy_image(row, name, split, captions=5, **others):
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
        **others,
    }


def write_flickr30k(folder, test=8, train=2, dataset="flickr30k_small"):
    """Writes `dataset_flickr30k.json` and `images/`; returns the images' entries."""
    entries = [
        karpathy_image(row, f"{1000 + row}.jpg", "test" if row < test else "train")
        for row in range(test + train)
    ]
    for row, entry in enumerate(entries):
        write_picture(folder / "images" / entry["filename"], row)
    return write_json(folder / "dataset_flickr30k.json", entries, dataset)


def coco_name(row):
    return f"COCO_val2014_{row:012d}.jpg"


def write_coco(folder, test=6, dataset="coco_small"):
    """As `write_flickr30k`; pictures have five, six or seven captions."""
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
        write_picture(folder / "val2014" / entry["filename"], row)
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
    """Rows of the three tasks that fit `write_coco`: dict of lists."""
    sts, sis, sits = [], [], []
    for row in range(test):
        other = (row + 1) % test
        for number in range(5):
            own = caption_name(100 * row + number)
            # The fifth caption of each picture was rated too low.
            sits.append((own, coco_name(row), 2.9 if number == 4 else 4.5))
            sits.append((own, coco_name(other), number / 2))
            cousin = caption_name(100 * row + (number + 1) % 5)
            sts.append((own, cousin, 3.0 if number else 1.0))
        sts.append((caption_name(100 * row), caption_name(100 * other + 2), 0.4 * row))
        sis.append((coco_name(row), coco_name(other), 5.0 * row / test))
    return {"sts": sts, "sis": sis, "sits": sits}


def write_cxc(folder, rows, split="test", packed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for task, own in rows.items():
        name = f"{task}_{split}.csv"
        opened = (
            gzip.open(folder / f"{name}.gz", "wt", newline="")
            if packed
            else open(folder / name, "w", newline="")
        )
        with opened as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow((*CXC_COLUMNS[task], "agg_score", "sampling_method"))
            writer.writerows((*row, "c2i_original") for row in own)


MULTI30K_WORDS = {"en": "dog", "de": "Hund", "fr": "chien", "cs": "pes"}


def write_multi30k(folder, images, pictures=8, packed=True, files=8):
    """Writes the repository's tree, and pictures, of which `files` differ."""
    names = [f"{1000 + row}.jpg" for row in range(pictures)]
    for row, name in enumerate(names):
        if row < files:
            write_picture(images / name, row)
        elif not (images / name).exists():
            (images / name).hardlink_to(images / names[row % files])
    write_lines(folder / "data/task1/image_splits/test_2016_flickr.txt", names)
    for language, word in MULTI30K_WORDS.items():
        lines = [f"{word} {picture_color(row)} {row}" for row in range(pictures)]
        task1 = folder / f"data/task1/raw/test_2016_flickr.{language}"
        write_lines(task1, lines, packed)
        if language in ("en", "de"):
            for number in range(1, 6):
                path = folder / f"data/task2/raw/test_2016.{number}.{language}"
                write_lines(path, [f"{line} {number}" for line in lines], packed)
    return names


def write_lines(path, lines, packed=False):
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
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (60 * value, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def prepare(name, data_dir, splits):
    """Writes a data set as TFDS does, from examples in place of a download."""
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
    return [
        {"image": io.BytesIO(jpeg(row)), "label": own, "file_name": f"{row}.jpg"}
        for row, own in enumerate(ids)
    ]
