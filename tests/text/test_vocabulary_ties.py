"""Selection of characters for a small vocabulary."""

from align_keras.text import learn_vocabulary
from align_keras.text.vocabulary import SPECIAL_TOKENS


def test_equally_frequent_characters_are_selected_by_code_point():
    captions = ["d", "c", "a", "e", "b", "z z"]
    vocabulary = learn_vocabulary(captions, len(SPECIAL_TOKENS) + 3, min_frequency=1)
    assert vocabulary[len(SPECIAL_TOKENS) :] == ["a", "b", "z"]
