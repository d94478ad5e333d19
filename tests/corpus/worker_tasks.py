"""Tasks that Beam's processes import."""

import os
import time


def process_of(task):
    time.sleep(0.05)
    return os.getpid()
