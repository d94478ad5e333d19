"""Fixtures of the text tests."""

import glob

import pytest


@pytest.fixture(scope="session")
def stamp_captions():
    """Captions of the Tux Paint stamps in all languages."""
    files = sorted(glob.glob("/usr/share/tuxpaint/stamps/**/*.txt", recursive=True))
    if not files:
        pytest.skip("the Debian package tuxpaint-stamps-default isn't installed")
    lines = []
    for name in files:
        with open(name, encoding="utf-8", errors="replace") as file:
            lines += [line.split(".utf8=", 1)[-1].strip() for line in file]
    return [line for line in lines if line]
