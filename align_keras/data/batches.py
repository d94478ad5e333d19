"""Training batches of an experiment."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from align_keras.data.caption_sources import (
    caption_probabilities,
    check_caption_sources,
)
from align_keras.data.order import ordered_pairs
from align_keras.data.preparation import PairPreparation
from align_keras.data.shards import check_data_service
from align_keras.data.stored_pairs import check_batch_size

if TYPE_CHECKING:
    from align_keras.data.teacher_embeddings import TeacherEmbeddings
    from align_keras.preprocessing.preprocessor import ALIGNPreprocessor


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
        split: such as `"train"` or `"train[:10%]"`.
        preprocessor: `ALIGNPreprocessor` with a tokenizer. Its image converter
            determines crop, flip, zoom, shift and recolor.
        batch_size: ≥ 1, pairs of a batch over all replicas.
        seed: seed of shuffling, caption choice and augmentation.
        start_step: ≥ 0, number of batches to skip.
        shuffle_buffer_size: ≥ 1, size of the shuffle buffer in pairs. The buffer
            contains encoded images, or decoded images with `cache`.
        cache: cache all decoded, resized images in memory.
        input_pipeline_id: ≥ 0, part of each batch to return. This argument and
            the next one are those of `tf.distribute.InputContext`.
        num_input_pipelines: ≥ 1, a divisor of `batch_size`.
        data_service: address of the dispatcher of a tf.data service, such
            as `"grpc://host:5000"`. Its workers read, decode and augment, so the order
            of the batches isn't deterministic.
        pair_weighted: see above. Without `cache`, the captions of each image are
            counted once before training.
        with_image_ids: add `image_ids`, which are equal for equal stored images.
            A loss with `share_equal_images` needs them.
        caption_sources: dict from the source of captions to its probability, such as
            `{"alt": 0.7, "synthetic": 0.3}`. The probabilities are divided by the sum
            over the sources that an image has, and the captions of a source share its
            probability equally. None draws all captions with equal probability.
        teacher: `TeacherEmbeddings` of the images and captions of the split, or None.
            They are added to each batch for `DistillationLoss`.

    Returns:
        `tf.data.Dataset` of dicts: `images` (rows, image_size, image_size, 3) in
        [0, 255], float32, or uint8 if images are only cropped and mirrored
        (no `cache`, `zoom`, `shift` or `recolor`), `token_ids` and
        `padding_mask` int32 (rows, sequence_length), and if requested `image_ids`
        int64 (rows,), and `teacher_image_embeddings` and `teacher_text_embeddings`
        float32 (rows, t).

    Raises:
        InputError: if a batch is larger than the split, if ArrayRecord is combined
            with `data_service`, if the corpus is stored neither as TFRecord nor as
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
    prepare = PairPreparation(
        preprocessor, training=True, with_image_ids=with_image_ids, teacher=teacher
    )
    check_batch_size(batch_size, builder, split)
    if caption_sources is not None:
        check_caption_sources(builder)
    if data_service is not None:
        check_data_service(builder, data_service)
    converter = preprocessor.image_converter
    augments_batches = cache or converter.augments_batches
    seed_tensor = tf.cast(seed, tf.int64)

    def read_image(example: dict) -> tuple[tf.Tensor, dict, tuple]:
        image = example["image"]
        inputs = prepare.hash_inputs(image)
        if augments_batches:
            image = converter.resize(image)
        if caption_sources is None:
            return image, inputs, ()
        probabilities = caption_probabilities(
            example["caption_sources"], caption_sources
        )
        return image, inputs, (probabilities,)

    def prepare_row(number: tf.Tensor, pair: tuple) -> tuple:
        (image, inputs, probabilities), captions = pair
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

    pairs = ordered_pairs(
        builder,
        split,
        read_image,
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
    return (
        batches.map(prepare.batch, tf.data.AUTOTUNE).prefetch(2).with_options(options)
    )


def batch_ids(
    builder: Any,
    split: str,
    *,
    batch_size: int,
    step: int,
    **order: Any,
) -> list[str]:
    """Returns the ids of the pairs in one batch of `training_batches`, in order.

    The diagnosis of a step uses the ids. The ids are wrong for a `data_service`, since
    its order isn't deterministic.

    Args:
        builder: as in `training_batches`.
        split: as in `training_batches`.
        batch_size: as in `training_batches`.
        step: ≥ 0, number of the batch.
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
    pairs = ordered_pairs(builder, split, lambda example: example["id"], **order)
    rows = pairs.take(batch_size // order.get("num_input_pipelines", 1))
    return [id.decode() for _, (id, _) in rows.as_numpy_iterator()]
