"""The functions that a SavedModel serves, and the variables that they need."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

# What is embedded at once. More goes through the towers in parts, so that a request's
# memory grows by its inputs and its answers alone. Throughput doesn't gain by more;
# BERT-large takes some 5 MB a caption, EfficientNet-B7 some 50 MB an image.
CAPTIONS_AT_ONCE = 128
IMAGES_AT_ONCE = 32


class ServedModel(tf.Module):
    """One or both towers of an ALIGN as functions of raw inputs, by signature.

    `weights`, `"bfloat16"` or `"float16"`, stores kernels and embeddings in half the
    room. The Keras model stays out of what TensorFlow tracks, which would store it
    twice.
    """

    def __init__(self, model, serves_images=True, serves_texts=True, weights=None):
        super().__init__(name="align")
        self._model = _Untracked(model)
        self._converter = _Untracked(model.preprocessor.image_converter)
        variables = []
        if serves_images:
            variables += model.image_encoder.variables
        if serves_texts:
            variables += model.text_encoder.variables
        if serves_images and serves_texts:
            variables += model.temperature_layer.variables
        self.stored_variables = [_stored(variable, weights) for variable in variables]
        self._values = _Untracked(
            list(zip(variables, self.stored_variables, strict=True))
            if weights is not None
            else []
        )
        # Traced once for all signatures that embed.
        self._embed_files, self._embed_pixels, self._embed_tokens = (
            _Untracked(tf.function(embed, autograph=False))
            for embed in (
                self._embedded_files,
                self._embedded_pixels,
                self._embedded_tokens,
            )
        )
        functions, self.preprocessing = {}, {}
        if serves_images:
            self.preprocessing["image"] = {"image_size": model.image_size}
            functions |= self._image_functions()
            functions["serving_default"] = functions["encode_image"]
        if serves_texts:
            self._tokenizer = _Untracked(model.tokenizer)
            self.preprocessing["text"] = {
                "normalization": model.tokenizer.normalization,
                "sequence_length": model.tokenizer.sequence_length,
                "vocabulary_size": len(model.tokenizer.vocabulary),
            }
            functions |= self._text_functions()
            functions["serving_default"] = functions["encode_text"]
            # No signature: two outputs that only a look into the graph needs.
            self.tokenize = tf.function(
                model.tokenizer.tokenize,
                input_signature=[tf.TensorSpec((None,), tf.string, name="captions")],
            )
        if serves_images and serves_texts:
            functions |= self._functions_of_both()
        self.functions = functions

    # === Signatures ===

    def _image_functions(self):
        side = tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")

        def encode_image(image_bytes):
            embedding, valid = self._files_in_parts(image_bytes)
            return {"image_embedding": embedding, "valid": valid}

        def encode_image_pixels(images):
            def embed(images):
                pixels = self._converter.it.convert(_at_least_one(images))
                return self._embed_pixels.it(pixels)[: tf.shape(images)[0]]

            return {"image_embedding": in_parts(embed, IMAGES_AT_ONCE, images)}

        return {
            "encode_image": self._function(encode_image, _strings("image_bytes")),
            "encode_image_pixels": self._function(encode_image_pixels, side),
        }

    def _text_functions(self):
        def encode_text(captions):
            return {"text_embedding": self._captions_in_parts(captions)}

        def encode_token_ids(token_ids, padding_mask):
            tokens = token_ids, padding_mask
            embedding = in_parts(self._embed_tokens.it, CAPTIONS_AT_ONCE, *tokens)
            return {"text_embedding": embedding}

        ids, mask = (
            tf.TensorSpec((None, None), tf.int32, name=name)
            for name in ("token_ids", "padding_mask")
        )
        return {
            "encode_text": self._function(encode_text, _strings("captions")),
            "encode_token_ids": self._function(encode_token_ids, ids, mask),
        }

    def _functions_of_both(self):
        def similarity(image_bytes, captions):
            images, valid = self._files_in_parts(image_bytes)
            texts = self._captions_in_parts(captions)
            return {
                "cosine": tf.matmul(images, texts, transpose_b=True),
                "valid": valid,
            }

        def classify(image_bytes, class_names, templates):
            images, valid = self._files_in_parts(image_bytes)

            def embed(class_names):
                prompts = filled_templates(class_names, templates)
                texts = self._captions_in_parts(tf.reshape(prompts, [-1]))
                shape = tf.concat([tf.shape(prompts), tf.shape(texts)[1:]], axis=0)
                # The mean over the templates, as long as its parts were.
                return self._computed(
                    lambda model: model.normalize_text(
                        tf.reduce_mean(tf.reshape(texts, shape), axis=1)
                    )
                )

            at_once = CAPTIONS_AT_ONCE // tf.maximum(tf.size(templates), 1)
            classes = in_parts(embed, tf.maximum(at_once, 1), class_names)
            cosine = tf.matmul(images, classes, transpose_b=True)
            logits = self._computed(lambda model: model.temperature_layer(cosine))
            return {"scores": tf.nn.softmax(logits), "valid": valid}

        files, captions = _strings("image_bytes"), _strings("captions")
        names, templates = _strings("class_names"), _strings("templates")
        return {
            "similarity": self._function(similarity, files, captions),
            "classify": self._function(classify, files, names, templates),
        }

    # === Parts of them ===

    def _files_in_parts(self, image_bytes):
        return in_parts(self._embed_files.it, IMAGES_AT_ONCE, image_bytes)

    def _captions_in_parts(self, captions):
        def embed(captions):
            return self._embed_tokens.it(**self._tokenizer.it.tokenize(captions))

        return in_parts(embed, CAPTIONS_AT_ONCE, captions)

    def _embedded_files(self, image_bytes):
        images, valid = self._converter.it.convert_readable(image_bytes)
        embedding = self._embed_pixels.it(_at_least_one(images))
        embedding = embedding[: tf.shape(image_bytes)[0]]
        return tf.where(valid[:, tf.newaxis], embedding, 0.0), valid

    def _embedded_pixels(self, pixels):
        return self._computed(
            lambda model: model.normalize_image(
                model.image_encoder(pixels, training=False)
            )
        )

    def _embedded_tokens(self, token_ids, padding_mask):
        tokens = {"token_ids": token_ids, "padding_mask": padding_mask}
        return self._computed(
            lambda model: model.normalize_text(
                model.text_encoder(tokens, training=False)
            )
        )

    def _computed(self, compute):
        """What the model computes with the stored variables."""
        if not self._values.it:
            return compute(self._model.it)
        values = [(one, tf.cast(kept, one.dtype)) for one, kept in self._values.it]
        with keras.StatelessScope(state_mapping=values):
            return compute(self._model.it)

    def _function(self, call, *specs):
        return tf.function(call, input_signature=specs, autograph=False)


class _Untracked:
    """Hides a value from what TensorFlow stores."""

    def __init__(self, it):
        self.it = it


def _stored(variable, weights):
    # Biases and statistics take no room worth their digits.
    is_large = len(variable.shape) > 1 and "float" in variable.dtype
    if weights is None or not is_large:
        return variable.value
    value = tf.cast(variable.value, weights)
    return tf.Variable(value, name=variable.name, trainable=False)


def _strings(name):
    return tf.TensorSpec((None,), tf.string, name=name)


def _at_least_one(images):
    """Adds a black image to an empty batch, of which fused convolutions give a wrong
    shape.
    """
    missing = tf.maximum(0, 1 - tf.shape(images)[0])
    return tf.pad(images, [[0, missing], [0, 0], [0, 0], [0, 0]])


def in_parts(compute: Callable, size: int | tf.Tensor, *rows: tf.Tensor) -> Any:
    """Applies a function, once at least, to at most `size` rows after others; joins
    all.
    """
    specs = [tf.TensorSpec((None, *row.shape[1:]), row.dtype) for row in rows]
    traced = tf.function(compute, autograph=False).get_concrete_function(*specs)
    outputs = traced.structured_outputs
    parts = tf.maximum(-(-tf.shape(rows[0])[0] // size), 1)

    def step(number, arrays):
        part = slice(number * size, (number + 1) * size)
        found = tf.nest.flatten(traced(*(row[part] for row in rows)))
        written = [
            array.write(number, value)
            for array, value in zip(arrays, found, strict=True)
        ]
        return number + 1, written

    arrays = [
        tf.TensorArray(spec.dtype, parts, element_shape=spec.shape, infer_shape=False)
        for spec in tf.nest.flatten(outputs)
    ]
    _, arrays = tf.while_loop(
        lambda number, _: number < parts, step, (0, arrays), parallel_iterations=1
    )
    return tf.nest.pack_sequence_as(outputs, [array.concat() for array in arrays])


def filled_templates(class_names: tf.Tensor, templates: tf.Tensor) -> tf.Tensor:
    """Puts c class names in the place of `{}` in t templates, which must have it: (c,
    t).
    """
    has_place = tf.strings.regex_full_match(templates, r"(?s).*\{\}.*")
    checks = [
        tf.debugging.assert_positive(tf.size(templates), "templates must not be empty"),
        tf.debugging.assert_equal(has_place, True, "each of templates must have {}"),
    ]
    with tf.control_dependencies(checks):
        before = tf.strings.regex_replace(templates, r"(?s)\{\}.*$", "")
        after = tf.strings.regex_replace(templates, r"(?s)^.*?\{\}", "")
    shape = tf.size(class_names), tf.size(templates)
    # `tf.strings.join` stretches nothing.
    before, after = (tf.tile(part, shape[:1]) for part in (before, after))
    names = tf.repeat(class_names, shape[1])
    return tf.reshape(tf.strings.join([before, names, after]), shape)
