"""`align-keras mine`: finds the most similar wrong images and captions of each pair."""

import argparse

from align_keras.cli.common import AT_LEAST_ONE, name_addresses, number_type
from align_keras.embedders.locations import MODEL_HELP, RUNTIME_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Train with the file by --params_override "
        "task.train_data.hard_negatives=MINED.jsonl."
    )
    parser.add_argument(
        "pairs",
        metavar="PAIRS",
        help="table (.csv, .tsv, .jsonl) or folder of images and captions",
    )
    parser.add_argument(
        "--to",
        required=True,
        metavar="MINED.jsonl",
        help="file to write, with a line for each caption of each image",
    )
    parser.add_argument(
        "--model",
        default="align_small_en",
        metavar="M",
        help=f"{MODEL_HELP} (default: %(default)s)",
    )
    parser.add_argument("--runtime", default="auto", metavar="R", help=RUNTIME_HELP)
    parser.add_argument(
        "-k",
        type=AT_LEAST_ONE,
        default=8,
        metavar="K",
        help="number of images and of captions for each pair (default: %(default)s)",
    )
    parser.add_argument(
        "--image-column",
        metavar="C",
        help="column of images in a table (default: the column with a usual name)",
    )
    parser.add_argument(
        "--caption-column",
        metavar="C",
        help="column of captions in a table (default: the column with a usual name)",
    )
    parser.add_argument(
        "--encoding",
        default="utf-8",
        metavar="E",
        help="text encoding of the table or the captions (default: %(default)s)",
    )
    parser.add_argument(
        "--max-bad-fraction",
        type=number_type("a number from 0 to 1", float, 0, 1),
        default=0.1,
        metavar="F",
        help="largest fraction of unusable pairs (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    from align_keras.corpus.mined_pairs import write_mined_pairs
    from align_keras.embedders import load_model
    from align_keras.search.mining import mine_negatives

    names = ("k", "image_column", "caption_column", "encoding", "max_bad_fraction")
    options = {name: getattr(arguments, name) for name in names}
    model = load_model(arguments.model, arguments.runtime)
    mined = mine_negatives(arguments.pairs, model, **options)
    write_mined_pairs(arguments.to, mined)
    images = len({pair.id for pair in mined})
    path = name_addresses(arguments.to, arguments)
    print(f"negatives of {len(mined):,} captions of {images:,} images: {path}")
    return 0
