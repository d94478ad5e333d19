"""Training batches of an experiment, from stored pairs."""

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from align_keras.data.order import ordered_pairs
from align_keras.data.shards import check_data_service
from align_keras.data.stored_pairs import check_batch_size
from align_keras.utils.errors import InputError

if TYPE_CHECKING:
    from align_keras.models.align_preprocessor import ALIGNPreprocessor


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
) -> tf.data.Dataset:
    """Returns endless batches of augmented images with one caption each.

    An epoch holds each image once, with one of its captions at random. If
    `pair_weighted`, it holds each image once for each of its captions, as the pairs of
    the paper.

    The batches depend on the arguments only: batch k of a pipeline that starts at step
    k equals, bit for bit, batch k of a pipeline that starts at 0. To start there, the
    pipeline reads at most one window of files (see `shuffled_records`), or nothing
    twice if `cache`.

    Several input pipelines, one for each host, share a global batch. With at least as
    many files (shards) as pipelines, each pipeline reads another part of the files, and
    its epochs are of this part. With fewer files, or with `cache`, each pipeline reads
    all records but decodes only its rows (with `cache`, all rows), and the rows of all
    pipelines are the batch of a single pipeline.

    Args:
        builder: prepared TFDS builder, or a `Mixture` of them, whose examples
            have `image` and `captions`.
        split: str, such as `"train"` or `"train[:10%]"`.
        preprocessor: `ALIGNPreprocessor` with a tokenizer. Its image converter decides
            on crop, flip, zoom, shift and recolor.
        batch_size: int ≥ 1, pairs of a batch over all replicas.
        seed: int, seed of shuffling, caption choice and augmentation.
        start_step: int ≥ 0, batches to leave out.
        shuffle_buffer_size: int ≥ 1, pairs that are shuffled at a time. The buffer
            holds encoded images, or decoded ones if `cache`.
        cache: bool, keep all decoded, resized images in memory.
        input_pipeline_id: int ≥ 0, part of each batch to return. This argument and
            the next are those of `tf.distribute.InputContext`.
        num_input_pipelines: int ≥ 1, a divisor of `batch_size`.
        data_service: str or None, address of a tf.data service's dispatcher, such as
            `"grpc://host:5000"`. Its workers read, decode and augment, in an order
            that depends on them.
        pair_weighted: bool, see above. Without `cache` the captions are counted
            first, once.

    Returns:
        `tf.data.Dataset` of dicts: `images` (rows, image_size, image_size, 3) in
        [0, 255], float32, or uint8 if images are only cropped and mirrored
        (no `cache`, `zoom`, `shift` or `recolor`), `token_ids` and
        `padding_mask` int32 (rows, sequence_length).

    Raises:
        InputError: if a batch is larger than the split or cannot be divided among
            the input pipelines, if `cache` or ArrayRecord is combined with
            `data_service`, or if the corpus is stored neither as TFRecord nor as
            ArrayRecord.

    References:
        Jia et al. 2021, section 5 (resize, random crop, horizontal flip).
    """
    preprocessor.require_tokenizer()
    check_batch_size(batch_size, builder, split)
    if data_service is not None:
        check_data_service(builder, data_service)
        if cache:
            raise InputError(
                "cache must be false with a data_service, whose workers keep no "
                f"images. Received: {data_service!r}. Leave one of them out."
            )
    converter = preprocessor.image_converter
    augments_batches = cache or converter.augments_batches
    seed_tensor = tf.cast(seed, tf.int64)

    def read_image(example: dict) -> tf.Tensor:
        if augments_batches:
            return converter.resize(example["image"])
        return example["image"]

    def prepare_row(number: tf.Tensor, pair: tuple) -> tuple:
        image, captions = pair
        caption = preprocessor.choose_caption(captions, tf.stack([seed_tensor, number]))
        if not augments_batches:
            # The complement is the image's seed, since the caption has `number`.
            image = converter.augment(image, tf.stack([seed_tensor, ~number]))
        return image, caption

    def augment_batch(step: tf.Tensor, batch: tuple) -> tuple:
        images, captions = batch
        images = converter.augment_batch(
            images,
            tf.stack([seed_tensor, step]),
            input_pipeline_id=input_pipeline_id,
            num_input_pipelines=num_input_pipelines,
        )
        return images, captions

    def tokenize(images: tf.Tensor, captions: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"images": images, **preprocessor.tokenize(captions)}

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
    # Buffers begin to fill when the iterator is created, while `fit` traces its step.
    options = tf.data.Options()
    options.experimental_warm_start = True
    return batches.map(tokenize, tf.data.AUTOTUNE).prefetch(2).with_options(options)


def batch_ids(
    builder: Any,
    split: str,
    *,
    batch_size: int,
    step: int,
    **order: Any,
) -> list[str]:
    """Returns the ids of the pairs of one batch of `training_batches`, in order.

    The diagnosis of a step uses them. With a `data_service` the batch holds other
    pairs.

    Args:
        builder: as in `training_batches`.
        split: as in `training_batches`.
        batch_size: as in `training_batches`.
        step: int ≥ 0, number of the batch.
        **order: further arguments of `training_batches` that decide on the order.
    """
    check_batch_size(batch_size, builder, split)
    order |= {"batch_size": batch_size, "start_step": step}
    pairs = ordered_pairs(builder, split, lambda example: example["id"], **order)
    rows = pairs.take(batch_size // order.get("num_input_pipelines", 1))
    return [identifier.decode() for _, (identifier, _) in rows.as_numpy_iterator()]
