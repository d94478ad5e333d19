"""A short fingerprint of what a picture shows, equal or close for its copies."""

import numpy as np
from PIL import Image

from align_keras.corpus.opencv import opencv
from align_keras.utils.errors import InputError

WORDS = 2  # 64-bit words in the hash of one view.
HASH_BYTES = 8 * WORDS
# Windows of the 64 × 64 thumbnail, (top, left, bottom, right): the whole, the middle
# and the four corners. A copy from which 5 to 10 % were cropped is close to one.
VIEWS = (
    (0, 0, 64, 64),
    (2, 2, 62, 62),
    (0, 0, 60, 60),
    (0, 4, 60, 64),
    (4, 0, 64, 60),
    (4, 4, 64, 64),
)
# A picture with fewer of its 64 numbers away from zero is plain.
LEAST_DETAIL = 24

_SIDE = 64
_BETWEEN = 256
_COEFFICIENTS = 64
# "About zero": a tenth of the numbers' root mean square, and what noise makes of a
# flat picture, in grey levels.
_RELATIVE_ZERO = 0.1
_ABSOLUTE_ZERO = 0.1


def perceptual_hash(image, *, crops=True):
    """Hashes a picture so that its copies get the same or a close hash.

    The picture is reduced to 64 × 64 grey pixels. Of the cosine transform, the 64
    lowest frequencies but the mean count, each by its sign: positive, negative or
    about zero, in two bits. So a copy of another size or quality, in grey or with a
    small watermark, differs in few of the 128 bits; in a mirrored copy the odd
    horizontal frequencies change their sign (`mirrored`); and of symmetric drawings
    the odd ones are zero, not a sign by chance. A cropped copy shifts all
    frequencies; therefore six views are hashed, see `VIEWS`, and a copy's whole is
    compared with all of the original's.

    **Plain pictures.** A flat picture, a gradient, a disc or a logo of one shape on
    white has few frequencies away from zero (fewer than `LEAST_DETAIL`), and the
    few look alike among unrelated pictures. Their hash is all zeros, which says
    "too plain to compare" and is close to nothing, itself included; only equal
    pixels make them duplicates. Colour isn't hashed: a drawing in other colours of
    the same brightness counts as a copy.

    Args:
        image: `PIL.Image.Image`, as `normalise_picture` returns it, or its grey
            pixels, uint8 array (height, width).
        crops: bool, hash all six views, not only the whole.

    Returns:
        bytes, 16 for each view, the whole first: 96, or 16 without crops.

    Raises:
        InputError: if OpenCV isn't installed.

    References:
        Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash
        Functions", for hashes by the signs of low frequencies.

    Example:

    ```python
    noise = Image.effect_noise((80, 60), 90)
    copy = noise.resize((160, 120))
    first, second = hash_array([perceptual_hash(noise), perceptual_hash(copy)])
    int(hamming_distance(first[0], second[0])) <= 12  # True
    any(perceptual_hash(Image.new("RGB", (80, 60), "white")))  # False
    ```
    """
    views = len(VIEWS) if crops else 1
    signs = _signs(_thumbnail(image), views)
    words = np.packbits(signs, axis=2, bitorder="little").view("<u8")[..., 0]
    plain = signs.sum((1, 2)) < LEAST_DETAIL
    # Views of a plain picture are as plain, or by chance not.
    words[plain | plain[0]] = 0
    return words.tobytes()


