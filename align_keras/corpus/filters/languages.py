"""Detection of the languages of captions."""

import functools
from collections.abc import Callable, Sequence

from align_keras.utils.errors import needs

# Values of `detect_language`, which select the captions whose language is detected.
DETECTION = ("never", "undeclared", "always")


def detect_languages(
    captions: Sequence[str], languages: Sequence[str], detection: str
) -> list[str]:
    """Returns the language of each caption.

    Args:
        captions: normalized.
        languages: the languages that pages declare, such as `"en-us"`. "" if a page
            doesn't declare a language.
        detection: `"never"` returns the declared languages, `"undeclared"` detects the
            language of captions without a declared language, `"always"` detects the
            language of all captions.

    Returns:
        A list of str. Detected languages are codes of ISO 639, or "" if the caption has
        no letters.

    Raises:
        InputError: If py3langid isn't installed and a language must be detected.

    Example:

    >>> detect_languages(["A cat on a mat", "Eine Katze"], ["en", "de"], "never")
    ['en', 'de']
    """
    if detection == "never":
        return list(languages)
    detect = _detector()
    return [
        language if language and detection == "undeclared" else detect(caption)
        for caption, language in zip(captions, languages, strict=True)
    ]


def detector_version() -> str:
    """Returns the name and version of the detector.

    Cache keys contain it, because detected languages may differ between versions.
    """
    import importlib.metadata

    _detector()
    return f"py3langid {importlib.metadata.version('py3langid')}"


@functools.cache
def _detector() -> Callable[[str], str]:
    """Returns a function from a caption to its language."""
    with needs("language", "Language detection needs py3langid"):
        import py3langid

    def detect(caption: str) -> str:
        if not any(letter.isalpha() for letter in caption):
            return ""
        return py3langid.classify(caption)[0]

    return detect
