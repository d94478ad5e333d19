"""The schemas by which editors complete and check YAML files."""

import json
import pathlib

import jsonschema
import pytest

from align_keras.config.yaml_source import read_yaml
from tools.config_schema import CONFIGURATIONS, json_schema, main

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[2] / "experiments"
FILES = {
    path.relative_to(EXPERIMENTS).as_posix(): path
    for path in sorted(EXPERIMENTS.rglob("*.yaml"))
}
MODELINE = "# yaml-language-server: $schema="


def nested(path):
    """What a YAML file holds, read as strictly as the package reads it."""
    tree = {}
    for key, given in read_yaml(path).items():
        *sections, name = key.split(".")
        below = tree
        for section in sections:
            below = below[section]
        below[name] = given.value
    return tree


def test_the_files_are_those_of_the_classes(tmp_path):
    main(tmp_path)
    names = sorted(path.name for path in (EXPERIMENTS / "schema").iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        stored = EXPERIMENTS / "schema" / name
        assert stored.read_text() == (tmp_path / name).read_text(), (
            "run python tools/config_schema.py experiments/schema"
        )


@pytest.mark.parametrize("name", FILES)
def test_every_file_names_its_schema_and_fits_it(name):
    path = FILES[name]
    lines = path.read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith(MODELINE))
    schema = json.loads((path.parent / line.removeprefix(MODELINE)).read_text())
    jsonschema.Draft7Validator(schema).validate(nested(path))


def test_every_option_is_described():
    def check(schema, key):
        assert schema["description"].strip(), key
        for name, below in schema.get("properties", {}).items():
            check(below, f"{key}.{name}")

    for name, config in CONFIGURATIONS.items():
        schema = json_schema(config)
        jsonschema.Draft7Validator.check_schema(schema)
        check(schema, name)


@pytest.mark.parametrize(
    "trainer, word",
    [
        ({"train_stepps": 1}, "train_stepps"),
        ({"train_steps": 0}, "minimum"),
        ({"train_steps": "many"}, "integer"),
        ({"best_checkpoint_metric_comp": "best"}, "higher"),
        ({"loss_upper_bound": 0}, "exclusiveMinimum"),
    ],
)
def test_what_an_editor_underlines(trainer, word):
    schema = json_schema(CONFIGURATIONS["experiment"])
    jsonschema.validate({"trainer": {"loss_upper_bound": None}}, schema)
    with pytest.raises(jsonschema.ValidationError, match=word):
        jsonschema.validate({"trainer": trainer}, schema)
