"""`align-keras serve`: serves a web page on this machine that searches an index."""

import argparse

from align_keras.cli.common import number_type, read_model_options
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
        "--port",
        type=number_type("from 0 to 65535", int, 0, 65535),
        default=8765,
        help="port, or 0 for any free port (default: %(default)s). To use "
        "the page from another machine, run ssh -L 8765:127.0.0.1:8765 THIS_MACHINE.",
    )
    parser.add_argument(
        "--host",
        # `HOSTS` of align_keras/search/local_server.py.
        choices=("127.0.0.1", "0.0.0.0"),
        default="127.0.0.1",
        help="127.0.0.1 accepts connections from this machine only (default). 0.0.0.0 "
        "accepts all connections, for a container that publishes the port",
    )
    parser.add_argument(
        "--model",
        metavar="M",
        help="new location of the model that built the index, if it was moved",
    )
    parser.add_argument("--runtime", metavar="R", help=RUNTIME_HELP)
    parser.add_argument(
        "--open", action="store_true", help="open the page in the browser"
    )


def run(arguments: argparse.Namespace) -> int:
    from align_keras.search.server import serve

    def on_ready(address: str) -> None:
        print(f"Open {address} in a browser. Press Ctrl+C to stop.", flush=True)
        if arguments.open:
            import webbrowser

            webbrowser.open(address)

    serve(
        arguments.index,
        model=read_model_options(arguments),
        port=arguments.port,
        host=arguments.host,
        on_ready=on_ready,
    )
    return 0
