"""`align-keras mcp`: serves an index to agents over the Model Context Protocol."""

import argparse

from align_keras.cli.common import add_index, add_moved_model, read_model_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_index(parser)
    add_moved_model(parser)


def run(arguments: argparse.Namespace) -> int:
    from align_keras.search.serve.mcp_server import make_mcp_server

    server = make_mcp_server(arguments.index, model=read_model_options(arguments))
    server.run("stdio")
    return 0
