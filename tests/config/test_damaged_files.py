"""Damaged configuration files raise a short error or are still readable."""

import shutil

from align_keras.config import experiments, load_config
from tests.helpers.mutated import check_folder, counts


@counts(60, 10_000)
def test_damaged_configurations_raise_input_errors(tmp_path, count):
    path = tmp_path / "params.yaml"
    shutil.copy(experiments()["quickstart_icons"], path)
    num_read, num_refused = check_folder(
        tmp_path, [path.name], lambda: load_config(config_files=[path]), count
    )
    assert num_read and num_refused > count / 3
