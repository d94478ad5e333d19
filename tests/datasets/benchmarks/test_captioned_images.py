import dataclasses

import pytest

from align_keras.datasets.benchmarks import CaptionedImages, MultilingualCaptions
from align_keras.utils.errors import InputError


def test_a_picture_may_have_any_number_of_captions():
    data = CaptionedImages(["a", "b"], [["x", "y"], []], ["0", "1"], [["0", "1"], []])
    assert len(data) == 2
    assert data.columns == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], [], ["0"], [[]]), "`captions` must have .* received 0 for 1"),
        ((["a"], [["x"]], [], [["0"]]), "`image_ids` must have"),
        ((["a"], [["x"]], ["0"], []), "`caption_ids` must have one entry an image"),
        ((["a"], [["x"]], ["0"], [[]]), "received 0 for the 1 captions of 0"),
        (
            (["a"], [["x"]], ["0"], [["0"]], {"kind": []}),
            r"`columns\['kind'\]` must have",
        ),
    ],
)
def test_lengths_must_fit(arguments, message):
    with pytest.raises(InputError, match=message):
        CaptionedImages(*arguments)


def test_what_is_left_out_counts_as_missing():
    columns = {"kind": ["p", "q", "r"]}
    data = CaptionedImages("abc", [["x"], [], ["y", "z"]], "012", [["3"], [], "45"])
    data = dataclasses.replace(data, columns=columns, missing=2).of_rows([0, 2])
    assert (data.images, data.captions) == (["a", "c"], [["x"], ["y", "z"]])
    assert (data.image_ids, data.caption_ids) == (["0", "2"], [["3"], "45"])
    assert (data.columns, data.missing) == ({"kind": ["p", "r"]}, 3)
    captions = {"de": [["x"], ["y"], ["z"]]}
    data = MultilingualCaptions("abc", captions, "012", columns, missing=2)
    data = data.of_rows([2])
    assert (data.images, data.captions) == (["c"], {"de": [["z"]]})
    assert (data.image_ids, data.columns) == (["2"], {"kind": ["r"]})
    assert data.missing == 4


@pytest.mark.parametrize(
    ("captions", "ids", "message"),
    [
        ({"de": []}, ["0"], r"`captions\['de'\]` .* received 0 for 1"),
        ({"de": [["x"]]}, [], "`image_ids` must have one entry"),
    ],
)
def test_lengths_of_languages_must_fit(captions, ids, message):
    with pytest.raises(InputError, match=message):
        MultilingualCaptions(["a"], captions, ids)


def test_columns_of_languages_must_fit():
    with pytest.raises(InputError, match=r"`columns\['kind'\]` .* received 2 for 1"):
        MultilingualCaptions(["a"], {"de": [["x"]]}, ["0"], {"kind": [1, 2]})
