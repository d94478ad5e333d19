"""Program that calls a SavedModel through the C API.

usage: c_api_script.py FOLDER LIBRARY...

FOLDER is the SavedModel, and each LIBRARY contains operations that it needs. The input
on stdin is a pickled list of calls. The output on stdout is a pickled list of results.
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
    """Returns the resident memory, its peak, and the allocated memory in bytes.

    Resident memory includes memory that malloc has freed but not returned to the
    system. Allocated memory does not.
    """
    resident = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    # The peak of getrusage would include the memory of the parent process.
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
    """Runs calls (signature, inputs) and writes (outputs or error, usage) for each."""
    folder, *libraries = sys.argv[1:]
    calls = pickle.load(sys.stdin.buffer)
    model = CModel(folder, libraries)
    results = []
    for signature, inputs in calls:
        try:
            outputs = model.run(signature, **inputs)
        except CApiError as error:
            outputs = str(error)
        results.append((outputs, usage()))
    model.close()
    if "tensorflow" in sys.modules:
        sys.exit("The test needs a process that has not imported TensorFlow.")
    pickle.dump(results, sys.stdout.buffer)


if __name__ == "__main__":
    main()
