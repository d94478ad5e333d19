"""Recorded results of reference implementations.

Tests read them where the reference implementations aren't installed.
`tests/golden/NAME.npz` holds the arguments ("question") and results ("answer") of each
call of a case. `python tools/record_oracles.py` writes these files.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable

import numpy as np

from tests.helpers.align_folders import random_pairs, tiny_align
from tests.helpers.oracle_process import call_oracle

FOLDER = pathlib.Path(__file__).parents[1] / "golden"


@dataclasses.dataclass(frozen=True)
class Case:
    """Function of a reference implementation and the arguments of its recorded calls.

    Attributes:
        module: Module of `tests.oracles`.
        function: Name of the function.
        questions: Returns the keyword arguments of each call.
        packages: Packages that the function needs.
        first: Returns positional arguments of every call, which aren't recorded.
    """

    module: str
    function: str
    questions: Callable[[], Iterable[dict]]
    packages: tuple[str, ...]
    first: Callable[[], tuple] = tuple

    def answer(self, question):
        """Calls the function. Returns its result as a dict."""
        result = call_oracle(self.module, self.function, *self.first(), **question)
        return result if isinstance(result, dict) else {"answer": result}


def recorded(name):
    """Returns a pair of dicts, arguments and results, for each recorded call."""
    pairs = []
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as stored:
        for key in stored:
            number, part, argument = key.split("/")
            if int(number) == len(pairs):
                pairs.append(({}, {}))
            pairs[-1][part == "answer"][argument] = stored[key]
    return pairs


def record(name):
    """Calls the function of a case, and writes the file that `recorded` reads."""
    arrays = {}
    for number, question in enumerate(CASES[name].questions()):
        answer = CASES[name].answer(question)
        for part, values in (("question", question), ("answer", answer)):
            for argument, value in values.items():
                arrays[f"{number}/{part}/{argument}"] = np.asarray(value)
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


def unit_rows(random, rows, width):
    values = random.normal(size=(rows, width))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def _pairs():
    """Yields pairs with images of even sides, then with sides odd at most strides."""
    for sides in ((64, 64), (35, 49)):
        pairs = random_pairs(*sides, length=12, vocabulary_size=57)
        # Integers compress better.
        yield {**pairs, "images": np.rint(pairs["images"])}


def _recall():
    """Yields a set of images with three captions each, and one with one to seven.

    Images of COCO have five to seven captions.
    """
    random = np.random.default_rng(5)
    for counts in (np.full(40, 3), random.integers(1, 8, 60)):
        images = unit_rows(random, len(counts), 16).astype("float32")
        owners = np.repeat(np.arange(len(counts)), counts)
        noise = unit_rows(random, len(owners), 16)
        captions = (images[owners] + 1.5 * noise).astype("float32")
        yield {"images": images, "captions": captions, "owners": owners}


def _losses():
    for smoothing in (0.0, 0.1, 1.0):
        for temperature in (1.0, 0.07, 1 / 128):
            yield {**_embeddings(7, temperature), "smoothing": smoothing}


def _embeddings(count, temperature):
    random = np.random.default_rng(2)
    images, texts = unit_rows(random, count, 6), unit_rows(random, count, 6)
    return {"images": images, "texts": texts, "temperature": temperature}


def _sgd():
    random = np.random.default_rng(0)
    common = {
        "start": random.normal(size=(4, 3)).astype("float32"),
        "gradients": random.normal(size=(20, 4, 3)).astype("float32"),
        "rate": 0.01,
        "momentum": 0.9,
        "weight_decays": [0.1, 0.0],
    }
    return [{**common, "nesterov": nesterov} for nesterov in (False, True)]


def _zero_shot():
    """Yields seven classes with three prompts each, and images near their class."""
    random = np.random.default_rng(0)
    classes = ["cat", "dog", "red fox", "owl", "newt", "eel", "bee"]
    # Templates for `str.format`, which clip_benchmark uses.
    templates = ["{c}", "a picture of {c}", "{c} in the {{{{rain}}}}"]
    texts = [template.format(c=name) for name in classes for template in templates]
    embeddings = unit_rows(random, len(texts), 8)
    labels = random.integers(0, len(classes), 200)
    images = embeddings.reshape(len(classes), len(templates), 8).mean(1)[labels]
    images = images + random.normal(0, 0.25, images.shape)
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    yield {
        "class_names": classes,
        "templates": templates,
        "texts": texts,
        "embeddings": embeddings,
        "images": images.astype("float32"),
        "labels": labels,
    }


CASES = {
    "align": Case(
        "hugging_face",
        "outputs",
        _pairs,
        ("torch", "transformers"),
        lambda: (tiny_align(),),
    ),
    "recall": Case(
        "clip_benchmark_metrics", "retrieval", _recall, ("torch", "clip_benchmark")
    ),
    "zero_shot": Case(
        "clip_benchmark_metrics", "zero_shot", _zero_shot, ("torch", "clip_benchmark")
    ),
    "contrastive_loss": Case("torch_losses", "cross_entropy", _losses, ("torch",)),
    "open_clip_loss": Case(
        "torch_losses",
        "open_clip",
        lambda: [_embeddings(13, 1 / 16)],
        ("torch", "open_clip"),
    ),
    "siglip_loss": Case(
        "torch_losses",
        "siglip",
        lambda: [
            {**_embeddings(7, 0.1), "bias": -10.0},
            {**_embeddings(13, 1 / 64), "bias": -1.5},
        ],
        ("torch", "open_clip"),
    ),
    "siglip_replicas_loss": Case(
        "torch_losses",
        "siglip_replicas",
        lambda: [{**_embeddings(12, 1 / 16), "bias": -3.0, "replicas": 4}],
        ("torch", "open_clip"),
    ),
    "sgd": Case("torch_optimizers", "sgd", _sgd, ("torch",)),
    "lite_parameters": Case(
        "efficientnet_lite",
        "parameters",
        lambda: [{"number": number} for number in range(5)],
        ("torch", "efficientnet_lite_pytorch"),
    ),
}
