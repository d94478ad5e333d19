"""The page in Chromium against the model in Python."""

import base64
import functools
import io
import json
import pathlib
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, PngImagePlugin

from align_keras.corpus.image import normalize_image
from align_keras.images import preprocess_image_bytes
from align_keras.images.preprocess import crop_size_to_resize_size
from align_keras.models import ALIGN
from align_keras.runs.export_web import embed_page_images, read_run_images, write_web
from align_keras.search import Index
from align_keras.utils.files import MAX_PIXELS
from tests.helpers.browser import chromium, node_modules, served
from tests.helpers.image_files import readable, refused
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


@pytest.fixture(scope="module")
def small(tmp_path_factory, runtime, model):
    """A page's folder, its model, its images, and how near scores must be."""
    folder = tmp_path_factory.mktemp("page")
    pairs = str(write_pairs(tmp_path_factory.mktemp("pairs")))
    options = {"images": pairs, "title": TITLE, "litert_js": str(runtime)}
    write_web(model, folder, None, **options)
    return folder, model, embed_page_images(model, pairs), 5e-5


@pytest.fixture(scope="module", params=["small", "run"])
def exported(request, tmp_path_factory, runtime):
    """As `small`, and a run's trained model with the index that it left."""
    if request.param == "small":
        return request.getfixturevalue("small")
    room = tmp_path_factory.mktemp("run")
    for kind in ("preset", "index"):
        with tarfile.open(ARTIFACTS / f"{kind}.tar.xz") as archive:
            archive.extractall(room, filter="data")
    run = room / "preset"
    write_index(room / "index", run / "index")
    folder = tmp_path_factory.mktemp("page")
    align = ALIGN.from_preset(run)
    options = {"quantize": "float16", "title": TITLE, "litert_js": str(runtime)}
    write_web(align, folder, run, **options)
    # Weights of 11 bits in towers this narrow: 2.4e-3 was measured.
    return folder, align, read_run_images(align, run), 5e-3


def write_index(flat, folder):
    """Writes the index of 0.1's flat files in today's format."""
    lines = (flat / "entries.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    Index.from_embeddings(
        np.load(flat / "embeddings.npy"),
        [entry["id"] for entry in entries],
        [entry["captions"] for entry in entries],
        images=[(flat / entry["thumbnail"]).read_bytes() for entry in entries],
        folder=folder,
    )


@pytest.fixture(scope="module")
def site(browser, exported):
    """The folder's address, and a browser's profile that keeps what it compiles."""
    with served(exported[0]) as address, browser.new_context() as context:
        yield address, context


@pytest.fixture
def page(site):
    """The page, loaded; whatever it asks for must be in its folder."""
    address, context = site
    asked = []
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector(READY, timeout=120_000)
    assert not page.is_visible("#error"), page.inner_text("#error")
    yield page
    page.close()
    outside = [url for url in asked if not url.startswith((address, "blob:", "data:"))]
    assert outside == []


def hits(page, heading):
    """Rows and scores of the five best, once their heading is there."""
    page.wait_for_function(
        "heading => document.getElementById('heading').textContent === heading "
        "|| !document.getElementById('error').hidden",
        arg=heading,
        timeout=120_000,
    )
    assert not page.is_visible("#error"), page.inner_text("#error")
    found = page.eval_on_selector_all(
        "#hits li", "items => items.map((own) => [own.dataset.row, own.dataset.score])"
    )
    rows, scores = zip(*found[:5], strict=True)
    return [int(row) for row in rows], [float(score) for score in scores]


def check_hits(found, searched, query, tolerance):
    rows, scores = found
    index = Index.from_embeddings(searched.embeddings, range(len(searched.embeddings)))
    expected = index.query(query[0], 5)
    expected_scores = [hit.score for hit in expected]
    assert rows[0] == expected[0].id - 1
    np.testing.assert_allclose(scores, expected_scores, atol=tolerance)
    # The very rows, but for those so near each other that rounding decides.
    own_scores = searched.embeddings[rows] @ query[0]
    np.testing.assert_allclose(own_scores, expected_scores, atol=tolerance)


