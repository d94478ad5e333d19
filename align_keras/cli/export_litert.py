"""The format `litert` of `align-keras export`: the towers for phones and boards."""

import dataclasses
import json
import pathlib
import re
import shutil

from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

# More changed no figure by more than its own noise: README.md, "Quantised towers".
_CALIBRATION_PICTURES = 200


def write_litert(align, folder, arguments):
    """Writes both towers as LiteRT files, examples, and a table of what they keep.

    Args:
        align: `ALIGN` with a vocabulary.
        folder: `pathlib.Path`, an existing, empty folder.
        arguments: `argparse.Namespace` with `quantize` (str or None), `pictures`
            (str or None: a data set as `align-keras evaluate --data` takes it, whose
            training split, or all pictures of a table, a folder or a set without
            one, calibrate `int8`),
            `image_column`, `caption_column` and `encoding` (str or None, of a
            table), `data` (str or None: the data set whose test split gives the
            table's recall), `data_root` (str), `resizable` (bool) and `licence` (str
            or None).

    Raises:
        InputError: if `int8` has no pictures, or the options don't fit.
    """
    quantize = arguments.quantize or "none"
    if quantize == "int8" and arguments.pictures is None:
        raise InputError(
            "--quantize int8 needs --pictures to calibrate with, received none; name a "
            "table or folder of your pairs, or choose dynamic-int8."
        )
    from align_keras.export.litert import image_flatbuffer, text_flatbuffer

    calibration = _some_pictures(arguments)
    pixels = _pixels(calibration, align.image_size)
    # What is missing must not show itself after minutes.
    test = None if arguments.data is None else _test_set(arguments)
    options = {"resizable": arguments.resizable, "licence": arguments.licence}
    image = image_flatbuffer(align, quantize, pixels, **options)
    text = text_flatbuffer(align, quantize, **options)
    (folder / "image.tflite").write_bytes(image)
    (folder / "text.tflite").write_bytes(text)
    _copy_examples(folder)
    files = {quantize: image}
    if quantize != "none":
        files = {"none": image_flatbuffer(align, pixels=pixels[:1])} | files
    _write_figures(align, folder, arguments, files, calibration, test)


def _some_pictures(arguments):
    """Pictures to calibrate with, evenly spread over the set; none where none is."""
    if arguments.pictures is None:
        return []
    from align_keras.protocols.retrieval import captioned_images

    request = _request(arguments, arguments.pictures)
    try:
        if _is_path(arguments.pictures):
            images = captioned_images(request).images
        else:
            images = _training_pictures(request)
    except InputError as error:
        # They are read as those of --data are.
        message = re.sub("^data ", "pictures ", str(error))
        raise InputError(message) from None
    step = max(1, len(images) // _CALIBRATION_PICTURES)
    return images[::step][:_CALIBRATION_PICTURES]


def _training_pictures(request):
    """Those of the training split, or of the other one where there is none."""
    from align_keras.protocols.retrieval import captioned_images

    try:
        return captioned_images(dataclasses.replace(request, split="train")).images
    except InputError:
        images = captioned_images(request).images
    say(f"{request.data} has no training split; its test pictures calibrate")
    return images


def _pixels(images, size):
    from align_keras.cli.litert_figures import read_pixels

    read = [read_pixels(image, size) for image in images]
    pixels = [own for own in read if own is not None]
    if images and not pixels:
        raise InputError(
            f"--pictures must hold pictures, received {len(images)} that can't be "
            "decoded; check that they are JPEG, PNG, GIF, BMP or WebP files."
        )
    return pixels


def _test_set(arguments):
    from align_keras.protocols.retrieval import captioned_images

    request = _request(arguments, arguments.data)
    return request, captioned_images(request).images


def _request(arguments, name):
    from align_keras.protocols.protocol import Request

    of_table = {}
    if _is_path(name):
        of_table["encoding"] = arguments.encoding
    if pathlib.Path(name).is_file():
        of_table["image_column"] = arguments.image_column
        of_table["caption_column"] = arguments.caption_column
    return Request(data=name, data_root=arguments.data_root, **of_table)


def _is_path(name):
    return pathlib.Path(name).exists()


def _copy_examples(folder):
    from align_keras.export import litert_examples

    source = pathlib.Path(litert_examples.__file__).parent
    for name in ("example.py", "example.c"):
        shutil.copyfile(source / name, folder / name)


def _write_figures(align, folder, arguments, files, calibration, test):
    """Prints the table and writes it as figures.json."""
    from align_keras.cli.litert_figures import measure, table

    request, images = test or (None, calibration)
    if not images:
        say(
            "no figures: name pictures by --pictures or, for recall too, a data set by "
            "--data"
        )
        return
    figures = measure(align, files, images, request)
    of = arguments.data or arguments.pictures
    told = {
        "pictures": of,
        "towers": [dataclasses.asdict(own) for own in figures],
    }
    text = json.dumps(told, indent=2, ensure_ascii=False)
    (folder / "figures.json").write_text(f"{text}\n", encoding="utf-8")
    print("\n".join(table(figures)))
    if request is None:
        say(f"cosines are of {of}; recall needs test pairs, named by --data")
    elif set(calibration) & set(images):
        say(f"{of} calibrated the tower too; judge it by pairs of its own")
