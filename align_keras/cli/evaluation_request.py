"""The command line of `align-keras evaluate`, as its parts take it."""

import pathlib

from align_keras.protocols.evaluation_data import DataRequest
from align_keras.protocols.protocol_types import Options


def data_request(arguments, data):
    """The command line's words about the data, as a `DataRequest`."""
    return DataRequest(
        name=data,
        root=pathlib.Path(arguments.data_root),
        split=arguments.split,
        train_split=arguments.train_split,
        classes=arguments.classes,
        allow_missing=bool(arguments.allow_missing),
        image_column=arguments.image_column,
        caption_column=arguments.caption_column,
        encoding=arguments.encoding,
        metadata=arguments.metadata,
    )


def protocol_options(arguments):
    """The command line's words about the protocol, as `Options`."""
    return Options(
        templates=(
            Options.templates if arguments.templates is None else arguments.templates
        ),
        text_weight=(
            Options.text_weight
            if arguments.text_weight is None
            else arguments.text_weight
        ),
        slice_by=arguments.slice_by,
        model=arguments.model,
        workers=Options.workers if arguments.workers is None else arguments.workers,
        results=arguments.results,
        config_files=arguments.config_file or (),
        params_override=arguments.params_override or (),
    )
