"""Which characters a vocabulary without room for all of them takes."""

from align_keras.text import learn_vocabulary
from align_keras.text.vocabulary import SPECIAL_TOKENS


def test_of_equally_frequent_characters_the_first_by_code_point_come_in():
    captions = ["d", "c", "a", "e", "b", "z z"]
    vocabulary = learn_vocabulary(captions, len(SPECIAL_TOKENS) + 3, min_frequency=1)
    assert vocabulary[len(SPECIAL_TOKENS) :] == ["a", "b", "z"]
