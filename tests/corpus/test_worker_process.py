import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]


def start(code, *arguments, **options):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, **options)


WATCH = """
import sys
from align_keras.corpus.worker_process import _end_with
_end_with(sys.argv[1], int(sys.argv[2]))
"""


def test_a_worker_ends_when_the_run_takes_its_file_away(tmp_path):
    lifeline = tmp_path / "run"
    lifeline.touch()
    process = start(WATCH, lifeline, os.getpid())
    time.sleep(1)
    assert process.poll() is None
    lifeline.unlink()
    assert process.wait(timeout=10) == 0


def test_a_worker_ends_when_the_run_has_gone(tmp_path):
    lifeline = tmp_path / "run"
    lifeline.touch()
    # Its parent is another one now.
    assert start(WATCH, lifeline, os.getpid() + 1).wait(timeout=10) == 0


LOG = """
import os, sys
from align_keras.corpus.worker_process import _Log
sys.stderr = _Log()
print("heard \\ud800", file=sys.stderr)
os.close(2)
print("lost", file=sys.stderr)
sys.exit(7)
"""


def test_a_log_that_cannot_be_written_is_no_error():
    process = start(LOG, stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 7 and said == b"heard \\ud800\n"


def test_it_imports_without_beam_or_tensorflow():
    code = (
        "import sys, align_keras.corpus.worker_process as own, "
        "align_keras.corpus.local_workers;"
        "sys.exit(any(n in sys.modules for n in ('apache_beam', 'tensorflow')))"
    )
    assert start(code).wait(timeout=20) == 0
