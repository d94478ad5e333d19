"""Inserts known bugs into a copy of the repository, and reports the tests that fail.

Each bug of `mutations.toml` is an edit of a single file, with the tests that should
detect it. The default tests run first. The ci tests run if the default tests pass, and
then the release tests. The script prints a table of bug, tier, first failing test and
seconds.

    python tools/mutate.py
    python tools/mutate.py --only flip_never_applied --tier default
    python tools/mutate.py --whole-tier --jobs 4
    python tools/mutate.py --results build/mutations.jsonl

With `--results`, an interrupted run continues. The exit code is 1 if the tests detect
less than the fraction `--least` of the bugs.
"""

import argparse
import concurrent.futures
import dataclasses
import json
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
TIERS = {
    "default": "not ci and not release",
    "ci": "ci and not release",
    "release": "release",
}
# Seconds. Tests that take longer count as failed.
TIMEOUT = 1800


@dataclasses.dataclass(frozen=True)
class Mutation:
    """Bug that replaces a piece of a file.

    Attributes:
        name: Name of the bug.
        file: Path of the file, relative to the repository.
        old: Text to replace. The file contains it exactly once.
        new: Text of the bug.
        tests: Pytest arguments that select the tests that should fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: list


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Result of the tests of a bug.

    Attributes:
        tier: Tier of `TIERS` that detected the bug, or `"none"`.
        test: First failing test, or `""`.
        seconds: Duration of that tier, or of all tiers if none detected the bug.
    """

    tier: str
    test: str
    seconds: float


def read_mutations(path=TABLE):
    """Reads a TOML file with a table for each bug. Returns a list of `Mutation`."""
    bugs = tomllib.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    return [Mutation(name, **bug) for name, bug in bugs.items()]


def insert_bug(mutation, root):
    """Returns the text of the mutation's file with the bug.

    Args:
        mutation: `Mutation`.
        root: Path of the repository.

    Raises:
        ValueError: If the file doesn't contain `old` exactly once, or if `new` equals
            `old`.
    """
    text = pathlib.Path(root, mutation.file).read_text(encoding="utf-8")
    count = text.count(mutation.old)
    if count != 1 or mutation.old == mutation.new:
        raise ValueError(
            f"{mutation.name}: {mutation.file} must contain the replaced text exactly "
            f"once. Received: {count} occurrences. Update the edit in {TABLE.name}."
        )
    return text.replace(mutation.old, mutation.new)


def run_tests(copy, tests, marker):
    """Runs tests of a repository until the first failure.

    Returns:
        Tuple of the failed test, or `""`, and the seconds.

    Raises:
        RuntimeError: If pytest cannot run the tests.
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
            code = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            return "(timeout)", time.monotonic() - start
        output.seek(0)
        text = output.read()
    seconds = time.monotonic() - start
    # Pytest's code 5 means that no test belongs to the tier.
    if code in (0, 5):
        return "", seconds
    failed_test = re.search(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
    if code < 0 or (code == 1 and failed_test):
        return failed_test[1] if failed_test else f"(signal {-code})", seconds
    raise RuntimeError(f"pytest {' '.join(tests)} ended with {code}:\n{text[-3000:]}")


def check_mutation(mutation, copy, tiers, whole_tier=False):
    """Runs the tests with a bug in a copy of the repository.

    Args:
        mutation: `Mutation`. The file is restored at the end.
        copy: Path of the copy.
        tiers: Names of tiers, which run in this order until a test fails.
        whole_tier: Whether all tests of a tier run instead of the mutation's tests.

    Returns:
        `Outcome`.
    """
    path = pathlib.Path(copy, mutation.file)
    before = path.read_text(encoding="utf-8")
    total = 0.0
    try:
        path.write_text(insert_bug(mutation, copy), encoding="utf-8")
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
    """Copies the files that tests need. Returns the path of the copy."""
    copy = pathlib.Path(tempfile.mkdtemp(prefix="copy_", dir=folder))
    for name in COPIED:
        source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__")
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=ignored)
        else:
            shutil.copy(source, copy / name)
    for name in ("README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    # Without its files, every test of the shipped model would fail.
    (copy / "saved_models").symlink_to(ROOT / "saved_models")
    return copy


def read_results(path):
    """Reads a file of `--results`. Returns a dict from name to `Outcome`."""
    if path is None or not path.exists():
        return {}
    outcomes = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        name = values.pop("name")
        outcomes[name] = Outcome(**values)
    return outcomes


def main(arguments=None):
    """Runs the script. Returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", metavar="NAME", default=[])
    parser.add_argument("--tier", choices=TIERS, help="run a single tier")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--results",
        type=pathlib.Path,
        metavar="FILE",
        help="add each outcome to a file of JSON lines, and skip the bugs in it. The "
        "code and the other options must be those of the previous run",
    )
    parser.add_argument(
        "--whole-tier", action="store_true", help="run all tests of a tier"
    )
    parser.add_argument(
        "--least",
        type=float,
        default=0.95,
        help="fraction of bugs that the tests must detect",
    )
    options = parser.parse_args(arguments)
    mutations = {mutation.name: mutation for mutation in read_mutations()}
    if unknown := set(options.only) - set(mutations):
        parser.error(
            f"--only must name bugs of {TABLE.name}. Received: {sorted(unknown)}"
        )
    if options.only:
        mutations = {name: mutations[name] for name in options.only}
    tiers = [options.tier] if options.tier else list(TIERS)
    earlier = read_results(options.results)
    num_detected = 0
    with tempfile.TemporaryDirectory() as folder:
        copies = queue.SimpleQueue()
        for _ in range(options.jobs):
            copies.put(copy_repository(folder))

        def run_in_copy(mutation):
            if mutation.name in earlier:
                return earlier[mutation.name]
            copy = copies.get()
            try:
                return check_mutation(mutation, copy, tiers, options.whole_tier)
            finally:
                copies.put(copy)

        print("| bug | tier | first failing test | s |\n|---|---|---|---|", flush=True)
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            outcomes = pool.map(run_in_copy, mutations.values())
            for name, outcome in zip(mutations, outcomes, strict=True):
                num_detected += outcome.tier != "none"
                seconds = f"{outcome.seconds:.0f}"
                print(f"| {name} | {outcome.tier} | {outcome.test} | {seconds} |")
                sys.stdout.flush()
                if options.results and name not in earlier:
                    with open(options.results, "a", encoding="utf-8") as file:
                        line = {"name": name, **dataclasses.asdict(outcome)}
                        file.write(json.dumps(line) + "\n")
    percentage = 100 * num_detected / len(mutations)
    print(f"{num_detected} of {len(mutations)} bugs are detected ({percentage:.0f}%).")
    return 0 if num_detected >= options.least * len(mutations) else 1


if __name__ == "__main__":
    sys.exit(main())
