"""What needs no processes; those are killed in tests/cli/test_corpus_kill.py."""

import os
import shlex
import sys
import threading

import pytest

from align_keras.corpus.local_workers import _command, _deaths, run_locally

pytestmark = pytest.mark.ci

beam = pytest.importorskip("apache_beam")


def fail(name):
    def run():
        raise RuntimeError(f"of {name}")

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join()


def test_only_the_ends_of_workers_are_noted():
    before = threading.excepthook
    with _deaths() as dead:
        fail("beam_control_read")
        assert dead == []
        fail("run_worker")
        assert [str(own) for own in dead] == ["of run_worker"]
    assert threading.excepthook is before


def test_the_command_stands_a_shell():
    words = shlex.split(_command("/a b/'c'"))
    module = "align_keras.corpus.worker_process"
    assert words[-3:] == [module, "/a b/'c'", str(os.getpid())]
    assert sys.executable in words


def test_beams_own_thread_name_is_what_we_watch():
    import inspect

    from apache_beam.runners.portability.fn_api_runner import worker_handlers

    own = inspect.getsource(worker_handlers.SubprocessSdkWorkerHandler)
    assert "name='run_worker'" in own


def test_in_one_process_errors_come_through():
    from apache_beam.options.pipeline_options import PipelineOptions

    seen = []

    def fill(pipeline):
        _ = pipeline | beam.Create([1, 0]) | beam.Map(lambda own: 1 / own)
        seen.append(type(pipeline.runner).__name__)

    with pytest.raises(Exception, match="division by zero"):
        run_locally(fill, PipelineOptions(["--direct_num_workers=1"]))
    # Not the one that fetches another runner from the internet.
    assert seen == ["FnApiRunner"]
