import concurrent.futures
import json
import os
import pathlib
import shutil
import socket
import sqlite3

import huggingface_hub.constants
import numpy as np
import pytest

from align_keras import load_model
from align_keras.embedders.litert_embedder import LiteRTEmbedder
from align_keras.embedders.locations import locate_model
from align_keras.search import Hit, Index, Query
from align_keras.search.index import folder_store, vectors_file
from align_keras.search.index.database import RebuiltIndexError
from align_keras.search.index.folder_store import FolderStore
from align_keras.search.index.opening import default_index
from align_keras.search.index.vectors_file import VectorsFile
from align_keras.search.query.hits import relevance
from align_keras.utils.errors import InputError


@pytest.fixture
def build(tmp_path, colors):
    def build(*sources):
        return Index.build(tmp_path / "index", sources, colors.GOLDEN)

    return build


def names(hits):
    return [pathlib.Path(hit.path).name for hit in hits]


def test_images_are_found_by_text_by_image_and_by_both(build, photos, colors):
    index = build(photos)
    assert len(index) == 3 and dict(index.changes.unreadable) == {"unreadable": 1}
    hits = index.query("red", k=2)
    assert names(hits)[0] == "red.png" and len(hits) == 2
    assert hits[0].score == pytest.approx(1.0, abs=1e-3) and hits[0].rank == 1
    green = colors.image_bytes((10, 200, 10))
    assert names(index.query(Query(image=green)))[0] == "green.png"
    assert names(index.query(Query(image=green, plus="blue")))[0] == "green.png"
    heavy = Query(image=green, plus="blue", text_weight=2)
    assert names(index.query(heavy))[0] == "blue.jpg"
    blue = index.query("blue")[0]
    assert names(index.query(Query(image=blue.id, k=1))) == ["blue.jpg"]
    query = Query(["red", "green"], minus="green")
    assert names(index.query(query))[0] == "red.png"
    assert names(index.query(index.embedding(blue.id)))[0] == "blue.jpg"
    assert isinstance(blue, Hit) and blue.columns["folder"] == "photos/Italy"
    assert (blue.columns["width"], blue.columns["height"]) == (40, 24)


def test_a_new_modification_time_does_not_change_the_image(build, photos):
    rows = build(photos).store.vectors.rows().shape
    os.utime(photos / "red.png", (1, 1))
    index = build(photos)
    assert index.changes.unchanged == 3 and index.store.vectors.rows().shape == rows


def test_conditions_apply_to_the_current_images(build, photos, colors, monkeypatch):
    monkeypatch.setattr(folder_store, "CONDITION_IMAGES_PER_BLOCK", 2)
    index = build(photos)
    for _ in range(2):
        hits = index.query("red", where="width < 100")
        assert set(names(hits)) == {"red.png", "green.png", "blue.jpg"}
    (photos / "green.png").unlink()
    (photos / "other.png").write_bytes(colors.image_bytes((90, 0, 90)))
    build()
    hits = index.query("red", where="width < 100")
    assert set(names(hits)) == {"red.png", "other.png", "blue.jpg"}


def test_a_table_loses_no_image_because_of_its_ids_or_captions(build, photos):
    table = photos.parent / "table.csv"
    files = ["red.png", "green.png", "Italy/blue.jpg"]
    captions = ["a leaf", "x" * 2001, ""]
    rows = [f"7,photos/{f},{c}\n" for f, c in zip(files, captions, strict=True)]
    table.write_text("".join(["id,image,caption\n", *rows]))
    for _ in range(2):
        index = build(table)
        assert len(index) == 3
        assert index.changes.unreadable == {"caption of the table: long caption": 1}
    hits = {hit.columns["name"]: hit.captions for hit in index.query("red", k=3)}
    assert hits == {"red.png": ["a leaf"], "green.png": [], "blue.jpg": []}
    (hit, *_) = index.query("green", k=1, where="id_ = 7")
    assert hit.columns["name"] == "green.png"


def test_circular_links_are_handled(build, photos):
    (photos / "Italy" / "parent").symlink_to(photos)
    (photos / "loop.png").symlink_to(photos / "loop.png")
    index = build(photos)
    assert len(index) == 3
    assert sum(index.changes.unreadable.values()) == 2


