"""Progress lines in an output that is not a terminal."""

from align_keras.utils import progress


def test_lines_show_rate_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.0)
    with progress.progress_bar("training", "pairs", total=100, done=40) as bar:
        bar.advance(5, "loss 2.000")  # The rate excludes the first call.
        bar.advance(5, "loss 1.000")
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.strip()
    assert line.startswith("training: 50 of 100 pairs, ")
    assert "pairs/s" in line
    assert line.endswith("s left  loss 1.000")
