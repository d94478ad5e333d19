"""Access log and Prometheus metrics of the search server."""

import datetime
import ipaddress
import time
from collections.abc import Callable, Sequence
from typing import Any

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Upper bounds of the buckets of request times in seconds.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_BATCH_SIZES = (1, 2, 4, 8, 16)
_METHODS = ("GET", "HEAD", "POST")
# Label of unknown methods and paths. Clients choose them freely, and each value of a
# label takes memory.
_OTHER = "other"


class ServerMetrics:
    """Prometheus metrics of one server.

    Args:
        paths: paths of the routes such as `"/image/{id}"`.

    Attributes:
        content_type: media type of `render`.
    """

    content_type = prometheus_client.CONTENT_TYPE_LATEST

    def __init__(self, paths: Sequence[str]) -> None:
        self._exact = {path for path in paths if "{" not in path}
        # Start of a path → path of its route.
        self._prefixes = {path.partition("{")[0]: path for path in paths if "{" in path}
        self.registry = prometheus_client.CollectorRegistry()
        # CPU time, memory and open files of the process.
        prometheus_client.ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "align_keras_http_requests",
            "Number of responses.",
            ("method", "path", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "align_keras_http_request_seconds",
            "Time from the headers of a request to the end of its response.",
            ("path",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.running = Gauge(
            "align_keras_http_requests_running",
            "Number of requests without a complete response.",
            registry=self.registry,
        )
        self.batch_sizes = Histogram(
            "align_keras_text_queries_per_batch",
            "Number of text queries that are searched together.",
            buckets=_BATCH_SIZES,
            registry=self.registry,
        )
        self._texts = Counter(
            "align_keras_texts",
            "Number of texts of queries, by the source of their embedding.",
            ("source",),
            registry=self.registry,
        )
        self.images = Gauge(
            "align_keras_index_images",
            "Number of images in the index.",
            registry=self.registry,
        )

    def record_texts(self, num_cached: int, num_encoded: int) -> None:
        """Records texts of queries whose embeddings were cached or computed."""
        self._texts.labels("cache").inc(num_cached)
        self._texts.labels("encoder").inc(num_encoded)

    def record_response(
        self, method: str, path: str, status: int, seconds: float
    ) -> None:
        """Records the response to a request.

        Args:
            method: method of the request.
            path: path of the request.
            status: status of the response.
            seconds: time of the request.
        """
        route = self._route_of(path)
        method = method if method in _METHODS else _OTHER
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def _route_of(self, path: str) -> str:
        if path in self._exact:
            return path
        start = path[: path.find("/", 1) + 1]
        return self._prefixes.get(start, _OTHER)

    def render(self) -> bytes:
        """Returns the metrics in the text format of Prometheus."""
        return prometheus_client.generate_latest(self.registry)


class MetricsMiddleware:
    """ASGI middleware that records each response, and logs it.

    Args:
        app: ASGI application.
        metrics: `ServerMetrics`.
        log: function that is called with each line of the access log, or None.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: ServerMetrics,
        log: Callable[[str], object] | None = None,
    ) -> None:
        self.app = app
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        # nginx logs the same status for a client that has closed the connection.
        status = 499
        num_bytes = 0

        async def send_and_count(message: Message) -> None:
            nonlocal status, num_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
            num_bytes += len(message.get("body", b""))
            await send(message)

        self._metrics.running.inc()
        try:
            await self.app(scope, receive, send_and_count)
        finally:
            self._metrics.running.dec()
            seconds = time.perf_counter() - started
            path, method = scope["path"], scope["method"]
            self._metrics.record_response(method, path, status, seconds)
            if self._log is not None:
                self._log(_log_line(scope, status, num_bytes, seconds))


def _log_line(scope: Scope, status: int, num_bytes: int, seconds: float) -> str:
    """Returns a line in the common log format, followed by the seconds."""
    # The line has the path without the query, so that the log contains neither the
    # texts of searches nor other parameters.
    now = datetime.datetime.now(datetime.UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")
    # The raw path is percent-encoded, so it cannot contain a line break.
    path = scope["raw_path"].decode("latin-1").partition("?")[0].replace('"', "%22")
    return (
        f'{_client_of(scope)} - - [{now}] "{scope["method"]} {path} '
        f'HTTP/{scope["http_version"]}" {status} {num_bytes} {seconds:.3f}'
    )


def _client_of(scope: Scope) -> str:
    """Returns the address of the client, or "-" if a proxy sent something else."""
    client: Any = scope.get("client") or ("-",)
    try:
        return str(ipaddress.ip_address(client[0]))
    except ValueError:
        return "-"
