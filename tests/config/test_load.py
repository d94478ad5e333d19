"""Loading, merging, checking and saving of experiment configurations."""

import pathlib

import pydantic
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from align_keras.config import (
    ExperimentConfig,
    experiments,
    find_experiment,
    load,
    load_config,
    write_config_file,
)
from align_keras.utils.errors import InputError


def write(folder, text, name="custom.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(*arguments, **keywords):
    """Returns the one-line message of the error that `load_config` raises."""
    with pytest.raises(InputError) as caught:
        load_config(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_options_that_a_preset_determines_are_not_saved(tmp_path):
    override = {
        "task.model.preset": "align_nano",
        "task.model.text_encoder.dropout": 0.2,
    }
    config, path = load_config(params_override=override), tmp_path / "params.yaml"
    write_config_file(config, path)
    assert load_config(config_files=[path]) == config
    assert "image_size" not in path.read_text() and "dropout: 0.2" in path.read_text()


def test_the_defaults_are_the_recipe_of_the_paper():
    config = load_config()
    assert config == ExperimentConfig()
    model, loss, trainer = config.task.model, config.task.loss.get(), config.trainer
    optimization = trainer.optimizer_config
    assert model.image_encoder.image_size == 289
    assert (model.projection_dim, model.initial_temperature) == (640, 1.0)
    assert model.text_encoder.vocabulary_size == 100_000
    assert model.text_encoder.sequence_length == 64
    assert (loss.label_smoothing, loss.reduction) == (0.1, "sum")
    assert config.task.train_data.global_batch_size == 1024 * 16
    assert trainer.train_steps == 1_200_000
    assert optimization.optimizer.type == "lamb"
    assert optimization.optimizer.get().weight_decay == 1e-5
    assert optimization.learning_rate.get().initial_learning_rate == 1e-3
    assert optimization.learning_rate.get().end_learning_rate == 0.0
    assert optimization.warmup.get().warmup_steps == 10_000


def test_configurations_are_immutable():
    config = load_config()
    with pytest.raises(pydantic.ValidationError):
        config.trainer.train_steps = 1
    hash(config)


def test_files_and_overrides_are_merged_in_order(tmp_path):
    experiment = write(
        tmp_path,
        "trainer: {train_steps: 20000, seed: 1, max_to_keep: 9}\n"
        "task: {evaluation: {ks: [2, 4, 8]}, loss: {contrastive: {reduction: mean}}}",
    )
    first = write(tmp_path, "trainer: {seed: 2, train_steps: 30000}", "1.yaml")
    second = write(tmp_path, "trainer: {seed: 3}", "2.yaml")
    files = [first, second]
    layers = [
        (load_config(experiment), (1, 20_000)),
        (load_config(experiment, files[:1]), (2, 30_000)),
        (load_config(experiment, files), (3, 30_000)),
        (load_config(experiment, files[::-1]), (2, 30_000)),
        (load_config(experiment, files, "trainer.seed=4"), (4, 30_000)),
        (load_config(experiment, files, ["trainer.seed=4", "trainer.seed=5"]), (5,)),
    ]
    for config, (seed, *steps) in layers:
        assert config.trainer.seed == seed
        assert config.trainer.train_steps in (steps or [30_000])
        # Later files keep options that they don't contain and replace whole lists.
        assert config.trainer.max_to_keep == 9
        assert config.task.loss.contrastive.reduction == "mean"
        assert config.task.evaluation.ks == (2, 4, 8)
    config = load_config(experiment, (), "task.evaluation.ks=[1]")
    assert config.task.evaluation.ks == (1,)


def test_an_override_can_be_a_file(tmp_path):
    path = write(tmp_path, "trainer: {seed: 5}")
    config = load_config(params_override=[str(path), "trainer.max_to_keep=4"])
    assert (config.trainer.seed, config.trainer.max_to_keep) == (5, 4)


def test_an_override_can_be_a_dict_of_plain_values():
    data = {"task.train_data.corpus": "a,b='c'\x85\U0001f600", "trainer.seed": 5}
    config = load_config(params_override=[data, "trainer.max_to_keep=4"])
    assert config.task.train_data.corpus == data["task.train_data.corpus"]
    assert (config.trainer.seed, config.trainer.max_to_keep) == (5, 4)
    config = load_config(params_override={"task.evaluation.ks": [2, 3]})
    assert config.task.evaluation.ks == (2, 3)
    message = refusal(params_override={"task.evaluation.ks": [1, "x"]})
    assert message.startswith("params_override 'task.evaluation.ks=[1, 'x']': ")
    assert "unknown key 'a'" in refusal(params_override={"a.b": 1})


def test_an_empty_file_changes_nothing(tmp_path):
    path = write(tmp_path, "# only a comment\n")
    assert load_config(config_files=[path]) == ExperimentConfig()


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "task:\n  loss:\n    contrastive:\n      label_smooting: 0.1\n",
            ["custom.yaml, line 4:", "label_smooting'", "'label_smoothing'?"],
        ),
        ("trainr: {}\n", ["custom.yaml, line 1:", "'trainr'", "'trainer'?"]),
        # The name of the key is right but in a wrong section.
        ("\ntrain_steps: 5\n", ["custom.yaml, line 2:", "'trainer.train_steps'?"]),
        ("task:\n  1: 2\n", ["custom.yaml, line 2:", "unknown key 'task.1'"]),
        ("trainer: 5\n", ["'trainer' must contain", "Received: 5"]),
    ],
)
def test_unknown_keys_and_sections_without_keys_are_refused(tmp_path, text, expected):
    message = refusal(config_files=[write(tmp_path, text)])
    for part in expected:
        assert part in message, message


