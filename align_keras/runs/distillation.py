"""Embeddings of training pairs by teachers, from which a student learns."""

import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import tensorflow as tf

from align_keras.config.experiment_config import TaskConfig
from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.pair_files import folder_images, read_pairs
from align_keras.data.raw_pairs import PairSource, source_of_pairs
from align_keras.data.stored_pairs import read_captions, stored_images
from align_keras.data.teacher_embeddings import TeacherEmbeddings
from align_keras.embedders import Embedder, load_model
from align_keras.images import uint8_pixels
from align_keras.images.image_hash import image_hash
from align_keras.protocols.cached_encoders import CachedEncoders, default_cache
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write
from align_keras.utils.progress import say

if TYPE_CHECKING:
    from align_keras.models import ALIGN

    Teacher: TypeAlias = str | os.PathLike | ALIGN | Embedder


def teacher_embeddings(
    teacher: "Teacher | Sequence[Teacher]",
    images: Any,
    captions: Any = None,
    *,
    weights: Sequence[float] | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> TeacherEmbeddings:
    """Embeds images and captions by one or several teachers, for `DistillationLoss`.

    The embeddings are cached by the content of the images and captions and by the
    fingerprint of the teacher. A later call for the same items reads them from the
    cache, and an interrupted call continues at the last chunk. The teacher sees each
    image as its own preprocessing reads it, without augmentation.

    Args:
        teacher: any model that `load_model` opens, or a list of such models. The cosine
            of an image and a caption is then the weighted mean of the cosines of all
            models. Such embeddings need `DistillationLoss(embedding_weight=0)`, because
            those of different models aren't in the same space.
        images: argument of `align_keras.models.image_text_batches`.
        captions: argument of `align_keras.models.image_text_batches`.
        weights: list with a float > 0 for each model of a list, relative to the weights
            of the others. None weights all models equally.
        cache_dir: folder of the embeddings. Defaults to the cache of
            `align-keras evaluate`, ~/.cache/align_keras/embeddings.

    Returns:
        `TeacherEmbeddings`, the argument `teacher` of `image_text_batches`.

    Raises:
        InputError: if a teacher doesn't exist or can't decode an image, or if the
            number of weights is another than the number of teachers.

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
    models: list = list(teacher) if isinstance(teacher, list | tuple) else [teacher]
    teachers = [load_model(model) for model in models]
    if weights is not None and len(weights) != len(teachers):
        raise InputError(
            f"weights must have one number for each of {len(teachers)} teachers. "
            f"Received: {len(weights)} numbers. Add or remove numbers."
        )
    source = source_of_pairs(images, captions)
    hashes: list[int] = []
    texts: dict[str, None] = {}
    for element in source.rows:
        image, image_captions = source.read_pair(element)
        hashes.append(int(image_hash(image)))
        texts.update(dict.fromkeys(_decoded(image_captions)))
    return _embed(
        teachers,
        weights,
        lambda: _images_of(source),
        np.array(hashes, np.int64),
        list(texts),
        cache_dir,
    )


def caption_images(
    pairs: str | os.PathLike,
    texts: Sequence[str],
    teacher: "Teacher",
    table: pathlib.Path,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    encoding: str | None = None,
) -> None:
    """Writes a table in which a teacher captions the images without captions.

    The captions are up to 5 texts that the teacher finds most similar. With a short
    list of texts there are fewer captions, since most texts are wrong for an image.

    Args:
        pairs: table or folder, as in `align_keras.corpus.pair_files.read_pairs`.
        texts: list of str.
        teacher: any model that `load_model` opens.
        table: path of the table, `.jsonl`.
        image_column: as in `read_pairs`.
        caption_column: as in `read_pairs`.
        encoding: as in `read_pairs`, or None for UTF-8.

    Raises:
        InputError: if the pairs can't be read or no image can be decoded.
    """
    records = read_pairs(
        pairs,
        image_column=image_column,
        caption_column=caption_column,
        encoding=encoding or "utf-8",
        caption_counter=DropCounter(),
        counter=DropCounter(),
    )
    captions = {str(record.image_path): record.captions for record in records}
    if os.path.isdir(pairs):
        for image in folder_images(pathlib.Path(pairs)):
            captions.setdefault(str(image), [])
    images = [
        path
        for path, words in captions.items()
        if not any(words) and os.path.isfile(path)
    ]
    if images:
        say(f"choosing captions for {len(images):,} images from {len(texts):,} texts")
        encoders = CachedEncoders(
            functools.partial(load_model, teacher), default_cache()
        )
        embeddings, rows = encoders.readable_images(images)
        best = _nearest(
            embeddings, encoders.texts(texts), max(1, min(5, len(texts) // 20))
        )
        for row, columns in zip(rows, best, strict=True):
            captions[images[row]] = [texts[column] for column in columns]
    with atomic_write(table) as file:
        for path, words in captions.items():
            if any(words):
                line = {"image": os.path.abspath(path), "caption": words}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _nearest(rows: np.ndarray, columns: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Yields the numbers of the nearest columns of each row."""
    for start in range(0, len(rows), 1024):
        scores = rows[start : start + 1024] @ columns.T
        yield from np.argsort(-scores, axis=1, kind="stable")[:, :count]


def open_teachers(task: TaskConfig, width: int) -> list[Embedder]:
    """Opens the teachers of an experiment.

    Args:
        task: `TaskConfig`.
        width: width of the embeddings of the student.

    Returns:
        list of `Embedder`. It is empty if the experiment has no teacher.

    Raises:
        InputError: if a teacher doesn't exist, or its embeddings have another width
            than those of the student although they are compared.
    """
    distillation = task.distillation
    teachers = [load_model(item.model) for item in distillation.teacher or ()]
    if not teachers or not distillation.embedding_weight:
        return teachers
    (teacher,) = teachers
    if width != teacher.dimension:
        raise InputError(
            "The embeddings of the model must have the width of the teacher's, "
            f"{teacher.dimension}, if task.distillation.embedding_weight is above 0. "
            f"Received: {width}. Change task.model.projection_dim, or set "
            "task.distillation.embedding_weight=0."
        )
    return teachers


def teacher_weights(task: TaskConfig) -> list[float]:
    """Returns the configured weight of each teacher."""
    return [item.weight for item in task.distillation.teacher or ()]


def teachers_fingerprint(teachers: Sequence[Embedder]) -> str:
    """Returns the fingerprints of all teachers, separated by spaces."""
    return " ".join(teacher.fingerprint for teacher in teachers)


def largest_image_size(teachers: Sequence[Embedder]) -> int:
    """Returns the largest side of the teachers' inputs in pixels, or 0."""
    return max((teacher.image_size for teacher in teachers), default=0)


def embed_training_pairs(
    teachers: Sequence[Embedder],
    builder: Any,
    split: str,
    weights: Sequence[float] | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> TeacherEmbeddings:
    """Embeds all images and captions of a split by one or several teachers.

    Args:
        teachers: list of `Embedder`.
        builder: prepared TFDS builder or `Mixture` of the training pairs.
        split: such as `"train"`.
        weights: as in `teacher_embeddings`.
        cache_dir: as in `teacher_embeddings`.
    """
    images = stored_images(builder, split)
    hashes = images.map(image_hash, tf.data.AUTOTUNE).batch(1024)
    no_hashes = np.zeros(0, np.int64)
    return _embed(
        teachers,
        weights,
        images.as_numpy_iterator,
        np.concatenate([no_hashes, *hashes.as_numpy_iterator()]),
        list(dict.fromkeys(read_captions(builder, split))),
        cache_dir,
    )


def _embed(
    teachers: Sequence[Embedder],
    weights: Sequence[float] | None,
    read_images: Callable[[], Iterable],
    image_hashes: np.ndarray,
    captions: Sequence[str],
    cache_dir: str | os.PathLike | None,
) -> TeacherEmbeddings:
    """Returns the embeddings of the images and captions, from the cache if possible.

    `read_images` returns an iterator over the images. It is called for each teacher.
    """
    cache = cache_dir or default_cache()
    image_embeddings = []
    caption_embeddings = []
    for teacher in teachers:
        say(f"embedding the training pairs by {teacher.name}")
        encoders = CachedEncoders(functools.partial(load_model, teacher), cache)
        image_embeddings.append(encoders.images(read_images(), len(image_hashes)))
        caption_embeddings.append(encoders.texts(captions))
    return TeacherEmbeddings(
        image_hashes, image_embeddings, captions, caption_embeddings, weights
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
