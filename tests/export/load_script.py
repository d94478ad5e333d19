"""Answers requests by one thread, then by eight, through the C API; in a process alone.

Takes a SavedModel's folder, seconds and the libraries that it needs; on stdin pickled
requests, name → list of (signature, inputs), and how often each name is drawn.
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


def answer(model, signature, inputs):
    """Returns the outputs, or of an error its code alone."""
    try:
        return model.run(signature, **inputs)
    except CApiError as error:
        return str(error).partition(":")[0]


def difference(found, expected):
    """Returns the largest of all outputs; infinite for another kind of answer."""
    if isinstance(expected, str) or isinstance(found, str):
        return 0.0 if found is expected or found == expected else np.inf
    pairs = [(found[key].astype(float), expected[key]) for key in expected]
    if any(own.shape != other.shape for own, other in pairs):
        return np.inf
    # Comparisons with NaN are false.
    largest = max(np.abs(own - other).max(initial=0) for own, other in pairs)
    return float(largest) if largest < np.inf else np.inf


def main():
    """Writes a pickled dict to stdout."""
    folder, seconds, *libraries = sys.argv[1:]
    requests, weights = pickle.load(sys.stdin.buffer)
    model = CModel(folder, libraries)
    expected = {
        name: [answer(model, *own) for own in some] for name, some in requests.items()
    }
    counts, worst = collections.Counter(), collections.Counter()
    lock, end = threading.Lock(), time.monotonic() + float(seconds)

    def work(seed):
        source = random.Random(seed)
        while time.monotonic() < end:
            (name,) = source.choices(list(weights), weights.values())
            row = source.randrange(len(requests[name]))
            found = answer(model, *requests[name][row])
            distance = difference(found, expected[name][row])
            with lock:
                counts[name] += 1
                worst[name] = max(worst[name], distance)

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
        "worst": dict(worst),
        "memory": memory,
        "seconds": time.monotonic() - start,
        "errors": {
            name: [own if isinstance(own, str) else "" for own in some]
            for name, some in expected.items()
        },
    }
    pickle.dump(result, sys.stdout.buffer)
    sys.stdout.buffer.flush()
    model.close()


if __name__ == "__main__":
    main()
