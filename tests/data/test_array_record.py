"""ArrayRecord gives what TFRecord gives."""

import pytest

from align_keras.data import read_retrieval_set
from align_keras.data.stored_pairs import read_captions
from align_keras.datasets.mixture import Mixture
from align_keras.utils.errors import InputError
from tests.data.noise_corpus import KINDS, assert_equal, batches, build_noise

pytest.importorskip("array_record")


@pytest.fixture(scope="module")
def builders(tmp_path_factory):
    """The same 48 pairs in 20 files, in either format."""
    return [
        build_noise(
            tmp_path_factory.mktemp("data"), 20, copies=2, file_format=file_format
        )
        for file_format in ("tfrecord", "array_record")
    ]


@pytest.mark.parametrize(
    "kind, start_step",
    [
        pytest.param(
            kind,
            start,
            marks=pytest.mark.ci if kind == of else pytest.mark.release,
        )
        for start, of in ((0, None), (9, "varied"))
        for kind in KINDS
    ],
)
def test_training_has_the_same_batches(builders, kind, start_step):
    expected, actual = (
        batches(builder, 8, start_step=start_step, **KINDS[kind])
        for builder in builders
    )
    assert_equal(expected, actual)


@pytest.mark.release
@pytest.mark.parametrize("pair_weighted", [False, True])
def test_each_of_several_hosts_reads_its_part(builders, pair_weighted):
    for number in range(2):
        part = {"input_pipeline_id": number, "num_input_pipelines": 2}
        part["pair_weighted"] = pair_weighted
        expected, actual = (batches(builder, 7, **part) for builder in builders)
        assert_equal(expected, actual)


@pytest.mark.ci
def test_evaluation_reads_the_same(builders):
    captions = [read_captions(builder, "train[:70%]") for builder in builders]
    assert captions[0] == captions[1] and captions[0]
    one, other = (read_retrieval_set(builder, "train") for builder in builders)
    assert one.captions == other.captions


@pytest.mark.release
def test_a_mixture_of_both_formats(builders, tmp_path):
    few = build_noise(tmp_path / "few", file_format="array_record")
    many, records = builders
    same = Mixture({"few": build_noise(tmp_path / "same"), "many": many})
    for arguments in ({}, {"cache": True}):
        mixture = Mixture({"few": few, "many": records})
        assert_equal(batches(same, 9, **arguments), batches(mixture, 9, **arguments))


def test_a_data_service_cannot_read_it(builders):
    with pytest.raises(InputError, match="data_service must be None .* array_record"):
        batches(builders[1], 1, data_service="grpc://localhost:1")
