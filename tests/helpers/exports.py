"""A small model and its exports, which each process of the tests writes once."""

import atexit
import functools
import pathlib
import shutil
import tempfile

# The model has 8 tokens. The third text has more.
TEXTS = ["a red ring", "", "green and blue bars on a plain wall", "x"]


@functools.cache
def exported_align():
    """Returns a small `ALIGN`, whose embeddings differ a lot. Tests must not change it.

    The initial weights of BERT would give all texts almost equal embeddings.
    """
    from tests.helpers.drawn_align import calibrated_align

    align = calibrated_align(True)
    for weight in align.text_encoder.trainable_weights:
        if weight.path.endswith(("kernel", "embeddings")):
            weight.assign(8 * weight)
    return align


@functools.cache
def encoder_fingerprints():
    """Returns the fingerprints of the two encoders before the first export."""
    align = exported_align()
    return align.image_encoder.fingerprint(), align.text_encoder.fingerprint()


@functools.cache
def captioned_images():
    """Returns the path of a table of drawn images and captions."""
    from tests.helpers.small_run import write_pairs

    return str(write_pairs(_temporary_folder()))


def _temporary_folder():
    folder = pathlib.Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def export_folder(format, **options):
    """Returns the folder of an export. Tests must not change it.

    Args:
        format: format of `align_keras.export_model`, or `"keras"` for a preset.
        **options: arguments of `align_keras.export_model`.
    """
    from align_keras import export_model

    encoder_fingerprints()
    parent = _temporary_folder()
    if format == "keras":
        exported_align().save_to_preset(parent / format)
    else:
        export_model(exported_align(), parent / format, format, **options)
    return parent / format
