"""Check that a model can be exported to LiteRT."""

import os
from typing import Any

from align_keras.utils.errors import InputError


class CheckedLiteRTExport:
    """Mixin of a Keras model that refuses to export quantized layers to LiteRT."""

    def export(
        self,
        filepath: str | os.PathLike,
        format: str = "tf_saved_model",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Exports the model as `keras.Model.export`.

        Raises:
            InputError: if the format is LiteRT and Keras quantized a layer.
        """
        layers = self._flatten_layers()  # type: ignore[attr-defined]
        modes = sorted({layer.quantization_mode for layer in layers} - {None})
        if format == "litert" and modes:
            raise InputError(
                "A model must have float layers to be exported to LiteRT, which can't "
                "run layers that Keras quantized. Received: layers quantized to "
                f"{modes[0]}. Export the model from before the quantization by "
                "`align-keras export litert --quantize int8`, which quantizes the file."
            )
        super().export(filepath, format, *args, **kwargs)  # type: ignore[misc]
