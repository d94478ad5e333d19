"""Class names and prompt templates for zero-shot classification."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import yaml

from align_keras.corpus.text_tables import decode, delimited_lines
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError

# ImageNet uses WordNet ids as class names.
_WORDNET_ID = re.compile(r"n\d{8}")
_IMAGENET_CLASSES = 1000
# SUN397 prefixes its class names with the initial letter, and separates coarse and fine
# categories by slashes. In other data sets a slash is part of the name.
_SUN397 = re.compile(r"/[a-z]/")
_FILE = pathlib.Path(__file__).with_name("templates.yaml")
# CLIP_benchmark's placeholder of the class name in a template.
_CLASS = "{c}"


def readable_name(name: str) -> str:
    """Returns a class name of a folder or data set in a readable form.

    >>> readable_name("red_fox")
    'red fox'
    """
    if _SUN397.match(name):
        name = name[3:].replace("/", " ")
    return " ".join(name.replace("_", " ").split())


def read_class_names(source: str | os.PathLike) -> list | dict:
    """Reads class names for prompts.

    Args:
        source: one of the following:

            - a text file with one name per line, or with two columns separated by a
              tab: the class name in the data and its name in prompts,
            - a CSV or TSV file with these two columns,
            - a JSON file with a list of names, or with a dict from the class names or
              labels in the data to names in prompts,
            - `clip:DATASET` for the names in an installed clip-benchmark.

    Returns:
        list of str, or a dict from the class names or labels in the data to str.

    Raises:
        InputError: If the file can't be read or has another format.
    """
    if str(source).startswith("clip:"):
        return read_clip_benchmark("en_classnames.json", str(source)[5:], "--classes")
    path = pathlib.Path(source)
    suffix = path.suffix.lower()
    text = decode(path, path.read_bytes(), "utf-8")
    names: Any = text.splitlines()
    if suffix == ".json":
        names = _parse_json(text)
    if isinstance(names, list):
        while names and names[-1] == "":  # Blank lines at the end.
            names.pop()
        if suffix == ".csv" and any("," in line for line in names):
            names = _two_columns(source, "\n".join(names), ".csv")
        elif suffix != ".json" and any("\t" in line for line in names):
            names = _two_columns(source, "\n".join(names), ".tsv")
    values = list(names.values()) if isinstance(names, dict) else names
    if (
        not isinstance(values, list)
        or not values
        or not all(isinstance(value, str) and value.strip() for value in values)
    ):
        raise InputError(
            "--classes must contain one name per line, a JSON list of names or a JSON "
            f"dict of new names. Received: {source}, which has another format or an "
            "empty name."
        )
    return names


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _two_columns(source: str | os.PathLike, text: str, suffix: str) -> dict[str, str]:
    """Parses lines with the class name in the data and its name in prompts."""
    names: dict[str, str] = {}
    for number, row, error in delimited_lines(text, suffix):
        if len(row) != 2:
            raise InputError(
                "--classes must have two columns in each line: the class name in the "
                f"data and its name in prompts. Received: "
                f"{error or f'{len(row)} columns'} in line {number} of {source}."
            )
        old, new = row
        names[old] = new
    return names


def rename_classes(data: Any, names: list | dict, ordered: bool = True) -> Any:
    """Replaces the class names of a data set.

    A list with the same names as the data is matched by name, in any order, and
    replaces only their spelling. A list of other names is applied in the order of the
    labels, if the data set defines such an order. A dict maps names to new names, and
    labels to new names if the labels are ordered. The list of all 1,000 ImageNet names
    also applies to a subset of its WordNet ids, such as the folders of ImageNet-A.

    Args:
        data: `LabeledImages`.
        names: list or dict from `read_class_names`.
        ordered: whether the data set defines the order of the labels, as in TFDS.
            Folders define no order.

    Returns:
        `LabeledImages` with the new names.

    Raises:
        InputError: If a class has no name, or the names can't be matched.

    Example:

    >>> from align_keras.datasets.benchmarks.labeled_images import LabeledImages
    >>> data = LabeledImages([], [], ["n02123045", "n02084071"])
    >>> rename_classes(data, {"n02084071": "dog", "0": "tabby"}).class_names
    ['tabby', 'dog']
    >>> data = LabeledImages([], [], ["cat", "red fox"])
    >>> rename_classes(data, ["Red_fox", "Cat"], ordered=False).class_names
    ['Cat', 'Red_fox']
    """
    old = data.class_names
    if isinstance(names, dict):
        new_names = _names_of_dict(names, old, ordered)
    else:
        new_names = _names_of_list(names, old, ordered)
    return dataclasses.replace(data, class_names=new_names)


def _names_of_dict(
    names: dict[str, str], old: Sequence[str], ordered: bool
) -> list[str]:
    # The names of TFDS data are readable. CLIP_benchmark's names can have underscores.
    by_name = {readable_name(name): new for name, new in names.items()} | names
    if ordered:
        for label, name in enumerate(old):
            if name not in by_name and str(label) in by_name:
                by_name[name] = by_name[str(label)]
    unnamed = [name for name in old if name not in by_name]
    if unnamed:
        raise InputError(
            "--classes must name every class of the data. Received: no name for "
            f"{unnamed[0]!r} and {len(unnamed) - 1} other classes."
        )
    return [by_name[name] for name in old]


def _names_of_list(names: list[str], old: Sequence[str], ordered: bool) -> list[str]:
    for normalize in (readable_name, _caseless):
        by_name = {normalize(name): name for name in names}
        normalized = [normalize(name) for name in old]
        one_to_one = len(by_name) == len(names) == len(old) == len(set(normalized))
        if one_to_one and set(normalized) == set(by_name):
            return [by_name[name] for name in normalized]
    if len(names) == _IMAGENET_CLASSES and _are_wordnet_ids(old):
        return _names_of_dict(dict(zip(imagenet_ids(), names, strict=True)), old, False)
    if not ordered or len(names) != len(old):
        raise InputError(
            f"--classes must name the {len(old)} classes of the data, or rename them "
            f"in two columns separated by a tab. Received: {len(names)} names, but "
            f"{_differences(names, old)}."
        )
    labels = {_caseless(name): label for label, name in enumerate(old)}
    for label, name in enumerate(names):
        if labels.get(_caseless(name), label) != label:
            raise InputError(
                f"--classes must list the {len(old)} names in the order of the labels, "
                "or rename them in two columns separated by a tab. Received: "
                f"{name!r} for label {label}, which is {old[label]!r} in the data."
            )
    return list(names)


def _caseless(name: str) -> str:
    """Returns a class name in a form that is compared regardless of case."""
    return readable_name(name).casefold()


def _differences(names: Sequence[str], old: Sequence[str]) -> str:
    """Describes the names that are only in the file or only in the data."""
    parts = []
    for owner, candidates, other_names in (("file", names, old), ("data", old, names)):
        names_to_match = {_caseless(name) for name in other_names}
        unmatched = [
            repr(name) for name in candidates if _caseless(name) not in names_to_match
        ]
        if unmatched:
            text = ", ".join(unmatched[:5])
            if len(unmatched) > 5:
                text += f" and {len(unmatched) - 5} more"
            parts.append(f"only the {owner} has {text}")
    return " and ".join(parts) or "some of them are repeated"


def check_names_for_prompts(class_names: Sequence[str]) -> None:
    """Raises `InputError` if all class names are WordNet ids."""
    if _are_wordnet_ids(class_names):
        raise InputError(
            "--classes must name the classes, because their WordNet ids don't occur in "
            f"captions. Received: {class_names[0]!r}. Use a file of names, or "
            "clip:imagenet1k with clip-benchmark installed."
        )


def _are_wordnet_ids(names: Sequence[str]) -> bool:
    return all(map(_WORDNET_ID.fullmatch, names))


def imagenet_ids() -> list[str]:
    """Returns the 1,000 WordNet ids of ImageNet in the order of its labels."""
    import tensorflow_datasets as tfds  # Importing TFDS takes seconds.

    path = tfds.core.tfds_path("datasets/imagenet2012/labels.txt")
    return path.read_text().split()


def read_templates(source: str | os.PathLike = "default") -> list[str]:
    """Reads prompt templates with `{}` in place of the class name.

    Args:
        source: `"photos"`, `"drawings"`, `"default"` (both), `"none"` (the name alone),
            a text file with one template per line, or `"clip:DATASET"` for the
            templates in an installed clip-benchmark. A file may have CLIP_benchmark's
            `{c}` instead of `{}`.

    Returns:
        list of str.

    Raises:
        InputError: If the source is unknown, or a template has no `{}`.

    References:
        Jia et al. 2021, section 5.2: an ensemble of prompts adds 2.9 points.

    Example:

    >>> read_templates("none")
    ['{}']
    """
    groups = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    groups["default"] = list(dict.fromkeys(groups["photos"] + groups["drawings"]))
    if source in groups:
        return groups[source]
    if str(source).startswith("clip:"):
        dataset = str(source)[5:]
        templates = read_clip_benchmark(
            "en_zeroshot_classification_templates.json", dataset, "--templates"
        )
        return [template.replace(_CLASS, "{}") for template in templates]
    try:
        lines = pathlib.Path(source).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(
            f"--templates must be one of {', '.join(sorted(groups))}, a file or "
            f"clip:DATASET. Received: {source!r}, which can't be read."
        ) from error
    templates = [line.strip().replace(_CLASS, "{}") for line in lines if line.strip()]
    invalid = [template for template in templates if "{}" not in template]
    if invalid or not templates:
        received = f"the line {invalid[0]!r}" if invalid else "no line"
        raise InputError(
            "--templates must have {} for the class name in each line. Received: "
            f"{received} in {source}."
        )
    return templates


def read_clip_benchmark(file: str, dataset: str, argument: str) -> list[str]:
    """Reads the list for a data set from a JSON file of clip-benchmark.

    Args:
        file: name of the file.
        dataset: name of the data set in the file.
        argument: command-line option for the error message.
    """
    # Locates the package without importing it, because the import loads PyTorch.
    spec = importlib.util.find_spec("clip_benchmark")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"{argument} clip:{dataset} needs clip-benchmark, which isn't installed. "
            "Run pip install clip-benchmark, or use a file."
        )
    path = pathlib.Path(spec.submodule_search_locations[0], "datasets", file)
    entries = json.loads(path.read_text(encoding="utf-8"))
    # Some entries are dicts with prompts for each class.
    lists = {name: entry for name, entry in entries.items() if isinstance(entry, list)}
    check_choice(f"The DATASET of {argument} clip:DATASET", dataset, sorted(lists))
    return lists[dataset]
