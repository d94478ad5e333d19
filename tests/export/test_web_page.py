"""Exported web page in Chromium, compared with the model in Python."""

import base64
import dataclasses
import functools
import io
import json
import pathlib
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, PngImagePlugin

from align_keras.images import preprocess_image_bytes
from align_keras.images.preprocess import crop_size_to_resize_size
from align_keras.images.read import graph_file
from align_keras.models import ALIGN
from align_keras.runs.export_web import (
    WebImages,
    embed_page_images,
    read_run_images,
    write_web,
)
from align_keras.search import Index
from align_keras.search.query.hits import relevance
from align_keras.utils.files import MAX_PIXELS
from align_keras.utils.pillow_images import decode_rgb
from tests.helpers.browser import chromium, node_modules, served
from tests.helpers.image_files import readable_files, refused_files
from tests.helpers.small_run import write_pairs

pytestmark = pytest.mark.ci

ARTIFACTS = pathlib.Path(__file__).parents[1] / "artifacts" / "0.1"
SIZE = 64
TITLE = "Shapes <b>& colors"
READY = "#hits li, #error:not([hidden])"


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return node_modules(tmp_path_factory)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@dataclasses.dataclass(frozen=True)
class Export:
    """Exported page with the values to compare it with.

    Attributes:
        folder: folder of the page.
        model: `ALIGN` that was exported.
        images: images of the page with their embeddings.
        tolerance: absolute tolerance of scores.
    """

    folder: pathlib.Path
    model: ALIGN
    images: WebImages
    tolerance: float


@pytest.fixture(scope="module")
def small(tmp_path_factory, runtime, model):
    """Exports a small random model with drawn images."""
    folder = tmp_path_factory.mktemp("page")
    pairs = str(write_pairs(tmp_path_factory.mktemp("pairs")))
    options = {"images": pairs, "title": TITLE, "litert_js": str(runtime)}
    write_web(model, folder, None, quantize="none", **options)
    return Export(folder, model, embed_page_images(model, pairs), 5e-5)


@pytest.fixture(
    scope="module",
    params=["small", pytest.param("run", marks=pytest.mark.release)],
)
def export(request, tmp_path_factory, runtime):
    """Exports a small model, or the model of a run with its index."""
    if request.param == "small":
        return request.getfixturevalue("small")
    parent = tmp_path_factory.mktemp("run")
    with tarfile.open(ARTIFACTS / "preset.tar.xz") as archive:
        archive.extractall(parent, filter="data")
    run = parent / "preset"
    folder = tmp_path_factory.mktemp("page")
    align = ALIGN.from_preset(run)
    write_index(align, parent / "pairs", run / "index")
    # The default quantization, weight-int8.
    write_web(align, folder, run, title=TITLE, litert_js=str(runtime))
    # Its 8-bit weights cause a measured difference of 2.8e-2 in these narrow towers.
    return Export(folder, align, read_run_images(run), 5e-2)


def write_index(align, pairs, folder):
    """Writes drawn images to a folder, and their index as a run has it."""
    lines = write_pairs(pairs).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    contents = [(pairs / row["image"]).read_bytes() for row in rows]
    Index.from_embeddings(
        align.encode_images(contents),
        [row["image"] for row in rows],
        [[row["caption"]] for row in rows],
        images=contents,
        folder=folder,
    )


@pytest.fixture(scope="module")
def site(browser, export):
    """Yields the address of the page and a browser context with a shared cache."""
    with served(export.folder) as address, browser.new_context() as context:
        yield address, context


@pytest.fixture
def page(site):
    """Yields the loaded page and checks that it requests nothing outside its folder."""
    address, context = site
    requests = []
    page = context.new_page()
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.wait_for_selector(READY, timeout=120_000)
    assert not page.is_visible("#error"), page.inner_text("#error")
    yield page
    page.close()
    allowed = (address, "blob:", "data:")
    assert [url for url in requests if not url.startswith(allowed)] == []


def wait_for_hits(page, heading):
    """Returns rows and scores of the five best hits after their heading appears."""
    page.wait_for_function(
        "heading => document.getElementById('heading').textContent === heading "
        "|| !document.getElementById('error').hidden",
        arg=heading,
        timeout=120_000,
    )
    assert not page.is_visible("#error"), page.inner_text("#error")
    hits = page.eval_on_selector_all(
        "#hits li",
        "items => items.map((item) => [item.dataset.row, item.dataset.score])",
    )
    rows, scores = zip(*hits[:5], strict=True)
    return [int(row) for row in rows], [float(score) for score in scores]


