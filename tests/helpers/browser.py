"""A page in headless Chromium, and the npm package that it needs."""

import contextlib
import functools
import http.server
import os
import pathlib
import shutil
import subprocess
import threading

import pytest

from align_keras.export.web_page import LITERT_JS_VERSION


def node_modules(tmp_path_factory):
    """The folder with @litertjs/core: named by the environment, or installed here."""
    named = os.environ.get("ALIGN_KERAS_NPM_DIR")
    if named:
        return pathlib.Path(named, "node_modules")
    if shutil.which("npm") is None:
        pytest.skip("npm isn't installed")
    folder = tmp_path_factory.mktemp("npm")
    options = ("--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(folder))
    package = f"@litertjs/core@{LITERT_JS_VERSION}"
    wasm = f"@litertjs/wasm-utils@{LITERT_JS_VERSION}"
    done = subprocess.run(
        ["npm", "install", *options, package, wasm], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"npm can't install {package}: {done.stderr[:200]}")
    return folder / "node_modules"


@contextlib.contextmanager
def chromium():
    """Yields Debian's Chromium under Playwright."""
    try:
        from playwright import sync_api
    except ImportError:
        pytest.skip("playwright isn't installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("Debian's package chromium isn't installed")
    with sync_api.sync_playwright() as playwright:
        # Containers give Chromium no sandbox of its own.
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def served(folder):
    """Yields the address of a folder under Python's own static server."""
    handler = functools.partial(_Silent, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def copyfile(self, source, outputfile):
        # A page that is closed early drops its downloads.
        with contextlib.suppress(OSError):
            super().copyfile(source, outputfile)
