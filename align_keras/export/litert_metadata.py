"""What a LiteRT file says about itself: a zip archive behind the flatbuffer.

This is the place of "associated files" in TensorFlow Lite's metadata convention. It
is read by any zip program (`unzip -p image.tflite metadata.json`) and by Python's
`zipfile`; interpreters read the flatbuffer in front of it and don't see it.
"""

import io
import json
import zipfile

# Archives hold no time, so that equal models give equal files.
_EPOCH = (1980, 1, 1, 0, 0, 0)
METADATA, VOCABULARY, LICENCE = "metadata.json", "vocabulary.txt", "LICENSE.txt"


def append_files(flatbuffer, files):
    """Puts files behind a flatbuffer.

    Args:
        flatbuffer: bytes, a LiteRT file without such files.
        files: dict, name → str.

    Returns:
        bytes, the file with them.

    Example:

    >>> read_files(append_files(b"flatbuffer", {"LICENSE.txt": "free"}))
    {'LICENSE.txt': 'free'}
    """
    file = io.BytesIO(bytes(flatbuffer))
    with zipfile.ZipFile(file, "a") as archive:
        for name, text in files.items():
            # Stored, not deflated: a phone can map the file into memory.
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), text)
    return file.getvalue()


def read_files(content):
    """Returns the files behind a flatbuffer.

    Args:
        content: bytes of a LiteRT file that `append_files` made.

    Returns:
        dict, name → str.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def read_metadata(content):
    """Returns `metadata.json` of a LiteRT file that `append_files` made, a dict."""
    return json.loads(read_files(content)[METADATA])
