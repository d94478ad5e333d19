"""`align-keras embed`: embeds many images or captions to files."""

import argparse

from align_keras.utils.tasks import ENGINE_HELP, LOCAL


def _count(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to an `argparse` parser."""
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
        help="a folder of LiteRT towers, a run's folder, an export or hf://user/model "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--of",
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
        type=_count,
        default=4096,
        metavar="N",
        help="rows of a shard, of which an interruption loses one (default: "
        "%(default)s)",
    )
    parser.add_argument("--engine", default=LOCAL, metavar="E", help=ENGINE_HELP)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from align_keras.search.bulk_embeddings import embed

    done = embed(
        arguments.source,
        arguments.to,
        model=arguments.model,
        of=arguments.of,
        column=arguments.column,
        format=arguments.format,
        rows_per_file=arguments.rows_per_file,
        engine=arguments.engine,
    )
    files = f"{len(done.files):,} file{'s' * (len(done.files) != 1)}"
    print(f"{done.rows:,} rows in {files}: {arguments.to}")
    for problem, count in sorted(done.problems.items()):
        print(f"{count:,} without an embedding: {problem}")
    return 0
