"""Plain reference implementation of the corpus filters.

It uses sets and counters and handles a single text at a time.
"""

import collections
import re

from align_keras.corpus.filters.texts import find_personal_data

STEP = 0x9E3779B97F4A7C15
BITS = 2**64 - 1


def mix(value):
    value ^= value >> 27
    value = value * 0x3C79AC492BA7B653 & BITS
    value ^= value >> 33
    value = value * 0x1C69B3F74AC4AE35 & BITS
    return value ^ value >> 27


def hash_text(text):
    content = text.encode()
    state = mix((len(content) + 1) * STEP & BITS)
    for start in range(0, max(len(content), 1), 8):
        state = mix(state ^ int.from_bytes(content[start : start + 8], "little"))
    return state


def hash_ngram(ngram):
    first, *second = (hash_text(word) for word in ngram)
    return mix(mix(first * STEP & BITS) + second[0] & BITS) if second else first


def words_of(text):
    """Splits a text of letters, digits and the ideograph 猫 into words."""
    return re.findall(r"猫|[^\W猫]+", text.casefold())


def ngrams_of(text):
    words = words_of(text)
    return [(word,) for word in words] + list(zip(words, words[1:], strict=False))


def filter_reference(pairs, thresholds):
    """Returns the same result as `filter_pairs`.

    Captions must be normalized already, except for white space.
    """
    pairs = [pair._replace(caption=" ".join(pair.caption.split())) for pair in pairs]
    counts, images, texts = collections.Counter(), {}, {}
    for pair in pairs:
        text = pair.caption.casefold()
        counts.update(ngrams_of(text))
        images.setdefault(text, set()).add(pair.image_key)
        texts.setdefault(pair.image_key, set()).add(text)
    ranked = sorted(counts, key=lambda ngram: (-counts[ngram], hash_ngram(ngram)))
    frequent = set(ranked[: thresholds.frequent_ngrams])

    def reason_of(pair):
        text, (width, height) = pair.caption.casefold(), pair.image_size
        if width and height:
            if min(width, height) <= thresholds.min_shorter_side:
                return "shorter side"
            if max(width, height) / min(width, height) >= thresholds.max_aspect:
                return "aspect"
            if width * height > thresholds.max_pixels:
                return "pixels"
        if len(texts[pair.image_key]) > thresholds.max_texts_per_image:
            return "texts per image"
        language = pair.language.split("-")[0]
        if thresholds.languages and language not in thresholds.languages:
            return "language"
        if thresholds.drop_personal_data and find_personal_data(pair.caption):
            return "personal data"
        if len(images[text]) > thresholds.max_images_per_text:
            return "images per text"
        if not set(ngrams_of(text)) <= frequent:
            return "rare n-gram"
        if len(words_of(text)) < thresholds.min_unigrams:
            return "few unigrams"
        if len(words_of(text)) > thresholds.max_unigrams:
            return "many unigrams"
        return "kept"

    reasons = [reason_of(pair) for pair in pairs]
    kept_pairs = [
        pair for pair, reason in zip(pairs, reasons, strict=True) if reason == "kept"
    ]
    return kept_pairs, collections.Counter(reasons)
