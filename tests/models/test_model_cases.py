"""Tests of the models with KerasHub's harness of `tests.helpers.model_case`."""

import keras
import keras_hub
import numpy as np
import pytest

from align_keras.models import (
    ALIGN,
    ALIGNBackbone,
    ALIGNImageConverter,
    ALIGNPreprocessor,
    ALIGNTokenizer,
    ImageEncoder,
    TextEncoder,
)
from tests.helpers.model_case import Case, ModelCase
from tests.helpers.small import VOCABULARY, small_align, small_batch, small_encoders

IMAGE_ENCODER = {
    "width_coefficient": 0.25,
    "depth_coefficient": 0.3,
    "num_stages": 1,
    "image_size": 32,
    "projection_dim": 16,
}
TEXT_ENCODER = {
    "vocabulary_size": len(VOCABULARY),
    "num_layers": 1,
    "hidden_dim": 16,
    "num_heads": 2,
    "intermediate_dim": 32,
    "projection_dim": 16,
    "sequence_length": 8,
}


def text_inputs():
    batch = small_batch()
    return {name: batch[name] for name in ("token_ids", "padding_mask")}


def backbone_arguments():
    image_encoder, text_encoder = small_encoders(num_stages=1)
    return {"image_encoder": image_encoder, "text_encoder": text_encoder}


def preprocessor_arguments():
    return {
        "tokenizer": ALIGNTokenizer(VOCABULARY, sequence_length=8),
        "image_converter": ALIGNImageConverter(32),
    }


def raw_pairs():
    """Returns raw images with captions, as the preprocessor expects them."""
    random = np.random.default_rng(0)
    return {
        "image": random.integers(0, 256, (4, 40, 50, 3)).astype("uint8"),
        "caption": ["a b", "red", "blue cat", "c"],
    }


class ImageEncoderTest(ModelCase):
    __test__ = True
    cls = ImageEncoder
    output_shape = (4, 16)

    def arguments(self):
        return IMAGE_ENCODER

    def inputs(self):
        return keras.ops.cast(small_batch()["images"], "float32")


class TextEncoderTest(ModelCase):
    __test__ = True
    cls = TextEncoder
    output_shape = (4, 16)

    def arguments(self):
        # Mean pooling adds a layer, and "gelu" replaces an activation.
        return {**TEXT_ENCODER, "pooling": "mean", "activation": "gelu"}

    def inputs(self):
        return text_inputs()


class ALIGNBackboneTest(ModelCase):
    __test__ = True
    cls = ALIGNBackbone
    output_shape = {
        "image_embedding": (4, 16),
        "text_embedding": (4, 16),
        "similarity": (4,),
    }
    options = {
        # The harness would cut all inputs along axis 1, including the images.
        "variable_length_data": [
            {**small_batch(), **{k: v[:, :n] for k, v in text_inputs().items()}}
            for n in (2, 4)
        ],
        # This check expects the same dtype everywhere. The embeddings, the cosines and
        # the temperature of ALIGN are always float32, as the loss requires.
        # `test_outputs_of_align_are_float32` checks this instead.
        "run_mixed_precision_check": False,
    }

    def arguments(self):
        return backbone_arguments()

    def inputs(self):
        return small_batch()


@keras.saving.register_keras_serializable(package="test_model_cases")
class TuplePreprocessor(ALIGNPreprocessor):
    """Preprocessor that returns `(x,)`.

    The task test takes the first entry of `(x, y, sample_weight)`, which preprocessors
    of tasks with labels return. Captions are inputs, so ALIGN has no labels.
    """

    def __call__(self, *args, **kwargs):
        return (super().__call__(*args, **kwargs),)


class ALIGNTest(Case):
    __test__ = True

    # The harness trains several times, which takes 14 CPU seconds.
    @pytest.mark.release
    def test_task(self):
        # All pairs are one batch, since batches of other sizes round differently.
        self.run_task_test(
            cls=ALIGN,
            init_kwargs={
                "backbone": ALIGNBackbone(**backbone_arguments()),
                "preprocessor": TuplePreprocessor(**preprocessor_arguments()),
            },
            train_data=(raw_pairs(),),
            batch_size=4,
        )

    def test_a_preset_restores_each_part(self):
        directory = self.get_temp_dir()
        model = small_align()
        model.save_to_preset(directory)
        pairs = raw_pairs()
        preprocessor = model.preprocessor
        parts = (
            ((ALIGN, ALIGNBackbone), small_batch(), model),
            # The base classes of KerasHub find the class in the folder.
            ((keras_hub.models.Backbone,), small_batch(), model),
            (
                (ALIGNTokenizer, keras_hub.tokenizers.Tokenizer),
                pairs["caption"],
                model.tokenizer,
            ),
            (
                (ALIGNImageConverter, keras_hub.layers.ImageConverter),
                pairs["image"],
                preprocessor.image_converter,
            ),
            ((ALIGNPreprocessor,), pairs, preprocessor),
        )
        for classes, inputs, part in parts:
            for cls in classes:
                self.run_preset_test(
                    cls, directory, inputs, expected_output=part(inputs)
                )


@pytest.mark.parametrize(
    "policy", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.ci)]
)
def test_outputs_of_align_are_float32(policy):
    encoders = [
        ImageEncoder(**IMAGE_ENCODER, dtype=policy),
        TextEncoder(**TEXT_ENCODER, dtype=policy),
    ]
    model = ALIGN.from_encoders(*encoders)
    for output in model(small_batch()).values():
        assert output.dtype == "float32"
    for layer in (model.normalize_image, model.normalize_text, model.temperature_layer):
        assert layer.dtype_policy.name == "float32"
    # float16 needs loss scaling, since small gradients would become 0.
    model.compile(keras.optimizers.SGD(0.1))
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    if scaled:
        history = model.fit(small_batch(), verbose=0).history
        assert np.isfinite(history["loss"]).all()
