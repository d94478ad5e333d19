"""Small corpus sources of every kind, with drawn images, and the `corpus` command.

Each `write_…` function writes a source and returns its `--source` value. Images have
numbers, which decide their pixels and captions.
"""

import contextlib
import csv
import functools
import hashlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
from PIL import Image, ImageDraw
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from align_keras.cli.main import main

ROOT = pathlib.Path(__file__).parents[2]
ONE_WORKER = ("--workers=1",)
TWO_WORKERS = ("--workers=2",)
INTERRUPTS = (signal.SIGINT, signal.SIG_DFL)
# An alt text that would run as a script if a report did not escape it.
HOSTILE = "a \"quoted\" 'cat' onmouseover=alert(1) & more"
# Pixels. Size of the image that `images.refuse` drops.
REFUSED = (270, 230)
NOUNS = "cat dog bird fish horse house tree car ship lamp chair table".split()


def draw(number, size=(260, 230)):
    """Draws a unique image of twelve random ellipses."""
    random = np.random.default_rng(number)
    image = Image.new("RGB", size, tuple(random.integers(0, 256, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = random.integers(0, size[0]), random.integers(0, size[1])
        width, height = random.integers(20, 120, 2)
        color = tuple(random.integers(0, 256, 3).tolist())
        pen.ellipse((x - width, y - height, x + width, y + height), fill=color)
    return image


def caption(number):
    """Returns the caption of the image with this number."""
    return f"a picture of {NOUNS[number % 12]} number {number}"


def write_pages(folder):
    """Writes images 0 to 11 and HTML pages that show them.

    The folder also has damaged images, links to missing and remote images, and an
    empty, a malformed and a random page.
    """
    folder.mkdir(parents=True)
    lines = ['<html lang="en"><body>']
    for number in range(12):
        name = f"{number:02}.{'png' if number % 2 else 'jpg'}"
        draw(number).save(folder / name)
        lines.append(f'<img src="{name}" alt="{caption(number)}">')
    draw(90, (100, 100)).save(folder / "icon.png")
    Image.new("RGB", (900, 250)).save(folder / "banner.png")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "cut.jpg").write_bytes(_bytes(draw(91), "JPEG")[:3000])
    (folder / "empty.jpg").write_bytes(b"")
    hostile = HOSTILE.replace("&", "&amp;").replace('"', "&quot;")
    lines += [
        f'<img src="00.jpg" alt="{hostile}">',
        '<img src="01.png" alt="write to someone@example.org about it">',
        '<img src="02.jpg" alt="two words">',
        '<img src="icon.png" alt="a &lt;script&gt;alert(1)&lt;/script&gt; icon">',
        '<img src="banner.png" alt="a banner as wide as the page">',
        '<img src="broken.png" alt="a picture that is none">',
        '<img src="cut.jpg" alt="a picture that ends early">',
        '<img src="empty.jpg" alt="a picture of zero bytes">',
        '<img src="gone.png" alt="a picture that is not there">',
        '<img src="https://example.org/far.jpg" alt="a picture on another machine">',
        '<img src="https://example.org/far2.jpg" alt="a second one over there">',
    ]
    (folder / "index.html").write_text("\n".join(lines), encoding="utf-8")
    # The page ends in the middle of a tag, and its tags don't match.
    page = '<div><p><img src="03.png" alt="a third <b>view</b> of it"></div><table><img'
    (folder / "malformed.html").write_text(page, encoding="utf-8")
    (folder / "nothing.html").write_bytes(b"")
    (folder / "noise.html").write_bytes(np.random.default_rng(0).bytes(4000))
    return f"html:{folder}"


def write_folder(folder):
    """Writes images 20 to 27, two copies of images in the pages, and a refused image.

    The copies are other files with the same pixels. `images.refuse` drops the last
    image because of its size.
    """
    folder.mkdir(parents=True)
    for number in range(20, 28):
        draw(number).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption(number) + "\n", encoding="utf-8")
    for number in (1, 3):
        draw(number).save(folder / f"copy{number}.bmp")
        text = f"the same {NOUNS[number]} in another file\n"
        (folder / f"copy{number}.txt").write_text(text, encoding="utf-8")
    draw(29, REFUSED).save(folder / "29.png")
    (folder / "29.txt").write_text(caption(29), encoding="utf-8")
    return f"folder:{folder}"


def write_hook(folder):
    """Writes a module for `images.refuse`. Returns the command-line option."""
    folder.mkdir(exist_ok=True)
    text = f"def refuse(image):\n    return image.size == {REFUSED}\n"
    (folder / "custom_hook.py").write_text(text, encoding="utf-8")
    return "--params_override=images.refuse=custom_hook:refuse"


def write_table(folder):
    """Writes a CSV of images 30 to 37 and a smaller copy of image 5."""
    folder.mkdir(parents=True)
    with open(folder / "pairs.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for number in range(30, 38):
            draw(number).save(folder / f"{number}.png")
            rows.writerow([f"{number}.png", caption(number)])
        draw(5).resize((234, 207)).save(folder / "small5.jpg", quality=85)
        rows.writerow(["small5.jpg", "a smaller copy of number five"])
    return f"table:{folder / 'pairs.csv'}"


def write_evaluation(folder):
    """Writes an evaluation set of image 7 and a smaller, mirrored image 22."""
    folder.mkdir(parents=True)
    draw(7).save(folder / "seven.png")
    mirrored = draw(22).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored.resize((208, 184)).save(folder / "mirrored.jpg")
    for name in ("seven", "mirrored"):
        (folder / f"{name}.txt").write_text("an evaluation caption\n", encoding="utf-8")
    return f"folder:{folder}"


def write_archives(folder):
    """Writes three web archives: an intact, a damaged and an empty one."""
    folder.mkdir(parents=True)
    for name, first in (("good", 40), ("bad", 45)):
        with open(folder / f"{name}.warc.gz", "wb") as file:
            writer = WARCWriter(file, gzip=True)
            for number in range(first, first + 5):
                url = f"http://example.org/{number}.png"
                _write_response(writer, url, "image/png", _bytes(draw(number), "PNG"))
                page = f'<img src="{number}.png" alt="{caption(number)}">'
                _write_response(writer, f"{url}.html", "text/html", page.encode())
    bad = folder / "bad.warc.gz"
    content = bytearray(bad.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = b"\xff" * 40
    bad.write_bytes(content[:-200])
    (folder / "zero.warc.gz").write_bytes(b"")
    return f"warc:{folder}"


def write_sources(folder):
    """Writes pages, a folder and a table. Returns their `--source` values."""
    return [
        write_pages(folder / "pages"),
        write_folder(folder / "folder"),
        write_table(folder / "table"),
    ]


def _write_response(writer, url, kind, content):
    headers = StatusAndHeaders("200 OK", [("Content-Type", kind)], protocol="HTTP/1.1")
    record = writer.create_warc_record(
        url,
        "response",
        payload=io.BytesIO(content),
        http_headers=headers,
        # Fixed values replace the current time and a random id.
        warc_headers_dict={
            "WARC-Date": "2024-01-01T00:00:00Z",
            "WARC-Record-ID": f"<urn:{url}>",
        },
    )
    writer.write_record(record)


def _bytes(image, file_format):
    file = io.BytesIO()
    image.save(file, file_format)
    return file.getvalue()


def arguments(stage, sources, out, *options):
    """Returns the arguments of `align-keras corpus`.

    The vocabulary is small, which is faster. Duplicates inside the corpus are dropped,
    unlike by default.
    """
    words = ["corpus", stage, f"--out={out}", *options]
    words += [f"--source={source}" for source in sources]
    return [
        *words,
        "--params_override=vocabulary.size=300,duplicates.inside_corpus=true",
    ]


def start(*command, **options):
    """Starts the command in a new process group that a SIGINT interrupts.

    Returns:
        `subprocess.Popen`.
    """
    # Processes that a shell starts in the background inherit an ignored SIGINT.
    options.setdefault("preexec_fn", functools.partial(signal.signal, *INTERRUPTS))
    return subprocess.Popen(
        [sys.executable, "-m", "align_keras.cli.main", *map(str, command)],
        env={**os.environ, "PYTHONPATH": str(ROOT)} | options.pop("env", {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def finish(*command, **options):
    """Runs the command. Returns its exit code, stdout and stderr."""
    process = start(*command, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def run(*command):
    """Runs the command in this process. Returns its stdout."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(list(map(str, command))) == 0
    return out.getvalue()


def funnel_of(out):
    """Parses the printed table of counts. Returns a dict of row name → count."""
    rows = (line.split(maxsplit=1) for line in out.splitlines())
    return {name: int(number.replace(",", "")) for number, name in rows}


def output_digests(out):
    """Returns a dict of path → SHA-256 of the vocabulary and the TFDS files."""
    out = pathlib.Path(out)
    files = [out / "vocabulary.txt", *sorted((out / "web_pairs").rglob("*"))]
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file() and not path.name.endswith(".lock")
    }


def stage_facts(out, name):
    """Returns the recorded facts of all finished stages with a name, a list of dict."""
    paths = sorted(pathlib.Path(out, "stages").glob(f"{name}-*/done.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def read_index(out):
    """Returns the index of the corpus's TFDS shards."""
    return json.loads(pathlib.Path(out, "web_pairs/1.0.0/index.json").read_text())
