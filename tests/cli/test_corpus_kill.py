"""Signals and full disks: the same command goes on to the same bytes."""

import contextlib
import json
import os
import pathlib
import resource
import signal
import subprocess
import time

import pyarrow.parquet as parquet
import pytest

from tests.helpers import small_corpus
from tests.helpers.small_corpus import (
    ONE_WORKER,
    TWO_WORKERS,
    arguments,
    finish,
    made_files,
    run,
    start,
)

# Of each kind of end, the runs of one worker are in the ci tier.
RELEASE = pytest.mark.release


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return small_corpus.write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def whole(sources, tmp_path_factory):
    """What one worker makes without a fault: files by their digests, and the funnel."""
    out = tmp_path_factory.mktemp("whole")
    said = run(*arguments("build", sources, out, *ONE_WORKER))
    return made_files(out), said


def one_line(err, *, says):
    """Checks that stderr has progress and one error."""
    lines = err.splitlines()
    assert lines[-1].startswith("align-keras corpus: error: "), err
    assert says in lines[-1]
    assert all(line.startswith("corpus ") for line in lines[:-1]), err


def goes_on(whole, sources, out, workers=TWO_WORKERS):
    """Runs the command again: it completes, with the bytes of an undisturbed run."""
    code, said, err = finish(*arguments("build", sources, out, *workers))
    assert code == 0, err
    assert (made_files(out), said) == whole
    assert not list(pathlib.Path(out).rglob(".*.tmp"))


def wait_for(process, condition):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


def assert_nothing_is_half_written(out):
    for path in out.rglob("*.parquet"):
        if not path.name.startswith("."):
            parquet.read_table(path)
    for path in out.rglob("*.json"):
        # What TFDS is writing has no final name yet.
        if "incomplete" not in str(path) and not path.name.startswith("."):
            json.loads(path.read_text(encoding="utf-8"))
    shards = out / "web_pairs/1.0.0"
    if shards.exists():
        names = {own["file"] for own in small_corpus.read_index(out)["shards"]}
        assert names <= {path.name for path in shards.iterdir()}


@pytest.mark.release
def test_two_workers_make_what_one_makes(whole, sources, tmp_path):
    out = tmp_path / "out"
    goes_on(whole, sources[::-1], out)
    assert len(whole[0]) == 6


@pytest.mark.ci
def test_a_hook_works_in_workers(sources, tmp_path):
    hook = small_corpus.write_hook(tmp_path / "hook")
    paths = f"{tmp_path / 'hook'}{os.pathsep}{small_corpus.ROOT}"
    code, said, err = finish(
        *arguments("dedup", sources, tmp_path / "out", *TWO_WORKERS, hook),
        env={"PYTHONPATH": paths},
    )
    assert code == 0, err
    assert small_corpus.funnel_of(said)["refused"] == 1


@RELEASE
def test_killed_at_several_moments(whole, sources, tmp_path):
    out = tmp_path / "out"
    moments = [
        "stages/extract-*/tasks/extract_part/*.json",
        "stages/filter-*/counts/spills/*",
        "stages/pictures-*/group-*.parquet",
        "stages/shard-*/web_pairs/*",
    ]
    done = {}
    for moment in moments:
        process = start(*arguments("build", sources, out, *TWO_WORKERS))
        wait_for(process, lambda moment=moment: any(out.glob(moment)))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert_nothing_is_half_written(out)
        # What was done before is as it was.
        for path, changed in done.items():
            assert not path.exists() or path.stat().st_mtime_ns == changed, path
        results = [
            *out.glob("stages/*/tasks/*/*.json"),
            *out.glob("stages/*/done.json"),
        ]
        done = {path: path.stat().st_mtime_ns for path in results}
    assert len(list(out.glob("stages/*/done.json"))) >= 5
    goes_on(whole, sources, out)
    for path, changed in done.items():
        assert not path.exists() or path.stat().st_mtime_ns == changed, path


