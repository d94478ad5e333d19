"""Small ALIGN with random weights, and its export."""

import os

import keras
import numpy as np
import pytest

from align_keras.export import export_saved_model
from align_keras.models import ALIGN, ImageEncoder, TextEncoder
from align_keras.utils.files import locked
from tests.export.export_inputs import VOCABULARY


@pytest.fixture(scope="session")
def model():
    # All test processes need the same weights.
    keras.utils.set_random_seed(0)
    image_encoder = ImageEncoder(
        width_coefficient=0.25,
        depth_coefficient=0.3,
        num_stages=3,
        image_size=64,
        projection_dim=256,
    )
    text_encoder = TextEncoder(
        vocabulary_size=len(VOCABULARY),
        num_layers=1,
        hidden_dim=32,
        num_heads=2,
        intermediate_dim=64,
        projection_dim=256,
        sequence_length=12,
    )
    model = ALIGN.from_encoders(image_encoder, text_encoder, vocabulary=VOCABULARY)
    # All weights and statistics of batch normalization get values that differ from the
    # initial values. If the export does not store a variable, the outputs differ.
    rng = np.random.default_rng(1)
    for encoder in (model.image_encoder, model.text_encoder):
        for variable in encoder.variables:
            if "float" in variable.dtype:
                value = variable.numpy() * rng.uniform(0.5, 1.5, variable.shape)
                if "variance" in variable.path:
                    # With larger variances, the activations of untrained layers vanish.
                    value *= 0.1
                elif variable.path.endswith(("kernel", "embeddings")):
                    # With the initial weights of BERT, texts would be almost equal.
                    value *= 1 if encoder is model.image_encoder else 8
                elif value.ndim == 1:
                    value += rng.normal(0, 0.02, variable.shape)
                variable.assign(value)
    return model


@pytest.fixture(scope="session")
def folder(model, tmp_path_factory):
    """Returns a folder with the folder `export`, which all test processes share."""
    pytest.importorskip("tensorflow_text", exc_type=ImportError)
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "run"
    with locked(folder):
        if not folder.exists():
            export_saved_model(model, folder / "export")
    return folder
