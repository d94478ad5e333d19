"""Metadata of drawings, broken and hostile ones included."""

import pytest

from align_keras.corpus.svg_metadata import SvgMetadata, read_svg_metadata

DRAWING = """<?xml version="1.0" encoding="UTF-8" standalone="no"?>
{doctype}<svg xmlns="http://www.w3.org/2000/svg">
  <metadata>
    <rdf:RDF xmlns:cc="http://web.resource.org/cc/"
        xmlns:dc="http://purl.org/dc/elements/1.1/"
        xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
      <cc:Work rdf:about="">
        <dc:title>{title}</dc:title>
        <dc:description>Käse &amp;
          crackers</dc:description>
        <dc:subject><rdf:Bag>
          <rdf:li></rdf:li><rdf:li>food</rdf:li><rdf:li>dairy</rdf:li>
        </rdf:Bag></dc:subject>
        <dc:publisher><cc:Agent>
          <dc:title>Open Clip Art Library</dc:title>
        </cc:Agent></dc:publisher>
        <dc:creator><cc:Agent><dc:title>Jane Doe</dc:title></cc:Agent></dc:creator>
      </cc:Work>
    </rdf:RDF>
  </metadata>
  <path d="M 50.0,90.0"/>
</svg>
"""


def write(folder, content):
    path = folder / "drawing.svg"
    path.write_text(content, "utf-8")
    return path


def test_all_fields(tmp_path):
    content = DRAWING.format(doctype="", title=" Cheese ")
    assert read_svg_metadata(write(tmp_path, content)) == SvgMetadata(
        title="Cheese",
        description="Käse & crackers",
        keywords=("food", "dairy"),
        authors=("Jane Doe",),
    )


def test_a_drawing_broken_behind_its_metadata_still_counts(tmp_path):
    content = DRAWING.format(doctype="", title="Cheese").split("<path")[0]
    assert read_svg_metadata(write(tmp_path, content + "<path <<<")).title == "Cheese"


@pytest.mark.parametrize("content", ["", "no xml", "<svg><metadata>", "<svg/>"])
def test_a_drawing_without_metadata(tmp_path, content):
    assert read_svg_metadata(write(tmp_path, content)) == SvgMetadata()


def test_internal_entities_of_drawing_programs(tmp_path):
    doctype = '<!DOCTYPE svg [<!ENTITY who "Swiss">]>\n'
    content = DRAWING.format(doctype=doctype, title="&who; cheese")
    assert read_svg_metadata(write(tmp_path, content)).title == "Swiss cheese"


def test_external_entities_are_never_read(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    doctype = f'<!DOCTYPE svg [<!ENTITY leak SYSTEM "file://{secret}">]>\n'
    content = DRAWING.format(doctype=doctype, title="&leak;")
    assert read_svg_metadata(write(tmp_path, content)) == SvgMetadata()


def test_a_billion_laughs_end_soon(tmp_path):
    entities = '<!ENTITY a0 "ha">' + "".join(
        f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10)
    )
    content = DRAWING.format(doctype=f"<!DOCTYPE svg [{entities}]>\n", title="&a9;")
    assert read_svg_metadata(write(tmp_path, content)) == SvgMetadata()
