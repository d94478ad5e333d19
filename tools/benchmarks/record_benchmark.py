"""Runs a benchmark and records its output for the page of benchmarks.

    python tools/benchmarks/record_benchmark.py loss \
        python tools/benchmarks/bench_loss.py --sizes 4096

writes docs/benchmarks/loss.json with the command, its output, the date, the machine and
its load before the run. `<!-- benchmark loss -->` in docs/pages/benchmarks.md shows it.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "benchmarks"
_PACKAGES = ("tensorflow", "keras", "numpy")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="name of the JSON file, without its suffix")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, help="command of the benchmark"
    )
    options = parser.parse_args(arguments)
    if not options.command or not options.name.isidentifier():
        parser.error(
            "The name must consist of letters, digits and underscores, and a command "
            f"must follow. Received: {options.name} {shlex.join(options.command)}"
        )
    machine = describe_machine()
    command = options.command
    if command[0] == "python":
        command = [sys.executable, *command[1:]]
    process = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        return process.returncode
    FOLDER.mkdir(exist_ok=True)
    record = {
        "command": shlex.join(options.command),
        "date": datetime.date.today().isoformat(),
        "machine": machine,
        "output": process.stdout,
    }
    path = FOLDER / f"{options.name}.json"
    path.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", "utf-8")
    print(process.stdout)
    print(f"Wrote {path.relative_to(ROOT)}.")
    return 0


def describe_machine() -> dict[str, str]:
    """Returns the properties of the machine on which results depend."""
    names = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {
        "processor": f"{os.cpu_count()} cores, {_processor()}",
        "load before": f"{os.getloadavg()[0]:.1f} processes",
        "ten million additions in Python": f"{_seconds_of_additions():.2f} s",
        "versions": ", ".join(
            [f"Python {platform.python_version()}"]
            + [f"{name} {version}" for name, version in names.items()]
        ),
    }


def _seconds_of_additions() -> float:
    """Returns the seconds of ten million additions.

    The speed of a core of a shared machine can vary by a factor of four.
    """
    start, total = time.process_time(), 0
    for number in range(10_000_000):
        total += number
    return time.process_time() - start


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    sys.exit(main())
