"""Advice to search photos with a larger model."""

import dataclasses
import os
import shlex
from collections.abc import Sequence

from align_keras.embedders.locations import DEFAULT_MODEL
from align_keras.search.index.image_store import ImageStore
from align_keras.search.index.opening import default_index, is_database
from align_keras.search.query.hits import Hit

PHOTO_MODEL = "hf://immich-app/ViT-B-16-SigLIP2__webli"
# Largest match of a first hit that is weak. For the words of the photographs of
# GCompris, 45 of 54 wrong first hits and 8 of 32 right ones are below it.
_WEAK_MATCH = 0.2
_PHOTO_SUFFIXES = (".jpg", ".jpeg", ".heic", ".heif")


@dataclasses.dataclass(frozen=True)
class Advice:
    """Reason to use another model, and the command that does it.

    Attributes:
        reason: text that a colon and the command may follow.
        command: shell command.
    """

    reason: str
    command: str


def photo_advice(store: ImageStore, hits: Sequence[Hit]) -> Advice | None:
    """Returns the command of a larger model if the best hit is a weakly matching photo.

    The model of the package learned from drawings. There is no advice for an index that
    `align-keras index --rebuild` can't write again, such as a database.

    Args:
        store: store of the index.
        hits: hits of a search, the best one first.
    """
    if store.header["model"]["name"] != DEFAULT_MODEL:
        return None
    if store.has_items or is_database(store.folder):
        return None
    if not hits or not _is_weak_photo(hits[0]):
        return None
    command = "align-keras index --rebuild"
    if os.path.abspath(store.folder) != os.path.abspath(default_index()):
        command += f" --index {shlex.quote(str(store.folder))}"
    return Advice(
        f"Weak match: {DEFAULT_MODEL} learned from drawings. Get a model that learned "
        "from photos (1.5 GB, Apache-2.0)",
        f"{command} --model {PHOTO_MODEL}",
    )


def _is_weak_photo(hit: Hit) -> bool:
    if hit.relevance is None or hit.relevance >= _WEAK_MATCH:
        return False
    is_photo_file = hit.path.lower().endswith(_PHOTO_SUFFIXES)
    return is_photo_file or bool(hit.columns.get("camera"))
