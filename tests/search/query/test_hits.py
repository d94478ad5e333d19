"""Cache of the part of a hit that does not depend on the query."""

from align_keras.search import Index
from align_keras.search.query import hits
from align_keras.search.query.hits import DetailsCache


def build(tmp_path, colors, caption):
    """Builds or updates an index of two images with captions from a table."""
    table = tmp_path / "t.csv"
    lines = ["image,caption,stars", f"photos/red.png,{caption},4"]
    lines += ["photos/red.png,a wall,5", "photos/green.png,grass,3"]
    table.write_text("\n".join(lines), encoding="utf-8")
    return Index.build(tmp_path / "index", [table], colors.GOLDEN)


def test_hits_of_later_queries_do_not_share_values(tmp_path, photos, colors):
    index = build(tmp_path, colors, "a brick")
    expected = [
        hit.as_json() for hit in build(tmp_path, colors, "a brick").query("red")
    ]
    assert len(expected[0]["rows"]) == 2
    for hit in index.query("red"):
        hit.captions.append("changed")
        hit.columns["stars"] = "changed"
        for row in hit.rows:
            row.clear()
    assert [hit.as_json() for hit in index.query("red")] == expected


def test_hits_have_the_changes_of_other_processes(tmp_path, photos, colors):
    index = build(tmp_path, colors, "a brick")
    assert index.query("red")[0].captions == ["a brick", "a wall"]
    build(tmp_path, colors, "a rose")
    assert index.query("red")[0].captions == ["a rose", "a wall"]
    Index.open(tmp_path / "index").remove([photos / "red.png"])
    assert [hit.captions for hit in index.query("red")] == [["grass"]]


def test_a_full_cache_still_returns_all_rows(tmp_path, photos, colors, monkeypatch):
    monkeypatch.setattr(hits, "CACHED_IMAGES", 1)
    store = build(tmp_path, colors, "a brick").store
    cache = DetailsCache(store)
    for rows in ([0, 1], [1], [0, 1, 7]):
        details = cache.of_rows(rows)
        assert sorted(details) == [row for row in rows if row != 7]
        assert all(
            store.image(entry.id)["row"] == row for row, entry in details.items()
        )
