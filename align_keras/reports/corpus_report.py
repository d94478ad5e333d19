"""Report on the kept and dropped pairs of a corpus.

The report has a funnel of counts, samples, histograms and the vocabulary.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from align_keras.corpus.filters.filter_rules import primary_language
from align_keras.corpus.filters.texts import unigrams
from align_keras.corpus.image_tables import kept_images, kept_texts
from align_keras.corpus.parquet_tables import read_rows
from align_keras.corpus.sources.location import is_remote, read_location
from align_keras.reports.page_template import write_page
from align_keras.utils.errors import ImageError
from align_keras.utils.pillow_images import decode_rgb

# Descriptions of the drop reasons of filters, with placeholders for their thresholds.
_RULE_DESCRIPTIONS = {
    "unknown size": "resized by the downloader, original size unknown (download with "
    "img2dataset --resize_mode no, or set filter.unknown_sizes=keep)",
    "shorter side": "shorter side of at most {min_shorter_side} pixels",
    "aspect": "longer side at least {max_aspect:g} times the shorter side",
    "pixels": "more than {max_pixels:,} pixels",
    "texts per image": "image with more than {max_texts_per_image:,} alt-texts",
    "language": "language other than {languages}",
    "personal data": "personal data",
    "images per text": "text of more than {max_images_per_text:,} images",
    "rare n-gram": "word or pair of words that is not among the {frequent_ngrams:,} "
    "most frequent",
    "few unigrams": "fewer than {min_unigrams} words",
    "many unigrams": "more than {max_unigrams} words",
}
_KEPT_SAMPLES = 20
# Upper bounds of the bins of histograms. Another bin counts all larger values.
_SIDE_BOUNDS = (200, 300, 400, 600, 800, 1200, 2000)
_ASPECT_BOUNDS = (1.1, 1.34, 1.51, 1.78, 2.0, 2.5)
_CAPTION_BOUNDS = (1, 2, 3, 5, 10, 100)


def corpus_funnel(
    corpus: Any, *, thresholds: bool = False
) -> list[tuple[str, int, bool]]:
    """Returns the numbers of pairs and images after each stage of a corpus.

    Args:
        corpus: `Corpus` with the finished stages.
        thresholds: describe each filter rule with its threshold instead of its
            name.

    Returns:
        list of (label, count, is_dropped). `is_dropped` is True if the row counts pairs
        or images that a rule dropped.
    """
    stages = corpus.stages
    rows = []
    extracted = stages["extract"].facts["counts"]
    pair_count = extracted["kept"] + sum(extracted["dropped"].values())
    rows.append(("pairs found", pair_count, False))
    for label, count in sorted(extracted.get("cleaned", {}).items()):
        rows.append((f"captions cleaned of {label}", count, False))
    for label, count in sorted(extracted["dropped"].items()):
        rows.append((label, count, True))
    for label, count in sorted(extracted.get("notes", {}).items()):
        rows.append((label, count, False))
    if "filter" in stages:
        counts = stages["filter"].facts["counts"]
        values = corpus.config.filter.model_dump(mode="json")
        for reason, description in _RULE_DESCRIPTIONS.items():
            label = description.format(**values) if thresholds else reason
            rows.append((label, counts[reason], True))
        rows.append(("pairs that pass the filters", counts["kept"], False))
    if "images" in stages:
        facts = stages["images"].facts
        rows.append(("pairs whose image is not downloaded", facts["remote"], True))
        rows.append(("images, with all their captions", facts["images"], False))
        for label, count in sorted(facts["faults"].items()):
            rows.append((label, count, True))
        dropped = stages["dedup"].facts["dropped"]
        duplicates = collections.Counter(reason for _, reason, *_ in dropped)
        for label, count in sorted(duplicates.items()):
            rows.append((label, count, True))
    if "shard" in stages:
        rows.append(("images in the shards", stages["shard"].facts["images"], False))
    return [row for row in rows if row[1] or not row[2]]


def write_corpus_report(corpus: Any) -> None:
    """Writes `report.html` of a `Corpus` for which all stages have finished."""
    stages = corpus.stages
    dropped = stages["dedup"].facts["dropped"]
    groups = stages["images"].tables("group")
    stored = stages["images"].tables()
    filter_facts = stages["filter"].facts
    rows = corpus_funnel(corpus, thresholds=True)
    max_count = max(count for _, count, _ in rows) or 1
    write_page(
        corpus.out / "report.html",
        "corpus_report.html.j2",
        sources=corpus.config.sources,
        rows=[
            (label, count, is_dropped, count / max_count)
            for label, count, is_dropped in rows
        ],
        chosen=filter_facts["chosen"],
        histograms={
            title: [(name, n, n / max(count for _, count in bins)) for name, n in bins]
            for title, bins in kept_statistics(groups, stored, dropped).items()
            if bins
        },
        shared=sorted(
            filter_facts["shared_texts"].values(),
            key=lambda text: (-text[1], text[0]),
        )[:30],
        vocabulary=stages["vocab"].facts,
        kept_samples=_kept_samples(groups, stored, dropped),
        dropped_samples=_dropped_samples(filter_facts["samples"], corpus.config.filter),
        duplicates=_near_duplicates(dropped, groups),
    )


def kept_statistics(
    groups: list[str], stored: list[str], dropped: Sequence
) -> dict[str, list[tuple[str, int]]]:
    """Counts the images and captions in the corpus by their properties.

    Args:
        groups: paths of the tables of images.
        stored: paths of the stored images.
        dropped: dropped duplicates.

    Returns:
        dict from titles of histograms to lists of (name of a bin, count).
    """
    words: collections.Counter[int] = collections.Counter()
    rules: collections.Counter[str] = collections.Counter()
    languages: collections.Counter[str] = collections.Counter()
    # Keys are the upper bounds of bins, and None for the bin of larger values.
    sides: collections.Counter[float | None] = collections.Counter()
    aspects: collections.Counter[float | None] = collections.Counter()
    captions: collections.Counter[float | None] = collections.Counter()
    for row in kept_texts(groups, stored, dropped):
        shorter, longer = sorted((row["width"], row["height"]))
        sides[_upper_bound(shorter, _SIDE_BOUNDS)] += 1
        aspects[_upper_bound(longer / max(shorter, 1), _ASPECT_BOUNDS)] += 1
        captions[_upper_bound(len(row["captions"]), _CAPTION_BOUNDS)] += 1
        for text in row["captions"]:
            words[len(unigrams(text["caption"]))] += 1
            rules[text["rule"]] += 1
            languages[primary_language(text["language"]) or "unknown"] += 1
    return {
        "Words per caption": [(f"{n}", words[n]) for n in sorted(words)],
        "Shorter side in pixels": _label_bins(sides, _SIDE_BOUNDS),
        "Ratio of longer to shorter side": _label_bins(aspects, _ASPECT_BOUNDS),
        "Captions per image": _label_bins(captions, _CAPTION_BOUNDS),
        "Sources of captions": rules.most_common(),
        "Languages": languages.most_common(15),
    }


def _upper_bound(value: float, bounds: Sequence[float]) -> float | None:
    """Returns the upper bound of the bin of a value, or None if it exceeds all."""
    return next((bound for bound in bounds if value <= bound), None)


def _label_bins(
    counts: Mapping[float | None, int], bounds: Sequence[float]
) -> list[tuple[str, int]]:
    """Returns (name, count) of each bin that is not empty."""
    rows = [(f"up to {bound:g}", counts[bound]) for bound in bounds]
    rows.append((f"over {bounds[-1]:g}", counts[None]))
    return [row for row in rows if row[1]]


def _kept_samples(
    groups: list[str], stored: list[str], dropped: Sequence
) -> list[tuple[bytes, str]]:
    """Returns the first kept images of the first piece with their first captions."""
    # The images are sorted by digests of their content, so the first are a random
    # sample.
    images = kept_images(groups[:1], stored[:1], dropped)
    return [
        (image["image"], image["captions"][0])
        for image, _ in zip(images, range(_KEPT_SAMPLES), strict=False)
    ]


def _dropped_samples(
    samples: dict[str, dict[str, Any]], config: Any
) -> list[tuple[str, list[tuple[Any, str]]]]:
    """Returns (description of the rule, list of (image or None, caption)) per rule."""
    values = config.model_dump(mode="json")
    groups = []
    for reason, description in _RULE_DESCRIPTIONS.items():
        rows = list(samples[reason].values())
        if rows:
            examples = [
                (_read_image(row["image"]), row["caption"]) for row in rows[:10]
            ]
            groups.append((description.format(**values), examples))
    return groups


def _near_duplicates(
    dropped: Sequence, groups: list[str]
) -> list[tuple[str, Any, Any]]:
    """Returns (reason, dropped image, kept image) of a few near duplicates."""
    near_duplicates = [row for row in dropped if not row[3]][:8]
    keys = {key for row in near_duplicates for key in (row[0], row[2])}
    locations = {}
    for group in groups:
        for row in read_rows(group, ["image_key", "image"]):
            if row["image_key"] in keys:
                locations[row["image_key"]] = row["image"]
    return [
        (reason, _read_image(locations.get(key)), _read_image(locations.get(kept_key)))
        for key, reason, kept_key, _ in near_duplicates
    ]


def _read_image(location: str | None) -> Any:
    """Returns a small copy of an image, or None if it is remote or unreadable."""
    if location is None or is_remote(location):
        return None
    try:
        return decode_rgb(read_location(location), shorter_side=160)[0]
    except ImageError:
        return None