@pytest.mark.parametrize("text", ["red circle", "  Blåue, RING! ", "漢 👩‍🚀 zzzz"])
def test_a_text(page, exported, text):
    _, align, searched, tolerance = exported
    page.fill("#query", text)
    page.press("#query", "Enter")
    found = hits(page, f"“{text.strip()}”")
    check_hits(found, searched, align.encode_texts([text]), tolerance)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_a_picture(page, exported):
    _, align, searched, tolerance = exported
    png = encoded(normalize_image(searched.images[7].thumbnail)[0], "PNG")
    files = [{"name": "seven.png", "mimeType": "image/png", "buffer": png}]
    page.set_input_files("#file", files)
    found = hits(page, "seven.png")
    check_hits(found, searched, align.encode_images([png]), tolerance)
    assert page.is_visible("#asked")
    assert page.input_value("#query") == ""
    # What is no picture leaves the hits, and says why.
    files = [{"name": "seven.txt", "mimeType": "image/png", "buffer": b"seven"}]
    page.set_input_files("#file", files)
    page.wait_for_selector("#error:not([hidden])")
    assert "seven.txt can’t be searched with" in page.inner_text("#error")
    assert page.inner_text("#heading") == "seven.png"


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(page, exported, event):
    _, align, searched, tolerance = exported
    png = encoded(normalize_image(searched.images[3].thumbnail)[0], "PNG")
    script = """([event, content]) => {
        const bytes = Uint8Array.from(atob(content), (own) => own.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], "three.png", { type: "image/png" }));
        const own = { bubbles: true, dataTransfer: data, clipboardData: data };
        const kind = event === "drop" ? DragEvent : ClipboardEvent;
        document.body.dispatchEvent(new kind(event, own));
    }"""
    page.evaluate(script, [event, base64.b64encode(png).decode()])
    found = hits(page, "three.png")
    check_hits(found, searched, align.encode_images([png]), tolerance)


def test_a_hit_finds_similar_ones(page, exported):
    searched = exported[2]
    page.fill("#query", "ring")
    page.click("#search button[type=submit]")
    row = hits(page, "“ring”")[0][2]
    page.click("#hits li:nth-child(3) button")
    caption = searched.images[row].captions[0]
    found = hits(page, f"Similar to {caption}")
    check_hits(found, searched, searched.embeddings[row : row + 1], tolerance=1e-5)
    shown = page.locator("#hits li").count()
    page.click("#more")
    assert page.locator("#hits li").count() > shown


def test_words_are_no_markup(page):
    assert page.inner_text("h1") == "Shapes <b>& colors"
    assert page.title() == "Shapes <b>& colors"
    page.fill("#query", "<img src=x>")
    page.press("#query", "Enter")
    hits(page, "“<img src=x>”")