def check_hits(hits, export, query, tolerance=None):
    """Compares hits of the page with those of an exact search in Python."""
    rows, scores = hits
    embeddings = export.images.embeddings
    tolerance = tolerance or export.tolerance
    index = Index.from_embeddings(embeddings, range(len(embeddings)))
    expected = index.query(query[0], 5)
    expected_scores = [hit.score for hit in expected]
    assert rows[0] == expected[0].id - 1
    np.testing.assert_allclose(scores, expected_scores, atol=tolerance)
    # Rounding may change the order of images with almost equal scores.
    row_scores = embeddings[rows] @ query[0]
    np.testing.assert_allclose(row_scores, expected_scores, atol=tolerance)


@pytest.mark.parametrize("text", ["  Blåue, RING! ", "漢 👩‍🚀 zzzz"])
def test_a_text_query_has_the_hits_of_python(page, export, text):
    page.fill("#query", text)
    page.press("#query", "Enter")
    hits = wait_for_hits(page, f"“{text.strip()}”")
    embedding = export.model.encode_texts([text])
    check_hits(hits, export, embedding)
    scores = export.images.embeddings @ embedding[0]
    expected = relevance(np.sort(scores)[::-1][:5], scores, len(scores))
    lines = page.locator("#hits .score").all_inner_texts()[:5]
    matches = [int(line.partition("% match, ")[0]) for line in lines]
    np.testing.assert_allclose(matches, 100 * np.array(expected), atol=2)


def encoded(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def test_an_image_query_has_the_hits_of_python(page, export):
    png = encoded(decode_rgb(export.images.images[7].thumbnail)[0], "PNG")
    files = [{"name": "seven.png", "mimeType": "image/png", "buffer": png}]
    page.set_input_files("#file", files)
    hits = wait_for_hits(page, "seven.png")
    check_hits(hits, export, export.model.encode_images([png]))
    assert page.is_visible("#query-image")
    assert "match" not in page.inner_text("#hits")
    assert page.input_value("#query") == ""
    # An unreadable file causes an error, and the previous hits remain.
    files = [{"name": "seven.txt", "mimeType": "image/png", "buffer": b"seven"}]
    page.set_input_files("#file", files)
    page.wait_for_selector("#error:not([hidden])")
    assert "seven.txt" in page.inner_text("#error")
    assert page.inner_text("#heading") == "seven.png"


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_an_image_can_be_dropped_or_pasted(page, export, event):
    png = encoded(decode_rgb(export.images.images[3].thumbnail)[0], "PNG")
    script = """([event, content]) => {
        const bytes = Uint8Array.from(atob(content), (byte) => byte.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], "three.png", { type: "image/png" }));
        const options = { bubbles: true, dataTransfer: data, clipboardData: data };
        const eventClass = event === "drop" ? DragEvent : ClipboardEvent;
        document.body.dispatchEvent(new eventClass(event, options));
    }"""
    page.evaluate(script, [event, base64.b64encode(png).decode()])
    hits = wait_for_hits(page, "three.png")
    check_hits(hits, export, export.model.encode_images([png]))


def test_a_click_on_a_hit_finds_similar_images(page, export):
    page.fill("#query", "ring")
    page.click("#search button[type=submit]")
    row = wait_for_hits(page, "“ring”")[0][2]
    page.click("#hits li:nth-child(3) button")
    caption = export.images.images[row].captions[0]
    hits = wait_for_hits(page, f"Similar to {caption}")
    query = export.images.embeddings[row : row + 1]
    check_hits(hits, export, query, tolerance=1e-5)
    visible_hits = page.locator("#hits li").count()
    page.click("#show-more")
    assert page.locator("#hits li").count() > visible_hits


def test_texts_are_escaped(page):
    assert page.inner_text("h1") == "Shapes <b>& colors"
    assert page.title() == "Shapes <b>& colors"
    page.fill("#query", "<img src=x>")
    page.press("#query", "Enter")
    wait_for_hits(page, "“<img src=x>”")


@functools.cache
def image_files():
    """Returns image files of all formats.

    Returns:
        dict from names to (content, tolerance). The tolerance is the maximum difference
        between the pixels of the page and of Python.
    """
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (90, 130, 3)).astype("uint8")
    smooth = Image.fromarray(noise).resize((300, 220), Image.Resampling.BICUBIC)
    transparent = smooth.convert("RGBA")
    alpha = rng.integers(0, 256, (220, 300)).astype("uint8")
    transparent.putalpha(Image.fromarray(alpha))
    # The gamma value of a file must have no effect.
    gamma = PngImagePlugin.PngInfo()
    gamma.add(b"gAMA", (100_000).to_bytes(4, "big"))
    rotation = Image.Exif()
    rotation[0x0112] = 6
    # Decoders of JPEG and lossy WebP differ by a few gray levels.
    return {
        "small.png": (encoded(smooth.resize((31, 47)), "PNG"), 1),
        "large.png": (encoded(smooth.resize((2100, 1400)), "PNG", compress_level=1), 1),
        "narrow.png": (encoded(smooth.resize((3, 900)), "PNG"), 1),
        "gamma.png": (encoded(smooth, "PNG", pnginfo=gamma), 1),
        "transparent.png": (encoded(transparent, "PNG"), 1),
        "gray.png": (encoded(smooth.convert("L"), "PNG"), 1),
        "palette.png": (encoded(smooth.quantize(40), "PNG"), 1),
        "still.gif": (encoded(smooth, "GIF"), 1),
        "plain.bmp": (encoded(smooth, "BMP"), 1),
        "exact.webp": (encoded(smooth, "WEBP", lossless=True), 1),
        "lossy.webp": (encoded(smooth, "WEBP"), 6),
        "photo.jpg": (encoded(smooth, "JPEG"), 8),
        "rotated.jpg": (encoded(smooth, "JPEG", exif=rotation), 8),
        **{
            name: (content, pixel_tolerance(name))
            for name, (content, _) in readable_files().items()
        },
    }


