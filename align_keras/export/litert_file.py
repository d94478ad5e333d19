"""LiteRT files of encoders: their metadata, and how they are run.

A zip archive follows the flatbuffer. TensorFlow Lite's metadata convention puts
"associated files" there. Zip programs can read it, and interpreters ignore it.
"""

import io
import json
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from align_keras.utils.errors import InputError

# Time of files in the archive. It is constant, so that equal models give equal files.
_EPOCH = (1980, 1, 1, 0, 0, 0)
METADATA_FILE = "metadata.json"
LICENSE_FILE = "LICENSE.txt"


def append_files(flatbuffer: bytes, files: dict[str, str]) -> bytes:
    """Appends files to a flatbuffer."""
    file = io.BytesIO(bytes(flatbuffer))
    with zipfile.ZipFile(file, "a") as archive:
        for name, text in files.items():
            # Files aren't compressed, so that a phone can map them into memory.
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), text)
    return file.getvalue()


def read_files(content: bytes) -> dict[str, str]:
    """Returns the files after a flatbuffer, as a dict from name to text."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def read_tower_metadata(content: bytes) -> dict[str, Any]:
    """Returns the content of `metadata.json` after a flatbuffer."""
    return json.loads(read_files(content)[METADATA_FILE])


class LiteRTTower:
    """Interpreter of a LiteRT file with one signature and one output.

    Args:
        content: bytes or path of the file. A path is mapped into memory.
        threads: int.

    Call arguments:
        **inputs: arrays by the names of the inputs. Open shapes are resized to them.

    Returns:
        float32 array (n, d).
    """

    def __init__(self, content: bytes | pathlib.Path, threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        source: dict[str, Any] = {"model_content": content}
        if isinstance(content, pathlib.Path):
            source = {"model_path": str(content)}
        self._interpreter = Interpreter(**source, num_threads=threads)
        self._interpreter.allocate_tensors()
        (self.signature,) = self._interpreter.get_signature_list()
        self._runner = self._interpreter.get_signature_runner(self.signature)
        self.inputs = _shapes(self._runner.get_input_details())
        self.outputs = _shapes(self._runner.get_output_details())

    def __call__(self, **inputs: Any) -> np.ndarray:
        details = self._runner.get_input_details()
        for name, detail in details.items():
            received = np.shape(inputs[name])
            open_shape = detail["shape_signature"]
            fits = len(received) == len(open_shape) and all(
                open_size in (-1, size)
                for open_size, size in zip(open_shape, received, strict=True)
            )
            if not fits:
                raise InputError(
                    f"{name} must have the shape {tuple(map(int, open_shape))}, "
                    f"-1 being any, received {received}; convert the tower with "
                    "resizable=True, or change the input."
                )
        typed = {
            name: np.ascontiguousarray(inputs[name], detail["dtype"])
            for name, detail in details.items()
        }
        (output,) = self._runner(**typed).values()
        return np.array(output)


def prepared_run(
    content: bytes, images: np.ndarray, threads: int = 1
) -> Callable[[], None]:
    """Returns a function that embeds these images, for timing."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=bytes(content), num_threads=threads)
    interpreter.allocate_tensors()
    (detail,) = interpreter.get_input_details()
    interpreter.set_tensor(detail["index"], images)
    return interpreter.invoke


def _shapes(details: dict[str, dict[str, Any]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(map(int, detail["shape"])) for name, detail in details.items()}
