"""Guard for processes that use both TensorFlow and PyTorch.

TensorFlow and triton, the compiler of PyTorch, each contain a copy of LLVM. LLVM ends a
process that loads both copies.
"""

import sys

from align_keras.utils.errors import InputError


def block_triton() -> None:
    """Prevents later imports of triton in this process.

    PyTorch then works as it does where triton is not installed. Only `torch.compile` on
    a GPU needs it.
    """
    # Python raises ImportError for a module that is None, and `find_spec` returns None.
    sys.modules.setdefault("triton", None)  # type: ignore[arg-type]


def refuse_loaded_triton(model: str) -> None:
    """Raises if TensorFlow can no longer be imported in this process.

    Args:
        model: name of the model for the message.

    Raises:
        InputError: if triton has been imported and TensorFlow has not.
    """
    if sys.modules.get("triton") is not None and "tensorflow" not in sys.modules:
        raise InputError(
            "A model that needs TensorFlow must be opened before PyTorch loads triton. "
            f"Received: model={model!r} in a process with triton. Open the model at "
            "the start of the program, or export it for LiteRT."
        )
