"""KerasHub's harness for models, layers and preprocessing layers.

A new encoder gets them by a subclass that sets attributes:

    class TinyViTTest(ModelCase):
        __test__ = True
        cls = TinyViT
        output_shape = (4, 16)

        def arguments(self):
            return {"num_layers": 2, "image_size": 32, "projection_dim": 16}

        def inputs(self):
            return small_batch()["images"]

`LayerCase` has the same attributes, and those with the numbers of weights.
"""

import unittest

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.oracle_process import needs

# The harness of KerasHub imports grain.
needs_harness = needs("grain")
if needs_harness.args[0]:
    # pytest collects and skips subclasses of this class.
    KerasHubCase = unittest.TestCase
else:
    from keras_hub.src.tests import test_case

    KerasHubCase = test_case.TestCase


@pytest.mark.ci
@needs_harness
class Case(KerasHubCase):
    """Base class of the cases. A subclass sets `__test__ = True` to run."""

    __test__ = False
    # pytest would run this method of TensorFlow as a test.
    test_session = None
    cls: type

    def arguments(self):
        """Returns the arguments of the constructor."""
        raise NotImplementedError

    def inputs(self):
        """Returns inputs of a call."""
        raise NotImplementedError


class ModelCase(Case):
    """Tests of a model: configuration, dtypes, quantization and a `.keras` file."""

    # Shape of the outputs, or a dict of shapes.
    output_shape: tuple | dict
    # Options of `run_backbone_test`.
    options: dict = {}

    def test_configuration_precision_and_quantization(self):
        self.run_backbone_test(
            cls=self.cls,
            init_kwargs=self.arguments(),
            input_data=self.inputs(),
            expected_output_shape=self.output_shape,
            **self.options,
        )

    def test_a_keras_file_restores_the_outputs(self):
        self.run_model_saving_test(self.cls, self.arguments(), self.inputs())


class LayerCase(Case):
    """Tests of a layer: configuration, weights, dtypes, training and a mask."""

    input_shape = (2, 6, 6, 8)
    # Shape of the outputs if it isn't that of the inputs.
    output_shape: tuple | None = None
    trainable_weights = 0
    non_trainable_weights = 0
    # Including the states of random generators.
    non_trainable_variables = 0
    # Outputs of `inputs`, or None.
    outputs = None

    def inputs(self):
        return keras.random.normal(self.input_shape, seed=0)

    def test_configuration_weights_and_precision(self):
        self.run_layer_test(
            cls=self.cls,
            init_kwargs=self.arguments(),
            input_data=self.inputs(),
            expected_output_shape=self.output_shape or self.input_shape,
            expected_output_data=self.outputs,
            expected_num_trainable_weights=self.trainable_weights,
            expected_num_non_trainable_weights=self.non_trainable_weights,
            expected_num_non_trainable_variables=self.non_trainable_variables,
            # `test_all_weights_learn` takes less time than `fit`.
            run_training_check=False,
        )
        # The harness doesn't notice if an argument is missing in the configuration.
        config = self.cls(**self.arguments()).get_config()
        assert config.items() >= self.arguments().items()

    def test_all_weights_learn(self):
        layer = self.cls(**self.arguments())
        inputs = self.inputs()
        layer.build(inputs.shape)
        options = {}
        if layer._call_has_training_arg:
            options["training"] = True
        with tf.GradientTape() as tape:
            outputs = layer(inputs, **options)
            loss = tf.reduce_sum(outputs * keras.random.normal(outputs.shape, seed=1))
        weights = [weight.value for weight in layer.trainable_weights]
        for gradient in tape.gradient(loss, weights):
            assert np.isfinite(gradient).all()

    def test_a_mask_is_passed_on(self):
        if not self.cls(**self.arguments()).supports_masking:
            return
        layer = self.cls(**self.arguments())
        inputs = keras.KerasTensor(self.input_shape)
        inputs._keras_mask = keras.KerasTensor(self.input_shape[:-1], "bool")
        assert layer(inputs)._keras_mask is not None


class PreprocessingCase(Case):
    """Tests of a preprocessing layer: configuration, `tf.data` and grain."""

    # Captions that `detokenize` returns, for a tokenizer.
    detokenized = None

    def test_configuration_and_pipelines(self):
        self.run_preprocessing_layer_test(
            cls=self.cls,
            init_kwargs=self.arguments(),
            input_data=self.inputs(),
            expected_detokenize_output=self.detokenized,
        )
