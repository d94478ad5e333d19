"""A corpus command that was killed, or had a full disk, resumes with the same bytes."""

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
    output_digests,
    run,
    start,
)

# Tests with this mark start the command several times, which is slow.
RELEASE = pytest.mark.release


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return small_corpus.write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def undisturbed(sources, tmp_path_factory):
    """Digests of the files and the output of an undisturbed run with one worker."""
    out = tmp_path_factory.mktemp("whole")
    output = run(*arguments("build", sources, out, *ONE_WORKER))
    return output_digests(out), output


def check_error_line(err, *, expected):
    """Checks that stderr has progress lines and, at the end, one error."""
    lines = err.splitlines()
    assert lines[-1].startswith("align-keras corpus: error: "), err
    assert expected in lines[-1]
    assert all(line.startswith("corpus ") for line in lines[:-1]), err


def check_resumption(undisturbed, sources, out, workers=TWO_WORKERS):
    """Checks that the command completes with the bytes of an undisturbed run."""
    code, output, err = finish(*arguments("build", sources, out, *workers))
    assert code == 0, err
    assert (output_digests(out), output) == undisturbed
    assert not list(pathlib.Path(out).rglob(".*.tmp"))


def wait_for(process, condition):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


def check_files_are_complete(out):
    for path in out.rglob("*.parquet"):
        if not path.name.startswith("."):
            parquet.read_table(path)
    for path in out.rglob("*.json"):
        # TFDS writes unfinished files to a folder with "incomplete" in its name.
        if "incomplete" not in str(path) and not path.name.startswith("."):
            json.loads(path.read_text(encoding="utf-8"))
    shards = out / "web_pairs/1.0.0"
    if shards.exists():
        names = {shard["file"] for shard in small_corpus.read_index(out)["shards"]}
        assert names <= {path.name for path in shards.iterdir()}


@pytest.mark.release
def test_two_workers_write_the_same_corpus_as_one_worker(
    undisturbed, sources, tmp_path
):
    out = tmp_path / "out"
    check_resumption(undisturbed, sources[::-1], out)
    assert len(undisturbed[0]) == 6


@pytest.mark.ci
def test_a_hook_works_in_workers(sources, tmp_path):
    hook = small_corpus.write_hook(tmp_path / "hook")
    paths = f"{tmp_path / 'hook'}{os.pathsep}{small_corpus.ROOT}"
    code, output, err = finish(
        *arguments("dedup", sources, tmp_path / "out", *TWO_WORKERS, hook),
        env={"PYTHONPATH": paths},
    )
    assert code == 0, err
    assert small_corpus.funnel_of(output)["refused"] == 1


@RELEASE
def test_a_killed_command_repeats_no_finished_task(undisturbed, sources, tmp_path):
    out = tmp_path / "out"
    moments = [
        "stages/extract-*/tasks/extract_part/*.json",
        "stages/filter-*/counts/spills/*",
        "stages/images-*/group-*.parquet",
        "stages/shard-*/web_pairs/*",
    ]
    times_of_results = {}
    for moment in moments:
        process = start(*arguments("build", sources, out, *TWO_WORKERS))
        wait_for(process, lambda moment=moment: any(out.glob(moment)))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        check_files_are_complete(out)
        # Finished tasks were not repeated.
        for path, changed in times_of_results.items():
            assert not path.exists() or path.stat().st_mtime_ns == changed, path
        results = [
            *out.glob("stages/*/tasks/*/*.json"),
            *out.glob("stages/*/done.json"),
        ]
        times_of_results = {path: path.stat().st_mtime_ns for path in results}
    assert len(list(out.glob("stages/*/done.json"))) >= 5
    check_resumption(undisturbed, sources, out)
    for path, changed in times_of_results.items():
        assert not path.exists() or path.stat().st_mtime_ns == changed, path


