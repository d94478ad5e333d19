"""`align-keras embed`: writes the embeddings of many images or captions to files."""

import argparse

from align_keras.cli.common import AT_LEAST_ONE, name_addresses
from align_keras.embedders.locations import MODEL_HELP, RUNTIME_HELP
from align_keras.utils.tasks import ENGINE_HELP, LOCAL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The output has one row for each row of the source, with the columns of the "
        "source and the column `embedding`. If a row cannot be embedded, the column "
        "`problem` contains the reason. After an interruption, run the same command "
        "again to continue."
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder of images, corpus of `align-keras corpus build`, table (.csv, "
        ".tsv, .jsonl, .parquet) of image paths or captions, or text file (.txt) with "
        "one caption per line. All except a corpus may be on s3://, gs:// or hf://, "
        "and files on https://.",
    )
    parser.add_argument(
        "--to",
        required=True,
        metavar="OUT",
        help="new folder of shards to write: Parquet files, or NumPy files with JSON "
        "lines if pyarrow is not installed",
    )
    parser.add_argument(
        "--model",
        default="align_small_en",
        metavar="M",
        help=f"{MODEL_HELP} (default: %(default)s)",
    )
    parser.add_argument("--runtime", default="auto", metavar="R", help=RUNTIME_HELP)
    parser.add_argument(
        "--inputs",
        choices=("images", "captions"),
        help="content to embed if a table has images and captions (default: images)",
    )
    parser.add_argument(
        "--column",
        metavar="NAME",
        help="column to embed (default: the column with a usual name for images or "
        "captions)",
    )
    parser.add_argument(
        "--rows-per-file",
        type=AT_LEAST_ONE,
        default=1024,
        metavar="N",
        help="rows per shard. An interruption loses at most one unfinished shard "
        "(default: %(default)s).",
    )
    parser.add_argument("--engine", default=LOCAL, metavar="E", help=ENGINE_HELP)


def run(arguments: argparse.Namespace) -> int:
    from align_keras.search.bulk_embeddings import embed

    names = (
        "model",
        "inputs",
        "column",
        "rows_per_file",
        "runtime",
        "engine",
    )
    options = {name: getattr(arguments, name) for name in names}
    result = embed(arguments.source, arguments.to, **options)
    files = f"{len(result.files):,} file{'s' * (len(result.files) != 1)}"
    folder = name_addresses(arguments.to, arguments)
    print(f"{result.rows:,} rows in {files}: {folder}")
    for problem, count in sorted(result.problems.items()):
        print(f"{count:,} without an embedding: {problem}")
    return 0
