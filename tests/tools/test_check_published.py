"""The comparison with published results, on local data."""

import pytest
import yaml

from tests.helpers.color_towers import COLORS, GOLDEN, image_bytes
from tools import check_published

PARTS = [*COLORS, *COLORS]


@pytest.fixture
def data(tmp_path):
    """Table of six images, of which one of two for each color is found first."""
    lines = ["image,caption"]
    for row, color in enumerate(PARTS):
        (tmp_path / f"{row}.png").write_bytes(image_bytes(color, (24 + row, 24)))
        lines.append(f"{row}.png,{color}")
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(lines))
    classes = tmp_path / "classes"
    for row, color in enumerate(PARTS):
        # The last image is in the wrong folder, so that 5 of 6 are correct.
        folder = classes / (color if row < 5 else "red")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row}.png").write_bytes(image_bytes(color, (24 + row, 24)))
    return tmp_path


@pytest.fixture
def check(data, tmp_path):
    def run(*arguments, value=5 / 6, tolerance=0.001, **entry):
        figures = [
            {
                "name": "colors",
                "value": value,
                "tolerance": tolerance,
                "source": "a calculation",
                "folder": {
                    "protocol": "zero_shot",
                    "data": str(data / "classes"),
                    "options": {"templates": "none"},
                    "metric": "zero_shot/top_1",
                },
            }
            | entry
        ]
        path = tmp_path / "figures.yaml"
        path.write_text(yaml.safe_dump(figures))
        return check_published.main(
            [
                f"--model={GOLDEN}",
                f"--figures={path}",
                f"--cache={tmp_path / 'cache'}",
                *arguments,
            ]
        )

    return run


def test_equal_figures_agree(check, capsys):
    assert check("--from-folders") == 0
    output = capsys.readouterr().out
    assert "83.33" in output and "agrees" in output


def test_a_wrong_figure_differs(check, capsys):
    assert check("--from-folders", value=0.85) == 1
    assert "differs" in capsys.readouterr().out
    assert check("--from-folders", value=0.85, tolerance=0.02) == 0


def test_the_data_of_a_figure_can_be_set(check, data, capsys):
    assert check(f"--data=colors={data / 'classes'}") == 0
    assert check(f"--data=colors={data / 'nothing'}") == 2
    assert "colors: " in capsys.readouterr().err


def test_a_figure_that_cannot_be_measured_has_another_exit_code(check, capsys):
    assert check("--from-folders", folder=None) == 2
    captured = capsys.readouterr()
    assert "not measured" in captured.out and "entry folder" in captured.err
    assert check() == 2
    assert "entry mteb" in capsys.readouterr().err


def test_mistakes_are_reported(check, tmp_path, capsys):
    assert check("--only=shapes") == 2
    assert "shapes" in capsys.readouterr().err
    bad = tmp_path / "bad.yaml"
    bad.write_text("- {name: 3}")
    assert check_published.main([f"--figures={bad}"]) == 2
    assert "YAML list" in capsys.readouterr().err


def test_the_published_figures_have_a_source_and_two_ways():
    figures = check_published.read_figures(check_published.FIGURES)
    assert len(figures) == 6
    for figure in figures:
        assert figure.source.startswith("https://") and 0 < figure.value < 1
        assert figure.mteb and figure.folder
        templates = figure.folder.get("options", {}).get("templates")
        if templates:
            assert check_published.FIGURES.with_name(templates).exists()
