"""`align-keras evaluate`: a protocol of the paper, or all of them, on a model."""

import difflib
import functools

from align_keras.cli.evaluate_arguments import (
    LEARNING,
    ONLY_FOR,
    PROTOCOLS,
    TRAINED,
    WITH_METADATA,
    WITH_USUAL_DATA,
    add_arguments,
)
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

__all__ = [
    "LEARNING",
    "PROTOCOLS",
    "TRAINED",
    "WITH_METADATA",
    "WITH_USUAL_DATA",
    "add_arguments",
    "check_arguments",
    "run",
]

_OF_ONE_PROTOCOL = (
    "data",
    "split",
    "train_split",
    "slice_by",
    "metadata",
    "html",
    "templates",
    "text_weight",
    "classes",
    "image_column",
    "caption_column",
    "encoding",
    "config_file",
    "params_override",
)


def run(arguments):
    """Runs the command; returns its exit code."""
    check_arguments(arguments)
    from align_keras.cli.writable import (
        check_cache_folder,
        check_page_path,
        check_results_folder,
    )

    # What is written at the end must not fail after hours.
    if arguments.html:
        check_page_path(arguments.html)
    if arguments.protocol in TRAINED or arguments.results is not None:
        check_results_folder(arguments.results)
    directory = check_cache_folder(arguments.cache)
    from align_keras.protocols.cached_encoders import CachedEncoders
    from align_keras.protocols.open_model import check_model, open_model

    encoders = CachedEncoders(
        functools.partial(open_model, arguments.model, arguments.engine), directory
    )
    if arguments.suite:
        from align_keras.cli.suite import print_suite, run_suite

        # The model is looked for where there is something to measure.
        check = functools.partial(check_model, arguments.model, arguments.engine)
        rows = run_suite(encoders, arguments, check)
        return print_suite(rows, as_json=arguments.json)
    check_model(arguments.model, arguments.engine)
    from align_keras.cli.evaluation_request import data_request, protocol_options
    from align_keras.cli.evaluation_results import print_results, sliced, write_page
    from align_keras.protocols.paper_protocols import PROTOCOLS as FUNCTIONS

    function, usual_data = FUNCTIONS[arguments.protocol]
    request = data_request(arguments, arguments.data or usual_data)
    found = function(encoders, request, protocol_options(arguments))
    slices = sliced(found, arguments.slice_by) if arguments.slice_by else {}
    print_results(arguments, request, found.metrics, slices)
    if arguments.html:
        write_page(arguments, request, found, slices)
        say(f"wrote {arguments.html}")
    return 0


def check_arguments(arguments):
    """Raises for what can be told without the model and the data."""
    for name, value in vars(arguments).items():
        if value == "":
            raise InputError(f"--{name} must not be empty, received ''; leave it out.")
    _check_engine(arguments.engine)
    if arguments.workers is not None and arguments.workers < 1:
        raise InputError(
            f"--workers must be at least 1, received {arguments.workers}; leave it out."
        )
    if arguments.text_weight is not None and not 0 <= arguments.text_weight < 1e6:
        raise InputError(
            "--text_weight must be a number from 0 to a million, received "
            f"{arguments.text_weight}; leave it out for 2."
        )
    if arguments.suite:
        for name in _OF_ONE_PROTOCOL:
            if getattr(arguments, name) is not None:
                raise InputError(
                    f"--{name} is for one --protocol, received "
                    f"{getattr(arguments, name)!r} with --suite; leave it out."
                )
        return
    if arguments.protocol not in PROTOCOLS:
        near = difflib.get_close_matches(arguments.protocol, PROTOCOLS, n=1)
        raise InputError(
            f"--protocol must be one of {', '.join(PROTOCOLS)}, received "
            f"{arguments.protocol!r}; "
            + (f"did you mean {near[0]}?" if near else "choose one.")
        )
    for protocols, names in ONLY_FOR:
        for name in names if arguments.protocol not in protocols else ():
            if getattr(arguments, name) is not None:
                raise InputError(
                    f"--{name} is for {', '.join(protocols)}, received "
                    f"{getattr(arguments, name)!r} with {arguments.protocol}; leave it "
                    "out."
                )
    if arguments.metadata is not None and arguments.slice_by is None:
        raise InputError(
            "--metadata is for --slice_by, received "
            f"{arguments.metadata!r} without it; name one of its columns."
        )
    if arguments.data is None and arguments.protocol not in WITH_USUAL_DATA:
        raise InputError(
            f"--data must name what {arguments.protocol} is measured on, received "
            "nothing; see --help for the names."
        )


def _check_engine(engine):
    from align_keras.models.image_engines import checked_engine

    try:
        checked_engine(engine)
    except InputError as error:
        raise InputError(f"--{error}") from None