@RELEASE
def test_a_killed_run_takes_its_workers_with_it(sources, tmp_path):
    process = start(*arguments("extract", sources, tmp_path / "out", *TWO_WORKERS))
    wait_for(process, lambda: len(workers_of(process)) == 2)
    workers = workers_of(process)
    process.kill()
    end = time.monotonic() + 20
    while any(pathlib.Path(f"/proc/{own}").exists() for own in workers):
        assert time.monotonic() < end
        time.sleep(0.1)
    process.communicate()


def workers_of(process):
    command = ["pgrep", "-f", "-P", str(process.pid), "LokyProcess"]
    found = subprocess.run(command, capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


@RELEASE
@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_worker(whole, sources, tmp_path, number):
    out = tmp_path / "out"
    process = start(*arguments("build", sources, out, *TWO_WORKERS))
    wait_for(process, lambda: len(workers_of(process)) == 2)
    if number:  # Once it works.
        wait_for(process, lambda: any(out.glob("stages/filter-*/counts/spills/*")))
    # One that waits for a task when it is killed is replaced by another.
    while process.poll() is None:
        for worker in workers_of(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 1, err
    one_line(err, says="a worker process was killed")
    assert_nothing_is_half_written(out)
    goes_on(whole, sources, out)


@pytest.mark.parametrize(
    "options, group",
    [
        pytest.param(ONE_WORKER, True, marks=pytest.mark.ci),
        pytest.param(TWO_WORKERS, True, marks=RELEASE),
        pytest.param(TWO_WORKERS, False, marks=RELEASE),
    ],
)
def test_interrupted(whole, sources, tmp_path, group, options):
    out = tmp_path / "out"
    process = start(*arguments("build", sources, out, *options))
    wait_for(process, lambda: any(out.glob("stages/extract-*/tasks/*/workers.log")))
    time.sleep(1)
    # As a terminal does, which asks all processes; and as a script.
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    # Seen once in six runs on a busy machine: Python ends by the signal itself, after
    # the line. Shells take both for an interrupt.
    assert process.returncode in (130, -signal.SIGINT), err
    one_line(
        err, says="Run the same command again to continue from the finished tasks."
    )
    assert_nothing_is_half_written(out)
    goes_on(whole, sources, out, options)


@RELEASE
@pytest.mark.parametrize("options, limit", [(ONE_WORKER, 3000), (TWO_WORKERS, 100_000)])
def test_files_that_cannot_grow(whole, sources, tmp_path, options, limit):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    out = tmp_path / "out"
    code, _, err = finish(
        *arguments("build", sources, out, *options), preexec_fn=limited
    )
    assert code == 1, err
    one_line(err, says="File too large")
    assert_nothing_is_half_written(out)
    goes_on(whole, sources, out, options)


@pytest.fixture
def small_disk(tmp_path):
    """A disk in memory of 64 kB, and a function that gives it another size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a disk here")

    def resize(size):
        command = ["mount", "-o", f"remount,size={size}", str(folder)]
        subprocess.run(command, check=True)

    yield folder, resize
    subprocess.run(["umount", "-l", str(folder)], check=True)


@RELEASE
@pytest.mark.parametrize("options", [ONE_WORKER, TWO_WORKERS])
def test_a_full_disk(whole, sources, small_disk, options):
    folder, resize = small_disk
    out = folder / "out"
    # Full in the first stage, in the filters, and in the shards.
    for size in ("40k", "96k", "600k"):
        resize(size)
        code, _, err = finish(*arguments("build", sources, out, *options))
        assert code == 1, err
        one_line(err, says="No space left on the disk")
        assert_nothing_is_half_written(out)
    resize("64m")
    goes_on(whole, sources, out, options)


@RELEASE
def test_two_runs_at_once(whole, sources, tmp_path):
    out = tmp_path / "out"
    command = arguments("build", sources, out, *ONE_WORKER)
    both = [start(*command), start(*command)]
    for process in both:
        said, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert said == whole[1]
    assert made_files(out) == whole[0]
