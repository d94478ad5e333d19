"""Tests of the corpora of a run."""

from align_keras.config import load_config
from align_keras.runs.run_corpora import open_corpora
from tests.helpers.translated_stamps import write_translated_stamps


def test_each_member_of_a_mixture_has_notes(tmp_path, monkeypatch, capsys):
    write_translated_stamps(tmp_path / "stamps")
    monkeypatch.setenv("ALIGN_KERAS_STAMPS_DIR", str(tmp_path / "stamps"))
    data_dir = str(tmp_path / "data")
    overrides = {
        "task.train_data.corpus": "stamps/de+stamps/fr",
        "task.train_data.tfds_data_dir": data_dir,
        "task.validation_data.corpus": "stamps",
        "task.validation_data.tfds_data_dir": data_dir,
    }
    task = load_config("quickstart_stamps", params_override=overrides).task
    corpora = open_corpora(task, 64)
    num_pairs = {name: notes["kept"] for name, notes in corpora.notes.items()}
    assert num_pairs == {"stamps/de": 3, "stamps/fr": 2, "stamps": 3}
    lines = capsys.readouterr().err.splitlines()
    # The name of the mixture would make the lines long.
    assert {"stamps/de: 3 pairs kept", "stamps/fr: 2 pairs kept"} < set(lines)
    assert not any("+" in line for line in lines)