def test_a_missing_or_empty_folder_removes_no_images(build, photos, tmp_path, capsys):
    build(photos)
    photos.rename(tmp_path / "elsewhere")
    index = build()
    assert len(index) == 3 and index.changes.unavailable == [str(photos)]
    photos.mkdir()
    assert len(build()) == 3
    assert str(photos) in capsys.readouterr().err
    assert index.remove([photos]) == 3 and len(index) == 0
    assert index.query("red") == []
    with pytest.raises(InputError, match="sources"):
        build(photos)
    with pytest.raises(InputError, match="sources"):
        build()


def test_rows_without_an_image_are_removed(build, photos, monkeypatch):
    monkeypatch.setattr(vectors_file, "VECTOR_ROWS_PER_BLOCK", 1)
    index = build(photos)
    red = index.query("red", k=1)[0]
    os.unlink(photos / "green.png")
    rebuilt = build()
    assert rebuilt.store.vectors_file == "vectors.1.f32"
    assert len(rebuilt.store.vectors.rows()) == 2
    # An object that has opened the index continues with the new file.
    assert index.query("red", k=1)[0] == red
    assert len(index.query("red", k=9)) == 2


@pytest.mark.parametrize(
    "owner, method, read",
    [
        (FolderStore, "check_rows", lambda index, red: index.query("blue", k=1)),
        (VectorsFile, "check_range", lambda index, red: index.check()),
        (FolderStore, "vector", lambda index, red: index.embedding(red)),
    ],
)
def test_rows_may_be_renumbered_while_they_are_read(
    build, photos, monkeypatch, owner, method, read
):
    monkeypatch.setattr(vectors_file, "VECTOR_ROWS_PER_BLOCK", 1)
    index = build(photos)
    (hit,) = index.query("red", k=1)
    original = getattr(owner, method)

    def renumber(store, *arguments):
        monkeypatch.setattr(owner, method, original)
        os.unlink(photos / "green.png")
        build()
        return original(store, *arguments)

    expected = read(build(), hit.id)
    monkeypatch.setattr(owner, method, renumber)
    result = read(index, hit.id)
    assert index.store.vectors_file == "vectors.1.f32"
    if method == "check_range":
        assert result == expected - 1
    else:
        assert np.all(np.equal(result, expected))


def test_only_one_process_writes_at_a_time(build, photos, tmp_path):
    index = build(photos)
    with FolderStore.locked(tmp_path / "index"):
        with pytest.raises(InputError, match="another process"):
            build(photos)
        assert len(index.query("red")) == 3


def test_errors_of_another_model_name_the_rebuild_command(
    build, photos, tmp_path, colors
):
    build(photos)
    header = tmp_path / "index" / "index.json"
    fingerprint = Index.open(tmp_path / "index").store.header["model"]["fingerprint"]
    header.write_text(header.read_text().replace(fingerprint, "f" * 16))
    with sqlite3.connect(tmp_path / "index" / "images.sqlite") as database:
        sql = "UPDATE meta SET value = replace(value, ?, ?) WHERE key = 'header'"
        database.execute(sql, [fingerprint, "f" * 16])
    with pytest.raises(InputError, match="--rebuild`") as caught:
        Index.open(tmp_path / "index").query("red")
    assert f"align-keras index {photos} --index" in str(caught.value)


def test_a_rebuild_replaces_the_old_index(build, photos, tmp_path, colors):
    index = build(photos)
    (photos / "new.png").write_bytes(colors.image_bytes((9, 9, 200)))
    with pytest.raises(InputError, match="--rebuild"):
        Index.build(tmp_path / "index", model=RenamedModel(colors))
    rebuilt = Index.rebuild(tmp_path / "index", model=RenamedModel(colors))
    assert rebuilt.changes.added == len(rebuilt) == 4
    assert len(rebuilt.query("red", k=9, duplicates=True)) == 4
    assert rebuilt.store.header["model"]["fingerprint"] == "other fingerprint"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "photos"]
    # An object that has opened the old index can still search it.
    assert len(index.query("red", k=9)) == 3


class RenamedModel(LiteRTEmbedder):
    """Model of the color towers with another fingerprint."""

    def __init__(self, colors):
        super().__init__(locate_model(colors.GOLDEN))
        self.name = "other model"
        self.fingerprint = "other fingerprint"


