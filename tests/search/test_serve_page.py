"""The page of `align-keras serve` in Chromium; its hits are compared with Python's."""

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
IDS = "[...document.querySelectorAll('#hits li')].map((one) => Number(one.dataset.id))"
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
    return Index.build(tmp_path_factory.mktemp("index") / "own", [root], str(GOLDEN))


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
    """The page, loaded; it must ask for nothing elsewhere and say no error."""
    asked, errors = [], []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(address)
    page.wait_for_selector("#hits[aria-busy=false] li")
    yield page
    page.close()
    local = (address, "data:", f"blob:{address}")
    assert not errors and all(url.startswith(local) for url in asked)


def shown(page):
    """Ids of the hits, once the search has ended."""
    page.wait_for_selector("#hits[aria-busy=false]", state="attached")
    return page.evaluate(IDS)


def expected(index, query, k=PAGE_HITS):
    return [hit.id for hit in index.query(query, k=k)]


def until(page, index, query, k=PAGE_HITS):
    """Waits until the page shows what Python finds."""
    wanted = expected(index, query, k)
    for _ in range(100):
        if shown(page) == wanted:
            return
        page.wait_for_timeout(100)
    assert shown(page) == wanted


def drop(page, content, name="dropped.png"):
    page.evaluate(DROP, [base64.b64encode(content).decode(), name])


def test_typing_adding_and_subtracting_words(page, index):
    assert shown(page) == [hit.id for hit in index.latest(k=PAGE_HITS)]
    page.keyboard.type("red")  # The box has the focus.
    until(page, index, "red")
    page.fill("#words", "blue")
    page.press("#words", "Enter")
    until(page, index, Query("red", plus="blue"))
    page.fill("#words", "green")
    page.click("#minus")
    until(page, index, Query("red", plus="blue", minus="green"))
    page.click("#parts li.plus button")
    until(page, index, Query("red", minus="green"))
    assert page.url.endswith("?text=red&minus=green")
    page.reload()
    until(page, index, Query("red", minus="green"))
    assert page.input_value("#query") == "red"
    page.go_back()
    until(page, index, Query("red", plus="blue", minus="green"))


def test_dropping_an_image_and_words_beside_it(page, index):
    content = image_bytes((10, 20, 240))
    drop(page, content)
    until(page, index, Query(image=content))
    assert page.inner_text("#parts li.image").startswith("dropped.png")
    assert page.locator("#parts li.image").bounding_box()["height"] > 20
    page.fill("#query", "red")
    until(page, index, Query("red", image=content))
    drop(page, b"no image", "broken.png")
    page.wait_for_selector("#error:not([hidden])")
    assert "image must be readable" in page.inner_text("#error")
    # What was found before isn't shown as the answer.
    assert shown(page) == [] and page.input_value("#query") == ""
    page.click("#parts li.image button")
    page.fill("#query", "red")
    until(page, index, "red")
    assert page.is_hidden("#error")
    file = {"name": "a.png", "mimeType": "image/png", "buffer": content}
    page.set_input_files("#file", file)
    until(page, index, Query(image=content))


def test_filtering_and_duplicates(page, index):
    where = "folder like '%Italy' and width > 60"
    page.fill("#query", "green")
    page.click("#filtering")
    page.fill("#where", where)
    page.press("#where", "Enter")
    until(page, index, Query("green", where=where))
    page.check("#duplicates")
    until(page, index, Query("green", where=where, duplicates=True))
    page.fill("#where", "widht > 60")
    page.press("#where", "Enter")
    page.wait_for_selector("#error:not([hidden])")
    assert "Did you mean width" in page.inner_text("#error")
    page.fill("#where", "year < 1900")
    page.press("#where", "Enter")
    page.wait_for_selector("#none:not([hidden])")
    assert page.is_hidden("#error") and shown(page) == []


def test_scrolling_brings_more(page, index):
    page.check("#duplicates")
    page.fill("#query", "red")
    query = Query("red", duplicates=True)
    until(page, index, query)
    for k in (2 * PAGE_HITS, COUNT):
        page.locator("#more").scroll_into_view_if_needed()
        until(page, index, query, k)
    assert page.is_hidden("#more")


def test_more_like_this_by_mouse_and_keys(page, index):
    page.fill("#query", "blue")
    until(page, index, "blue")
    second = shown(page)[1]
    page.hover("#hits li:nth-child(2)")
    page.click("#hits li:nth-child(2) .like")
    until(page, index, Query(image=second))
    assert page.locator("#parts li.image").bounding_box()["height"] > 20
    page.go_back()
    until(page, index, "blue")
    third = shown(page)[2]
    page.focus("#query")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("#viewer[open]")
    source = page.get_attribute("#large", "src")
    assert source.startswith(f"/image/{third}?index=")
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute("#large", "src").startswith(f"/image/{second}?")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("s")
    until(page, index, Query(image=third))
    assert page.is_hidden("#viewer")


def test_what_images_say_is_text(page, index):
    """Names and captions come from files that nobody has looked through."""
    hits = page.evaluate("fetch('/api/search').then((answer) => answer.json())")
    hit = {**hits["hits"][0], "captions": ["<img src=x onerror=alert(1)>"]}
    page.route(
        "**/api/search?*",
        lambda route: route.fulfill(json={"hits": [hit], "more": False, "seconds": 0}),
    )
    page.fill("#query", "red")
    page.wait_for_selector("#hits li:only-child")
    assert page.inner_text("#hits .caption") == "<img src=x onerror=alert(1)>"
    page.click("#hits .frame")
    assert page.inner_text("#captions") == "<img src=x onerror=alert(1)>"