LOSS = "task.loss.contrastive.label_smoothing"


@pytest.mark.parametrize(
    "override, expected",
    [
        (f"{LOSS}=a little", ["a valid number", "'a little'"]),
        (f"{LOSS}=null", ["a valid number", "null"]),
        (f"{LOSS}=.nan", ["a finite number"]),
        ("trainer.seed=1.5", ["a valid integer", "1.5"]),
        ("task.train_data.cache=maybe", ["a valid boolean", "'maybe'"]),
        ("task.train_data.corpus=12", ["a string", "Received: 12"]),
        ("task.train_data.tfds_split=''", ["a non-empty string"]),
        ("task.loss.contrastive.reduction=max", ["'sum' or 'mean'", "'max'"]),
        ("task.evaluation.ks=5", ["[a, b]", "Received: 5"]),
        ("task.evaluation.ks=[1, x]", ["'task.evaluation.ks.1'", "a valid int", "'x'"]),
        ("task.train_data.source=[{weight: 2}]", ["source.0.path' must"]),
        ("trainer.seed=true", ["a valid integer", "true"]),
    ],
)
def test_values_of_a_wrong_type_are_refused(override, expected):
    message = refusal(params_override=override)
    assert message.startswith(f"params_override '{override}': ")
    for part in expected:
        assert part in message, message