@functools.cache
def pictures():
    """Files of all formats, by name, and how far pixels may be from Python's."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (90, 130, 3)).astype("uint8")
    smooth = Image.fromarray(noise).resize((300, 220), Image.Resampling.BICUBIC)
    clear = smooth.convert("RGBA")
    alpha = random.integers(0, 256, (220, 300)).astype("uint8")
    clear.putalpha(Image.fromarray(alpha))
    # The stored numbers count, whatever gamma they claim to have.
    gamma = PngImagePlugin.PngInfo()
    gamma.add(b"gAMA", (100_000).to_bytes(4, "big"))
    upright = Image.Exif()
    upright[0x0112] = 6
    # Decoders of JPEG differ by some gray levels, and so do those of lossy WebP.
    return {
        "small.png": (encoded(smooth.resize((31, 47)), "PNG"), 1),
        "large.png": (encoded(smooth.resize((2100, 1400)), "PNG"), 1),
        "narrow.png": (encoded(smooth.resize((3, 900)), "PNG"), 1),
        "gamma.png": (encoded(smooth, "PNG", pnginfo=gamma), 1),
        "clear.png": (encoded(clear, "PNG"), 1),
        "gray.png": (encoded(smooth.convert("L"), "PNG"), 1),
        "palette.png": (encoded(smooth.quantize(40), "PNG"), 1),
        "still.gif": (encoded(smooth, "GIF"), 1),
        "plain.bmp": (encoded(smooth, "BMP"), 1),
        "exact.webp": (encoded(smooth, "WEBP", lossless=True), 1),
        "lossy.webp": (encoded(smooth, "WEBP"), 6),
        "photo.jpg": (encoded(smooth, "JPEG"), 8),
        "turned.jpg": (encoded(smooth, "JPEG", exif=upright), 8),
        **{name: (own[0], limit_of(name)) for name, own in readable().items()},
    }


def limit_of(name):
    # The browser multiplies colors with their opacity before it lays them on white.
    if name.startswith("WebP") and "alpha" in name:
        return 2
    return 4 if "JPEG" in name else 1


@pytest.fixture(scope="module")
def read_in_browser(browser, small):
    """A function from a picture's bytes to the pixels that the page makes of it."""
    sizes = [SIZE, crop_size_to_resize_size(SIZE), MAX_PIXELS]
    script = """async ([content, ...sizes]) => {
        const { readPicture } = await import("/page/picture.js");
        const bytes = Uint8Array.from(atob(content), (own) => own.charCodeAt(0));
        const pixels = await readPicture(new Blob([bytes]), ...sizes);
        const raw = new Uint8Array(Float32Array.from(pixels).buffer);
        return btoa(Array.from(raw, (own) => String.fromCharCode(own)).join(""));
    }"""
    with served(small[0]) as address:
        page = browser.new_page()
        page.goto(f"{address}page/page.css")

        def read(content):
            arguments = [base64.b64encode(content).decode(), *sizes]
            return np.frombuffer(
                base64.b64decode(page.evaluate(script, arguments)), "<f4"
            )

        yield read
        page.close()


@pytest.mark.parametrize("name", pictures())
def test_pixels(read_in_browser, name):
    content, limit = pictures()[name]
    pixels = read_in_browser(content)
    expected = preprocess_image_bytes(tf.constant(content), SIZE).numpy()
    difference = np.abs(np.reshape(pixels, expected.shape) - expected)
    assert difference.max() <= limit
    assert difference.mean() < (0.01 if limit == 1 else 1.5)


@pytest.mark.parametrize("name", [name for name in refused() if name != "nothing"])
def test_files_that_python_refuses(read_in_browser, name):
    words = "it is no picture that this browser can read|it has 50.3 million pixels"
    with pytest.raises(Exception, match=words):
        read_in_browser(refused()[name])


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("**/model/text.tflite", "model/text.tflite (status 404) can’t be read"),
        ("**/pictures/embeddings.bin", "pictures/embeddings.bin (status 404)"),
        ("**/model/model.json", "model/model.json (status 404)"),
        ("**/litertjs/core/**", "Run “npm install” in the page’s folder"),
        ("**/*.wasm", "@litertjs/core can’t be started"),
    ],
)
def test_missing_files(browser, small, missing, words):
    with served(small[0]) as address:
        page = browser.new_page()
        page.route(missing.replace("/litertjs", "/@litertjs"), _not_found)
        page.goto(address)
        page.wait_for_selector(READY, timeout=120_000)
        assert words in page.inner_text("#error")
        page.close()


def _not_found(route):
    route.fulfill(status=404)


def test_the_image_tower_can_come_later(page):
    """It is loaded with the first picture, and sought again with the next one."""
    page.route("**/image.tflite", _not_found)
    picture = pictures()["small.png"][0]
    files = [{"name": "one.png", "mimeType": "image/png", "buffer": picture}]
    page.set_input_files("#file", files)
    page.wait_for_selector("#error:not([hidden])")
    assert "model/image.tflite (status 404)" in page.inner_text("#error")
    page.unroute("**/image.tflite")
    page.set_input_files("#file", files)
    hits(page, "one.png")


def test_without_webassembly(browser, small):
    with served(small[0]) as address:
        page = browser.new_page()
        page.add_init_script("delete window.WebAssembly")
        page.goto(address)
        page.wait_for_selector("#error:not([hidden])")
        assert "no WebAssembly" in page.inner_text("#error")
        page.close()


def test_opened_as_a_file(browser, small):
    page = browser.new_page()
    page.goto((small[0] / "index.html").as_uri())
    page.wait_for_selector("#error:not([hidden])")
    assert "python3 -m http.server" in page.inner_text("#error")
    page.close()
