"""Figures of a small package, by hand."""

import subprocess
import sys

from tools.house import figures

FILES = {
    "__init__.py": "",
    "utils/__init__.py": "",
    "utils/errors.py": "class InputError(ValueError):\n    pass\n",
    "models/__init__.py": "from align_keras.models.align import ALIGN\n",
    "models/align.py": "from align_keras.models import layers\nALIGN = layers.OWN\n",
    "models/layers.py": "def f():\n    import align_keras.utils.errors\n"
    + "# own picture, Pictures, known\n" * 60
    + "OWN = 1\n",
    "models/other.py": "from align_keras.models.layers import OWN\n",
}


def test_figures_by_hand(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "align_keras" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    counted = figures(tmp_path)
    assert counted["lines"] == 2 + 1 + 2 + 63 + 1 and counted["files"] == 7
    assert counted["files under 60 lines"] == 3
    # All but layers, which align and other import; a room's front door is none.
    assert counted["files with at most one importer"] == 3
    # models → align → layers → errors.
    assert counted["longest chain of imports"] == 4
    assert counted["“picture”"] == 120 and counted["“own”"] == 60 + 3
    assert counted["lines of utils"] == 2 and counted["lines of models"] == 67


def test_two_checkouts_side_by_side(tmp_path):
    (tmp_path / "align_keras").mkdir()
    (tmp_path / "align_keras" / "__init__.py").write_text("a = 1\n")
    command = [sys.executable, "tools/house.py"]
    answer = subprocess.run(
        [*command, str(tmp_path), str(tmp_path)], capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert "| lines | 1 | 1 |" in answer.stdout.splitlines()
    answer = subprocess.run([*command, "nowhere"], capture_output=True, text=True)
    assert answer.returncode == 1 and "ROOT must hold align_keras/" in answer.stderr