@pytest.mark.parametrize(
    "override, key, value",
    [
        (f"{LOSS}=1e-3", LOSS, 0.001),
        (f"{LOSS}=0", LOSS, 0.0),
        ("trainer.seed=0x10", "trainer.seed", 16),
        ("task.train_data.cache=yes", "task.train_data.cache", True),
        ("task.train_data.corpus=null", "task.train_data.corpus", None),
        ("task.train_data.corpus='null'", "task.train_data.corpus", "null"),
        (
            "task.train_data.tfds_split=train[:90%]",
            "task.train_data.tfds_split",
            "train[:90%]",
        ),
        ("task.evaluation.ks=[1, 20]", "task.evaluation.ks", (1, 20)),
    ],
)
def test_values_are_converted_to_the_type_of_the_option(override, key, value):
    loaded_value = load_config(params_override=override)
    for name in key.split("."):
        loaded_value = getattr(loaded_value, name)
    assert loaded_value == value
    assert type(loaded_value) is type(value)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("trainer: {seed: 1}\ntrainer: {seed: 2}\n", ["line 2", "is repeated"]),
        ("trainer:\n  seed: 1\n  seed: 1\n", ["line 3", "'trainer.seed' is repeated"]),
        ("trainer:\n  seed: [1\n", ["custom.yaml, line", "not valid YAML"]),
        ("trainer:\n\tseed: 1\n", ["line 2", "not valid YAML"]),
        ("a: 1\n---\na: 2\n", ["not valid YAML"]),
        ("- 1\n", ["keys and values", "[1]"]),
        ("a: !!python/object/apply:os.system ['x']\n", ["not valid YAML"]),
        ("? [1]\n: 2\n", ["not valid YAML"]),
        ("trainer: {seed: 2026-99-99}\n", ["not valid YAML"]),
        (f"a: {'[' * 400}\n", ["not valid YAML"]),
    ],
)
def test_files_that_are_no_yaml_mapping_are_refused(tmp_path, text, expected):
    message = refusal(config_files=[write(tmp_path, text)])
    for part in ["custom.yaml", *expected]:
        assert part in message, message


def test_files_in_another_encoding_are_refused(tmp_path):
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("task: {train_data: {corpus: \xe9}}".encode("latin-1"))
    assert str(latin) in refusal(config_files=[latin])
    utf_16 = tmp_path / "utf_16.yaml"
    utf_16.write_text("trainer: {seed: 3}", "utf-16")
    assert load_config(config_files=[utf_16]).trainer.seed == 3


def test_an_alias_repeats_a_value(tmp_path):
    text = "task:\n  train_data: &d {corpus: icons}\n  validation_data: *d\n"
    config = load_config(config_files=[write(tmp_path, text)])
    assert config.task.validation_data.corpus == "icons"


def test_messages_start_with_the_location_of_the_last_value(tmp_path):
    path = write(tmp_path, "trainer:\n  max_to_keep: 0\n")
    assert f"{path}, line 2: 'trainer.max_to_keep'" in refusal(config_files=[path])
    message = refusal(config_files=[path], params_override="trainer.max_to_keep=-1")
    assert message.startswith("params_override 'trainer.max_to_keep=-1'")


def test_a_saved_configuration_is_loaded_unchanged(tmp_path):
    config = load_config(
        params_override="task.evaluation.ks=[3, 30],trainer.seed=7,"
        "task.train_data.corpus=icons,trainer.optimizer_config.optimizer.type=adamw,"
        "trainer.optimizer_config.warmup.type=null,"
        "task.loss.contrastive.label_smoothing=1e-7"
    )
    path = tmp_path / "run" / "params.yaml"
    write_config_file(config, path)
    assert load_config(config_files=[path]) == config
    assert load_config(path) == config
    first = path.read_bytes()
    write_config_file(load_config(path), path)
    assert path.read_bytes() == first
    # PyYAML returns the same values. Sections have the order of the fields.
    assert yaml.safe_load(first) == config.model_dump(mode="json")
    assert list(yaml.safe_load(first)) == [
        "task",
        "trainer",
        "finetune",
        "runtime",
    ]
    assert [item.name for item in path.parent.iterdir()] == ["params.yaml"]


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "params.yaml"
    write_config_file(load_config(), path)
    old_content = path.read_bytes()

    def raise_disk_full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", raise_disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_config_file(load_config(params_override="trainer.seed=1"), path)
    assert path.read_bytes() == old_content
    assert [item.name for item in tmp_path.iterdir()] == ["params.yaml"]


AMBIGUOUS = "1e-3 1E5 010 0x1F 0o17 yes no on null ~ true .inf .nan 1:30 <<".split()


