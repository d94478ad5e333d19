"""Tests of training from sources, which are shards without a built corpus."""

import collections
import os

import numpy as np
import pytest
import tensorflow as tf

from align_keras.config import load_config
from align_keras.corpus import record_indexing
from align_keras.data.order import shuffled_records
from align_keras.data.shards import check_data_service
from align_keras.data.stored_pairs import check_batch_size, read_captions
from align_keras.datasets import open_sources
from align_keras.embedders import load_model
from align_keras.runs.distillation import embed_training_pairs
from align_keras.utils.errors import InputError
from tests.data.noise_corpus import assert_equal, batches, build_noise
from tests.helpers.source_files import (
    captions,
    jpeg,
    open_folder,
    order,
    samples,
    write_tar,
    write_tars,
)

ALL_CAPTIONS = [f"caption {number}" for number in range(24)]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tars(tmp_path_factory.mktemp("tars"))


@pytest.fixture(scope="module")
def builder(folder):
    return open_folder(folder)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Returns shards of 24 samples, 20 of them usable. Three images are damaged."""
    folder = tmp_path_factory.mktemp("faulty")
    rows = samples(0, 24)
    rows[2][1]["jpg"] = rows[2][1]["jpg"][:-40]
    rows[8][1]["jpg"] = b"<html>not found</html>"
    rows[11][1]["jpg"] = rows[11][1]["jpg"][:3]
    del rows[13][1]["txt"]
    del rows[14][1]["jpg"]
    rows[15][1]["txt"] = b"  "
    for file in range(4):
        write_tar(folder / f"{file:05}.tar", rows[file * 6 : file * 6 + 6])
    last = folder / "00003.tar"
    size = last.read_bytes().index(b"00023.jpg")
    # The last shard ends within its last image.
    os.truncate(last, size + 700)
    return folder


@pytest.mark.ci
def test_batches_have_the_embeddings_of_a_teacher(builder, cache):
    teacher = load_model("align_small_en")
    embeddings = embed_training_pairs(
        [teacher], builder, "train", cache_dir=cache / "embeddings"
    )
    [batch] = batches(builder, 1, batch_size=24, teacher=embeddings)
    images = [files["jpg"] for _, files in samples(0, 24)]
    for name, expected in (
        ("teacher_image_embeddings", teacher.encode_images(images)),
        ("teacher_text_embeddings", teacher.encode_texts(ALL_CAPTIONS)),
    ):
        # The batch has all samples in another order.
        actual = batch[name][np.argsort(batch[name][:, 0])]
        expected = expected[np.argsort(expected[:, 0])]
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_epochs_contain_all_samples_once_in_different_orders(builder):
    ordered = captions(order(builder, 3 * 24))
    epochs = [ordered[n * 24 : n * 24 + 24] for n in range(3)]
    assert all(sorted(epoch) == sorted(ALL_CAPTIONS) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_order_depends_only_on_the_seed(builder, folder):
    first = order(builder, 24)
    assert order(open_folder(folder), 24) == first
    assert order(builder, 24, seed=1) != first


def test_images_and_captions_belong_together(builder):
    spec = {
        name: tf.io.FixedLenFeature((), tf.string) for name in ("image", "captions")
    }
    for _, record in shuffled_records(
        builder, "train", seed=0, start=0, shuffle_buffer_size=3
    ).take(24):
        example = tf.io.parse_single_example(record, spec)
        number = int(example["captions"].numpy().split()[1])
        assert example["image"].numpy() == jpeg(number)


def test_the_order_continues_from_any_position(faulty):
    source = open_folder(faulty, max_bad_fraction=0.3)
    uninterrupted = order(source, 50)
    for start in [7, 19, 20, 47]:
        assert order(source, 3, start=start) == uninterrupted[start : start + 3]


@pytest.mark.ci
def test_batches_do_not_depend_on_the_start_step(faulty):
    source = open_folder(faulty, max_bad_fraction=0.3)
    uninterrupted = batches(source, 8, batch_size=4, zoom=0.0)
    resumed = batches(source, 3, batch_size=4, start_step=5, zoom=0.0)
    assert_equal(uninterrupted[5:], resumed)


def test_resuming_reads_no_earlier_stretch(tmp_path, monkeypatch):
    monkeypatch.setattr(record_indexing, "RECORDS_PER_STRETCH", 6)
    path = tmp_path / "all.tar"
    write_tar(path, samples(0, 24))
    source = open_folder(path)
    assert len(source.info.splits["train"].file_instructions) == 4
    unshuffled = {"cycle_length": 1, "shuffle_buffer_size": 1}
    uninterrupted = order(source, 24, **unshuffled)
    content, times = path.read_bytes(), os.stat(path)
    begin = min(
        int(name.partition("@")[2].split(",")[0]) for name, _ in uninterrupted[18:]
    )
    junk = b"\xff" * len(content)
    last = captions(uninterrupted[18:])
    end = content.find(b"00006.jpg") if "caption 0" in last else begin
    # Only the last stretch of the order remains intact.
    junk = junk[:begin] + content[begin : max(end, begin + 20_000)]
    path.write_bytes(junk + b"\xff" * (len(content) - len(junk)))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert order(source, 6, start=18, **unshuffled) == uninterrupted[18:]


@pytest.mark.ci
def test_the_parts_of_hosts_are_disjoint_and_complete(builder, tmp_path):
    write_tar(tmp_path / "all.tar", samples(0, 24))
    # The second source has only one file.
    for source in (builder, open_folder(tmp_path)):
        parts = [
            captions(order(source, 8, input_pipeline_id=number, num_input_pipelines=3))
            for number in range(3)
        ]
        assert sorted(sum(parts, [])) == sorted(ALL_CAPTIONS)


def test_damaged_samples_are_counted_reported_and_skipped(faulty, capsys):
    source = open_folder(faulty, max_bad_fraction=0.3)
    metadata = source.info.metadata
    assert metadata["kept"] == 20
    assert metadata["dropped"] == {
        "empty caption": 2,
        "missing": 1,
        "truncated shard": 1,
    }
    assert "00002.tar" in metadata["examples"]["missing"]
    epoch = captions(order(source, 20))
    output = capsys.readouterr().err
    assert {"caption 2", "caption 8", "caption 11"}.isdisjoint(epoch)
    # The next readable sample of the file replaces a damaged one.
    counts = collections.Counter(epoch)
    repeated = {caption: count for caption, count in counts.items() if count > 1}
    assert repeated == {"caption 3": 2, "caption 9": 2, "caption 6": 2}
    assert output.count("skipped") == 3
    assert "00000.tar@" in output and "unreadable: " in output
    # Later epochs don't report a sample again.
    order(source, 40)
    assert "skipped" not in capsys.readouterr().err


def test_too_many_damaged_samples_are_refused(faulty):
    with pytest.raises(InputError, match="max_bad_fraction"):
        open_folder(faulty)


def test_a_file_without_a_readable_image_stops_the_run(tmp_path):
    rows = samples(0, 3)
    for _, parts in rows:
        parts["jpg"] = b"junk"
    write_tar(tmp_path / "a.tar", rows)
    with pytest.raises(tf.errors.OpError, match="can be read"):
        order(open_folder(tmp_path), 1)


def test_a_changed_file_is_detected_and_indexed_again(tmp_path):
    write_tars(tmp_path, 2)
    source = open_folder(tmp_path)
    write_tar(tmp_path / "00001.tar", samples(100, 3))
    with pytest.raises(tf.errors.OpError, match="00001.tar has changed"):
        order(source, 12)
    assert sorted(captions(order(open_folder(tmp_path), 9)))[6:] == ALL_CAPTIONS[3:6]
    os.remove(tmp_path / "00000.tar")
    with pytest.raises(tf.errors.OpError, match="00000.tar was removed"):
        order(source, 12)


def test_a_file_is_indexed_once(folder, monkeypatch):
    first = open_folder(folder)

    def fail(*arguments):
        raise AssertionError

    monkeypatch.setattr(record_indexing, "read_part", fail)
    assert order(open_folder(folder), 5) == order(first, 5)


@pytest.mark.ci
def test_several_sources_are_mixed_by_their_weights(folder, tmp_path):
    write_tar(tmp_path / "b.tar", samples(100, 5))
    paths = [str(folder), str(tmp_path / "b.tar")]
    source = open_sources(paths, [1, 3])
    uninterrupted = order(source, 100)
    share = np.cumsum(["b.tar" in name for name, _ in uninterrupted])
    assert np.abs(share - 0.75 * np.arange(1, 101)).max() <= 1
    assert order(source, 9, start=83) == uninterrupted[83:92]
    # Without weights, an epoch contains all samples once.
    epoch = captions(order(open_sources(paths), 29))
    assert len(set(epoch)) == 29
    assert read_captions(source, "train")[-1] == "caption 104"


def test_a_built_corpus_may_be_one_of_the_sources(folder, tmp_path):
    corpus = build_noise(tmp_path, 3)
    source = open_sources([str(folder), str(corpus.data_path)])
    names = [name for name, _ in order(source, 48)]
    assert len(set(names)) == 48
    assert sum("/noise/" in name for name in names) == 24


def test_patterns_and_parts_of_splits_select_samples(folder):
    source = open_sources(f"{folder}/0000{{1..2}}.tar")
    assert sorted(captions(order(source, 12))) == sorted(ALL_CAPTIONS[6:18])
    source = open_sources(f"webdataset:{folder}/*[03].tar")
    assert source.info.splits["all"].num_examples == 12
    assert sorted(captions(order(source, 3, "train[:25%]"))) == ALL_CAPTIONS[:3]


def test_file_names_determine_the_splits(tmp_path):
    write_tar(tmp_path / "cc-train-0.tar", samples(0, 4))
    write_tar(tmp_path / "val/0.tar", samples(4, 3))
    source = open_folder(tmp_path)
    assert sorted(source.info.splits) == ["train", "validation"]
    assert captions(order(source, 3, "validation")).count("caption 5") == 1
    with pytest.raises(InputError, match="tfds_split"):
        check_batch_size(1, source, "test")


def test_remote_files_are_read_like_local_files(folder):
    import fsspec

    store = fsspec.filesystem("memory")
    for path in folder.glob("*.tar"):
        store.pipe(f"/bucket/tars/{path.name}", path.read_bytes())
    for name in ("memory://bucket/tars", "memory://bucket/tars/*.tar"):
        source = open_sources(name)
        assert sorted(captions(order(source, 24))) == sorted(ALL_CAPTIONS)
    store.pipe("/bucket/tars/00002.tar", b"\0" * 10240)
    with pytest.raises(tf.errors.OpError, match="00002.tar has changed"):
        order(source, 24)


def test_tfrecords_are_read_from_any_position(tmp_path):
    def value(content):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))

    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        for key, parts in samples(0, 8):
            features = {
                "key": key.encode(),
                "jpg": parts["jpg"],
                "caption": parts["txt"],
            }
            features = {name: value(content) for name, content in features.items()}
            features = tf.train.Features(feature=features)
            writer.write(tf.train.Example(features=features).SerializeToString())
    source = open_folder(tmp_path)
    uninterrupted = order(source, 16)
    assert sorted(captions(uninterrupted[:8])) == ALL_CAPTIONS[:8]
    assert order(source, 4, start=11) == uninterrupted[11:15]


@pytest.mark.parametrize(
    "name, options, error",
    [
        ("no_such_folder", {}, "no_such_folder"),
        ("mixed", {}, "parquet and webdataset"),
        ("hollow", {}, "empty"),
        ("good", {"caption_column": "text"}, "Parquet"),
    ],
)
def test_invalid_sources_raise_a_one_line_error(
    name, options, error, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    rows = samples(0, 3)
    for _, parts in rows:
        del parts["txt"]
    write_tar(tmp_path / "hollow/a.tar", rows)
    write_tar(tmp_path / "good/a.tar", samples(0, 3))
    write_tar(tmp_path / "mixed/a.tar", samples(0, 3))
    (tmp_path / "mixed/b.parquet").touch()
    with pytest.raises(InputError, match=error) as raised:
        open_sources(name, **options)
    assert "\n" not in str(raised.value)


def test_a_data_service_is_refused(builder):
    with pytest.raises(InputError, match="data_service"):
        check_data_service(builder, "grpc://localhost:1")


@pytest.mark.parametrize(
    "override, error",
    [
        ("task.validation_data.source=a", "validation_data.source'.*null"),
        ("task.train_data.source=a,task.train_data.cache=true", "cache'.*false"),
        (
            "task.train_data.source=a,task.train_data.corpus=icons",
            "corpus'.*null.*task.train_data.source",
        ),
        (
            "task.train_data.source=[{path: a, weight: 0}]",
            "weight'.*greater than 0",
        ),
        ("task.train_data.source=[{pth: a}]", "path'.*set"),
        ("task.train_data.source=[]", "train_data.source' must.*empty"),
        ("task.train_data.source=3", "train_data.source' must.*list"),
    ],
)
def test_invalid_configurations_of_sources_are_refused(override, error):
    with pytest.raises(InputError, match=error):
        load_config(params_override=override)


def test_a_source_replaces_a_corpus_and_is_saved(tmp_path):
    from align_keras.config import write_config_file

    override = "task.train_data.source=[{path: a, weight: 2}, {path: b, weight: 1}]"
    config = load_config("align_b3_mini_cc3m", params_override=override)
    assert config.task.train_data.corpus is None
    assert [source.weight for source in config.task.train_data.source] == [2.0, 1.0]
    write_config_file(config, tmp_path / "params.yaml")
    assert load_config(config_files=[tmp_path / "params.yaml"]) == config
    single = load_config(params_override="task.train_data.source=tars/{0..9}.tar")
    assert single.task.train_data.source[0].path == "tars/{0..9}.tar"
    overrides = [{"task.train_data.source": "a"}, {"task.train_data.corpus": "icons"}]
    assert load_config(params_override=overrides)


# === Tables ===


def table(count):
    import pyarrow as pa

    images = [
        {"bytes": jpeg(number), "path": f"{number}.jpg"} for number in range(count)
    ]
    images[4]["bytes"] = None
    texts = [[f"caption {n}", f"other {n}"][: n % 2 + 1] for n in range(count)]
    texts[7] = []
    return pa.table({"image": images, "caption": texts, "n": list(range(count))})


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Returns a folder with 20 rows as Parquet and as Arrow files of `datasets`."""
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    folder = tmp_path_factory.mktemp("tables")
    for name in ("parquet/data", "arrow"):
        (folder / name).mkdir(parents=True)
    rows = table(20)
    for number, part in enumerate((rows.slice(0, 12), rows.slice(12))):
        end = f"{number:05}-of-00002"
        path = folder / f"parquet/data/train-{end}.parquet"
        pa.parquet.write_table(part, path, row_group_size=5)
        with pa.OSFile(str(folder / f"arrow/data-{end}.arrow"), "wb") as file:
            with pa.ipc.new_stream(file, part.schema) as writer:
                writer.write_table(part, max_chunksize=5)
    (folder / "arrow/cache-1234.arrow").write_bytes(b"of a map")
    return folder


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_tables_are_read_from_any_row(tables, kind, monkeypatch):
    monkeypatch.setattr(record_indexing, "RECORDS_PER_STRETCH", 5)
    source = open_folder(tables / kind)
    assert source.info.metadata["dropped"] == {"empty caption": 1}
    unshuffled = {"cycle_length": 1, "shuffle_buffer_size": 1}
    uninterrupted = order(source, 38, **unshuffled)
    ordered = captions(uninterrupted)
    assert sorted(ordered[:19]) == sorted(ordered[19:])
    expected = {f"caption {n}" for n in range(20)} - {"caption 4", "caption 7"}
    assert set(ordered) == expected and ordered[:19].count("caption 5") == 2
    for start in (6, 30):
        assert (
            order(source, 3, start=start, **unshuffled)
            == uninterrupted[start : start + 3]
        )
    pairs = captions(order(source, 28, pair_weighted=True))
    assert len(set(pairs)) == 27 and pairs.count("caption 5") == 2
    assert len(source.info.splits["train"].file_instructions) == 4


