"""Image encoder, text encoder, ALIGN, presets."""

from align_keras.models.align import ALIGN
from align_keras.models.image_encoder import ImageEncoder
from align_keras.models.preset_table import presets
from align_keras.models.sizes import preset_names
from align_keras.models.text_encoder import TextEncoder
from align_keras.models.warm_start import load_image_weights, load_text_weights