@pytest.mark.parametrize("text", [*AMBIGUOUS, "2026-01-31", "a: b", "a,b", "#a", " a "])
def test_strings_that_look_like_other_types_are_loaded_unchanged(tmp_path, text):
    path = tmp_path / "params.yaml"
    config = load_config(params_override={"task.train_data.tfds_split": text})
    write_config_file(config, path)
    assert load_config(path) == config
    assert config.task.train_data.tfds_split == text


@settings(max_examples=10)
@given(
    # PyYAML writes the control character \x85 as a line break.
    text=st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\x85"), min_size=1
    ),
    rate=st.floats(min_value=1e-300, max_value=1e300),
)
def test_any_string_and_any_number_are_loaded_unchanged(tmp_path_factory, text, rate):
    path = tmp_path_factory.mktemp("any") / "params.yaml"
    overrides = {
        "task.train_data.tfds_split": text,
        "task.model.initial_temperature": rate,
    }
    config = load_config(params_override=overrides)
    write_config_file(config, path)
    assert load_config(path) == config


def test_experiments_of_the_clone_are_listed():
    names = experiments()
    assert "align_b7_base" in names
    assert find_experiment("align_b7_base") == names["align_b7_base"]
    assert find_experiment(str(names["align_b7_base"])) == names["align_b7_base"]


def test_a_missing_experiments_folder_raises_an_error(monkeypatch):
    monkeypatch.setattr(load, "shared_folder", lambda name: None)
    assert experiments() == {}
    assert "No experiments folder" in refusal("align_b7_base")


def test_unknown_experiments_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal("align_b7_bass")
    assert "'align_b7_base'?" in message
    assert "quickstart_icons" in message
    with pytest.raises(FileNotFoundError, match=r"align_b7\.yaml"):
        load_config(pathlib.Path("align_b7.yaml"))


TRAIN, VALIDATION = "task.train_data.", "task.validation_data."


@pytest.mark.parametrize(
    ("layers", "split"),
    [
        ([f"{VALIDATION}pairs=val.csv"], "all"),
        ([f"{TRAIN}pairs=train.csv,{VALIDATION}pairs=val.csv"], "all"),
        ([f"{VALIDATION}pairs=val.csv", f"{TRAIN}pairs=train.csv"], "all"),
        # A table for both is divided, also if the two paths are written differently.
        ([f"{TRAIN}pairs=a.csv,{VALIDATION}pairs=a.csv"], "test"),
        ([f"{VALIDATION}pairs=./b/../a.csv", f"{TRAIN}pairs=a.csv"], "test"),
        ([f"{TRAIN}pairs=a.csv"], "test"),
        # A split that is set is used, unless later data replaces the data of the split.
        ([f"{VALIDATION}pairs=val.csv,{VALIDATION}tfds_split=test"], "test"),
        ([f"{VALIDATION}tfds_split=train", f"{VALIDATION}pairs=val.csv"], "train"),
        ([f"{VALIDATION}pairs=val.csv", f"{VALIDATION}tfds_split=train"], "train"),
        (
            [
                f"{VALIDATION}corpus=icons,{VALIDATION}tfds_split=test",
                f"{VALIDATION}pairs=val.csv",
            ],
            "all",
        ),
        ([f"{VALIDATION}pairs=val.csv", f"{VALIDATION}corpus=icons"], "test"),
    ],
)
def test_a_table_that_only_validation_uses_is_evaluated_completely(layers, split):
    config = load_config(params_override=layers)
    assert config.task.validation_data.tfds_split == split


def test_a_saved_split_is_kept_until_its_table_is_replaced(tmp_path):
    path = tmp_path / "params.yaml"
    write_config_file(
        load_config(
            params_override=f"{VALIDATION}pairs=val.csv,{VALIDATION}tfds_split=test"
        ),
        path,
    )
    assert load_config(None, [path]).task.validation_data.tfds_split == "test"
    config = load_config(None, [path], f"{VALIDATION}pairs=other.csv")
    assert config.task.validation_data.tfds_split == "all"


