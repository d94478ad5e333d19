"""Folder of a stage."""

import pytest

from align_keras.runs.corpus_stages import CorpusStage


def test_the_path_depends_on_the_name_and_the_inputs(tmp_path):
    stage = CorpusStage(tmp_path, "filter", {"a": 1, "b": [2]})
    assert CorpusStage(tmp_path, "filter", {"b": [2], "a": 1}).path == stage.path
    assert CorpusStage(tmp_path, "filter", {"a": 1, "b": [3]}).path != stage.path
    assert CorpusStage(tmp_path, "dedup", {"a": 1, "b": [2]}).path != stage.path


def test_finish_saves_the_facts_and_removes_scratch_folders(tmp_path):
    stage = CorpusStage(tmp_path, "filter", [])
    (stage.path / "counts").mkdir()
    (stage.path / "counts" / "a.npy").write_bytes(b"1")
    (stage.path / "part.parquet").write_bytes(b"2")
    assert stage.facts is None
    stage.finish({"kept": 3}, ("counts", "missing"))
    reopened = CorpusStage(tmp_path, "filter", [])
    assert reopened.facts == {"kept": 3}
    assert not (reopened.path / "counts").exists()
    assert (reopened.path / "part.parquet").exists()


def test_a_stage_with_invalid_facts_is_not_done(tmp_path):
    stage = CorpusStage(tmp_path, "filter", [])
    with pytest.raises(TypeError):
        stage.finish({"kept": object()})
    assert stage.facts is None
    assert [path.name for path in stage.path.iterdir()] == []


def test_finish_removes_temporary_files_of_killed_tasks(tmp_path):
    stage = CorpusStage(tmp_path, "filter", [])
    (stage.path / ".part.parquet.0123abcd.tmp").write_bytes(b"half")
    (stage.path / "part.parquet").write_bytes(b"whole")
    stage.finish({})
    names = sorted(path.name for path in stage.path.iterdir())
    assert names == ["done.json", "part.parquet"]
