"""Runs the test harness of KerasHub on ALIGN, its parts, preprocessing and layers."""

import unittest

import keras
import keras_hub
import numpy as np
import pytest

from align_keras.layers import (
    FusedBatchNormalization,
    L2Normalization,
    MBConvBlock,
    Temperature,
)
from align_keras.models import (
    ALIGN,
    ALIGNBackbone,
    ALIGNImageConverter,
    ALIGNPreprocessor,
    ALIGNTokenizer,
    ImageEncoder,
    TextEncoder,
)
from tests.helpers.oracle_process import needs
from tests.helpers.small import VOCABULARY, small_align, small_batch, small_encoders

# The harness of KerasHub imports grain.
needs_harness = needs("grain")
if needs_harness.args[0]:
    # pytest collects and skips subclasses of this class.
    Harness = unittest.TestCase
else:
    from keras_hub.src.tests import test_case

    class Harness(test_case.TestCase):
        __test__ = False
        # pytest would run this method of TensorFlow as a test.
        test_session = None


IMAGE_ENCODER = {
    "width_coefficient": 0.25,
    "depth_coefficient": 0.3,
    "num_stages": 3,
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
    image_encoder, text_encoder = small_encoders()
    return {"image_encoder": image_encoder, "text_encoder": text_encoder}


def preprocessor_arguments():
    return {
        "tokenizer": ALIGNTokenizer(VOCABULARY, sequence_length=8),
        "image_converter": ALIGNImageConverter(32),
    }


def task_arguments():
    return {
        "backbone": ALIGNBackbone(**backbone_arguments()),
        "preprocessor": ALIGNPreprocessor(**preprocessor_arguments()),
    }


@keras.saving.register_keras_serializable(package="test_keras_hub_harness")
class TuplePreprocessor(ALIGNPreprocessor):
    """Preprocessor that returns `(x,)`.

    The task test takes the first entry of `(x, y, sample_weight)`, which preprocessors
    of tasks with labels return. Captions are inputs, so ALIGN has no labels.
    """

    def __call__(self, *args, **kwargs):
        return (super().__call__(*args, **kwargs),)


def raw_pairs():
    """Returns raw images with captions, as the preprocessor expects them."""
    random = np.random.default_rng(0)
    return {
        "image": random.integers(0, 256, (4, 40, 50, 3)).astype("uint8"),
        "caption": ["a b", "red", "blue cat", "c"],
    }


@pytest.mark.ci
@needs_harness
class ModelsTest(Harness):
    __test__ = True

    # `run_backbone_test` calls the serialization, precision and quantization tests.
    # `run_litert_export_test` isn't used, since tests/export compares the LiteRT files
    # of both encoders with Keras.

    def test_image_encoder(self):
        # The image encoder has only pooled outputs, no feature pyramid.
        self.run_vision_backbone_test(
            cls=ImageEncoder,
            init_kwargs=IMAGE_ENCODER,
            input_data=keras.ops.cast(small_batch()["images"], "float32"),
            expected_output_shape=(4, 16),
        )

    def test_text_encoder(self):
        # Mean pooling adds a layer, and "gelu" replaces an activation.
        self.run_backbone_test(
            cls=TextEncoder,
            init_kwargs={**TEXT_ENCODER, "pooling": "mean", "activation": "gelu"},
            input_data=text_inputs(),
            expected_output_shape=(4, 16),
        )

    def test_backbone(self):
        batch = small_batch()
        self.run_backbone_test(
            cls=ALIGNBackbone,
            init_kwargs=backbone_arguments(),
            input_data=batch,
            expected_output_shape={
                "image_embedding": (4, 16),
                "text_embedding": (4, 16),
                "similarity": (4,),
            },
            # The harness would cut all inputs along axis 1, including the images.
            variable_length_data=[
                {**batch, **{k: v[:, :n] for k, v in text_inputs().items()}}
                for n in (2, 3, 4)
            ],
            # This check expects the same dtype everywhere. The embeddings, the cosines
            # and the temperature of ALIGN are always float32, as the loss requires.
            # `test_outputs_of_align_are_float32` checks this instead.
            run_mixed_precision_check=False,
        )

    def test_task(self):
        arguments = task_arguments()
        arguments["preprocessor"] = TuplePreprocessor(**preprocessor_arguments())
        # All pairs are one batch, since batches of other sizes round differently.
        self.run_task_test(
            cls=ALIGN, init_kwargs=arguments, train_data=(raw_pairs(),), batch_size=4
        )

    def test_model_saving(self):
        models = [
            (ImageEncoder, IMAGE_ENCODER, small_batch()["images"]),
            (TextEncoder, TEXT_ENCODER, text_inputs()),
            (ALIGNBackbone, backbone_arguments(), small_batch()),
            (ALIGN, task_arguments(), small_batch()),
        ]
        for cls, init_kwargs, inputs in models:
            self.run_model_saving_test(cls, init_kwargs, inputs)

    def test_preset_folder(self):
        directory = self.get_temp_dir()
        model = small_align()
        model.save_to_preset(directory)
        batch = small_batch()
        pairs = raw_pairs()
        self.run_preset_test(ALIGN, directory, batch, expected_output=model(batch))
        self.run_preset_test(
            ALIGNBackbone, directory, batch, expected_output=model(batch)
        )
        # The base class of KerasHub finds the class in the folder.
        self.run_preset_test(
            keras_hub.models.Backbone, directory, batch, expected_output=model(batch)
        )
        for cls in (ALIGNTokenizer, keras_hub.tokenizers.Tokenizer):
            self.run_preset_test(
                cls,
                directory,
                pairs["caption"],
                expected_output=model.tokenizer(pairs["caption"]),
            )
        for cls in (ALIGNImageConverter, keras_hub.layers.ImageConverter):
            self.run_preset_test(
                cls,
                directory,
                pairs["image"],
                expected_output=model.preprocessor.image_converter(pairs["image"]),
            )
        self.run_preset_test(
            ALIGNPreprocessor,
            directory,
            pairs,
            expected_output=model.preprocessor(pairs),
        )


@pytest.mark.ci
@needs_harness
class PreprocessingTest(Harness):
    __test__ = True

    def test_tokenizer(self):
        captions = raw_pairs()["caption"]
        self.run_preprocessing_layer_test(
            cls=ALIGNTokenizer,
            init_kwargs={"vocabulary": VOCABULARY, "sequence_length": 12},
            input_data=captions,
            expected_detokenize_output=captions,
        )

    def test_image_converter(self):
        self.run_preprocessing_layer_test(
            cls=ALIGNImageConverter,
            init_kwargs={"image_size": 32},
            input_data=raw_pairs()["image"],
        )

    def test_preprocessor(self):
        self.init_kwargs = preprocessor_arguments()
        self.run_preprocessor_test(
            cls=ALIGNPreprocessor,
            init_kwargs=self.init_kwargs,
            input_data=raw_pairs(),
        )


@pytest.mark.ci
@needs_harness
class LayersTest(Harness):
    __test__ = True

    def test_mbconv_block(self):
        for arguments, counts in (
            # The block has three convolutions, two dense layers with biases, and three
            # normalizations with two trainable and two moving weights each. The
            # variables also include the seed of drop-connect.
            ({"drop_connect_rate": 0.2, "rematerialize": True}, (13, 6, 7)),
            ({"squeeze_ratio": 0.0, "activation": "relu6"}, (9, 6, 6)),
        ):
            trainable, moving, variables = counts
            self.run_layer_test(
                cls=MBConvBlock,
                init_kwargs={"filters_in": 8, "filters_out": 8, **arguments},
                input_data=keras.random.normal((2, 6, 6, 8), seed=0),
                expected_output_shape=(2, 6, 6, 8),
                expected_num_trainable_weights=trainable,
                expected_num_non_trainable_weights=moving,
                expected_num_non_trainable_variables=variables,
            )

    def test_fused_batch_normalization(self):
        for freeze_statistics in (False, True):
            self.run_layer_test(
                cls=FusedBatchNormalization,
                init_kwargs={"freeze_statistics": freeze_statistics},
                input_data=keras.random.normal((2, 4, 4, 3), seed=0),
                expected_output_shape=(2, 4, 4, 3),
                expected_num_trainable_weights=2,
                expected_num_non_trainable_weights=2,
                expected_num_non_trainable_variables=2,
            )

    def test_l2_normalization(self):
        self.run_layer_test(
            cls=L2Normalization,
            init_kwargs={},
            input_data=keras.ops.array([[3.0, 4.0], [0.0, 0.0]]),
            expected_output_shape=(2, 2),
            expected_output_data=[[0.6, 0.8], [0.0, 0.0]],
        )

    def test_temperature(self):
        self.run_layer_test(
            cls=Temperature,
            init_kwargs={"initial_temperature": 0.5},
            input_data=keras.ops.array([0.25, -1.0]),
            expected_output_shape=(2,),
            expected_output_data=[0.5, -2.0],
            expected_num_trainable_weights=1,
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
