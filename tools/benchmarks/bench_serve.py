"""Measures the text searches per second of `align-keras serve`.

`python tools/benchmarks/bench_serve.py INDEX` starts a server, and a load generator in
its own process sends 1,000 distinct texts in rotation. After each text was sent once,
each of --rounds measures the largest rate with --clients connections, and the response
times at the fixed rate --rate. The medians are printed with the CPU time of the server
per request and the load of the machine.
"""

import argparse
import http.client
import itertools
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.parse

from harness import positive, run_benchmark

KINDS = "red green small old happy wooden flying two a big".split()
THINGS = "bird car tree house fish clock boat flower dog hat".split()
PLACES = (
    "on grass",
    "at night",
    "in the snow",
    "by the sea",
    "with people",
    "in a box",
    "on a hill",
    "in the rain",
    "in a room",
    "on paper",
)
# 1,000 texts.
TEXTS = [" ".join(words) for words in itertools.product(KINDS, THINGS, PLACES)]


class Server:
    """Process of `align-keras serve` with the index in a folder."""

    def __init__(self, index):
        command = [sys.executable, "-m", "align_keras.cli.main", "serve"]
        self._process = subprocess.Popen(
            [*command, "--index", str(index), "--port", "0"],
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self._process.stdout.readline()
        address = re.search(r"127\.0\.0\.1:(\d+)/", line)
        if address is None:
            sys.exit("The server did not start. Its message is above.")
        self.port = int(address[1])

    def cpu_seconds(self):
        """Returns the CPU time of the process."""
        stat = pathlib.Path(f"/proc/{self._process.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def measure(self, clients, seconds, rate):
        """Runs the load generator. Returns its results and the CPU time per request."""
        before = self.cpu_seconds()
        options = [str(value) for value in (self.port, clients, seconds, rate)]
        output = subprocess.check_output([sys.executable, __file__, "--send", *options])
        result = json.loads(output)
        result["cpu_ms"] = 1e3 * (self.cpu_seconds() - before) / result["requests"]
        return result

    def stop(self):
        """Ends the process."""
        self._process.terminate()
        self._process.wait()


def send_requests(port, clients, seconds, rate):
    """Sends requests with several connections, and prints the results as JSON.

    Args:
        port: Port of the server.
        clients: Number of connections.
        seconds: Time of the measurement, or 0 to send each text once.
        rate: Requests per second, or 0 for as many as possible. At a fixed rate, the
            time of a request starts when it is due, so that it includes the waiting
            time for a connection.
    """
    paths = [f"/api/search?text={urllib.parse.quote(text)}" for text in TEXTS]
    numbers = itertools.count()
    lock = threading.Lock()
    times = []
    started = time.perf_counter()

    def send():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while True:
            with lock:
                number = next(numbers)
            begin = time.perf_counter()
            if rate:
                begin = started + number / rate
                time.sleep(max(0, begin - time.perf_counter()))
            is_done = begin - started > seconds if seconds else number >= len(paths)
            if is_done:
                return
            connection.request("GET", paths[number % len(paths)])
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                sys.exit(f"status {response.status}: {content[:200]}")
            times.append(time.perf_counter() - begin)

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times.sort()
    result = {
        "requests": len(times),
        "rate": len(times) / (time.perf_counter() - started),
        "median_ms": 1e3 * statistics.median(times),
        "p99_ms": 1e3 * times[int(0.99 * len(times))],
    }
    print(json.dumps(result))


def measure(arguments):
    """Prints the rates and times of each round, and their medians."""
    server = Server(arguments.index.resolve())
    try:
        result = server.measure(arguments.clients, 0, 0)
        print(f"{result['rate']:.0f}/s when each text is new")
        results = []
        for _ in range(arguments.rounds):
            fastest = server.measure(arguments.clients, arguments.seconds, 0)
            fixed = server.measure(arguments.clients, arguments.seconds, arguments.rate)
            results.append((fastest, fixed))
            print(
                f"{fastest['rate']:.0f}/s, p99 {fastest['p99_ms']:.0f} ms; at "
                f"{arguments.rate}/s p99 {fixed['p99_ms']:.0f} ms; load "
                f"{os.getloadavg()[0]:.1f}",
                flush=True,
            )
    finally:
        server.stop()
    fastest, fixed = zip(*results, strict=True)
    rate, cpu = (
        statistics.median(result[key] for result in fastest)
        for key in ("rate", "cpu_ms")
    )
    median, p99 = (
        statistics.median(result[key] for result in fixed)
        for key in ("median_ms", "p99_ms")
    )
    print(
        f"medians: {rate:.0f} searches/s with {cpu:.1f} ms of CPU time each. At "
        f"{arguments.rate}/s: median {median:.0f} ms, p99 {p99:.0f} ms"
    )


def main():
    """Measures the server, or sends requests in the process of the load generator."""
    if sys.argv[1:2] == ["--send"]:
        port, clients, seconds, rate = sys.argv[2:]
        send_requests(int(port), int(clients), float(seconds), float(rate))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=pathlib.Path, help="folder of an index")
    parser.add_argument("--clients", type=positive, default=16)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--rounds", type=positive, default=3)
    measure(parser.parse_args())


if __name__ == "__main__":
    run_benchmark(main)
