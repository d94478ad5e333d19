"""Evaluation protocols: their options, their results and their definition."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from align_keras.embedders.locations import RUNTIME_HELP
from align_keras.utils.arguments import check_choice
from align_keras.utils.tasks import ENGINE_HELP, LOCAL

# Part of a model that a protocol needs.
Needs = Literal["embeddings", "words", "weights"]
CLASSES_HELP = (
    "stamps, a TFDS data set such as imagenet2012, a folder of classes, or a folder of "
    "CLIP_benchmark (webdataset)"
)


def _option(help: str, *, default: Any = None, **argparse: Any) -> Any:
    """Returns a dataclass field that also describes its command-line flag."""
    return dataclasses.field(default=default, metadata={"help": help, **argparse})


@dataclasses.dataclass(frozen=True)
class Request:
    """Options of an evaluation protocol.

    Each field is a keyword of `align_keras.evaluate` and a command-line flag. An option
    that isn't set is None, or the empty str for `data`.
    """

    data: str = _option("data set of the evaluation", default="", metavar="D")
    data_root: str = _option(
        "folder of the paper's data sets, such as flickr30k/ (default: data)",
        default="data",
        metavar="DIR",
    )
    split: str | None = _option("split to evaluate (default: usual test split)")
    train_split: str | None = _option(
        "split to train on (default: usual training split)", metavar="SPLIT"
    )
    classes: str | None = _option(
        "class names for prompts: a file with one name per line, a table with two "
        "columns (name in the data, name in prompts), a JSON file, or clip:DATASET",
        metavar="C",
    )
    allow_missing: bool | None = _option("skip missing images", action="store_true")
    image_column: str | None = _option("column of image paths in a table", metavar="C")
    caption_column: str | None = _option("column of captions in a table", metavar="C")
    encoding: str | None = _option(
        "encoding of a table or of caption files (default: utf-8)", metavar="E"
    )
    metadata: str | None = _option(
        "CSV or TSV file with columns for --slice-by. The first column has the ids of "
        "the images: file names, paths relative to the folder of the split for a "
        "folder of classes, or ids or image paths of a table",
        metavar="FILE",
    )
    slice_by: str | None = _option(
        "also report every metric for each value of this column, with 95%% intervals",
        metavar="COLUMN",
    )
    templates: str = _option(
        "prompts: photos, drawings, default (both), none, a file with {} in each line, "
        "or clip:DATASET with clip-benchmark installed. For ImageNet and its variants, "
        "--templates and --classes are clip:imagenet1k by default, as in the paper. A "
        "folder of CLIP_benchmark has its own prompts.",
        default="default",
        metavar="T",
    )
    text_weight: float = _option(
        "weight of the words, relative to the weight 1 of the image (default: 2)",
        default=2.0,
        type=float,
        metavar="W",
    )
    runtime: str | None = _option(
        f"{RUNTIME_HELP} (default: keras, or the runtime of an export)", metavar="R"
    )
    engine: str = _option(ENGINE_HELP, default=LOCAL, metavar="E")
    workers: int = _option(
        "number of processes that train in parallel (default: 1)",
        default=1,
        type=int,
        metavar="N",
    )
    results: str | None = _option(
        "folder of the training results, with which the same command resumes "
        "(default: align_keras/fine_tuned in the user's cache folder)",
        metavar="DIR",
    )
    config_file: Sequence[str] = _option(
        "YAML file that overrides the recipe in experiments/evaluation/. Repeat the "
        "option for several files.",
        default=(),
        action="append",
        metavar="FILE",
    )
    params_override: Sequence[str] = _option(
        "values that override the files, such as head.steps=1000,runs=1",
        default=(),
        action="append",
        metavar="K=V,…",
    )

    def check_columns(self, columns: Iterable[str]) -> None:
        """Raises unless the data has the column `slice_by`."""
        if self.slice_by is not None:
            check_choice("slice_by", self.slice_by, sorted(columns), "Use a column.")


OPTIONS = {field.name: field for field in dataclasses.fields(Request)}
# Options that all protocols have.
COMMON = ("data", "data_root", "slice_by")


@dataclasses.dataclass(frozen=True)
class ItemStatistics:
    """Statistics of one kind of items, such as images, and the columns to slice by.

    Attributes:
        statistics: dict from metric to `Statistic`.
        columns: dict from the name of a column to its value for each item.
    """

    statistics: dict
    columns: Mapping[str, Sequence]


@dataclasses.dataclass
class Evaluation:
    """Result of a protocol.

    Attributes:
        metrics: dict from name to value.
        items: list of `ItemStatistics`, one for each kind of items, for slices.
        retrieval: dict of arguments of `retrieval_examples`, or None.
        classification: dict of `labels`, `predictions` and `class_names`, or None.
    """

    metrics: dict[str, float]
    items: list[ItemStatistics] = dataclasses.field(default_factory=list)
    retrieval: dict | None = None
    classification: dict | None = None


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Evaluation protocol. Calling it runs the evaluation.

    Attributes:
        run: function of `CachedEncoders` and a `Request`. Its name is the protocol's.
        help: description for the command line.
        table: table in the paper, or "".
        options: tuple of str, fields of `Request` that it uses in addition to `COMMON`.
        data: the default data set, or None.
        data_help: description of the data for the command line.
        needs: the part of a model that the protocol needs. Exports have only
            embeddings.
    """

    run: Callable[[Any, Request], Evaluation]
    help: str
    table: str
    options: tuple[str, ...]
    data: str | None
    data_help: str
    needs: Needs

    def __call__(self, encoders: Any, request: Request) -> Evaluation:
        return self.run(encoders, request)

    @property
    def name(self) -> str:
        return self.run.__name__

    def takes(self, option: str) -> bool:
        """Returns True if the protocol uses this field of `Request`."""
        return option in COMMON or option in self.options


def define_protocol(
    *,
    help: str,
    table: str = "",
    options: tuple[str, ...] = (),
    data: str | None = None,
    data_help: str = CLASSES_HELP,
    needs: Needs = "embeddings",
) -> Callable[[Callable[[Any, Request], Evaluation]], Protocol]:
    """Returns a decorator that converts a function to a `Protocol`."""

    def decorate(run: Callable[[Any, Request], Evaluation]) -> Protocol:
        return Protocol(
            run=run,
            help=help,
            table=table,
            options=options,
            data=data,
            data_help=data_help,
            needs=needs,
        )

    return decorate


def missing_images_metric(count: int) -> dict[str, float]:
    """Returns the metric `images_left_out`, or no metric if `count` is 0."""
    return {"images_left_out": float(count)} if count else {}


def columns_of_rows(columns: Mapping[str, Sequence], rows: Collection[int]) -> dict:
    """Returns the values of rows in each column. Rows may be repeated."""
    return {name: [values[row] for row in rows] for name, values in columns.items()}


def first_names(names: Sequence, most: int = 5) -> str:
    """Returns the first names as text, with an ellipsis if the list is longer."""
    return ", ".join(map(str, names[:most])) + (", …" if len(names) > most else "")
