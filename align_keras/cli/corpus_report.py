"""What a corpus kept and dropped: lines for the terminal, and report.html."""

import pathlib

import align_keras.corpus
from align_keras.cli.corpus_dedup import counts_of_dropped
from align_keras.config import as_dict
from align_keras.corpus.kept_statistics import kept_statistics
from align_keras.corpus.picture import PictureError, normalise_picture
from align_keras.corpus.sources import is_remote, read_location
from align_keras.corpus.stages.kept_pictures import kept_pictures
from align_keras.reports.page_template import page_template
from align_keras.utils.files import atomic_write

# How the filters' reasons read in the funnel.
_RULES = {
    "shorter side": "shorter side of at most {min_shorter_side} pixels",
    "aspect": "longer side at least {max_aspect:g} times the shorter",
    "pixels": "more than {max_pixels:,} pixels",
    "texts per image": "picture with more than {max_texts_per_image:,} alt-texts",
    "language": "another language than {languages}",
    "personal data": "personal data",
    "images per text": "text of more than {max_images_per_text:,} pictures",
    "rare n-gram": "rare word or pair of words (beyond {frequent_ngrams:,})",
    "few unigrams": "fewer than {min_unigrams} words",
    "many unigrams": "more than {max_unigrams} words",
}
_KEPT_SAMPLES = 20


def funnel(made, config=None):
    """Returns the way from raw pairs to shards.

    Args:
        made: dict, name of a stage → `Tables`, as far as they ran.
        config: `FilterConfig`, to name its thresholds; the defaults otherwise.

    Returns:
        list of (what, count, dropped): str, int and bool, whether these left.
    """
    rows = []
    raw = made["extract"].facts["counts"]
    found = raw["kept"] + sum(raw["dropped"].values())
    rows.append(("pairs found", found, False))
    cleaned = sorted(raw.get("cleaned", {}).items())
    rows += [(f"captions cleaned of {what}", count, False) for what, count in cleaned]
    rows += [(what, count, True) for what, count in sorted(raw["dropped"].items())]
    if "filter" in made:
        counts = made["filter"].facts["counts"]
        for reason, text in _RULES.items():
            what = text.format(**as_dict(config)) if config else reason
            rows.append((what, counts[reason], True))
        rows.append(("pairs that pass the filters", counts["kept"], False))
    if "pictures" in made:
        facts = made["pictures"].facts
        rows.append(("pairs whose picture isn't here", facts["remote"], True))
        rows.append(("pictures, with all their captions", facts["pictures"], False))
        rows += [(what, n, True) for what, n in sorted(facts["faults"].items())]
        dropped = counts_of_dropped(made["dedup"].facts)
        rows += [(what, count, True) for what, count in sorted(dropped.items())]
    if "shard" in made:
        rows.append(("pictures in the shards", made["shard"].facts["pictures"], False))
    return [row for row in rows if row[1] or not row[2]]


def write_report(build, made):
    """Writes `OUT/report.html`.

    Args:
        build: `CorpusBuild`.
        made: as `funnel`, all stages.
    """
    pictures, dropped = made["pictures"], made["dedup"].facts["dropped"]
    groups, stored = pictures.paths("group"), pictures.paths()
    filtered = made["filter"].facts
    rows = funnel(made, build.config.filter)
    most = max(count for _, count, _ in rows) or 1
    page = page_template(
        "corpus_report.html.j2", pathlib.Path(align_keras.corpus.__file__).parent
    ).render(
        sources=build.config.sources,
        rows=[(*row, row[1] / most) for row in rows],
        chosen=filtered["chosen"],
        histograms=_bars(kept_statistics(groups, stored, dropped)),
        shared=_shared(filtered["shared_texts"]),
        vocabulary=made["vocab"].facts,
        kept=_kept_samples(groups, stored, dropped),
        samples=_samples(filtered["samples"], build.config.filter),
        near=_near(dropped, groups),
    )
    with atomic_write(build.out / "report.html") as file:
        file.write(page)


def _bars(histograms):
    return {
        title: [(name, count, count / max(n for _, n in rows)) for name, count in rows]
        for title, rows in histograms.items()
        if rows
    }


def _shared(texts):
    rows = sorted(texts.values(), key=lambda own: (-own[1], own[0]))
    return [(text, count) for text, count in rows[:30]]


def _kept_samples(groups, stored, dropped):
    """The pictures whose names, which are digests, come first in each piece."""
    found = []
    for picture in kept_pictures(groups[:1], stored[:1], dropped):
        found.append((picture["image"], picture["captions"][0]))
        if len(found) == _KEPT_SAMPLES:
            break
    return found


def _samples(samples, config):
    """Groups of dropped pairs: (rule, list of (picture or None, caption))."""
    values = as_dict(config)
    groups = []
    for reason, text in _RULES.items():
        rows = list(samples[reason].values())
        if rows:
            shown = [(_picture(row["image"]), row["caption"]) for row in rows[:10]]
            groups.append((text.format(**values), shown))
    return groups


def _near(dropped, groups):
    """A few near duplicates beside what they are near to: pairs of pictures."""
    from align_keras.corpus.parquet_pairs import read_rows

    wanted = [own for own in dropped if not own[3]][:8]
    keys = {key for own in wanted for key in (own[0], own[2])}
    places = {}
    for group in groups:
        for row in read_rows(group, ["image_key", "image"]):
            if row["image_key"] in keys:
                places[row["image_key"]] = row["image"]
    return [
        (own[1], _picture(places.get(own[0])), _picture(places.get(own[2])))
        for own in wanted
    ]


def _picture(location):
    if location is None or is_remote(location):
        return None
    try:
        return normalise_picture(read_location(location), shorter_side=160)[0]
    except PictureError:
        return None
