import importlib.util

import pytest

from align_keras.datasets.benchmarks.class_names import (
    read_clip_benchmark,
    read_templates,
)
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import needs


def test_our_own_are_groups_with_one_place_for_the_name():
    photos, drawings = read_templates("photos"), read_templates("drawings")
    both = read_templates()
    assert set(both) == set(photos) | set(drawings) and len(both) == len(set(both))
    assert all(template.count("{}") == 1 for template in both)
    assert len(photos) > 4 and len(drawings) > 4 and read_templates("none") == ["{}"]


@pytest.mark.ci
@needs("clip_benchmark")
def test_none_of_ours_is_clips():
    file = "en_zeroshot_classification_templates.json"
    clips = {
        template.replace("{c}", "{}").strip(" .").lower()
        for name in ("imagenet1k", "cifar10", "caltech101", "sun397", "food101")
        for template in read_clip_benchmark(file, name, "--templates")
    }
    assert not {template.lower() for template in read_templates()} - {"{}"} & clips


@pytest.mark.ci
@needs("clip_benchmark")
def test_clips_are_read_from_clip_benchmark():
    found = read_templates("clip:imagenet1k")
    assert len(found) == 80  # As the CLIP paper says.
    assert "a photo of a {}." in found and all("{}" in text for text in found)


@pytest.mark.ci
@needs("clip_benchmark")
def test_an_unknown_set_of_clip_benchmark():
    with pytest.raises(InputError, match="must be one of .*imagenet1k.*received 'abc'"):
        read_templates("clip:abc")


def test_clip_benchmark_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install clip-benchmark, or give a file"):
        read_templates("clip:imagenet1k")


def test_files_hold_one_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a {}\n\n  the {} \n", encoding="utf-8")
    assert read_templates(str(path)) == ["a {}", "the {}"]


def test_malformed_files(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a {}\na photo\n")
    with pytest.raises(InputError, match="the line 'a photo' in .*prompts.txt"):
        read_templates(path)
    path.write_text("\n")
    with pytest.raises(InputError, match="received no line in"):
        read_templates(path)
    with pytest.raises(
        InputError, match="must be one of default, drawings, none, phot"
    ):
        read_templates(str(tmp_path / "missing.txt"))