def test_an_update_refuses_an_index_of_another_model(build, photos, tmp_path, colors):
    index = build(photos)
    Index.rebuild(tmp_path / "index", model=RenamedModel(colors)).store.close()
    (photos / "new.png").write_bytes(colors.image_bytes((9, 9, 200)))
    with pytest.raises(RebuiltIndexError, match="other model"):
        index.add()
    rebuilt = Index.open(tmp_path / "index", RenamedModel(colors))
    assert len(rebuilt) == 3
    assert rebuilt.add().added == 1


def test_a_running_rebuild_is_not_deleted(build, photos, tmp_path, colors):
    build(photos)
    new_folder = tmp_path / ".index.rebuild"
    Index.build(new_folder, [photos], colors.GOLDEN).store.close()
    with FolderStore.locked(new_folder):
        with pytest.raises(InputError, match="another process"):
            Index.rebuild(tmp_path / "index", model=RenamedModel(colors))
    assert len(Index.open(new_folder, colors.GOLDEN)) == 3
    # The rebuild with the other model has ended, for example because it was killed.
    index = Index.rebuild(tmp_path / "index", model=RenamedModel(colors))
    assert index.store.header["model"]["name"] == "other model"


@pytest.fixture
def change_during_rebuild(monkeypatch):
    """Returns a function that sets a function to call at the end of a rebuild's add."""

    def set_change(change):
        add = Index.add

        def add_and_change(index, *arguments):
            monkeypatch.setattr(Index, "add", add)
            changes = add(index, *arguments)
            change()
            return changes

        monkeypatch.setattr(Index, "add", add_and_change)

    return set_change


@pytest.mark.parametrize("is_added", [True, False])
def test_a_rebuild_does_not_lose_a_change_of_the_sources(
    build, photos, tmp_path, colors, change_during_rebuild, is_added
):
    other = tmp_path / "other"
    other.mkdir()
    (other / "gray.png").write_bytes(colors.image_bytes((99, 99, 99)))
    index = build(photos)
    if is_added:
        change_during_rebuild(lambda: index.add([other]))
    else:
        index.add([other])
        change_during_rebuild(lambda: index.remove([other]))
    with pytest.raises(InputError, match=str(other)):
        Index.rebuild(tmp_path / "index", model=RenamedModel(colors))
    assert len(index) == (4 if is_added else 3)
    rebuilt = Index.rebuild(tmp_path / "index", model=RenamedModel(colors))
    assert rebuilt.changes.unchanged >= 3
    roots = {os.fsencode(photos)} | ({os.fsencode(other)} if is_added else set())
    assert set(rebuilt.store.sources()) == roots
    assert len(rebuilt) == (4 if is_added else 3)


def test_a_rebuild_does_not_use_the_folder_of_another_rebuild(
    build, photos, tmp_path, colors, change_during_rebuild
):
    build(photos)
    new_folder = tmp_path / ".index.rebuild"

    def replace_new_folder():
        shutil.rmtree(new_folder)
        (photos / "red.png").rename(tmp_path / "red.png")
        Index.build(new_folder, [photos], colors.GOLDEN).store.close()
        (tmp_path / "red.png").rename(photos / "red.png")

    change_during_rebuild(replace_new_folder)
    with pytest.raises(InputError, match="built again"):
        Index.rebuild(tmp_path / "index", model=RenamedModel(colors))
    assert len(Index.open(tmp_path / "index", colors.GOLDEN)) == 3


def test_images_of_a_table_stay_when_their_folder_is_removed(build, photos):
    table = photos.parent / "table.csv"
    table.write_text("image,caption,stars\nphotos/red.png,a red thing,3\n")
    # The folder is indexed first, so that its images belong to it.
    build(photos)
    index = build(table)
    assert index.remove([photos]) == 2 and len(index) == 1
    (hit,) = index.latest("stars = 3")
    assert hit.path == str(photos / "red.png") and hit.captions == ["a red thing"]
    changes = build().changes
    assert (changes.unchanged, changes.removed, changes.added) == (1, 0, 0)
    assert index.remove([table]) == 1 and len(index) == 0


