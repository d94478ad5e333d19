"""`align-keras embed`: embeds many images or captions to files."""

import argparse

from align_keras.cli.common import AT_LEAST_ONE
from align_keras.embedders.locations import MODEL_HELP, RUNTIME_HELP
from align_keras.utils.tasks import ENGINE_HELP, LOCAL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Every row of the source becomes a row of the output, with its columns, "
        "`embedding`, and `problem` where it has none. The same command goes on from "
        "where it was interrupted."
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder of images; built corpus; table (.csv, .tsv, .jsonl, .parquet) of "
        "images' paths or of captions; text file (.txt) of one caption a line; but for "
        "a corpus also at s3://, gs:// or hf://, files at https://",
    )
    parser.add_argument(
        "--to",
        required=True,
        metavar="OUT",
        help="new file OUT.parquet, or new folder of shards",
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
        help="what to embed of a table that has both (default: its images)",
    )
    parser.add_argument(
        "--column", metavar="NAME", help="the table's column (default: by its name)"
    )
    parser.add_argument(
        "--format",
        choices=("parquet", "npy"),
        default="parquet",
        help="of the shards in a folder (default: %(default)s)",
    )
    parser.add_argument(
        "--rows-per-file",
        type=AT_LEAST_ONE,
        default=4096,
        metavar="N",
        help="rows of a shard, of which an interruption loses one (default: "
        "%(default)s)",
    )
    parser.add_argument("--engine", default=LOCAL, metavar="E", help=ENGINE_HELP)


def run(arguments: argparse.Namespace) -> int:
    from align_keras.search.bulk_embeddings import embed

    options = (
        "model",
        "inputs",
        "column",
        "format",
        "rows_per_file",
        "runtime",
        "engine",
    )
    given = {name: getattr(arguments, name) for name in options}
    done = embed(arguments.source, arguments.to, **given)
    files = f"{len(done.files):,} file{'s' * (len(done.files) != 1)}"
    print(f"{done.rows:,} rows in {files}: {arguments.to}")
    for problem, count in sorted(done.problems.items()):
        print(f"{count:,} without an embedding: {problem}")
    return 0
