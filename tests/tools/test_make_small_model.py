"""Tests of `tools/make_small_model.py`."""

import pathlib

import pytest


def test_a_folder_without_a_run_is_refused(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tools.make_small_model import main

    folder = tmp_path / "model"
    with pytest.raises(SystemExit) as exit_info:
        main(["--run", str(tmp_path / "nothing"), "--to", str(folder)])
    assert exit_info.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "model_dir" in message
    assert not folder.exists()