@pytest.mark.parametrize("name", ["a\0b.png", "a\ud800b.png"])
def test_a_path_that_no_file_can_have_leaves_out_only_its_row(build, photos, name):
    table = photos.parent / "table.jsonl"
    rows = [{"image": name, "caption": "a"}, {"image": "photos/red.png"}]
    rows[1]["caption"] = "a red thing"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    index = build(table)
    assert [hit.path for hit in index.latest()] == [str(photos / "red.png")]
    assert sum(index.changes.unreadable.values()) == 1
    ((reason, count),) = index.changes.unreadable.items()
    assert count == 1 and reason.startswith("of the table: ")
    assert build().changes.unchanged == 1


def test_folders_without_a_valid_index_are_refused(build, photos, tmp_path, colors):
    with pytest.raises(InputError, match="`align-keras index"):
        Index.open(tmp_path / "none")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").touch()
    with pytest.raises(InputError, match="thesis.txt"):
        Index.build(tmp_path / "foreign", [photos], colors.GOLDEN)
    build(photos)
    database = tmp_path / "index" / "images.sqlite"
    database.write_bytes(b"junk" * 1000)
    with pytest.raises(InputError, match="is damaged"):
        Index.open(tmp_path / "index")
    database.unlink()
    with pytest.raises(InputError, match="is damaged"):
        Index.open(tmp_path / "index")


def test_a_full_disk_does_not_damage_the_index(build, photos, colors, monkeypatch):
    index = build(photos)
    (photos / "new.png").write_bytes(colors.image_bytes((9, 9, 200)))

    def raise_disk_full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", raise_disk_full)
    with pytest.raises(OSError, match="No space left"):
        build(photos)
    monkeypatch.undo()
    assert len(index) == 3
    assert build(photos).changes.added == 1


def test_rows_without_a_transaction_are_overwritten(build, photos, colors, tmp_path):
    """A process that is killed before the transaction leaves vectors without rows."""
    index = build(photos)
    vectors = np.array(index.store.vectors.rows())
    with open(tmp_path / "index" / index.store.vectors_file, "ab") as file:
        file.write(b"\x7f" * 21)
    (photos / "new.png").write_bytes(colors.image_bytes((9, 9, 200)))
    index = build(photos)
    assert np.array_equal(index.store.vectors.rows()[:3], vectors)
    assert names(index.query("blue", k=1)) == ["blue.jpg"]


def test_invalid_queries_raise_errors(build, photos):
    index = build(photos)
    with pytest.raises(InputError, match="`k`"):
        index.query("red", k=0)
    with pytest.raises(InputError, match="`id`"):
        index.query(Query(image=10**6))


def test_relevance_depends_on_the_other_scores_of_the_query():
    sample = np.random.default_rng(0).normal(0.1, 0.05, 4096)
    scores = np.array([0.5, 0.35, 0.1])
    best, second, mean = relevance(scores, sample, 4096)
    assert best > 0.9 > second > 0.2 > mean
    # In a larger index, more images have a high score by chance.
    larger = relevance(scores, sample, 10**6)
    assert best > larger[0] and second > larger[1]
    assert max(relevance(scores, sample + 0.3, 4096)) < 0.05
    # Another model may have a different scale.
    assert relevance(3 * scores - 1, 3 * sample - 1, 4096) == [best, second, mean]


def test_neighboring_scores_have_similar_relevance():
    sample = np.random.default_rng(0).normal(0.1, 0.05, 4096)
    steps = np.diff(relevance(np.arange(0, 0.6, 0.002), sample, 4096))
    assert steps.min() >= 0 and steps.max() < 0.03
    # Scores without variance and scores far from the sample give no warnings.
    assert relevance(np.array([-9.0, 9.0]), np.zeros(20), 20) == [0.01, 0.99]


def test_only_queries_of_words_have_relevance(build, photos, colors):
    for number in range(20):
        (photos / f"{number}.png").write_bytes(colors.image_bytes((9 * number, 60, 90)))
    index = build(photos)
    assert index.query("red", k=1)[0].relevance is not None
    for query in (Query(image=1), Query("red", image=1), index.embedding(1)):
        assert index.query(query, k=1)[0].relevance is None


def test_a_small_index_has_no_relevance():
    scores = np.linspace(0, 0.5, 20)
    assert relevance(scores[-3:], scores[-19:], 19) == [None] * 3
    assert None not in relevance(scores[-3:], scores, 20)


