"""Task functions that worker processes import."""

import os
import pathlib
import signal
import socket
import time


def process_id(task):
    time.sleep(0.05)
    return os.getpid()


def square(task):
    """Returns the square of the number after an optional pause in seconds."""
    time.sleep(task.get("seconds", 0))
    return task["number"] ** 2


def die_once(task):
    """Kills the worker process at the first call with number 2."""
    marker = pathlib.Path(task["marker"])
    if task["number"] == 2 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task["number"]


def die(task):
    """Kills the worker process at each call with number 2 until a file exists."""
    if task["number"] == 2 and not pathlib.Path(task["fixed"]).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return task["number"]


def divide(task):
    """Divides 1 by the number, which raises an error for 0."""
    return 1 // task["number"]


class UnpicklableError(Exception):
    def __init__(self, first, second):
        super().__init__(first)

    def __reduce__(self):
        """Returns the default of Python, which tblib replaces if it is installed."""
        return type(self), self.args


def raise_unpicklable_error(task):
    """Raises an exception that can't be unpickled, as some libraries do."""
    raise UnpicklableError("one", "two")


def wait(task):
    """Writes the process id to a file name and sleeps for five minutes."""
    pathlib.Path(task["folder"], f"{os.getpid()}.pid").touch()
    time.sleep(300)


def wait_for(task):
    """Waits until the file "go" exists and returns the number and the host name."""
    pathlib.Path(task["folder"], f"{task['number']}.started").touch()
    while not pathlib.Path(task["folder"], "go").exists():
        time.sleep(0.05)
    return [task["number"], socket.gethostname()]
