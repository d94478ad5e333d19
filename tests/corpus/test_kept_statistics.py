import pytest

from align_keras.corpus.kept_statistics import kept_statistics
from tests.corpus.picture_tables import DROPPED, write_pieces

pytest.importorskip("pyarrow")


def test_histograms_of_what_stays_with_inherited_captions(tmp_path):
    assert kept_statistics(*write_pieces(tmp_path), DROPPED) == {
        "Words of a caption": [("2", 4), ("4", 1)],
        "Shorter side, pixels": [("to 300", 1), ("over 2000", 1)],
        "Longer side by shorter": [("to 1.1", 1), ("to 1.34", 1)],
        "Captions of a picture": [("to 1", 1), ("to 5", 1)],
        "Where captions stood": [("alt", 4), ("title", 1)],
        "Languages": [("en", 3), ("unknown", 1), ("de", 1)],
    }


def test_of_each_only_what_stays_counts(tmp_path):
    everything = [[key, "near duplicate", "", ""] for key in "abcdef"]
    empty = kept_statistics(*write_pieces(tmp_path), everything)
    assert set(map(len, empty.values())) == {0} and len(empty) == 6
