"""Tests the page of `align-keras serve` in Chromium, with the hits of Python."""

import base64
import threading

import pytest

from align_keras.search.image_index import Index
from align_keras.search.local_server import make_server, open_port
from align_keras.search.query import Query
from align_keras.search.server import PAGE_HITS, make_app
from tests.helpers.browser import chromium
from tests.helpers.color_towers import GOLDEN, image_bytes

pytestmark = pytest.mark.ci

COUNT = 2 * PAGE_HITS + 10
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
    for number in range(COUNT):
        folder = root / ("Italy" if number % 2 else "Spain")
        folder.mkdir(exist_ok=True)
        color = (number * 2, 255 - number * 2, number * 37 % 256)
        (folder / f"{number:03}.png").write_bytes(image_bytes(color, (30 + number, 90)))
    folder = tmp_path_factory.mktemp("index") / "index"
    return Index.build(folder, [root], str(GOLDEN))


@pytest.fixture(scope="module")
def address(index):
    server = make_server(make_app(index.folder))
    with open_port(0) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


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
    for _ in range(100):
        if displayed_ids(page) == expected:
            return
        page.wait_for_timeout(100)
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
    assert "`image` must be readable" in page.inner_text("#error")
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
    assert "Did you mean width" in page.inner_text("#error")
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
