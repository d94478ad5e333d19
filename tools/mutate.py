"""Puts known bugs into a copy of the repository and tells which tests see them.

Each bug of `mutations.toml` is an edit of one file, with the tests that should see it.
A bug is seen by `default`, the tests without a marker, or only by those of `ci`. A
table goes to standard output: bug, tier, first failing test, seconds.

    python tools/mutate.py
    python tools/mutate.py --only flip_never_applied --tier default
    python tools/mutate.py --whole-tier --jobs 4

The exit code is 1 if less than `--least` of the bugs are seen.
"""

import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
TABLE = pathlib.Path(__file__).with_name("mutations.toml")
COPIED = ("align_keras", "experiments", "tests", "tools", "setup.cfg", "pyproject.toml")
TIERS = {"default": "not ci and not release", "ci": "ci"}
SECONDS = 1800


@dataclasses.dataclass(frozen=True)
class Mutation:
    """A bug: `new` in the place of `old`, which a file of the repository holds once,
    and pytest's arguments for the tests that should see it.
    """

    name: str
    file: str
    old: str
    new: str
    tests: list


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Which of `TIERS`, or `"none"`, saw a bug, by which test first, or by ""; and the
    seconds of that tier, or of all.
    """

    tier: str
    test: str
    seconds: float


def read_mutations(path=TABLE):
    """Reads a TOML file with a table a bug: a list of `Mutation`."""
    bugs = tomllib.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    return [Mutation(name, **bug) for name, bug in bugs.items()]


def mutated(mutation, root):
    """Returns the text of the mutation's file, of the repository `root`, with the bug.

    Raises:
        ValueError: if the file doesn't hold `old` once, or `new` changes nothing.
    """
    text = pathlib.Path(root, mutation.file).read_text(encoding="utf-8")
    count = text.count(mutation.old)
    if count != 1 or mutation.old == mutation.new:
        raise ValueError(
            f"{mutation.name}: {mutation.file} must hold what is changed once, holds "
            f"it {count} times; write the edit anew in {TABLE.name}."
        )
    return text.replace(mutation.old, mutation.new)


def run_tests(copy, tests, marker):
    """Runs tests of a repository up to the first failure.

    Returns:
        (str, float): the test that failed, "" if none did, and seconds.

    Raises:
        RuntimeError: if pytest can't run them.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-m", marker]
    command += ["-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=copy,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            return "(hangs)", time.monotonic() - start
        output.seek(0)
        text = output.read()
    seconds = time.monotonic() - start
    if code in (0, 5):  # All pass; none is of this tier.
        return "", seconds
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
    if code < 0 or (code == 1 and found):
        return found[1] if found else f"(ends by signal {-code})", seconds
    raise RuntimeError(f"pytest {' '.join(tests)} ended with {code}:\n{text[-3000:]}")


def judge(mutation, copy, tiers, whole_tier=False):
    """Puts a bug into a copy, runs `tiers` in their order, all tests of each or those
    that are listed, and takes the bug out again; returns the `Outcome`.
    """
    path = pathlib.Path(copy, mutation.file)
    before = path.read_text(encoding="utf-8")
    total = 0.0
    try:
        path.write_text(mutated(mutation, copy), encoding="utf-8")
        for tier in tiers:
            tests = ("tests", "align_keras") if whole_tier else mutation.tests
            test, seconds = run_tests(copy, tests, TIERS[tier])
            total += seconds
            if test:
                return Outcome(tier, test, seconds)
    finally:
        path.write_text(before, encoding="utf-8")
    return Outcome("none", "", total)


def copy_repository(folder):
    """Copies what tests need of the repository; returns the copy's path."""
    copy = pathlib.Path(tempfile.mkdtemp(prefix="copy_", dir=folder))
    for name in COPIED:
        source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__")
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=ignored)
        else:
            shutil.copy(source, copy / name)
    for name in ("README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def main(arguments=None):
    """Runs the script; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", metavar="NAME", default=[])
    parser.add_argument("--tier", choices=TIERS, help="one tier rather than both")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--whole-tier", action="store_true", help="not the listed tests alone"
    )
    parser.add_argument("--least", type=float, default=0.95, help="share to be seen")
    given = parser.parse_args(arguments)
    chosen = {own.name: own for own in read_mutations()}
    if unknown := set(given.only) - set(chosen):
        parser.error(f"--only must name bugs of {TABLE.name}, received {unknown}")
    if given.only:
        chosen = {name: chosen[name] for name in given.only}
    tiers = [given.tier] if given.tier else list(TIERS)
    seen = 0
    with tempfile.TemporaryDirectory() as folder:
        copies = queue.SimpleQueue()
        for _ in range(given.jobs):
            copies.put(copy_repository(folder))

        def judged(mutation):
            copy = copies.get()
            try:
                return judge(mutation, copy, tiers, given.whole_tier)
            finally:
                copies.put(copy)

        print("| bug | tier | first failing test | s |\n|---|---|---|---|", flush=True)
        with concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
            for name, own in zip(
                chosen, pool.map(judged, chosen.values()), strict=True
            ):
                seen += own.tier != "none"
                print(f"| {name} | {own.tier} | {own.test} | {own.seconds:.0f} |")
                sys.stdout.flush()
    print(f"{seen} of {len(chosen)} bugs are seen ({100 * seen / len(chosen):.0f}%).")
    return 0 if seen >= given.least * len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
