"""Report on the kept and dropped pairs of a corpus: a funnel of counts, report.html."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from align_keras.config import as_dict
from align_keras.corpus.filters.filter_rules import primary_language
from align_keras.corpus.filters.texts import unigrams
from align_keras.corpus.image import ImageError, normalize_image
from align_keras.corpus.image_tables import kept_images, kept_texts
from align_keras.corpus.parquet_tables import read_rows
from align_keras.corpus.sources import is_remote, read_location
from align_keras.reports.page_template import write_page

# Texts of the filters' reasons in the funnel.
_RULES = {
    "unknown size": "resized by the downloader, original size unknown (fetch with "
    "img2dataset --resize_mode no, or set filter.unknown_sizes=keep)",
    "shorter side": "shorter side of at most {min_shorter_side} pixels",
    "aspect": "longer side at least {max_aspect:g} times the shorter",
    "pixels": "more than {max_pixels:,} pixels",
    "texts per image": "image with more than {max_texts_per_image:,} alt-texts",
    "language": "another language than {languages}",
    "personal data": "personal data",
    "images per text": "text of more than {max_images_per_text:,} images",
    "rare n-gram": "rare word or pair of words (beyond {frequent_ngrams:,})",
    "few unigrams": "fewer than {min_unigrams} words",
    "many unigrams": "more than {max_unigrams} words",
}
_KEPT_SAMPLES = 20
# Upper ends of the histograms' bins; the last is open.
_SIDES = (200, 300, 400, 600, 800, 1200, 2000)
_ASPECTS = (1.1, 1.34, 1.51, 1.78, 2.0, 2.5)
_CAPTIONS = (1, 2, 3, 5, 10, 100)


def corpus_funnel(
    corpus: Any, *, thresholds: bool = False
) -> list[tuple[str, int, bool]]:
    """Returns a corpus's way from raw pairs to shards: (what, count, whether these
    left), the filters' rules with their `thresholds` if asked for.
    """
    tables, rows = corpus.tables, []
    raw = tables["extract"].facts["counts"]
    pair_count = raw["kept"] + sum(raw["dropped"].values())
    rows.append(("pairs found", pair_count, False))
    cleaned = sorted(raw.get("cleaned", {}).items())
    rows += [(f"captions cleaned of {label}", count, False) for label, count in cleaned]
    rows += [(label, count, True) for label, count in sorted(raw["dropped"].items())]
    rows += [
        (label, count, False) for label, count in sorted(raw.get("notes", {}).items())
    ]
    if "filter" in tables:
        counts = tables["filter"].facts["counts"]
        values = as_dict(corpus.config.filter)
        for reason, text in _RULES.items():
            label = text.format(**values) if thresholds else reason
            rows.append((label, counts[reason], True))
        rows.append(("pairs that pass the filters", counts["kept"], False))
    if "pictures" in tables:
        facts = tables["pictures"].facts
        rows.append(("pairs whose image isn't here", facts["remote"], True))
        rows.append(("images, with all their captions", facts["pictures"], False))
        rows += [(label, n, True) for label, n in sorted(facts["faults"].items())]
        dropped = tables["dedup"].facts["dropped"]
        copies = collections.Counter(reason for _, reason, *_ in dropped)
        rows += [(label, count, True) for label, count in sorted(copies.items())]
    if "shard" in tables:
        rows.append(("images in the shards", tables["shard"].facts["pictures"], False))
    return [row for row in rows if row[1] or not row[2]]


def write_corpus_report(corpus: Any) -> None:
    """Writes `OUT/report.html` of a `Corpus` with the tables of all stages."""
    tables = corpus.tables
    dropped = tables["dedup"].facts["dropped"]
    groups, stored = tables["pictures"].paths("group"), tables["pictures"].paths()
    filtered = tables["filter"].facts
    rows = corpus_funnel(corpus, thresholds=True)
    most = max(count for _, count, _ in rows) or 1
    write_page(
        corpus.out / "report.html",
        "corpus_report.html.j2",
        sources=corpus.config.sources,
        rows=[(*row, row[1] / most) for row in rows],
        chosen=filtered["chosen"],
        histograms={
            title: [(name, n, n / max(count for _, count in bins)) for name, n in bins]
            for title, bins in kept_statistics(groups, stored, dropped).items()
            if bins
        },
        shared=sorted(
            filtered["shared_texts"].values(), key=lambda text: (-text[1], text[0])
        )[:30],
        vocabulary=tables["vocab"].facts,
        kept=_kept_samples(groups, stored, dropped),
        samples=_samples(filtered["samples"], corpus.config.filter),
        near=_near(dropped, groups),
    )


def kept_statistics(
    groups: list[str], stored: list[str], dropped: Sequence
) -> dict[str, list[tuple[str, int]]]:
    """Counts the images and captions that stay in the corpus by their properties.

    Returns:
        (name, number) of each bin, by the title of the histogram.
    """
    words: collections.Counter[int] = collections.Counter()
    rules: collections.Counter[str] = collections.Counter()
    languages: collections.Counter[str] = collections.Counter()
    # Numbers of images by the upper end of a histogram's bin.
    sides: collections.Counter[float | None] = collections.Counter()
    aspects: collections.Counter[float | None] = collections.Counter()
    captions: collections.Counter[float | None] = collections.Counter()
    for row in kept_texts(groups, stored, dropped):
        low, high = sorted((row["width"], row["height"]))
        sides[_bin(low, _SIDES)] += 1
        aspects[_bin(high / max(low, 1), _ASPECTS)] += 1
        captions[_bin(len(row["captions"]), _CAPTIONS)] += 1
        for text in row["captions"]:
            words[len(unigrams(text["caption"]))] += 1
            rules[text["rule"]] += 1
            languages[primary_language(text["language"]) or "unknown"] += 1
    return {
        "Words of a caption": [(f"{n}", words[n]) for n in sorted(words)],
        "Shorter side, pixels": _named(sides, _SIDES),
        "Longer side by shorter": _named(aspects, _ASPECTS),
        "Captions of an image": _named(captions, _CAPTIONS),
        "Where captions stood": rules.most_common(),
        "Languages": languages.most_common(15),
    }


def _bin(value: float, ends: Sequence[float]) -> float | None:
    return next((end for end in ends if value <= end), None)


def _named(
    counts: Mapping[float | None, int], ends: Sequence[float]
) -> list[tuple[str, int]]:
    rows = [(f"to {end:g}", counts[end]) for end in ends]
    rows.append((f"over {ends[-1]:g}", counts[None]))
    return [row for row in rows if row[1]]


def _kept_samples(
    groups: list[str], stored: list[str], dropped: Sequence
) -> list[tuple[bytes, str]]:
    """The images whose names, which are digests, come first in each piece."""
    images = kept_images(groups[:1], stored[:1], dropped)
    return [
        (image["image"], image["captions"][0])
        for image, _ in zip(images, range(_KEPT_SAMPLES), strict=False)
    ]


def _samples(
    samples: dict[str, dict[str, Any]], config: Any
) -> list[tuple[str, list[tuple[Any, str]]]]:
    """Groups of dropped pairs: (rule, list of (image or None, caption))."""
    values = as_dict(config)
    groups = []
    for reason, text in _RULES.items():
        rows = list(samples[reason].values())
        if rows:
            examples = [(_image(row["image"]), row["caption"]) for row in rows[:10]]
            groups.append((text.format(**values), examples))
    return groups


def _near(dropped: Sequence, groups: list[str]) -> list[tuple[str, Any, Any]]:
    """A few near duplicates beside what they are near to: pairs of images."""
    wanted = [row for row in dropped if not row[3]][:8]
    keys = {key for row in wanted for key in (row[0], row[2])}
    locations = {}
    for group in groups:
        for row in read_rows(group, ["image_key", "image"]):
            if row["image_key"] in keys:
                locations[row["image_key"]] = row["image"]
    return [
        (reason, _image(locations.get(key)), _image(locations.get(near_to)))
        for key, reason, near_to, _ in wanted
    ]


def _image(location: str | None) -> Any:
    if location is None or is_remote(location):
        return None
    try:
        return normalize_image(read_location(location), shorter_side=160)[0]
    except ImageError:
        return None