def test_environment_variables_set_the_default_index(monkeypatch):
    monkeypatch.setenv("ALIGN_KERAS_INDEX", "/somewhere")
    assert default_index() == pathlib.Path("/somewhere")
    monkeypatch.delenv("ALIGN_KERAS_INDEX")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_index() == pathlib.Path("/data/align_keras/index")


def test_a_search_works_while_another_process_writes(build, photos, tmp_path):
    index = build(photos)
    writer = sqlite3.connect(tmp_path / "index" / "images.sqlite", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM images")
    assert len(index.query("red", k=9)) == 3
    writer.rollback()


def test_threads_share_a_store(build, photos, colors):
    """A connection caches statements by their text. Python 3.13 mixed up results."""
    for number in range(40):
        content = colors.image_bytes((number, 2 * number, 3 * number))
        (photos / f"{number:02}.png").write_bytes(content)
    store = build(photos).store
    ids = [file.id for file in store.stored_files().values()]
    contents = {id: store.image(id)["content"] for id in ids}

    def has_correct_id(id):
        return all(store.ids_with_content(contents[id]) == [id] for _ in range(50))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(has_correct_id, contents))


def rename_model(folder, name):
    """Changes the name of the model in an index, as an attacker could."""
    header = json.loads((folder / "index.json").read_text())
    old = json.dumps(header["model"]["name"])
    header["model"]["name"] = name
    (folder / "index.json").write_text(json.dumps(header))
    with sqlite3.connect(folder / "images.sqlite") as database:
        sql = "UPDATE meta SET value = replace(value, ?, ?) WHERE key = 'header'"
        database.execute(sql, [old, json.dumps(name)])


def write_run(folder):
    """Writes a folder that looks like a SavedModel to `load_model`."""
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"runs when it is opened")


@pytest.mark.parametrize(
    "name",
    ["../model", "align_base", "kaggle://a/b/keras/c", "{folder}", "{file}"],
)
def test_an_index_does_not_open_a_model_that_may_run_code(
    build, photos, tmp_path, monkeypatch, name
):
    build(photos)
    write_run(tmp_path / "model")
    write_run(tmp_path / "index" / "model")
    (tmp_path / "model.keras").write_bytes(b"runs when it is opened")
    monkeypatch.chdir(tmp_path)
    name = name.format(folder=tmp_path / "model", file=tmp_path / "model.keras")
    rename_model(tmp_path / "index", name)

    def run(*arguments):
        raise AssertionError("a model was opened")

    monkeypatch.setattr("align_keras.search.index.opening.load_model", run)
    index = Index.open(tmp_path / "index")
    for use in (lambda: index.query("red"), index.add):
        with pytest.raises(InputError, match="--model"):
            use()


def test_an_index_opens_its_model_with_its_options(photos, tmp_path, colors):
    opened = load_model(colors.GOLDEN, "auto", 3)
    folder = tmp_path / "index"
    Index.build(folder, [photos], opened)
    index = Index.open(folder)
    assert index.query("red", k=1) == Index.open(folder, opened).query("red", k=1)
    assert index.model.reference() == opened.reference()


def test_an_index_opens_a_preset(build, photos, tmp_path, monkeypatch, colors):
    build(photos)
    preset = tmp_path / "preset"
    preset.mkdir()
    (preset / "config.json").write_text("{}")
    rename_model(tmp_path / "index", str(preset))
    opened = []

    def load_preset(folder, runtime, dimensions):
        opened.append(folder)
        return load_model(colors.GOLDEN, runtime, dimensions)

    monkeypatch.setattr("align_keras.search.index.opening.load_model", load_preset)
    assert names(Index.open(tmp_path / "index").query("red", k=1)) == ["red.png"]
    assert opened == [str(preset)]


def test_an_index_opens_a_model_of_the_hub_from_the_cache_only(
    build, photos, tmp_path, monkeypatch, colors
):
    build(photos)
    rename_model(tmp_path / "index", "hf://user/colors")
    cached = tmp_path / "models--user--colors"
    shutil.copytree(colors.GOLDEN, cached / "snapshots" / ("a" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def connect(*arguments):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", connect)
    index = Index.open(tmp_path / "index")
    assert names(index.query("red"))[0] == "red.png"
    assert index.model.name == "hf://user/colors"
    shutil.rmtree(cached)
    with pytest.raises(InputError, match="user/colors"):
        Index.open(tmp_path / "index").query("red")
