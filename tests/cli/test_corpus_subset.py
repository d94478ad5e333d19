"""`align-keras corpus subset`: the subset file of a corpus gives the same corpus."""

import io
import json

import numpy as np
import pytest

from align_keras.cli.main import main
from tests.helpers.small_corpus import NOUNS, ONE_WORKER, caption, draw, funnel_of, run
from tests.helpers.source_files import write_tar

pytestmark = pytest.mark.ci

pytest.importorskip("cv2")
OPTIONS = "--params_override=duplicates.inside_corpus=true"


def uid_of(number):
    return f"{number * 2**120 + 7:032x}"


def sample(number, image, text, suffix="png", file_format="PNG"):
    """Returns a record in the format of `write_tar`."""
    file = io.BytesIO()
    image.save(file, file_format)
    metadata = json.dumps({"uid": uid_of(number)}).encode()
    parts = {suffix: file.getvalue(), "txt": text.encode(), "json": metadata}
    return f"{number:05}", parts


@pytest.fixture
def shards(tmp_path):
    """Two shards. Records 8 to 13 have no image of their own in the corpus."""
    rows = [sample(number, draw(number), caption(number)) for number in range(8)]
    # The bytes of record 1, and the pixels of record 2 in another file.
    rows.append(sample(8, draw(1), f"one more {NOUNS[1]} for you"))
    rows.append(sample(9, draw(2), f"the same {NOUNS[2]} again", "bmp", "BMP"))
    # A smaller copy of record 3 is a near-duplicate.
    rows.append(sample(10, draw(3).resize((234, 207)), "a smaller copy of it"))
    rows.append(sample(11, draw(4), "two words"))
    rows.append(sample(12, draw(20, (100, 100)), "an icon of a cat"))
    key, parts = sample(13, draw(21), "an image that ends early")
    rows.append((key, {**parts, "png": parts["png"][:2_000]}))
    write_tar(tmp_path / "shards/00000.tar", rows[:6])
    write_tar(tmp_path / "shards/00001.tar", rows[6:])
    return f"webdataset:{tmp_path / 'shards'}"


def test_the_subset_of_a_corpus_gives_the_same_corpus(shards, tmp_path):
    path = tmp_path / "subset.npy"
    command = ("corpus", "subset", *ONE_WORKER, OPTIONS)
    first, second = tmp_path / "first", tmp_path / "second"
    words = (*command, f"--out={first}", f"--source={shards}")
    output = f"wrote the uids of 10 records to {path}\n"
    assert run(*words, f"--to={path}") == output
    rows = [(int(upper), int(lower)) for upper, lower in np.load(path)]
    kept = [*range(8), 8, 9]
    assert rows == [divmod(int(uid_of(number), 16), 2**64) for number in kept]
    # The corpus of these records has all of them, and the same subset.
    words = (*command, f"--out={second}", f"--source={shards}?subset={path}")
    assert run(*words, f"--to={tmp_path / 'again.npy'}").startswith(output[:30])
    assert (tmp_path / "again.npy").read_bytes() == path.read_bytes()
    funnels = [
        funnel_of(run("corpus", "dedup", f"--out={out}", *ONE_WORKER))
        for out in (first, second)
    ]
    names = ("pairs that pass the filters", "images, with all their captions")
    assert funnels[0][names[0]] == 12 and funnels[1][names[0]] == 10
    assert funnels[1]["not in the subset"] == 4
    assert funnels[1][names[1]] == 9 and funnels[1]["duplicate"] == 1


def test_a_corpus_without_uids_has_no_subset(tmp_path, capsys):
    draw(1).save(tmp_path / "1.png")
    (tmp_path / "a.csv").write_text("image,caption\n1.png,a cat on a mat\n")
    path = tmp_path / "subset.npy"
    words = ["corpus", "subset", f"--out={tmp_path / 'out'}", *ONE_WORKER]
    words += [f"--source=table:{tmp_path / 'a.csv'}", f"--to={path}"]
    assert main(words) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "uids" in error and "Received: 1 records" in error
    assert not path.exists()