def test_a_link_to_the_training_table_is_the_same_table(tmp_path):
    (tmp_path / "a.csv").touch()
    (tmp_path / "b.csv").symlink_to("a.csv")
    overrides = {
        f"{TRAIN}pairs": str(tmp_path / "a.csv"),
        f"{VALIDATION}pairs": str(tmp_path / "b.csv"),
    }
    config = load_config(params_override=overrides)
    assert config.task.validation_data.tfds_split == "test"
    with pytest.raises(InputError, match="validation_data.tfds_split' must.*'all'"):
        load_config(params_override=overrides | {f"{VALIDATION}tfds_split": "all"})


SOURCES = {"alt": 0.7, "synthetic": 0.3}
SOURCES_KEY = "task.train_data.caption_sources"


def test_caption_sources_are_a_mapping_in_files_and_overrides(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "task:\n  train_data:\n    caption_sources:\n      alt: 0.7\n"
        "      synthetic: 0.3\n"
    )
    config = load_config(config_files=[path])
    assert config.task.train_data.caption_sources == SOURCES
    assert config.task.validation_data.caption_sources is None
    for override in (
        f"{SOURCES_KEY}={{alt: 0.7, synthetic: 0.3}}",
        f"{SOURCES_KEY}.alt=0.7,{SOURCES_KEY}.synthetic=0.3",
        {SOURCES_KEY: SOURCES},
    ):
        assert load_config(params_override=override).task == config.task
    write_config_file(config, tmp_path / "copy.yaml")
    assert load_config(config_files=[tmp_path / "copy.yaml"]) == config
    # A later layer replaces the sources.
    changed = load_config(config_files=[path], params_override=f"{SOURCES_KEY}.alt=1")
    assert changed.task.train_data.caption_sources == {"alt": 1.0}
    removed = load_config(config_files=[path], params_override=f"{SOURCES_KEY}=null")
    assert removed.task.train_data.caption_sources is None


def test_validation_on_the_same_table_has_the_same_caption_sources():
    tables = {"task.train_data.pairs": "a.csv", SOURCES_KEY: SOURCES}
    key = "task.validation_data.pairs"
    same = load_config(params_override=[{**tables, key: "a.csv"}])
    assert same.task.validation_data.caption_sources == SOURCES
    other = load_config(params_override=[{**tables, key: "b.csv"}])
    assert other.task.validation_data.caption_sources is None


@pytest.mark.parametrize(
    "override", [f"{SOURCES_KEY}=alt", f"{SOURCES_KEY}={{}}", f"{SOURCES_KEY}.alt=much"]
)
def test_wrong_caption_sources_are_refused(override):
    with pytest.raises(InputError, match=SOURCES_KEY):
        load_config(params_override=override)


REPEATS_KEY = "task.train_data.corpus_repeats"
MIXTURE = "task.train_data.corpus=icons+stamps"


def test_a_mixture_repeats_a_corpus(tmp_path):
    config = load_config(params_override=f"{MIXTURE},{REPEATS_KEY}={{stamps: 2}}")
    assert config.task.train_data.corpus_repeats == {"stamps": 2.0}
    write_config_file(config, tmp_path / "run.yaml")
    again = load_config(config_files=[tmp_path / "run.yaml"])
    assert again == config
    # Another corpus has other members.
    for override in ("task.train_data.corpus=icons", "task.train_data.pairs=a.csv"):
        other = load_config(
            config_files=[tmp_path / "run.yaml"], params_override=override
        )
        assert other.task.train_data.corpus_repeats is None


@pytest.mark.parametrize(
    "override",
    [
        f"{MIXTURE},{REPEATS_KEY}.emoji=2",
        f"task.train_data.corpus=icons,{REPEATS_KEY}.icons=2",
    ],
)
def test_wrong_repeats_are_refused(override):
    with pytest.raises(InputError, match=REPEATS_KEY):
        load_config(params_override=override)
