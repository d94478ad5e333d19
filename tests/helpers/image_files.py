"""Image files of every supported kind with their expected pixels.

The expected pixels are those of the image that was encoded. Those of a JPEG, which
loses information, are the pixels that Pillow decodes. The module also has files of
unsupported kinds and random damaged files.
"""

import base64
import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageChops, ImageCms

WIDTH, HEIGHT = 52, 37
ORIENTATION = 0x0112
# An image of 64 x 64 pixels, written by pillow-heif 1.8.1. The tests do not need that
# package.
HEIC = zlib.decompress(
    base64.b85decode(
        b"c-"
        b"muNV30{GsVvAy%}izhg51nBLl8SRGck>UfiWyMwIq=N0u(b+a*CjAhJwuG5(YG&l$nzcHpIn&fe{"
        b"FSfUycf1Azn(D`#frrGa@MQBfc#l?lqrC`&d3G5HEIOLE~#u4NV!6#(h&nFY!DK)M2`%$boHBs2l"
        b"6NbUo}pT9qTFfi~lCjfOwI56@s{{IhBzzkBs3_^0dm>d#;lG;v;jA$|o6dGBlz4Fvtm&YW<!vPXH"
        b"0U|gYl7Q;jT^J7*ZBTLmS|gmCpHq~VoKpc5=4D`O01Am@78j&K{pJA00tJ~BnIHjX4i2Dc4C0vux"
        b"v<~^h6qa|6Eh2tsgRqJ2nszB4aW5>5`QW!UjP3oaK4qXAWrbY0|47wNqq"
    )
)


