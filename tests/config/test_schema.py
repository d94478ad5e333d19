"""JSON schemas that editors use to complete and check YAML files."""

import functools
import json
import pathlib
import re

import jsonschema
import pytest
import yaml

from align_keras.config.fields import subsection_of
from tools.config_schema import CONFIGURATIONS, main

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[2] / "experiments"
FILES = {
    path.relative_to(EXPERIMENTS).as_posix(): path
    for path in sorted(EXPERIMENTS.rglob("*.yaml"))
}
MODELINE = "# yaml-language-server: $schema="


class Yaml12Loader(yaml.SafeLoader):
    """Loader that reads 1e-3 as a number, as editors do. PyYAML reads a string."""


Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[0-9.]+e[-+]?[0-9]+"), list("0123456789")
)


@functools.cache
def read_validator(path):
    """Returns the validator of a schema, which is checked only once."""
    schema = json.loads(path.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


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
    schema = (path.parent / line.removeprefix(MODELINE)).resolve()
    values = yaml.load(path.read_text("utf-8"), Yaml12Loader)
    read_validator(schema).validate(values)


def test_every_option_has_a_description_in_the_words_of_yaml():
    for config_class in CONFIGURATIONS.values():
        schema = config_class.model_json_schema()
        for definition in (schema, *schema["$defs"].values()):
            for name, option in definition["properties"].items():
                text = option.get("description", "")
                is_section = "$ref" in option
                assert is_section or text, f"{name} of {definition['title']}"
                assert not re.search(r"\bNone\b|tuple|\(\"", text), name


def test_schemas_refuse_unknown_keys_and_wrong_values():
    schema = CONFIGURATIONS["experiment"].model_json_schema()
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate({"trainer": {"loss_upper_bound": None, "callbacks": []}})
    for trainer in (
        {"train_stepps": 1},
        {"train_steps": 0},
        {"train_steps": "many"},
        {"best_checkpoint_metric_comp": "best"},
        {"callbacks": ["tensorbord"]},
    ):
        assert not validator.is_valid({"trainer": trainer}), trainer


def sections(section, name=""):
    """Yields the dotted names of the sections that have options, "." for the root."""
    subsections = {key: subsection_of(section, key) for key in section.model_fields}
    if None in subsections.values():
        yield name or "."
    for key, subsection in subsections.items():
        if subsection:
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
        for file, config_class in CONFIGURATIONS.items()
        for section in sections(config_class)
    ]
