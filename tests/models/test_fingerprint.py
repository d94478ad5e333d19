"""Fingerprints of encoders in other dtypes."""

import json
import zipfile

import pytest

from align_keras import load_model
from align_keras.export import litert_file
from align_keras.models import ALIGN
from align_keras.utils.errors import InputError
from tests.helpers.small import small_align


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset")
    small_align().save_to_preset(folder)
    return folder


@pytest.mark.ci
@pytest.mark.parametrize("dtype", ["mixed_bfloat16"])
def test_the_fingerprint_of_another_dtype_is_that_of_the_converted_model(preset, dtype):
    model = ALIGN.from_preset(preset)
    other_model = ALIGN.from_preset(preset, dtype=dtype)
    for name in ("image_encoder", "text_encoder"):
        expected = getattr(model, name).fingerprint()
        encoder = getattr(other_model, name)
        assert encoder.fingerprint() != expected
        assert encoder.fingerprint("float32") == expected
        assert getattr(model, name).fingerprint("float32") == expected


def test_a_tower_of_a_mixed_precision_model_is_accepted(preset, tmp_path, monkeypatch):
    # The test writes only the metadata of a tower, which no runtime opens.
    monkeypatch.setattr(litert_file, "LiteRTTower", lambda content: None)
    exported = ALIGN.from_preset(preset)
    path = tmp_path / "image.tflite"
    with zipfile.ZipFile(path, "w") as archive:
        fingerprint = exported.image_encoder.fingerprint()
        metadata = {"encoder_fingerprint": fingerprint}
        archive.writestr("metadata.json", json.dumps(metadata))
    model = ALIGN.from_preset(preset, dtype="mixed_bfloat16")
    assert load_model(model, path).runtime == str(path)
    with pytest.raises(InputError, match=f"{path}, .*another model"):
        load_model(small_align(), path)
