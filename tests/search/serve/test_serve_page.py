"""Tests the page of `align-keras serve` in Chromium, with the hits of Python."""

import base64
import contextlib
import os
import pathlib
import threading

import pytest
from PIL import Image

from align_keras.search.image_index import Index
from align_keras.search.query.query import Query
from align_keras.search.serve.local_server import make_server, open_port
from align_keras.search.serve.search_requests import PAGE_HITS
from align_keras.search.serve.server import make_app
from tests.helpers.browser import chromium
from tests.helpers.color_towers import GOLDEN, image_bytes

pytestmark = pytest.mark.ci

COUNT = 2 * PAGE_HITS + 10
TAGS = ("cat; dog", "cat", "wildcat", "")
CAT = "tags = 'cat' or tags like 'cat;%'"
SCREENS = [(1300, "light"), (390, "dark")]
OVERFLOW = "document.documentElement.scrollWidth - innerWidth"
IDS = "[...document.querySelectorAll('#hits li')].map((hit) => Number(hit.dataset.id))"
DROP = """([content, name]) => {
  const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: "image/png" }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
}"""


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    lines = ["image,caption,tags"]
    for number in range(COUNT):
        folder = root / ("Italy" if number % 2 else "Spain")
        folder.mkdir(exist_ok=True)
        color = (number * 2, 255 - number * 2, number * 37 % 256)
        file = folder / f"{number:03}.png"
        file.write_bytes(image_bytes(color, (30 + number, 90)))
        lines.append(f"{file},a color,{TAGS[number % len(TAGS)]}")
    for number in range(12):
        (root / f"broken{number}.png").write_bytes(b"no image")
    folder = tmp_path_factory.mktemp("index")
    table = folder / "tags.csv"
    table.write_text("\n".join(lines))
    return Index.build(folder / "index", [root, table], str(GOLDEN))


@contextlib.contextmanager
def serving(app):
    """Yields the address of a server of an application."""
    server = make_server(app)
    with open_port(0) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address(index):
    with serving(make_app(index.folder)) as address:
        yield address


@pytest.fixture(scope="module")
def axe():
    """Source of axe-core, a checker of web pages, from `ALIGN_KERAS_NPM_DIR`."""
    folder = pathlib.Path(os.environ.get("ALIGN_KERAS_NPM_DIR", ""), "node_modules")
    script = folder / "axe-core" / "axe.min.js"
    if not script.is_file():
        pytest.skip("the npm package axe-core isn't installed")
    return script.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    """Yields the loaded page.

    Checks afterwards that the page has requested only local addresses and that no
    script has failed.
    """
    urls, errors = [], []
    page = browser.new_page()
    page.on("request", lambda request: urls.append(request.url))
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(address)
    page.wait_for_selector("#hits[aria-busy=false] li")
    yield page
    page.close()
    local = (address, "data:", f"blob:{address}")
    assert not errors and all(url.startswith(local) for url in urls)


def displayed_ids(page):
    """Waits until the search has finished, and returns the ids of the hits."""
    page.wait_for_selector("#hits[aria-busy=false]", state="attached")
    return page.evaluate(IDS)


def wait_for_hits(page, index, query, k=PAGE_HITS):
    """Waits until the page displays the hits that Python returns for a query."""
    expected = [hit.id for hit in index.query(query, k=k)]
    for _ in range(500):
        if displayed_ids(page) == expected:
            return
        page.wait_for_timeout(20)
    assert displayed_ids(page) == expected


def drop(page, content, name="dropped.png"):
    page.evaluate(DROP, [base64.b64encode(content).decode(), name])


def test_words_are_typed_added_and_subtracted(page, index):
    assert displayed_ids(page) == [hit.id for hit in index.latest(k=PAGE_HITS)]
    page.keyboard.type("red")  # The search box has the focus.
    wait_for_hits(page, index, "red")
    page.fill("#extra-words", "blue")
    page.press("#extra-words", "Enter")
    wait_for_hits(page, index, Query("red", plus="blue"))
    page.fill("#extra-words", "green")
    page.click("#minus")
    wait_for_hits(page, index, Query("red", plus="blue", minus="green"))
    page.click("#query-chips li.plus button")
    wait_for_hits(page, index, Query("red", minus="green"))
    assert page.url.endswith("?text=red&minus=green")
    page.reload()
    wait_for_hits(page, index, Query("red", minus="green"))
    assert page.input_value("#query") == "red"
    page.go_back()
    wait_for_hits(page, index, Query("red", plus="blue", minus="green"))


def test_an_image_is_dropped_and_words_are_added(page, index):
    content = image_bytes((10, 20, 240))
    drop(page, content)
    wait_for_hits(page, index, Query(image=content))
    assert page.inner_text("#query-chips li.image").startswith("dropped.png")
    assert page.locator("#query-chips li.image").bounding_box()["height"] > 20
    page.fill("#query", "red")
    wait_for_hits(page, index, Query("red", image=content))
    drop(page, b"no image", "broken.png")
    page.wait_for_selector("#error:not([hidden])")
    assert "`image` must" in page.inner_text("#error")
    # The hits of the previous search are not displayed.
    assert displayed_ids(page) == [] and page.input_value("#query") == ""
    page.click("#query-chips li.image button")
    page.fill("#query", "red")
    wait_for_hits(page, index, "red")
    assert page.is_hidden("#error")
    file = {"name": "a.png", "mimeType": "image/png", "buffer": content}
    page.set_input_files("#file", file)
    wait_for_hits(page, index, Query(image=content))


