"""Makes the documentation's screenshots of the reports and the search pages.

`python tools/screenshots.py --run RUN --corpus CORPUS --node-modules FOLDER` writes
PNG files to docs/pages/assets. RUN is a finished run of `align-keras quickstart`,
CORPUS is a folder of `align-keras corpus build`, and FOLDER contains @litertjs/core.
The script evaluates the shipped model on Tux Paint's stamps, exports the run as a web
page, and indexes a folder of images, by default the stamps. `--only PAGE` makes the
screenshots of one page. The script needs the extra `oracles`, and Debian's
packages chromium and tuxpaint-stamps-default.
"""

import argparse
import contextlib
import functools
import http.server
import io
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

from PIL import Image

from align_keras.datasets.stamps import STAMPS_DIR

ASSETS = pathlib.Path(__file__).parents[1] / "docs" / "pages" / "assets"
ALIGN_KERAS = [sys.executable, "-m", "align_keras.cli.main"]
# Width and height in pixels.
DESKTOP = (1300, 800)
PHONE = (390, 780)
# Bytes. A file that is larger gets a smaller palette.
MAX_BYTES = 150_000
# File name, size, color scheme and query of each screenshot of the search page.
SEARCHES = (
    ("search", DESKTOP, "light", "a sailing boat"),
    ("search_dark", DESKTOP, "dark", "a musical instrument"),
    ("search_phone", PHONE, "light", "a lemon"),
)
# Screenshots of each report, with the anchor of the section that they show. The start
# of the report has no anchor.
REPORTS = {
    "report": {"report": "", "report_examples": "training"},
    "corpus_report": {"corpus_report": ""},
    "evaluation": {"evaluation": "", "evaluation_examples": "t2i"},
    "confusion": {"confusion": "confusion"},
}
# Protocol of each report that `align-keras evaluate` writes.
PROTOCOLS = {"evaluation": "retrieval", "confusion": "zero_shot"}
WEB_QUERY = "magnifying glass"
PAGES = (*REPORTS, "search", "web")


def main() -> None:
    """Makes the pages of the screenshots, and writes the screenshots."""
    arguments = parse_arguments()
    from playwright import sync_api

    ASSETS.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_api.sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name in arguments.only or PAGES:
            if name == "search":
                shoot_search(browser, arguments.images, f"{folder}/index")
            elif name == "web":
                shoot_web(browser, arguments, f"{folder}/web")
            else:
                page_file = write_page(name, arguments, folder)
                shoot_report(browser, page_file.resolve().as_uri(), name)
        browser.close()


def parse_arguments() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="saved_models/quickstart_icons", metavar="RUN")
    parser.add_argument("--corpus", default="corpus", metavar="CORPUS")
    parser.add_argument("--images", default=STAMPS_DIR, metavar="FOLDER")
    parser.add_argument("--node-modules", default="node_modules", metavar="FOLDER")
    parser.add_argument("--only", action="append", choices=PAGES)
    return parser.parse_args()


def write_page(name: str, arguments: argparse.Namespace, folder: str) -> pathlib.Path:
    """Returns the HTML file of a report. Evaluates the shipped model if necessary."""
    if name == "report":
        return pathlib.Path(arguments.run, "report.html")
    if name == "corpus_report":
        return pathlib.Path(arguments.corpus, "report.html")
    file = pathlib.Path(folder, f"{name}.html")
    options = ["--model", "align_small_en", "--data", "stamps", "--html", str(file)]
    run_command("evaluate", PROTOCOLS[name], *options)
    return file


def run_command(*arguments: str) -> None:
    """Runs an align-keras command."""
    subprocess.run([*ALIGN_KERAS, *arguments], check=True)


def shoot_search(browser: Any, images: str, index: str) -> None:
    """Indexes and serves images, and writes screenshots of the search page."""
    run_command("index", images, "--index", index)
    server = subprocess.Popen(
        [*ALIGN_KERAS, "serve", "--index", index, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = server.stdout.readline().split()[1]
        for name, size, scheme, text in SEARCHES:
            query = urllib.parse.urlencode({"text": text})
            with open_page(browser, f"{address}?{query}", size, scheme) as page:
                page.wait_for_load_state("networkidle")
                save(page, name)
    finally:
        server.terminate()
        server.wait()


def shoot_web(browser: Any, arguments: argparse.Namespace, folder: str) -> None:
    """Exports a run as a web page, and writes screenshots of a search on the page."""
    run_command(
        "export",
        "web",
        "--model",
        arguments.run,
        "--to",
        folder,
        "--litert-js",
        arguments.node_modules,
    )
    with serve_files(folder) as address:
        for name, scheme in schemes_of("web"):
            with open_page(browser, address, DESKTOP, scheme) as page:
                page.wait_for_selector("#hits li", timeout=120_000)
                page.fill("#query", WEB_QUERY)
                page.press("#query", "Enter")
                page.wait_for_function(
                    "document.getElementById('status').textContent.includes('ranked')"
                )
                # The browser loads the images of the results one after the other.
                page.wait_for_load_state("networkidle")
                page.wait_for_timeout(1000)
                save(page, name)


@contextlib.contextmanager
def serve_files(folder: str) -> Iterator[str]:
    """Serves a folder over HTTP and yields its address."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def shoot_report(browser: Any, address: str, page_name: str) -> None:
    """Writes the screenshots of a report."""
    for screenshot_name, anchor in REPORTS[page_name].items():
        for name, scheme in schemes_of(screenshot_name):
            page_address = f"{address}#{anchor}" if anchor else address
            with open_page(browser, page_address, DESKTOP, scheme) as page:
                if anchor:
                    page.evaluate("scrollBy(0, -24)")
                    # The browser loads the images of a report when they become visible.
                    page.wait_for_timeout(1000)
                save(page, name)


def schemes_of(page_name: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """Returns the file name and the color scheme of the screenshots of a page."""
    return ((page_name, "light"), (f"{page_name}_dark", "dark"))


@contextlib.contextmanager
def open_page(
    browser: Any, address: str, size: tuple[int, int], scheme: str
) -> Iterator[Any]:
    """Opens a page in a browser tab."""
    page = browser.new_page(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
    )
    page.goto(address)
    yield page
    page.close()


def save(page: Any, name: str) -> None:
    """Writes a screenshot as a PNG file of at most `MAX_BYTES`.

    A palette of 256 colors reduces the file to a third.
    """
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    colors = 256
    while True:
        file = io.BytesIO()
        image.quantize(colors).save(file, "PNG", optimize=True)
        if file.tell() <= MAX_BYTES or colors == 16:
            break
        colors //= 2
    (ASSETS / f"{name}.png").write_bytes(file.getvalue())


if __name__ == "__main__":
    main()
