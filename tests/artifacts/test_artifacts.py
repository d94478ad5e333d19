"""The current code opens models of earlier versions and gives the same embeddings.

`tools/make_artifacts.py` writes the folder of each version once.
"""

import json
import pathlib
import tarfile

import numpy as np
import pytest

VERSIONS = sorted(pathlib.Path(__file__).parent.glob("[0-9]*"))
# Float32 kernels of other processors sum in another order. The relative error is about
# 1e-7 per operation, and some hundred operations follow each other. The recorded
# results are rounded to 1e-7.
TOLERANCE = 2e-5


@pytest.fixture(params=VERSIONS, ids=lambda folder: folder.name)
def version(request):
    return request.param


def unpack(version, kind, folder):
    with tarfile.open(version / f"{kind}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / kind


def check_embeddings(model, version):
    from tools import make_artifacts

    expected = json.loads((version / "expected.json").read_text(encoding="utf-8"))
    actual = make_artifacts.embed_examples(model)
    for name in ("images", "texts"):
        np.testing.assert_allclose(actual[name], expected[name], atol=TOLERANCE)
        # The embeddings must differ, or the comparison would not detect a wrong order.
        assert np.ptp(expected[name], axis=0).max() > 0.1


def test_a_preset_opens(version, tmp_path):
    from align_keras import ALIGN

    model = ALIGN.from_preset(unpack(version, "preset", tmp_path))
    check_embeddings(model, version)


# The default tier opens the preset, and `.keras` files of this version.
@pytest.mark.ci
def test_a_keras_file_opens(version, tmp_path):
    import keras

    import align_keras  # noqa: F401 (registers the classes)

    folder = unpack(version, "keras", tmp_path)
    model = keras.models.load_model(folder / "align.keras")
    check_embeddings(model, version)
    assert type(model.optimizer).__name__ == "Lamb"
