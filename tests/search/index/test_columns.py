"""Kinds of the columns of user tables."""

import pytest

from align_keras.search.index.columns import kind_of


@pytest.mark.parametrize(
    "cells, kind",
    [
        (["1", "2"], "number"),
        (["9007199254740992"], "number"),
        (["9007199254740993"], "text"),
        ([9007199254740993], "text"),
        ([1, 2.5, None, float("nan")], "number"),
        (["1.10"], "decimal"),
        (["0.1000000000000000055511151231257827"], "text"),
        (["٣"], "text"),
        (["+1"], "text"),
        (["01"], "text"),
        (["inf"], "text"),
        ([True], "text"),
        (["", None, " "], None),
    ],
)
def test_kind_of_recognizes_numbers(cells, kind):
    assert kind_of(cells) == kind
