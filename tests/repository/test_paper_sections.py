"""Docstrings only cite existing sections of the paper (arXiv 2102.05918 v2)."""

import pathlib
import re

PACKAGE = pathlib.Path(__file__).parents[2] / "align_keras"
SUBSECTIONS = {"4.1", "4.2", "4.3", "5.1", "5.2", "5.3", "6.1", "6.2"}


def test_every_cited_subsection_is_in_the_paper():
    cited = []
    for path in PACKAGE.rglob("*.py"):
        text = " ".join(path.read_text(encoding="utf-8").split())
        for sections in re.findall(r"Jia et al\. 2021, sections? ([^;:]{,40})", text):
            numbers = re.findall(r"(?<![\d.])[1-9]\.\d(?!\w)", sections)
            cited += [(path.name, number) for number in numbers]
    assert len(cited) > 20
    assert [citation for citation in cited if citation[1] not in SUBSECTIONS] == []
