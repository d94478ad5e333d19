"""`align-keras serve`: a page that searches an index, on this machine."""

import argparse

from align_keras.cli.common import model_to_open, number
from align_keras.embedders.locations import RUNTIME_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "index",
        nargs="?",
        metavar="INDEX",
        help="the index's folder or database (default: that of `align-keras index`)",
    )
    parser.add_argument(
        "--port",
        type=number("from 0 to 65535", int, 0, 65535),
        default=8765,
        help="port on 127.0.0.1, 0 for any that is free (default: %(default)s); from "
        "another machine: ssh -L 8765:127.0.0.1:8765 THIS_MACHINE",
    )
    parser.add_argument(
        "--model",
        metavar="M",
        help="the model that the index was made with, if it was moved",
    )
    parser.add_argument("--runtime", metavar="R", help=RUNTIME_HELP)
    parser.add_argument(
        "--open", action="store_true", help="open the page in this machine's browser"
    )


def run(arguments: argparse.Namespace) -> int:
    from align_keras.search.server import serve

    def on_ready(address: str) -> None:
        print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
        if arguments.open:
            import webbrowser

            webbrowser.open(address)

    serve(
        arguments.index,
        model=model_to_open(arguments),
        port=arguments.port,
        on_ready=on_ready,
    )
    return 0
