"""Tests of pages from common page generators. Only texts about an image are kept."""

import pytest

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.html_pairs import extract_pairs

pytest.importorskip("selectolax")

PAGE = "https://example.org/manual/page.html"
FILE_NAME_REASON = "caption is a file name or an address"

SPHINX = """<figure class="align-default" id="id2">
<a class="reference internal image-reference" href="../_images/random_color.png">
<img alt="../_images/random_color.png" src="../_images/random_color.png"
  style="width: 320px;" /></a>
<figcaption><p><span class="caption-text">Cubes with <em>random</em>, bright colors.
</span><a class="headerlink" href="#id2" title="Link to this image">¶</a></p>
</figcaption></figure>
<img alt="_images/logo.svg" class="logo" src="../_images/logo.svg"/>"""

MKDOCS = """<figure><a class="glightbox" href="../img/nav.png">
<img alt="The navigation bar" loading="lazy" src="../img/nav.png"></a>
<figcaption>Navigation in <code>tabs</code>
<a class="headerlink" href="#nav" title="Permanent link">&para;</a></figcaption>
</figure><p><img alt="" src="../img/empty.png" /></p>"""

# Fingerprint that webpack adds to file names.
HASH = "a60f7593abca1e3eef26a9afa244e4fb"
DOCUSAURUS = f"""<figure><img loading="lazy" alt="Docusaurus Plushie"
  src="/assets/images/docusaurus-plushie-banner-{HASH}.jpeg" width="1500" height="500"
  class="img_ev3q"><figcaption>A plushie<a href="#plushie" class="hash-link"
  aria-label="Direct link to plushie" title="Direct link to plushie">&#8203;</a>
<button type="button" aria-label="Copy code to clipboard">Copy</button>
</figcaption></figure>
<img loading="lazy" alt="localdev_2024" src="/assets/localdev_2024-{HASH}.png">"""

HUGO = """<figure><img src="/images/elephant_hu3c2f9_300x200_resize_q75.jpg"
  alt="A photograph of an elephant" loading="lazy"><figcaption>
<h4>An elephant at sunset<a class="anchor" aria-hidden="true" href="#e">#</a></h4>
<p>In the <a href="https://example.org/park">park</a>.<sup id="fnref:1"><a
  href="#fn:1" class="footnote-ref" role="doc-noteref">1</a></sup></p>
</figcaption></figure>
<img src=/images/IMG_2041_hu0123456789abcdef_600x0_resize.jpg alt="IMG_2041.jpg">"""

DOCBOOK = """<div class="figure"><a id="fig-curves"></a>
<p class="title"><strong>Figure 14.2. The Curves dialog</strong></p>
<div class="figure-contents"><div class="mediaobject">
<img src="images/dialogs/curves.png" alt="The “Curves” dialog" /></div></div></div>
<span class="inlinemediaobject"><img src="images/note.png" alt="images/note.png"
  title="Note" /></span>"""

MEDIAWIKI = """<figure typeof="mw:File/Thumb"><a href="/wiki/File:Red_bicycle,_1890.jpg"
  class="mw-file-description" title="Enlarge"><img alt="Red bicycle, 1890.jpg"
  src="//up.example.org/thumb/a/ab/Red_bicycle%2C_1890.jpg/220px-Red_bicycle%2C_1890.jpg"
  decoding="async" class="mw-file-element"></a><figcaption>A bicycle of 1890<sup
  id="cite_ref-1" class="reference"><a href="#cite_note-1">[1]</a></sup> in red
<div class="magnify"><a href="/wiki/File:X" class="internal" title="Enlarge">Enlarge</a>
</div></figcaption></figure>
<img alt="File:Map of Graz.png" src="//up.example.org/a/ac/Graz_1.png">"""

WORDPRESS = """<figure class="wp-block-image size-large"><img decoding="async"
  src="data:image/svg+xml;base64,PHN2Zy8+" data-lazy-src="/up/DSC01234-1024x683.jpg"
  data-lazy-srcset="/up/DSC01234-1024x683.jpg 1024w, /up/DSC01234.jpg 2048w"
  alt="DSC01234" title="Market day" class="wp-image-7"><noscript><img decoding="async"
  src="/up/DSC01234-1024x683.jpg" alt="DSC01234" title="Market day"></noscript>
<figcaption class="wp-element-caption">The market in spring<span
  class="screen-reader-text">Opens in a new window</span></figcaption></figure>"""