@RELEASE
def test_workers_end_when_the_main_process_is_killed(sources, tmp_path):
    process = start(*arguments("extract", sources, tmp_path / "out", *TWO_WORKERS))
    wait_for(process, lambda: len(workers_of(process)) == 2)
    workers = workers_of(process)
    process.kill()
    end = time.monotonic() + 20
    while any(pathlib.Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < end
        time.sleep(0.1)
    process.communicate()


def workers_of(process):
    command = ["pgrep", "-f", "-P", str(process.pid), "LokyProcess"]
    result = subprocess.run(command, capture_output=True, text=True)
    return [int(line) for line in result.stdout.split()]


@RELEASE
@pytest.mark.parametrize("number", [0, 1])
def test_the_command_resumes_after_killed_workers(
    undisturbed, sources, tmp_path, number
):
    out = tmp_path / "out"
    process = start(*arguments("build", sources, out, *TWO_WORKERS))
    wait_for(process, lambda: len(workers_of(process)) == 2)
    # Workers are killed at their start, or when they filter pairs.
    if number:
        wait_for(process, lambda: any(out.glob("stages/filter-*/counts/spills/*")))
    # A worker that is killed while it waits for a task is replaced, so all workers are
    # killed until the command fails.
    while process.poll() is None:
        for worker in workers_of(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 1, err
    check_error_line(err, expected="A worker process was killed")
    check_files_are_complete(out)
    check_resumption(undisturbed, sources, out)


@pytest.mark.parametrize(
    "options, group",
    [
        pytest.param(ONE_WORKER, True, marks=pytest.mark.ci),
        pytest.param(TWO_WORKERS, True, marks=RELEASE),
        pytest.param(TWO_WORKERS, False, marks=RELEASE),
    ],
)
def test_the_command_resumes_after_an_interrupt(
    undisturbed, sources, tmp_path, group, options
):
    out = tmp_path / "out"
    process = start(*arguments("build", sources, out, *options))
    wait_for(process, lambda: any(out.glob("stages/extract-*/tasks/*/workers.log")))
    time.sleep(1)
    # A terminal interrupts the whole process group, a script only the main process.
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    # On a busy machine, Python sometimes ends by the signal itself after it has printed
    # the message. Shells treat both cases as an interrupt.
    assert process.returncode in (130, -signal.SIGINT), err
    check_error_line(
        err, expected="Run the same command again to continue from the finished tasks."
    )
    check_files_are_complete(out)
    check_resumption(undisturbed, sources, out, options)


@RELEASE
@pytest.mark.parametrize("options, limit", [(ONE_WORKER, 3000), (TWO_WORKERS, 100_000)])
def test_the_command_resumes_after_a_file_size_limit(
    undisturbed, sources, tmp_path, options, limit
):
    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    out = tmp_path / "out"
    code, _, err = finish(
        *arguments("build", sources, out, *options), preexec_fn=limit_file_size
    )
    assert code == 1, err
    check_error_line(err, expected="File too large")
    check_files_are_complete(out)
    check_resumption(undisturbed, sources, out, options)


@pytest.fixture
def small_disk(tmp_path):
    """Mounted disk of 64 kB in memory, and a function that changes its size."""
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
def test_the_command_resumes_after_a_full_disk(
    undisturbed, sources, small_disk, options
):
    folder, resize = small_disk
    out = folder / "out"
    # The disk is full in the first stage, in the filters, and in the shards.
    for size in ("40k", "96k", "600k"):
        resize(size)
        code, _, err = finish(*arguments("build", sources, out, *options))
        assert code == 1, err
        check_error_line(err, expected="No space left on the disk")
        check_files_are_complete(out)
    resize("64m")
    check_resumption(undisturbed, sources, out, options)


@RELEASE
def test_two_commands_at_once_write_one_corpus(undisturbed, sources, tmp_path):
    out = tmp_path / "out"
    command = arguments("build", sources, out, *ONE_WORKER)
    processes = [start(*command), start(*command)]
    for process in processes:
        output, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert output == undisturbed[1]
    assert output_digests(out) == undisturbed[0]
