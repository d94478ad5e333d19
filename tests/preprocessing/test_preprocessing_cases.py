"""Tests of preprocessing layers with KerasHub's harness."""

import numpy as np

from align_keras.models import ALIGNImageConverter, ALIGNPreprocessor, ALIGNTokenizer
from tests.helpers.model_case import Case, PreprocessingCase
from tests.helpers.small import VOCABULARY

CAPTIONS = ["a b", "red", "blue cat", "c"]


def images():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (4, 40, 50, 3)).astype("uint8")


class ALIGNTokenizerTest(PreprocessingCase):
    __test__ = True
    cls = ALIGNTokenizer
    detokenized = CAPTIONS

    def arguments(self):
        return {"vocabulary": VOCABULARY, "sequence_length": 12}

    def inputs(self):
        return CAPTIONS


class ALIGNImageConverterTest(PreprocessingCase):
    __test__ = True
    cls = ALIGNImageConverter

    def arguments(self):
        return {"image_size": 32}

    def inputs(self):
        return images()


class ALIGNPreprocessorTest(Case):
    __test__ = True

    def test_preprocessor(self):
        self.init_kwargs = {
            "tokenizer": ALIGNTokenizer(VOCABULARY, sequence_length=8),
            "image_converter": ALIGNImageConverter(32),
        }
        self.run_preprocessor_test(
            cls=ALIGNPreprocessor,
            init_kwargs=self.init_kwargs,
            input_data={"image": images(), "caption": CAPTIONS},
        )
