"""Tests of the results that img2dataset records, and of lists of missing images."""

import collections

import pytest

from align_keras.corpus.sources.download_results import (
    download_failure,
    missing_pairs,
    read_download_results,
)
from align_keras.corpus.sources.pair import SourcePair
from align_keras.utils.errors import InputError
from tests.helpers.source_reading import IMG2DATASET

pyarrow = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
SITE = "https://example.org/"
FAILED = "failed_to_download"


def write_results(folder, shard, rows, **columns):
    """Writes a table of results in the format of img2dataset.

    Args:
        rows: list of tuples (name, caption, status, error message).
        columns: more columns.
    """
    folder.mkdir(exist_ok=True)
    names, captions, statuses, messages = zip(*rows, strict=True)
    table = pyarrow.table(
        {
            "caption": pyarrow.array(captions, pyarrow.string()),
            "url": [SITE + name for name in names],
            "key": [f"{number:09}" for number in range(len(rows))],
            "status": statuses,
            "error_message": pyarrow.array(messages, pyarrow.string()),
            **columns,
        }
    )
    pq.write_table(table, folder / f"{shard:05}.parquet")
    (folder / f"{shard:05}.tar").touch()


def list_missing(pairs, *folders):
    """Returns the missing pairs (name, caption), and the two counters as dicts."""
    missing, skipped = collections.Counter(), collections.Counter()
    all_pairs = [SourcePair(SITE + name, caption) for name, caption in pairs]
    results = read_download_results(folders)
    listed = list(missing_pairs(all_pairs, results, missing, skipped))
    names = [(pair.image.removeprefix(SITE), pair.caption) for pair in listed]
    return names, dict(missing), dict(skipped)


@pytest.mark.parametrize(
    "message, reason, may_pass",
    [
        ("HTTP Error 429: Too Many Requests", "HTTP 429", True),
        ("HTTP Error 408: Request Timeout", "HTTP 408", True),
        ("HTTP Error 503: Service Unavailable", "HTTP 503", True),
        ("HTTP Error 600: ", "HTTP 600", False),
        ("HTTP Error 404: File not found", "HTTP 404", False),
        ("HTTP Error 308: Permanent Redirect", "HTTP 308", False),
        ("HTTP Error ²: no number", "HTTP ²", False),
        ("<urlopen error timed out>", "timeout", True),
        ("<urlopen error [Errno 110] Connection timed out>", "timeout", True),
        ("<urlopen error [Errno 111] Connection refused>", "connection error", True),
        ("[Errno 104] Connection reset by peer", "connection error", True),
        (
            "Remote end closed connection without response",
            "connection error",
            True,
        ),
        ("IncompleteRead(10 bytes read, 90 more expected)", "connection error", True),
        (
            "<urlopen error [Errno -3] Temporary failure in name resolution>",
            "connection error",
            True,
        ),
        (
            "<urlopen error [Errno -2] Name or service not known>",
            "unknown host",
            False,
        ),
        ("Use of image disallowed by X-Robots-Tag directive", "opted out", False),
        ("unknown url type: 'x'", "other error", False),
        ("", "other error", False),
    ],
)
def test_failures_that_may_pass_are_recognized(message, reason, may_pass):
    failure = download_failure(FAILED, message)
    assert (failure.reason, failure.may_pass) == (reason, may_pass)


def test_an_image_that_cannot_be_decoded_is_not_tried_again():
    failure = download_failure("failed_to_resize", "Image decoding timed out")
    assert (failure.reason, failure.may_pass) == ("not decoded", False)


def test_missing_images_are_listed_in_order(tmp_path):
    write_results(
        tmp_path,
        0,
        [
            ("a", "A cat", "success", None),
            ("b", "A dog", FAILED, "HTTP Error 429: Too Many Requests"),
            ("c", "A bird", FAILED, "HTTP Error 404: Not Found"),
        ],
    )
    write_results(
        tmp_path,
        1,
        [
            ("d", "A fish", FAILED, "<urlopen error timed out>"),
            ("e", "A cow", FAILED, "Use of image disallowed by X-Robots-Tag directive"),
            ("f", "A horse", "failed_to_resize", "Image decoding error"),
            ("g", None, "success", None),
        ],
    )
    pairs = [(name, "") for name in "zfgedcb"] + [("a", "A cat"), ("a", "A kitten")]
    assert list_missing(pairs, tmp_path) == (
        [("z", ""), ("d", ""), ("b", ""), ("a", "A kitten")],
        {"not tried": 2, "timeout": 1, "HTTP 429": 1},
        {
            "downloaded": 2,
            "not decoded": 1,
            "opted out": 1,
            "HTTP 404": 1,
        },
    )


