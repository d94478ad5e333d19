import pytest

from align_keras.runs.corpus_build import StageFolder


def test_equal_inputs_find_the_same_folder_and_others_do_not(tmp_path):
    one = StageFolder(tmp_path, "filter", {"a": 1, "b": [2]})
    assert StageFolder(tmp_path, "filter", {"b": [2], "a": 1}).path == one.path
    assert StageFolder(tmp_path, "filter", {"a": 1, "b": [3]}).path != one.path
    assert StageFolder(tmp_path, "dedup", {"a": 1, "b": [2]}).path != one.path


def test_a_stage_is_done_with_its_facts_and_loses_its_scratch(tmp_path):
    stage = StageFolder(tmp_path, "filter", [])
    (stage.path / "counts").mkdir()
    (stage.path / "counts" / "a.npy").write_bytes(b"1")
    (stage.path / "part.parquet").write_bytes(b"2")
    assert stage.facts() is None
    stage.finish({"kept": 3}, ("counts", "never made"))
    again = StageFolder(tmp_path, "filter", [])
    assert again.facts() == {"kept": 3}
    assert not (again.path / "counts").exists()
    assert (again.path / "part.parquet").exists()


def test_facts_that_are_not_json_leave_the_stage_undone(tmp_path):
    stage = StageFolder(tmp_path, "filter", [])
    with pytest.raises(TypeError):
        stage.finish({"kept": object()})
    assert stage.facts() is None
    assert [path.name for path in stage.path.iterdir()] == []


def test_what_killed_tasks_left_goes(tmp_path):
    stage = StageFolder(tmp_path, "filter", [])
    (stage.path / ".part.parquet.0123abcd.tmp").write_bytes(b"half")
    (stage.path / "part.parquet").write_bytes(b"whole")
    stage.finish({})
    names = sorted(path.name for path in stage.path.iterdir())
    assert names == ["done.json", "part.parquet"]