@pytest.mark.ci
def test_the_columns_of_images_and_captions_can_be_selected(tables, tmp_path):
    pa = pytest.importorskip("pyarrow")
    rows = table(8).rename_columns(["picture", "sentences", "n"])
    pa.parquet.write_table(rows, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="images"):
        open_folder(tmp_path)
    with pytest.raises(InputError, match="captions"):
        open_folder(tmp_path, image_column="picture")
    with pytest.raises(InputError, match="words"):
        open_folder(tmp_path, image_column="picture", caption_column="words")
    named = {"image_column": "picture", "caption_column": "sentences"}
    assert "caption 0" in captions(
        order(open_folder(tmp_path, max_bad_fraction=0.2, **named), 7)
    )


@pytest.mark.ci
def test_damaged_tables_are_counted(tables, tmp_path):
    content = (tables / "parquet/data/train-00000-of-00002.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[:-9])
    (tmp_path / "b.parquet").write_bytes(content)
    source = open_folder(tmp_path, max_bad_fraction=0.2)
    assert source.info.metadata["dropped"]["truncated shard"] == 1
    assert source.info.splits["train"].num_examples == 11
    arrow = tables / "arrow/data-00000-of-00002.arrow"
    half = tmp_path / "half/a.arrow"
    half.parent.mkdir()
    half.write_bytes(arrow.read_bytes()[:-3000])
    source = open_folder(half, max_bad_fraction=0.5)
    assert source.info.metadata["dropped"]["broken record"] == 1
    assert 0 < source.info.splits["train"].num_examples < 12
