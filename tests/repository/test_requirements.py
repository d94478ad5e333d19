"""Packages and version bounds in setup.cfg."""

import configparser
import pathlib

import pytest
import yaml
from packaging.requirements import Requirement
from setuptools import find_packages

ROOT = pathlib.Path(__file__).parents[2]


# Packages of data, whose folders are at the top of the repository.
DATA_PACKAGES = {
    "align_keras.experiments": "experiments",
    "align_keras.saved_models": "saved_models",
}


@pytest.fixture(scope="module")
def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_the_metadata_has_the_author_and_the_paper_of_the_citation(setup_cfg):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert setup_cfg["metadata"]["author"] == citation["authors"][0]["name"]
    paper = citation["preferred-citation"]["url"]
    assert setup_cfg["metadata"]["project_urls"] == f"\nPaper = {paper}"


def requirements(text):
    """Returns the requirements of an option of setup.cfg."""
    return [Requirement(line) for line in text.strip().splitlines()]


@pytest.fixture
def keras(setup_cfg):
    (keras,) = (
        requirement
        for lines in setup_cfg["options.extras_require"].values()
        for requirement in requirements(lines)
        if requirement.name == "keras"
    )
    return keras.specifier


def test_every_package_is_listed(setup_cfg):
    packages = find_packages(str(ROOT), include=["align_keras", "align_keras.*"])
    listed = setup_cfg["options"]["packages"].split()
    assert listed == sorted([*packages, *DATA_PACKAGES])
    lines = setup_cfg["options"]["package_dir"].strip().splitlines()
    assert dict(line.split(" = ") for line in lines) == DATA_PACKAGES


def test_extras_of_training_include_tensorflow(setup_cfg):
    extras = ("quickstart", "corpus", "language", "svg", "openvino", "litert")
    for extra in (*extras, "serving", "test"):
        (tensorflow,) = (
            requirement
            for requirement in requirements(setup_cfg["options.extras_require"][extra])
            if requirement.name == setup_cfg["metadata"]["name"]
        )
        assert tensorflow.extras == {"tensorflow"}, extra


def test_keras_has_all_security_fixes(keras):
    # 3.10.0: CVE-2025-8747, 9905, 9906, 12058 and 12060.
    # 3.12.0: CVE-2026-0897, 1462 and 1669. 3.12.3, 3.13.2, 3.14.1 and 3.15.0:
    # decompression bombs.
    for version in ("3.10.0", "3.12.0", "3.12.3", "3.13.2", "3.14.1", "3.15.0"):
        assert version not in keras
    for version in ("3.12.4", "3.15.1", "3.16.0"):
        assert version in keras
