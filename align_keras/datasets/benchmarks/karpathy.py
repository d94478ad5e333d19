"""Karpathy's splits of Flickr30K and COCO, `dataset_flickr30k.json` and the like."""

import json
import pathlib

from align_keras.datasets.benchmarks.captioned_images import CaptionedImages
from align_keras.datasets.benchmarks.present_pictures import present_pictures
from align_keras.utils.errors import InputError

# Pictures and captions of the splits that the paper measures. Recall on fewer isn't
# comparable: it rises as the gallery shrinks.
COUNTS = {("flickr30k", "test"): (1000, 5000), ("coco", "test"): (5000, 25_010)}


def read_karpathy(
    json_path,
    image_folder,
    split,
    captions_per_image=5,
    allow_missing=False,
    check_counts=True,
):
    """Reads a split of `dataset_flickr30k.json` or `dataset_coco.json`.

    Args:
        json_path: str or path of the JSON file.
        image_folder: str or path; of COCO the folder that holds `val2014/`.
        split: str, `"train"`, `"val"`, `"test"` or, of COCO, `"restval"`.
        captions_per_image: int >= 1, the first so many captions of each picture:
            5 is the protocol, also of COCO, some of whose pictures have six or
            seven. None takes all, as CxC does.
        allow_missing: bool, leave missing pictures out and say so.
        check_counts: bool, whether the test splits of the data sets `flickr30k`
            and `coco`, as the file calls itself, must have their 1,000 and 5,000
            pictures with 5,000 and 25,010 captions.

    Returns:
        `CaptionedImages` in the file's order; images are paths, image ids file
        names, and caption ids `sentid`.

    Raises:
        InputError: no such file or split, another format, a picture with too few
            captions, wrong counts, missing pictures.

    References:
        Karpathy and Fei-Fei 2015; Jia et al. 2021, section 5.1.

    Example:

    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "7.jpg").write_bytes(b"")
    >>> entry = {"filename": "7.jpg", "split": "test", "sentences": [
    ...     {"raw": "A cat.", "sentid": 70}, {"raw": "A pet.", "sentid": 71}]}
    >>> _ = (folder / "dataset.json").write_text(json.dumps({"images": [entry]}))
    >>> data = read_karpathy(folder / "dataset.json", folder, "test", 1)
    >>> data.captions, data.caption_ids
    ([['A cat.']], [['70']])
    """
    if captions_per_image is not None and captions_per_image < 1:
        raise InputError(
            "captions_per_image must be at least 1, or None for all, received "
            f"{captions_per_image}."
        )
    path = pathlib.Path(json_path)
    content = _read(path)
    examples = [_example(path, row, own) for row, own in enumerate(content["images"])]
    splits = dict.fromkeys(example["split"] for example in examples)
    if split not in splits:
        raise InputError(
            f"split must be one of {', '.join(sorted(splits))}, which {path.name} has, "
            f"received {split!r}."
        )
    examples = [example for example in examples if example["split"] == split]
    if check_counts:
        _check_counts(path, content.get("dataset"), split, examples)
    if captions_per_image is not None:
        examples = [_first(path, example, captions_per_image) for example in examples]
    paths = [str(pathlib.Path(image_folder, example["path"])) for example in examples]
    rows = present_pictures(paths, f"{path.name}'s {split} split", allow_missing)
    return CaptionedImages(
        images=[paths[row] for row in rows],
        captions=[examples[row]["captions"] for row in rows],
        image_ids=[examples[row]["id"] for row in rows],
        caption_ids=[examples[row]["caption_ids"] for row in rows],
        missing=len(paths) - len(rows),
    )


def _read(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"no readable {path} ({error.strerror}); unpack Karpathy's "
            "caption_datasets.zip there."
        ) from None
    except ValueError as error:
        raise InputError(f"{path} isn't JSON: {error}; download it again.") from None
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise InputError(
            f'{path} must hold an object with the list "images", as Karpathy\'s files '
            "do; download it again."
        )
    return content


def _example(path, row, content):
    """One entry of the file, in our terms."""
    try:
        sentences = content["sentences"]
        name = content["filename"]
        return {
            "id": name,
            # Of COCO, whose pictures lie in train2014 and val2014.
            "path": str(pathlib.Path(content.get("filepath", ""), name)),
            "split": content["split"],
            "captions": [" ".join(sentence["raw"].split()) for sentence in sentences],
            "caption_ids": [str(sentence["sentid"]) for sentence in sentences],
        }
    except KeyError as error:
        problem = f"lacks {error}"
    except (TypeError, AttributeError) as error:
        problem = f"has another form ({error})"
    raise InputError(
        f"images[{row}] of {path} {problem}; an entry has filename, split and "
        "sentences with raw and sentid; download the file again."
    )


def _check_counts(path, dataset, split, examples):
    expected = COUNTS.get((dataset, split))
    found = (len(examples), sum(len(example["captions"]) for example in examples))
    if expected is not None and found != expected:
        raise InputError(
            f"the {split} split of {dataset} must have {expected[0]:,} pictures and "
            f"{expected[1]:,} captions, but {path} has {found[0]:,} and {found[1]:,}; "
            "download the file again, or pass check_counts=False for a subset, whose "
            "recall isn't comparable."
        )


def _first(path, example, count):
    captions = example["captions"]
    if len(captions) < count:
        raise InputError(
            f"{example['id']} of {path.name} has {len(captions)} captions, fewer than "
            f"the {count} of captions_per_image; pass {len(captions)}, or None for all."
        )
    return example | {
        "captions": captions[:count],
        "caption_ids": example["caption_ids"][:count],
    }
