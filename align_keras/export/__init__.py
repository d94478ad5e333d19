"""SavedModels that serve raw pictures and raw captions."""

from align_keras.export.saved_model import export_saved_model
