"""Evaluates a trained run, exports it, and embeds captions with the export.

python evaluate_and_export.py RUN DATA TO, such as saved_models/quickstart_icons icons
exported_icons. TO must not exist.
"""

import sys

import align_keras

if len(sys.argv) != 4:
    sys.exit(__doc__)
run, data, to = sys.argv[1:]

# The same protocols and results as `align-keras evaluate --json`.
result = align_keras.evaluate(run, "retrieval", data=data)
for name, value in result["metrics"].items():
    print(f"{name}: {value:.4f}")

# Writes SavedModels for TensorFlow Serving, a model card and clients.
align_keras.export_model(run, to)

# Opens the export, which does not need the run.
model = align_keras.load_model(to)
texts = model.encode_texts(["a star", "a magnifying glass"])
print("captions:", texts.shape, "cosine:", float(texts[0] @ texts[1]))
