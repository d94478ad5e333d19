"""The comparison of two checkouts fails if a figure is clearly slower."""

import importlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools" / "benchmarks")
    return importlib.import_module("compare")


@pytest.mark.parametrize(
    ("after", "is_slower"),
    [
        ([1.3, 1.3, 1.3], True),
        ([1.1, 1.1, 1.1], False),
        # The median is larger, but a quarter of the turns is not.
        ([1.0, 1.0, 1.3, 1.3, 1.3], False),
        ([0.5, 0.5, 0.5], False),
    ],
)
def test_a_figure_that_is_clearly_slower_ends_with_code_1(
    compare, monkeypatch, tmp_path, capsys, after, is_slower
):
    figure = compare.FIGURES["help"]
    row = compare.Row(figure, [1.0] * len(after), after)
    monkeypatch.setattr(compare, "compare", lambda *arguments: row)
    monkeypatch.setattr(compare, "STAMPS", tmp_path)
    monkeypatch.setattr("sys.argv", ["compare.py", str(ROOT), "--figures", "help"])
    if is_slower:
        with pytest.raises(SystemExit, match="--help"):
            compare.main()
    else:
        compare.main()
    [_, line] = capsys.readouterr().out.splitlines()
    assert f"{sorted(after)[len(after) // 2]:.2f}" in line.split()