def test_the_attempts_of_several_folders_are_joined(tmp_path):
    timeout, gone = "The read operation timed out", "HTTP Error 410: Gone"
    first = [("a", "x", FAILED, timeout), ("b", "x", FAILED, timeout)]
    first += [("c", "x", FAILED, gone), ("d", "x", FAILED, timeout)]
    second = [("a", "x", "success", None), ("b", "x", FAILED, gone)]
    second += [("c", "x", FAILED, timeout), ("d", "x", FAILED, timeout)]
    write_results(tmp_path / "1", 0, first)
    write_results(tmp_path / "2", 0, second)
    pairs = [(name, "x") for name in "abcd"]
    expected = [("d", "x")], {"timeout": 1}, {"downloaded": 1, "HTTP 410": 2}
    assert list_missing(pairs, tmp_path / "1", tmp_path / "2") == expected
    assert list_missing(pairs, tmp_path / "2", tmp_path / "1") == expected


def test_shards_without_captions_match_any_caption(tmp_path):
    table = pyarrow.table({"url": [SITE + "a"], "status": ["success"]})
    pq.write_table(table, tmp_path / "00000.parquet")
    names, _, skipped = list_missing([("a", "A cat"), ("b", "A cat")], tmp_path)
    assert names == [("b", "A cat")] and skipped == {"downloaded": 1}


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_shards_of_img2dataset_are_read(form):
    results = read_download_results([IMG2DATASET / form])
    site = "http://127.0.0.1:8765/"
    pairs = [
        SourcePair(site + "a.png", 'A "red" cat, seen'),
        SourcePair(site + "b%20c.png", "Käse auf 木"),
        SourcePair(site + "gone.png", "lost"),
        SourcePair(site + "d.png", ""),
        SourcePair(site + "new.png", "new"),
    ]
    missing, skipped = collections.Counter(), collections.Counter()
    assert list(missing_pairs(pairs, results, missing, skipped)) == pairs[-1:]
    assert skipped == {"downloaded": 3, "HTTP 404": 1}
    assert results.incomplete == []


def test_failures_that_img2dataset_recorded_are_recognized():
    """The README in the folder of the shards describes the 21 addresses."""
    results = read_download_results([IMG2DATASET / "failures"])
    groups = {
        "downloaded": ["a", "b", "google", "none", "i2d", "after"],
        "HTTP 429": ["429"],
        "HTTP 500": ["500"],
        "HTTP 503": ["503"],
        "timeout": ["stall"],
        "connection error": ["reset", "close", "short"],
        "HTTP 403": ["403"],
        "HTTP 404": ["404"],
        "HTTP 410": ["410"],
        "opted out": ["noai", "two"],
        "not decoded": ["text"],
    }
    addresses = {
        f"http://127.0.0.1:8791/{name}.png": (name, reason)
        for reason, names in groups.items()
        for name in names
    }
    addresses["http://127.0.0.1:9/refused.png"] = ("refused", "connection error")
    addresses["http://no-such-host.invalid/x.png"] = ("unknown", "unknown host")
    may_pass = {"HTTP 429", "HTTP 500", "HTTP 503", "timeout", "connection error"}
    assert len(addresses) == 21
    for address, (name, reason) in addresses.items():
        caption = f"a picture of the {name} bird"
        is_downloaded = results.is_downloaded(address, caption)
        assert is_downloaded is (reason == "downloaded"), address
        if not is_downloaded:
            failure = results.failure(address)
            assert (failure.reason, failure.may_pass) == (reason, reason in may_pass)


def test_shards_that_were_not_finished_count_as_not_tried(tmp_path):
    folder = tmp_path / "shards"
    write_results(folder, 0, [("a", "x", "success", None)])
    write_results(folder, 1, [("b", "x", "success", None)])
    write_results(folder, 2, [("c", "x", "success", None)])
    write_results(folder, 3, [("d", "x", "success", None)])
    # img2dataset writes the end of a table when its shard is complete.
    content = (folder / "00001.parquet").read_bytes()
    (folder / "00001.parquet").write_bytes(content[:-20])
    (folder / "00002.parquet").unlink()
    (folder / "00003.parquet").write_bytes(b"")
    pairs = [(name, "x") for name in "abcd"]
    names, missing, _ = list_missing(pairs, folder)
    assert [name for name, _ in names] == ["b", "c", "d"]
    assert missing == {"not tried": 3}
    assert sorted(read_download_results([folder]).incomplete) == [
        str(folder / "00001.parquet"),
        str(folder / "00002.tar"),
        str(folder / "00003.parquet"),
    ]


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="downloaded"):
        read_download_results([tmp_path / "nowhere"])
    table = pyarrow.table({"url": [SITE + "a"], "caption": ["x"]})
    pq.write_table(table, tmp_path / "urls.parquet")
    with pytest.raises(InputError, match="status"):
        read_download_results([tmp_path])
