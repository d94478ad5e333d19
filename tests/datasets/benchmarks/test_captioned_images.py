"""Tests of the classes of captioned images."""

import dataclasses

from align_keras.datasets.benchmarks import CaptionedImages, MultilingualCaptions


def test_an_image_may_have_any_number_of_captions():
    data = CaptionedImages(["a", "b"], [["x", "y"], []], ["0", "1"], [["0", "1"], []])
    assert len(data) == 2
    assert data.columns == {}


def test_unselected_images_count_as_missing():
    columns = {"kind": ["p", "q", "r"]}
    data = CaptionedImages("abc", [["x"], [], ["y", "z"]], "012", [["3"], [], "45"])
    data = dataclasses.replace(data, columns=columns, missing=2).select_rows([0, 2])
    assert (data.images, data.captions) == (["a", "c"], [["x"], ["y", "z"]])
    assert (data.image_ids, data.caption_ids) == (["0", "2"], [["3"], "45"])
    assert (data.columns, data.missing) == ({"kind": ["p", "r"]}, 3)
    captions = {"de": [["x"], ["y"], ["z"]]}
    data = MultilingualCaptions("abc", captions, "012", columns, missing=2)
    data = data.select_rows([2])
    assert (data.images, data.captions) == (["c"], {"de": [["z"]]})
    assert (data.image_ids, data.columns) == (["2"], {"kind": ["r"]})
    assert data.missing == 4
