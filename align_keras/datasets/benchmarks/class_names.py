"""Names of classes and the templates that make prompts of them."""

import csv
import dataclasses
import importlib.util
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import yaml

from align_keras.utils.errors import InputError

# ImageNet names its classes by WordNet's ids.
_WORDNET_ID = re.compile(r"n\d{8}")
_IMAGENET_CLASSES = 1000
# SUN397 names its classes by initial, and then from coarse to fine. In other sets a
# slash belongs to the name, as in one of cars196's.
_SUN397 = re.compile(r"/[a-z]/")
_FILE = pathlib.Path(__file__).with_name("templates.yaml")


def readable_name(name: str) -> str:
    """A folder's or a data set's name of a class, as people write it."""
    if _SUN397.match(name):
        name = name[3:].replace("/", " ")
    return " ".join(name.replace("_", " ").split())


def read_class_names(source: str | os.PathLike) -> list | dict:
    """Reads names of classes for prompts.

    Args:
        source: path of a text file with one name a line, or with two columns divided by
            a tab, the data's name of a class and its name in prompts; of a CSV or TSV
            file with these two columns; of a JSON file with a list of names or a dict
            from the data's names, or labels, to names; or `clip:DATASET` of an
            installed clip-benchmark.

    Returns:
        list of str, or a dict from the data's names or labels to str.

    Raises:
        InputError: if the file can't be read or holds something else.
    """
    if str(source).startswith("clip:"):
        return read_clip_benchmark("en_classnames.json", str(source)[5:], "--classes")
    path = pathlib.Path(source)
    suffix = path.suffix.lower()
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = json.loads(text) if suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise InputError(
            "--classes must be a file of names or clip:DATASET, received "
            f"{source}, which can't be read ({error}); check it."
        ) from error
    if isinstance(names, list):
        while names and names[-1] == "":  # Lines at the end.
            names.pop()
        if suffix == ".csv" and any("," in line for line in names):
            names = _two_columns(source, names, ",")
        elif suffix != ".json" and any("\t" in line for line in names):
            names = _two_columns(source, names, "\t")
    values = list(names.values()) if isinstance(names, dict) else names
    if (
        not isinstance(values, list)
        or not values
        or not all(isinstance(value, str) and value.strip() for value in values)
    ):
        raise InputError(
            "--classes must hold one name a line, a JSON list of names or a JSON dict "
            f"of new names, received {source} with something else or an empty name; "
            "correct it."
        )
    return names


def _two_columns(
    source: str | os.PathLike, lines: Sequence[str], delimiter: str
) -> dict[str, str]:
    """Reads lines of a class's name in the data and its name in prompts."""
    names: dict[str, str] = {}
    try:
        rows = list(csv.reader(lines, delimiter=delimiter))
    except csv.Error as error:
        raise InputError(
            f"--classes must be a table of two columns, received {source}, which can't "
            f"be read ({error}); correct it."
        ) from error
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise InputError(
                "--classes must have two columns in each line, the data's name of a "
                f"class and its name in prompts, received {len(row)} in line {number} "
                f"of {source}; correct it."
            )
        old, new = row
        if names.get(old, new) != new:
            raise InputError(
                f"--classes must name each class once, received {old!r} again in line "
                f"{number} of {source}; remove one of the lines."
            )
        names[old] = new
    return names


