"""Tests of `tools/make_small_model.py`."""

import pathlib

import pytest


def test_a_folder_without_a_run_is_refused(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tools.make_small_model import main

    folder = tmp_path / "model"
    assert main(["--run", str(tmp_path / "nothing"), "--to", str(folder)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: model_dir must be the folder of a run. ")
    assert message.count("\n") == 1
    assert not folder.exists()
