"""Tests of the reader of SimLex-999."""

import pytest

from align_keras.datasets.benchmarks import SimLexPair, read_simlex, simlex
from align_keras.utils.errors import InputError
from tests.helpers.small_benchmarks import (
    SIMLEX_HEADER,
    simlex_lines,
    write_lines,
    write_simlex,
)

OLD_NEW = "old\tnew\tA\t1.58\t2.72\t2.81\t2\t7.25\t1\t0.41"
SMART = "smart\tintelligent\tA\t9.2\t1.75\t2.46\t1\t7.11\t0\t0.67"


def test_pairs_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(simlex, "PAIRS", 2)
    path = write_simlex(tmp_path / "SimLex-999.txt", [OLD_NEW, SMART])
    assert read_simlex(path) == [
        SimLexPair("old", "new", "A", 1.58, 2, True),
        SimLexPair("smart", "intelligent", "A", 9.2, 1, False),
    ]


def test_windows_line_ends_and_blank_lines_are_accepted(tmp_path, monkeypatch):
    monkeypatch.setattr(simlex, "PAIRS", 2)
    path = write_simlex(tmp_path / "SimLex-999.txt", [OLD_NEW, SMART, ""])
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    pairs = read_simlex(path)
    assert [pair.is_hard for pair in pairs] == [True, False]


def test_the_file_must_have_999_pairs(tmp_path):
    path = write_simlex(tmp_path / "SimLex-999.txt")
    with pytest.raises(InputError, match="40 pairs"):
        read_simlex(path)
    write_simlex(path, simlex_lines(999))
    assert len(read_simlex(path)) == 999


@pytest.mark.parametrize(
    "lines", [[SIMLEX_HEADER, "old\tnew\tA"], [OLD_NEW.replace("\t", ",")]]
)
def test_short_lines_and_other_columns_are_refused(tmp_path, lines):
    path = tmp_path / "SimLex-999.txt"
    write_lines(path, lines)
    with pytest.raises(InputError, match="word1"):
        read_simlex(path)
