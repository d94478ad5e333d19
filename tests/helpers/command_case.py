"""Tests that each command of `align-keras` must pass."""

import functools
import json
import os
import subprocess
import sys

import pytest

from align_keras.cli.main import COMMANDS, main
from align_keras.utils.errors import TENSORFLOW_MODULES

# Modules that the help of no command imports.
_SLOW_MODULES = (*TENSORFLOW_MODULES, "scipy", "torch", "pandas", "pyarrow")
# Prints the help of all commands as JSON, in a process without slow modules.
_SCRIPT = """
import contextlib, io, json, sys
commands, modules = json.loads(sys.stdin.read())
for module in modules:
    sys.modules[module] = None
from align_keras.cli.main import main
texts = {}
for command in commands:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main([command, "--help"])
    texts[command] = output.getvalue()
print(json.dumps(texts))
"""


@functools.cache
def read_helps():
    """Returns a dict from each command to its help."""
    process = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        input=json.dumps([list(COMMANDS), _SLOW_MODULES]),
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


class CommandCase:
    """Base class for the tests of a command.

    Attributes:
        command: name of the command.
        options: options that the help lists.
        mistakes: dict from the words of a mistake to a word of the error. The command
            runs in the folder of `write`.
        usage_errors: words that the parser refuses, such as a missing option.

    Example:

    ```python
    class TestTag(CommandCase):
        command = "tag"
        options = ("--labels", "--thresholds")
        mistakes = {
            ("--labels", "labels.txt"): "--index",
            ("photos", "--labels", "none.txt"): "none.txt",
        }
        usage_errors = [(), ("photos", "--labels")]

        def write(self, folder):
            (folder / "labels.txt").write_text("cat")
    ```
    """

    command = ""
    options: tuple = ()
    mistakes: dict = {}
    usage_errors: list = []

    def write(self, folder):
        """Writes the files of the mistakes to a folder."""

    def test_the_help_needs_no_slow_library(self):
        text = read_helps()[self.command]
        assert text.startswith("usage: align-keras")
        for option in self.options:
            assert f"{option} " in text

    def test_an_unknown_option_is_a_usage_error(self, capsys):
        message = self.usage_error(capsys, "--no-such-option")
        assert "--no-such-option" in message

    def test_usage_errors_exit_with_2(self, capsys):
        for words in self.usage_errors:
            self.usage_error(capsys, *words)

    def test_a_mistake_prints_one_line(self, tmp_path, monkeypatch, capsys):
        self.write(tmp_path)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        for words, expected in self.mistakes.items():
            code = main([self.command, *words])
            captured = capsys.readouterr()
            assert (code, captured.out) == (1, ""), words
            assert "Traceback" not in captured.err
            *progress, line = captured.err.splitlines()
            assert line.startswith(f"align-keras {self.command}: error: "), line
            assert expected in line and "Unexpected" not in line, (words, line)
            assert not [text for text in progress if "error" in text], progress

    def usage_error(self, capsys, *words):
        """Runs the command with a usage error. Returns the last line of stderr."""
        with pytest.raises(SystemExit) as exit_info:
            main([self.command, *words])
        captured = capsys.readouterr()
        assert (exit_info.value.code, captured.out) == (2, ""), words
        line = captured.err.splitlines()[-1]
        assert line.startswith(f"align-keras {self.command}"), line
        return line