def test_hits_are_filtered_and_duplicates_displayed(page, index):
    where = "folder like '%Italy' and width > 60"
    page.fill("#query", "green")
    page.click("#toggle-filter")
    page.fill("#where", where)
    page.press("#where", "Enter")
    wait_for_hits(page, index, Query("green", where=where))
    page.check("#duplicates")
    wait_for_hits(page, index, Query("green", where=where, duplicates=True))
    page.fill("#where", "widht > 60")
    page.press("#where", "Enter")
    page.wait_for_selector("#error:not([hidden])")
    assert "mean width" in page.inner_text("#error")
    page.fill("#where", "year < 1900")
    page.press("#where", "Enter")
    page.wait_for_selector("#no-hits:not([hidden])")
    assert page.is_hidden("#error") and displayed_ids(page) == []


def test_scrolling_loads_more_hits(page, index):
    page.check("#duplicates")
    page.fill("#query", "red")
    query = Query("red", duplicates=True)
    wait_for_hits(page, index, query)
    for k in (2 * PAGE_HITS, COUNT):
        page.locator("#load-more").scroll_into_view_if_needed()
        wait_for_hits(page, index, query, k)
    assert page.is_hidden("#load-more")


def test_similar_images_are_found_by_mouse_and_keys(page, index):
    page.fill("#query", "blue")
    wait_for_hits(page, index, "blue")
    second = displayed_ids(page)[1]
    page.hover("#hits li:nth-child(2)")
    page.click("#hits li:nth-child(2) .find-similar")
    wait_for_hits(page, index, Query(image=second))
    assert page.locator("#query-chips li.image").bounding_box()["height"] > 20
    page.go_back()
    wait_for_hits(page, index, "blue")
    third = displayed_ids(page)[2]
    page.focus("#query")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("#viewer[open]")
    source = page.get_attribute("#viewer-image", "src")
    assert source.startswith(f"/image/{third}?index=")
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute("#viewer-image", "src").startswith(f"/image/{second}?")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("s")
    wait_for_hits(page, index, Query(image=third))
    assert page.is_hidden("#viewer")


def test_captions_are_displayed_as_text(page, index):
    """Captions come from untrusted files and may contain HTML."""
    result = page.evaluate("fetch('/api/search').then((answer) => answer.json())")
    hit = {**result["hits"][0], "captions": ["<img src=x onerror=alert(1)>"]}
    content = {"hits": [hit], "has_more": False, "seconds": 0}
    page.route("**/api/search?*", lambda route: route.fulfill(json=content))
    page.fill("#query", "red")
    page.wait_for_selector("#hits li:only-child")
    assert page.inner_text("#hits .caption") == "<img src=x onerror=alert(1)>"
    page.click("#hits .frame")
    assert page.inner_text("#captions") == "<img src=x onerror=alert(1)>"


def test_a_tag_is_chosen_from_a_menu(page, index):
    page.fill("#query", "green")
    page.click("#toggle-filter")
    menu = page.get_by_label("tags")
    menu.select_option(label=f"cat ({len(index.latest(CAT, COUNT))})")
    wait_for_hits(page, index, Query("green", where=CAT))
    page.get_by_label("folder").select_option(index=1)
    both = f"({CAT}) and folder like '%Italy'"
    wait_for_hits(page, index, Query("green", where=both))
    page.reload()
    wait_for_hits(page, index, Query("green", where=both))
    page.click("#query-chips button[aria-label='Remove tags: cat']")
    wait_for_hits(page, index, Query("green", where="folder like '%Italy'"))
    page.click("#toggle-filter")
    assert menu.input_value() == ""
    page.fill("#where", "year < 1900")
    page.press("#where", "Enter")
    page.click("#remove-filter")
    wait_for_hits(page, index, "green")


def test_the_weight_of_words_is_changed(page, index):
    content = image_bytes((10, 20, 240))
    page.fill("#query", "red")
    wait_for_hits(page, index, "red")
    assert page.is_hidden("#weight")
    drop(page, content)
    wait_for_hits(page, index, Query(image=content))
    assert page.is_hidden("#weight") and page.input_value("#query") == ""
    page.fill("#query", "red")
    wait_for_hits(page, index, Query("red", image=content))
    assert page.inner_text("#weight-value") == "0.5"
    page.focus("#text-weight")
    page.keyboard.press("End")
    wait_for_hits(page, index, Query("red", image=content, text_weight=16))
    page.keyboard.press("Home")
    wait_for_hits(page, index, Query("red", image=content, text_weight=1 / 16))


def test_left_out_files_are_listed(page):
    page.click("#left-out summary")
    assert page.inner_text("#left-out summary") == "12 files left out"
    text = page.inner_text("#left-out-reasons")
    assert "broken0.png" in text and "and 2 more" in text


