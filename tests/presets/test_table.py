"""Tests of the parameters and operations in the table of presets."""

import numpy as np
import pytest

import align_keras
from align_keras.models import ALIGN
from align_keras.presets.tower_costs import image_tower_cost, text_tower_cost
from align_keras.presets.variants import image_encoder_arguments, text_encoder_arguments
from tests.helpers.align_folders import random_pairs
from tests.helpers.oracle_process import call_oracle, needs


def preset(name):
    return next(p for p in align_keras.models.presets() if p.name == name)


@pytest.mark.parametrize(
    "name", ["align_nano", pytest.param("align_b1_mini", marks=pytest.mark.release)]
)
def test_parameters_equal_the_count_of_keras(name):
    check_parameters(name)


@pytest.mark.release
@pytest.mark.parametrize("name", ["align_b7_base", "align_l2_large"])
def test_parameters_of_large_presets_equal_the_count_of_keras(name):
    check_parameters(name)


def check_parameters(name):
    model, expected = ALIGN.from_preset(name), preset(name)
    assert model.image_encoder.count_params() == expected.image_parameters
    assert model.text_encoder.count_params() == expected.text_parameters
    assert model.count_params() == expected.parameters


@pytest.mark.ci
def test_the_table_row_of_the_trained_model_equals_its_folder():
    model, expected = ALIGN.from_preset("align_small_en"), preset("align_small_en")
    assert model.image_encoder.count_params() == expected.image_parameters
    assert model.text_encoder.count_params() == expected.text_parameters
    assert model.count_params() == expected.parameters
    assert model.image_size == expected.image_size
    assert model.text_encoder.sequence_length == expected.sequence_length
    assert model.image_encoder.output_shape[-1] == expected.projection_dim


@pytest.mark.ci
@needs("torch", "transformers")
@pytest.mark.parametrize("size", [64, 75])
def test_operations_equal_the_count_of_pytorch(size):
    text = {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    }
    inputs = random_pairs(size, size, count=1, length=16)
    flops = call_oracle("hugging_face", "flops", "b0", text, **inputs)
    image = image_tower_cost(
        **image_encoder_arguments("efficientnet_b0", 320),
        image_size=size,
        padding="hugging_face",
    )
    text = text_tower_cost(
        **text_encoder_arguments("bert_mini"),
        vocabulary_size=100,
        sequence_length=16,
        projection_dim=320,
        # The last layer in PyTorch computes all tokens, as with mean pooling.
        pooling="mean",
    )
    # PyTorch also computes the pooler of BERT and the logits of one pair.
    pooler_and_logits = 2 * 256 * 256 + 2 * 320
    assert flops == image.flops + text.flops + pooler_and_logits


def test_presets_contain_the_grid_of_the_paper_and_print_as_a_table():
    table = align_keras.models.presets()
    names = ["align_small_en", *align_keras.models.preset_names()]
    assert [p.name for p in table] == names
    assert [p.name for p in table if p.trained] == names[:1]
    assert str(table).splitlines()[1].split()[:2] == ["align_small_en", "trained"]
    assert len(str(table).splitlines()) == len(table) + 1
    # According to table 1 of the EfficientNet paper, B7 at 600 pixels has 37 billion
    # multiply-adds, including a small number for its head.
    sizes = image_encoder_arguments("efficientnet_b7", 640)
    flops = image_tower_cost(**sizes, image_size=600).flops
    assert flops / 2 == pytest.approx(37e9, rel=0.06)
    assert preset("align_l2_large").image_parameters == pytest.approx(468.3e6, rel=2e-3)
    assert np.all([p.parameters > 0 for p in table])
