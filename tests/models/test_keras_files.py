"""`.keras` files of `ALIGN.save`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.models import ALIGN
from align_keras.models.lora import adapted_layers, has_factors, merged_kernel
from align_keras.optimizers import AdamW
from align_keras.utils.errors import InputError
from tests.helpers.small import small_align, small_batch


@pytest.mark.ci
def test_the_file_of_a_trained_model_with_lora_can_be_opened(tmp_path):
    model = small_align()
    # The kernel and the bias of this layer have as many moments as its two factors.
    model.enable_lora(2, ["projection"])
    model.compile(AdamW(0.01))
    model.fit(tf.data.Dataset.from_tensors(small_batch()), verbose=0)
    model.save(tmp_path / "model.keras")
    copy = ALIGN.from_preset(tmp_path / "model.keras")
    assert copy.compiled
    assert not has_factors(copy)
    batch = small_batch(seed=1)
    for name, values in model(batch).items():
        np.testing.assert_allclose(copy(batch)[name], values, rtol=1e-4, atol=1e-5)


def test_a_plain_model_keeps_its_optimizer_after_lora():
    model = small_align()
    model.compile(AdamW(0.01))
    assert "optimizer" in model.get_compile_config()
    model.enable_lora(2, ["projection"])
    assert has_factors(model)
    assert "optimizer" not in model.get_compile_config()
    model.merge_lora()
    assert not has_factors(model)
    assert "optimizer" in model.get_compile_config()


def test_a_compiled_model_can_be_cloned_and_saved_with_its_options(tmp_path):
    model = small_align()
    model.compile(AdamW(0.01), micro_batch_size=2, loss_upper_bound=50.0)
    assert isinstance(keras.models.clone_model(model), keras.Model)
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert (copy.micro_batch_size, copy.loss_upper_bound) == (2, 50.0)
    assert isinstance(copy.optimizer, AdamW)


def test_hdf5_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="keras"):
        small_align().save(tmp_path / "model.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.ci
def test_a_file_has_the_exact_merged_kernels_in_half_precision(tmp_path):
    model = small_align()
    model.save_to_preset(tmp_path)
    model = ALIGN.from_preset(tmp_path, dtype="mixed_bfloat16")
    model.enable_lora(2, ["projection"])
    random = np.random.default_rng(0)
    for layer in adapted_layers(model):
        layer.lora_kernel_b.assign(random.normal(size=layer.lora_kernel_b.shape))
    kernels = {
        layer.path: np.asarray(merged_kernel(layer)) for layer in adapted_layers(model)
    }
    model.save(tmp_path / "model.keras")
    copy = ALIGN.from_preset(tmp_path / "model.keras")
    values = {weight.path: weight.numpy() for weight in copy.weights}
    assert len(kernels) == 2
    for path, kernel in kernels.items():
        np.testing.assert_array_equal(values[f"{path}/kernel"], kernel)
    # The model itself still has its factors.
    assert len(adapted_layers(model)) == 2


def test_an_interrupted_save_keeps_the_earlier_file(tmp_path, monkeypatch):
    model = small_align()
    path = tmp_path / "model.keras"
    path.write_bytes(b"earlier")

    def fail(store):
        raise KeyboardInterrupt

    monkeypatch.setattr(model.temperature_layer, "save_own_variables", fail)
    with pytest.raises(KeyboardInterrupt):
        model.save(path)
    assert path.read_bytes() == b"earlier"
    monkeypatch.undo()
    model.save(str(path))
    assert ALIGN.from_preset(path).vocabulary == model.vocabulary
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]
