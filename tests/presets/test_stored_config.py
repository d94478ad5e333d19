"""Parts of a model that open their own piece of a preset."""

import pytest

from align_keras.models import (
    ALIGN,
    ALIGNBackbone,
    ALIGNImageConverter,
    ALIGNPreprocessor,
    ALIGNTokenizer,
)
from align_keras.utils.errors import InputError
from tests.helpers.align_folders import tiny_align
from tests.helpers.small import VOCABULARY, small_align


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """Dict from the kind of a preset to its path or name and its options."""
    folder = tmp_path_factory.mktemp("presets")
    model = small_align()
    model.save_to_preset(folder / "preset")
    model.save(folder / "model.keras")
    return {
        "folder": (folder / "preset", {}),
        "file": (folder / "model.keras", {}),
        "hugging_face": (tiny_align(), {}),
        "name": ("align_nano", {"vocabulary": VOCABULARY}),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "folder",
        "name",
        pytest.param("file", marks=pytest.mark.ci),
        pytest.param("hugging_face", marks=pytest.mark.ci),
    ],
)
def test_the_parts_are_those_of_the_model(presets, kind):
    preset, options = presets[kind]
    model = ALIGN.from_preset(preset, **options)

    def assert_equal(part, expected):
        config = part.get_config()
        assert {**config, "name": ""} == {**expected.get_config(), "name": ""}

    tokenizer = ALIGNTokenizer.from_preset(preset, **options)
    converter = ALIGNImageConverter.from_preset(preset)
    preprocessor = ALIGNPreprocessor.from_preset(preset, **options)
    assert_equal(tokenizer, model.tokenizer)
    assert_equal(converter, model.preprocessor.image_converter)
    assert_equal(preprocessor.tokenizer, model.tokenizer)
    assert_equal(preprocessor.image_converter, model.preprocessor.image_converter)
    if kind == "name":
        return
    backbone = ALIGNBackbone.from_preset(preset)
    assert backbone.image_encoder.fingerprint() == model.image_encoder.fingerprint()
    assert backbone.text_encoder.fingerprint() == model.text_encoder.fingerprint()


@pytest.mark.parametrize("kind", ["folder", "hugging_face", "name"])
def test_sizes_replace_those_of_the_preset(presets, kind):
    preset, options = presets[kind]
    options = {**options, "image_size": 96, "sequence_length": 5}
    preprocessor = ALIGNPreprocessor.from_preset(preset, **options)
    assert preprocessor.image_converter.side == 96
    assert preprocessor.sequence_length == 5


def test_arguments_that_do_not_fit_are_refused(presets):
    for preset, options, message in (
        (presets["file"][0], {"image_size": 96}, "image_size .* .keras file"),
        (presets["folder"][0], {"vocabulary": VOCABULARY}, "vocabulary can only"),
        ("align_nano", {}, "have a vocabulary"),
        ("align_nano", {"sequence_lenght": 5}, "mean sequence_length"),
    ):
        with pytest.raises(InputError, match=message):
            ALIGNTokenizer.from_preset(preset, **options)


def test_a_changed_vocabulary_is_refused(tmp_path):
    small_align().save_to_preset(tmp_path)
    path = tmp_path / "assets" / "tokenizer" / "vocabulary.txt"
    path.write_text(path.read_text() + "extra\n")
    with pytest.raises(InputError, match=r"vocabulary\.txt is damaged"):
        ALIGNTokenizer.from_preset(tmp_path)
