"""Real worker processes over loopback, started by TF_CONFIG as a user starts them."""

import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def start_workers(arguments, outputs, count=2):
    """Starts the same command as each of the workers; what they print goes to files."""
    addresses = [f"localhost:{port}" for port in _free_ports(count)]
    workers = []
    for index in range(count):
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
                    [sys.executable, *arguments],
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
