"""Writes JSON Schemas of the configurations.

Editors use them to complete and check YAML files. The tables of options in the
documentation come from them too.

usage: python tools/config_schema.py experiments/schema

A YAML file names its schema in a comment: `# yaml-language-server:
$schema=schema/experiment.json`.
"""

import json
import pathlib
import sys

from align_keras.config import CorpusConfig, ExperimentConfig, FineTuningConfig

CONFIGURATIONS = {
    "experiment": ExperimentConfig,
    "evaluation": FineTuningConfig,
    "corpus": CorpusConfig,
}


def main(folder: str) -> None:
    """Writes a schema for each kind of configuration into a folder."""
    pathlib.Path(folder).mkdir(exist_ok=True)
    for name, config_class in CONFIGURATIONS.items():
        schema = config_class.model_json_schema()
        text = json.dumps(schema, indent=2, ensure_ascii=False)
        pathlib.Path(folder, f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
