"""A tower's LiteRT file, opened for running."""

import numpy as np

from align_keras.utils.errors import InputError
from align_keras.utils.extras import needs


class LiteRTTower:
    """Runs a file of one signature and one output by LiteRT's interpreter.

    Args:
        content: bytes of a `.tflite` file.
        threads: int ≥ 1.

    Call arguments:
        **inputs: arrays by the names of the signature's inputs; a file whose shape
            is open is resized to theirs.

    Returns:
        float32 array (n, d).

    Attributes:
        inputs: dict, name → shape, a tuple.
        outputs: dict, name → shape, a tuple.

    Raises:
        InputError: if ai-edge-litert isn't installed, or an input's shape isn't the
            file's.
    """

    def __init__(self, content, threads=1):
        with needs("litert", "LiteRT files are run by ai-edge-litert"):
            from ai_edge_litert.interpreter import Interpreter
        self._interpreter = Interpreter(
            model_content=bytes(content), num_threads=threads
        )
        self._interpreter.allocate_tensors()
        (self.signature,) = self._interpreter.get_signature_list()
        self._runner = self._interpreter.get_signature_runner(self.signature)
        self.inputs = _shapes(self._runner.get_input_details())
        self.outputs = _shapes(self._runner.get_output_details())

    def __call__(self, **inputs):
        details = self._runner.get_input_details()
        for name, own in details.items():
            received = np.shape(inputs[name])
            open_shape = own["shape_signature"]
            fits = len(received) == len(open_shape) and all(
                wanted in (-1, size)
                for wanted, size in zip(open_shape, received, strict=True)
            )
            if not fits:
                raise InputError(
                    f"{name} must have the shape {tuple(map(int, open_shape))}, "
                    f"-1 being any, received {received}; convert the tower with "
                    "resizable=True, or change the input."
                )
        typed = {
            name: np.ascontiguousarray(inputs[name], own["dtype"])
            for name, own in details.items()
        }
        (output,) = self._runner(**typed).values()
        return np.array(output)


def prepared_run(content, images, threads=1):
    """Returns a function that embeds given pictures, for timing alone.

    Args:
        content: bytes of an image tower's file.
        images: float32 array of the file's shape.
        threads: int ≥ 1.

    Returns:
        Function without arguments and result.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=bytes(content), num_threads=threads)
    interpreter.allocate_tensors()
    (own,) = interpreter.get_input_details()
    interpreter.set_tensor(own["index"], images)
    return interpreter.invoke


def _shapes(details):
    return {name: tuple(map(int, own["shape"])) for name, own in details.items()}
