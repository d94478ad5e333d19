"""Download of models from the Hugging Face Hub."""

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
# Files that `ALIGN.from_preset` reads. They belong to folders of transformers, to
# folders of `save_to_preset`, and to folders with weights in LiteRT files, such as
# align_small_en.
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
    """Returns the folder of `hf://user/model`. Downloads its files on first use."""
    import huggingface_hub

    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(
                name.removeprefix(HUB_PREFIX), allow_patterns=HUB_FILES
            )
        )
    # huggingface_hub, its check of the name and its HTTP library raise many classes.
    except Exception as error:
        # The first error of the chain contains the reason, such as an unknown host.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split())[:200]
        raise InputError(
            f"{name} can't be downloaded ({type(cause).__name__}: {reason}). Check the "
            "name and the connection, or pass the path of a folder with its files."
        ) from None
