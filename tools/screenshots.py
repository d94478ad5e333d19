"""Makes the documentation's screenshots of the search page.

`python tools/screenshots.py [--images FOLDER]` indexes a folder with the shipped model,
serves the index, and writes docs/pages/assets/search*.png. The default folder has Tux
Paint's stamps. The script needs the extras `serve` and `oracles`, and Debian's packages
chromium and tuxpaint-stamps-default.
"""

import argparse
import io
import pathlib
import shutil
import subprocess
import sys
import tempfile
import urllib.parse

from PIL import Image

from align_keras.datasets.stamps import STAMPS_DIR

ASSETS = pathlib.Path(__file__).parents[1] / "docs" / "pages" / "assets"
# File name, width and height in pixels, color scheme, query.
SHOTS = (
    ("search", 1280, 720, "light", "a red flower"),
    ("search_dark", 1280, 720, "dark", "an animal in the water"),
    ("search_phone", 390, 780, "light", "something to eat"),
)


def main() -> None:
    """Indexes and serves the images, and writes the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default=STAMPS_DIR, metavar="FOLDER")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "align_keras.cli.main"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [*command, "index", arguments.images, "--to", folder], check=True
        )
        server = subprocess.Popen(
            [*command, "serve", folder, "--port", "0"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            address = server.stdout.readline().split()[1]
            write_screenshots(address)
        finally:
            server.terminate()
            server.wait()


def write_screenshots(address: str) -> None:
    """Writes a screenshot of the search page for each of `SHOTS`."""
    from playwright import sync_api

    ASSETS.mkdir(exist_ok=True)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, width, height, scheme, text in SHOTS:
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            page.goto(f"{address}?{urllib.parse.urlencode({'text': text})}")
            page.wait_for_load_state("networkidle")
            # A palette of 256 colors reduces the file to a third.
            image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            image.quantize(256).save(ASSETS / f"{name}.png", optimize=True)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
