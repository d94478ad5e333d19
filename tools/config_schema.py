"""Writes JSON Schemas of the configurations.

Editors use them to complete and check YAML files.

usage: python tools/config_schema.py experiments/schema

A YAML file names its schema in a comment: `# yaml-language-server:
$schema=schema/experiment.json`.
"""

import dataclasses
import inspect
import json
import pathlib
import re
import sys
import typing
from typing import Any

from align_keras.config.corpus_config import CorpusConfig
from align_keras.config.experiment_config import ExperimentConfig
from align_keras.config.fields import BOUNDS, as_dict, member_of
from align_keras.config.fine_tuning_config import FineTuningConfig

CONFIGURATIONS = {
    "experiment": ExperimentConfig(),
    "evaluation": FineTuningConfig(),
    "corpus": CorpusConfig(),
}
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
_ATTRIBUTE = re.compile(r"^    (\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)


def json_schema(config: Any) -> dict[str, Any]:
    """Returns the JSON Schema (draft 7) of a configuration.

    The schema has the ranges and choices of each option. It lacks the rules that
    involve several options.

    Args:
        config: Configuration object with the default values.

    Example:
    >>> from align_keras.config import EvaluationConfig
    >>> json_schema(EvaluationConfig())["properties"]["ks"]["items"]
    {'type': 'integer', 'minimum': 1}
    """
    return {"$schema": "http://json-schema.org/draft-07/schema#", **_section(config)}


def _section(config: Any) -> dict[str, Any]:
    cls = config if isinstance(config, type) else type(config)
    texts, properties = _descriptions(cls), {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name, None)
        if dataclasses.is_dataclass(value):
            properties[field.name] = _section(value)
            continue
        bounds = field.metadata.get("bounds", {})
        limits = {BOUNDS[name][2]: bound for name, bound in bounds.items()}
        schema = _option(field.type, limits) | {"default": as_dict(value)}
        properties[field.name] = {"description": texts[field.name]} | schema
    return {
        "type": "object",
        "description": (inspect.getdoc(cls) or "").partition("\n")[0],
        "properties": properties,
        "additionalProperties": False,
    }


def _option(hint: Any, limits: dict[str, float]) -> dict[str, Any]:
    member, or_none = member_of(hint)
    arguments = typing.get_args(member)
    schema: dict[str, Any]
    if typing.get_origin(member) is typing.Literal:
        schema = {"enum": list(arguments)}
    elif typing.get_origin(member) is dict:
        schema = {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": _option(arguments[1], limits),
        }
    elif typing.get_origin(member) is tuple and dataclasses.is_dataclass(arguments[0]):
        item = {"anyOf": [{"type": "string"}, _section(arguments[0])]}
        schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": item}]}
    elif typing.get_origin(member) is tuple:
        return {"type": "array", "items": _option(arguments[0], limits)}
    else:
        schema = {"type": _TYPES[member], **limits}
    return {"anyOf": [schema, {"type": "null"}]} if or_none else schema


def _descriptions(cls: type) -> dict[str, str]:
    """Reads the descriptions of fields from the docstrings of a class and its bases.

    Docstrings name the Python value None. The descriptions name `null` of YAML instead.
    """
    texts: dict[str, str] = {}
    for base in cls.__mro__:
        _, _, attributes = (inspect.getdoc(base) or "").partition("Attributes:\n")
        for name, text in _ATTRIBUTE.findall(attributes):
            words = re.sub(r"\bNone\b", "null", text.replace("`", "")).split()
            texts.setdefault(name, " ".join(words))
    return texts


def main(folder: str) -> None:
    """Writes a schema for each kind of configuration into a folder."""
    pathlib.Path(folder).mkdir(exist_ok=True)
    for name, config in CONFIGURATIONS.items():
        text = json.dumps(json_schema(config), indent=2, ensure_ascii=False)
        pathlib.Path(folder, f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
