"""Evaluates a trained run, exports it, and asks the export.

python evaluate_and_export.py RUN DATA TO, such as saved_models/quickstart_icons icons
exported_icons. TO must not exist.
"""

import sys

import align_keras

if len(sys.argv) != 4:
    sys.exit(__doc__)
run, data, to = sys.argv[1:]

# The protocols are those of `align-keras evaluate`; results are what --json prints.
result = align_keras.evaluate(run, "retrieval", data=data)
for name, value in result["metrics"].items():
    print(f"{name}: {value:.4f}")

# SavedModels as TensorFlow Serving reads them, with a model card and clients.
align_keras.export_model(run, to)

# The export alone, without the code that made it.
model = align_keras.load_model(to)
texts = model.encode_texts(["a star", "a magnifying glass"])
print("captions:", texts.shape, "cosine:", float(texts[0] @ texts[1]))
