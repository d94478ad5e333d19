"""Tokenizes captions without tensorflow_text and fcntl and prints the ids as JSON.

usage: without_tensorflow_text_script.py missing|broken
"""

import importlib.abc
import json
import sys

missing_modules = {"fcntl"}
if sys.argv[1] == "missing":
    missing_modules.add("tensorflow_text")


class MissingModules(importlib.abc.MetaPathFinder):
    """Import hook that simulates missing modules."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing_modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, MissingModules())
sys.modules.pop("fcntl", None)

import tensorflow as tf  # noqa: E402

import align_keras.protocols.cached_encoders  # noqa: E402, F401
import align_keras.protocols.trial_results  # noqa: E402, F401
from align_keras.export.saved_model import export_saved_model  # noqa: E402
from align_keras.text import WordPieceTokenizer  # noqa: E402
from align_keras.utils.errors import InputError  # noqa: E402
from tests.helpers.small import small_align  # noqa: E402

vocabulary, captions = json.load(sys.stdin)
tokenizer = WordPieceTokenizer(vocabulary, 16)
eager = tokenizer(captions)["token_ids"].numpy().tolist()
dataset = tf.data.Dataset.from_tensor_slices(captions).batch(7).map(tokenizer)
mapped = [row for batch in dataset for row in batch["token_ids"].numpy().tolist()]
assert mapped == eager
assert dataset.element_spec["token_ids"].shape.as_list() == [None, 16]
model = small_align()
assert model.encode_texts(["red"]).shape[0] == 1
try:
    export_saved_model(model, "export")
except InputError as error:
    export_error = str(error)
loaded_modules = sorted({"tensorflow_text", "fcntl"} & set(sys.modules))
output = {"ids": eager, "export_error": export_error, "loaded_modules": loaded_modules}
print(json.dumps(output))
