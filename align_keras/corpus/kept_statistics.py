"""Histograms of what a corpus kept, in one pass and little memory."""

import collections

from align_keras.corpus.stages.kept_pictures import kept_texts
from align_keras.corpus.text_normalization import unigrams
from align_keras.corpus.thresholds import primary_language

# Upper ends of the bins; the last is open.
_SIDES = (200, 300, 400, 600, 800, 1200, 2000)
_ASPECTS = (1.1, 1.34, 1.51, 1.78, 2.0, 2.5)
_CAPTIONS = (1, 2, 3, 5, 10, 100)


def kept_statistics(groups, stored, dropped):
    """Counts what stays by the properties of pictures and captions.

    Args:
        groups: list of str, tables of pictures with their captions.
        stored: list of str, tables of stored pictures, in the same order.
        dropped: list of `Dropped`, or of such as lists.

    Returns:
        dict from a title to a list of (name, count), in the order of the names, the
        most frequent first where these are words.
    """
    words, rules, languages = (collections.Counter() for _ in range(3))
    sides, aspects, captions = (collections.Counter() for _ in range(3))
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
        "Captions of a picture": _named(captions, _CAPTIONS),
        "Where captions stood": rules.most_common(),
        "Languages": languages.most_common(15),
    }


def _bin(value, ends):
    return next((end for end in ends if value <= end), None)


def _named(counts, ends):
    rows = [(f"to {end:g}", counts[end]) for end in ends]
    rows.append((f"over {ends[-1]:g}", counts[None]))
    return [row for row in rows if row[1]]
