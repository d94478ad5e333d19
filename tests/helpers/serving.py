"""Servers of the search page in this process, and requests to them."""

import contextlib
import http.client
import json
import threading
import urllib.parse

from align_keras.search.serve.local_server import make_server, open_port
from align_keras.search.serve.server import make_app


@contextlib.contextmanager
def running_app(folder, **options):
    """Serves an index in a thread, and yields the port.

    Args:
        folder: Folder of the index.
        **options: Options of `make_app`.
    """
    server = make_server(make_app(folder, **options))
    with open_port(0) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def request(port, path, body=None, headers=(), method=None, timeout=120, **parameters):
    """Sends a request, and returns status, headers and content of the response.

    JSON content is parsed.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    if parameters:
        path += "?" + urllib.parse.urlencode(parameters, doseq=True)
    method = method or ("GET" if body is None else "POST")
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.headers["content-type"] == "application/json":
        content = json.loads(content)
    return response.status, response.headers, content
