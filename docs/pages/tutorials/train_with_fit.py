"""Trains a small ALIGN with `model.fit` on icons, and searches for icons.

pip install -e ".[quickstart]", then python train_with_fit.py [PAIRS EPOCHS].
"""

import sys

import tensorflow_datasets as tfds

import align_keras
import align_keras.datasets  # Registers `icons` with TensorFlow Datasets.

num_pairs, epochs = (int(argument) for argument in sys.argv[1:] or (4000, 20))

# Your images may be lists of paths, of encoded files or of uint8 arrays.
train, test = tfds.load("icons", split=[f"train[:{num_pairs}]", "test[:200]"])


def as_lists(split):
    rows = list(split.as_numpy_iterator())
    return [row["image"] for row in rows], [row["captions"][0].decode() for row in rows]


images, captions = as_lists(train)
test_images, test_captions = as_lists(test)
print(len(images), "pairs, such as", captions[:3])

# Learns a vocabulary from the captions, and builds a model with random weights.
vocabulary = align_keras.learn_vocabulary(captions, size=2000)
model = align_keras.ALIGN.from_preset(
    "align_nano",
    vocabulary=vocabulary,
    image_size=64,
    sequence_length=16,
    initial_temperature=0.07,
)

# The paper's loss. Icons with the same name count as matches of each other. `fit`
# chooses an optimizer for the number of steps, and prints it.
model.compile(loss=align_keras.ContrastiveLoss(share_equal_captions=True))
model.fit(
    images,
    captions,
    batch_size=128,
    epochs=epochs,
    validation_data=(test_images, test_captions),
)

# Searches the icons of a font that the model has never seen.
image_embeddings = model.encode_images(test_images)
for words in ("arrow", "file", "user"):
    cosines = image_embeddings @ model.encode_texts([words])[0]
    best = cosines.argsort()[::-1][:3]
    print(words, "→", [test_captions[row] for row in best])

# Recall at 1, 5 and 10 from captions to images.
recall = align_keras.recall_at_k(
    model.encode_texts(test_captions),
    image_embeddings,
    positives=[[row] for row in range(len(test_images))],
    ks=(1, 5, 10),
)
print(recall)

model.save("icons.keras")  # Opens with keras.models.load_model.