def pixel_tolerance(name):
    # The browser rounds the product of color and opacity before it adds the background.
    if name.startswith("WebP") and "alpha" in name:
        return 2
    return 4 if "JPEG" in name else 1


@pytest.fixture(scope="module")
def read_in_browser(browser, small):
    """Yields a function that preprocesses the content of an image file in the page."""
    sizes = [SIZE, crop_size_to_resize_size(SIZE), MAX_PIXELS]
    script = """async ([content, ...sizes]) => {
        const { readImage } = await import("/page/image.js");
        const bytes = Uint8Array.from(atob(content), (byte) => byte.charCodeAt(0));
        const pixels = await readImage(new Blob([bytes]), ...sizes);
        const raw = new Uint8Array(Float32Array.from(pixels).buffer);
        return btoa(Array.from(raw, (byte) => String.fromCharCode(byte)).join(""));
    }"""
    with served(small.folder) as address:
        page = browser.new_page()
        page.goto(f"{address}page/page.css")

        def read(content):
            arguments = [base64.b64encode(content).decode(), *sizes]
            return np.frombuffer(
                base64.b64decode(page.evaluate(script, arguments)), "<f4"
            )

        yield read
        page.close()


@pytest.mark.parametrize("name", image_files())
def test_pixels_equal_those_of_python(read_in_browser, name):
    content, tolerance = image_files()[name]
    pixels = read_in_browser(content)
    expected = preprocess_image_bytes(graph_file(tf.constant(content)), SIZE).numpy()
    difference = np.abs(np.reshape(pixels, expected.shape) - expected)
    assert difference.max() <= tolerance
    assert difference.mean() < (0.01 if tolerance == 1 else 1.5)


@pytest.mark.parametrize(
    "name", [name for name in refused_files() if name != "nothing"]
)
def test_the_page_refuses_the_files_that_python_refuses(read_in_browser, name):
    message = "cannot decode|50.3 million pixels"
    with pytest.raises(Exception, match=message):
        read_in_browser(refused_files()[name])


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("**/model/text.tflite", "Cannot read model/text.tflite (status 404)"),
        ("**/images/embeddings.bin", "Cannot read images/embeddings.bin (status 404)"),
        ("**/model/model.json", "model/model.json (status 404)"),
        ("**/litertjs/core/**", "Run “npm install”"),
        ("**/*.wasm", "@litertjs/core cannot start"),
    ],
)
def test_the_page_reports_missing_files(browser, small, missing, message):
    with served(small.folder) as address:
        page = browser.new_page()
        page.route(missing.replace("/litertjs", "/@litertjs"), _send_status_404)
        page.goto(address)
        page.wait_for_selector(READY, timeout=120_000)
        assert message in page.inner_text("#error")
        page.close()


def _send_status_404(route):
    route.fulfill(status=404)


def test_the_page_loads_the_image_tower_again_after_a_failure(page):
    page.route("**/image.tflite", _send_status_404)
    content = image_files()["small.png"][0]
    files = [{"name": "one.png", "mimeType": "image/png", "buffer": content}]
    page.set_input_files("#file", files)
    page.wait_for_selector("#error:not([hidden])")
    assert "model/image.tflite (status 404)" in page.inner_text("#error")
    page.unroute("**/image.tflite")
    page.set_input_files("#file", files)
    wait_for_hits(page, "one.png")


def test_the_page_reports_missing_webassembly(browser, small):
    with served(small.folder) as address:
        page = browser.new_page()
        page.add_init_script("delete window.WebAssembly")
        page.goto(address)
        page.wait_for_selector("#error:not([hidden])")
        assert "no WebAssembly" in page.inner_text("#error")
        page.close()


def test_the_page_requires_a_web_server(browser, small):
    page = browser.new_page()
    page.goto((small.folder / "index.html").as_uri())
    page.wait_for_selector("#error:not([hidden])")
    assert "python3 -m http.server" in page.inner_text("#error")
    page.close()
