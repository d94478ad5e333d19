"""The process of a local worker: Beam's own, which ends with the run."""

import io
import os
import signal
import sys
import threading
import time

_SECONDS_BETWEEN_LOOKS = 0.2


def main():
    """Works for the run whose lifeline, a file, and process id come as arguments."""
    # Ctrl-C reaches all processes of a terminal; the run answers it, for all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A log that can't grow, on a full disk, must not keep the error from being told.
    sys.stdout = sys.stderr = _Log()
    lifeline, parent = sys.argv.pop(1), int(sys.argv.pop(1))
    watch = threading.Thread(target=_end_with, args=(lifeline, parent), daemon=True)
    watch.start()
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


class _Log(io.TextIOBase):
    """What Beam says, on the process's own stderr as long as that takes it."""

    def write(self, text):
        try:
            os.write(2, text.encode("utf-8", "backslashreplace"))
        except OSError:
            pass
        return len(text)


def _end_with(lifeline, parent):
    """Ends the process when the run takes its file away, or has gone itself."""
    # Elsewhere than on POSIX a shell stays in between.
    while os.path.exists(lifeline) and (os.name != "posix" or os.getppid() == parent):
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    # Nothing is lost: a task's file has its name when it is whole.
    os._exit(0)


if __name__ == "__main__":
    main()