def source(mode="RGB", seed=0):
    """Returns a smooth image of random colors, and of random opacity in mode RGBA."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (6, 8, len(mode))).astype("uint8")
    return Image.fromarray(small, mode).resize((WIDTH, HEIGHT), Image.BICUBIC)


def encoded(image, file_format, **options):
    """Returns the bytes of an image file. WebP is lossless by default."""
    if file_format == "WEBP":
        options.setdefault("lossless", True)
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def on_white(rgba):
    """Returns an image with alpha as RGB on a white background."""
    rgba = rgba.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def exif(orientation):
    """Returns Exif metadata with an orientation."""
    data = Image.Exif()
    data[ORIENTATION] = orientation
    return data.tobytes()


def apply_orientation(pixels, orientation):
    """Returns the pixels after the rotation and flip of an Exif orientation.

    The cases follow the table of orientations in the Exif standard.
    """
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in (3, 4, 7, 8) else pixels


def png_chunk(kind, data):
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def png_of_16_bits(values):
    """Returns a PNG with 16 bits per channel of an array (h, w, 3)."""
    rows = [row.astype(">u2").tobytes() for row in values]
    return png_of_rows(values.shape[1], rows, bits=16, kind=2)


def gray_png(values, bits):
    """Returns a gray PNG with 1, 2 or 4 bits per pixel of levels (h, w)."""
    bytes_of_row = -(-values.shape[1] * bits // 8)
    padded = np.zeros((len(values), bytes_of_row * 8 // bits), int)
    padded[:, : values.shape[1]] = values
    shifts = bits * np.arange(8 // bits)[::-1]
    rows = (padded.reshape(len(values), bytes_of_row, -1) << shifts).sum(-1)
    rows = [row.astype("uint8").tobytes() for row in rows]
    return png_of_rows(values.shape[1], rows, bits=bits, kind=0)


def png_of_rows(width, rows, *, bits, kind):
    header = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row for row in rows)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def with_chunk(png, kind, data):
    """Inserts a chunk before the pixels of a PNG."""
    start = png.index(b"IDAT") - 4
    return png[:start] + png_chunk(kind, data) + png[start:]


def plain_cmyk_jpeg(rgb):
    """Returns a CMYK JPEG without Adobe's marker, and its pixels.

    Files with the marker store inverted ink values. Those without it do not.
    """
    adobe = encoded(ImageChops.invert(rgb.convert("CMYK")), "JPEG", quality=95)
    expected = ImageChops.invert(Image.open(io.BytesIO(adobe))).convert("RGB")
    marker = adobe.index(b"\xff\xee")
    (length,) = struct.unpack(">H", adobe[marker + 2 : marker + 4])
    return adobe[:marker] + adobe[marker + 2 + length :], np.asarray(expected)


def bitmap(bits, indices, palette, compression=0, top_down=False):
    """Returns a BMP with a palette in a variant that Pillow cannot write.

    Args:
        bits: Bits per pixel: 1, 4 or 8.
        indices: Palette indices (h, w).
        palette: RGB colors (n, 3).
        compression: Compression code in the header. The pixels are never compressed.
        top_down: Whether the first stored row is the top row.
    """
    height, width = indices.shape
    padded = np.zeros((height, -(-width * bits // 32) * 32 // bits), "uint8")
    padded[:, :width] = indices
    pixels_of_bytes = padded.reshape(height, -1, 8 // bits)
    shifts = bits * np.arange(8 // bits)[::-1]
    rows = (pixels_of_bytes.astype(int) << shifts).sum(-1).astype("uint8")
    data = (rows if top_down else rows[::-1]).tobytes()
    colors = np.pad(palette[:, ::-1], [(0, 0), (0, 1)]).astype("uint8").tobytes()
    start = 54 + len(colors)
    header = struct.pack(
        "<IiiHHIIiiII",
        40,
        width,
        -height if top_down else height,
        1,
        bits,
        compression,
        len(data),
        0,
        0,
        len(palette),
        0,
    )
    return (
        b"BM"
        + struct.pack("<IHHI", start + len(data), 0, 0, start)
        + header
        + (colors + data)
    )


def moved_frame(gif, screen, offset):
    """Moves the first frame of a GIF.

    Args:
        gif: Bytes of the file.
        screen: New (width, height) of the screen.
        offset: New (left, top) of the frame.
    """
    content = bytearray(gif)
    content[6:10] = struct.pack("<HH", *screen)
    position = 13 + (3 * 2 ** (content[10] % 8 + 1) if content[10] >= 128 else 0)
    while content[position] != 0x2C:
        position += 2
        while content[position]:
            position += 1 + content[position]
        position += 1
    content[position + 1 : position + 5] = struct.pack("<HH", *offset)
    return bytes(content)


def pixels_of(image):
    return np.asarray(image.convert("RGB"))


def readable_files():
    """Returns the supported files.

    Returns:
        Dict of name → (bytes of the file, expected uint8 pixels (h, w, 3)).
    """
    rgb, rgba, other = source(), source("RGBA"), source(seed=1)
    gray = rgb.convert("L")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    files = {}

    def add(name, image, file_format, expected=None, **options):
        content = encoded(image, file_format, **options)
        if file_format == "JPEG":
            expected = Image.open(io.BytesIO(content))
        expected = image if expected is None else expected
        files[name] = content, pixels_of(expected)

    for bits in (1, 2, 4, 8):
        palette = rgb.quantize(2**bits)
        add(f"PNG, palette of {bits} bits", palette, "PNG", bits=bits)
        entry = palette.getpixel((9, 9))
        clear = palette.convert("RGBA")
        mask = Image.fromarray(np.uint8(255 * (np.asarray(palette) != entry)))
        clear.putalpha(mask)
        add(
            f"PNG, palette of {bits} bits with a clear color",
            palette,
            "PNG",
            on_white(clear),
            **{"bits": bits, "transparency": entry},
        )
    add("PNG, black and white", rgb.convert("1"), "PNG")
    for bits in (2, 4):
        levels = np.asarray(gray) >> (8 - bits)
        scaled = np.uint8(levels * (255 // (2**bits - 1)))
        content = gray_png(levels, bits)
        files[f"PNG, gray of {bits} bits"] = content, pixels_of(Image.fromarray(scaled))
        entry = int(levels[9, 9])
        clear = np.where(levels == entry, np.uint8(255), scaled)
        files[f"PNG, gray of {bits} bits with a clear level"] = (
            with_chunk(content, b"tRNS", struct.pack(">H", entry)),
            pixels_of(Image.fromarray(clear)),
        )
    add("PNG, gray", gray, "PNG")
    add("PNG, gray with alpha", rgba.convert("LA"), "PNG", on_white(rgba.convert("LA")))
    for name, image in (
        ("PNG", rgb),
        ("PNG, gray", gray),
        ("PNG, black and white", rgb.convert("1")),
    ):
        on_background, color = pixels_of(image).copy(), image.getpixel((9, 9))
        on_background[(on_background == color).all(-1)] = 255
        add(
            f"{name} with a clear color",
            image,
            "PNG",
            Image.fromarray(on_background),
            transparency=color,
        )
    add("PNG", rgb, "PNG")
    add("PNG with alpha", rgba, "PNG", on_white(rgba))
    add("PNG with a profile", rgb, "PNG", icc_profile=profile)
    add("PNG, animated", rgb, "PNG", save_all=True, append_images=[other])
    deep = np.random.default_rng(2).integers(0, 65536, (HEIGHT, WIDTH, 3))
    files["PNG of 16 bits"] = png_of_16_bits(deep), np.uint8(deep >> 8)
    deep_gray = Image.fromarray(deep[..., 0].astype("uint16"))
    high_bytes = Image.fromarray(np.uint8(deep[..., 0] >> 8))
    add("PNG, gray of 16 bits", deep_gray, "PNG", high_bytes)

    add("JPEG", rgb, "JPEG", quality=90)
    add("JPEG, progressive", rgb, "JPEG", progressive=True, subsampling=2)
    add("JPEG, gray", gray, "JPEG")
    add("JPEG, CMYK", rgb.convert("CMYK"), "JPEG", quality=95)
    add("JPEG with a profile", rgb, "JPEG", icc_profile=profile)

    add("WebP", rgb, "WEBP")
    add("WebP with alpha", rgba, "WEBP", on_white(rgba), exact=True)
    for name, image in (("", rgb), (" with alpha", rgba)):
        further_frames = [source(image.mode, seed=1)]
        add(
            f"WebP, animated{name}",
            image,
            "WEBP",
            on_white(image),
            **{"save_all": True, "append_images": further_frames, "exact": True},
        )

    palette = rgb.quantize(16)
    add("GIF", palette, "GIF")
    add("GIF, animated", palette, "GIF", save_all=True, append_images=[other])
    entry = palette.getpixel((9, 9))
    on_background = pixels_of(palette).copy()
    on_background[np.asarray(palette) == entry] = 255
    add(
        "GIF with a clear color",
        palette,
        "GIF",
        Image.fromarray(on_background),
        transparency=entry,
    )
    canvas = np.full((HEIGHT + 30, WIDTH + 9, 3), 255, "uint8")
    canvas[20 : 20 + HEIGHT, 5 : 5 + WIDTH] = pixels_of(palette)
    moved = moved_frame(files["GIF"][0], (WIDTH + 9, HEIGHT + 30), (5, 20))
    files["GIF, smaller than its screen"] = moved, canvas

    add("BMP", rgb, "BMP")
    add("BMP of 32 bits", rgb.convert("RGBA"), "BMP")
    colors = np.random.default_rng(3).integers(0, 256, (16, 3))
    for bits in (1, 4, 8):
        indices = np.random.default_rng(4).integers(
            0, min(2**bits, 16), (HEIGHT, WIDTH)
        )
        table = colors[: 2**bits]
        for top_down in (False, True):
            name = f"BMP of {bits} bits" + (", from the top down" if top_down else "")
            content = bitmap(bits, indices, table, top_down=top_down)
            files[name] = content, np.uint8(table[indices])

    for orientation in range(1, 9):
        for file_format in ("JPEG", "PNG", "WEBP"):
            data = exif(orientation)
            content = encoded(rgb, file_format, exif=data)
            plain = pixels_of(Image.open(io.BytesIO(content)))
            name = f"{file_format}, orientation {orientation}"
            files[name] = content, apply_orientation(plain, orientation)
    return files


def largest_file(width=8192, height=6144):
    """Returns a black PNG with the largest supported number of pixels.

    The file has a few kilobytes.
    """
    return encoded(Image.new("1", (width, height)), "PNG")


def frame_far_outside():
    """Returns an animated WebP with a frame far outside its canvas.

    A canvas that includes the frame would have 300 megapixels.
    """
    frames = {"save_all": True, "append_images": [source(seed=1)]}
    content = bytearray(encoded(source(), "WEBP", **frames))
    # The frame's left edge, stored as half the number of pixels.
    start = content.index(b"ANMF") + 8
    content[start : start + 3] = (2**22).to_bytes(3, "little")
    return bytes(content)


def refused_files():
    """Returns the unsupported files: dict of name → bytes."""
    rgb = source()
    indices = np.zeros((9, 9), "uint8")
    files = {
        "BMP, compressed": bitmap(8, indices, np.zeros((2, 3), int), compression=1),
        "TIFF": encoded(rgb, "TIFF"),
        "ICO": encoded(rgb, "ICO"),
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "EPS": encoded(rgb, "EPS"),
        "PNG of a row too many": largest_file(height=6145),
        "WebP, animated, a frame far outside": frame_far_outside(),
        "HEIC": HEIC,
        "text": b"no image",
        "nothing": b"",
    }
    # Pillow supports AVIF since version 11.3.
    if "AVIF" in Image.registered_extensions().values():
        files["AVIF"] = encoded(rgb, "AVIF")
    return files


def malformed_files(random, whole):
    """Yields an endless stream of damaged files, most of which cannot be decoded.

    Args:
        random: `random.Random`.
        whole: List of bytes, the undamaged files.
    """
    while True:
        content = bytearray(random.choice(whole))
        kind = random.randrange(4)
        if kind == 0:
            yield bytes(content[: random.randrange(len(content))])
        elif kind == 1:
            for _ in range(random.randrange(1, 50)):
                content[random.randrange(len(content))] = random.randrange(256)
            yield bytes(content)
        elif kind == 2:
            yield bytes(content[:12]) + random.randbytes(random.randrange(3000))
        else:
            yield random.randbytes(random.randrange(3000))
