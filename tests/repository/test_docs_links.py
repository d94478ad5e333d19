"""Links and images of the documentation resolve on GitHub and on the site."""

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


def test_links_resolve_on_github_and_on_the_site():
    pairs = links_of_pages()
    assert len(pairs) > 80
    for page, target in pairs:
        assert check_link(page, target) is None, f"{page}: {target}"


@pytest.mark.parametrize(
    "target, reason",
    [
        ("loss.md#several-replicas", None),
        ("loss.md#several-machines", "GitHub has only"),
        ("absent.md", "doesn't exist"),
        ("../../../README.md", "The site has only files"),
    ],
)
def test_a_broken_link_is_detected(target, reason):
    result = check_link(SITE / "how" / "recall.md", target)
    assert result is None if reason is None else reason in result


def test_every_page_is_reachable():
    """Pages that are not in the navigation are links of another page."""
    navigation = (ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8")
    linked_files = {linked_file(page, target)[0] for page, target in links_of_pages()}
    for path in SITE.rglob("*.md"):
        name = path.relative_to(SITE).as_posix()
        assert name in navigation or path in linked_files, name


def test_github_has_a_page_for_each_generated_page():
    assert len(GENERATED) >= 2
    assert [path.name for path in GENERATED if not path.exists()] == []


def test_the_changelog_is_short():
    assert (ROOT / "CHANGELOG.md").stat().st_size <= MAX_CHANGELOG
