"""Embeddings of training pairs by a teacher, from which a student learns."""

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from align_keras.config import TaskConfig
from align_keras.data.stored_pairs import read_captions, stored_images
from align_keras.embedders import Embedder, load_model
from align_keras.images import uint8_pixels
from align_keras.images.image_hash import image_hash
from align_keras.models.pair_sources import PairSource, source_of_pairs
from align_keras.models.preset_table import with_preset
from align_keras.models.teacher_embeddings import TeacherEmbeddings
from align_keras.protocols.embedding_cache import CachedEncoders, default_cache
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

if TYPE_CHECKING:
    from align_keras.models import ALIGN


def teacher_embeddings(
    teacher: "str | os.PathLike | ALIGN | Embedder",
    images: Any,
    captions: Any = None,
    *,
    cache_dir: str | os.PathLike | None = None,
) -> TeacherEmbeddings:
    """Embeds images and captions by a teacher, for `DistillationLoss`.

    The embeddings are cached by the content of the images and captions and by the
    fingerprint of the teacher. A later call for the same items reads them from the
    cache, and an interrupted call continues at the last chunk. The teacher sees each
    image as its own preprocessing reads it, without augmentation.

    Args:
        teacher: any model that `load_model` opens.
        images: argument of `align_keras.models.image_text_batches`.
        captions: argument of `align_keras.models.image_text_batches`.
        cache_dir: folder of the embeddings. Defaults to the cache of
            `align-keras evaluate`, ~/.cache/align_keras/embeddings.

    Returns:
        `TeacherEmbeddings`, the argument `teacher` of `image_text_batches`.

    Raises:
        InputError: if the teacher doesn't exist, or can't decode an image.

    References:
        Hinton et al. 2015, "Distilling the Knowledge in a Neural Network".

    Example:

    ```python
    images = ["photos/china.jpg", "photos/flower.jpg"]
    captions = ["a temple in China", "a red flower"]
    teacher = align_keras.teacher_embeddings("align_small_en", images, captions)
    student = align_keras.ALIGN.from_preset(
        "align_nano",
        vocabulary=align_keras.learn_vocabulary(captions, 100),
        projection_dim=teacher.dimension,
    )
    student.compile(loss=align_keras.losses.DistillationLoss())
    batches = align_keras.models.image_text_batches(
        images,
        captions,
        student.preprocessor,
        training=True,
        batch_size=2,
        teacher=teacher,
    )
    history = student.fit(batches, verbose=0)
    sorted(history.history)[:3]  # ['gradient_norm', 'image_gradient_norm', 'loss']
    ```
    """
    source = source_of_pairs(images, captions)
    hashes: list[int] = []
    texts: dict[str, None] = {}
    for element in source.rows:
        image, image_captions = source.read_pair(element)
        hashes.append(int(image_hash(image)))
        texts.update(dict.fromkeys(_decoded(image_captions)))
    return _embed(
        load_model(teacher),
        _images_of(source),
        np.array(hashes, np.int64),
        list(texts),
        cache_dir,
    )


def open_teacher(task: TaskConfig) -> Embedder | None:
    """Opens the teacher of an experiment.

    Args:
        task: `TaskConfig`.

    Returns:
        `Embedder`, or None if the experiment has no teacher.

    Raises:
        InputError: if the teacher doesn't exist, or its embeddings have another width
            than those of the student although they are compared.
    """
    distillation = task.distillation
    if distillation.teacher is None:
        return None
    try:
        teacher = load_model(distillation.teacher)
    except InputError as error:
        raise InputError(f"task.distillation.teacher: {error}") from None
    width = with_preset(task.model).projection_dim
    if distillation.embedding_weight and width != teacher.dimension:
        raise InputError(
            "task.model.projection_dim must equal the width of the teacher's "
            f"embeddings, {teacher.dimension}, if task.distillation.embedding_weight "
            f"is above 0. Received: projection_dim={width}. Change projection_dim, or "
            "set task.distillation.embedding_weight=0."
        )
    return teacher


def embed_training_pairs(
    teacher: Embedder,
    builder: Any,
    split: str,
    cache_dir: str | os.PathLike | None = None,
) -> TeacherEmbeddings:
    """Embeds all images and captions of a split by a teacher.

    Args:
        teacher: `Embedder`.
        builder: prepared TFDS builder or `Mixture` of the training pairs.
        split: str, such as `"train"`.
        cache_dir: as in `teacher_embeddings`.
    """
    say(f"embedding the training pairs by {teacher.name}")
    images = stored_images(builder, split)
    hashes = images.map(image_hash, tf.data.AUTOTUNE).batch(1024)
    no_hashes = np.zeros(0, np.int64)
    return _embed(
        teacher,
        images.as_numpy_iterator(),
        np.concatenate([no_hashes, *hashes.as_numpy_iterator()]),
        list(dict.fromkeys(read_captions(builder, split))),
        cache_dir,
    )


def _embed(
    teacher: Embedder,
    images: Iterable,
    image_hashes: np.ndarray,
    captions: Sequence[str],
    cache_dir: str | os.PathLike | None,
) -> TeacherEmbeddings:
    """Returns the embeddings of the images and captions, from the cache if possible."""
    encoders = CachedEncoders(lambda: teacher, cache_dir or default_cache())
    return TeacherEmbeddings(
        image_hashes,
        encoders.images(images, len(image_hashes)),
        captions,
        encoders.texts(captions),
    )


def _images_of(source: PairSource) -> Iterable[bytes | np.ndarray]:
    """Yields the images of pairs, encoded or as uint8 pixels."""
    for element in source.rows:
        image = source.read_pair(element)[0].numpy()
        yield image if isinstance(image, bytes) else uint8_pixels(image).numpy()


def _decoded(captions: tf.Tensor) -> list[str]:
    """Returns one or several captions as a list of str."""
    values = np.atleast_1d(captions.numpy()).tolist()
    return [value.decode("utf-8", "surrogatepass") for value in values]
