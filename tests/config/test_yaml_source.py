"""Parser of overrides."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_keras.config.yaml_source import read_overrides
from align_keras.utils.errors import InputError


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", {}),
        ("a=1", {"a": 1}),
        ("a.b=1,a.c=2", {"a": {"b": 1, "c": 2}}),
        (" a.b = 1 , a.c = 2 ,", {"a": {"b": 1, "c": 2}}),
        ("a=1,a=2", {"a": 2}),
        ("a=[1, 2],b=3", {"a": [1, 2], "b": 3}),
        ("a={x: 1, y: [2, 3]},b=4", {"a": {"x": 1, "y": [2, 3]}, "b": 4}),
        ("a=[[1,2],[3]]", {"a": [[1, 2], [3]]}),
        ("a='x,y',b=1", {"a": "x,y", "b": 1}),
        ('a="x,\\"y",b=1', {"a": 'x,"y', "b": 1}),
        ('a="x\\", y",b=1', {"a": 'x", y', "b": 1}),
        ('a="x\\\\",b=1', {"a": "x\\", "b": 1}),
        ("a='it''s, so',b=1", {"a": "it's, so", "b": 1}),
        ("a='',b=1", {"a": "", "b": 1}),
        ("a=['x,]', y],b=1", {"a": ["x,]", "y"], "b": 1}),
        ("a=Bob's,b=Ann's", {"a": "Bob's", "b": "Ann's"}),
        ("a=train[:10%],b=1", {"a": "train[:10%]", "b": 1}),
        ("a=x=y", {"a": "x=y"}),
        ("a=", {"a": None}),
        ("a=/data/my corpus/v1.2", {"a": "/data/my corpus/v1.2"}),
        ("a=é", {"a": "é"}),
        ("a.b={c: 1},a.b.d=2", {"a": {"b": {"c": 1, "d": 2}}}),
    ],
)
def test_overrides_are_parsed(text, expected):
    assert read_overrides(text).values == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a=1,2", "'2'"),
        ("a..b=1", "a..b"),
        ("a='x", "a='x"),
        ("a=*x", "a=*x"),
    ],
)
def test_invalid_overrides_are_refused(text, expected):
    with pytest.raises(InputError) as caught:
        read_overrides(text)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


PRINTABLE = st.characters(exclude_categories=["C", "Zl", "Zp"])


@settings(max_examples=30)
@given(st.lists(st.one_of(st.text(PRINTABLE), st.integers()), min_size=1))
def test_json_values_are_parsed_unchanged(values):
    items = [
        f"k{number}={json.dumps(value, ensure_ascii=False)}"
        for number, value in enumerate(values)
    ]
    expected = {f"k{number}": value for number, value in enumerate(values)}
    assert read_overrides(",".join(items)).values == expected


@settings(max_examples=30)
@given(st.text())
def test_any_text_is_parsed_or_refused_with_a_one_line_error(text):
    try:
        read_overrides(text)
    except InputError as error:
        assert "\n" not in str(error)
