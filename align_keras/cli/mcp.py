"""`align-keras mcp`: serves an index to agents over the Model Context Protocol."""

import argparse

from align_keras.cli.common import read_model_options
from align_keras.embedders.locations import RUNTIME_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "index",
        nargs="?",
        metavar="INDEX",
        help="folder or database of the index (default: the default index of "
        "`align-keras index`)",
    )
    parser.add_argument(
        "--model",
        metavar="M",
        help="new location of the model that built the index, if it was moved",
    )
    parser.add_argument("--runtime", metavar="R", help=RUNTIME_HELP)


def run(arguments: argparse.Namespace) -> int:
    from align_keras.search.mcp_server import make_mcp_server

    server = make_mcp_server(arguments.index, model=read_model_options(arguments))
    server.run("stdio")
    return 0
