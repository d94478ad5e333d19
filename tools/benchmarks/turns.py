"""Processes that measure in turn: what else the machine does meets all of them."""

import collections
import itertools
import json
import pathlib
import re
import subprocess
import sys
import time

import align_keras  # noqa: F401 (before TensorFlow, as users import it, for oneDNN)

# What libraries print on the same stream is no answer.
_MARK = "answer: "


def memory(field):
    """Bytes of this process (Linux): VmRSS, at most VmHWM, RssAnon without files."""
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024


def timed(function, *arguments):
    """Calls a function; returns the seconds that it took, wall and CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - wall, time.process_time() - cpu


def serve(measure, ready=True):
    """Tells that this process is ready, then answers each line by `measure` of it."""
    for answer in itertools.chain([ready], map(measure, sys.stdin)):
        print(f"{_MARK}{json.dumps(answer)}", flush=True)


def serve_batches(dataset, batches):
    """Answers each line by the seconds of so many batches, after a first one."""

    def measure(_):
        iterator = iter(dataset)  # Whose threads end with it, before the others' turns.
        next(iterator)
        rest = itertools.islice(iterator, batches)
        return timed(collections.deque, rest, 0)

    for _ in dataset.take(4):
        pass
    serve(measure)


class Worker:
    """The process of a command that calls `serve`; `ready` is what it gave for that."""

    def __init__(self, name, command, **options):
        print(f"starting {name}", file=sys.stderr)
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )
        self.ready = self._answer()

    def _answer(self):
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return json.loads(line.removeprefix(_MARK))
        code = self._process.wait()
        print(f"{self.name} ended with {code} (-9: out of memory)")
        return None

    def turn(self, line=""):
        """Returns the answer to a line, or None from a process that has ended."""
        if self._process.poll() is not None:
            return None
        print(line, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self):
        """Ends the process."""
        self._process.communicate()


def take_turns(commands, rounds, optional=False, **options):
    """Has a process of each command of Python, by name, measure in turn: name → its
    answers, one a round. Those that end early are left out if they are `optional`;
    `options` are those of `subprocess.Popen`.
    """
    workers, answers = [], {name: [] for name in commands}
    try:
        for name, command in commands.items():
            workers.append(Worker(name, command, **options))
        for _ in range(rounds):
            for worker in workers:
                answers[worker.name].append(worker.turn())
    finally:
        for worker in workers:
            worker.close()
    ended = [name for name, found in answers.items() if None in found]
    if ended and not optional:
        sys.exit(f"{', '.join(ended)} ended early; see above")
    return {name: found for name, found in answers.items() if name not in ended}