def rename_classes(data: Any, names: list | dict, ordered: bool = True) -> Any:
    """Gives classes other names.

    A list that holds the data's own names is matched by name, in any order. A list of
    other names is taken in the order of the labels, if the data define such an order.
    A dict maps names, and of ordered data also labels, to new names. The 1,000 names of
    ImageNet also name some of its ids, such as ImageNet-A's folders.

    Args:
        data: `LabeledImages`.
        names: list or dict, as `read_class_names` returns them.
        ordered: bool, True if the order of the labels is part of the data set, as in
            TFDS. Folders have no order of their own.

    Returns:
        `LabeledImages` with the new names.

    Raises:
        InputError: if a class has no name, or the names can't be matched.

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
    by_name = {readable_name(name): new for name, new in names.items()}
    if ordered:
        for label, name in enumerate(old):
            if name not in by_name and str(label) in by_name:
                by_name[name] = by_name[str(label)]
    lacking = [name for name in old if name not in by_name]
    if lacking:
        raise InputError(
            f"--classes must name every class of the data, received no name for "
            f"{lacking[0]!r} and {len(lacking) - 1} others; add them."
        )
    return [by_name[name] for name in old]


def _names_of_list(names: list[str], old: Sequence[str], ordered: bool) -> list[str]:
    for form in (readable_name, _caseless):
        by_name = {form(name): name for name in names}
        forms = [form(name) for name in old]
        one_to_one = len(by_name) == len(names) == len(old) == len(set(forms))
        if one_to_one and set(forms) == set(by_name):
            return [by_name[name] for name in forms]
    if len(names) == _IMAGENET_CLASSES and _are_wordnet_ids(old):
        return _names_of_dict(dict(zip(imagenet_ids(), names, strict=True)), old, False)
    if not ordered or len(names) != len(old):
        raise InputError(
            f"--classes must name the {len(old)} classes of the data, received "
            f"{len(names)} names; {_differences(names, old)}. To give classes other "
            "names, write two columns divided by a tab, the data's name and the name "
            "in prompts"
            + (
                ", or one name for each class in the order of the labels."
                if ordered
                else "."
            )
        )
    places = {_caseless(name): label for label, name in enumerate(old)}
    for label, name in enumerate(names):
        if places.get(_caseless(name), label) != label:
            raise InputError(
                f"--classes must give the {len(old)} names in the order of the labels, "
                f"received {name!r} for label {label}, which is {old[label]!r} in the "
                "data; write them in that order, or in two columns divided by a tab, "
                "the data's name and the name in prompts."
            )
    return list(names)


def _caseless(name: str) -> str:
    return readable_name(name).casefold()


def _differences(names: Sequence[str], old: Sequence[str]) -> str:
    """Returns the names that only the file has and those that only the data has."""
    parts = []
    for owner, candidates, other_names in (("file", names, old), ("data", old, names)):
        known_names = {_caseless(name) for name in other_names}
        missing_names = [
            repr(name) for name in candidates if _caseless(name) not in known_names
        ]
        if missing_names:
            text = ", ".join(missing_names[:5])
            if len(missing_names) > 5:
                text += f" and {len(missing_names) - 5} more"
            parts.append(f"only the {owner} has {text}")
    return "; ".join(parts) or "some of them are repeated"


def check_names_for_prompts(class_names: Sequence[str]) -> None:
    """Raises where classes have WordNet ids in place of names."""
    if _are_wordnet_ids(class_names):
        raise InputError(
            f"--classes must name the classes, received none for {class_names[0]!r} "
            "and the like, which no caption holds; give a file of names, or "
            "clip:imagenet1k with clip-benchmark installed."
        )


def _are_wordnet_ids(names: Sequence[str]) -> bool:
    return all(map(_WORDNET_ID.fullmatch, names))


def imagenet_ids() -> list[str]:
    """Returns ImageNet's 1000 WordNet ids in the order of its labels."""
    import tensorflow_datasets as tfds  # Late, for it takes seconds.

    path = tfds.core.tfds_path("datasets/imagenet2012/labels.txt")
    return path.read_text().split()


def read_templates(source: str | os.PathLike = "default") -> list[str]:
    """Reads prompt templates, each with `{}` for the name: `"photos"`, `"drawings"`,
    `"default"` (both) or `"none"`; a file with one a line; or `"clip:DATASET"`.

    References:
        Jia et al. 2021, section 5.2: an ensemble of prompts adds 2.9 points.

    Example:

    >>> read_templates("none")
    ['{}']
    """
    named = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    named["default"] = list(dict.fromkeys(named["photos"] + named["drawings"]))
    if source in named:
        return named[source]
    if str(source).startswith("clip:"):
        dataset = str(source)[5:]
        templates = read_clip_benchmark(
            "en_zeroshot_classification_templates.json", dataset, "--templates"
        )
        return [template.replace("{c}", "{}") for template in templates]
    try:
        lines = pathlib.Path(source).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(
            f"--templates must be one of {', '.join(sorted(named))}, a file or "
            f"clip:DATASET, received {source!r}, which can't be read; check it."
        ) from error
    templates = [line.strip() for line in lines if line.strip()]
    wrong = [template for template in templates if "{}" not in template]
    if wrong or not templates:
        received = f"the line {wrong[0]!r}" if wrong else "no line"
        raise InputError(
            "--templates must have {} for the name in each line, received "
            f"{received} in {source}; write for instance: an image of {{}}"
        )
    return templates


def read_clip_benchmark(file: str, dataset: str, argument: str) -> list[str]:
    """Reads what a JSON file of clip-benchmark holds for a data set, a list."""
    # Found, not imported: it would load PyTorch.
    spec = importlib.util.find_spec("clip_benchmark")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"{argument} clip:{dataset} needs clip-benchmark, which isn't installed; "
            "run pip install clip-benchmark, or give a file."
        )
    path = pathlib.Path(spec.submodule_search_locations[0], "datasets", file)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{argument} clip:{dataset} needs {path}, which can't be read; run pip "
            "install --force-reinstall clip-benchmark."
        ) from error
    # Some entries hold prompts of each class, not names or templates.
    lists = {name: entry for name, entry in entries.items() if isinstance(entry, list)}
    if dataset not in lists:
        raise InputError(
            f"{argument} clip:DATASET must be one of {', '.join(sorted(lists))}, "
            f"received {dataset!r}; choose one."
        )
    return lists[dataset]
