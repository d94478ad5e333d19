"""Prompts into which zero-shot classification puts the names of classes."""

import pathlib

import yaml

from align_keras.datasets.benchmarks.clip_benchmark import read_clip_benchmark
from align_keras.utils.errors import InputError

_FILE = pathlib.Path(__file__).with_name("templates.yaml")


def read_templates(source="default"):
    """Reads prompt templates.

    Args:
        source: str: `"photos"`, `"drawings"`, `"default"` (both) or `"none"` (the
            bare name) of our own; the path of a file with a template a line; or
            `"clip:DATASET"`, such as `"clip:imagenet1k"`, of an installed
            clip-benchmark.

    Returns:
        list of str, each with `{}` for the name.

    Raises:
        InputError: for a file that isn't there or is empty, a line without `{}`,
            and for clip-benchmark if it isn't installed or hasn't got the data set.

    References:
        Jia et al. 2021, section 5.2: an ensemble of prompts adds 2.9 points.

    Example:

    >>> read_templates("none")
    ['{}']
    """
    own = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    own["default"] = list(dict.fromkeys(own["photos"] + own["drawings"]))
    if source in own:
        return own[source]
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
            f"--templates must be one of {', '.join(sorted(own))}, a file or "
            f"clip:DATASET, received {source!r}, which can't be read; check it."
        ) from error
    templates = [line.strip() for line in lines if line.strip()]
    wrong = [template for template in templates if "{}" not in template]
    if wrong or not templates:
        received = f"the line {wrong[0]!r}" if wrong else "no line"
        raise InputError(
            "--templates must have {} for the name in each line, received "
            f"{received} in {source}; write for instance: a picture of {{}}"
        )
    return templates
