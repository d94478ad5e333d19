"""The benchmark of detected languages measures a small page."""

import pytest

from tools.benchmarks import bench_languages

pytest.importorskip("py3langid")
pytest.importorskip("selectolax")
PAGE = """<html><body><div lang="de-AT">
<img src="a.png" alt="Eine Katze schläft auf dem Sofa im Wohnzimmer">
<img src="b.png" alt="A dog is running through the green garden"></div>
<img src="c.png" alt="Ein Hund läuft durch den grünen Garten" title="Ein langer Titel">
<img src="d.png" alt="zu kurz"></body></html>"""


def test_detected_and_declared_languages_are_compared(tmp_path, capsys):
    (tmp_path / "page.html").write_text(PAGE, encoding="utf-8")
    source = f"html:{tmp_path}"
    result = bench_languages.measure("de", bench_languages.alt_texts(source))
    assert (result.texts, result.declared_texts) == (3, 2)
    assert result.detected_share == pytest.approx(2 / 3)
    assert result.english_share == pytest.approx(1 / 3)
    assert result.declared_share == pytest.approx(1 / 2)
    bench_languages.main([f"de={source}"])
    assert "66.7%" in capsys.readouterr().out
