"""Tests of prompt templates."""

import importlib.util

import pytest

from align_keras.datasets.benchmarks.class_names import (
    read_clip_benchmark,
    read_templates,
)
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import needs


def test_every_template_of_the_package_has_one_place_for_the_name():
    photos, drawings = read_templates("photos"), read_templates("drawings")
    both = read_templates()
    assert set(both) == set(photos) | set(drawings) and len(both) == len(set(both))
    assert all(template.count("{}") == 1 for template in both)
    assert len(photos) > 4 and len(drawings) > 4 and read_templates("none") == ["{}"]


@pytest.mark.ci
@needs("clip_benchmark")
def test_no_template_of_the_package_is_a_template_of_clip():
    file = "en_zeroshot_classification_templates.json"
    clip_templates = {
        template.replace("{c}", "{}").strip(" .").lower()
        for name in ("imagenet1k", "cifar10", "caltech101", "sun397", "food101")
        for template in read_clip_benchmark(file, name, "--templates")
    }
    templates = {template.lower() for template in read_templates()} - {"{}"}
    assert templates and templates.isdisjoint(clip_templates)


@pytest.mark.ci
@needs("clip_benchmark")
def test_templates_of_clip_are_read_from_clip_benchmark():
    templates = read_templates("clip:imagenet1k")
    # The CLIP paper uses 80 templates.
    assert len(templates) == 80
    assert "a photo of a {}." in templates
    assert all("{}" in template for template in templates)


@pytest.mark.ci
@needs("clip_benchmark")
def test_an_unknown_data_set_of_clip_benchmark_raises():
    message = r"imagenet1k.*\. Received: 'abc'"
    with pytest.raises(InputError, match=message):
        read_templates("clip:abc")


def test_a_missing_clip_benchmark_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install clip-benchmark"):
        read_templates("clip:imagenet1k")


def test_a_file_has_one_template_per_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a {}\n\n  the {} \n", encoding="utf-8")
    assert read_templates(str(path)) == ["a {}", "the {}"]


def test_malformed_files_raise(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a {}\na photo\n")
    with pytest.raises(InputError, match="'a photo' in .*prompts.txt"):
        read_templates(path)
    path.write_text("\n")
    with pytest.raises(InputError, match="prompts.txt"):
        read_templates(path)
    with pytest.raises(
        InputError, match="default, drawings, none, photos.*missing.txt"
    ):
        read_templates(str(tmp_path / "missing.txt"))
