"""Real worker processes over loopback, started by TF_CONFIG as a user starts them."""

import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def start_workers(arguments, outputs, hosts=None):
    """Starts the same command as each of the workers; what they print goes to files.

    They are two here, or one on each of `hosts`, as tests/helpers/hosts.py makes them.
    """
    addresses = [f"localhost:{port}" for port in _free_ports(2)]
    within = [[], []]
    if hosts is not None:
        addresses = [f"{address}:2222" for address in hosts.addresses]
        within = [hosts.within(address) for address in hosts.addresses]
    workers = []
    for index, words in enumerate(within):
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
                    [*words, sys.executable, *arguments],
                    env=environment,
                    stdout=results,
                    stderr=errors,
                )
            )
    return workers


def wait(workers, outputs, seconds=900):
    """Waits until all have ended well."""
    for index, worker in enumerate(workers):
        code = worker.wait(timeout=seconds)
        text = (outputs / f"worker_{index}.err").read_text()
        assert code == 0, text[-3000:]


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
