"""Sources of a corpus with a bit of everything, drawn pictures, and what they hold."""

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
# An alt that would run as a script, were it not escaped.
HOSTILE = "a \"quoted\" 'cat' onmouseover=alert(1) & more"
REFUSED = (270, 230)
NOUNS = "cat dog bird fish horse house tree car ship lamp chair table".split()


def draw(number, size=(260, 230)):
    """A picture like no other: twelve ellipses at random."""
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
    return f"a picture of {NOUNS[number % 12]} number {number}"


def write_pages(folder):
    """Pictures 0 to 11 in two pages, and what pages of the web have besides."""
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
    # Cut in the middle of a tag, with tags that don't match.
    page = '<div><p><img src="03.png" alt="a third <b>view</b> of it"></div><table><img'
    (folder / "malformed.html").write_text(page, encoding="utf-8")
    (folder / "nothing.html").write_bytes(b"")
    (folder / "noise.html").write_bytes(np.random.default_rng(0).bytes(4000))
    return f"html:{folder}"


def write_folder(folder):
    """Pictures 20 to 27, two of the pages' in other files with equal pixels, and one
    whose size `refuse` doesn't like.
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
    """Writes a module for `images.refuse`; returns the option."""
    folder.mkdir(exist_ok=True)
    text = f"def refuse(image):\n    return image.size == {REFUSED}\n"
    (folder / "own_hook.py").write_text(text, encoding="utf-8")
    return "--params_override=images.refuse=own_hook:refuse"


def write_table(folder):
    """Pictures 30 to 37 in a CSV, and a smaller copy of picture 5."""
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
    """Picture 7 and a mirrored, smaller picture 22, as an evaluation set has them."""
    folder.mkdir(parents=True)
    draw(7).save(folder / "seven.png")
    mirrored = draw(22).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored.resize((208, 184)).save(folder / "mirrored.jpg")
    for name in ("seven", "mirrored"):
        (folder / f"{name}.txt").write_text("an evaluation caption\n", encoding="utf-8")
    return f"folder:{folder}"


def write_archives(folder):
    """Web archives: a good one, one cut and garbled, one of zero bytes."""
    folder.mkdir(parents=True)
    for name, first in (("good", 40), ("bad", 45)):
        with open(folder / f"{name}.warc.gz", "wb") as file:
            writer = WARCWriter(file, gzip=True)
            for number in range(first, first + 5):
                own = f"http://example.org/{number}.png"
                _respond(writer, own, "image/png", _bytes(draw(number), "PNG"))
                page = f'<img src="{number}.png" alt="{caption(number)}">'
                _respond(writer, f"{own}.html", "text/html", page.encode())
    bad = folder / "bad.warc.gz"
    content = bytearray(bad.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = b"\xff" * 40
    bad.write_bytes(content[:-200])
    (folder / "zero.warc.gz").write_bytes(b"")
    return f"warc:{folder}"


def write_sources(folder):
    """Writes pages, a folder and a table; returns them as the command takes them."""
    return [
        write_pages(folder / "pages"),
        write_folder(folder / "folder"),
        write_table(folder / "table"),
    ]


def _respond(writer, url, kind, content):
    headers = StatusAndHeaders("200 OK", [("Content-Type", kind)], protocol="HTTP/1.1")
    record = writer.create_warc_record(
        url,
        "response",
        payload=io.BytesIO(content),
        http_headers=headers,
        # By themselves these are of the clock and of chance.
        warc_headers_dict={
            "WARC-Date": "2024-01-01T00:00:00Z",
            "WARC-Record-ID": f"<urn:{url}>",
        },
    )
    writer.write_record(record)


def _bytes(image, kind):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def arguments(stage, sources, out, *more):
    """The command's arguments; the vocabulary is small, for that is quicker.

    Copies inside the corpus leave, unlike by default.
    """
    own = ["corpus", stage, f"--out={out}", *more]
    own += [f"--source={source}" for source in sources]
    return [*own, "--params_override=vocabulary.size=300,duplicates.inside_corpus=true"]


def start(*command, **options):
    """Starts the command in a process group of its own, which Ctrl-C interrupts."""
    # A shell has what it starts in the background ignore it.
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
    """Runs the command; returns its exit code, stdout and stderr."""
    process = start(*command, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def run(*command):
    """Runs the command in this process; returns its stdout."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(list(map(str, command))) == 0
    return out.getvalue()


def funnel_of(out):
    """Reads the funnel that the command prints: a dict from what to its number."""
    rows = (line.split(maxsplit=1) for line in out.splitlines())
    return {what: int(number.replace(",", "")) for number, what in rows}


def made_files(out):
    """Returns what a corpus's user gets: a dict from name to SHA-256."""
    out = pathlib.Path(out)
    files = [out / "vocabulary.txt", *sorted((out / "web_pairs").rglob("*"))]
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file() and not path.name.endswith(".lock")
    }


def stage_facts(out, name):
    """Returns the facts of the stages of a name, a list of dict."""
    paths = sorted(pathlib.Path(out, "stages").glob(f"{name}-*/done.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def read_index(out):
    return json.loads(pathlib.Path(out, "web_pairs/1.0.0/index.json").read_text())
