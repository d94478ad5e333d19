"""The order is held by tests/data/test_batches.py; here, what is read."""

from align_keras.data.order import ordered_pairs
from tests.data.noise_corpus import build_noise


def test_only_what_training_takes_is_parsed(tmp_path):
    parsed = []

    def read(example):
        parsed.append(set(example))
        return example["id"]

    arguments = {"start_step": 0, "seed": 0, "shuffle_buffer_size": 1}
    pairs = ordered_pairs(
        build_noise(tmp_path),
        "train",
        read,
        batch_size=1,
        cache=False,
        input_pipeline_id=0,
        num_input_pipelines=1,
        **arguments,
    )
    ids = {identifier for _, (identifier, _) in pairs.take(24).as_numpy_iterator()}
    assert ids == {f"noise/{number}".encode() for number in range(24)}
    # Not the category nor the key of the picture.
    assert parsed == [{"image", "captions", "id"}]
