"""The ids of a batch's pairs, without its pictures."""

from align_keras.data.order import ordered_pairs
from align_keras.data.stored_pairs import check_batch_size


def batch_ids(
    builder,
    split,
    *,
    batch_size,
    step,
    seed=0,
    shuffle_buffer_size=20_000,
    cache=False,
    input_pipeline_id=0,
    num_input_pipelines=1,
    pair_weighted=False,
):
    """Tells which pairs `training_batches` puts into a batch.

    For the diagnosis of a step that went wrong. No picture is decoded.

    Args:
        builder: prepared TFDS builder, or a `Mixture` of them.
        split: str.
        batch_size: int ≥ 1, as `training_batches` got it, and so all below.
        step: int ≥ 0, the number of the batch.
        seed: int.
        shuffle_buffer_size: int ≥ 1.
        cache: bool.
        input_pipeline_id: int.
        num_input_pipelines: int ≥ 1.
        pair_weighted: bool.

    Returns:
        list of str, the ids of the rows in order. Under a `data_service` the
        batch holds others.

    Raises:
        InputError: as `training_batches`.
    """
    check_batch_size(batch_size, builder, split)
    pairs = ordered_pairs(
        builder,
        split,
        lambda example: example["id"],
        batch_size=batch_size,
        start_step=step,
        seed=seed,
        shuffle_buffer_size=shuffle_buffer_size,
        cache=cache,
        input_pipeline_id=input_pipeline_id,
        num_input_pipelines=num_input_pipelines,
        pair_weighted=pair_weighted,
    )
    rows = pairs.take(batch_size // num_input_pipelines)
    return [identifier.decode() for _, (identifier, _) in rows.as_numpy_iterator()]
