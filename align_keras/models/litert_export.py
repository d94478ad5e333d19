"""Refusal of a LiteRT export that would fail in the converter."""

import os
from typing import Any

from align_keras.utils.errors import InputError


class CheckedLiteRTExport:
    """Mixin of a Keras model whose `export` refuses LiteRT for quantized layers."""

    def export(
        self,
        filepath: str | os.PathLike,
        format: str = "tf_saved_model",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Exports as `keras.Model.export` does.

        Raises:
            InputError: for the format LiteRT, if Keras quantized a layer.
        """
        layers = self._flatten_layers()  # type: ignore[attr-defined]
        modes = sorted({layer.quantization_mode for layer in layers} - {None})
        if format == "litert" and modes:
            raise InputError(
                "A LiteRT export needs float layers, since LiteRT has no operations "
                "for those that Keras quantizes. Received: layers quantized to "
                f"{modes[0]}. Export the model that they were made from, by "
                "`align-keras export litert --quantize int8`, which quantizes the file."
            )
        super().export(filepath, format, *args, **kwargs)  # type: ignore[misc]
