"""RAW files in the layouts of several cameras, written by tifffile and pidng.

LibRaw opens them like the files of a camera. The sensor data are random.
"""

import io
import struct

import numpy as np
from PIL import Image

# Camera of each layout. LibRaw recognizes the layouts of NEF and ARW by the make.
CAMERAS = {
    "dng": ("Example", "Example 1"),
    "nef": ("NIKON CORPORATION", "NIKON D70"),
    "arw": ("SONY", "DSLR-A350"),
    "cr2": ("Canon", "Canon EOS 350D DIGITAL"),
}
# Height and width of the sensor in pixels.
SENSOR = (256, 384)
_DNG_TAGS = [
    (50706, 1, 4, b"\1\4\0\0", True),
    (50707, 1, 4, b"\1\1\0\0", True),
    (50708, 2, None, "Example 1", True),
]


def raw_file(kind, preview, orientation=1, is_jpeg=True):
    """Returns the content of a RAW file with a preview.

    Args:
        kind: key of `CAMERAS`.
        preview: `PIL.Image.Image`.
        orientation: int, EXIF orientation.
        is_jpeg: False to store the pixels of the preview in the first directory.
    """
    if not is_jpeg:
        return _with_sub_directories(kind, orientation, np.asarray(preview))
    jpeg = io.BytesIO()
    preview.save(jpeg, "JPEG", quality=95, subsampling=0)
    if kind == "cr2":
        return _cr2(kind, jpeg.getvalue(), orientation)
    thumbnail = np.zeros((24, 32, 3), np.uint8)
    return _with_sub_directories(kind, orientation, thumbnail, jpeg.getvalue())


def dng_without_preview(path):
    """Writes a DNG that has only sensor data."""
    from pidng.core import RAW2DNG, BaseCameraModel, DNGTags, Tag

    class Camera(BaseCameraModel):
        def __init__(self):
            super().__init__()
            self.fmt, self.ref = None, None

    tags = DNGTags()
    height, width = SENSOR
    for name, value in {
        "ImageWidth": width,
        "ImageLength": height,
        "BitsPerSample": 16,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": 32803,
        "CFARepeatPatternDim": [2, 2],
        "CFAPattern": [0, 1, 1, 2],
        "DNGVersion": [1, 4, 0, 0],
        "DNGBackwardVersion": [1, 1, 0, 0],
        "Make": "Example",
        "Model": "Example 1",
    }.items():
        tags.set(getattr(Tag, name), value)
    writer = RAW2DNG()
    writer.options(tags, path=str(path.parent), compress=False)
    writer.convert(_sensor_data(), filename=path.name)


def _sensor_data():
    return np.random.default_rng(0).integers(500, 4000, SENSOR).astype(np.uint16)


def _camera_tags(kind, orientation):
    make, model = CAMERAS[kind]
    return [
        (271, 2, None, make, True),
        (272, 2, None, model, True),
        (274, 3, 1, orientation, True),
        (306, 2, None, "2021:05:06 07:08:09", True),
    ]


def _write_preview(writer, preview, **options):
    width, height = Image.open(io.BytesIO(preview)).size
    writer.write(
        iter([preview]),
        shape=(height, width, 3),
        dtype=np.uint8,
        photometric="ycbcr",
        compression="jpeg",
        rowsperstrip=height,
        metadata=None,
        software=False,
        **options,
    )


def _with_sub_directories(kind, orientation, thumbnail, preview=None):
    """Layout of DNG, NEF and ARW: a thumbnail, and below it sensor data and preview."""
    import tifffile

    tags = _camera_tags(kind, orientation) + (_DNG_TAGS if kind == "dng" else [])
    plain = {"metadata": None, "software": False}
    content = io.BytesIO()
    with tifffile.TiffWriter(content) as writer:
        writer.write(
            thumbnail,
            photometric="rgb",
            subfiletype=1,
            subifds=1 if preview is None else 2,
            extratags=tags,
            **plain,
        )
        pattern = [(33421, 3, 2, (2, 2), True), (33422, 1, 4, b"\0\1\1\2", True)]
        writer.write(
            _sensor_data(),
            photometric="CFA",
            subfiletype=0,
            extratags=pattern,
            **plain,
        )
        if preview is not None:
            _write_preview(writer, preview, subfiletype=1)
    return content.getvalue()


def _cr2(kind, preview, orientation):
    """Layout of CR2: a preview, and sensor data in lossless JPEG.

    The header has the position of the directory with the sensor data.
    """
    import imagecodecs
    import tifffile

    content = io.BytesIO()
    height, width = SENSOR
    sensor = imagecodecs.ljpeg_encode(_sensor_data(), bitspersample=12)
    with tifffile.TiffWriter(content, byteorder="<") as writer:
        _write_preview(writer, preview, extratags=_camera_tags(kind, orientation))
        for _ in range(2):
            thumbnail = np.zeros((8, 8, 3), np.uint8)
            writer.write(thumbnail, photometric="rgb", metadata=None, software=False)
        writer.write(
            iter([sensor]),
            shape=(height, width),
            dtype=np.uint16,
            photometric="minisblack",
            compression="jpeg",
            rowsperstrip=height,
            metadata=None,
            software=False,
        )
    written = bytearray(content.getvalue())
    with tifffile.TiffFile(io.BytesIO(written)) as tiff:
        first, last = tiff.pages[0].offset, tiff.pages[-1].offset
    # The first directory moves to the end, which makes room for the marker of CR2.
    (entries,) = struct.unpack_from("<H", written, first)
    written += b"\0" * (len(written) % 2)
    moved = len(written)
    written += written[first : first + 2 + 12 * entries + 4]
    struct.pack_into("<I", written, 4, moved)
    struct.pack_into("<4sI", written, 8, b"CR\2\0", last)
    return bytes(written)
