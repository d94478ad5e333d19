"""Real pictures and known copies of them: what finding duplicates is measured with."""

import io
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from align_keras.corpus.image import ImageError, normalize_image
from align_keras.datasets.pair_builder import pixel_key

CLIPART = "/usr/share/openclipart/png"
STAMPS = "/usr/share/tuxpaint/stamps"
# Larger pictures are reduced first, so that the measurement takes minutes.
LARGEST = 512
MAX_PIXELS = 16_000_000


def originals(count, emoji_folder=None, start=0):
    """Yields (kind, name, image) of distinct pictures, at most `count`.

    A tenth are photographs where there are so many, a tenth emoji, a quarter stamps,
    the rest clip art; each kind evenly from its sorted names. Of pictures with equal
    pixels only the first counts. With another `start` other drawings are taken; the
    photographs, of which there are few, are the same.
    """
    kinds = {
        "photograph": (list(photographs()), count // 10),
        "emoji": (_files(emoji_folder), count // 10),
        "stamp": (_files(STAMPS), count // 4),
    }
    taken = sum(min(len(found), share) for found, share in kinds.values())
    kinds["clip art"] = (_files(CLIPART), count - taken)
    seen = set()
    for kind, (found, share) in kinds.items():
        step = max(1, len(found) // max(share, 1))
        for name, source in found[start % step :: step][:share]:
            try:
                image = _picture(source)
            except ImageError:
                continue
            key = pixel_key(image)
            if key not in seen:
                seen.add(key)
                yield kind, name, image


def photographs():
    """Yields (name, PIL.Image) of the photographs that installed packages bring.

    scikit-learn's and scikit-image's; large ones also as four quarters, which show
    different things.
    """
    for name, image in _whole_photographs():
        image = image.convert("RGB")
        yield name, image
        if min(image.size) >= 400:
            width, height = image.width // 2, image.height // 2
            for number in range(4):
                left, top = number % 2 * width, number // 2 * height
                box = (left, top, left + width, top + height)
                yield f"{name}, quarter {number + 1}", image.crop(box)


def copies(image, random):
    """Yields (kind of copy, image) of the ten ways in which pictures get around.

    Args:
        image: `PIL.Image.Image` of mode RGB.
        random: `numpy.random.Generator`, for where crops and watermarks lie.
    """
    width, height = image.size
    yield "half size", image.resize((max(1, width // 2), max(1, height // 2)))
    yield "double size", image.resize((width * 2, height * 2), Image.Resampling.BICUBIC)
    yield "JPEG 75", _encoded(image, "JPEG", quality=75)
    yield "JPEG 30", _encoded(image, "JPEG", quality=30)
    yield "WebP 60", _encoded(image, "WEBP", quality=60)
    yield "5 % cropped", _cropped(image, 0.05, random)
    yield "10 % cropped", _cropped(image, 0.10, random)
    yield "flipped", ImageOps.mirror(image)
    yield "watermark", _watermarked(image, random)
    yield "grayscale", image.convert("L").convert("RGB")


def _whole_photographs():
    try:
        from sklearn.datasets import load_sample_images

        images = load_sample_images().images
        yield from zip(("china", "flower"), map(Image.fromarray, images), strict=True)
    except ImportError:
        pass
    try:
        import skimage
    except ImportError:
        return
    folder = pathlib.Path(skimage.__file__).parent / "data"
    names = "astronaut brick camera cell chelsea coffee coins grass gravel "
    names += "hubble_deep_field ihc moon motorcycle_left page retina rocket"
    for name in names.split():
        for path in sorted(folder.glob(f"{name}.*")):
            with Image.open(path) as image:
                yield name, image.convert("RGB")


def _files(folder):
    if not folder:
        return []
    root = pathlib.Path(folder)
    paths = sorted(root.glob("**/*.png"))
    # Sheets of all emoji, and one emoji in five colors of skin.
    paths = [path for path in paths if "sheet" not in str(path)]
    paths = [path for path in paths if "-1f3f" not in path.name]
    return [(path.relative_to(root).as_posix(), path) for path in paths]


def _picture(source):
    if isinstance(source, pathlib.Path):
        source, _ = normalize_image(source, max_pixels=MAX_PIXELS)
    source = source.copy()
    source.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return source


def _encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return Image.open(file).convert("RGB")


def _cropped(image, share, random):
    """Cuts off `share` of the width and of the height, somewhere at the edges."""
    width, height = image.size
    keep = [max(1, round(side * (1 - share))) for side in image.size]
    left = random.integers(0, width - keep[0] + 1)
    top = random.integers(0, height - keep[1] + 1)
    return image.crop((left, top, left + keep[0], top + keep[1]))


def _watermarked(image, random):
    """Puts a half-transparent line of text into a corner, a third of the width."""
    mark = Image.new("L", (110, 14), 0)
    ImageDraw.Draw(mark).text((2, 1), "(c) example.org", fill=150)
    width = max(8, image.width // 3)
    mark = mark.resize((width, max(3, width * 14 // 110)))
    left = [4, max(4, image.width - mark.width - 4)][random.integers(2)]
    top = [4, max(4, image.height - mark.height - 4)][random.integers(2)]
    marked = image.copy()
    gray = int(np.asarray(image.convert("L")).mean()) < 128
    marked.paste((255, 255, 255) if gray else (0, 0, 0), (left, top), mark)
    return marked
