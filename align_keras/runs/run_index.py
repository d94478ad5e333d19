"""Search index of a run."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from align_keras.embedders import load_model
from align_keras.embedders.locations import find_saved_model, locate_model
from align_keras.embedders.saved_model_embedder import saved_model_digest
from align_keras.runs.run_folder import check_searchable, searched_model
from align_keras.search import Index, ModelIdentity


def write_run_index(
    model_dir: str | os.PathLike,
    image_embeddings: np.ndarray,
    ids: Sequence[str],
    captions: Sequence[Sequence[str]],
    images: Sequence[bytes] | None,
) -> Index:
    """Writes the index of the validation images of a run, and returns it.

    Args:
        model_dir: folder of the run. Its export or its weights embed the queries.
        image_embeddings: float array (n, d), embeddings of the images by the run's
            model.
        ids: sequence of n different str.
        captions: captions of each image.
        images: contents of PNG, JPEG, GIF, BMP or WebP files, or None.
    """
    directory = pathlib.Path(model_dir)
    model = searched_model(directory)
    return Index.from_embeddings(
        image_embeddings,
        ids,
        captions,
        images=images,
        folder=directory / "index",
        model=ModelIdentity(
            name=os.path.abspath(model),
            fingerprint=_fingerprint(model),
            dimension=image_embeddings.shape[1],
        ),
    )


def open_run_index(model_dir: str | os.PathLike) -> Index:
    """Opens the index of a finished run.

    Raises:
        InputError: if the folder has no index, or its model is not that of the index.
    """
    check_searchable(model_dir)
    directory = pathlib.Path(model_dir)
    return Index.open(directory / "index", searched_model(directory))


def _fingerprint(model: pathlib.Path) -> str:
    """Returns the fingerprint of the embedder that opens a folder."""
    if "saved_model" in locate_model(model).runtimes:
        # The SavedModel itself doesn't have to be loaded.
        return saved_model_digest(find_saved_model(model))
    return load_model(model).fingerprint
