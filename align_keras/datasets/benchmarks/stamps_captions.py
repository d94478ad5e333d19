"""The stamps' captions in the four languages of the paper's Multi30k."""

from align_keras.datasets.benchmarks.multilingual_captions import MultilingualCaptions
from align_keras.datasets.benchmarks.stored_pictures import read_stored_pictures
from align_keras.utils.errors import InputError


def stamps_captions_by_language(data_dir=None):
    """Reads the stamps that have captions in English, German, French and Czech.

    Args:
        data_dir: str or path where prepared corpora lie; TFDS's own default
            otherwise.

    Returns:
        `MultilingualCaptions` with one caption a picture and language, pictures in
        the stored order of the English configuration.

    Raises:
        InputError: as `build_corpus`, and if no stamp has all four.

    Example:

    ```python
    data = stamps_captions_by_language()
    {language: own[0] for language, own in data.captions.items()}
    # {'en': ['A cat.'], 'de': ['Eine Katze.'], 'fr': ['Un chat.'], 'cs': ['Kočka.']}
    ```
    """
    # Here, for the package of the builders imports much.
    from align_keras.datasets.build import build_corpus
    from align_keras.datasets.stamps import LANGUAGES

    by_language = {}
    for language in LANGUAGES:
        builder = build_corpus(f"stamps/{language}", data_dir=data_dir)
        by_language[language] = {
            picture.id: picture for picture in read_stored_pictures(builder, "test")
        }
    english, *others = by_language.values()
    ids = [name for name in english if all(name in other for other in others)]
    if not ids:
        raise InputError(
            f"no stamp has captions in all of {', '.join(LANGUAGES)}; install "
            "tuxpaint-stamps-default as a whole."
        )
    return MultilingualCaptions(
        images=[english[name].image for name in ids],
        captions={
            language: [list(pictures[name].captions) for name in ids]
            for language, pictures in by_language.items()
        },
        image_ids=ids,
        columns={"category": [english[name].category for name in ids]},
    )
