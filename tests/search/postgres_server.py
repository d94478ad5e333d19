"""A PostgreSQL server of the tests' own, on a socket in a temporary folder."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile


def find():
    """The folder of the newest server's programs whose extensions have pgvector."""
    for programs in sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))[::-1]:
        version = programs.parent.name
        share = pathlib.Path("/usr/share/postgresql", version, "extension")
        if (programs / "initdb").exists() and (share / "vector.control").exists():
            return programs
    return None


class Server:
    """`address` is that of an empty database's server; `stop` and `start` are real."""

    def __init__(self, programs):
        self.programs = programs
        # A socket's path is short.
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
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder}"
        log = self.folder / "log"
        self._run("pg_ctl", "start", "-w", "-D", self.data, "-l", log, "-o", options)

    def stop(self, mode="fast"):
        self._run("pg_ctl", "stop", "-w", "-m", mode, "-D", self.data)

    def new_database(self, name):
        self._run("createdb", "-h", self.folder, "-U", "tester", name)
        return self.address(name)

    def new_user(self, name, password):
        """Adds a user whom the server asks for a password."""
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

    def _run(self, program, *words):
        subprocess.run(
            [self.programs / program, *map(str, words)],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **self.user,
        )
