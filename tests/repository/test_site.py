"""The site has no serious accessibility problem and answers searches, in Chromium."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.helpers.browser import chromium, served
from tests.helpers.docs_text import ROOT
from tests.helpers.oracle_process import needs

pytestmark = [pytest.mark.ci, needs("material")]

PAGES = (
    "index.html",
    "guides/search.html",
    "reference/api/models.html",
    "tutorials/train_with_fit.html",
    "gallery.html",
)
# Pixels.
WIDTHS = (1300, 390)
# axe-core also reports problems of moderate and minor impact. The theme causes two of
# them: All blocks of code have a landmark of the same name, and the progress bar is in
# no landmark.
IMPACTS = ("serious", "critical")
# A whole API page takes a minute. The first class, the first function and the first
# item of the table of contents have the elements of all others.
REPEATED_ENTRIES = (
    ".doc-class ~ .doc-class, .doc-function ~ .doc-function, "
    ".md-nav--secondary .md-nav__item ~ .md-nav__item"
)
QUESTIONS = "start/questions.html#"
# Searches of readers, with the pages and sections that may come first.
SEARCHES = {
    "train on my folder of images": (
        "guides/own_pairs.html",
        QUESTIONS + "how-do-i-train-on-my-folder-of-images",
    ),
    "how large a batch": (
        "guides/scale.html",
        QUESTIONS + "how-large-a-batch-do-i-need",
    ),
    "use my own optimizer or callback": (
        "guides/python.html",
        QUESTIONS + "can-i-use-my-own-optimizer-callback-or-loss",
    ),
    "use with TensorFlow Serving": (
        "guides/tensorflow_serving.html",
        QUESTIONS + "can-i-use-it-with-tensorflow-serving",
    ),
    "fine-tune on my pairs": (
        "guides/finetune.html",
        QUESTIONS + "how-do-i-fine-tune-on-my-pairs",
    ),
    "which model for photos": (
        "start/choose_a_model.html",
        "guides/photos.html",
        QUESTIONS + "which-model-should-i-use-for-photos",
    ),
    "out of memory": (
        "guides/memory.html",
        "guides/troubleshooting.html#out-of-memory",
        QUESTIONS + "what-can-i-do-when-it-runs-out-of-memory",
    ),
    "search does not find": (
        "guides/photos.html",
        "guides/search.html",
        QUESTIONS + "why-does-the-search-not-find-my-photo",
    ),
    "several GPUs": (
        "guides/scale.html",
        QUESTIONS + "can-i-train-on-several-gpus-or-machines",
    ),
    "how good is it": ("benchmarks.html", QUESTIONS + "how-good-is-it"),
}
OVERFLOW = "document.documentElement.scrollWidth - innerWidth"


@pytest.fixture(scope="module")
def axe():
    """Source of axe-core, a checker of web pages, from `ALIGN_KERAS_NPM_DIR`."""
    folder = pathlib.Path(os.environ.get("ALIGN_KERAS_NPM_DIR", ROOT), "node_modules")
    script = folder / "axe-core" / "axe.min.js"
    if not script.is_file():
        pytest.skip("the npm package axe-core isn't installed")
    return script.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--strict", "-f", "docs/mkdocs.yml", "-d", str(folder)]
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", *options],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=True,
    )
    return folder


@pytest.fixture(scope="module")
def address(site):
    """Address of a server with the site."""
    with served(site) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "name",
    [
        # The elements of the other pages are those of the home page.
        name if name == "index.html" else pytest.param(name, marks=pytest.mark.release)
        for name in PAGES
    ],
)
def test_a_page_has_no_serious_problem(browser, axe, address, name, scheme):
    page = browser.new_page(color_scheme=scheme)
    page.goto(address + name)
    page.evaluate(axe)
    # A color that changes slowly has a low contrast meanwhile.
    page.add_style_tag(content="* { transition: none !important }")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(OVERFLOW) == 0
        assert serious_problems(page) == []
    page.close()


def serious_problems(page):
    """Returns the rule, the element and the remedy of each serious problem."""
    violations = page.evaluate(
        "(selector) => axe.run({exclude: selector})", REPEATED_ENTRIES
    )["violations"]
    return [
        (violation["id"], element["html"], element["failureSummary"])
        for violation in violations
        if violation["impact"] in IMPACTS
        for element in violation["nodes"]
    ]


def test_a_page_from_a_disk_has_no_serious_problem(browser, axe, site):
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto((site / "guides" / "search.html").as_uri())
    page.wait_for_selector(".md-code__button")
    page.evaluate(axe)
    assert serious_problems(page) == []
    # The search needs no server.
    page.click("label.md-header__button[for=__search]")
    page.locator(".md-search__input").press_sequentially("duplicates")
    page.wait_for_selector(".md-search-result__item")
    page.close()


# === Searches ===


@pytest.fixture(scope="module")
def search_page(browser, address):
    """Home page whose search box is open."""
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.goto(address + "index.html")
    page.click(".md-search__input")
    yield page
    page.close()


@pytest.mark.parametrize("query", SEARCHES)
def test_a_search_finds_its_answer_first(search_page, address, query):
    location = first_result(search_page, query).removeprefix(address)
    page, _, _ = location.partition("#")
    assert {location, page}.intersection(SEARCHES[query]), location


def first_result(page, query):
    """Returns the address of the first section that a query finds."""
    search_box = page.locator(".md-search__input")
    results = page.locator(".md-search-result__item")
    for text in ("", query):
        search_box.fill(text)
        # The theme reads the box when a key is released.
        search_box.press("End")
        results.first.wait_for(state="attached" if text else "detached")
    # A page comes before its best section. Its other sections are folded.
    link = results.first.locator("> a").last
    return link.evaluate("({href}) => href.replace(/[?]h=[^#]*/, '')")
