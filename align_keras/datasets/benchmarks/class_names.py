"""Names of classes and the templates that make prompts of them."""

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

# How ImageNet names its classes: WordNet's ids.
_WORDNET_ID = re.compile(r"n\d{8}")
_IMAGENET_CLASSES = 1000
# How SUN397 does: by initial, and then from the coarse to the fine. Elsewhere a slash
# belongs to the name, as in one of cars196's.
_SUN397 = re.compile(r"/[a-z]/")
_FILE = pathlib.Path(__file__).with_name("templates.yaml")


def readable_name(name: str) -> str:
    """A folder's or a data set's name of a class, as people write it."""
    if _SUN397.match(name):
        name = name[3:].replace("/", " ")
    return " ".join(name.replace("_", " ").split())


def read_class_names(source: str | os.PathLike) -> list | dict:
    """Reads names of classes: a file with one a line in the order of the labels, JSON
    with a list in that order or a dict from old names, or labels, to new ones; or
    `clip:DATASET` of an installed clip-benchmark.
    """
    if str(source).startswith("clip:"):
        return read_clip_benchmark("en_classnames.json", str(source)[5:], "--classes")
    path = pathlib.Path(source)
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = (
            json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
        )
    except (OSError, ValueError) as error:
        raise InputError(
            "--classes must be a file of names or clip:DATASET, received "
            f"{source}, which can't be read ({error}); check it."
        ) from error
    if isinstance(names, list):
        while names and names[-1] == "":  # Lines at the end.
            names.pop()
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


def rename_classes(data: Any, names: list | dict) -> Any:
    """Gives classes other names: a list in their order, or a dict from old names or
    labels. ImageNet's 1000 names also name some of its ids, as ImageNet-A's folders.

    Example:

    >>> from align_keras.datasets.benchmarks.labeled_images import LabeledImages
    >>> data = LabeledImages([], [], ["n02123045", "n02084071"])
    >>> rename_classes(data, {"n02084071": "dog", "0": "tabby"}).class_names
    ['tabby', 'dog']
    """
    old = data.class_names
    if not isinstance(names, dict) and len(names) != len(old):
        if len(names) != _IMAGENET_CLASSES or not _are_wordnet_ids(old):
            raise InputError(
                f"--classes must name the {len(old)} classes of the data, received "
                f"{len(names)} names; give one for each, in the order of the labels."
            )
        names = dict(zip(imagenet_ids(), names, strict=True))
    if isinstance(names, dict):
        by_name = {readable_name(name): new for name, new in names.items()}
        lacking = [
            name
            for label, name in enumerate(old)
            if name not in by_name and str(label) not in by_name
        ]
        if lacking:
            raise InputError(
                f"--classes must name every class of the data, received no name for "
                f"{lacking[0]!r} and {len(lacking) - 1} others; add them."
            )
        names = [
            by_name.get(name, by_name.get(str(label))) for label, name in enumerate(old)
        ]
    return dataclasses.replace(data, class_names=list(names))


def check_names_for_prompts(class_names: Sequence[str]) -> None:
    """Raises where classes have WordNet ids in place of names."""
    if _are_wordnet_ids(class_names):
        raise InputError(
            f"--classes must name the classes, received none for {class_names[0]!r} "
            "and the like, which no caption holds; give a file of names, or "
            "clip:imagenet1k with clip-benchmark installed."
        )


def _are_wordnet_ids(names):
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
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{argument} clip:{dataset} needs {path}, which can't be read; run pip "
            "install --force-reinstall clip-benchmark."
        ) from error
    # Some entries hold prompts of each class, not names or templates.
    lists = {name: entry for name, entry in known.items() if isinstance(entry, list)}
    if dataset not in lists:
        raise InputError(
            f"{argument} clip:DATASET must be one of {', '.join(sorted(lists))}, "
            f"received {dataset!r}; choose one."
        )
    return lists[dataset]
