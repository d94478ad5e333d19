"""The format `onnx` of `align-keras export`."""


def write_onnx(align, folder, arguments):
    """Writes both towers as ONNX files, `image.onnx` and `text.onnx`.

    Args:
        align: `ALIGN` with a vocabulary.
        folder: `pathlib.Path`, an existing, empty folder.
        arguments: `argparse.Namespace` with `licence` (str or None).

    Raises:
        InputError: if tf2onnx or onnxruntime isn't installed.
    """
    from align_keras.export.onnx import image_onnx, text_onnx

    for name, convert in (("image", image_onnx), ("text", text_onnx)):
        content = convert(align, licence=arguments.licence)
        (folder / f"{name}.onnx").write_bytes(content)
