"""PostgreSQL server for tests, on a socket in a temporary folder."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile


def find_programs():
    """Returns the folder with the programs of the newest server that has pgvector."""
    for programs in sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))[::-1]:
        version = programs.parent.name
        share = pathlib.Path("/usr/share/postgresql", version, "extension")
        if (programs / "initdb").exists() and (share / "vector.control").exists():
            return programs
    return None


class Server:
    """PostgreSQL server process that can be stopped and started again."""

    def __init__(self, programs):
        self.programs = programs
        # The folder contains the socket, whose path must be short.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="pg"))
        # PostgreSQL refuses to run as root.
        self.user = {"user": "postgres", "group": "postgres"} if not os.getuid() else {}
        if self.user:
            shutil.chown(self.folder, "postgres", "postgres")
        self.folder.chmod(0o755)
        self._run("initdb", "--auth=trust", "--username=tester", "--no-sync", self.data)
        self.start()

    @property
    def data(self):
        return self.folder / "data"

    def address(self, database="postgres"):
        return f"postgresql://tester@/{database}?host={self.folder}"

    def start(self):
        # A crash of the machine may lose the data of a test.
        options = (
            f"-c listen_addresses='' -c unix_socket_directories={self.folder} "
            "-c fsync=off -c synchronous_commit=off -c full_page_writes=off"
        )
        log = self.folder / "log"
        self._run("pg_ctl", "start", "-w", "-D", self.data, "-l", log, "-o", options)

    def stop(self, mode="fast"):
        self._run("pg_ctl", "stop", "-w", "-m", mode, "-D", self.data)

    def new_database(self, name):
        self._run("createdb", "-h", self.folder, "-U", "tester", name)
        return self.address(name)

    def new_user(self, name, password):
        """Adds a user who needs a password."""
        rules = self.data / "pg_hba.conf"
        text = rules.read_text()
        rules.write_text(f"local all {name} scram-sha-256\n{text}")
        sql = f"CREATE ROLE {name} LOGIN PASSWORD '{password}'"
        options = ("-h", self.folder, "-U", "tester", "-d", "postgres")
        self._run("psql", *options, "-c", sql)
        self._run("pg_ctl", "reload", "-D", self.data)

    def close(self):
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program, *arguments):
        subprocess.run(
            [self.programs / program, *map(str, arguments)],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **self.user,
        )
