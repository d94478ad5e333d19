"""Real Dask, Ray and Spark clusters on this machine.

The scheduler and each worker run in separate processes.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = pathlib.Path(sys.executable).parent


class Cluster:
    """Cluster with a scheduler on the first host and a worker on each further host.

    Args:
        kind: `"dask"`, `"ray"` or `"spark"`.
        hosts: List of IP addresses.
        command_prefix: Function from a host to the words that run a command on it,
            such as `["ip", "netns", "exec", name]`.
        **environment: Environment variables of the scheduler and the workers.
    """

    def __init__(self, kind, hosts, command_prefix=lambda host: [], **environment):
        self.kind, self.hosts, self.command_prefix = kind, hosts, command_prefix
        self.environment = environment
        # The path of a Unix socket has at most 107 bytes, and Ray adds a long suffix.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))
        self.port = free_port()
        self.scheduler, self.workers = None, []

    @property
    def engine(self):
        """Value of `--engine` that selects this cluster."""
        address = f"{self.hosts[0]}:{self.port}"
        return {"spark": f"spark:spark://{address}"}.get(
            self.kind, f"{self.kind}:{address}"
        )

    def __enter__(self):
        try:
            self.start_scheduler()
            for host in self.hosts[1:]:
                self.start_worker(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def start_scheduler(self):
        host = self.hosts[0]
        self.scheduler = self.start(host, _SCHEDULERS[self.kind](self, host))
        deadline = time.monotonic() + 120
        # Ray accepts connections before its node is ready, so its log is read as well.
        while not (
            self._accepts_connections()
            and ("ray" != self.kind or "started" in self.log())
        ):
            assert self.scheduler.poll() is None and time.monotonic() < deadline, (
                self.log()
            )
            time.sleep(0.2)

    def start_worker(self, host, **environment):
        command = _WORKERS[self.kind](self, host)
        self.workers.append(self.start(host, command, **environment))

    def start(self, host, command, **environment):
        """Starts a command on a host. Its output goes to the file that `log` reads."""
        variables = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYSPARK_PYTHON": sys.executable,
        }
        variables |= {"SPARK_LOCAL_IP": host}
        variables |= {"TF_CPP_MIN_LOG_LEVEL": "3", **self.environment, **environment}
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(
                [*self.command_prefix(host), *map(str, command)],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )

    def _accepts_connections(self):
        probe = (
            "import socket, sys; socket.create_connection((sys.argv[1], sys.argv[2]))"
        )
        address = [self.hosts[0], str(self.port)]
        command = [
            *self.command_prefix(self.hosts[0]),
            sys.executable,
            "-c",
            probe,
            *address,
        ]
        return subprocess.run(command, capture_output=True).returncode == 0

    def log(self):
        """Returns the last 3,000 characters of the output of all processes."""
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def kill(self, process):
        """Kills a process and all its descendants."""
        import psutil  # A dependency of Dask and Ray.

        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(process.pid)
            for member in (parent, *parent.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
        process.wait()

    def __exit__(self, *error):
        for process in filter(None, (*self.workers, self.scheduler)):
            self.kill(process)
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _spark(*arguments):
    import pyspark

    program = pathlib.Path(pyspark.__file__).parent / "bin" / "spark-class"
    return [program, f"org.apache.spark.deploy.{arguments[0]}", *arguments[1:]]


def _ray(cluster, host, *arguments):
    start = [PROGRAMS / "ray", "start", "--block", f"--node-ip-address={host}"]
    return [*start, "--num-cpus=1", "--disable-usage-stats", *arguments]


_SCHEDULERS = {
    "dask": lambda cluster, host: [
        PROGRAMS / "dask",
        "scheduler",
        "--no-dashboard",
        "--host",
        host,
        "--port",
        cluster.port,
    ],
    "ray": lambda cluster, host: _ray(
        cluster,
        host,
        "--head",
        f"--port={cluster.port}",
        "--include-dashboard=false",
        f"--temp-dir={cluster.folder}/r",
    ),
    "spark": lambda cluster, host: _spark(
        "master.Master", "--host", host, "--port", cluster.port, "--webui-port", "0"
    ),
}
_WORKERS = {
    "dask": lambda cluster, host: [
        PROGRAMS / "dask",
        "worker",
        f"tcp://{cluster.hosts[0]}:{cluster.port}",
        "--nthreads",
        1,
        "--no-dashboard",
        "--host",
        host,
        "--local-directory",
        cluster.folder,
    ],
    "ray": lambda cluster, host: _ray(
        cluster, host, f"--address={cluster.hosts[0]}:{cluster.port}"
    ),
    "spark": lambda cluster, host: _spark(
        "worker.Worker",
        f"spark://{cluster.hosts[0]}:{cluster.port}",
        "--host",
        host,
        "--cores",
        "1",
        "--memory",
        "1g",
        "--webui-port",
        "0",
        "--work-dir",
        cluster.folder,
    ),
}
