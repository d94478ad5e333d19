"""`align-keras serve`: serves a web page on this machine that searches an index."""

import argparse
import os

from align_keras.cli.common import (
    add_index,
    add_moved_model,
    number_type,
    read_model_options,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_index(parser)
    parser.add_argument(
        "--port",
        type=number_type("from 0 to 65535", int, 0, 65535),
        default=8765,
        help="port, or 0 for any free port (default: %(default)s). To use "
        "the page from another machine, run ssh -L 8765:127.0.0.1:8765 THIS_MACHINE.",
    )
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="address of this machine that accepts connections (default: %(default)s, "
        "from this machine only). 0.0.0.0 accepts all connections. Any other address "
        "than a loopback address needs a token",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="file with a token that requests must have, as `Authorization: Bearer "
        "TOKEN` or as the password in a browser (default: the token in "
        "$ALIGN_KERAS_TOKEN)",
    )
    parser.add_argument(
        "--access-log",
        action="store_true",
        help="print a line for each request, without the query",
    )
    add_moved_model(parser)
    parser.add_argument(
        "--open", action="store_true", help="open the page in the browser"
    )


def run(arguments: argparse.Namespace) -> int:
    # Searches run in parallel, one per core. Matrix products with several threads would
    # wait for each other. NumPy reads the variable when it is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from align_keras.search.serve.local_server import read_token
    from align_keras.search.serve.server import serve

    token = read_token(arguments.token_file)

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
        token=token,
        access_log=_print_line if arguments.access_log else None,
        on_ready=on_ready,
    )
    return 0


def _print_line(line: str) -> None:
    print(line, flush=True)
