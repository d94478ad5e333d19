"""Training batches of an experiment."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from align_keras.data.caption_sources import (
    caption_probabilities,
    check_caption_sources,
)
from align_keras.data.hard_negatives import HardNegatives, followed_by_negatives
from align_keras.data.order import ordered_pairs
from align_keras.data.shards import check_data_service
from align_keras.data.stored_pairs import check_batch_size
from align_keras.images.image_hash import image_hash
from align_keras.utils.errors import InputError

if TYPE_CHECKING:
    from align_keras.models.align_preprocessor import ALIGNPreprocessor
    from align_keras.models.teacher_embeddings import TeacherEmbeddings


def training_batches(
    builder: Any,
    split: str,
    preprocessor: "ALIGNPreprocessor",
    *,
    batch_size: int,
    seed: int = 0,
    start_step: int = 0,
    shuffle_buffer_size: int = 20_000,
    cache: bool = False,
    input_pipeline_id: int = 0,
    num_input_pipelines: int = 1,
    data_service: str | None = None,
    pair_weighted: bool = False,
    with_image_ids: bool = False,
    caption_sources: Mapping[str, float] | None = None,
    hard_negatives: Mapping[str, Sequence[str]] | None = None,
    teacher: "TeacherEmbeddings | None" = None,
) -> tf.data.Dataset:
    """Returns endless batches of augmented images with one caption each.

    An epoch contains each image once, with a random caption. With `pair_weighted`, an
    epoch contains each image once for each of its captions, like the pairs of the
    paper.

    The batches depend only on the arguments. Batch k of a pipeline that starts at step
    k equals batch k of a pipeline that starts at step 0, bit for bit. To resume, the
    pipeline skips at most one window of files (see `shuffled_records`). With `cache`,
    it decodes all images once, as it does at step 0.

    Several input pipelines, one for each host, produce the rows of a global batch. If
    there are at least as many files (shards) as pipelines, each pipeline reads a
    separate part of the files, and its epochs consist of this part. With fewer files,
    or with `cache`, each pipeline reads all records but decodes only its rows (with
    `cache`, all rows). The rows of all pipelines then equal the batch of a single
    pipeline.

    Args:
        builder: prepared TFDS builder, or a `Mixture` of them, whose examples
            have `image` and `captions`.
        split: str, such as `"train"` or `"train[:10%]"`.
        preprocessor: `ALIGNPreprocessor` with a tokenizer. Its image converter
            determines crop, flip, zoom, shift and recolor.
        batch_size: int ≥ 1, pairs of a batch over all replicas.
        seed: int, seed of shuffling, caption choice and augmentation.
        start_step: int ≥ 0, number of batches to skip.
        shuffle_buffer_size: int ≥ 1, size of the shuffle buffer in pairs. The buffer
            contains encoded images, or decoded images with `cache`.
        cache: bool, cache all decoded, resized images in memory.
        input_pipeline_id: int ≥ 0, part of each batch to return. This argument and
            the next one are those of `tf.distribute.InputContext`.
        num_input_pipelines: int ≥ 1, a divisor of `batch_size`.
        data_service: str or None, address of the dispatcher of a tf.data service, such
            as `"grpc://host:5000"`. Its workers read, decode and augment, so the order
            of the batches isn't deterministic.
        pair_weighted: bool, see above. Without `cache`, the captions of each image are
            counted once before training.
        with_image_ids: bool, add `image_ids`, which are equal for equal stored images.
            A loss with `share_equal_images` needs them.
        caption_sources: dict from the source of captions to its probability, such as
            `{"alt": 0.7, "synthetic": 0.3}`. The probabilities are divided by the sum
            over the sources that an image has, and the captions of a source share its
            probability equally. None draws all captions with equal probability.
        hard_negatives: dict from the id of an image to the ids of its mined negatives
            (`align_keras.corpus.mined_pairs.negatives_by_image`), or None. Half of the
            rows of a batch are drawn as usual. Each is followed by one of its mined
            negatives, which is drawn at random, or by a random pair if it has none.
            The encoded images are held in memory. An image may occur twice in a batch,
            so use a loss with `share_equal_images`.
        teacher: `TeacherEmbeddings` of the images and captions of the split, or None.
            They are added to each batch for `DistillationLoss`.

    Returns:
        `tf.data.Dataset` of dicts: `images` (rows, image_size, image_size, 3) in
        [0, 255], float32, or uint8 if images are only cropped and mirrored
        (no `cache`, `zoom`, `shift` or `recolor`), `token_ids` and
        `padding_mask` int32 (rows, sequence_length), and if requested `image_ids`
        int64 (rows,), `teacher_image_embeddings` and `teacher_text_embeddings` float32
        (rows, t), and with `hard_negatives` `negative_groups` int64 (rows,), which are
        equal for a pair and its mined negative.

    Raises:
        InputError: if a batch is larger than the split or cannot be divided among
            the input pipelines, if `cache` or ArrayRecord is combined with
            `data_service`, if the corpus is stored neither as TFRecord nor as
            ArrayRecord, or if its captions have no sources.

    References:
        Jia et al. 2021, section 5 (resize, random crop, horizontal flip).

    Example:

    ```python
    builder = align_keras.datasets.open_corpus("pairs", pairs="pairs.csv")
    model = align_keras.ALIGN.from_preset("align_small_en")
    batches = training_batches(builder, "train", model.preprocessor, batch_size=4)
    batch = next(iter(batches))
    batch["images"].shape  # TensorShape([4, 160, 160, 3])
    ```
    """
    preprocessor.require_tokenizer()
    check_batch_size(batch_size, builder, split)
    check_caption_sources(builder, caption_sources, pair_weighted)
    if data_service is not None:
        check_data_service(builder, data_service)
        if cache:
            raise InputError(
                "cache must be false with a data_service, whose workers can't cache "
                f"images. Received: data_service={data_service!r}. Leave one of them "
                "out."
            )
        if hard_negatives is not None:
            raise InputError(
                "hard_negatives must be None with a data_service, because this process "
                f"holds the negatives. Received: data_service={data_service!r}. Leave "
                "one of them out."
            )
    converter = preprocessor.image_converter
    augments_batches = cache or converter.augments_batches
    needs_hashes = with_image_ids or teacher is not None
    seed_tensor = tf.cast(seed, tf.int64)

    def read_image(example: dict) -> tuple[tf.Tensor, dict, tuple]:
        image = example["image"]
        inputs = {"image_ids": image_hash(image)} if needs_hashes else {}
        if augments_batches:
            image = converter.resize(image)
        if caption_sources is None:
            return image, inputs, ()
        probabilities = caption_probabilities(
            example["caption_sources"], caption_sources
        )
        return image, inputs, (probabilities,)

    def read_row(example: dict) -> tuple[tf.Tensor, tuple]:
        return example["id"], read_image(example)

    def prepare_row(
        number: tf.Tensor, pair: tuple, *negative_group: tf.Tensor
    ) -> tuple:
        (_, (image, inputs, probabilities)), captions = pair
        if negative_group:
            inputs = {**inputs, "negative_groups": negative_group[0]}
        caption = preprocessor.choose_caption(
            captions, tf.stack([seed_tensor, number]), *probabilities
        )
        if not augments_batches:
            # The caption uses the seed `number`, so the image uses its complement.
            image = converter.augment(image, tf.stack([seed_tensor, ~number]))
        return image, caption, inputs

    def augment_batch(step: tf.Tensor, batch: tuple) -> tuple:
        images, captions, inputs = batch
        images = converter.augment_batch(
            images,
            tf.stack([seed_tensor, step]),
            input_pipeline_id=input_pipeline_id,
            num_input_pipelines=num_input_pipelines,
        )
        return images, captions, inputs

    def tokenize(
        images: tf.Tensor, captions: tf.Tensor, inputs: dict[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        if teacher is not None:
            inputs = teacher.add_to(inputs, captions, with_image_ids)
        return {"images": images, **preprocessor.tokenize(captions), **inputs}

    pairs = _ordered_rows(
        builder,
        split,
        read_row,
        hard_negatives,
        batch_size=batch_size,
        start_step=start_step,
        seed=seed,
        shuffle_buffer_size=shuffle_buffer_size,
        cache=cache,
        input_pipeline_id=input_pipeline_id,
        num_input_pipelines=num_input_pipelines,
        pair_weighted=pair_weighted,
    )
    rows = pairs.map(prepare_row, tf.data.AUTOTUNE)
    batches = rows.batch(batch_size // num_input_pipelines, drop_remainder=True)
    if augments_batches:
        batches = batches.enumerate(start_step).map(augment_batch, tf.data.AUTOTUNE)
    if data_service is not None:
        service = tf.data.experimental.service
        batches = batches.apply(
            service.distribute(service.ShardingPolicy.DYNAMIC, data_service)
        )
    # With a warm start, the buffers fill while `fit` traces its step.
    options = tf.data.Options()
    options.experimental_warm_start = True
    return batches.map(tokenize, tf.data.AUTOTUNE).prefetch(2).with_options(options)


def batch_ids(
    builder: Any,
    split: str,
    *,
    batch_size: int,
    step: int,
    hard_negatives: Mapping[str, Sequence[str]] | None = None,
    **order: Any,
) -> list[str]:
    """Returns the ids of the pairs in one batch of `training_batches`, in order.

    The diagnosis of a step uses the ids. The ids are wrong for a `data_service`, since
    its order isn't deterministic.

    Args:
        builder: as in `training_batches`.
        split: as in `training_batches`.
        batch_size: as in `training_batches`.
        step: int ≥ 0, number of the batch.
        hard_negatives: as in `training_batches`.
        **order: other arguments of `training_batches` that determine the order.

    Returns:
        list of str, ids of the images.

    Example:

    ```python
    builder = align_keras.datasets.open_corpus("pairs", pairs="pairs.csv")
    ids = batch_ids(builder, "train", batch_size=4, step=0, seed=0)
    len(ids)  # 4
    ```
    """
    check_batch_size(batch_size, builder, split)
    order |= {"batch_size": batch_size, "start_step": step}
    pairs = _ordered_rows(
        builder,
        split,
        lambda example: (example["id"], ()),
        hard_negatives,
        **order,
    )
    rows = pairs.take(batch_size // order.get("num_input_pipelines", 1))
    return [row[1][0][0].decode() for row in rows.as_numpy_iterator()]


def _ordered_rows(
    builder: Any,
    split: str,
    read: Callable,
    hard_negatives: Mapping[str, Sequence[str]] | None,
    *,
    batch_size: int,
    **order: Any,
) -> tf.data.Dataset:
    """Returns the rows of all batches, with their mined negatives if there are any.

    Args:
        builder: as in `training_batches`.
        split: as in `training_batches`.
        read: function of an example that returns its id and another value.
        hard_negatives: as in `training_batches`.
        batch_size: as in `training_batches`.
        **order: other arguments of `ordered_pairs`.

    Returns:
        `tf.data.Dataset` of `ordered_pairs` or of `followed_by_negatives`.
    """
    if hard_negatives is None:
        return ordered_pairs(builder, split, read, batch_size=batch_size, **order)
    rows = batch_size // order.get("num_input_pipelines", 1)
    if rows % 2:
        raise InputError(
            "The batch of a host must have an even number of rows with "
            f"hard_negatives. Received: {rows} rows. Change the batch size."
        )
    held = HardNegatives(builder, split, hard_negatives)
    pairs = ordered_pairs(builder, split, read, batch_size=batch_size // 2, **order)
    return followed_by_negatives(
        pairs, held, lambda example: read(example)[1], order.get("seed", 0)
    )
