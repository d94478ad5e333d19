"""CLIP's class names and prompts, read where clip-benchmark is installed."""

import importlib.util
import json
import pathlib

from align_keras.utils.errors import InputError


def read_clip_benchmark(file, dataset, argument):
    """Reads what one of clip-benchmark's files holds for a data set.

    Args:
        file: str, a JSON file of its folder `datasets`.
        dataset: str, a key of it, such as `"imagenet1k"`.
        argument: str, the argument that names the data set, for errors.

    Returns:
        list of str.

    Raises:
        InputError: if the package isn't installed, or hasn't got the data set.
    """
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