@pytest.mark.parametrize(
    ("html", "expected", "file_names", "cleaned"),
    [
        pytest.param(
            SPHINX,
            [("figcaption", "Cubes with random, bright colors.")],
            2,
            {"a permalink": 1},
            id="Sphinx",
        ),
        pytest.param(
            MKDOCS,
            [("alt", "The navigation bar"), ("figcaption", "Navigation in tabs")],
            0,
            {"a permalink": 1},
            id="MkDocs",
        ),
        pytest.param(
            DOCUSAURUS,
            [("alt", "Docusaurus Plushie"), ("figcaption", "A plushie")],
            1,
            {"a permalink": 1, "a button": 1},
            id="Docusaurus",
        ),
        pytest.param(
            HUGO,
            [
                ("alt", "A photograph of an elephant"),
                ("figcaption", "An elephant at sunset In the park."),
            ],
            1,
            {"a text for screen readers": 1, "a footnote mark": 1},
            id="Hugo",
        ),
        pytest.param(
            DOCBOOK,
            [("alt", "The “Curves” dialog"), ("title", "Note")],
            1,
            {},
            id="DocBook",
        ),
        pytest.param(
            MEDIAWIKI,
            [("figcaption", "A bicycle of 1890 in red")],
            2,
            {"a footnote mark": 1, "a button": 1},
            id="MediaWiki",
        ),
        pytest.param(
            WORDPRESS,
            [("title", "Market day"), ("figcaption", "The market in spring")],
            1,
            {"a text for screen readers": 1},
            id="WordPress",
        ),
    ],
)
def test_only_texts_about_an_image_are_kept(html, expected, file_names, cleaned):
    counter = DropCounter()
    pairs = list(extract_pairs(html, PAGE, counter))
    assert [(pair.rule, pair.caption) for pair in pairs] == expected
    assert counter.filtered == ({FILE_NAME_REASON: file_names} if file_names else {})
    assert counter.cleaned == cleaned
    assert not counter.bad


def addresses(html):
    return [pair.image_url.rpartition("/")[2] for pair in extract_pairs(html, PAGE)]


def test_addresses_for_lazy_loading_replace_placeholder_files():
    assert addresses("<img src=blank.gif data-src=real.jpg alt=x>") == ["real.jpg"]
    html = """<img src=blank.gif srcset="blank.gif 2000w" alt=x
      data-srcset="small.jpg 300w, large.jpg 900w" loading=lazy>"""
    assert addresses(html) == ["large.jpg"]
    html = """<picture><source data-srcset="a.webp 300w, b.webp 900w">
      <img src=blank.gif data-src=small.jpg alt=x></picture>"""
    assert addresses(html) == ["b.webp"]


@pytest.mark.parametrize(
    "html",
    [
        "<img src=blank.gif alt=x><noscript><img src=real.jpg alt=x></noscript>",
        "<p><noscript><img src=real.jpg alt=x></noscript> <img src=blank.gif alt=x>",
        "<a href=#><span><img src=blank.gif alt=x></span></a><!-- late -->"
        "<noscript><a><img src=real.jpg alt=x></a></noscript>",
        "<img src=blank.gif data-src=real.jpg alt=x>"
        "<noscript><img src=small.jpg alt=x></noscript>",
    ],
)
def test_an_image_and_its_noscript_copy_give_one_pair(html):
    assert addresses(html) == ["real.jpg"]


def test_a_different_image_in_a_noscript_gives_a_separate_pair():
    html = "<img src=a.jpg alt=x><noscript><img src=b.jpg alt=y></noscript>"
    assert addresses(html) == ["a.jpg", "b.jpg"]


def test_a_caption_with_links_and_buttons_only_is_empty():
    html = """<figure><img src=a.png><figcaption><a href="#a">§</a>
      <span role=button>Enlarge</span><script>x()</script></figcaption></figure>"""
    assert list(extract_pairs(html, PAGE)) == []


def test_links_with_words_are_part_of_the_caption():
    html = """<figure><img src=a.png><figcaption>See <a class="reference internal"
      href="#curves">Curves</a> and <a href="#top"># 1</a></figcaption></figure>"""
    [pair] = extract_pairs(html, PAGE)
    assert pair.caption == "See Curves and # 1"


def test_two_images_of_a_figure_share_its_caption():
    html = """<figure><img src=a.png><img src=b.png><figcaption>Before and after
      <a class=headerlink href="#x">¶</a></figcaption></figure>"""
    counter = DropCounter()
    pairs = list(extract_pairs(html, PAGE, counter))
    assert [pair.caption for pair in pairs] == ["Before and after"] * 2
    assert counter.cleaned == {"a permalink": 2}


@pytest.mark.parametrize(
    "html",
    [
        # This HTML is from MediaWiki before version 1.40.
        """<div class="thumb tright"><div class="thumbinner" style="width:222px;">
        <a href="/wiki/File:B.jpg" class="image"><img src=b.jpg class="thumbimage"></a>
        <div class="thumbcaption"><div class="magnify"><a href="/wiki/File:B.jpg"
        class="internal" title="Enlarge"><img src=clip.png></a></div>The market</div>
        </div></div>""",
        # This HTML is from WordPress before it had the block editor.
        """<div id="attachment_7" class="wp-caption alignnone"><a href=b.jpg>
        <img src=b.jpg class="wp-image-7"></a>
        <p class="wp-caption-text">The market</p></div>""",
        # A page without a generator.
        "<div class=image><p><img src=b.jpg></p><div class='caption'>The market</div>",
    ],
)
def test_captions_are_recognized_by_their_class(html):
    [pair] = extract_pairs(html, PAGE)
    assert (pair.rule, pair.caption) == ("figcaption", "The market")
    assert pair.image_url.endswith("/b.jpg")


def test_captions_by_class_need_a_single_image_and_no_figure():
    html = """<div><img src=a.png><div class=caption>a</div>
      <img src=b.png><div class=caption>b</div></div>
      <figure><img src=c.png><div class=caption>c</div>
      <figcaption>The market</figcaption></figure>"""
    assert [pair.caption for pair in extract_pairs(html, PAGE)] == ["The market"]
