"""Languages of captions, detected where pages do not declare them."""

import functools
import importlib.metadata
from collections.abc import Callable, Sequence

from align_keras.utils.errors import needs

# Values of `detect_language`: the captions whose language is detected.
DETECTION = ("never", "undeclared", "always")


def detect_languages(
    captions: Sequence[str], languages: Sequence[str], detection: str
) -> list[str]:
    """Returns the language of each caption.

    Args:
        captions: str, normalized.
        languages: str, as pages declare them, such as `"en-us"`; "" if they don't.
        detection: `"never"` returns the declared languages, `"undeclared"` detects the
            language of captions without one, `"always"` that of all captions.

    Returns:
        A list of str, codes of ISO 639 for detected languages; "" for captions without
        letters.

    Raises:
        InputError: if py3langid isn't installed and a language must be detected.

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
    """Returns the name and version of the detector, of which its results depend."""
    _detector()
    return f"py3langid {importlib.metadata.version('py3langid')}"


@functools.cache
def _detector() -> Callable[[str], str]:
    with needs("language", "languages are detected by py3langid"):
        import py3langid

    def detect(caption: str) -> str:
        if not any(letter.isalpha() for letter in caption):
            return ""
        return py3langid.classify(caption)[0]

    return detect
