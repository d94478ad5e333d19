"""Compares detected languages with declared ones, and measures the speed.

usage: python tools/benchmarks/bench_languages.py LANGUAGE=SOURCE ...

For each source, such as en=html:/usr/share/gimp/3.0/help/en, it prints the number of
distinct alt-texts of 3 to 20 words, the fractions detected as LANGUAGE and as English,
and the agreement with the `lang` attribute of the pages that have one.
"""

import argparse
import dataclasses
import time

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.filters.filter_rules import primary_language
from align_keras.corpus.filters.languages import detect_languages, detector_version
from align_keras.corpus.sources import open_source, read_part


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Detected languages of the alt-texts of a source.

    Shares are fractions, or None without texts.
    """

    texts: int
    detected_share: float | None
    english_share: float | None
    declared_texts: int
    declared_share: float | None
    seconds: float


def alt_texts(source: str) -> dict[str, str]:
    """Returns a dict of distinct alt-text → declared language, or "" if unknown."""
    languages = {}
    for part in open_source(source).parts():
        for pair in read_part(part, DropCounter()):
            if pair.rule == "alt" and 3 <= len(pair.caption.split()) <= 20:
                languages[pair.caption] = primary_language(pair.language)
    return languages


def measure(language: str, languages: dict[str, str]) -> Agreement:
    """Compares detected languages of texts with the expected and declared ones.

    Args:
        language: Expected language of all texts.
        languages: Dict of text → declared language, or "" if unknown.
    """
    texts = sorted(languages)
    detect_languages(["a text that loads the model"], [""], "always")
    start = time.process_time()
    detected = detect_languages(texts, [""] * len(texts), "always")
    seconds = time.process_time() - start
    declared = [
        languages[text] == detected_language
        for text, detected_language in zip(texts, detected, strict=True)
        if languages[text]
    ]
    return Agreement(
        texts=len(texts),
        detected_share=_share([name == language for name in detected]),
        english_share=_share([name == "en" for name in detected]),
        declared_texts=len(declared),
        declared_share=_share(declared),
        seconds=seconds,
    )


def _share(matches):
    return sum(matches) / len(matches) if matches else None


def _percent(share):
    return "–" if share is None else f"{share:.1%}"


def main(arguments: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", metavar="LANGUAGE=SOURCE")
    sources = parser.parse_args(arguments).sources
    print(detector_version())
    print("language  texts  as language  as English  declared  agree  texts/s")
    total, seconds = 0, 0.0
    for spec in sources:
        language, _, source = spec.partition("=")
        result = measure(language, alt_texts(source))
        total += result.texts
        seconds += result.seconds
        print(
            f"{language:<8}{result.texts:>7}{_percent(result.detected_share):>13}"
            f"{_percent(result.english_share):>12}{result.declared_texts:>10}"
            f"{_percent(result.declared_share):>7}"
            f"{result.texts / max(result.seconds, 1e-9):>9,.0f}"
        )
    print(f"{total:,} texts, {total / max(seconds, 1e-9):,.0f} per second")


if __name__ == "__main__":
    main()
