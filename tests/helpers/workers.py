"""Worker processes of a multi-worker training run, configured with TF_CONFIG."""

import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def start_workers(arguments, outputs, hosts=None):
    """Starts the same Python command in every worker.

    Args:
        arguments: Arguments of Python.
        outputs: `pathlib.Path` of the folder for `worker_N.out` and `worker_N.err`.
        hosts: `tests.helpers.hosts.Hosts`, with a worker on each host. None starts two
            workers on this machine.

    Returns:
        List of `subprocess.Popen`.
    """
    addresses = [f"localhost:{port}" for port in _free_ports(2)]
    prefixes = [[], []]
    if hosts is not None:
        addresses = [f"{address}:2222" for address in hosts.addresses]
        prefixes = [hosts.command_prefix(address) for address in hosts.addresses]
    workers = []
    for index, prefix in enumerate(prefixes):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TF_CONFIG": json.dumps(config),
        }
        with (
            open(outputs / f"worker_{index}.out", "w") as results,
            open(outputs / f"worker_{index}.err", "w") as errors,
        ):
            workers.append(
                subprocess.Popen(
                    [*prefix, sys.executable, *arguments],
                    env=environment,
                    stdout=results,
                    stderr=errors,
                )
            )
    return workers


def wait(workers, outputs, seconds=900):
    """Waits until all workers have ended. Their exit codes must be 0."""
    for index, worker in enumerate(workers):
        code = worker.wait(timeout=seconds)
        text = (outputs / f"worker_{index}.err").read_text()
        assert code == 0, text[-3000:]


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for listener in sockets:
        listener.bind(("localhost", 0))
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports
