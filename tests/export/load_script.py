"""Program that calls a SavedModel from eight threads and checks the outputs.

usage: load_script.py FOLDER SECONDS LIBRARY...

FOLDER is the SavedModel, and each LIBRARY contains operations that it needs. The input
on stdin is a pickled tuple. Its first item is a dict from groups to requests
(signature, inputs). Its second item is a dict from groups to sampling weights. The
outputs of a single thread are the expected outputs.
"""

import collections
import pickle
import random
import sys
import threading
import time

import numpy as np
from c_api import CApiError, CModel
from c_api_script import usage

THREADS = 8


def run(model, signature, inputs):
    """Returns the outputs of a request, or the code of its error."""
    try:
        return model.run(signature, **inputs)
    except CApiError as error:
        return str(error).partition(":")[0]


def difference(outputs, expected):
    """Returns the largest difference of two results.

    It is infinite if only one of them is an error, if the shapes differ, or for NaN.
    """
    if isinstance(expected, str) or isinstance(outputs, str):
        return 0.0 if outputs is expected or outputs == expected else np.inf
    pairs = [(outputs[key].astype(float), expected[key]) for key in expected]
    if any(actual.shape != target.shape for actual, target in pairs):
        return np.inf
    largest = max(np.abs(actual - target).max(initial=0) for actual, target in pairs)
    # This comparison is False for NaN.
    return float(largest) if largest < np.inf else np.inf


def main():
    """Runs the requests and writes a pickled dict with the measurements to stdout."""
    folder, seconds, *libraries = sys.argv[1:]
    requests, weights = pickle.load(sys.stdin.buffer)
    model = CModel(folder, libraries)
    expected = {
        group: [run(model, *request) for request in group_requests]
        for group, group_requests in requests.items()
    }
    counts = collections.Counter()
    max_differences = collections.Counter()
    lock = threading.Lock()
    end = time.monotonic() + float(seconds)

    def work(seed):
        rng = random.Random(seed)
        while time.monotonic() < end:
            (group,) = rng.choices(list(weights), weights.values())
            row = rng.randrange(len(requests[group]))
            outputs = run(model, *requests[group][row])
            distance = difference(outputs, expected[group][row])
            with lock:
                counts[group] += 1
                max_differences[group] = max(max_differences[group], distance)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(THREADS)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    memory = []
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.2)
        memory.append(usage())
    result = {
        "counts": dict(counts),
        "max_differences": dict(max_differences),
        "memory": memory,
        "seconds": time.monotonic() - start,
        "errors": {
            group: [result if isinstance(result, str) else "" for result in results]
            for group, results in expected.items()
        },
    }
    pickle.dump(result, sys.stdout.buffer)
    sys.stdout.buffer.flush()
    model.close()


if __name__ == "__main__":
    main()
