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
    VOCABULARY_FILE,
    WEIGHTS_FILE,
)
from align_keras.utils.errors import InputError

HUB_PREFIX = "hf://"
# What `ALIGN.from_preset` reads: a folder of transformers, one that `save_to_preset`
# wrote, or one like align_small_en, with its weights in the LiteRT towers.
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
    """Returns the folder of `hf://user/model`, whose files are fetched once."""
    import huggingface_hub

    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(
                name.removeprefix(HUB_PREFIX), allow_patterns=HUB_FILES
            )
        )
    # Its errors, a bad name's, and those of the HTTP library that it uses.
    except Exception as error:
        # The first of a chain says what happened, such as that no host was found.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split())[:200]
        raise InputError(
            f"{name} can't be fetched ({type(cause).__name__}: {reason}); check the "
            "name and the connection, or give the path of a folder with its files."
        ) from None
