"""Answers pickled calls by the C API, in a process of its own.

Takes a SavedModel's folder and the libraries that it needs, and calls on stdin.
"""

import ctypes
import pathlib
import pickle
import re
import resource
import sys

from c_api import CApiError, CModel


class HeapInformation(ctypes.Structure):
    """`mallinfo2` of glibc 2.33 and later."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def usage():
    """Returns the process's memory in bytes: resident, its peak, and in use by malloc.

    The last doesn't count what is free for the next call, as the first does.
    """
    resident = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    # What getrusage gives begins with the size of the process that started this one.
    (peak,) = re.findall(
        r"VmHWM:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text()
    )
    information = ctypes.CDLL(None).mallinfo2
    information.restype = HeapInformation
    heap = information()
    return {
        "resident": resident * resource.getpagesize(),
        "peak": int(peak) * 1024,
        "in_use": heap.uordblks + heap.hblkhd,
    }


def main():
    """Answers pickled calls: (signature, inputs) → (outputs or error, usage)."""
    folder, *libraries = sys.argv[1:]
    calls = pickle.load(sys.stdin.buffer)
    model = CModel(folder, libraries)
    answers = []
    for signature, inputs in calls:
        try:
            answer = model.run(signature, **inputs)
        except CApiError as error:
            answer = str(error)
        answers.append((answer, usage()))
    model.close()
    if "tensorflow" in sys.modules:
        sys.exit("Python's TensorFlow was imported: this proves nothing")
    pickle.dump(answers, sys.stdout.buffer)


if __name__ == "__main__":
    main()