def test_a_failed_search_can_be_repeated(page, index):
    page.fill("#query", "red")
    wait_for_hits(page, index, "red")
    page.route("**/api/search?*", lambda route: route.abort())
    page.fill("#query", "blue")
    page.wait_for_selector("#error:not([hidden])")
    assert displayed_ids(page) == []
    assert "not responding" in page.inner_text("#error")
    page.unroute("**/api/search?*")
    page.click("#retry")
    wait_for_hits(page, index, "blue")
    assert page.is_hidden("#error")


def test_a_slow_search_is_reported(page, index):
    page.clock.install()
    waiting = []
    page.route("**/api/search?*", lambda route: waiting.append(route))
    page.fill("#query", "blue")
    page.clock.run_for(1_000)
    assert page.inner_text("#status") == "Searching…"
    page.clock.run_for(5_000)
    assert page.inner_text("#status").startswith("Still searching")
    waiting[0].continue_()
    wait_for_hits(page, index, "blue")
    assert page.inner_text("#status").startswith("Best matches")
    texts = [
        f"{hit.relevance:.0%} match, {hit.score:.3f}"
        for hit in index.query("blue", k=PAGE_HITS)
    ]
    assert page.locator("#hits .score").all_inner_texts() == texts


def test_a_large_image_replaces_the_hits(page, index):
    page.fill("#query", "red")
    wait_for_hits(page, index, "red")
    page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(64e6 + 1)], "large.png"));
          document.dispatchEvent(new DragEvent("drop", { dataTransfer: data }));
        }"""
    )
    page.wait_for_selector("#error:not([hidden])")
    assert displayed_ids(page) == [] and page.is_hidden("#retry")


def test_a_small_index_displays_scores_without_matches(browser, tmp_path):
    for number, color in enumerate(["red", "green", "blue"]):
        Image.new("RGB", (60, 40 + number), color).save(tmp_path / f"{color}.png")
    small_index = Index.build(tmp_path / "index", [tmp_path], str(GOLDEN))
    with serving(make_app(small_index.folder)) as address:
        page = browser.new_page()
        page.goto(address)
        page.fill("#query", "blue")
        wait_for_hits(page, small_index, "blue")
        assert page.inner_text("#status").startswith("Best matches first: 3 images")
        scores = [f"{hit.score:.3f}" for hit in small_index.query("blue")]
        assert page.locator("#hits .score").all_inner_texts() == scores
        page.locator("#hits .frame").first.click()
        assert "match" not in page.locator("#hit-columns dt").all_inner_texts()
        cells = page.locator("#hit-columns dd").all_inner_texts()
        size = (tmp_path / "blue.png").stat().st_size
        assert f"{size / 1e3:.1f} kB" in cells
        page.close()


def test_the_page_works_with_a_token(browser, index):
    token = "0123456789abcdef"
    with serving(make_app(index.folder, token=token)) as address:
        credentials = {"username": "", "password": token}
        page = browser.new_page(http_credentials=credentials)
        page.goto(address)
        page.wait_for_selector("#hits[aria-busy=false] li")
        page.fill("#query", "red")
        wait_for_hits(page, index, "red")
        loaded = "document.querySelector('#hits img').naturalWidth > 0"
        page.wait_for_function(loaded)
        assert page.inner_text("#left-out summary") == "12 files left out"
        page.close()


@pytest.mark.parametrize("width, scheme", SCREENS)
def test_the_page_is_accessible(browser, address, axe, width, scheme):
    size = {"width": width, "height": 900}
    page = browser.new_page(viewport=size, color_scheme=scheme)
    # Few hits, because the time of a check grows with the elements.
    page.goto(f"{address}?where=width < 36")
    page.wait_for_selector("#values select", state="attached")
    page.evaluate(axe)
    # A color that changes slowly has a low contrast meanwhile.
    page.evaluate(
        """() => {
          const sheet = new CSSStyleSheet();
          sheet.replaceSync("* { transition: none !important }");
          document.adoptedStyleSheets = [sheet];
        }"""
    )

    def check():
        violations = page.evaluate("axe.run()")["violations"]
        problems = [
            (violation["id"], element["html"], element["failureSummary"])
            for violation in violations
            for element in violation["nodes"]
        ]
        assert problems == [] and page.evaluate(OVERFLOW) == 0

    displayed_ids(page)
    check()
    page.click("#left-out summary")
    page.click("#toggle-filter")
    page.get_by_label("tags").select_option(index=1)
    drop(page, image_bytes("blue"))
    page.fill("#query", "red")
    page.wait_for_selector("#weight:not([hidden])")
    page.wait_for_selector("#hits[aria-busy=false] .score")
    check()
    page.click("#hits .frame")
    check()
    page.keyboard.press("Escape")
    page.fill("#where", "year < 1900")
    page.press("#where", "Enter")
    page.wait_for_selector("#no-hits:not([hidden])")
    check()
    page.route("**/api/search?*", lambda route: route.abort())
    page.press("#where", "Enter")
    page.wait_for_selector("#error:not([hidden])")
    check()
    page.close()