def hash_array(hashes):
    """Puts hashes into the array that `find_duplicates` takes.

    Args:
        hashes: sequence of bytes, as `perceptual_hash` returns them, all with crops
            or all without.

    Returns:
        uint64 array (pictures, views, 2).

    Raises:
        InputError: if their lengths differ or aren't whole views.

    Example:

    >>> hash_array([bytes(96), bytes(96)]).shape
    (2, 6, 2)
    """
    sizes = {len(own) for own in hashes} or {HASH_BYTES * len(VIEWS)}
    size = max(sizes)
    if len(sizes) > 1 or size % HASH_BYTES or not size:
        raise InputError(
            f"hashes must have one length, a multiple of {HASH_BYTES} bytes, received "
            f"{sorted(sizes)}; hash all pictures anew, with crops or without."
        )
    words = np.frombuffer(b"".join(hashes), "<u8").astype(np.uint64)
    return words.reshape(len(hashes), size // HASH_BYTES, WORDS)


def mirrored(hashes):
    """Returns the hashes that the mirrored pictures have.

    Args:
        hashes: uint64 array (…, 2).

    Returns:
        uint64 array of the same shape. Mirroring twice changes nothing.
    """
    swapped = (hashes[..., 0] ^ hashes[..., 1]) & _ODD
    return hashes ^ swapped[..., None]


def hamming_distance(first, second):
    """Counts the bits in which hashes differ.

    Args:
        first: uint64 array (…, 2).
        second: uint64 array (…, 2).

    Returns:
        int array (…), 0 to 128.

    Example:

    >>> int(hamming_distance(np.uint64([1, 7]), np.uint64([0, 0])))
    4
    """
    return bit_count(first ^ second).sum(-1, dtype=np.int64)


def _count_by_table(words):
    table = np.array([bin(number).count("1") for number in range(1 << 16)], np.uint8)
    halves = np.ascontiguousarray(words).view(np.uint16)
    return table[halves].reshape(*words.shape, 4).sum(-1, dtype=np.uint8)


# Counts the bits of each number, uint64 → uint8; NumPy 1 has no such function.
bit_count = getattr(np, "bitwise_count", _count_by_table)


def _thumbnail(image):
    """Returns the picture's 64 × 64 grey pixels, float64."""
    cv2 = opencv()
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("L"))
    # Samples between pixels, which leave few out of a stored picture, and then the
    # means of 4 × 4 take a fifth of the time that the mean of all takes.
    method = cv2.INTER_LINEAR if max(image.shape) <= 4 * _BETWEEN else cv2.INTER_AREA
    image = cv2.resize(image, (_BETWEEN, _BETWEEN), interpolation=method)
    image = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return image.astype(np.float64)


def _signs(pixels, views):
    """Returns which numbers of each view are positive, and which are negative.

    Args:
        pixels: float64 array (64, 64).
        views: int, how many of `VIEWS`.

    Returns:
        bool array (views, 2, 64).
    """
    spectra = _VERTICAL[:views] @ pixels @ _HORIZONTAL[:views]
    numbers = spectra[:, _DOWN, _ACROSS]
    zero = _RELATIVE_ZERO * np.sqrt(np.mean(numbers**2, axis=1, keepdims=True))
    zero = np.maximum(zero, _ABSOLUTE_ZERO)
    return np.stack([numbers > zero, numbers < -zero], axis=1)


def _lowest_frequencies():
    """Returns the vertical and horizontal frequencies that are hashed."""
    side = np.arange(16)
    down, across = (own.ravel() for own in np.meshgrid(side, side, indexing="ij"))
    order = np.lexsort((across, down, down**2 + across**2))
    order = order[1 : _COEFFICIENTS + 1]  # Without the mean.
    return down[order], across[order]


def _cosines(first, end):
    """Returns the orthonormal cosine transform of a part of the side, (10, 64).

    It is divided by the square root of the part's length, so that the numbers don't
    depend on the size, and zero outside of the part.
    """
    length = end - first
    place = np.arange(_SIDE) - first + 0.5
    frequency = np.arange(max(_DOWN.max(), _ACROSS.max()) + 1)[:, None]
    cosines = np.cos(np.pi * place * frequency / length) * np.sqrt(2) / length
    cosines[0] /= np.sqrt(2)
    return np.where((place > 0) & (place < length), cosines, 0)


_DOWN, _ACROSS = _lowest_frequencies()
_VERTICAL = np.stack([_cosines(top, bottom) for top, _, bottom, _ in VIEWS])
_HORIZONTAL = np.stack([_cosines(left, right).T for _, left, _, right in VIEWS])
# The bits of the odd horizontal frequencies.
_ODD = np.packbits(_ACROSS % 2 == 1, bitorder="little").view("<u8").astype(np.uint64)[0]
