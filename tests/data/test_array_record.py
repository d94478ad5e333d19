"""Tests that corpora stored as ArrayRecord and as TFRecord have the same batches."""

import pytest

from align_keras.data import read_retrieval_set
from align_keras.data.stored_pairs import read_captions
from align_keras.datasets.mixture import Mixture
from align_keras.utils.errors import InputError
from tests.data.noise_corpus import KINDS, assert_equal, batches, build_noise

pytest.importorskip("array_record")


@pytest.fixture(scope="module")
def builders(tmp_path_factory):
    """Returns builders of the same 48 pairs in 20 files, one for each format."""
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
            marks=pytest.mark.ci if kind == ci_kind else pytest.mark.release,
        )
        for start, ci_kind in ((0, None), (9, "augmented"))
        for kind in KINDS
    ],
)
def test_training_batches_do_not_depend_on_the_format(builders, kind, start_step):
    expected, actual = (
        batches(builder, 8, start_step=start_step, **KINDS[kind])
        for builder in builders
    )
    assert_equal(expected, actual)


@pytest.mark.release
@pytest.mark.parametrize("pair_weighted", [False, True])
def test_the_parts_of_hosts_do_not_depend_on_the_format(builders, pair_weighted):
    for number in range(2):
        part = {"input_pipeline_id": number, "num_input_pipelines": 2}
        part["pair_weighted"] = pair_weighted
        expected, actual = (batches(builder, 7, **part) for builder in builders)
        assert_equal(expected, actual)


@pytest.mark.ci
def test_evaluation_reads_the_same_pairs_from_both_formats(builders):
    captions = [read_captions(builder, "train[:70%]") for builder in builders]
    assert captions[0] == captions[1] and captions[0]
    first, second = (read_retrieval_set(builder, "train") for builder in builders)
    assert first.captions == second.captions


@pytest.mark.release
def test_batches_of_a_mixture_do_not_depend_on_the_formats(builders, tmp_path):
    few = build_noise(tmp_path / "few", file_format="array_record")
    many, many_array_records = builders
    expected = Mixture({"few": build_noise(tmp_path / "same"), "many": many})
    for arguments in ({}, {"cache": True}):
        mixture = Mixture({"few": few, "many": many_array_records})
        assert_equal(
            batches(expected, 9, **arguments), batches(mixture, 9, **arguments)
        )


def test_a_data_service_refuses_array_record(builders):
    with pytest.raises(InputError, match="data_service"):
        batches(builders[1], 1, data_service="grpc://localhost:1")
