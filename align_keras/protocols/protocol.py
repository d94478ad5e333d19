"""What a benchmark is: its record, what it is asked for and what it finds."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Literal

from align_keras.embedders.locations import RUNTIME_HELP
from align_keras.utils.errors import InputError
from align_keras.utils.tasks import ENGINE_HELP, LOCAL

PAPERS_KS = (1, 5, 10)


def _option(help: str, *, default: Any = None, **argparse: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, **argparse})


@dataclasses.dataclass(frozen=True)
class Request:
    """What a protocol is asked for: fields that `align_keras.evaluate` takes by name,
    and the command line as options. `None` is what wasn't given, of `data` the empty
    str.
    """

    data: str = _option("what the protocol is measured on", default="", metavar="D")
    data_root: str = _option(
        "folder below which the paper's sets lie, as flickr30k/ (default: data)",
        default="data",
        metavar="DIR",
    )
    split: str | None = _option("the split to judge, if not the usual one")
    train_split: str | None = _option("the split to learn from, if not the usual one")
    classes: str | None = _option(
        "class names, matched by name: a file with one a line, or two columns (the "
        "data's name, the name in prompts), JSON, or clip:DATASET",
        metavar="C",
    )
    allow_missing: bool | None = _option(
        "leave missing images out", action="store_true"
    )
    image_column: str | None = _option("a table's image paths", metavar="C")
    caption_column: str | None = _option("a table's captions", metavar="C")
    encoding: str | None = _option(
        "of a table or its captions (default: utf-8)", metavar="E"
    )
    metadata: str | None = _option(
        "a CSV or TSV of further columns for --slice-by; its first column holds the "
        "images' ids: file names, in a folder of classes the paths below the split's, "
        "of a table its paths or ids",
        metavar="FILE",
    )
    slice_by: str | None = _option(
        "also give every metric by this column of the data, with 95%% intervals",
        metavar="COLUMN",
    )
    templates: str = _option(
        "prompts: photos, drawings, default (both), none, a file with {} in each line, "
        "or clip:DATASET of an installed clip-benchmark (ImageNet and its variants: "
        "clip:imagenet1k, as in the paper, also for --classes)",
        default="default",
        metavar="T",
    )
    text_weight: float = _option(
        "the words' weight, the image's being 1 (default: 2)",
        default=2.0,
        type=float,
        metavar="W",
    )
    runtime: str | None = _option(
        f"{RUNTIME_HELP} (default: keras, for an export its own)", metavar="R"
    )
    engine: str = _option(ENGINE_HELP, default=LOCAL, metavar="E")
    workers: int = _option(
        "processes that train at once (default: 1)", default=1, type=int, metavar="N"
    )
    results: str | None = _option(
        "folder of what was trained, from which the same command goes on (default: "
        "align_keras/fine_tuned in the user's cache folder)",
        metavar="DIR",
    )
    config_file: Sequence[str] = _option(
        "YAML to lay over the recipe of experiments/evaluation/; may be repeated",
        default=(),
        action="append",
        metavar="FILE",
    )
    params_override: Sequence[str] = _option(
        "options to lay over that, such as head.steps=1000,runs=1",
        default=(),
        action="append",
        metavar="K=V,…",
    )

    def check_columns(self, columns: Iterable[str]) -> None:
        """Raises unless the data has the column to slice by: before it is embedded."""
        if self.slice_by is not None and self.slice_by not in columns:
            known = ", ".join(sorted(columns)) or "none"
            raise InputError(
                f"slice_by must be one of {known}, the columns of this data, "
                f"received {self.slice_by!r}."
            )


OPTIONS = {field.name: field for field in dataclasses.fields(Request)}
# What every protocol takes.
COMMON = ("data", "data_root", "slice_by")


@dataclasses.dataclass
class Evaluation:
    """What a protocol finds."""

    metrics: dict[str, float]
    # For each kind of items its statistics, and columns of a value each to slice by.
    items: list[tuple[dict, dict]] = dataclasses.field(default_factory=list)
    retrieval: dict | None = None  # The arguments of `retrieval_examples`.
    classification: dict | None = None  # Labels, predictions and class names.


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A benchmark of the paper, which is called as the function that `protocol`
    decorates.
    """

    # Takes `CachedEncoders`; its name is the protocol's.
    run: Callable[[Any, Request], Evaluation]
    help: str
    table: str  # Where the paper has it; empty where it hasn't.
    options: tuple[str, ...] = ()  # Fields of `Request` that it takes besides `COMMON`.
    data: str | None = None  # What it is measured on where nothing is named.
    data_help: str = (
        "a TFDS data set such as imagenet2012, stamps, or a folder of classes"
    )
    # What of a model: an export has embeddings, no [CLS] of words and no weights.
    needs: Literal["embeddings", "words", "weights"] = "embeddings"

    def __call__(self, encoders: Any, request: Request) -> Evaluation:
        return self.run(encoders, request)

    @property
    def name(self) -> str:
        return self.run.__name__

    def takes(self, option: str) -> bool:
        """Whether a field of `Request` is of any account."""
        return option in COMMON or option in self.options


def protocol(*about: Any, **more: Any) -> Callable[[Callable], Protocol]:
    """Makes a function a `Protocol`, of which these are the other fields."""
    return lambda run: Protocol(run, *about, **more)


def left_out(count: int) -> dict[str, float]:
    """Returns the metric of images that are missing or unreadable, if there are."""
    return {"images_left_out": float(count)} if count else {}


def columns_of_rows(columns: dict[str, Sequence], rows: Collection[int]) -> dict:
    """Returns the values of some rows in each column; a row may be repeated."""
    return {name: [values[row] for row in rows] for name, values in columns.items()}


def some(names: Sequence, most: int = 5) -> str:
    """Returns the first names, with an ellipsis where there are more."""
    return ", ".join(map(str, names[:most])) + (", …" if len(names) > most else "")
