"""Functions that a SavedModel serves, with their variables."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

# Captions and images that are embedded at once. Larger requests are embedded in parts,
# so that the memory of a request grows only by its inputs and outputs. Larger parts
# aren't faster. BERT-large takes about 5 MB a caption, EfficientNet-B7 50 MB an image.
CAPTIONS_AT_ONCE = 128
IMAGES_AT_ONCE = 32


class ServedModel(tf.Module):
    """One or both encoders of an ALIGN as functions of raw inputs, by signature.

    TensorFlow doesn't track the Keras model, which it would store a second time.

    Args:
        model: `ALIGN` with a vocabulary.
        serves_images: bool.
        serves_texts: bool.
        weights: str, `"bfloat16"` or `"float16"` to store kernels and embeddings in
            half the size, or None.
    """

    def __init__(
        self,
        model: Any,
        serves_images: bool = True,
        serves_texts: bool = True,
        weights: str | None = None,
    ) -> None:
        super().__init__(name="align")
        variables = []
        if serves_images:
            variables += model.image_encoder.variables
        if serves_texts:
            variables += model.text_encoder.variables
        if serves_images and serves_texts:
            variables += model.temperature_layer.variables
        self.stored_variables = [_stored(variable, weights) for variable in variables]
        compressed_variables = []
        if weights is not None:
            compressed_variables = list(
                zip(variables, self.stored_variables, strict=True)
            )
        self._untracked = _Untracked(
            model=model,
            converter=model.preprocessor.image_converter,
            compressed_variables=compressed_variables,
            # These functions are traced once for all signatures that embed.
            embed_files=tf.function(self._embedded_files, autograph=False),
            embed_pixels=tf.function(self._embedded_pixels, autograph=False),
            embed_tokens=tf.function(self._embedded_tokens, autograph=False),
        )
        functions: dict[str, Callable] = {}
        self.preprocessing: dict[str, dict[str, Any]] = {}
        if serves_images:
            self.preprocessing["image"] = {"image_size": model.image_size}
            functions |= self._image_functions()
            functions["serving_default"] = functions["encode_image"]
        if serves_texts:
            self.preprocessing["text"] = {
                "normalization": model.tokenizer.normalization,
                "sequence_length": model.tokenizer.sequence_length,
                "vocabulary_size": len(model.tokenizer.vocabulary),
            }
            functions |= self._text_functions()
            functions["serving_default"] = functions["encode_text"]
            # This function is no signature. Programs that read the graph use it.
            self.tokenize = tf.function(
                model.tokenizer.tokenize,
                input_signature=[tf.TensorSpec((None,), tf.string, name="captions")],
            )
        if serves_images and serves_texts:
            functions |= self._functions_of_both()
        self.functions = functions

    # === Signatures ===

    def _image_functions(self) -> dict[str, Callable]:
        side = tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")

        def encode_image(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            embedding, valid = self._files_in_parts(image_bytes)
            return {"image_embedding": embedding, "valid": valid}

        def encode_image_pixels(images: tf.Tensor) -> dict[str, tf.Tensor]:
            def embed(images: tf.Tensor) -> tf.Tensor:
                pixels = self._untracked.converter.convert(_at_least_one(images))
                return self._untracked.embed_pixels(pixels)[: tf.shape(images)[0]]

            return {"image_embedding": in_parts(embed, IMAGES_AT_ONCE, images)}

        return {
            "encode_image": self._function(encode_image, _string_spec("image_bytes")),
            "encode_image_pixels": self._function(encode_image_pixels, side),
        }

    def _text_functions(self) -> dict[str, Callable]:
        def encode_text(captions: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"text_embedding": self._captions_in_parts(captions)}

        def encode_token_ids(
            token_ids: tf.Tensor, padding_mask: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            embedding = in_parts(
                self._untracked.embed_tokens, CAPTIONS_AT_ONCE, token_ids, padding_mask
            )
            return {"text_embedding": embedding}

        ids = tf.TensorSpec((None, None), tf.int32, name="token_ids")
        mask = tf.TensorSpec((None, None), tf.int32, name="padding_mask")
        return {
            "encode_text": self._function(encode_text, _string_spec("captions")),
            "encode_token_ids": self._function(encode_token_ids, ids, mask),
        }

    def _functions_of_both(self) -> dict[str, Callable]:
        def similarity(
            image_bytes: tf.Tensor, captions: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            images, valid = self._files_in_parts(image_bytes)
            texts = self._captions_in_parts(captions)
            return {
                "cosine": tf.matmul(images, texts, transpose_b=True),
                "valid": valid,
            }

        def classify(
            image_bytes: tf.Tensor, class_names: tf.Tensor, templates: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            images, valid = self._files_in_parts(image_bytes)

            def embed(class_names: tf.Tensor) -> tf.Tensor:
                prompts = filled_templates(class_names, templates)
                texts = self._captions_in_parts(tf.reshape(prompts, [-1]))
                shape = tf.concat([tf.shape(prompts), tf.shape(texts)[1:]], axis=0)
                # The mean over the templates is normalized to unit length.
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

        files = _string_spec("image_bytes")
        captions = _string_spec("captions")
        names = _string_spec("class_names")
        templates = _string_spec("templates")
        return {
            "similarity": self._function(similarity, files, captions),
            "classify": self._function(classify, files, names, templates),
        }

    # === Embedding ===

    def _files_in_parts(self, image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return in_parts(self._untracked.embed_files, IMAGES_AT_ONCE, image_bytes)

    def _captions_in_parts(self, captions: tf.Tensor) -> tf.Tensor:
        def embed(captions: tf.Tensor) -> tf.Tensor:
            tokens = self._untracked.model.tokenizer.tokenize(captions)
            return self._untracked.embed_tokens(**tokens)

        return in_parts(embed, CAPTIONS_AT_ONCE, captions)

    def _embedded_files(self, image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, valid = self._untracked.converter.convert_readable(image_bytes)
        embedding = self._untracked.embed_pixels(_at_least_one(images))
        embedding = embedding[: tf.shape(image_bytes)[0]]
        return tf.where(valid[:, tf.newaxis], embedding, 0.0), valid

    def _embedded_pixels(self, pixels: tf.Tensor) -> tf.Tensor:
        return self._computed(
            lambda model: model.normalize_image(
                model.image_encoder(pixels, training=False)
            )
        )

    def _embedded_tokens(
        self, token_ids: tf.Tensor, padding_mask: tf.Tensor
    ) -> tf.Tensor:
        tokens = {"token_ids": token_ids, "padding_mask": padding_mask}
        return self._computed(
            lambda model: model.normalize_text(
                model.text_encoder(tokens, training=False)
            )
        )

    def _computed(self, compute: Callable[[Any], tf.Tensor]) -> tf.Tensor:
        """Calls a function of the model, which computes with the stored variables."""
        untracked = self._untracked
        if not untracked.compressed_variables:
            return compute(untracked.model)
        values = [
            (variable, tf.cast(stored, variable.dtype))
            for variable, stored in untracked.compressed_variables
        ]
        with keras.StatelessScope(state_mapping=values):
            return compute(untracked.model)

    def _function(self, call: Callable, *specs: tf.TensorSpec) -> Callable:
        return tf.function(call, input_signature=specs, autograph=False)


class _Untracked:
    """Attributes of a `ServedModel` that TensorFlow must not store.

    TensorFlow tracks the attributes of a `tf.Module`, but not those of a plain object.

    Attributes:
        model: `ALIGN`.
        converter: `ALIGNImageConverter` of the model.
        compressed_variables: list of (Keras variable, stored `tf.Variable`), empty if
            the weights are stored as they are.
        embed_files: function of encoded images.
        embed_pixels: function of preprocessed images.
        embed_tokens: function of token ids and masks.
    """

    def __init__(
        self,
        model: Any,
        converter: Any,
        compressed_variables: list[tuple[keras.Variable, tf.Variable]],
        embed_files: Callable,
        embed_pixels: Callable,
        embed_tokens: Callable,
    ) -> None:
        self.model = model
        self.converter = converter
        self.compressed_variables = compressed_variables
        self.embed_files = embed_files
        self.embed_pixels = embed_pixels
        self.embed_tokens = embed_tokens


def _stored(variable: keras.Variable, weights: str | None) -> tf.Variable:
    """Returns the variable that is stored, in the dtype `weights` if it is large."""
    # Biases and statistics take little space.
    is_large = len(variable.shape) > 1 and "float" in variable.dtype
    if weights is None or not is_large:
        return variable.value
    value = tf.cast(variable.value, weights)
    return tf.Variable(value, name=variable.name, trainable=False)


def _string_spec(name: str) -> tf.TensorSpec:
    return tf.TensorSpec((None,), tf.string, name=name)


def _at_least_one(images: tf.Tensor) -> tf.Tensor:
    """Adds a black image to an empty batch.

    Fused convolutions return a wrong shape for an empty batch.
    """
    missing = tf.maximum(0, 1 - tf.shape(images)[0])
    return tf.pad(images, [[0, missing], [0, 0], [0, 0], [0, 0]])


def in_parts(compute: Callable, size: int | tf.Tensor, *rows: tf.Tensor) -> Any:
    """Applies a function to parts of the rows and joins the results.

    Args:
        compute: function of tensors. It is called once at least, with no rows if there
            are none.
        size: int or scalar tensor, the most rows of a part.
        *rows: tensors with the same number of rows.

    Returns:
        The joined outputs of `compute`, in their structure.
    """
    specs = [tf.TensorSpec((None, *row.shape[1:]), row.dtype) for row in rows]
    traced = tf.function(compute, autograph=False).get_concrete_function(*specs)
    outputs = traced.structured_outputs
    parts = tf.maximum(-(-tf.shape(rows[0])[0] // size), 1)

    def step(
        number: tf.Tensor, arrays: list[tf.TensorArray]
    ) -> tuple[tf.Tensor, list[tf.TensorArray]]:
        part = slice(number * size, (number + 1) * size)
        values = tf.nest.flatten(traced(*(row[part] for row in rows)))
        written = [
            array.write(number, value)
            for array, value in zip(arrays, values, strict=True)
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
    """Replaces `{}` in templates by class names.

    Args:
        class_names: str tensor (c,).
        templates: str tensor (t,), each with `{}`.

    Returns:
        str tensor (c, t).
    """
    has_braces = tf.strings.regex_full_match(templates, r"(?s).*\{\}.*")
    checks = [
        tf.debugging.assert_positive(tf.size(templates), "templates must not be empty"),
        tf.debugging.assert_equal(has_braces, True, "each of templates must have {}"),
    ]
    with tf.control_dependencies(checks):
        before = tf.strings.regex_replace(templates, r"(?s)\{\}.*$", "")
        after = tf.strings.regex_replace(templates, r"(?s)^.*?\{\}", "")
    shape = tf.size(class_names), tf.size(templates)
    # `tf.strings.join` doesn't broadcast.
    before = tf.tile(before, shape[:1])
    after = tf.tile(after, shape[:1])
    names = tf.repeat(class_names, shape[1])
    return tf.reshape(tf.strings.join([before, names, after]), shape)
