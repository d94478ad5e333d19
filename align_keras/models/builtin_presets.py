"""Class attribute `presets`, which lists the names that `from_preset` accepts."""

import types
from collections.abc import Mapping

from align_keras.models.preset_table import preset_config, preset_names
from align_keras.utils.shared_data import SHIPPED_MODELS


class BuiltinPresets:
    """Descriptor that returns the built-in presets, as on the classes of KerasHub.

    Example:

    >>> from align_keras.models import ALIGN
    >>> "align_small_en" in ALIGN.presets
    True
    """

    def __get__(
        self, instance: object, owner: type | None = None
    ) -> Mapping[str, dict]:
        """Returns a mapping from the name of each preset to its `metadata`."""
        presets = {
            name: {"metadata": {"description": "Trained model of this package."}}
            for name in SHIPPED_MODELS
        }
        for name in preset_names():
            presets[name] = {"metadata": dict(preset_config(name))}
        # Keras searches for layers in attributes that are dicts when it loads weights.
        return types.MappingProxyType(presets)
