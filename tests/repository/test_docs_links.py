"""Links and images of the documentation resolve on GitHub and on the site."""

import pathlib
import re

import pytest

from tests.helpers.docs_text import (
    PAGES,
    ROOT,
    SITE,
    github_anchors,
    links,
    read_page,
    site_anchors,
)

# Pages that docs/hooks.py generates for the site. GitHub shows a page without the
# headings of the generated one.
GENERATED = {
    SITE / name
    for name in re.findall(
        r'"(reference/\w+\.md)": ', read_page(ROOT / "docs/hooks.py")
    )
}
# Maximum size of the changelog in bytes.
MAX_CHANGELOG = 8 * 1024


def links_of_pages():
    return [(path, target) for path in PAGES for target in links(read_page(path))]


def linked_file(page, target):
    """Returns the file that a link of a page leads to, and its anchor."""
    name, _, anchor = target.partition("#")
    return (page.parent / name).resolve() if name else page, anchor


def check_link(page, target):
    """Returns None, or the reason why a link doesn't resolve."""
    file, anchor = linked_file(page, target)
    if not file.exists():
        return "The file doesn't exist."
    if SITE in page.parents and SITE not in file.parents:
        return "The site has only files of docs/pages."
    if anchor and file.suffix == ".md":
        text = read_page(file)
        if anchor not in github_anchors(text):
            return f"GitHub has only the anchors {sorted(github_anchors(text))}."
        if anchor not in site_anchors(text):
            return f"The site has only the anchors {sorted(site_anchors(text))}."
    return None


@pytest.mark.parametrize(
    "page, target",
    links_of_pages(),
    ids=lambda value: value.stem if isinstance(value, pathlib.Path) else value,
)
def test_a_link_resolves_on_github_and_on_the_site(page, target):
    assert check_link(page, target) is None


def test_links_are_recognized():
    text = (
        "[a](a.md), [`b`](b.md#c) and [web](https://a.org/b)\n"
        "[![image](c.png)](d.md)\n"
        '<img src="e.png" alt="">\n'
        "`[code](f.md)` <!-- [comment](g.md) -->\n"
        "```\n[block](h.md)\n```\n"
    )
    assert links(text) == ["a.md", "b.md#c", "c.png", "d.md", "e.png"]
    assert len(links_of_pages()) > 80


@pytest.mark.parametrize(
    "target, reason",
    [
        ("loss.md", None),
        ("loss.md#several-replicas", None),
        ("loss.md#several-machines", "GitHub has only"),
        ("absent.md", "doesn't exist"),
        ("../reference/api.md", None),
        ("../reference/api.md#evaluate", "GitHub has only"),
        ("../../../README.md", "The site has only files"),
    ],
)
def test_a_broken_link_is_detected(target, reason):
    result = check_link(SITE / "how" / "recall.md", target)
    assert result is None if reason is None else reason in result


def test_anchors_differ_between_github_and_the_site():
    text = "# A – b\n## `c`: d_e!\n## Ä\n## Twice\n## Twice\n"
    assert github_anchors(text) == {"a--b", "c-d_e", "ä", "twice", "twice-1"}
    assert site_anchors(text) == {"a-b", "c-d_e", "", "twice", "twice_1"}


def test_every_page_is_reachable():
    """Pages that are not in the navigation are links of another page."""
    navigation = (ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8")
    linked_files = {linked_file(page, target)[0] for page, target in links_of_pages()}
    for path in SITE.rglob("*.md"):
        name = path.relative_to(SITE).as_posix()
        assert name in navigation or path in linked_files, name


def test_github_has_a_page_for_each_generated_page():
    assert len(GENERATED) >= 3
    assert [path.name for path in GENERATED if not path.exists()] == []


def test_the_changelog_is_short():
    assert (ROOT / "CHANGELOG.md").stat().st_size <= MAX_CHANGELOG
