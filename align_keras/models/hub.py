"""Models on Hugging Face's hub."""

import pathlib

from align_keras.models.conversion.hugging_face import HUGGING_FACE_FILES
from align_keras.models.conversion.litert_weights import (
    REST_FILE,
    TABLE_FILE,
    TOWER_FILES,
)
from align_keras.models.preset_files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
)
from align_keras.text.vocabulary import VOCABULARY_FILE
from align_keras.utils.errors import InputError

HUB_PREFIX = "hf://"
# Files that `ALIGN.from_preset` reads from a folder of transformers, of
# `save_to_preset`, or like align_small_en, with its weights in LiteRT files.
HUB_FILES = [
    *HUGGING_FACE_FILES,
    CONFIG_FILE,
    WEIGHTS_FILE,
    VOCABULARY_FILE,
    TABLE_FILE,
    REST_FILE,
    *TOWER_FILES,
]


def download(name: str) -> pathlib.Path:
    """Downloads the files of `hf://user/model` once, and returns their folder."""
    import huggingface_hub

    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(
                name.removeprefix(HUB_PREFIX), allow_patterns=HUB_FILES
            )
        )
    # Errors of huggingface_hub, of a bad name, and of the HTTP library.
    except Exception as error:
        # The first error of the chain has the reason, such as an unknown host.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split())[:200]
        raise InputError(
            f"{name} can't be fetched ({type(cause).__name__}: {reason}); check the "
            "name and the connection, or give the path of a folder with its files."
        ) from None
