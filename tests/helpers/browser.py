"""Headless Chromium, a static web server and the npm packages of the web page."""

import contextlib
import functools
import http.server
import os
import pathlib
import shutil
import subprocess
import threading

import pytest


def node_modules(tmp_path_factory):
    """Returns the `node_modules` folder with @litertjs/core.

    Uses the folder in `ALIGN_KERAS_NPM_DIR` if that is set. Installs the packages
    otherwise, and skips the test if npm cannot install them.
    """
    npm_folder = os.environ.get("ALIGN_KERAS_NPM_DIR")
    if npm_folder:
        return pathlib.Path(npm_folder, "node_modules")
    if shutil.which("npm") is None:
        pytest.skip("npm isn't installed")
    # Importing TensorFlow takes seconds.
    from align_keras.export.web_page import LITERT_JS_VERSION

    folder = tmp_path_factory.mktemp("npm")
    options = ("--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(folder))
    package = f"@litertjs/core@{LITERT_JS_VERSION}"
    wasm = f"@litertjs/wasm-utils@{LITERT_JS_VERSION}"
    result = subprocess.run(
        ["npm", "install", *options, package, wasm], capture_output=True, text=True
    )
    if result.returncode:
        pytest.skip(f"npm can't install {package}: {result.stderr[:200]}")
    return folder / "node_modules"


@contextlib.contextmanager
def chromium():
    """Yields a Playwright browser that runs Debian's Chromium."""
    try:
        from playwright import sync_api
    except ImportError:
        pytest.skip("playwright isn't installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("Debian's package chromium isn't installed")
    with sync_api.sync_playwright() as playwright:
        # Chromium cannot create its sandbox inside a container.
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def served(folder):
    """Serves a folder over HTTP and yields its address."""
    handler = functools.partial(_SilentHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


class _SilentHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def copyfile(self, source, outputfile):
        # The browser closes the connection when a page is closed during a download.
        with contextlib.suppress(OSError):
            super().copyfile(source, outputfile)
