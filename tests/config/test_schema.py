"""JSON schemas that editors use to complete and check YAML files."""

import json
import pathlib
import re

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


def read_tree(path):
    """Returns the content of a YAML file as nested dicts."""
    tree = {}
    for key, located in read_yaml(path).items():
        *parents, name = key.split(".")
        section = tree
        for parent in parents:
            section = section[parent]
        section[name] = located.value
    return tree


def test_stored_schemas_match_the_classes(tmp_path):
    main(tmp_path)
    names = sorted(path.name for path in (EXPERIMENTS / "schema").iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        stored = EXPERIMENTS / "schema" / name
        assert stored.read_text() == (tmp_path / name).read_text(), (
            "run python tools/config_schema.py experiments/schema"
        )


@pytest.mark.parametrize("name", FILES)
def test_every_file_has_a_schema_and_is_valid(name):
    path = FILES[name]
    lines = path.read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith(MODELINE))
    schema = json.loads((path.parent / line.removeprefix(MODELINE)).read_text())
    jsonschema.Draft7Validator(schema).validate(read_tree(path))


def test_every_option_has_a_description_in_the_words_of_yaml():
    def check(schema, key):
        assert schema["description"].strip(), key
        assert not re.search(r"\bNone\b|tuple|\(\"", schema["description"]), key
        for name, property_schema in schema.get("properties", {}).items():
            check(property_schema, f"{key}.{name}")

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
        ({"callbacks": ["tensorbord"]}, "mlflow"),
    ],
)
def test_schemas_refuse_unknown_keys_and_wrong_values(trainer, word):
    schema = json_schema(CONFIGURATIONS["experiment"])
    valid = {"loss_upper_bound": None, "callbacks": []}
    jsonschema.validate({"trainer": valid}, schema)
    with pytest.raises(jsonschema.ValidationError, match=word):
        jsonschema.validate({"trainer": trainer}, schema)


def sections(schema, name=""):
    """Yields the dotted names of the sections that have options, "." for the root."""
    properties = schema["properties"].items()
    subsections = {key: item for key, item in properties if "properties" in item}
    if len(subsections) < len(properties):
        yield name or "."
    for key, subsection in subsections.items():
        yield from sections(subsection, f"{name}.{key}" if name else key)


def test_the_configuration_page_has_a_table_for_each_section():
    page = EXPERIMENTS.parent / "docs/pages/reference/configuration.md"
    markers = re.findall(
        r"^<!-- options (\w+) ([\w.]+)(?: unlike [\w.]+)? -->$",
        page.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert markers == [
        (file, section)
        for file, config in CONFIGURATIONS.items()
        for section in sections(json_schema(config))
    ]
