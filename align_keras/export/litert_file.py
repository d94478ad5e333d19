"""LiteRT files of encoders: access to their metadata, and their interpreter.

A LiteRT file is a flatbuffer with an appended zip archive. The archive holds the
"associated files" of TensorFlow Lite's metadata convention. Zip programs can list it,
and interpreters ignore it.
"""

import io
import json
import pathlib
import threading
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from align_keras.utils.quiet import silent_standard_error

# Modification time of files in the archive. A constant makes exports reproducible.
_EPOCH = (1980, 1, 1, 0, 0, 0)
METADATA_FILE = "metadata.json"
LICENSE_FILE = "LICENSE.txt"
# Standard error belongs to all threads.
_first_call = threading.Lock()


def append_files(flatbuffer: bytes, files: dict[str, str]) -> bytes:
    """Returns a flatbuffer with appended files.

    Args:
        flatbuffer: content of a LiteRT file.
        files: dict from names to texts.
    """
    file = io.BytesIO(bytes(flatbuffer))
    with zipfile.ZipFile(file, "a") as archive:
        for name, text in files.items():
            # Files are stored without compression, so that a phone can map them into
            # memory.
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), text)
    return file.getvalue()


def read_files(content: bytes) -> dict[str, str]:
    """Returns the files that are appended to a flatbuffer, by their names."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def read_tower_metadata(content: bytes) -> dict[str, Any]:
    """Returns the content of `metadata.json` that is appended to a flatbuffer."""
    return json.loads(read_files(content)[METADATA_FILE])


class LiteRTTower:
    """Interpreter of a LiteRT file with one signature and one output.

    Args:
        content: content or path of the file. A path is mapped into memory.

    Attributes:
        signature: name of the signature.
        inputs: dict from the names of the inputs to their shapes until they are
            resized.
        open_inputs: dict of the same shapes, with -1 for open dimensions.
        outputs: dict from the names of the outputs to their shapes.

    Call arguments:
        **inputs: arrays by the names of the inputs. Inputs with open dimensions are
            resized to the shapes of the arrays.

    Returns:
        float32 array (n, d).
    """

    def __init__(self, content: bytes | pathlib.Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        source: dict[str, Any] = {"model_content": content}
        if isinstance(content, pathlib.Path):
            source = {"model_path": str(content)}
        self._interpreter = Interpreter(**source, num_threads=1)
        (self.signature,) = self._interpreter.get_signature_list()
        self._runner = self._interpreter.get_signature_runner(self.signature)
        input_details = self._runner.get_input_details()
        self.inputs = _shapes(input_details, "shape")
        self.open_inputs = _shapes(input_details, "shape_signature")
        self.outputs = _shapes(self._runner.get_output_details(), "shape")
        self._was_called = False

    def __call__(self, **inputs: Any) -> np.ndarray:
        typed = {
            name: np.ascontiguousarray(inputs[name], detail["dtype"])
            for name, detail in self._runner.get_input_details().items()
        }
        if self._was_called:
            (output,) = self._runner(**typed).values()
            return np.array(output)
        # LiteRT allocates the tensors for the shapes of the inputs, and prints a line
        # to stderr when it does so for the first time.
        with _first_call, silent_standard_error():
            (output,) = self._runner(**typed).values()
        self._was_called = True
        return np.array(output)


def prepared_run(
    content: bytes, images: np.ndarray, threads: int = 1
) -> Callable[[], None]:
    """Returns a function that embeds `images` again with each call, for timing."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=bytes(content), num_threads=threads)
    interpreter.allocate_tensors()
    (detail,) = interpreter.get_input_details()
    interpreter.set_tensor(detail["index"], images)
    return interpreter.invoke


def _shapes(details: dict[str, dict[str, Any]], key: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(map(int, detail[key])) for name, detail in details.items()}
