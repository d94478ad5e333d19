"""Tasks that worker processes import."""

import os
import pathlib
import signal
import socket
import time


def process_of(task):
    time.sleep(0.05)
    return os.getpid()


def square(task):
    """Takes its time, if it is told to."""
    time.sleep(task.get("seconds", 0))
    return task["number"] ** 2


def die_once(task):
    """Kills its process where it is called with number 2 for the first time."""
    marks = pathlib.Path(task["marks"])
    if task["number"] == 2 and not marks.exists():
        marks.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task["number"]


def die(task):
    """Kills its process with number 2 until a file is there."""
    if task["number"] == 2 and not pathlib.Path(task["mended"]).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return task["number"]


def divide(task):
    """A bug, where the divisor is 0."""
    return 1 // task["number"]


class Unreadable(Exception):
    def __init__(self, first, second):
        super().__init__(first)

    def __reduce__(self):  # As by default, which tblib replaces where it is installed.
        return type(self), self.args


def be_unreadable(task):
    """As libraries whose exceptions can't be unpickled."""
    raise Unreadable("one", "two")


def wait(task):
    """Names its process, and works for minutes."""
    pathlib.Path(task["folder"], f"{os.getpid()}.pid").touch()
    time.sleep(300)


def wait_for(task):
    """Says where it runs, and waits for a file."""
    pathlib.Path(task["folder"], f"{task['number']}.begun").touch()
    while not pathlib.Path(task["folder"], "go").exists():
        time.sleep(0.05)
    return [task["number"], socket.gethostname()]
