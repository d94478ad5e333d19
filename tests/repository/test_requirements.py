"""Version bounds in setup.cfg exclude versions with known security problems."""

import configparser
import pathlib

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def keras():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = parser["options"]["install_requires"].splitlines()
    (line,) = (line for line in lines if line.startswith("keras>"))
    return Requirement(line).specifier


@pytest.mark.parametrize("version", ["3.12.4", "3.15.1", "3.16.0"])
def test_keras_with_all_security_fixes_is_allowed(keras, version):
    assert version in keras


@pytest.mark.parametrize(
    "version",
    [
        "3.10.0",  # CVE-2025-8747, 9905, 9906, 12058 and 12060.
        "3.12.0",  # CVE-2026-0897, 1462 and 1669.
        "3.12.3",  # Decompression bombs.
        "3.13.2",
        "3.14.1",
        "3.15.0",
    ],
)
def test_keras_without_all_security_fixes_is_excluded(keras, version):
    assert version not in keras
