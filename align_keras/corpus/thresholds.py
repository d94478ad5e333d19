"""The numbers by which the corpus's filters decide."""

import dataclasses
import numbers

from align_keras.utils.errors import InputError
from align_keras.utils.image_limits import MAX_PIXELS

_UNDETERMINED = "und"


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Every filter's threshold; the defaults are the paper's where it names one.

    Args:
        min_shorter_side: int ≥ 0 in pixels; a picture's shorter side must be larger
            (200 is dropped, 201 kept).
        max_aspect: float > 1; the longer side over the shorter must be smaller
            (exactly 3.0 is dropped).
        max_pixels: int ≥ 1; a picture may have as many. The paper has no such limit:
            it keeps decompression bombs out.
        max_texts_per_image: int ≥ 1; a picture may have as many distinct texts.
        max_images_per_text: int ≥ 1; as many distinct pictures may share a text.
        min_unigrams: int ≥ 1; a text may have as few.
        max_unigrams: int ≥ `min_unigrams`; a text may have as many.
        frequent_ngrams: int ≥ 0; a text with a unigram or a bigram outside this many
            most frequent ones of the raw input is dropped.
        languages: tuple of str such as `("en", "de")`, of which the primary subtag
            counts ("en-GB" is "en"); `""` and `"und"` (ISO 639's undetermined, which
            a YAML file can name) stand for unknown languages. Empty keeps all.
        drop_personal_data: bool, drop texts with what
            `personal_data.find_personal_data` finds.

    Raises:
        InputError: if a value is outside its range.

    References:
        Jia et al. 2021, section 3.

    Example:

    >>> Thresholds(min_unigrams=1, max_unigrams=64).max_images_per_text
    10
    """

    min_shorter_side: int = 200
    max_aspect: float = 3.0
    max_pixels: int = MAX_PIXELS
    max_texts_per_image: int = 1000
    max_images_per_text: int = 10
    min_unigrams: int = 3
    max_unigrams: int = 20
    frequent_ngrams: int = 100_000_000
    languages: tuple = ()
    drop_personal_data: bool = True

    def __post_init__(self):
        for name, least in (
            ("min_shorter_side", 0),
            ("max_pixels", 1),
            ("max_texts_per_image", 1),
            ("max_images_per_text", 1),
            ("min_unigrams", 1),
            ("max_unigrams", self.min_unigrams),
            ("frequent_ngrams", 0),
        ):
            _check_integer(name, getattr(self, name), least)
        aspect = self.max_aspect
        if not _is_number(aspect, numbers.Real) or not aspect > 1:
            raise InputError(
                f"max_aspect must be a number above 1, received {aspect!r}; a square "
                "has the aspect 1, the paper's limit is 3.0."
            )
        if not isinstance(self.drop_personal_data, bool):
            raise InputError(
                "drop_personal_data must be true or false, received "
                f"{self.drop_personal_data!r}."
            )
        object.__setattr__(self, "languages", _languages(self.languages))


def primary_language(language):
    """Returns the primary subtag of a language, in lower case; "" if it is unknown.

    Example:

    >>> primary_language("pt-BR"), primary_language("zh_Hans"), primary_language("und")
    ('pt', 'zh', '')
    """
    primary = language.strip().replace("_", "-").split("-", 1)[0].lower()
    return "" if primary == _UNDETERMINED else primary


def _is_number(value, kind):
    return isinstance(value, kind) and not isinstance(value, bool)


def _check_integer(name, value, least):
    if not _is_number(value, numbers.Integral) or value < least:
        raise InputError(
            f"{name} must be an integer of at least {least}, received {value!r}; "
            f"the default is {Thresholds.__dataclass_fields__[name].default:,}."
        )


def _languages(languages):
    valid = isinstance(languages, (tuple, list)) and all(
        isinstance(own, str) for own in languages
    )
    if not valid:
        raise InputError(
            "languages must be a list of codes such as ('en', 'de'), received "
            f"{languages!r}; leave it empty to keep all."
        )
    return tuple(sorted({primary_language(own) for own in languages}))
