"""Real clusters on this machine: a scheduler and workers, each a process of its own."""

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
    """A scheduler at `hosts[0]` and a worker at each further address.

    `within` gives the words by which a command runs on a host, such as `ip netns exec`.
    """

    def __init__(self, kind, hosts, within=lambda host: [], **environment):
        self.kind, self.hosts, self.within = kind, hosts, within
        self.environment = environment
        # Ray's sockets have paths of 107 bytes at most.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))
        self.port = free_port()
        self.scheduler, self.workers = None, []

    @property
    def engine(self):
        place = f"{self.hosts[0]}:{self.port}"
        return {"spark": f"spark:spark://{place}"}.get(
            self.kind, f"{self.kind}:{place}"
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
        end = time.monotonic() + 120
        # Ray's address answers before its node does.
        while not (self._answers() and ("ray" != self.kind or "started" in self.log())):
            assert self.scheduler.poll() is None and time.monotonic() < end, self.log()
            time.sleep(0.2)

    def start_worker(self, host, **environment):
        command = _WORKERS[self.kind](self, host)
        self.workers.append(self.start(host, command, **environment))

    def start(self, host, command, **environment):
        """Starts a command on a host; what it says goes to `log`."""
        about = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYSPARK_PYTHON": sys.executable,
        }
        about |= {"SPARK_LOCAL_IP": host}
        about |= {"TF_CPP_MIN_LOG_LEVEL": "3", **self.environment, **environment}
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(
                [*self.within(host), *map(str, command)],
                env=about,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )

    def _answers(self):
        probe = (
            "import socket, sys; socket.create_connection((sys.argv[1], sys.argv[2]))"
        )
        place = [self.hosts[0], str(self.port)]
        command = [*self.within(self.hosts[0]), sys.executable, "-c", probe, *place]
        return subprocess.run(command, capture_output=True).returncode == 0

    def log(self):
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def kill(self, process):
        """Ends a process and all that it has started."""
        import psutil  # Which Dask and Ray bring.

        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(process.pid)
            for one in (first, *first.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        process.wait()

    def __exit__(self, *error):
        for process in filter(None, (*self.workers, self.scheduler)):
            self.kill(process)
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


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
