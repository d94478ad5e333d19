"""Beam's workers on this machine: processes that are watched and end with the run."""

import contextlib
import os
import pathlib
import shlex
import sys
import tempfile
import threading
import traceback

# The name of the threads in which Beam waits for its processes.
_WAITING = "run_worker"
_SECONDS_TO_END = 10


def run_locally(fill, options):
    """Runs a pipeline on this machine, until it is done.

    Beam's `DirectRunner` would fetch another runner from the internet where there is
    a way to it, and waits for ever for a worker that was killed. So this takes the
    runner that stands behind it, and watches the processes.

    Args:
        fill: callable of an `apache_beam.Pipeline`, adds its steps.
        options: `PipelineOptions`; with `direct_running_mode` of `multi_processing`
            there are `direct_num_workers` processes.

    Raises:
        ChildProcessError: if a worker was killed; the others are ended.
        Exception: whatever a step raises, as Beam wraps it.
    """
    from apache_beam.options.pipeline_options import DirectOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    direct = options.view_as(DirectOptions)
    if direct.direct_running_mode != "multi_processing":
        _run(FnApiRunner(), fill, options)
        return
    # Beam would put its own command in the place of ours.
    direct.direct_running_mode = "in_memory"
    with tempfile.TemporaryDirectory() as folder:
        lifeline = pathlib.Path(folder, "run")
        lifeline.touch()
        command = SubprocessSDKEnvironment.from_command_string(_command(lifeline))
        _end_late_workers()
        _run_watched(FnApiRunner(command), fill, options, lifeline)


def _run(runner, fill, options):
    import apache_beam as beam

    with beam.Pipeline(runner=runner, options=options) as pipeline:
        fill(pipeline)


def _run_watched(runner, fill, options, lifeline):
    """Runs in a thread, for Beam answers neither Ctrl-C nor a worker's death."""
    errors = []

    def work():
        try:
            _run(runner, fill, options)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    with _deaths() as dead:
        try:
            thread.start()
            while thread.is_alive() and not dead:
                thread.join(0.1)
            finished = not thread.is_alive()
        finally:
            lifeline.unlink(missing_ok=True)
            _wait_for_the_end(thread)
    if not finished:
        raise ChildProcessError(
            f"a worker process was killed ({dead[0]}), as systems do when memory runs "
            "out; run again, with --runner_option=--direct_num_workers=1 if it was "
            "that: the tasks that are done aren't repeated"
        )
    if errors:
        raise errors[0]


def _end_late_workers():
    """Has workers end with the run that connect when it has ended already.

    Beam waits for them, but tells only those of its end that were there before.
    """
    from apache_beam.portability import python_urns
    from apache_beam.runners.portability.fn_api_runner import worker_handlers

    class Handler(worker_handlers.SubprocessSdkWorkerHandler):
        def stop_worker(self):
            *_, lifeline, _ = shlex.split(self._worker_command_line.decode())
            pathlib.Path(lifeline).unlink(missing_ok=True)
            super().stop_worker()

    register = worker_handlers.WorkerHandler.register_environment
    register(python_urns.SUBPROCESS_SDK, bytes)(Handler)


def _wait_for_the_end(thread):
    for own in threading.enumerate():
        if own.name == _WAITING:
            own.join(_SECONDS_TO_END)
    # Of a worker that was killed Beam goes on to wait for an answer.
    thread.join(1)


@contextlib.contextmanager
def _deaths():
    """Yields a list, to which each worker that ends by a signal or an error comes."""
    dead, own = [], threading.excepthook

    def note(arguments):
        if getattr(arguments.thread, "name", None) == _WAITING:
            dead.append(arguments.exc_value)
        # What Beam's threads say of it goes where its processes' messages go.
        with contextlib.suppress(OSError):
            traceback.print_exception(arguments.exc_value, file=sys.__stderr__)

    threading.excepthook = note
    try:
        yield dead
    finally:
        threading.excepthook = own


def _command(lifeline):
    # The worker can't ask for its parent's id: the run may have gone by then.
    words = [sys.executable, "-m", "align_keras.corpus.worker_process", str(lifeline)]
    words.append(str(os.getpid()))
    # Beam gives it to a shell, which would stay in between.
    return ("exec " if os.name == "posix" else "") + shlex.join(words)
