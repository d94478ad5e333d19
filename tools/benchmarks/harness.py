"""Shared parts of the benchmarks: one line for a wrong input, and processes in turn.

Processes measure in turn, so that other load affects all of them equally.
"""

import argparse
import collections
import itertools
import json
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from align_keras import InputError  # Before TensorFlow, because it enables oneDNN.

if TYPE_CHECKING:
    import tensorflow as tf

# Prefix of lines with results. Libraries print other lines to the same stream.
_MARK = "result: "


def run_benchmark(main: Callable[[], None]) -> None:
    """Runs a benchmark. A wrong input ends it with one line."""
    try:
        main()
    except (InputError, OSError) as error:
        sys.exit(f"{pathlib.Path(sys.argv[0]).name}: error: {error}")


def positive(text: str) -> int:
    """Returns the number in an argument of the command line, which must be above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1. Received: {text}")
    return number


def memory(field: str) -> int:
    """Returns a memory statistic of this process in bytes (Linux only).

    Args:
        field: `VmRSS` (now), `VmHWM` (the peak) or `RssAnon` (now, without files).
    """
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024


def timed(function: Callable, *arguments: Any) -> tuple[float, float]:
    """Calls a function. Returns its wall time and CPU time in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - wall, time.process_time() - cpu


def serve(measure: Callable[[str], Any], ready: Any = True) -> None:
    """Prints that this process is ready, then a result for each input line.

    Args:
        measure: Function from a line to a JSON-serializable result.
        ready: First result, which reports that the process is ready.
    """
    for result in itertools.chain([ready], map(measure, sys.stdin)):
        print(f"{_MARK}{json.dumps(result)}", flush=True)


def serve_batches(dataset: "tf.data.Dataset", batches: int) -> None:
    """Prints the seconds to read some batches for each line of standard input.

    The first batch of each pass is not measured.

    Args:
        dataset: Batched dataset.
        batches: Number of measured batches.
    """

    def measure(_: str) -> tuple[float, float]:
        # Each pass uses a new iterator. Its threads end before another process
        # measures.
        iterator = iter(dataset)
        next(iterator)
        measured = itertools.islice(iterator, batches)
        return timed(collections.deque, measured, 0)

    for _ in dataset.take(4):
        pass
    serve(measure)


class Worker:
    """Python process that runs `serve`.

    Args:
        name: Name in messages.
        command: Arguments of the interpreter.
        python: Interpreter.
        options: Options of `subprocess.Popen`.

    Attributes:
        ready: The value that the process sent when it was ready, or None if it ended.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[object],
        python: str = sys.executable,
        **options: Any,
    ) -> None:
        print(f"starting {name}", file=sys.stderr)
        self.name = name
        self._process = subprocess.Popen(
            [python, *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )
        self.ready = self._read_result()

    def _read_result(self) -> Any:
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return json.loads(line.removeprefix(_MARK))
        code = self._process.wait()
        print(f"{self.name} ended with exit code {code}. Code -9: out of memory.")
        return None

    def turn(self, line: str = "") -> Any:
        """Sends a line. Returns the result, or None if the process has ended."""
        if self._process.poll() is not None:
            return None
        print(line, file=self._process.stdin, flush=True)
        return self._read_result()

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def take_turns(
    commands: Mapping[str, Sequence[object]],
    rounds: int,
    optional: bool = False,
    **options: Any,
) -> dict[str, list]:
    """Starts a process for each command. The processes measure in turn.

    Args:
        commands: Name → arguments of the interpreter.
        rounds: Number of measurements of each process.
        optional: Whether to skip processes that end early. Otherwise this process
            exits.
        options: Options of `subprocess.Popen`.

    Returns:
        Name → the results of its process, one for each round.
    """
    workers: list[Worker] = []
    results: dict[str, list] = {name: [] for name in commands}
    try:
        for name, command in commands.items():
            workers.append(Worker(name, command, **options))
        for _ in range(rounds):
            for worker in workers:
                results[worker.name].append(worker.turn())
    finally:
        for worker in workers:
            worker.close()
    ended = [name for name, values in results.items() if None in values]
    if ended and not optional:
        sys.exit(f"{', '.join(ended)} ended early. See the messages above.")
    return {name: values for name, values in results.items() if name not in ended}
